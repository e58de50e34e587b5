"""The training loop that every stage of every method uses.

In: a `Stage` (networks, batches, objectives). Out: checkpoints, weights, a log and previews in the stage's folder. The
loop resumes exactly, averages the weights, and supports mixed precision and several processes.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names are in __init__.pyi
