"""What every stage needs from the machine: errors, files, JSON records, locks, console, devices, child processes.

It knows nothing about scans or tumors. Every folder may import it; it imports nothing else from the package.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names are in __init__.pyi
