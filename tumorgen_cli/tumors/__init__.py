"""Tumors as arrays: boxes around and for them, drawn masks, removal from a scan, noise like the scan's own."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names are in __init__.pyi
