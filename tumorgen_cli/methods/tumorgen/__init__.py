"""TumorGen behind the contract: box offsets (BA-PMG), vector field (SC-VFE) and mask refiner (VMR).

`config` holds settings and plan rules, `condition` what the field gets beside the noisy latents, `objectives` the
losses, `sampling` the synthesis, `method` the contract.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names are in __init__.pyi
