"""nnU-Net v2 as a library and as a child process.

Jobs, schedules, trainers and results folders; `on_the_fly` paints while nnU-Net trains.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names are in __init__.pyi
