"""Noise like a scan's own, for pictures that a VAE has made smooth. Pure functions of arrays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from tumorgen_cli.geometry import Box

_LEAST_VOXELS = 512
_LEVELS = 5
Spread = Callable[[np.ndarray], float]


def robust_std(values: np.ndarray) -> float:
    """The standard deviation that the bulk of the values has, whatever a few are: from the median absolute deviation."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def draw_scan_noise(
    scan: np.ndarray, smooth: np.ndarray, picture: np.ndarray, box: Box, rng: np.random.Generator, spread: Spread
) -> np.ndarray:
    """Noise (C, X, Y, Z) for `picture`, as strong and as smooth as `scan` - `smooth` is outside the box.

    All arrays are (C, X, Y, Z) in the scaled intensities. What lies inside `box` is not looked at, so that nothing of
    a tumor that was there comes back. Strength is measured at five levels of `smooth` (by `spread`) and
    taken at the picture's own level, beyond the highest along the line through all five: a tumor is often brighter than
    anything around it, and its noise stronger. Smoothness is the correlation of neighbours along each axis. Zero where less
    than 512 voxels lie outside the box.
    """
    outside = np.ones(scan.shape[1:], bool)
    outside[box.slices] = False
    out = np.zeros_like(picture)
    if outside.sum() < _LEAST_VOXELS:
        return out
    for channel, residual in enumerate(scan - smooth):
        residual = residual - residual[outside].mean()
        sigma = [_blur(residual, outside, axis) for axis in range(3)]
        noise = ndimage.gaussian_filter(rng.standard_normal(residual.shape).astype(np.float32), sigma, mode="wrap")
        levels, strengths = _strengths(smooth[channel][outside], residual[outside], spread)
        out[channel] = noise / max(float(noise.std()), 1e-9) * noise_strength_at(picture[channel], levels, strengths)
    return out


def noise_strength_at(level: np.ndarray, levels: np.ndarray, strengths: np.ndarray) -> np.ndarray:
    """Strengths at any level: between the measured ones, and above them on along their line where that rises."""
    slope = max(0.0, float(np.polyfit(levels, strengths, 1)[0])) if np.ptp(levels) > 1e-6 else 0.0
    return np.asarray(np.interp(level, levels, strengths) + slope * np.maximum(level - levels[-1], 0))


def _blur(residual: np.ndarray, where: np.ndarray, axis: int) -> float:
    """Sigma in voxels of the Gaussian whose blurred white noise has the residual's correlation of neighbours."""
    ahead = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
    back = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
    both = where[ahead] & where[back]
    a, b = residual[ahead][both], residual[back][both]
    spread = float(np.mean(residual[where] ** 2))
    correlation = float(np.mean(a * b)) / spread if spread > 0 else 0.0
    return float(np.sqrt(-1 / (4 * np.log(min(correlation, 0.95))))) if correlation > 0.02 else 0.0


def _strengths(level: np.ndarray, residual: np.ndarray, spread: Spread) -> tuple[np.ndarray, np.ndarray]:
    """The residual's spread at the quantile levels of the smooth scan, rising levels."""
    groups = np.array_split(np.argsort(level, kind="stable"), _LEVELS)
    levels = np.array([float(level[group].mean()) for group in groups])
    strengths = np.array([float(spread(residual[group])) for group in groups])
    return levels, strengths
