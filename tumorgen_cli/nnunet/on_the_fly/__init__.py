"""Painting while nnU-Net trains: the trainer that draws painted patches, and the pool that the painter fills."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names are in __init__.pyi
