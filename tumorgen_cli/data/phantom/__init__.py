"""Phantom scans with and without tumors: PET with hot tumors, chest CT with nodules.

`write` turns the scans that `pet` and `ct` draw into an nnU-Net data set, hosts and regions. Phantoms are for a first
try, for tests and for measuring a change on data without patients; they are no evidence about patients.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names are in __init__.pyi
