"""Models that travel: a trained method as one file, without scans and without values of single patients.

In comes a workspace with a trained method; out comes a zip with weights, plan, pooled facts, a card and checksums. A
zip of anyone becomes an installed model, of which nothing is executed. `pipeline` may import this folder.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names are in __init__.pyi
