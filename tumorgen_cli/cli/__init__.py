"""The command line: reads options, calls the API, prints results and names the next command.

One file per family of commands; `main` registers them. Starting it, help and wrong options import neither torch nor
nnunetv2 nor SimpleITK.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names are in __init__.pyi
