"""What methods that draw in latents share.

`autoencoder` trains the KL-VAE, `quality` measures autoencoders, `cache` stores encoded training windows, `joint` holds
the joint variable of latents and mask, and `canvas` leads from a window to its latents and back.
"""
