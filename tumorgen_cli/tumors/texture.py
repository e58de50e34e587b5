"""The texture of SynTumor, with which FreeTumor and Pixel2Cancer also paint: clouds of fine grains, from 0 to 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, optimize, stats

from tumorgen_cli.geometry import Shape, Triple
from tumorgen_cli.planning.plan import Decisions
from tumorgen_cli.planning.ranges import MillimeterRangeAboveZero

MEAN = 0.525  # of the texture's values: the middle of `_MEANS`
_MEANS = (0.5, 0.55)  # what the grains are scaled to
_DENSITY = (0.19, 0.21)  # difference between the densest and the thinnest cloud
_LEAST_DENSITY = (0.04, 0.06)  # of the thinnest cloud
_COUNTED = 0.12  # smaller values do not count in the mean that is scaled
_VOXELS = 420 * 300 * 320  # of the published textures, in which the densest and the thinnest cloud are found


@dataclass(frozen=True)
class TextureConfig:
    """How a texture is drawn.

    Attributes:
        cloud_mm: range of the standard deviation of the blur that makes clouds.
        grain_mm: range of the standard deviation of the blur that makes grains.
    """

    cloud_mm: MillimeterRangeAboveZero
    grain_mm: MillimeterRangeAboveZero


def plan_texture(d: Decisions, voxel_mm: float, what: str) -> None:
    """Take the fields of a `TextureConfig` into `d`.

    Args:
        d: Decisions of the method's section.
        voxel_mm: Edge of the voxels in which the method's code gives its standard deviations.
        what: Whose code it is.
    """
    part = d.within("texture")
    part.take("cloud_mm", (3 * voxel_mm, 15 * voxel_mm), f"{what}: sigma of 3 to 15 voxels of {voxel_mm:g} mm")
    part.take("grain_mm", (4 * voxel_mm, 7 * voxel_mm), f"{what}: sigma of 4 or 7 voxels of {voxel_mm:g} mm")


def draw_texture(config: TextureConfig, shape: Shape, spacing_mm: Triple, rng: np.random.Generator) -> np.ndarray:
    """Draw a texture.

    Uniform noise is blurred to clouds, whose levels are probabilities from about 0.05 to 0.25. In each voxel of 1 mm a
    grain is set with the cloud's probability. The grains are blurred and scaled to a mean of 0.5 to 0.55.

    Args:
        config: How it is drawn.
        shape: Shape of the array.
        spacing_mm: Voxel edges.
        rng: Makes all random draws.

    Returns:
        The texture (X, Y, Z) in [0, 1], float32.

    Source:
        Hu et al., Label-Free Liver Tumor Segmentation, CVPR 2023, and its public code, which gives the numbers.

    Deviation: The public code stretches each volume of 420 x 300 x 320 voxels between its extremes and scales it by
        its own mean. Windows are smaller, so the extremes and the mean that such a volume is expected to have are used.
        Voxels of other than 1 mm hold as many grains as their volume does.
    """
    cloud_mm, grain_mm = rng.uniform(*config.cloud_mm), rng.uniform(*config.grain_mm)
    density, least, mean = (rng.uniform(*each) for each in (_DENSITY, _LEAST_DENSITY, _MEANS))
    extreme = _extreme(cloud_mm)
    cloud = np.clip(_draw_clouds(shape, spacing_mm, cloud_mm, rng) / (2 * extreme) + 0.5, 0, 1)
    count = max(1, round(math.prod(spacing_mm)))  # voxels of 1 mm in a voxel of the window
    grains = rng.binomial(count, density * cloud + least) / count
    blurred = ndimage.gaussian_filter(grains, [grain_mm / s for s in spacing_mm], mode="reflect")

    center = least + density / 2
    cloud_std = density / (2 * extreme) * (cloud_mm**2 / (cloud_mm**2 + grain_mm**2)) ** 0.75  # after the blur
    grain_std = math.sqrt(center * (1 - center) / (2 * math.sqrt(math.pi) * grain_mm) ** 3)
    std = math.hypot(cloud_std, grain_std)
    counted = float(stats.truncnorm.mean((_COUNTED - center) / std, np.inf, center, std))
    return np.clip(mean / counted * blurred, 0, 1).astype(np.float32)


def _draw_clouds(shape: Shape, spacing_mm: Sequence[float], sigma_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Draw noise (X, Y, Z) of mean 0 and standard deviation 1, blurred by `sigma_mm`.

    It is drawn on a grid that is three times as fine as the blur, and larger than the window: a window that is smaller
    than a cloud then shows a part of one.
    """
    node_mm = [max(sigma_mm / 3, s) for s in spacing_mm]
    sigma = [sigma_mm / node for node in node_mm]
    edges = [math.ceil(4 * s) for s in sigma]
    inner = [math.ceil(n * s / node) + 1 for n, s, node in zip(shape, spacing_mm, node_mm, strict=True)]
    noise = rng.standard_normal([n + 2 * edge for n, edge in zip(inner, edges, strict=True)])
    blurred = ndimage.gaussian_filter(noise, sigma)
    for edge, s in zip(edges, sigma, strict=True):
        kernel = ndimage.gaussian_filter1d(np.eye(1, 2 * edge + 1, edge)[0], s, mode="constant")
        blurred /= math.sqrt(float(np.square(kernel).sum()))
    places = [
        (np.arange(n) + 0.5) * s / node - 0.5 + edge
        for n, s, node, edge in zip(shape, spacing_mm, node_mm, edges, strict=True)
    ]
    return np.asarray(ndimage.map_coordinates(blurred, np.meshgrid(*places, indexing="ij"), order=1))


def _extreme(cloud_mm: float) -> float:
    """The highest level of the clouds of a published volume, in standard deviations.

    It is the level above which one maximum is expected, by the Euler characteristic of a smooth Gaussian field (Adler,
    The Geometry of Random Fields, 1981).
    """
    maxima = _VOXELS / (2 * cloud_mm**2) ** 1.5 / (4 * math.pi**2)

    def beyond(level: float) -> float:
        return maxima * (level * level - 1) * math.exp(-level * level / 2) - 1

    least = math.sqrt(3)  # where the expectation is largest; clouds as wide as the volume have no more
    return float(optimize.brentq(beyond, least, 40)) if beyond(least) > 0 else least
