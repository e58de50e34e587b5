"""The public Python API: every command as a function, and painting in memory.

It takes paths, numbers and option records, and returns records. It is a thin layer above `studies` and `pipeline`; the
command line calls it. Importing it imports neither torch nor nnunetv2 nor SimpleITK: names are imported when they are
first used.

The examples use the workspace that `api.demo(quick=True)` writes: `tumorgen_demo`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names are in __init__.pyi
