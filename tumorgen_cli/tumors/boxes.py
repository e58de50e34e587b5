"""Boxes: random boxes around tumors on the latent grid (BA-PMG), and places for boxes in healthy scans.

Source:
    TumorGen, section 2.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tumorgen_cli.geometry import Box, Shape, Triple, as_triple, tight_box
from tumorgen_cli.planning.fingerprint import TumorFacts

_MOST_BOXES = 10
LEAST_SHARE = 0.6  # of a box that should lie in the allowed region


def latent_mask(mask: np.ndarray, factor: int) -> np.ndarray:
    """Average a mask (X, Y, Z) over latent cells of `factor` voxels per side; float32 in [0, 1], soft at the edge."""
    x, y, z = (n // factor for n in mask.shape)
    return mask.astype(np.float32).reshape(x, factor, y, factor, z, factor).mean(axis=(1, 3, 5))


def draw_box(mask: np.ndarray, alpha: float, rng: np.random.Generator, others: np.ndarray | None = None) -> Box:
    """Draw a box around a tumor (BA-PMG): each plane of its tight box is moved outward by U(0, alpha * D_i).

    D_i is the length of the grid on axis i. Planes are rounded to the nearest latent plane and clipped to the grid.

    Args:
        mask: Mask on the latent grid, (X, Y, Z).
        alpha: Largest offset relative to the grid. 0 gives the tight box, the ablation without BA-PMG.
        rng: Draws the offsets.
        others: Tumors (X, Y, Z) that stay outside: a box that reaches one is drawn again, at most 10 times; then it
            is the tight box.

    Raises:
        ValueError: the mask is empty.
    """
    tight = tight_box(mask > 0)
    if tight is None:
        raise ValueError("a box needs a tumor; the mask is empty")
    for _ in range(_MOST_BOXES):
        low = rng.uniform(0, 1, 3) * alpha * np.array(mask.shape)
        high = rng.uniform(0, 1, 3) * alpha * np.array(mask.shape)
        start = as_triple(max(0, round(a - d)) for a, d in zip(tight.start, low, strict=True))
        stop = as_triple(min(n, round(b + d)) for b, d, n in zip(tight.stop, high, mask.shape, strict=True))
        box = Box(start, stop)
        if others is None or not others[box.slices].any():
            return box
    return tight


def box_mask(box: Box, shape: Shape) -> np.ndarray:
    """A mask of `shape` that is 1 inside the box and 0 outside, float32."""
    out = np.zeros(shape, np.float32)
    out[box.slices] = 1
    return out


def latent_box(box: Box, factor: int) -> Box:
    """The latent cells, `factor` voxels wide, that a box of voxels touches.

    `draw_box` finds the cells of a training tumor in the same way, so a place of a tumor's size is as large as in
    training.
    """
    return Box(as_triple(a // factor for a in box.start), as_triple(-(-b // factor) for b in box.stop))


def voxel_box(box: Box, factor: int = 4) -> Box:
    """The voxels of a box of latent cells."""
    return Box(as_triple(factor * a for a in box.start), as_triple(factor * b for b in box.stop))


def draw_size_mm(
    tumors: Sequence[TumorFacts],
    alpha: float,
    window_mm: Triple,
    rng: np.random.Generator,
    extent_mm: Triple | None = None,
    weights: np.ndarray | None = None,
) -> tuple[Triple, int]:
    """Draw a box size from the training tumors: an extent times U(0.9, 1.1), plus two BA-PMG offsets per axis.

    The size is at most 7/8 of the window, because a flow needs context.

    Args:
        tumors: The training tumors.
        alpha: Largest offset relative to the window.
        window_mm: Extent of the window.
        rng: Makes all random draws.
        extent_mm: The extent of the tumor that the box is for; None for a training tumor's.
        weights: How often each tumor is drawn, relative to the others (N,); None: all alike.

    Returns:
        The size in mm and the number of the tumor.
    """
    if weights is None:
        number = int(rng.integers(len(tumors)))
    else:
        number = int(rng.choice(len(tumors), p=weights / weights.sum()))
    scale = rng.uniform(0.9, 1.1, 3)
    offsets = rng.uniform(0, 1, (2, 3)).sum(axis=0) * alpha * np.array(window_mm)
    extent = np.array(tumors[number].extent_mm) * scale if extent_mm is None else np.array(extent_mm)
    size = np.minimum(extent + offsets, 0.875 * np.array(window_mm))
    return (float(size[0]), float(size[1]), float(size[2])), number


def place_box(
    size: Shape, allowed: np.ndarray, rng: np.random.Generator, least_share: float = LEAST_SHARE
) -> Box | None:
    """Draw a place for a box: its center, and at least a share of its volume, lie in an allowed region.

    If none of 200 draws reaches the share, the best of them is returned.

    Args:
        size: Edges of the box in voxels.
        allowed: The allowed region, (X, Y, Z) bool.
        rng: Draws the places.
        least_share: Share of the box that should lie in the region.

    Returns:
        The box; None if the region is empty or the scan is smaller than the box.
    """
    starts, shares = Places(allowed).draw(size, rng, 200)
    if not len(starts):
        return None
    reached = np.flatnonzero(shares >= least_share)
    return box_at(starts[reached[0] if len(reached) else shares.argmax()], size)


def box_at(start: np.ndarray, size: Shape) -> Box:
    """The box of some size whose first voxel (3,) is given."""
    corner = as_triple(map(int, start))
    return Box(corner, as_triple(a + n for a, n in zip(corner, size, strict=True)))


class Places:
    """Draws places for boxes whose centers lie in an allowed region, (X, Y, Z) bool."""

    def __init__(self, allowed: np.ndarray) -> None:
        self.shape = allowed.shape
        self._centers, self._total = np.flatnonzero(allowed), _integral(allowed)

    def draw(self, size: Shape, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw places for a box.

        Args:
            size: Edges of the box in voxels.
            rng: Draws the places.
            count: Number of places.

        Returns:
            The first voxel of each box (N, 3), and the share of each box that lies in the region (N,). N is 0 if the
            region is empty or the scan is smaller than the box.
        """
        if not len(self._centers) or any(n > m for n, m in zip(size, self.shape, strict=True)):
            return np.empty((0, 3), int), np.empty(0)
        drawn = self._centers[rng.integers(len(self._centers), size=count)]
        edges = np.array(size)
        centers = np.stack(np.unravel_index(drawn, self.shape), axis=1)
        starts = np.clip(centers - edges // 2, 0, np.array(self.shape) - edges)
        return starts, _inside(self._total, starts, starts + edges) / edges.prod()


def _integral(mask: np.ndarray) -> np.ndarray:
    """Sums of a mask over all boxes that start at the first voxel, with a leading plane of zeros on each axis.

    Scikit-image's `integrate` gives the same sums but is 50 times slower, and `place_box` needs up to 200 of them.
    """
    total = np.zeros(tuple(n + 1 for n in mask.shape), np.int64)
    total[1:, 1:, 1:] = mask.astype(np.int64).cumsum(0).cumsum(1).cumsum(2)
    return total


def _inside(total: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Sums (N,) of a mask in boxes with corners (N, 3), from the mask's integral."""
    (a, c, e), (b, d, f) = start.T, stop.T
    t = total
    found = t[b, d, f] - t[a, d, f] - t[b, c, f] - t[b, d, e] + t[a, c, f] + t[a, d, e] + t[b, c, e] - t[a, c, e]
    return np.asarray(found)
