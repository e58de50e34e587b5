"""TumorGen behind the contract: box offsets (BA-PMG), vector field (SC-VFE) and mask refiner (VMR).

`config` holds the rules of the plan, `objectives` the losses, `method` the contract. Settings, condition, items and
synthesis are in `methods.latent`, where other methods use them, too.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names are in __init__.pyi
