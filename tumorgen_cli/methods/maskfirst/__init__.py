"""Mask first, then tumor, behind the contract: TumorGen's drawing in two flows, one after the other.

`objectives` holds the losses, `method` the contract. Settings are TumorGen's.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names are in __init__.pyi
