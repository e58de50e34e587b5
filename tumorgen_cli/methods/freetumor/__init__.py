"""FreeTumor behind the contract.

`config` holds settings and plan rules, `windows` the training windows, `objectives` the losses, `method` the contract.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names are in __init__.pyi
