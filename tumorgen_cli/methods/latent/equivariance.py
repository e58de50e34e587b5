"""Changes of latents that an autoencoder should decode to the equally changed image: mirrored, turned, made smaller.

Latents of an autoencoder that was not trained so change in other ways than the image, which makes them harder to learn.

Source: EQ-VAE (arXiv 2502.09509).
Deviation: In three dimensions an image is also mirrored. It is turned by a quarter in a plane only where the voxels are
    square. Sides shrink to a half, not to a quarter: patches are small, and below a half linear interpolation would
    skip voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tumorgen_cli.geometry import Shape, Triple, as_triple

_STREAM = 10  # stream of random numbers for the changes, separate from the items' own
_PLANES = tuple(combinations(range(3), 2))
_SMALLEST = 0.5  # factor of the sides
_SQUARE = 0.01  # relative difference of voxel edges up to which a plane's voxels are square


@dataclass(frozen=True)
class Change:
    """A change of latents and of their image.

    Attributes:
        mirrored: whether each axis is mirrored.
        plane: number of the plane (xy, xz, yz) that is turned by a quarter; None: none.
        cells: the sides after the change, in latent cells.
    """

    mirrored: tuple[bool, bool, bool]
    plane: int | None
    cells: Shape

    def packed(self) -> np.ndarray:
        """The change as numbers, (8,) int64: 1 if anything changes, mirrored axes, plane or -1, cells."""
        plane = -1 if self.plane is None else self.plane
        return np.array([1, *self.mirrored, plane, *self.cells], np.int64)

    def of_latents(self, latent: Tensor) -> Tensor:
        """Changed latents (B, L, x, y, z)."""
        return self._apply(latent, self.cells)

    def of_image(self, image: Tensor, downsampling: int) -> Tensor:
        """The equally changed image (B, C, X, Y, Z) of latents whose cells are `downsampling` voxels wide."""
        return self._apply(image, as_triple(downsampling * n for n in self.cells))

    def _apply(self, array: Tensor, sides: Shape) -> Tensor:
        array = array.flip([axis + 2 for axis, mirrored in enumerate(self.mirrored) if mirrored])
        if self.plane is not None:
            array = torch.rot90(array, 1, [axis + 2 for axis in _PLANES[self.plane]])
        if tuple(array.shape[2:]) == sides:
            return array
        return F.interpolate(array, sides, mode="trilinear", align_corners=False)


def draw_change(share: float, spacing_mm: Triple, cells: Sequence[int], seed: int, step: int) -> np.ndarray:
    """Draw the change of a step, packed; all items of a step share it, as they share their shape.

    Args:
        share: Share of the steps that have one; the others give zeros.
        spacing_mm: Voxel edges.
        cells: Sides of the latents.
        seed: Seed of the training.
        step: Number of the step.
    """
    rng = np.random.default_rng([seed, _STREAM, step])
    if rng.random() >= share:
        return np.zeros(8, np.int64)
    mirrored = [bool(drawn) for drawn in rng.random(3) < 0.5]
    edges = [(spacing_mm[a], spacing_mm[b]) for a, b in _PLANES]
    square = [number for number, (a, b) in enumerate(edges) if abs(a - b) <= _SQUARE * max(a, b)]
    plane = square[int(rng.integers(len(square)))] if square and rng.random() < 0.5 else None
    sides = list(cells)
    if plane is not None:
        a, b = _PLANES[plane]
        sides[a], sides[b] = sides[b], sides[a]
    factor = rng.uniform(_SMALLEST, 1)
    change = Change((mirrored[0], mirrored[1], mirrored[2]), plane, as_triple(max(1, round(factor * n)) for n in sides))
    return change.packed()


def unpack_change(packed: Tensor) -> Change | None:
    """The change of a batch, from (B, 8) equal rows of `Change.packed`; None if nothing changes."""
    changes, *mirrored, plane, x, y, z = (int(value) for value in packed[0])
    if not changes:
        return None
    first, second, third = map(bool, mirrored)
    return Change((first, second, third), None if plane < 0 else plane, (x, y, z))
