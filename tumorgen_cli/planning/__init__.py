"""Plan the work for a data set: its fingerprint, and the plan, which holds every number with the rule that gave it.

The workspace says where the files of each command are.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names are in __init__.pyi
