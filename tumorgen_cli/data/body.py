"""The body in a scan: where it is, and the intensities by which scans of different units are told apart."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from tumorgen_cli.geometry import Grid, find_largest_component

_VOXELS = 4_000_000  # of larger scans, every n-th voxel along each axis is enough to find the body
LEVELS = (5.0, 50.0, 95.0)  # percentiles of the body that are compared between scans


def body_stride(shape: tuple[int, ...]) -> int:
    """The step along each axis with which a scan (X, Y, Z) of this shape is subsampled to find its body."""
    return max(1, math.ceil((math.prod(shape) / _VOXELS) ** (1 / 3)))


def body_mask(image: np.ndarray, tumors: np.ndarray | None = None) -> np.ndarray:
    """Find the body in a scan (X, Y, Z): the largest part above Otsu's threshold, with holes filled slice by slice.

    Values above the 95th percentile are clipped and the square root is taken first, so that the threshold lies between
    air and tissue and not below hot organs. Known tumors do not move the threshold, however large and hot they are;
    they belong to the body.

    Args:
        image: One channel of a scan without padding, (X, Y, Z) float32.
        tumors: The known tumors, (X, Y, Z) bool; None if none are known.

    Returns:
        The body, (X, Y, Z) bool; everything if no voxel is above the threshold.
    """
    rest = image if tumors is None or not tumors.any() or tumors.all() else image[~tumors]
    low, high = np.percentile(rest, (0.5, 95))
    if high <= low:
        low, high = float(rest.min()), float(rest.max())
    unit = np.sqrt(np.clip((ndimage.gaussian_filter(image, 1.0) - low) / max(high - low, 1e-6), 0, 1))
    above = unit > _otsu_threshold(unit if rest is image else unit[~np.asarray(tumors)])
    if rest is not image:
        above |= np.asarray(tumors)
    body = find_largest_component(above)
    if body is None:
        return np.ones(image.shape, bool)
    return np.stack([ndimage.binary_fill_holes(body[:, :, z]) for z in range(image.shape[2])], axis=2)


def body_volume_ml(body: np.ndarray, grid: Grid) -> float:
    """The volume of a body, (X, Y, Z) bool of every `body_stride`-th voxel of a grid, in ml."""
    return float(np.count_nonzero(body)) * body_stride(grid.shape) ** 3 * grid.voxel_ml


def body_levels(channel: np.ndarray, body: np.ndarray) -> tuple[float, ...]:
    """The 5th, 50th and 95th percentile of a channel (X, Y, Z) in the body (X, Y, Z) bool."""
    return tuple(float(level) for level in np.percentile(channel[body], LEVELS))


def _otsu_threshold(values: np.ndarray) -> float:
    """Otsu's threshold between two classes of values in [0, 1], to 1/128.

    Scikit-image's function sums in float32, which gives other thresholds for scans of many voxels.
    """
    counts, edges = np.histogram(values, 128, (0.0, 1.0))
    centers = (edges[:-1] + edges[1:]) / 2
    below = counts.cumsum()
    above = below[-1] - below
    mean_below = (counts * centers).cumsum() / np.maximum(below, 1)
    mean_above = ((counts * centers).sum() - (counts * centers).cumsum()) / np.maximum(above, 1)
    return float(centers[int((below * above * (mean_below - mean_above) ** 2).argmax())])
