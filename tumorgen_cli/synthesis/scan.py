"""A host scan in memory: where a box may lie, the window around it, and the way back into the scan's own grid."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tumorgen_cli.boxes import body_mask
from tumorgen_cli.errors import DataError, Fault
from tumorgen_cli.faults import intensity_faults, label_faults, read_whole
from tumorgen_cli.healing import heal
from tumorgen_cli.plan import Plan
from tumorgen_cli.records import Box, Grid, Request, Shape, Synthetic, Triple
from tumorgen_cli.volumes import describe, hash_voxels, read_volume, resample, same_geometry, stack_channels
from tumorgen_cli.windows import in_type, scan_limits, tight_box

_PLACING_VOXELS = 4_000_000
_LARGEST_GROWTH = 2  # a window may grow to twice the plan's per side
_MARGIN = 6  # voxels around a window that a cubic interpolation may look at


@dataclass(frozen=True)
class Scan:
    """A host: its image (C, X, Y, Z), the data type of each channel's file, geometry, clip limits, and labels where it has any.

    The limits are those of the scan without its tumors, as in training, and stay when one is taken away."""

    name: str
    files: tuple[Path, ...]
    image: np.ndarray
    dtypes: tuple[np.dtype[Any], ...]
    grid: Grid
    limits: np.ndarray
    labels: np.ndarray | None

    @functools.cached_property
    def voxels(self) -> str:
        """Which scan it is, whatever its name and packing: `hash_voxels` of the first channel."""
        return hash_voxels(self.image[0])


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


def read_scan(name: str, files: tuple[Path, ...], label: Path | None, plan: Plan) -> Scan:
    """A host scan, whole.

    Raises:
        DataError: unreadable, not finite, constant, label and image of different geometry, or a label that the plan does not know.
    """
    faults: list[Fault] = []
    volumes = []
    for path in files:
        volume = read_whole(path, faults)
        if volume is not None:
            faults += intensity_faults(path, volume[0])
            volumes.append(volume)
    if faults:
        raise DataError("A host scan cannot be used", faults)
    image, grid = stack_channels(files, volumes)
    labels = None
    if label is not None:
        labels, label_grid = read_volume(label)
        if not same_geometry(grid, label_grid):
            fault = Fault(str(label), describe(label_grid), describe(grid), "resample the mask to its scan")
            raise DataError("Mask and scan differ in geometry", [fault])
        if faults := label_faults(label, labels, plan.labels):
            raise DataError("A host's labels cannot be used", faults)
    limits = scan_limits(image, plan.channels, None if labels is None else labels == plan.tumor_label)
    return Scan(name, files, image, tuple(volume.dtype for volume, _ in volumes), grid, limits, labels)


def without_tumors(scan: Scan, box: Box, plan: Plan, seed: int) -> tuple[Scan, Box | None]:
    """The scan with the tumors in a box taken away (`healing.heal`), and the box of what changed; one without tumors there as it is."""
    if scan.labels is None:
        return scan, None
    tumors = scan.labels == plan.tumor_label
    image, healed = heal(scan.image, tumors, box, scan.grid.spacing_mm, plan.paste, seed, scan.labels)
    return replace(scan, image=image), healed


def allowed_region(scan: Scan, roi: np.ndarray | None) -> tuple[np.ndarray, int]:
    """Where box centres may lie: the region of interest, else the body. Returns a mask on every `stride`-th voxel."""
    stride = max(1, int(np.ceil((np.prod(scan.grid.shape) / _PLACING_VOXELS) ** (1 / 3))))
    if roi is not None:
        return roi[::stride, ::stride, ::stride] > 0, stride
    return body_mask(scan.image[0, ::stride, ::stride, ::stride].astype(np.float32)), stride


def window_shape(box: Box, grid: Grid, plan: Plan) -> Shape | None:
    """The sides of the window around a box of a scan's voxels: the plan's, or larger (multiples of 16) to hold a larger place for a
    tumor with context; None where one would be more than twice the plan's."""
    place = tumor_place(box, grid, plan.paste.feather_mm)
    shape = tuple(
        max(n, 16 * int(np.ceil(max(inner * e / s + 8, outer * e / s) / 16)))
        for n, inner, outer, e, s in zip(plan.window.shape, place.shape, box.shape, grid.spacing_mm, plan.window.spacing_mm, strict=True)
    )
    return None if any(n > _LARGEST_GROWTH * m for n, m in zip(shape, plan.window.shape, strict=True)) else shape  # type: ignore[return-value]


def too_large(where: str, box: Box, grid: Grid, plan: Plan) -> Fault:
    """The fault of a box that has no window."""
    size = "×".join(f"{n * s:.0f}" for n, s in zip(box.shape, grid.spacing_mm, strict=True))
    limit = "×".join(f"{_LARGEST_GROWTH * e:.0f}" for e in plan.window.extent_mm)
    return Fault(where, f"a box of {size} mm", f"at most {limit} mm", "use a smaller box, or plan with a larger window (--set window.shape=[...])")


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
    return Window(box, wide, tuple(start), grid, padded, inside, place.common(inside))  # type: ignore[arg-type]


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
    low, high, end = (start + np.array(ends) * window.spacing_mm / spacing for ends in (place.start, place.stop, window.shape))
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


def paste(
    scan: Scan, window: Window, request: Request, synthetic: Synthetic, plan: Plan, keeps_background: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The scan with the window's box replaced, and the tumor mask: image (C, X, Y, Z) of what the channels' data types hold, mask bool.

    Outside the box every voxel is the scan's own; inside it fades in over the plan's feather. The mask lies where the
    picture is mostly the synthetic one. Where the host is kept, `keeps_background` or as `synthetic.kept` says, the change is
    added, so that detail finer than the working grid stays; elsewhere the picture takes the host's place. Nothing comes below
    the clip window but where the host is.
    """
    box = window.box
    onto = scan.grid.subgrid(box.start, scan.grid.spacing_mm, box.shape)
    weight = feather(box, scan.grid, plan.paste.feather_mm)
    kept = float(keeps_background) if synthetic.kept is None else resample(synthetic.kept, window.grid, onto, "linear")
    image = scan.image.copy()
    for channel, (drawn, host) in enumerate(zip(synthetic.image, request.image, strict=True)):
        before = scan.image[(channel, *box.slices)].astype(np.float32)
        change = kept * resample(drawn - host, window.grid, onto, "linear") if np.any(kept) else 0.0
        if not np.all(kept == 1):
            change = change + (1 - kept) * (resample(drawn, window.grid, onto, "cubic") - before)
        floor = np.minimum(before, request.limits[channel, 0])  # noise and interpolation may end where no PET does, below 0
        after = np.maximum(before + weight * change, floor)
        image[(channel, *box.slices)] = in_type(after, scan.dtypes[channel])
    mask = np.zeros(scan.grid.shape, bool)
    mask[box.slices] = (resample(synthetic.mask, window.grid, onto, "linear") >= 0.5) & (weight >= 0.5)
    return image, mask
