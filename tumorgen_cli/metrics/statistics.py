"""Statistics of a single tumor, and the distance between two sets of such numbers. Arrays in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from tumorgen_cli.data.surroundings import shell_median
from tumorgen_cli.geometry import Triple, shell_mm
from tumorgen_cli.metrics.contour import contour_dice
from tumorgen_cli.metrics.traits import contrasts, core_ratio, heterogeneity, ratio, shell, tumor_and_shell


@dataclass(frozen=True)
class TumorStatistics:
    """One tumor in one channel, in the units of `preprocessing.intensity.to_comparable_units`; nan where undefined.

    "Above the zero" means the intensity minus the channel's zero.

    Attributes:
        volume_ml: Volume of the mask.
        mean: Mean intensity inside.
        maximum: Largest intensity inside.
        contrast: Mean inside minus the mean of the shell around (`traits.tumor_and_shell`).
        relative_contrast: Contrast over the shell's mean above the zero; nan where that is not positive.
        heterogeneity: Coefficient of variation inside, above the zero; nan where the mean is not positive.
        core_ratio: Mean of the deepest third of the voxels over that of the shallowest third, both above the zero:
            below 1 where the core is dark, as in necrosis.
        sphericity: Area of the ball of the same volume over the tumor's surface area: 1 for a ball, else less.
        boundary_gradient: Mean slope, per mm, of the voxels on both sides of the mask's boundary.
        contour_dice: Dice of the mask and what the half-contrast contour encloses (`contour.contour_dice`).
        surroundings: Median intensity of the outer half of the shell (`data.surroundings.shell_median`). The inner half
            is left out because a tumor blurs into it.
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
    contour_dice: float
    surroundings: float


def describe_tumor(
    channel: np.ndarray, mask: np.ndarray, spacing_mm: Triple, zero: float, excluded: np.ndarray | None = None
) -> TumorStatistics | None:
    """Compute the statistics of a tumor.

    Args:
        channel: The scan (X, Y, Z), as `preprocessing.intensity.to_comparable_units` returns it.
        mask: The tumor (X, Y, Z).
        spacing_mm: Voxel size along each axis.
        zero: The channel's zero, from the same function.
        excluded: Voxels (X, Y, Z) that count neither as tumor nor as surroundings.

    Returns:
        The statistics; None where the mask is empty.
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
        contour_dice=contour_dice(crop[0], inside, spacing_mm, ~(inside | around)),
        surroundings=_surroundings(crop[0], inside, around, spacing_mm),
    )


def ks_distance(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float:
    """Compute the two-sample Kolmogorov–Smirnov statistic: the largest gap between the distribution functions, 0 to 1.

    nan values are left out; the result is nan where a side has no values left.
    """
    from scipy.stats import ks_2samp

    x, y = (values[np.isfinite(values)] for values in (np.asarray(a, float), np.asarray(b, float)))
    return float(ks_2samp(x, y).statistic) if len(x) and len(y) else math.nan


def _surroundings(channel: np.ndarray, inside: np.ndarray, around: np.ndarray, spacing_mm: Triple) -> float:
    reach = shell_mm(np.count_nonzero(inside), spacing_mm)
    outer = around & ~shell(inside, spacing_mm, reach / 2)
    return shell_median(channel, spacing_mm, np.argwhere(outer), reach)


def _sphericity(inside: np.ndarray, spacing_mm: Triple) -> float:
    from skimage.measure import marching_cubes, mesh_surface_area

    # smoothed by half a voxel: on the mask itself the steps of the voxels would count as surface
    soft = ndimage.gaussian_filter(np.pad(inside, 3).astype(np.float32), 0.5)
    vertices, faces, _, _ = marching_cubes(soft, min(0.5, float(soft.max()) / 2), spacing=spacing_mm)
    corners = vertices[faces].astype(np.float64)
    volume = abs(np.linalg.det(corners).sum()) / 6  # sum over the tetrahedra of the triangles and the origin
    return float(math.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / mesh_surface_area(vertices, faces))


def _boundary_gradient(channel: np.ndarray, inside: np.ndarray, spacing_mm: Triple) -> float:
    if min(channel.shape) < 2:  # a scan of one slice has no slope along it
        return math.nan
    slope = np.sqrt(sum(part**2 for part in np.gradient(channel, *spacing_mm)))
    edge = ndimage.binary_dilation(inside) & ~ndimage.binary_erosion(inside)
    return float(slope[edge].mean())
