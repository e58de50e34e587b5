"""What surrounds a tumor: the intensities and the texture of the shell around it, in a few numbers.

A shell is described by cells, cubes as wide as the shell is thick. Cells are means of eight points, so shells are
compared at the tumor's own size, whatever the voxels of the scan are. The same functions describe the shell of a tumor
and that of a place where a tumor could be.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tumorgen_cli.geometry import Triple

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
Channels = Sequence[np.ndarray] | np.ndarray  # each (X, Y, Z)
CELLS = 32  # of a place, which is looked at in several positions; of a tumor, which is measured once, more
CELLS_OF_TUMOR = 256
FLAT = 0.01  # of the body's texture, or of the highest level: less is all the same
_CORNERS = np.array(list(itertools.product((-0.25, 0.25), repeat=3)))  # points of a cell, in cells


@dataclass(frozen=True)
class Surroundings:
    """What surrounds one tumor.

    Attributes:
        reach_mm: how far the shell reaches (`geometry.shell_mm`). Its inner half is left out, because a tumor blurs
            into it and outlines are inexact.
        levels: for each channel, the `QUANTILES` of the intensity of the shell's cells, in the units of the channel
            that scans have in common.
        texture: for each channel, the natural logarithm of the local variation in the shell over that in the body.
        in_body: share of the shell in the body.
        tumor_in_body: share of the tumor in the body as `data.body` finds it. Lungs that are open to the border of a
            cropped scan are not in it.
    """

    reach_mm: float
    levels: tuple[tuple[float, ...], ...]
    texture: tuple[float, ...]
    in_body: float
    tumor_in_body: float

    @property
    def features(self) -> np.ndarray:
        """What is compared between places (F,), in the order of `describe_cells`."""
        return np.array([*itertools.chain(*self.levels), *self.texture, self.in_body])


def cell_mm(reach_mm: float) -> float:
    """The width of cells: the thickness of the shell."""
    return reach_mm / 2


def read_cells(channels: Channels, centers: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Read the points of cells; outside the scan, its nearest voxel counts.

    Args:
        channels: The channels of the scan, each (X, Y, Z).
        centers: Centers of the cells (..., 3) in voxels, counted from the outer corner of voxel 0.
        edges: Edges of the cells (3,) in voxels.

    Returns:
        The values (C, ..., 8) float32.
    """
    shape = np.array(channels[0].shape)
    points = np.floor(centers[..., None, :] + _CORNERS * edges).astype(np.intp)
    np.clip(points, 0, shape - 1, out=points)
    places = (points[..., 0], points[..., 1], points[..., 2])
    return np.stack([channel[places] for channel in channels]).astype(np.float32)


def local_variation(cells: np.ndarray) -> np.ndarray:
    """The median over cells (C, ..., N, 8) of the standard deviation within a cell: (C, ...)."""
    return np.asarray(np.median(cells.std(axis=-1), axis=-1))


def describe_cells(cells: np.ndarray, in_body: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """Describe shells by their cells.

    Args:
        cells: The cells (C, ..., N, 8) of each shell.
        in_body: Whether the center of each cell is in the body, (..., N) bool.
        usual: `local_variation` of the scan's body (C,), with cells of the same size: the noise of a scan then says
            nothing.

    Returns:
        The features (..., F): for each channel the quantiles, for each channel the texture, the share in the body.
    """
    levels = np.moveaxis(np.quantile(cells.mean(axis=-1), QUANTILES, axis=-1), 0, -1)  # (C, ..., Q)
    usual = usual.reshape(-1, *(1,) * (cells.ndim - 3))
    varies = np.where(usual > 0, local_variation(cells) / np.where(usual > 0, usual, 1) + FLAT, 1 + FLAT)
    return np.concatenate([*levels, np.moveaxis(np.log(varies), 0, -1), in_body.mean(axis=-1, keepdims=True)], axis=-1)


def usual_variation(
    channels: Channels, body: np.ndarray, stride: int, edges: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The `local_variation` (C,) of cells at random places of the body.

    Args:
        channels: The channels of the scan, each (X, Y, Z).
        body: The body, bool, of every `stride`-th voxel.
        stride: See `body`.
        edges: Edges of the cells (3,) in voxels.
        rng: Draws the places.
    """
    inside = np.flatnonzero(body)
    drawn = inside[rng.integers(len(inside), size=CELLS_OF_TUMOR)]
    centers = stride * np.stack(np.unravel_index(drawn, body.shape), axis=-1) + rng.uniform(0, 1, (len(drawn), 3))
    return local_variation(read_cells(channels, centers, edges))


def is_in(body: np.ndarray, stride: int, centers: np.ndarray) -> np.ndarray:
    """Whether points (..., 3), in the scan's voxels, are in a body of every `stride`-th voxel: (...) bool."""
    points = np.floor(centers / stride).astype(np.intp)
    np.clip(points, 0, np.array(body.shape) - 1, out=points)
    return np.asarray(body[points[..., 0], points[..., 1], points[..., 2]])


def read_shell(
    channels: Channels, spacing_mm: Triple, shell: np.ndarray, reach_mm: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Read cells of a tumor's shell, at most `CELLS_OF_TUMOR`.

    Args:
        channels: The channels of the scan, each (X, Y, Z).
        spacing_mm: Voxel size along each axis.
        shell: The voxels of the shell (N, 3), one or more.
        reach_mm: How far the shell reaches.
        rng: Draws the cells.

    Returns:
        The centers (M, 3) and the points (C, M, 8) of the cells.
    """
    centers = shell[rng.permutation(len(shell))[:CELLS_OF_TUMOR]]
    centers = centers + rng.uniform(0, 1, centers.shape)  # anywhere in their voxels, as those of places are
    return centers, read_cells(channels, centers, cell_mm(reach_mm) / np.array(spacing_mm))


def shell_median(channel: np.ndarray, spacing_mm: Triple, shell: np.ndarray, reach_mm: float) -> float:
    """The median intensity of a shell: that of `QUANTILES` in `Surroundings.levels`.

    Args:
        channel: The scan (X, Y, Z).
        spacing_mm: Voxel size along each axis.
        shell: The voxels of the shell (N, 3).
        reach_mm: How far the shell reaches.

    Returns:
        The median over the means of its cells; nan without a voxel.
    """
    if not len(shell):
        return math.nan
    _, cells = read_shell([channel], spacing_mm, shell, reach_mm, np.random.default_rng(0))
    return float(np.median(cells.mean(axis=-1)))


def describe_shell(
    channels: Channels,
    spacing_mm: Triple,
    shell: np.ndarray,
    tumor: np.ndarray,
    reach_mm: float,
    body: tuple[np.ndarray, int],
    rng: np.random.Generator,
) -> Surroundings:
    """Describe what surrounds a tumor.

    Args:
        channels: The channels of the scan, each (X, Y, Z).
        spacing_mm: Voxel size along each axis.
        shell: The voxels of the shell (N, 3), one or more.
        tumor: The voxels of the tumor (M, 3), one or more.
        reach_mm: How far the shell reaches.
        body: The body of every `stride`-th voxel, and that stride.
        rng: Draws the voxels that are looked at.
    """
    centers, cells = read_shell(channels, spacing_mm, shell, reach_mm, rng)
    usual = usual_variation(channels, *body, cell_mm(reach_mm) / np.array(spacing_mm), rng)
    found = describe_cells(cells, is_in(*body, centers), usual)
    count, width = len(channels), len(QUANTILES)
    levels = found[: count * width].reshape(count, width)
    return Surroundings(
        reach_mm,
        tuple(tuple(map(float, row)) for row in levels),
        tuple(map(float, found[count * width : -1])),
        float(found[-1]),
        float(is_in(*body, tumor + 0.5).mean()),
    )
