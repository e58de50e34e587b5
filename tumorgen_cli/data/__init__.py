"""Scans and data sets: nnU-Net raw data sets and folders of host scans.

It returns arrays with a `Grid`, and frozen records of what is on disk and what is wrong with it. It imports only
`system` and `geometry`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names are in __init__.pyi
