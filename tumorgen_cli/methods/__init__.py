"""Systems that paint tumors, all behind one contract (`base.Method`).

In: a window of a host scan and a box. Out: a painted window and a mask. Each method has one file or folder; methods
never import each other. `registry` knows all methods by name without importing torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names are in __init__.pyi
