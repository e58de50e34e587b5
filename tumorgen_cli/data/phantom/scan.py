"""A drawn scan, the folders that phantoms are written to, and what drawing PET and CT has in common."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from tumorgen_cli.geometry import Grid

_FWHM = 2 * math.sqrt(2 * math.log(2))


@dataclass(frozen=True)
class Phantom:
    """A drawn scan.

    Attributes:
        image: (X, Y, Z), float32 in SUV or int16 in HU.
        mask: (X, Y, Z) uint8, 1 in tumors.
        region: (X, Y, Z) uint8, 1 where the center of a tumor has room.
        grid: The geometry.
        kinds: The kind of each tumor of the patient.
    """

    image: np.ndarray
    mask: np.ndarray
    region: np.ndarray
    grid: Grid
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class Phantoms:
    """The folders that `write_phantoms` wrote."""

    dataset: Path
    healthy: Path
    regions: Path


def blur(array: np.ndarray, grid: Grid, width_mm: float) -> np.ndarray:
    """Gaussian blur with the given full width at half maximum."""
    return np.asarray(ndimage.gaussian_filter(array, [width_mm / _FWHM / s for s in grid.spacing_mm], mode="nearest"))


def smooth_noise(rng: np.random.Generator, grid: Grid, scale_mm: float) -> np.ndarray:
    """Draw smooth noise of mean 0 and standard deviation 1, with a correlation length of about `scale_mm`."""
    field = ndimage.gaussian_filter(
        rng.standard_normal(grid.shape), [scale_mm / s for s in grid.spacing_mm], mode="wrap"
    )
    return np.asarray((field - field.mean()) / field.std())


def edge(depth: np.ndarray, width: float) -> np.ndarray:
    """A linear step from 0 to 1 around depth 0, over `width`."""
    return np.clip(0.5 + depth / width, 0.0, 1.0)
