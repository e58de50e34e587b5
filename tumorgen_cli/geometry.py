"""Grids, boxes, and windows cut out of arrays. No torch, no file access.

Arrays are (C, X, Y, Z) or (X, Y, Z); x, y and z are SimpleITK's index axes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from scipy import ndimage

T = TypeVar("T")
Triple = tuple[float, float, float]
Shape = tuple[int, int, int]


def as_triple(values: Iterable[T]) -> tuple[T, T, T]:
    """Return exactly three values as a tuple whose length the type checker knows.

    Raises:
        ValueError: there are more or fewer than three values.
    """
    x, y, z = values
    return x, y, z


def describe_edges(values: Iterable[float], form: str = ".0f") -> str:
    """Describe edges along the axes, for example "12×12×30"; `form` formats each of them."""
    return "×".join(f"{value:{form}}" for value in values)


def ball_radius_mm(voxels: int | np.integer[Any], spacing_mm: Triple) -> float:
    """The radius of the ball that has the volume of so many voxels."""
    return float(3 * int(voxels) * math.prod(spacing_mm) / (4 * math.pi)) ** (1 / 3)


def shell_mm(voxels: int | np.integer[Any], spacing_mm: Triple) -> float:
    """How far the surroundings of a tumor of so many voxels reach: half the radius of the ball of its volume.

    Surroundings in proportion to the tumor mean the same for a nodule and for a large mass: they hold 2.4 times its
    volume. They reach two voxels at least (the geometric mean of the edges), so that there are some around the
    smallest tumor and that its blurred boundary is not all of them.
    """
    return max(ball_radius_mm(voxels, spacing_mm) / 2, 2 * math.prod(spacing_mm) ** (1 / 3))


@dataclass(frozen=True)
class Grid:
    """The geometry of a volume.

    `shape` counts voxels; `spacing_mm` and `origin_mm` are in mm, all in the order x, y, z. `direction` holds the nine
    direction cosines row by row.
    """

    shape: Shape
    spacing_mm: Triple
    origin_mm: Triple = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    @property
    def extent_mm(self) -> Triple:
        """Edge lengths of the whole volume in mm."""
        return as_triple(n * s for n, s in zip(self.shape, self.spacing_mm, strict=True))

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in milliliters."""
        return float(np.prod(self.spacing_mm)) / 1000.0

    def subgrid(self, start: Triple, spacing_mm: Triple, shape: Shape) -> Grid:
        """The grid of the given shape and spacing whose outer corner lies at `start`.

        Args:
            start: Position in this grid's voxels, counted from its outer corner. It may be fractional or outside.
            spacing_mm: Voxel edges of the new grid.
            shape: Voxel counts of the new grid.
        """
        offset = [s * a - a / 2 + b / 2 for s, a, b in zip(start, self.spacing_mm, spacing_mm, strict=True)]
        direction = np.array(self.direction).reshape(3, 3)
        origin = np.array(self.origin_mm) + direction @ np.array(offset)
        return Grid(shape, spacing_mm, as_triple(float(o) for o in origin), self.direction)


@dataclass(frozen=True)
class Box:
    """A half-open box of voxels: start <= index < stop per axis."""

    start: Shape
    stop: Shape

    @property
    def shape(self) -> Shape:
        """Edge lengths in voxels."""
        return as_triple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The box as an index of an array (X, Y, Z)."""
        return as_triple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    @property
    def center(self) -> Triple:
        """Center in voxels, counted from the outer corner of voxel 0."""
        return as_triple((a + b) / 2 for a, b in zip(self.start, self.stop, strict=True))

    def intersection(self, other: Box) -> Box:
        """The box of the voxels in both boxes; a side without common voxels has length 0."""
        start = as_triple(max(a, b) for a, b in zip(self.start, other.start, strict=True))
        return Box(start, as_triple(max(a, min(b, c)) for a, b, c in zip(start, self.stop, other.stop, strict=True)))

    def hull(self, other: Box) -> Box:
        """The smallest box that contains both."""
        start = as_triple(min(a, b) for a, b in zip(self.start, other.start, strict=True))
        return Box(start, as_triple(max(a, b) for a, b in zip(self.stop, other.stop, strict=True)))

    def contains(self, other: Box) -> bool:
        """Whether all of `other` lies in this box."""
        return all(a <= c and d <= b for a, b, c, d in zip(self.start, self.stop, other.start, other.stop, strict=True))

    def overlaps(self, other: Box) -> bool:
        """Whether the boxes have a voxel in common."""
        return all(a < d and c < b for a, b, c, d in zip(self.start, self.stop, other.start, other.stop, strict=True))

    def grown(self, margin: int | Shape, shape: Shape | tuple[int, ...]) -> Box:
        """This box with `margin` more voxels on every side, clipped to a volume of `shape`."""
        m = (margin,) * 3 if isinstance(margin, int) else margin
        start = as_triple(max(0, a - k) for a, k in zip(self.start, m, strict=True))
        return Box(start, as_triple(min(n, b + k) for b, k, n in zip(self.stop, m, shape, strict=True)))

    def shifted(self, by: Shape) -> Box:
        """This box moved by `by` voxels per axis."""
        start = as_triple(a + k for a, k in zip(self.start, by, strict=True))
        return Box(start, as_triple(b + k for b, k in zip(self.stop, by, strict=True)))


def widened(box: Box, multiple: int, shape: Shape) -> Box:
    """The box with its sides lengthened to multiples of a number, evenly at both ends, inside a volume of `shape`.

    The sides of the volume are multiples of it, too.
    """
    sides = as_triple(-(-n // multiple) * multiple for n in box.shape)
    starts = as_triple(
        min(max(0, a - (side - n) // 2), size - side)
        for a, n, side, size in zip(box.start, box.shape, sides, shape, strict=True)
    )
    return Box(starts, as_triple(a + side for a, side in zip(starts, sides, strict=True)))


def box_of_slices(slices: Iterable[slice]) -> Box:
    """The box of three slices with a start and a stop, as `scipy.ndimage.find_objects` returns them."""
    spans = as_triple(slices)
    return Box(as_triple(int(s.start) for s in spans), as_triple(int(s.stop) for s in spans))


def cast_to_dtype(array: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Convert an array to a data type; for integer types, values are rounded and clipped to the type's range."""
    if dtype.kind in "iu" and array.dtype != dtype:
        limits = np.iinfo(dtype)
        array = np.clip(np.rint(array), limits.min, limits.max)
    return array.astype(dtype, copy=False)


def cut(array: np.ndarray, start: Shape, shape: Shape) -> np.ndarray:
    """Cut the window (..., *shape) whose first voxel is `start`; outside the array, its edge voxels are repeated."""
    places = [
        np.clip(np.arange(a, a + n), 0, size - 1) for a, n, size in zip(start, shape, array.shape[-3:], strict=True)
    ]
    index: tuple[Any, ...] = (..., *np.ix_(*places))
    return np.asarray(array)[index]


def cut_mask(array: np.ndarray, start: Shape, shape: Shape) -> np.ndarray:
    """Cut a window as `cut` does, with zero outside the array: a tumor ends where the scan ends."""
    out = np.zeros((*array.shape[:-3], *shape), array.dtype)
    inner: list[Any] = [...]
    outer: list[Any] = [...]
    for a, n, size in zip(start, shape, array.shape[-3:], strict=True):
        low, high = max(a, 0), min(a + n, size)
        if low >= high:
            return out
        outer.append(slice(low, high))
        inner.append(slice(low - a, high - a))
    out[tuple(inner)] = array[tuple(outer)]
    return out


def place_window(box: Box, volume: Shape, window: Shape, rng: np.random.Generator | None) -> Shape:
    """Choose the start of a window that contains `box`: centered on it without `rng`, else drawn at random.

    Where the volume is larger than the window, the window stays inside the volume. Where the box is larger than the
    window, or allows no such start, the window is centered on the box.

    Args:
        box: The box to show, in voxels of the volume.
        volume: Voxel counts of the volume.
        window: Voxel counts of the window.
        rng: Draws the start; None centers the window.
    """
    start = []
    for a, b, size, n in zip(box.start, box.stop, volume, window, strict=True):
        low, high = b - n, a  # the starts at which the box is inside
        if size >= n:
            low, high = max(low, 0), min(high, size - n)
        else:
            low, high = max(low, size - n), min(high, 0)
        if low > high:  # the box touches the volume's edge and is larger than the window
            start.append((a + b - n) // 2)
        elif rng is None:
            start.append(int(np.clip((a + b - n) // 2, low, high)))
        else:
            start.append(int(rng.integers(low, high + 1)))
    return as_triple(start)


def draw_window_start(volume: Shape, window: Shape, rng: np.random.Generator) -> Shape:
    """Draw the start of a window anywhere in the volume; on axes where the window is larger, anywhere around it."""
    return as_triple(int(rng.integers(min(0, n - m), max(0, n - m) + 1)) for n, m in zip(volume, window, strict=True))


def find_spanning_component(mask: np.ndarray) -> np.ndarray | None:
    """Find the 26-connected component of a mask (X, Y, Z) that reaches all six faces of the array.

    Returns:
        The component, (X, Y, Z) bool, or None if there is none.
    """
    numbered, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    whole = tuple(slice(0, n) for n in mask.shape)
    return next(
        (numbered == number for number, where in enumerate(ndimage.find_objects(numbered), 1) if where == whole), None
    )


def find_largest_component(mask: np.ndarray) -> np.ndarray | None:
    """Find the largest 6-connected component of a mask (X, Y, Z); the first of equal ones.

    Returns:
        The component, (X, Y, Z) bool, or None for an empty mask.
    """
    numbered, count = ndimage.label(mask)
    return numbered == np.bincount(numbered.ravel())[1:].argmax() + 1 if count else None


def tight_box(mask: np.ndarray) -> Box | None:
    """The tight box of a mask (X, Y, Z), or None for an empty mask."""
    spans = []
    for axis in range(3):
        line = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        if not len(line):
            return None
        spans.append((int(line[0]), int(line[-1]) + 1))
    (a, b), (c, d), (e, f) = spans
    return Box((a, c, e), (b, d, f))


def box_around(mask: np.ndarray, spacing_mm: Triple, reach_mm: float) -> Box | None:
    """The tight box of a mask (X, Y, Z), `reach_mm` and one voxel larger on every side; None for an empty mask."""
    tight = tight_box(mask)
    margin = as_triple(math.ceil(reach_mm / s) + 1 for s in spacing_mm)
    return None if tight is None else tight.grown(margin, mask.shape)
