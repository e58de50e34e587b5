"""In: a method and host scans. Out: pairs, each with provenance, as an nnU-Net raw data set; also merged with real cases,
or painted for nnU-Net while it trains.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names are in __init__.pyi
