"""From a method and host scans to pairs, each with its provenance, as an nnU-Net raw data set.

Sets are also merged with real cases here, and painted for nnU-Net while it trains.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names are in __init__.pyi
