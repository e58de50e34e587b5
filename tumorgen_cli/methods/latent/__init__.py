"""What methods that draw in latents share.

`autoencoder` trains the KL-VAE, `quality` measures autoencoders, `cache` stores encoded training windows, `joint` holds
the joint variable of latents and mask, and `canvas` leads from a window to its latents and back. What flows that draw a
tumor in a box share: `settings`, what they are told (`condition`), training `items`, and the synthesis (`sampler`).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # the names are in __init__.pyi
