"""Networks, schedules and samplers, one topic per file.

Networks take plain numbers, never a plan. Schedules and samplers are pure functions of tensors.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names are in __init__.pyi
