"""Traits of a tumor beside its shape: contrast, heterogeneity, a dark core. Also: which tumors are hard.

Arrays in, numbers out. A trait that is undefined is nan.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from tumorgen_cli.geometry import Triple, box_around, shell_mm

#: what `describe_traits` computes of each channel, in this order
FIELDS = ("contrast", "heterogeneity", "core_ratio")
#: kind of hard tumor -> its field, the percentile of the training tumors that bounds it, the side of that bound
#: on which it lies
KINDS = {
    "low-contrast": ("contrast", 20, -1),
    "necrotic": ("core_ratio", 20, -1),
    "heterogeneous": ("heterogeneity", 80, 1),
}


def tumor_and_shell(
    image: np.ndarray, mask: np.ndarray, spacing_mm: Triple, excluded: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Cut out a tumor and its shell, the surroundings in proportion to its size (`geometry.shell_mm`).

    Args:
        image: The scan (C, X, Y, Z).
        mask: The tumor (X, Y, Z).
        spacing_mm: Voxel size along each axis.
        excluded: Voxels (X, Y, Z) that do not count as surroundings.

    Returns:
        The cut image (C, x, y, z), the tumor and its shell (both (x, y, z) bool); None where the mask is empty.
    """
    inside = mask.astype(bool, copy=False)
    reach = shell_mm(np.count_nonzero(inside), spacing_mm)
    box = box_around(inside, spacing_mm, reach)
    if box is None:
        return None
    region = box.slices
    inside = inside[region]
    around = shell(inside, spacing_mm, reach)
    if excluded is not None:
        around &= ~excluded[region].astype(bool)
    return image[(slice(None), *region)].astype(np.float64), inside, around


def shell(mask: np.ndarray, spacing_mm: Triple, reach_mm: float) -> np.ndarray:
    """Find the voxels (X, Y, Z) outside `mask` whose center is within `reach_mm` of the center of a voxel inside."""
    distance = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    return np.asarray((distance <= reach_mm) & ~mask)


def contrasts(image: np.ndarray, inside: np.ndarray, around: np.ndarray) -> np.ndarray:
    """Subtract the mean around a tumor from the mean inside, by channel (C,); nan where nothing is around."""
    means = image[:, inside].mean(axis=1)
    return np.asarray(means - image[:, around].mean(axis=1) if around.any() else np.full_like(means, math.nan))


def heterogeneity(channel: np.ndarray, inside: np.ndarray) -> float:
    """Compute the coefficient of variation inside, of intensities above the zero.

    The result is nan where the mean is not positive.
    """
    values = channel[inside]
    return ratio(values.std(), values.mean())


def core_ratio(channel: np.ndarray, inside: np.ndarray, spacing_mm: Triple) -> float:
    """Divide the mean of the deepest third of the voxels by that of the shallowest third.

    A ratio below 1 means a dark core.

    Args:
        channel: Intensities above the zero (X, Y, Z).
        inside: The tumor (X, Y, Z).
        spacing_mm: Voxel size along each axis.

    Returns:
        The ratio; nan where the tumor is one voxel thick or the rim's mean is not positive.
    """
    depth = ndimage.distance_transform_edt(np.pad(inside, 1), sampling=spacing_mm)[1:-1, 1:-1, 1:-1][inside]
    if depth.max() <= depth.min():  # one voxel thick: there is no core
        return math.nan
    shallow, deep = np.quantile(depth, (1 / 3, 2 / 3))
    values = channel[inside]
    # ties belong to their third as a whole, so that the order of the voxels in the scan does not matter
    rim = values[depth <= shallow]
    core = values[depth >= deep] if deep > shallow else values[depth > shallow]
    return ratio(core.mean(), rim.mean())


def ratio(top: float, bottom: float) -> float:
    """Divide `top` by `bottom`; nan where `bottom` is not positive."""
    return float(top / bottom) if bottom > 0 else math.nan


def describe_traits(image: np.ndarray, mask: np.ndarray, spacing_mm: Triple, zero: np.ndarray) -> np.ndarray:
    """Compute the traits of a tumor in every channel.

    Args:
        image: The scan (C, X, Y, Z) as `preprocessing.intensity.to_comparable_units` returns it.
        mask: The tumor (X, Y, Z).
        spacing_mm: Voxel size along each axis.
        zero: The zero of each channel (C,), from the same function.

    Returns:
        (3 C,) float32: `FIELDS` of the first channel, then of the next.

    Raises:
        ValueError: The mask is empty.
    """
    cut = tumor_and_shell(image, mask, spacing_mm)
    if cut is None:
        raise ValueError("the mask is empty")
    crop, inside, around = cut
    rows = [
        (contrast, heterogeneity(channel, inside), core_ratio(channel, inside, spacing_mm))
        for channel, contrast in zip(crop - zero.reshape(-1, 1, 1, 1), contrasts(crop, inside, around), strict=True)
    ]
    return np.array(rows, np.float32).ravel()


def hard_limit(kind: str, values: np.ndarray) -> float:
    """Compute the bound of a kind of hard tumor from its field's values (N,) of the training tumors.

    The bound is nan where no value is defined.
    """
    known = _comparable(kind, values)
    known = known[np.isfinite(known)]
    return float(np.percentile(known, KINDS[kind][1])) if len(known) else math.nan


def is_hard(kind: str, values: np.ndarray, limit: float) -> np.ndarray:
    """Tell which of a field's values (N,) are of a hard kind, bound included: (N,) bool, False where nan."""
    side = KINDS[kind][2]
    return np.asarray(side * _comparable(kind, values) >= side * limit)


def _comparable(kind: str, values: np.ndarray) -> np.ndarray:
    """Return the values as they are compared: a contrast is low when it is weak, for bright and for dark tumors."""
    return np.abs(values) if KINDS[kind][0] == "contrast" else np.asarray(values)
