"""Scans without their tumors: smooth continuation of what lies around them, with noise like the scan's own. Pure functions of arrays.

Methods that keep the voxels around their tumor would leave the old one in the picture when a case's tumor is redrawn; methods
that learn from healthy windows find more of them.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage, sparse

from tumorgen_cli.geometry import SHELL_MM, Box, Triple, box_around, cast_to_dtype, tight_box
from tumorgen_cli.planning.plan import PastePlan
from tumorgen_cli.tumors.noise import draw_scan_noise, robust_std

_CONTEXT_MM = 25.0  # around what is taken away, to measure noise in
_STANDS_OUT = 2.0  # a tumor's contrast, in spreads of its surroundings, from which on its uptake outlines it
_ORGAN = (
    1.5  # times a tumor's highest uptake above the background: hotter is an organ, not a rim that the outline missed
)
_MOST = 3.0  # times its outline; what is seen to be larger is an organ that the tumor touches


def remove_tumors(
    image: np.ndarray,
    tumors: np.ndarray,
    box: Box,
    spacing_mm: Triple,
    paste: PastePlan,
    seed: int,
    labels: np.ndarray | None = None,
) -> tuple[np.ndarray, Box | None]:
    """The image (C, X, Y, Z) in its own type with the tumors (X, Y, Z) in `box` gone, and the box of all voxels that changed.

    Each is taken away as far as it is seen in the channels `paste.seen_in` (`extend_to_uptake`), with `paste.heal_mm` around it for its blur.
    Inside, each channel solves Laplace's equation between the voxels around (the smoothest continuation), and gets noise of the
    strength and smoothness that the scan has around. Tumors outside the box stay; what has another of the
    `labels` (X, Y, Z) is not taken for a tumor. Without one in the box the image itself comes back, and None.
    """
    old = np.zeros(tumors.shape, bool)
    old[box.slices] = tumors[box.slices]
    around = box_around(old, spacing_mm, 2 * SHELL_MM + paste.heal_mm + _CONTEXT_MM)
    if around is None:
        return image, None
    part = old[around.slices]
    others = tumors[around.slices].astype(bool) & ~part
    kept = others if labels is None else (labels[around.slices] > 0) & ~part
    seen = part.copy()
    if paste.seen_in:
        uptake = image[(list(paste.seen_in), *around.slices)].astype(np.float32)
        pieces, count = ndimage.label(part)
        for number in range(1, count + 1):
            own = pieces == number
            near = box_around(own, spacing_mm, 2 * SHELL_MM)
            assert near is not None
            where, barred = near.slices, kept | (part & ~own)
            seen[where] |= extend_to_uptake(
                uptake[(slice(None), *where)], own[where], barred[where], spacing_mm, paste.heal_mm
            )
    hole = (ndimage.distance_transform_edt(~seen, sampling=spacing_mm) <= paste.heal_mm) & ~others
    context, changed = box_around(hole, spacing_mm, _CONTEXT_MM), tight_box(hole)
    assert context is not None
    assert changed is not None
    hole, inner = hole[context.slices], changed.shifted(tuple(-a for a in context.start))  # type: ignore[arg-type]
    context, changed = context.shifted(around.start), changed.shifted(around.start)
    crop = image[(slice(None), *context.slices)].astype(np.float32)
    filled = np.stack([fill_harmonic(channel, hole, spacing_mm) for channel in crop])
    smooth = np.stack([ndimage.gaussian_filter(channel, 1.0) for channel in crop])
    # other tumors beside it and organs' edges count as host; of a robust spread little of them shows
    noise = draw_scan_noise(crop, smooth, filled, inner, np.random.default_rng(seed), robust_std)
    filled[:, hole] += noise[:, hole]
    out = image.copy()
    out[(slice(None), *context.slices)][:, hole] = cast_to_dtype(filled[:, hole], image.dtype)
    return out, changed


def extend_to_uptake(
    image: np.ndarray, tumor: np.ndarray, kept: np.ndarray, spacing_mm: Triple, margin_mm: float
) -> np.ndarray:
    """A tumor (X, Y, Z), not empty, with the uptake beside it that its outline leaves out, never what is `kept`: (X, Y, Z) bool.

    Outlines drawn on another scan, or tightly, leave uptake out, which would stay as a tumor without a mask. In the channel of the
    image (C, X, Y, Z) in which the tumor stands out most, voxels within `SHELL_MM` that hang together with it are taken for it where they
    are halfway from the background to the tumor's mean, or hotter, but not half again as hot as all of the tumor: an organ,
    which is kept with its blur, 2 `margin_mm`. The background is the tissue in the next `SHELL_MM`: the upper half of the values, as
    there may be air. The outline alone comes back where the tumor does not stand out or where three times as much would be taken.
    """
    distance = ndimage.distance_transform_edt(~tumor, sampling=spacing_mm)
    background = (distance > SHELL_MM) & (distance <= 2 * SHELL_MM) & ~kept
    if not background.any():
        return tumor
    values = np.sort(image[:, background], axis=1)
    tissue = values[:, values.shape[1] // 2 :]
    level = np.median(tissue, axis=1)
    spread = 1.4826 * np.median(np.abs(tissue - level[:, None]), axis=1)
    contrast = image[:, tumor].mean(axis=1) - level
    channel = int(np.argmax(contrast / np.maximum(spread, 1e-9)))
    if not contrast[channel] > _STANDS_OUT * spread[channel]:
        return tumor
    uptake = image[channel] - level[channel]
    barred, hotter = kept, (uptake > _ORGAN * uptake[tumor].max()) & (distance <= 2 * SHELL_MM)
    if hotter.any():
        barred = kept | (ndimage.distance_transform_edt(~hotter, sampling=spacing_mm) <= 2 * margin_mm)
    like = (uptake >= contrast[channel] / 2) & (distance <= SHELL_MM) & ~barred
    pieces, _ = ndimage.label(like | tumor)
    seen = np.isin(pieces, np.unique(pieces[tumor]))
    return seen if seen.sum() <= _MOST * tumor.sum() else tumor


def fill_harmonic(image: np.ndarray, hole: np.ndarray, spacing_mm: Triple) -> np.ndarray:
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
        (np.concatenate([diagonal, *weights]), (np.concatenate([numbers, *rows]), np.concatenate([numbers, *columns]))),
        (count, count),
    )
    scaling = sparse.diags(1 / diagonal)  # Jacobi: anisotropic voxels converge as fast as cubes
    solution, unsettled = sparse.linalg.cg(matrix, known, rtol=1e-5, maxiter=20 * sum(hole.shape), M=scaling)
    if unsettled:
        raise RuntimeError("the fill of a hole did not settle")
    out[hole] = solution
    return out
