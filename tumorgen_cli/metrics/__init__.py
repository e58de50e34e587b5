"""Arrays in, numbers out: overlap, tumor statistics, distances of slices, radiomics, a classifier, novelty."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names are in __init__.pyi
