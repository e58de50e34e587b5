"""Pixel2Cancer behind the contract.

`automaton` holds the rules of growth, invasion and death, `method` the settings and the contract.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names are in __init__.pyi
