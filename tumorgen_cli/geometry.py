"""Geometry: grids, boxes, and the cutting of windows out of arrays. No torch, no I/O.

Axes: arrays are (C, X, Y, Z) or (X, Y, Z); x, y, z are SimpleITK's index axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

Triple = tuple[float, float, float]
Shape = tuple[int, int, int]
SHELL_MM = 20.0  # what counts as a tumor's surroundings


@dataclass(frozen=True)
class Grid:
    """The geometry of a volume: voxel counts, spacing and origin in mm (x, y, z), direction cosines row by row."""

    shape: Shape
    spacing_mm: Triple
    origin_mm: Triple = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    @property
    def extent_mm(self) -> Triple:
        """Edge lengths of the whole volume in mm."""
        return tuple(n * s for n, s in zip(self.shape, self.spacing_mm, strict=True))  # type: ignore[return-value]

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(np.prod(self.spacing_mm)) / 1000.0

    def subgrid(self, start: tuple[float, float, float], spacing_mm: Triple, shape: Shape) -> Grid:
        """The grid of `shape` and `spacing_mm` whose first voxel's outer corner is at voxel corner `start`.

        `start` is in this grid's voxels, counted from its outer corner, and may be fractional or outside.
        """
        offset = [s * a - a / 2 + b / 2 for s, a, b in zip(start, self.spacing_mm, spacing_mm, strict=True)]
        direction = np.array(self.direction).reshape(3, 3)
        origin = np.array(self.origin_mm) + direction @ np.array(offset)
        return Grid(shape, spacing_mm, tuple(float(o) for o in origin), self.direction)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Box:
    """A half-open box of voxels: start <= index < stop per axis."""

    start: Shape
    stop: Shape

    @property
    def shape(self) -> Shape:
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))  # type: ignore[return-value]

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))  # type: ignore[return-value]

    @property
    def center(self) -> Triple:
        """Centre in voxels counted from the outer corner of voxel 0."""
        return tuple((a + b) / 2 for a, b in zip(self.start, self.stop, strict=True))  # type: ignore[return-value]

    def intersection(self, other: Box) -> Box:
        """What lies in both boxes."""
        start = tuple(max(a, b) for a, b in zip(self.start, other.start, strict=True))
        return Box(start, tuple(max(a, min(b, c)) for a, b, c in zip(start, self.stop, other.stop, strict=True)))  # type: ignore[arg-type]

    def hull(self, other: Box) -> Box:
        """The smallest box that holds both."""
        start = tuple(min(a, b) for a, b in zip(self.start, other.start, strict=True))
        return Box(start, tuple(max(a, b) for a, b in zip(self.stop, other.stop, strict=True)))  # type: ignore[arg-type]

    def contains(self, other: Box) -> bool:
        """Whether all of `other` lies in this box."""
        return all(a <= c and d <= b for a, b, c, d in zip(self.start, self.stop, other.start, other.stop, strict=True))

    def grown(self, margin: int | Shape, shape: Shape) -> Box:
        """This box with `margin` voxels more on every side, clipped to a volume of `shape`."""
        m = (margin,) * 3 if isinstance(margin, int) else margin
        start = tuple(max(0, a - k) for a, k in zip(self.start, m, strict=True))
        stop = tuple(min(n, b + k) for b, k, n in zip(self.stop, m, shape, strict=True))
        return Box(start, stop)  # type: ignore[arg-type]

    def shifted(self, by: Shape) -> Box:
        start = tuple(a + k for a, k in zip(self.start, by, strict=True))
        stop = tuple(b + k for b, k in zip(self.stop, by, strict=True))
        return Box(start, stop)  # type: ignore[arg-type]


def cast_to_dtype(array: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """`array` in a data type: rounded, and kept within its range, where that is of whole numbers."""
    if dtype.kind in "iu" and array.dtype != dtype:
        limits = np.iinfo(dtype)
        array = np.clip(np.rint(array), limits.min, limits.max)
    return array.astype(dtype, copy=False)


def cut(array: np.ndarray, start: Shape, shape: Shape) -> np.ndarray:
    """The window (..., *shape) whose first voxel is `start`; outside the array its edge continues."""
    index = [
        np.clip(np.arange(a, a + n), 0, size - 1) for a, n, size in zip(start, shape, array.shape[-3:], strict=True)
    ]
    return np.asarray(array)[(..., *np.ix_(*index))]


def cut_mask(array: np.ndarray, start: Shape, shape: Shape) -> np.ndarray:
    """As `cut`, with zero outside: a tumor ends where the scan does."""
    out = np.zeros((*array.shape[:-3], *shape), array.dtype)
    inner, outer = [], []
    for a, n, size in zip(start, shape, array.shape[-3:], strict=True):
        low, high = max(a, 0), min(a + n, size)
        if low >= high:
            return out
        outer.append(slice(low, high))
        inner.append(slice(low - a, high - a))
    out[(..., *inner)] = array[(..., *outer)]
    return out


def place_window(box: Box, volume: Shape, window: Shape, rng: np.random.Generator | None) -> Shape:
    """A window's start that shows `box` whole: centred on it (rng None), or anywhere it fits.

    A window is kept inside the volume where the volume is larger than it.
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
    return tuple(start)  # type: ignore[return-value]


def draw_window_start(volume: Shape, window: Shape, rng: np.random.Generator) -> Shape:
    """A window's start anywhere in the volume, or, on an axis on which it is larger, anywhere around it."""
    return tuple(int(rng.integers(min(0, n - m), max(0, n - m) + 1)) for n, m in zip(volume, window, strict=True))  # type: ignore[return-value]


def find_spanning_component(mask: np.ndarray) -> np.ndarray | None:
    """The part (X, Y, Z) bool of a mask that hangs together, by faces, edges or corners, and reaches all six faces; None without one."""
    numbered, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    whole = tuple(slice(0, n) for n in mask.shape)
    return next(
        (numbered == number for number, where in enumerate(ndimage.find_objects(numbered), 1) if where == whole), None
    )


def tight_box(mask: np.ndarray) -> Box | None:
    """The tight box of a mask (X, Y, Z); None where it is empty."""
    spans = []
    for axis in range(3):
        line = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        if not len(line):
            return None
        spans.append((int(line[0]), int(line[-1]) + 1))
    (a, b), (c, d), (e, f) = spans
    return Box((a, c, e), (b, d, f))


def box_around(mask: np.ndarray, spacing_mm: Triple, reach_mm: float) -> Box | None:
    """The tight box of a mask (X, Y, Z) with what lies within `reach_mm` of it, and a voxel more; None where it is empty."""
    tight = tight_box(mask)
    margin = tuple(math.ceil(reach_mm / s) + 1 for s in spacing_mm)
    return None if tight is None else tight.grown(margin, mask.shape)  # type: ignore[arg-type]
