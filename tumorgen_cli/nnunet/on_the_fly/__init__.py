"""Painting while nnU-Net trains: the trainer that draws painted patches, and the pool that the painter fills."""
