"""The stages of the pipeline, one file each.

A stage reads a workspace, does one step and returns a record. It can be stopped and run again: what is finished is not
done again. Only `studies`, `api` and `cli` may import this folder.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names are in __init__.pyi
