"""What methods that draw in latents share: the KL-VAE, the cache of encoded windows, the way from latents to a window."""
