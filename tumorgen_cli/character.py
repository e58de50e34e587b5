"""What a tumor is like beside its shape: how it stands out, how uneven it is, whether its core is dark. Arrays in, numbers out."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from tumorgen_cli.records import SHELL_MM, Triple
from tumorgen_cli.windows import tight_box

PER_CHANNEL = 3
#: kind of tumor -> which of a channel's three numbers, the percentile of the training tumors' that bounds it, on which side it lies
KINDS = {"low-contrast": (0, 20, -1), "necrotic": (2, 20, -1), "heterogeneous": (1, 80, 1)}


def shell(mask: np.ndarray, spacing_mm: Triple, radius_mm: float = SHELL_MM) -> np.ndarray:
    """The voxels (X, Y, Z) outside `mask` whose centre is within `radius_mm` of the centre of one inside."""
    distance = ndimage.distance_transform_edt(~mask, sampling=spacing_mm)
    return np.asarray((distance <= radius_mm) & ~mask)


def rim_and_core(inside: np.ndarray, spacing_mm: Triple) -> tuple[np.ndarray, np.ndarray] | None:
    """Which voxels of a mask (X, Y, Z) belong to its shallowest and to its deepest third: (V,) bool each, in the mask's order.

    Ties belong to their third as a whole, so that the scan's order of voxels plays no part; None where all are as deep.
    """
    depth = ndimage.distance_transform_edt(np.pad(inside, 1), sampling=spacing_mm)[1:-1, 1:-1, 1:-1][inside]
    if depth.max() <= depth.min():  # one voxel thick: no core to speak of
        return None
    shallow, deep = np.quantile(depth, (1 / 3, 2 / 3))
    return depth <= shallow, depth >= deep if deep > shallow else depth > shallow


def describe_character(image: np.ndarray, mask: np.ndarray, spacing_mm: Triple) -> np.ndarray:
    """(3 C,) float32 of a scaled window (C, X, Y, Z) and its mask (X, Y, Z): per channel the mean inside less that of the 2 cm
    around, the spread inside, the mean of the deepest third less that of the shallowest. Differences, so that any channel has them.

    Raises:
        ValueError: the mask is empty.
    """
    inside = mask.astype(bool, copy=False)
    tight = tight_box(inside)
    if tight is None:
        raise ValueError("the mask is empty")
    margin = tuple(math.ceil(SHELL_MM / s) + 1 for s in spacing_mm)
    region = tight.grown(margin, inside.shape).slices  # type: ignore[arg-type]
    crop, inside = image[(slice(None), *region)], inside[region]
    values, around, thirds = crop[:, inside], crop[:, shell(inside, spacing_mm)], rim_and_core(inside, spacing_mm)
    means = values.mean(1)
    contrast = means - around.mean(1) if around.size else np.zeros_like(means)
    core = values[:, thirds[1]].mean(1) - values[:, thirds[0]].mean(1) if thirds else np.zeros_like(means)
    return np.stack([contrast, values.std(1), core], 1).ravel().astype(np.float32)


def of_kind(characters: np.ndarray, kind: str) -> np.ndarray:
    """Which of the characters (N, 3 C) are of a hard kind in the first channel: (N,) bool, at least one of them.

    Low is a contrast weaker than most have, whether tumors are mostly brighter or darker than what lies around them.
    """
    which, percentile, side = KINDS[kind]
    values = characters[:, which] * (np.sign(np.median(characters[:, 0])) or 1 if which == 0 else 1)
    return np.asarray(side * values >= side * np.percentile(values, percentile))
