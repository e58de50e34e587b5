"""Scans without their tumors: smooth continuation of what lies around them, with noise like the scan's own. Pure functions of arrays.

Methods that keep the voxels around their tumor would leave the old one in the picture when a case's tumor is redrawn; methods
that learn from healthy windows find more of them.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage, sparse

from tumorgen_cli.records import SHELL_MM, Box, Triple
from tumorgen_cli.texture import like_noise
from tumorgen_cli.windows import box_around, tight_box

_CONTEXT_MM = 25.0  # around what is taken away, to measure noise in
_TISSUE = 75  # percentile of a tumor's surroundings that is tissue where half of them are air
_STANDS_OUT = 2.0  # a tumor's contrast, in spreads of its surroundings, from which on its uptake outlines it


def heal(image: np.ndarray, tumors: np.ndarray, box: Box, spacing_mm: Triple, margin_mm: float, seed: int) -> np.ndarray:
    """The image (C, X, Y, Z) in its own type with the tumors (X, Y, Z) in `box` gone; `SHELL_MM` + `margin_mm` beyond the box every
    voxel is as it was.

    A tumor is taken away as far as it is seen (`seen_tumor`), with `margin_mm` around it for its blur. Inside, each channel solves
    Laplace's equation between the voxels around (the smoothest continuation), and gets noise of the strength and smoothness that
    the scan has around. Tumors outside the box stay. Without one in the box the image itself comes back.
    """
    old = np.zeros(tumors.shape, bool)
    old[box.slices] = tumors[box.slices]
    around = box_around(old, spacing_mm, 2 * SHELL_MM + margin_mm + _CONTEXT_MM)
    if around is None:
        return image
    crop, part, others = image[(slice(None), *around.slices)].astype(np.float32), old[around.slices], (tumors & ~old)[around.slices]
    seen = seen_tumor(crop, part, others, spacing_mm)
    hole = (ndimage.distance_transform_edt(~seen, sampling=spacing_mm) <= margin_mm) & ~others
    filled = np.stack([fill_smoothly(channel, hole, spacing_mm) for channel in crop])
    smooth = np.stack([ndimage.gaussian_filter(channel, 1.0) for channel in crop])
    # where other tumors lie beside it their uptake counts as host; the strengths are medians, so little of it shows
    noise = like_noise(crop, smooth, filled, tight_box(hole), np.random.default_rng(seed))  # type: ignore[arg-type]
    filled[:, hole] += noise[:, hole]
    if image.dtype.kind in "iu":
        limits = np.iinfo(image.dtype)
        filled = np.clip(np.rint(filled), limits.min, limits.max)
    out = image.copy()
    out[(slice(None), *around.slices)][:, hole] = filled[:, hole].astype(image.dtype)
    return out


def seen_tumor(image: np.ndarray, tumor: np.ndarray, others: np.ndarray, spacing_mm: Triple) -> np.ndarray:
    """A tumor (X, Y, Z), not empty, with what looks like it beside it in the image (C, X, Y, Z), `others` left out: (X, Y, Z) bool.

    Outlines drawn on another scan, or tightly, leave hot tissue out, which would stay as a tumor without a mask. So what hangs
    together with the tumor within `SHELL_MM` counts as tumor where, in the channel in which it stands out most, it is at least half
    as far from the background (the upper quartile of the next `SHELL_MM`, where there may be air) as the tumor's mean, and no further
    than 99 % of the tumor: organs may be hotter. A tumor that stands out by less than twice the background's spread is its mask alone.
    """
    distance = ndimage.distance_transform_edt(~tumor, sampling=spacing_mm)
    background = (distance > SHELL_MM) & (distance <= 2 * SHELL_MM) & ~others
    if not background.any():
        return tumor
    level = np.percentile(image[:, background], _TISSUE, axis=1)
    spread = 1.4826 * np.median(np.abs(image[:, background] - level[:, None]), axis=1)
    contrast = image[:, tumor].mean(axis=1) - level
    channel = int(np.argmax(np.abs(contrast) / np.maximum(spread, 1e-9)))
    if not abs(contrast[channel]) > _STANDS_OUT * spread[channel]:
        return tumor
    share = (image[channel] - level[channel]) / contrast[channel]
    like = (share >= 0.5) & (share <= np.percentile(share[tumor], 99)) & (distance <= SHELL_MM) & ~others
    pieces, _ = ndimage.label(like | tumor)
    return np.isin(pieces, np.unique(pieces[tumor]))


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
    solution, unsettled = sparse.linalg.cg(matrix, known, rtol=1e-5, maxiter=20 * sum(hole.shape), M=scaling)
    if unsettled:
        raise RuntimeError("the fill of a hole did not settle")
    out[hole] = solution
    return out
