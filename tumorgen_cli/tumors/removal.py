"""Remove tumors from scans: the surroundings are continued smoothly, with noise like that of the scan.

Pure functions of arrays. When the tumor of a case is drawn again, methods that keep the voxels around it need a scan
without the old tumor. Methods that learn from healthy windows get more of them.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage, sparse

from tumorgen_cli.geometry import Box, Shape, Triple, as_triple, box_around, cast_to_dtype, shell_mm, tight_box
from tumorgen_cli.planning.plan import PastePlan
from tumorgen_cli.tumors.noise import draw_scan_noise, robust_std

_NOISE_WIDTH = 2.0  # in voxels: what a Gaussian of this width removes is noise
_CONTEXT_VOXELS = 5  # noise is measured at least this far around what is filled: around few voxels it would be chance
_MIN_CONTRAST = 2.0  # uptake extends a tumor only if its contrast is this many standard deviations of the surroundings
_ORGAN = 1.5  # an organ, rather than an extension of the tumor, has more than this times the tumor's highest uptake
_MAX_GROWTH = 3.0  # an extended tumor that is more than this times its outline is an organ that the tumor touches


def remove_tumors(
    image: np.ndarray,
    tumors: np.ndarray,
    box: Box,
    spacing_mm: Triple,
    paste: PastePlan,
    seed: int,
    labels: np.ndarray | None = None,
) -> tuple[np.ndarray, Box | None]:
    """Remove the tumors in a box from a scan. Tumors outside the box stay.

    Each tumor is removed with the uptake that belongs to it in the channels `paste.seen_in` (see `extend_to_uptake`),
    and with a margin of `paste.heal_mm`, one voxel at least along each axis, for its blur. Inside, each channel solves
    Laplace's equation between the surrounding voxels without their noise, which is the smoothest continuation, and
    gets noise as strong and smooth as that around it, up to the distance of `shell_mm`.

    Args:
        image: The scan, (C, X, Y, Z).
        tumors: All tumors, (X, Y, Z), nonzero inside.
        box: The box whose tumors are removed.
        spacing_mm: Voxel edges.
        paste: The plan's settings.
        seed: Seed of the noise.
        labels: Label map, (X, Y, Z). Voxels with another label are not taken for a tumor.

    Returns:
        The scan in its data type, and the box of all changed voxels. Without a tumor in the box, the image itself and
        None.
    """
    old = np.zeros(tumors.shape, bool)
    old[box.slices] = tumors[box.slices]
    around = box_around(old, spacing_mm, 2 * shell_mm(np.count_nonzero(old), spacing_mm) + paste.heal_mm)
    if around is None:
        return image, None
    part = old[around.slices]
    others = tumors[around.slices].astype(bool) & ~part
    kept = others if labels is None else (labels[around.slices] > 0) & ~part
    channels = image[(list(paste.seen_in), *around.slices)].astype(np.float32) if paste.seen_in else None
    seen = part if channels is None else _extend_parts(channels, part, kept, spacing_mm, paste.heal_mm)
    blurred = ndimage.distance_transform_edt(~seen, sampling=spacing_mm) <= paste.heal_mm
    hole = (blurred | ndimage.binary_dilation(seen)) & ~others
    tight = tight_box(hole)
    assert tight is not None
    hole, changed = hole[tight.slices], tight.shifted(around.start)
    context = changed.grown(_context_voxels(hole, spacing_mm), tumors.shape)
    inner = changed.shifted(as_triple(-a for a in context.start))
    whole = np.zeros(context.shape, bool)
    whole[inner.slices] = hole
    crop = image[(slice(None), *context.slices)].astype(np.float32)
    filled = _fill(crop, whole, inner, spacing_mm, np.random.default_rng(seed))
    out = image.copy()
    out[(slice(None), *context.slices)][:, whole] = cast_to_dtype(filled[:, whole], image.dtype)
    return out, changed


def _context_voxels(hole: np.ndarray, spacing_mm: Triple) -> Shape:
    """How far around a hole (X, Y, Z) noise is measured, in voxels along each axis."""
    reach = shell_mm(np.count_nonzero(hole), spacing_mm)
    return as_triple(max(_CONTEXT_VOXELS, math.ceil(reach / s)) for s in spacing_mm)


def _fill(image: np.ndarray, hole: np.ndarray, inner: Box, spacing_mm: Triple, rng: np.random.Generator) -> np.ndarray:
    """Fill a hole (X, Y, Z) of a crop (C, X, Y, Z), whose tight box is `inner`, with tissue like that around it.

    The first fill only takes the tumor out of what is then smoothed: its blur would count as noise of the scan. The
    second starts from voxels without noise: noise that is continued inward would be streaks below the noise that is
    added.
    """
    plain = np.stack([fill_harmonic(channel, hole, spacing_mm) for channel in image])
    smooth = np.stack([ndimage.gaussian_filter(channel, 1.0) for channel in plain])
    filled = np.stack([fill_harmonic(channel, hole, spacing_mm) for channel in smooth])
    # other tumors and edges of organs count as surroundings; they hardly change a robust standard deviation
    wide = np.stack([ndimage.gaussian_filter(channel, _NOISE_WIDTH) for channel in plain])
    noise = draw_scan_noise(plain, wide, filled, inner, rng, robust_std)
    # what was measured is noise without its smooth part; drawn noise has both and must be as strong without it
    rest = noise - np.stack([ndimage.gaussian_filter(channel, _NOISE_WIDTH) for channel in noise])
    strength = [whole.std() / max(float(part.std()), 1e-9) for whole, part in zip(noise, rest, strict=True)]
    found = filled + noise * np.array(strength, np.float32).reshape(-1, 1, 1, 1)
    return np.maximum(found, plain.min(axis=(1, 2, 3), keepdims=True))  # no uptake below zero where the scan has none


def _extend_parts(
    image: np.ndarray, tumors: np.ndarray, kept: np.ndarray, spacing_mm: Triple, margin_mm: float
) -> np.ndarray:
    """Extend each connected part of a tumor mask (X, Y, Z) by its uptake, without the other parts and what is kept."""
    seen = tumors.copy()
    pieces, count = ndimage.label(tumors)
    for number in range(1, count + 1):
        own = pieces == number
        near = box_around(own, spacing_mm, 2 * shell_mm(np.count_nonzero(own), spacing_mm))
        assert near is not None
        where, barred = near.slices, kept | (tumors & ~own)
        seen[where] |= extend_to_uptake(image[(slice(None), *where)], own[where], barred[where], spacing_mm, margin_mm)
    return seen


def extend_to_uptake(
    image: np.ndarray, tumor: np.ndarray, kept: np.ndarray, spacing_mm: Triple, margin_mm: float
) -> np.ndarray:
    """Extend a tumor by the uptake beside it that its outline does not include.

    Outlines that are drawn on another scan, or tightly, leave uptake outside. It would stay as a tumor without a mask.

    In the channel with the highest contrast, voxels of its shell (`shell_mm`) that are connected with it are added if
    their value is at least halfway from the background to the mean of the tumor. Voxels that are 1.5 times as hot as
    the hottest voxel of the tumor are an organ; it is not added, nor is its blur, up to 2 `margin_mm` from it. The
    background is the tissue beyond the shell, as far again: the upper half of the values there, because the lower half
    may be air.

    Args:
        image: The channels to look at, (C, X, Y, Z).
        tumor: The tumor, (X, Y, Z) bool, not empty.
        kept: Voxels that are never added, (X, Y, Z) bool.
        spacing_mm: Voxel edges.
        margin_mm: Margin for blur.

    Returns:
        The extended tumor, (X, Y, Z) bool. It is the outline alone if the tumor has too little contrast, or if the
        extended tumor would be more than three times as large.
    """
    distance = ndimage.distance_transform_edt(~tumor, sampling=spacing_mm)
    reach = shell_mm(np.count_nonzero(tumor), spacing_mm)
    background = (distance > reach) & (distance <= 2 * reach) & ~kept
    if not background.any():
        return tumor
    values = np.sort(image[:, background], axis=1)
    tissue = values[:, values.shape[1] // 2 :]
    level = np.median(tissue, axis=1)
    spread = 1.4826 * np.median(np.abs(tissue - level[:, None]), axis=1)
    contrast = image[:, tumor].mean(axis=1) - level
    channel = int(np.argmax(contrast / np.maximum(spread, 1e-9)))
    if not contrast[channel] > _MIN_CONTRAST * spread[channel]:
        return tumor
    uptake = image[channel] - level[channel]
    barred, hotter = kept, (uptake > _ORGAN * uptake[tumor].max()) & (distance <= 2 * reach)
    if hotter.any():
        barred = kept | (ndimage.distance_transform_edt(~hotter, sampling=spacing_mm) <= 2 * margin_mm)
    like = (uptake >= contrast[channel] / 2) & (distance <= reach) & ~barred
    pieces, _ = ndimage.label(like | tumor)
    seen = np.isin(pieces, np.unique(pieces[tumor]))
    return seen if seen.sum() <= _MAX_GROWTH * tumor.sum() else tumor


def fill_harmonic(image: np.ndarray, hole: np.ndarray, spacing_mm: Triple) -> np.ndarray:
    """Fill a hole with a harmonic function: each voxel is the mean of its neighbors, weighted by 1 / distance squared.

    Other voxels are not changed. Neighbors outside the array do not count. A hole that fills the array gets zero.

    Args:
        image: One channel, (X, Y, Z).
        hole: The voxels to fill, (X, Y, Z) bool.
        spacing_mm: Voxel edges.

    Returns:
        The filled image, float32.

    Raises:
        RuntimeError: the solver did not converge.
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
    scaling = sparse.diags(1 / diagonal)  # Jacobi: anisotropic voxels converge as fast as cubic ones
    solution, failed = sparse.linalg.cg(matrix, known, rtol=1e-5, maxiter=20 * sum(hole.shape), M=scaling)
    if failed:
        raise RuntimeError("the fill of a hole did not converge")
    out[hole] = solution
    return out
