"""Noise like that of a scan, for images that a VAE has made smooth. Pure functions of arrays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from tumorgen_cli.geometry import Box

_LEAST_VOXELS = 512
_LEVELS = 5
Spread = Callable[[np.ndarray], float]


def robust_std(values: np.ndarray) -> float:
    """Estimate the standard deviation from the median absolute deviation, so that outliers do not change it."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def draw_scan_noise(
    scan: np.ndarray, smooth: np.ndarray, picture: np.ndarray, box: Box, rng: np.random.Generator, spread: Spread
) -> np.ndarray:
    """Draw noise that is as strong and as smooth as that of a scan.

    The noise of the scan is `scan - smooth` outside the box. Inside the box nothing is measured, so that no part of a
    removed tumor is drawn again. Strength is measured at five intensity levels and interpolated at the levels of
    `picture`. Above the highest level it is extrapolated on the line through all five, because a tumor is often
    brighter than its surroundings and its noise is stronger. Smoothness is measured as the correlation of neighboring
    voxels along each axis.

    Args:
        scan: The scan, (C, X, Y, Z), in scaled intensities.
        smooth: The scan without noise, (C, X, Y, Z).
        picture: The image that the noise is for, (C, X, Y, Z).
        box: The box that is not measured.
        rng: Draws the noise.
        spread: Measures the strength of noise, for example `numpy.std`.

    Returns:
        The noise, (C, X, Y, Z); zero if less than 512 voxels lie outside the box.
    """
    outside = np.ones(scan.shape[1:], bool)
    outside[box.slices] = False
    out = np.zeros_like(picture)
    if outside.sum() < _LEAST_VOXELS:
        return out
    for channel, difference in enumerate(scan - smooth):
        residual = difference - difference[outside].mean()
        sigma = [_estimate_sigma(residual, outside, axis) for axis in range(3)]
        noise = ndimage.gaussian_filter(rng.standard_normal(residual.shape).astype(np.float32), sigma, mode="wrap")
        levels, strengths = _strengths(smooth[channel][outside], residual[outside], spread)
        out[channel] = noise / max(float(noise.std()), 1e-9) * noise_strength_at(picture[channel], levels, strengths)
    return out


def noise_strength_at(level: np.ndarray, levels: np.ndarray, strengths: np.ndarray) -> np.ndarray:
    """Interpolate the strength of noise at any level; above the highest, extrapolate on the fitted line if it rises."""
    slope = max(0.0, float(np.polyfit(levels, strengths, 1)[0])) if np.ptp(levels) > 1e-6 else 0.0
    return np.asarray(np.interp(level, levels, strengths) + slope * np.maximum(level - levels[-1], 0))


def _estimate_sigma(residual: np.ndarray, where: np.ndarray, axis: int) -> float:
    """Sigma, in voxels, with which blurred white noise has the residual's correlation of neighboring voxels."""
    ahead = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
    back = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
    both = where[ahead] & where[back]
    a, b = residual[ahead][both], residual[back][both]
    spread = float(np.mean(residual[where] ** 2))
    correlation = float(np.mean(a * b)) / spread if spread > 0 else 0.0
    return float(np.sqrt(-1 / (4 * np.log(min(correlation, 0.95))))) if correlation > 0.02 else 0.0


def _strengths(level: np.ndarray, residual: np.ndarray, spread: Spread) -> tuple[np.ndarray, np.ndarray]:
    """Measure the spread of the residual in five groups of voxels by level; returns rising levels and spreads."""
    groups = np.array_split(np.argsort(level, kind="stable"), _LEVELS)
    levels = np.array([float(level[group].mean()) for group in groups])
    strengths = np.array([float(spread(residual[group])) for group in groups])
    return levels, strengths
