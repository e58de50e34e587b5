"""The judge: an nnU-Net that segments pairs, to score and to filter them.

In this folder: which judge is used, how one is trained, its verdict on a pair, and its model card.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names are in __init__.pyi
