"""Experiments of many stages: comparisons of methods, nnU-Nets with and without pairs, and studies with readers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names are in __init__.pyi
