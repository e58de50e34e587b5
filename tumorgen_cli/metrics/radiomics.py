"""Radiomics-like features of a lesion: shape, intensity, texture, boundary, noise. Arrays in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import ndimage

from tumorgen_cli.geometry import Triple, box_around, shell_mm
from tumorgen_cli.metrics.statistics import TumorStatistics, describe_tumor

Family = Literal["intensity", "texture", "shape", "boundary", "surroundings"]
_BINS = 32
_LEAST_VOXELS = 8  # in a region, for statistics of its voxels


@dataclass(frozen=True)
class Feature:
    """A number that describes a lesion. `channel` is empty where there is only one, and for shape."""

    name: str
    family: Family
    title: str
    channel: str = ""

    @property
    def words(self) -> str:
        """The title, with the channel where there are several."""
        return f"{self.title} ({self.channel})" if self.channel else self.title


#: Of the mask alone. IBSI: volume (voxel counting), sphericity, surface to volume ratio, elongation, flatness;
#: sphericity and surface are of a mesh smoothed by half a voxel, where IBSI's is not.
SHAPES = (
    Feature("volume_ml", "shape", "volume, ml"),
    Feature("sphericity", "shape", "sphericity"),
    Feature("surface_to_volume", "shape", "surface to volume, 1/mm"),
    Feature("elongation", "shape", "elongation (second axis to first)"),
    Feature("flatness", "shape", "flatness (third axis to first)"),
)
#: Of one channel. IBSI: mean, 10th percentile, median, 90th percentile, maximum, skewness, excess kurtosis, coefficient
#: of variation, quartile coefficient of dispersion, histogram entropy (32 bins from minimum to maximum); as in IBSI 2,
#: responses also of Laplacian-of-Gaussian filters. The rest has no IBSI name.
INTENSITIES = (
    Feature("mean", "intensity", "mean"),
    Feature("percentile_10", "intensity", "10th percentile"),
    Feature("median", "intensity", "median"),
    Feature("percentile_90", "intensity", "90th percentile"),
    Feature("maximum", "intensity", "maximum"),
    Feature("skewness", "intensity", "skewness"),
    Feature("kurtosis", "intensity", "excess kurtosis"),
    Feature("variation", "intensity", "coefficient of variation"),
    Feature("dispersion", "intensity", "quartile coefficient of dispersion"),
    Feature("entropy", "intensity", "histogram entropy, bits"),
    Feature("core_ratio", "intensity", "core ratio (deep / shallow)"),
    Feature("gradient", "texture", "gradient inside, 1/mm"),
    Feature("local_spread", "texture", "local spread, fine"),
    Feature("share_fine", "texture", "share of variance, fine"),
    Feature("share_middle", "texture", "share of variance, middle"),
    Feature("share_coarse", "texture", "share of variance, coarse"),
    Feature("spots_fine", "texture", "Laplacian of Gaussian spread, fine"),
    Feature("spots_coarse", "texture", "Laplacian of Gaussian spread, middle"),
    Feature("high_frequency", "texture", "high-frequency share inside"),
    Feature("noise", "texture", "noise inside"),
    Feature("edge_gradient", "boundary", "boundary gradient, 1/mm"),
    Feature("edge_spread", "boundary", "spread of the boundary gradient, 1/mm"),
    Feature("edge_alignment", "boundary", "alignment of mask and edge"),
    Feature("edge_contrast", "boundary", "contrast across the boundary"),
    Feature("edge_effect", "boundary", "contrast across the boundary in its spread"),
    Feature("edge_sharpness", "boundary", "boundary sharpness, 1/mm"),
    Feature("contrast", "surroundings", "contrast to the shell"),
    Feature("near_mean", "surroundings", "mean of the shell"),
    Feature("near_spread", "surroundings", "spread of the shell"),
    Feature("near_noise", "surroundings", "noise of the shell"),
    Feature("near_high_frequency", "surroundings", "high-frequency share of the shell"),
    Feature("noise_to_near", "surroundings", "noise inside to the shell's, log"),
    Feature("near_to_far", "surroundings", "noise of the shell to farther away, log"),
    Feature("near_less_far", "surroundings", "mean of the shell less farther away"),
)


def lesion_features(channels: Sequence[str]) -> tuple[Feature, ...]:
    """List the features that `describe_lesion` computes for an image of these channels, in its order."""
    if len(channels) == 1:
        return (*SHAPES, *INTENSITIES)
    return (*SHAPES, *(replace(f, name=f"{c}.{f.name}", channel=c) for c in channels for f in INTENSITIES))


def feature_scales(spacing_mm: Triple) -> Triple:
    """Return the fine, middle and coarse scale in mm for data of this working spacing.

    They are 1, 2 and 4 times the geometric mean of the spacing.
    """
    size = math.prod(spacing_mm) ** (1 / 3)
    return size, 2 * size, 4 * size


def describe_lesion(
    image: np.ndarray,
    mask: np.ndarray,
    spacing_mm: Triple,
    zero: np.ndarray,
    scales_mm: Triple,
    excluded: np.ndarray | None = None,
) -> np.ndarray | None:
    """Compute the features of a lesion.

    Everything is measured in mm: filters are Gaussians of `scales_mm` on the scan's own grid. Texture is that of voxels
    deeper than the fine scale, so that the boundary does not count; its means and variances use voxels inside only
    (normalized convolution). An undefined feature is nan.

    Args:
        image: The scan (C, X, Y, Z) as `preprocessing.intensity.to_comparable_units` returns it.
        mask: The lesion (X, Y, Z).
        spacing_mm: Voxel size along each axis.
        zero: The zero of each channel (C,), from the same function.
        scales_mm: Fine, middle and coarse scale; the same for all lesions that are compared.
        excluded: Voxels (X, Y, Z) that count neither as lesion nor as surroundings.

    Returns:
        The features (F,) in the order of `lesion_features`; None where the mask is empty.
    """
    inside = mask.astype(bool, copy=False)
    reach = shell_mm(np.count_nonzero(inside), spacing_mm)
    box = box_around(inside, spacing_mm, 2 * reach)
    if box is None:
        return None
    region = box.slices
    crop, inside = image[(slice(None), *region)].astype(np.float64), inside[region]
    left_out = np.zeros_like(inside) if excluded is None else excluded[region].astype(bool) & ~inside
    regions = _Regions(inside, left_out, spacing_mm, scales_mm, reach)
    known = [
        statistics
        for channel, none in zip(crop, zero.tolist(), strict=True)
        if (statistics := describe_tumor(channel, inside, spacing_mm, none, left_out))
    ]
    found = [_shape(known[0], inside, spacing_mm)]
    found += [
        _intensity(channel, none, statistics, regions)
        for channel, none, statistics in zip(crop, zero.tolist(), known, strict=True)
    ]
    names = [SHAPES, *[INTENSITIES] * len(crop)]
    values = np.array([float(row[f.name]) for row, part in zip(found, names, strict=True) for f in part])
    return np.where(np.isfinite(values), values, math.nan)


class _Regions:
    """Regions in which features of a lesion are measured.

    They are masks (X, Y, Z), and inward normals (3, X, Y, Z) of the lesion's boundary. "Near" is the shell around the
    lesion, up to `reach_mm`; "far" is from there to twice that distance.
    """

    def __init__(
        self, inside: np.ndarray, left_out: np.ndarray, spacing_mm: Triple, scales_mm: Triple, reach_mm: float
    ) -> None:
        self.spacing_mm, self.scales_mm = spacing_mm, scales_mm
        fine, middle, _ = scales_mm
        within = ndimage.distance_transform_edt(np.pad(inside, 1), sampling=spacing_mm)[1:-1, 1:-1, 1:-1]
        without = ndimage.distance_transform_edt(~inside, sampling=spacing_mm)
        around = ~inside & ~left_out
        self.inside = inside
        self.deep = inside & (within > fine)
        self.near = around & (without <= reach_mm)
        self.far = around & (without > reach_mm) & (without <= 2 * reach_mm)
        self.rim = inside & (within <= middle)
        self.halo = around & (without <= middle)
        self.band = (inside & (within <= fine)) | (around & (without <= fine))
        normals = self.slope(within - without, fine)
        self.normals = normals / np.maximum(np.linalg.norm(normals, axis=0), 1e-9)

    def slope(self, array: np.ndarray, scale_mm: float) -> np.ndarray:
        """Compute the gradient (3, X, Y, Z) per mm, smoothed by a Gaussian of `scale_mm`."""
        sigma = self.sigma(scale_mm)
        radius = [max(1, round(4 * s)) for s in sigma]
        found = []
        for axis, step in enumerate(self.spacing_mm):
            part = ndimage.gaussian_filter(
                array, sigma, order=[int(a == axis) for a in range(3)], mode="nearest", radius=radius
            )
            found.append(part / _measured_slope(sigma[axis], radius[axis]) / step)
        return np.stack(found)

    def curvature(self, array: np.ndarray, scale_mm: float) -> np.ndarray:
        """Compute the Laplacian of the smoothed array times the squared scale, so that scales are comparable."""
        smooth = ndimage.gaussian_filter(array, self.sigma(scale_mm), mode="nearest")
        # differences of the smoothed array: a sampled second derivative of a narrow Gaussian does not sum to zero
        parts = [
            ndimage.correlate1d(smooth, (1, -2, 1), axis, mode="nearest") / step**2
            for axis, step in enumerate(self.spacing_mm)
        ]
        return scale_mm**2 * np.sum(parts, axis=0)

    def local(self, array: np.ndarray, where: np.ndarray, scale_mm: float) -> tuple[np.ndarray, np.ndarray]:
        """Compute local mean and variance at the voxels of `where`, by Gaussian weights over these voxels only."""
        sigma, weight = self.sigma(scale_mm), where.astype(np.float64)
        centered = np.where(where, array - (array[where].mean() if where.any() else 0.0), 0.0)
        total, first, second = (
            ndimage.gaussian_filter(part, sigma, mode="constant")[where] for part in (weight, centered, centered**2)
        )
        mean = first / np.maximum(total, 1e-12)
        return mean + (array[where].mean() if where.any() else 0.0), np.maximum(
            second / np.maximum(total, 1e-12) - mean**2, 0.0
        )

    def sigma(self, scale_mm: float) -> list[float]:
        """Return a scale in voxels along each axis."""
        return [scale_mm / step for step in self.spacing_mm]


def _measured_slope(sigma: float, radius: int) -> float:
    """Return what the sampled derivative of a Gaussian measures of a slope of 1.

    It is less than 1 where the Gaussian is narrower than a voxel, as across thick slices.
    """
    return float(ndimage.gaussian_filter1d(np.arange(-radius, radius + 1.0), sigma, order=1, radius=radius)[radius])


def _shape(known: TumorStatistics, inside: np.ndarray, spacing_mm: Triple) -> dict[str, float]:
    points = np.argwhere(inside) * np.array(spacing_mm)
    spread = np.linalg.eigvalsh(np.cov(points.T, bias=True)) if len(points) > 1 else np.zeros(3)
    third, second, first = np.sqrt(np.maximum(spread, 0.0))
    # the surface of a body follows from its volume and sphericity
    surface = (36 * math.pi) ** (1 / 3) / (1000 * known.volume_ml) ** (1 / 3) / known.sphericity
    return {
        "volume_ml": known.volume_ml,
        "sphericity": known.sphericity,
        "surface_to_volume": surface,
        "elongation": _over(second, first),
        "flatness": _over(third, first),
    }


def _intensity(channel: np.ndarray, zero: float, known: TumorStatistics, regions: _Regions) -> dict[str, float]:
    from scipy.stats import kurtosis, skew

    values = channel[regions.inside]
    first, tenth, middle, ninetieth, third = np.percentile(values, (25, 10, 50, 90, 75))
    varied = len(values) >= _LEAST_VOXELS and values.std() > 1e-9 * max(1.0, float(np.abs(values).max()))
    near, far = channel[regions.near], channel[regions.far]
    noise, high = _noise(channel, regions.inside, regions)
    near_noise, near_high = _noise(channel, regions.near, regions)
    far_noise, _ = _noise(channel, regions.far, regions)
    return {
        "mean": known.mean,
        "percentile_10": tenth,
        "median": middle,
        "percentile_90": ninetieth,
        "maximum": known.maximum,
        "skewness": float(skew(values)) if varied else math.nan,
        "kurtosis": float(kurtosis(values)) if varied else math.nan,
        "variation": known.heterogeneity,
        "dispersion": _over(third - first, third + first - 2 * zero),
        "entropy": _entropy(values) if varied else math.nan,
        "core_ratio": known.core_ratio,
        **_texture(channel, regions),
        "high_frequency": high,
        "noise": noise,
        **_boundary(channel, known.contrast, regions),
        "contrast": known.contrast,
        "near_mean": _mean(near),
        "near_spread": float(near.std()) if len(near) >= _LEAST_VOXELS else math.nan,
        "near_noise": near_noise,
        "near_high_frequency": near_high,
        "noise_to_near": _log_ratio(noise, near_noise),
        "near_to_far": _log_ratio(near_noise, far_noise),
        "near_less_far": _mean(near) - _mean(far),
    }


def _texture(channel: np.ndarray, regions: _Regions) -> dict[str, float]:
    """Measure the gradient inside, the share of variance at three scales, and the spread of spots at two scales."""
    deep, (fine, middle, coarse) = regions.deep, regions.scales_mm
    names = ("gradient", "local_spread", "share_fine", "share_middle", "share_coarse", "spots_fine", "spots_coarse")
    if np.count_nonzero(deep) < _LEAST_VOXELS:
        return dict.fromkeys(names, math.nan)
    variances = [float(regions.local(channel, deep, scale)[1].mean()) for scale in (fine, middle, coarse)]
    whole = float(channel[deep].var())
    numbers = [
        float(np.linalg.norm(regions.slope(channel, fine), axis=0)[deep].mean()),
        math.sqrt(variances[0]),
        *(_over(variance, whole) for variance in variances),
        *(float(regions.curvature(channel, scale)[deep].std()) for scale in (fine, middle)),
    ]
    return dict(zip(names, numbers, strict=True))


def _boundary(channel: np.ndarray, height: float, regions: _Regions) -> dict[str, float]:
    """Measure how the image changes across the mask's boundary; rising inward is positive.

    `height` is the contrast to the shell.
    """
    slope = regions.slope(channel, regions.scales_mm[0])[:, regions.band]
    uphill = (slope * regions.normals[:, regions.band]).sum(axis=0)
    steep = np.linalg.norm(slope, axis=0)
    rim, halo = channel[regions.rim], channel[regions.halo]
    contrast = _mean(rim) - _mean(halo)
    enough = min(len(rim), len(halo)) >= _LEAST_VOXELS
    return {
        "edge_gradient": _mean(uphill),
        "edge_spread": float(uphill.std()) if len(uphill) else math.nan,
        "edge_alignment": _over(_mean(uphill), _mean(steep)),
        "edge_contrast": contrast,
        "edge_effect": _over(contrast, math.sqrt((rim.var() + halo.var()) / 2)) if enough else math.nan,
        # how narrow the step is, independent of its height; the contrast of thin layers would shrink where the step is
        # wide
        "edge_sharpness": _over(abs(_mean(uphill)), abs(height)),
    }


def _noise(channel: np.ndarray, where: np.ndarray, regions: _Regions) -> tuple[float, float]:
    """Measure what a Gaussian of the fine scale removes.

    Returns its robust standard deviation, and its share of the variance.
    """
    from scipy.stats import median_abs_deviation

    if np.count_nonzero(where) < _LEAST_VOXELS:
        return math.nan, math.nan
    values = channel[where]
    rest = values - regions.local(channel, where, regions.scales_mm[0])[0]
    spread = float(median_abs_deviation(rest, scale=1 / 1.4826))  # the standard deviation of normal noise
    return spread, _over(float((rest**2).mean()), float(values.var()))


def _entropy(values: np.ndarray) -> float:
    share = np.histogram(values, _BINS)[0] / len(values)
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


def _over(top: float, bottom: float) -> float:
    return float(top / bottom) if bottom > 1e-12 else math.nan


def _log_ratio(top: float, bottom: float) -> float:
    return math.log(top / bottom) if top > 0 and bottom > 0 else math.nan
