"""The window around a box: its place in the scan, its size, the cut to the working grid, the feather."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tumorgen_cli.data.volumes import resample
from tumorgen_cli.geometry import Box, Grid, Shape, Triple, tight_box
from tumorgen_cli.methods.base import Request
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.synthesis.scan import Scan
from tumorgen_cli.system.errors import DataError, Fault

_LARGEST_GROWTH = 2  # a window may grow to twice the plan's per side
_MARGIN = 6  # voxels around a window that a cubic interpolation may look at


@dataclass(frozen=True)
class Window:
    """Where a tumor is painted into a scan.

    `asked`: the box as it was drawn or given, and `box`, which holds it, what may change, in the scan's voxels. `start`: the window's
    first corner, in the scan's voxels; `grid`: its geometry; `padded`: it reaches over the scan's edge. `window_box`, `place`: `box`
    and, within it, the tumor's place, in the window's voxels.
    """

    asked: Box
    box: Box
    start: Triple
    grid: Grid
    padded: bool
    window_box: Box
    place: Box


def window_shape(box: Box, grid: Grid, plan: Plan) -> Shape | None:
    """The sides of the window around a box of a scan's voxels: the plan's, or larger (multiples of 16) to hold a larger place for a
    tumor with context; None where one would be more than twice the plan's."""
    place = tumor_place(box, grid, plan.paste.feather_mm)
    shape = tuple(
        max(n, 16 * int(np.ceil(max(inner * e / s + 8, outer * e / s) / 16)))
        for n, inner, outer, e, s in zip(
            plan.window.shape, place.shape, box.shape, grid.spacing_mm, plan.window.spacing_mm, strict=True
        )
    )
    return None if any(n > _LARGEST_GROWTH * m for n, m in zip(shape, plan.window.shape, strict=True)) else shape  # type: ignore[return-value]


def too_large(where: str, box: Box, grid: Grid, plan: Plan) -> Fault:
    """The fault of a box that has no window."""
    size = "×".join(f"{n * s:.0f}" for n, s in zip(box.shape, grid.spacing_mm, strict=True))
    limit = "×".join(f"{_LARGEST_GROWTH * e:.0f}" for e in plan.window.extent_mm)
    return Fault(
        where,
        f"a box of {size} mm",
        f"at most {limit} mm",
        "use a smaller box, or plan with a larger window (--set window.shape=[...])",
    )


def lay_window(scan: Scan, box: Box, plan: Plan, cell: int = 1) -> Window:
    """The window on the working grid around a box of the scan's voxels (`window_shape`), inside the scan where it fits.

    The tumor's place in the box (`tumor_place`) is widened to whole cells of `cell` working voxels, and the box with it, as far as scan
    and window reach; with a `cell` of 1 the box stays as it is.

    Raises:
        DataError: the box is larger than the window may grow.
    """
    working, spacing = plan.window.spacing_mm, scan.grid.spacing_mm
    place, shape = tumor_place(box, scan.grid, plan.paste.feather_mm), window_shape(box, scan.grid, plan)
    if shape is None:
        raise DataError("A box is larger than the window can grow", [too_large(scan.name, box, scan.grid, plan)])
    start, padded = [], False
    for center, n, s, m, e in zip(box.center, shape, working, scan.grid.shape, spacing, strict=True):
        length = n * s / e  # the window's side in the scan's voxels
        a = center - length / 2
        low, high = min(0.0, m - length), max(0.0, m - length)
        padded |= length > m
        start.append(min(max(a, low), high))
    grid, first = scan.grid.subgrid(tuple(start), working, shape), np.array(start)  # type: ignore[arg-type]
    place = _in_window(place, first, scan.grid, grid, cell)
    wide = _widened(box, place, first, scan.grid, grid, plan.paste.feather_mm) if cell > 1 else box
    inside = _in_window(wide, first, scan.grid, grid, 1)
    return Window(box, wide, tuple(start), grid, padded, inside, place.intersection(inside))  # type: ignore[arg-type]


def _in_window(box: Box, start: np.ndarray, scan: Grid, window: Grid, cell: int) -> Box:
    """A scan's box in the voxels of the window that begins at `start`, widened to whole cells of `cell` voxels."""
    scale = np.array(scan.spacing_mm) / window.spacing_mm / cell
    low = np.maximum(cell * np.floor((box.start - start) * scale + 1e-6), 0)
    high = np.minimum(np.maximum(cell * np.ceil((box.stop - start) * scale - 1e-6), low + cell), window.shape)
    return _whole(low, high)


def _widened(box: Box, place: Box, start: np.ndarray, scan: Grid, window: Grid, width_mm: float) -> Box:
    """A scan's box with so much more around it that its `tumor_place` is at least `place`, of the window that begins at `start`, as far
    as scan and window reach."""
    spacing = np.array(scan.spacing_mm)
    low, high, end = (
        start + np.array(ends) * window.spacing_mm / spacing for ends in (place.start, place.stop, window.shape)
    )
    fade = np.array([fade_mm(edge, width_mm) / 2 for edge in (high - low) * spacing]) / spacing
    low = np.maximum(np.floor(low - fade), np.maximum(np.ceil(start - 1e-6), 0))
    high = np.minimum(np.ceil(high + fade), np.minimum(np.floor(end + 1e-6), scan.shape))
    return _whole(np.minimum(low, box.start), np.maximum(high, box.stop))


def _whole(low: np.ndarray, high: np.ndarray) -> Box:
    """A box from edges (3,) that are whole numbers."""
    return Box(tuple(map(int, low)), tuple(map(int, high)))  # type: ignore[arg-type]


def cut_window(scan: Scan, window: Window, case: str | None) -> Request:
    """What is asked of a method: the scan's window on the working grid; beyond the scan's edge its nearest voxel continues."""
    part, grid = _part(scan, window)
    image = np.stack([resample(channel, grid, window.grid, "cubic") for channel in part]).astype(np.float32)
    return Request(image, window.window_box, window.place, scan.limits, window.grid.spacing_mm, case)


def _part(scan: Scan, window: Window) -> tuple[np.ndarray, Grid]:
    """The part of a scan that a window can depend on, so that a whole-body scan is not filtered whole."""
    grid = scan.grid
    low = [max(0, int(np.floor(a)) - _MARGIN) for a in window.start]
    high = [
        min(m, int(np.ceil(a + length / e)) + _MARGIN)
        for a, length, e, m in zip(window.start, window.grid.extent_mm, grid.spacing_mm, grid.shape, strict=True)
    ]
    box = Box(tuple(low), tuple(high))  # type: ignore[arg-type]
    return scan.image[(slice(None), *box.slices)], grid.subgrid(box.start, grid.spacing_mm, box.shape)


def feather(box: Box, grid: Grid, width_mm: float) -> np.ndarray:
    """Weights in (0, 1] of the box's voxels: smoothly up from the faces to 1 at `width_mm` inside, or at a quarter of a
    small box's edge; a face that is the scan's own edge has no ramp."""
    weight = np.ones(box.shape, np.float32)
    for axis, (a, b, size, spacing) in enumerate(zip(box.start, box.stop, grid.shape, grid.spacing_mm, strict=True)):
        inside = (np.arange(b - a) + 0.5) * spacing
        depth = np.minimum(inside if a > 0 else np.inf, inside[::-1] if b < size else np.inf)
        ramp = np.clip(depth / max(min(width_mm, (b - a) * spacing / 4), 1e-6), 0, 1)
        along = [1, 1, 1]
        along[axis] = -1
        weight *= (ramp * ramp * (3 - 2 * ramp)).reshape(along).astype(np.float32)
    return weight


def fade_mm(place_mm: float, width_mm: float) -> float:
    """How much longer the edge of a box is than that of the tumor's place in it (`tumor_place`), both sides together."""
    return min(width_mm, place_mm / 3)  # `feather` takes a quarter of the box's edge at most


def tumor_place(box: Box, grid: Grid, width_mm: float) -> Box:
    """The box in which a tumor may lie: where the picture is mostly the synthetic one (see `paste`)."""
    place = tight_box(feather(box, grid, width_mm) >= 0.5)
    assert place is not None  # a ramp is a quarter of an edge at most
    return place.shifted(box.start)
