"""Scans without their tumors: smooth continuation of what lies around them, with noise like the scan's own. Pure functions of arrays.

Methods that keep the voxels around their tumor would leave the old one in the picture when a case's tumor is redrawn; methods
that learn from healthy windows find more of them.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage, sparse

from tumorgen_cli.records import Box, Triple
from tumorgen_cli.texture import like_noise

_CONTEXT_MM = 25.0  # around the box, to measure noise in


def heal(image: np.ndarray, tumors: np.ndarray, box: Box, spacing_mm: Triple, margin_mm: float, seed: int) -> np.ndarray:
    """The image (C, X, Y, Z) in its own type with the tumors (X, Y, Z) in `box` gone; outside the box every voxel is as it was.

    A tumor is taken away with `margin_mm` around it, as far as its blur reaches. Inside, each channel solves Laplace's
    equation between the voxels around (the smoothest continuation), and gets noise of the strength and smoothness that
    the scan has around the box. Without a tumor in the box the image itself comes back.
    """
    if not tumors[box.slices].any():
        return image
    around = box.grown(tuple(int(np.ceil(_CONTEXT_MM / s)) for s in spacing_mm), tumors.shape)  # type: ignore[arg-type]
    inner = box.shifted(tuple(-a for a in around.start))  # type: ignore[arg-type]
    hole = np.zeros(around.shape, bool)
    hole[inner.slices] = (ndimage.distance_transform_edt(~tumors[around.slices], sampling=spacing_mm) <= margin_mm)[inner.slices]
    crop = image[(slice(None), *around.slices)].astype(np.float32)
    filled = np.stack([fill_smoothly(channel, hole, spacing_mm) for channel in crop])
    smooth = np.stack([ndimage.gaussian_filter(channel, 1.0) for channel in crop])
    # where other tumors lie beside the box their uptake counts as host; the strengths are medians, so little of it shows
    noise = like_noise(crop, smooth, filled, inner, np.random.default_rng(seed))
    filled[:, hole] += noise[:, hole]
    if image.dtype.kind in "iu":
        limits = np.iinfo(image.dtype)
        filled = np.clip(np.rint(filled), limits.min, limits.max)
    out = image.copy()
    out[(slice(None), *around.slices)][:, hole] = filled[:, hole].astype(image.dtype)
    return out


def fill_smoothly(image: np.ndarray, hole: np.ndarray, spacing_mm: Triple) -> np.ndarray:
    """The image (X, Y, Z) with the hole's voxels harmonic: each the mean of its neighbours, nearer ones weighing more.

    The rest is untouched. At the array's edge there is no neighbour; a hole without any voxel around gets zero.
    """
    out = image.astype(np.float32, copy=True)
    count = int(hole.sum())
    if not count:
        return out
    number = np.full(hole.shape, -1)
    number[hole] = np.arange(count)
    diagonal, known = np.zeros(count), np.zeros(count)
    rows, columns, weights = [], [], []
    for axis, spacing in enumerate(spacing_mm):
        weight = 1.0 / spacing**2
        for ahead in (slice(1, None), slice(None, -1)):
            back = slice(None, -1) if ahead == slice(1, None) else slice(1, None)
            here, there = (tuple(s if a == axis else slice(None) for a in range(3)) for s in (back, ahead))
            own, other = number[here], number[there]
            inside = own >= 0
            np.add.at(diagonal, own[inside], weight)
            both, edge = inside & (other >= 0), inside & (other < 0)
            rows.append(own[both])
            columns.append(other[both])
            weights.append(np.full(int(both.sum()), -weight))
            np.add.at(known, own[edge], weight * out[there][edge])
    if not known.any() and count == hole.size:
        out[hole] = 0
        return out
    numbers = np.arange(count)
    matrix = sparse.csr_matrix(
        (np.concatenate([diagonal, *weights]), (np.concatenate([numbers, *rows]), np.concatenate([numbers, *columns]))), (count, count)
    )
    scaling = sparse.diags(1 / diagonal)  # Jacobi: anisotropic voxels converge as fast as cubes
    solution, _ = sparse.linalg.cg(matrix, known, rtol=1e-5, maxiter=2000, M=scaling)
    out[hole] = solution
    return out
