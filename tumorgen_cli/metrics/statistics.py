"""What a tumor looks like in numbers, and how far two sets of such numbers are apart. Arrays in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from tumorgen_cli.geometry import Triple
from tumorgen_cli.metrics.traits import contrasts, core_ratio, heterogeneity, ratio, tumor_and_shell


@dataclass(frozen=True)
class TumorStatistics:
    """One tumor in one channel, in the units of `preprocessing.intensity.to_comparable_units`; what cannot be told is nan.

    `contrast` is the mean inside minus the mean of the shell of 2 cm around. Ratios are of what is above the channel's zero:
    `relative_contrast` is the contrast over the shell's mean (nan where that is not positive), `heterogeneity` the coefficient of
    variation inside (nan where the mean is not positive), `core_ratio` the mean of the third of the voxels lying deepest over
    the mean of the third lying shallowest: below 1 where the core is dark, as in necrosis. `sphericity` is the area of the ball of
    the same volume over the tumor's surface area (1 for a ball, else less). `boundary_gradient` is the mean slope, per mm, of the
    voxels on both sides of the mask's boundary.
    """

    volume_ml: float
    mean: float
    maximum: float
    contrast: float
    relative_contrast: float
    heterogeneity: float
    core_ratio: float
    sphericity: float
    boundary_gradient: float


def describe_tumor(
    channel: np.ndarray, mask: np.ndarray, spacing_mm: Triple, zero: float, excluded: np.ndarray | None = None
) -> TumorStatistics | None:
    """The statistics of a tumor; None where the mask is empty.

    `channel` (X, Y, Z) and its `zero` as `preprocessing.intensity.to_comparable_units` gives them, `mask` (X, Y, Z). `excluded` (X, Y, Z): voxels that count
    neither as tumor nor as surroundings.
    """
    cut = tumor_and_shell(channel[None], mask, spacing_mm, excluded)
    if cut is None:
        return None
    crop, inside, around = cut
    values, above = crop[0, inside], crop[0] - zero
    mean, contrast = float(values.mean()), float(contrasts(crop, inside, around)[0])
    return TumorStatistics(
        volume_ml=np.count_nonzero(inside) * math.prod(spacing_mm) / 1000,
        mean=mean,
        maximum=float(values.max()),
        contrast=contrast,
        relative_contrast=ratio(contrast, mean - contrast - zero),
        heterogeneity=heterogeneity(above, inside),
        core_ratio=core_ratio(above, inside, spacing_mm),
        sphericity=_sphericity(inside, spacing_mm),
        boundary_gradient=_boundary_gradient(crop[0], inside, spacing_mm),
    )


def ks_distance(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float:
    """Two-sample Kolmogorov–Smirnov statistic: the largest gap between the distribution functions, 0 to 1.

    nan values are left out; nan where nothing is left on one side.
    """
    from scipy.stats import ks_2samp

    x, y = (values[np.isfinite(values)] for values in (np.asarray(a, float), np.asarray(b, float)))
    return float(ks_2samp(x, y).statistic) if len(x) and len(y) else math.nan


def _sphericity(inside: np.ndarray, spacing_mm: Triple) -> float:
    from skimage.measure import marching_cubes, mesh_surface_area

    # smoothed by half a voxel: on a bare mask the steps of the voxels would count as surface
    soft = ndimage.gaussian_filter(np.pad(inside, 3).astype(np.float32), 0.5)
    vertices, faces, _, _ = marching_cubes(soft, min(0.5, float(soft.max()) / 2), spacing=spacing_mm)
    corners = vertices[faces].astype(np.float64)
    volume = abs(np.linalg.det(corners).sum()) / 6  # of the tetrahedra that the triangles span with the origin
    return float(math.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / mesh_surface_area(vertices, faces))


def _boundary_gradient(channel: np.ndarray, inside: np.ndarray, spacing_mm: Triple) -> float:
    if min(channel.shape) < 2:  # a scan of one slice has no slope along it
        return math.nan
    slope = np.sqrt(sum(part**2 for part in np.gradient(channel, *spacing_mm)))
    edge = ndimage.binary_dilation(inside) & ~ndimage.binary_erosion(inside)
    return float(slope[edge].mean())
