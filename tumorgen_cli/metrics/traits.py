"""What a tumor is like beside its shape: how it stands out, how uneven it is, whether its core is dark; and which are hard.

Arrays in, numbers out; nan where one cannot be told.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from tumorgen_cli.geometry import SHELL_MM, Triple, box_around

#: what `describe_character` tells of each channel, in this order
FIELDS = ("contrast", "heterogeneity", "core_ratio")
#: kind of hard tumor -> its field, the percentile of the training tumors' that bounds it, the side of that bound on which it lies
KINDS = {
    "low-contrast": ("contrast", 20, -1),
    "necrotic": ("core_ratio", 20, -1),
    "heterogeneous": ("heterogeneity", 80, 1),
}


def tumor_and_shell(
    image: np.ndarray, mask: np.ndarray, spacing_mm: Triple, excluded: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """The image (C, x, y, z), the tumor and the shell of 2 cm around it (x, y, z), cut out; None where the mask is empty.

    `excluded` (X, Y, Z): voxels that do not count as surroundings.
    """
    inside = mask.astype(bool, copy=False)
    box = box_around(inside, spacing_mm, SHELL_MM)
    if box is None:
        return None
    region = box.slices
    inside = inside[region]
    around = shell(inside, spacing_mm)
    if excluded is not None:
        around &= ~excluded[region].astype(bool)
    return image[(slice(None), *region)].astype(np.float64), inside, around


def shell(mask: np.ndarray, spacing_mm: Triple, radius_mm: float = SHELL_MM) -> np.ndarray:
    """The voxels (X, Y, Z) outside `mask` whose centre is within `radius_mm` of the centre of one inside."""
    distance = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    return np.asarray((distance <= radius_mm) & ~mask)


def contrasts(image: np.ndarray, inside: np.ndarray, around: np.ndarray) -> np.ndarray:
    """(C,) the mean inside less the mean around; nan where nothing is around."""
    means = image[:, inside].mean(axis=1)
    return np.asarray(means - image[:, around].mean(axis=1) if around.any() else np.full_like(means, math.nan))


def heterogeneity(channel: np.ndarray, inside: np.ndarray) -> float:
    """The coefficient of variation inside, of intensities above nothing; nan where the mean is not positive."""
    values = channel[inside]
    return ratio(values.std(), values.mean())


def core_ratio(channel: np.ndarray, inside: np.ndarray, spacing_mm: Triple) -> float:
    """The mean of the third of the voxels lying deepest over that of the third lying shallowest, of intensities above nothing: below 1
    where the core is dark."""
    depth = ndimage.distance_transform_edt(np.pad(inside, 1), sampling=spacing_mm)[1:-1, 1:-1, 1:-1][inside]
    if depth.max() <= depth.min():  # one voxel thick: no core to speak of
        return math.nan
    shallow, deep = np.quantile(depth, (1 / 3, 2 / 3))
    values = channel[inside]
    # ties belong to their third as a whole, so that the scan's order of voxels plays no part
    rim = values[depth <= shallow]
    core = values[depth >= deep] if deep > shallow else values[depth > shallow]
    return ratio(core.mean(), rim.mean())


def ratio(top: float, bottom: float) -> float:
    """top / bottom; nan where `bottom` is not positive."""
    return float(top / bottom) if bottom > 0 else math.nan


def describe_character(image: np.ndarray, mask: np.ndarray, spacing_mm: Triple, zero: np.ndarray) -> np.ndarray:
    """(3 C,) float32: `FIELDS` of each channel of an image (C, X, Y, Z) with its `zero` (C,), both as `preprocessing.intensity.to_comparable_units` gives them,
    under a mask (X, Y, Z).

    Raises:
        ValueError: the mask is empty.
    """
    cut = tumor_and_shell(image, mask, spacing_mm)
    if cut is None:
        raise ValueError("the mask is empty")
    crop, inside, around = cut
    told = [
        (contrast, heterogeneity(channel, inside), core_ratio(channel, inside, spacing_mm))
        for channel, contrast in zip(crop - zero.reshape(-1, 1, 1, 1), contrasts(crop, inside, around), strict=True)
    ]
    return np.array(told, np.float32).ravel()


def hard_limit(kind: str, values: np.ndarray) -> float:
    """The bound of a kind of hard tumor, from its field's values (N,) of the training tumors; nan where none is known."""
    known = _comparable(kind, values)
    known = known[np.isfinite(known)]
    return float(np.percentile(known, KINDS[kind][1])) if len(known) else math.nan


def is_hard(kind: str, values: np.ndarray, limit: float) -> np.ndarray:
    """Which of a field's values (N,) are of a hard kind, bound included: (N,) bool, False where nan."""
    side = KINDS[kind][2]
    return np.asarray(side * _comparable(kind, values) >= side * limit)


def _comparable(kind: str, values: np.ndarray) -> np.ndarray:
    """A contrast is low when it is weak, whether a tumor is brighter or darker than what lies around it."""
    return np.abs(values) if KINDS[kind][0] == "contrast" else np.asarray(values)
