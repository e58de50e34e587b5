"""The window around a box: its place in the scan, its size, and the cut to the working grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tumorgen_cli.data.volumes import resample
from tumorgen_cli.geometry import Box, Grid, Shape, Triple, as_triple, describe_edges
from tumorgen_cli.methods.base import Request
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.synthesis.paste import fade_mm, tumor_place
from tumorgen_cli.synthesis.scan import Scan
from tumorgen_cli.system.errors import DataError, Fault

_MAX_GROWTH = 2  # a window may grow to twice the plan's size, along each axis
_MARGIN = 6  # voxels around a window that a cubic interpolation may depend on


@dataclass(frozen=True)
class Window:
    """Where a tumor is painted into a scan.

    Attributes:
        requested_box: the box as it was drawn or given, in the scan's voxels.
        box: the box that may change, in the scan's voxels; it contains `requested_box`.
        start: the window's first corner, in the scan's voxels.
        grid: the window's grid.
        padded: whether the window extends beyond the scan.
        window_box: `box`, in the window's voxels.
        place: the tumor's place within `window_box`, in the window's voxels.
        unlike: how much the surroundings of `requested_box` differ from those of training tumors (`Placing.draw`).
        like: number of the training tumor of whose size the box was drawn; None if it was drawn by none.
    """

    requested_box: Box
    box: Box
    start: Triple
    grid: Grid
    padded: bool
    window_box: Box
    place: Box
    unlike: float | None = None
    like: int | None = None


def redraw_box(
    tumor: Box, grid: Grid, plan: Plan, low: Sequence[float] | np.ndarray, high: Sequence[float] | np.ndarray
) -> Box:
    """Return the box in which a tumor is redrawn, on the scan's own grid.

    As BA-PMG does on the latent grid (`tumors.boxes.draw_box`), each face of the tumor's box is moved outward by up to
    α D_i, where D_i is the window's length along axis i. Then the edge in which the image fades is added.

    Args:
        tumor: box of the tumor, in the scan's voxels.
        grid: the scan's grid.
        plan: the plan.
        low: shares (3,) of α D_i, in [0, 1], by which the box starts earlier.
        high: shares (3,) of α D_i, in [0, 1], by which the box stops later.
    """
    reach = np.array([plan.window.alpha * e / s for e, s in zip(plan.window.extent_mm, grid.spacing_mm, strict=True)])
    before, after = np.asarray(low) * reach, np.asarray(high) * reach
    place = [n + a + b for n, a, b in zip(tumor.shape, before, after, strict=True)]
    fade = [fade_mm(n * s, plan.paste.feather_mm) / 2 / s for n, s in zip(place, grid.spacing_mm, strict=True)]
    start = as_triple(max(0, round(a - d - f)) for a, d, f in zip(tumor.start, before, fade, strict=True))
    stop = as_triple(min(n, round(b + d + f)) for b, d, f, n in zip(tumor.stop, after, fade, grid.shape, strict=True))
    return Box(start, stop)


def window_shape(box: Box, grid: Grid, plan: Plan) -> Shape | None:
    """Return the shape of the window around a box.

    It is the plan's, or larger (multiples of 16) if a large tumor and its context need it.

    Args:
        box: box in the scan's voxels.
        grid: the scan's grid.
        plan: the plan.

    Returns:
        The shape; None if the window would have to be more than twice the plan's.
    """
    place = tumor_place(box, grid, plan.paste.feather_mm)
    shape = as_triple(
        max(n, 16 * int(np.ceil(max(inner * e / s + 8, outer * e / s) / 16)))
        for n, inner, outer, e, s in zip(
            plan.window.shape, place.shape, box.shape, grid.spacing_mm, plan.window.spacing_mm, strict=True
        )
    )
    return None if any(n > _MAX_GROWTH * m for n, m in zip(shape, plan.window.shape, strict=True)) else shape


def large_box_fault(where: str, box: Box, grid: Grid, plan: Plan) -> Fault:
    """Return the fault of a box that is too large for a window."""
    size = describe_edges(n * s for n, s in zip(box.shape, grid.spacing_mm, strict=True))
    limit = describe_edges(_MAX_GROWTH * e for e in plan.window.extent_mm)
    return Fault(
        where,
        f"a box of {size} mm",
        f"at most {limit} mm",
        "use a smaller box, or plan with a larger window (--set window.shape=[...])",
    )


def lay_window(scan: Scan, box: Box, plan: Plan, cell: int = 1) -> Window:
    """Lay the window around a box, inside the scan if it fits.

    Args:
        scan: the host scan.
        box: box in the scan's voxels.
        plan: the plan.
        cell: side of the method's mask cells, in working voxels. The tumor's place is widened to whole cells, and the
            box with it, as far as scan and window extend. With 1 the box stays as it is.

    Raises:
        DataError: the box needs a window of more than twice the plan's size.
    """
    working, spacing = plan.window.spacing_mm, scan.grid.spacing_mm
    place, shape = tumor_place(box, scan.grid, plan.paste.feather_mm), window_shape(box, scan.grid, plan)
    if shape is None:
        raise DataError("A box is larger than the window can grow", [large_box_fault(scan.name, box, scan.grid, plan)])
    starts, padded = [], False
    for center, n, s, m, e in zip(box.center, shape, working, scan.grid.shape, spacing, strict=True):
        length = n * s / e  # the window's side in the scan's voxels
        a = center - length / 2
        low, high = min(0.0, m - length), max(0.0, m - length)
        padded |= length > m
        starts.append(min(max(a, low), high))
    start = as_triple(starts)
    grid, corner = scan.grid.subgrid(start, working, shape), np.array(start)
    place = _to_window(place, corner, scan.grid, grid, cell)
    wide = _widen_box(box, place, corner, scan.grid, grid, plan.paste.feather_mm) if cell > 1 else box
    inside = _to_window(wide, corner, scan.grid, grid, 1)
    return Window(box, wide, start, grid, padded, inside, place.intersection(inside))


def _to_window(box: Box, corner: np.ndarray, scan: Grid, window: Grid, cell: int) -> Box:
    """Convert a box of the scan's voxels to the window's voxels, widened to whole cells of `cell` voxels.

    `corner` is the window's first corner in the scan's voxels.
    """
    scale = np.array(scan.spacing_mm) / window.spacing_mm / cell
    low = np.maximum(cell * np.floor((box.start - corner) * scale + 1e-6), 0)
    high = np.minimum(np.maximum(cell * np.ceil((box.stop - corner) * scale - 1e-6), low + cell), window.shape)
    return _box_of_edges(low, high)


def _widen_box(box: Box, place: Box, corner: np.ndarray, scan: Grid, window: Grid, width_mm: float) -> Box:
    """Widen a box of the scan's voxels until its `tumor_place` contains `place`, as far as scan and window extend.

    `place` is in the window's voxels; `corner` is the window's first corner in the scan's voxels.
    """
    spacing = np.array(scan.spacing_mm)
    low, high, end = (
        corner + np.array(ends) * window.spacing_mm / spacing for ends in (place.start, place.stop, window.shape)
    )
    fade = np.array([fade_mm(edge, width_mm) / 2 for edge in (high - low) * spacing]) / spacing
    low = np.maximum(np.floor(low - fade), np.maximum(np.ceil(corner - 1e-6), 0))
    high = np.minimum(np.ceil(high + fade), np.minimum(np.floor(end + 1e-6), scan.shape))
    return _box_of_edges(np.minimum(low, box.start), np.maximum(high, box.stop))


def _box_of_edges(low: np.ndarray, high: np.ndarray) -> Box:
    """Return a box from edges (3,) that are whole numbers."""
    return Box(as_triple(map(int, low)), as_triple(map(int, high)))


def cut_window(scan: Scan, window: Window, case: str | None, region: np.ndarray | None = None) -> Request:
    """Cut a window out of a scan and resample it to the working grid, as the request to a method.

    Beyond the scan's border the nearest voxel continues.

    Args:
        scan: the host scan.
        window: the window.
        case: the data set's case whose tumor is redrawn, if it is one.
        region: the region to paint in (X, Y, Z) bool, on the scan's grid, if there is one.
    """
    box, grid = _box_of_window(scan, window)
    part = scan.measured[(slice(None), *box.slices)]
    image = np.stack([resample(channel, grid, window.grid, "cubic") for channel in part]).astype(np.float32)
    if region is not None:
        region = resample(region[box.slices].astype(np.uint8), grid, window.grid, "nearest") > 0
    return Request(image, window.window_box, window.place, scan.limits, window.grid.spacing_mm, case, region)


def _box_of_window(scan: Scan, window: Window) -> tuple[Box, Grid]:
    """The box of a scan that a window can depend on, and its grid: a whole-body scan is not filtered as a whole."""
    grid = scan.grid
    low = as_triple(max(0, int(np.floor(a)) - _MARGIN) for a in window.start)
    high = as_triple(
        min(m, int(np.ceil(a + length / e)) + _MARGIN)
        for a, length, e, m in zip(window.start, window.grid.extent_mm, grid.spacing_mm, grid.shape, strict=True)
    )
    box = Box(low, high)
    return box, grid.subgrid(box.start, grid.spacing_mm, box.shape)
