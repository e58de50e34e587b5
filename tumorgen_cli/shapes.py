"""Mask priors for methods that need a mask: ellipsoids with elastic deformation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from tumorgen_cli.records import Shape, Triple


def smooth_noise(shape: Shape, sigma: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise blurred by `sigma` voxels per axis, scaled back to mean 0 and standard deviation 1."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap")
    return ((noise - noise.mean()) / max(float(noise.std()), 1e-9)).astype(np.float32)


def ellipsoid(shape: Shape, center: Triple, radii: Triple, rng: np.random.Generator, deformation: float = 0.0) -> np.ndarray:
    """A soft ellipsoid (X, Y, Z) in [0, 1], about one voxel wide at its edge.

    `center` and `radii` in voxels. `deformation` is the spread of the radius along the surface as a share of it; the
    field is smooth over half of a radius (elastic deformation of SynTumor and DiffTumor).
    """
    axes = np.ogrid[tuple(slice(0, n) for n in shape)]
    distance = np.sqrt(sum(((a + 0.5 - c) / max(r, 0.5)) ** 2 for a, c, r in zip(axes, center, radii, strict=True)))
    if deformation:
        distance = distance * (1 + deformation * smooth_noise(shape, [max(1.0, r / 2) for r in radii], rng))
    edge = max(0.5, min(radii))
    return np.clip((1 - distance) * edge + 0.5, 0, 1).astype(np.float32)
