"""What a tumor looks like in numbers, and how far two sets of such numbers are apart. Arrays in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from tumorgen_cli.character import contrasts, core_ratio, heterogeneity, ratio, tumor_and_shell
from tumorgen_cli.records import Triple


@dataclass(frozen=True)
class TumorStatistics:
    """One tumor (all tumor voxels of a case), in the scan's units; what cannot be told is nan.

    `mean`, `maximum`, `contrast` and the three after them are of the first channel. `contrast` is the mean inside minus
    the mean of the shell of 2 cm around; `relative_contrast` is that over the shell's mean (nan where it is not positive).
    `heterogeneity` is the coefficient of variation inside (nan where the mean is not positive). `core_ratio` is the mean of
    the third of the voxels lying deepest over the mean of the third lying shallowest: below 1 where the core is dark, as in
    necrosis. `sphericity` is the area of the ball of the same volume over the tumor's surface area (1 for a ball, else less).
    `boundary_gradient` is the mean slope, in the scan's unit per mm, of the voxels on both sides of the mask's boundary.
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
    means: tuple[float, ...]
    maxima: tuple[float, ...]
    contrasts: tuple[float, ...]


def describe_tumor(
    image: np.ndarray, mask: np.ndarray, spacing_mm: Triple, excluded: np.ndarray | None = None
) -> TumorStatistics | None:
    """The statistics of a tumor; None where the mask is empty.

    `image` (C, X, Y, Z), `mask` (X, Y, Z). `excluded` (X, Y, Z): voxels that count neither as tumor nor as surroundings.
    """
    cut = tumor_and_shell(image, mask, spacing_mm, excluded)
    if cut is None:
        return None
    crop, inside, around = cut
    values = crop[:, inside]
    contrast = contrasts(crop, inside, around)
    means, maxima = values.mean(axis=1), values.max(axis=1)
    return TumorStatistics(
        volume_ml=np.count_nonzero(inside) * math.prod(spacing_mm) / 1000,
        mean=float(means[0]),
        maximum=float(maxima[0]),
        contrast=float(contrast[0]),
        relative_contrast=ratio(contrast[0], means[0] - contrast[0]),
        heterogeneity=heterogeneity(crop[0], inside),
        core_ratio=core_ratio(crop[0], inside, spacing_mm),
        sphericity=_sphericity(inside, spacing_mm),
        boundary_gradient=_boundary_gradient(crop[0], inside, spacing_mm),
        means=_floats(means),
        maxima=_floats(maxima),
        contrasts=_floats(contrast),
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


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
