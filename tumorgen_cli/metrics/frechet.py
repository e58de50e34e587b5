"""Fréchet distance between two sets of slices, with any feature network, and one set of features that needs no download.

The paper's FID takes Inception features; without their weights a distance is not an FID, and nothing here is called so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

#: (N, H, W) slices in [0, 1] -> (N, D) features
Features = Callable[[np.ndarray], np.ndarray]

PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}
_SIGMAS = (0.7, 1.5, 3.0)  # pixels
_ANGLES = np.arange(4) * math.pi / 4
_PERCENTILES = (5, 25, 50, 75, 95, 99)
_FLOOR = 1e-3  # of the [0, 1] range: what is fainter counts as flat


def slices(volume: np.ndarray, plane: str, center: Sequence[float] | None = None) -> np.ndarray:
    """The 2D slice of (X, Y, Z) in a plane (see `PLANES`): through `center` (voxels), without it through the middle."""
    axis = PLANES[plane]
    index = volume.shape[axis] // 2 if center is None else int(np.clip(round(center[axis]), 0, volume.shape[axis] - 1))
    return np.asarray(np.take(volume, index, axis))


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """|μa - μb|² + tr(Σa + Σb - 2 (Σa Σb)^½) of features (N, D) and (M, D); nan where a set has fewer than two rows.

    With centred features A and B over √(N - 1), tr (Σa Σb)^½ is the sum of the singular values of A Bᵀ: exact, never
    complex, and sound for singular covariances (N < D), where a matrix square root is not.

    Raises:
        ValueError: D differs.

    Source: Heusel et al. 2017 (arXiv 1706.08500), equation 6; pytorch-fid's definition.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"features of shapes {a.shape} and {b.shape} cannot be compared")
    if min(len(a), len(b)) < 2:
        return math.nan
    (mean_a, root_a), (mean_b, root_b) = _moments(a), _moments(b)
    shared = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    distance = ((mean_a - mean_b) ** 2).sum() + (root_a**2).sum() + (root_b**2).sum() - 2 * shared
    return max(0.0, float(distance))


def filters(images: np.ndarray) -> np.ndarray:
    """Texture statistics (N, 66) of slices (N, H, W) in [0, 1] under a bank of Gaussian derivatives at three scales.

    Per scale: mean and spread of the first and second derivatives along four directions, of the Laplacian (all as
    logarithms, so that a factor counts alike at every strength), and of the blurred image; then percentiles of the image.
    Steered from separable filters, so a direction costs nothing.

    Source: Freeman and Adelson 1991, steerable filters. Deviation: these are hand-made, not learnt, features.
    """
    images = images.astype(np.float64, copy=False)
    parts = [np.percentile(images, _PERCENTILES, axis=(1, 2)).T]
    for sigma in _SIGMAS:
        parts += _responses(images, sigma)
    return np.concatenate(parts, axis=1)


def _responses(images: np.ndarray, sigma: float) -> list[np.ndarray]:
    def derivative(rows: int, columns: int) -> np.ndarray:
        # times sigma per order: responses of all scales become comparable
        smooth = ndimage.gaussian_filter(images, (0, sigma, sigma), order=(0, rows, columns), mode="reflect")
        return np.asarray(smooth * sigma ** (rows + columns))

    blurred, r, c = derivative(0, 0), derivative(1, 0), derivative(0, 1)
    rr, cc, rc = derivative(2, 0), derivative(0, 2), derivative(1, 1)
    steered = [math.cos(t) * c + math.sin(t) * r for t in _ANGLES]
    steered += [math.cos(t) ** 2 * cc + 2 * math.cos(t) * math.sin(t) * rc + math.sin(t) ** 2 * rr for t in _ANGLES]
    return [_strength(response) for response in (*steered, rr + cc)] + [_mean_and_spread(blurred)]


def _strength(response: np.ndarray) -> np.ndarray:
    return np.log(np.stack([np.abs(response).mean(axis=(1, 2)), response.std(axis=(1, 2))], axis=1) + _FLOOR)


def _mean_and_spread(images: np.ndarray) -> np.ndarray:
    return np.stack([images.mean(axis=(1, 2)), images.std(axis=(1, 2))], axis=1)


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and a root R (min(N, D), D) of the covariance: Rᵀ R = Σ."""
    features = features.astype(np.float64, copy=False)
    mean = features.mean(axis=0)
    root = (features - mean) / math.sqrt(len(features) - 1)
    return mean, np.asarray(np.linalg.qr(root, mode="r")) if len(root) > root.shape[1] else root
