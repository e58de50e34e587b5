"""Preprocess raw cases for a plan: memory-mapped cases on the working grid, and training windows cut from them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names are in __init__.pyi
