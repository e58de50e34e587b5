"""In: synthetic sets and the real data. Out: scores of each, gains of nnU-Nets, tables and pages."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names are in __init__.pyi
