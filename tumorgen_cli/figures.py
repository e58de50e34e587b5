"""Pictures of pairs and of training: arrays in, PNG files or pixel arrays out.

Volumes are shown upright and in radiological view: the patient's right and front on the left, the head on top. Figures
are made as objects, without pyplot, so previews can be drawn in any thread and leave no global state.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from tumorgen_cli.data.channels import has_own_unit, is_ct, is_pet, is_suv
from tumorgen_cli.geometry import Box, Grid, Triple, as_triple, tight_box
from tumorgen_cli.system.files import write_stream

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
#: name, axis of an upright volume that is cut through, what is on the left, right, top and bottom of the picture
PLANES = (("axial", 2, "RLAP"), ("coronal", 1, "RLSI"), ("sagittal", 0, "APSI"))
_MASK, _BOX = "#e0245e", "#1d9bf0"


@dataclass(frozen=True)
class View:
    """How a scan is shown.

    Attributes:
        spacing_mm: Voxel edges.
        value_range: The values shown at both ends of the colormap.
        direction: Direction cosines of the scan's grid, row by row.
        colormap: Name of a matplotlib colormap, `gray` or `gray_r`.
        context_mm: Margin around what is shown.
    """

    spacing_mm: Triple
    value_range: tuple[float, float]
    direction: Sequence[float] = _IDENTITY
    colormap: str = "gray_r"
    context_mm: float = 40.0

    @property
    def upright_spacing(self) -> np.ndarray:
        """Voxel edges in mm along the axes of `upright`."""
        order, _ = orientation(self.direction)
        return np.array(self.spacing_mm)[list(order)]

    @property
    def margin(self) -> np.ndarray:
        """`context_mm` in voxels along the axes of `upright`, rounded up."""
        return np.ceil(self.context_mm / self.upright_spacing).astype(int)


def display_style(channel: str) -> tuple[str, str]:
    """The colormap and the unit for a channel's name: PET dark on white, CT in HU, others without a unit.

    Uptake is in SUV where the name says so: PET and SPECT may also be in Bq/ml or in counts.
    """
    if is_pet(channel):
        return "gray_r", "SUV" if is_suv(channel) else "uptake"
    return ("gray", "HU") if is_ct(channel) else ("gray", "intensity")


def tumor_unit(channel: str) -> str:
    """Name of the unit in which tumors of a channel are measured (`preprocessing.intensity.to_comparable_units`)."""
    return "scan ranges" if has_own_unit(channel) else display_style(channel)[1]


def plane_image(volume: np.ndarray, axis: int, index: int) -> np.ndarray:
    """Cut a slice of an upright volume (X, Y, Z) as a picture (rows, columns) with row 0 on top.

    Axial slices have the front on top, others the head.

    Args:
        volume: A volume whose axes point left, back and up, as `upright` returns it.
        axis: The axis to cut through.
        index: Number of the slice.
    """
    flat = np.asarray(volume[(slice(None),) * axis + (index,)]).T
    return flat if axis == 2 else flat[::-1]


def upright(volume: np.ndarray, direction: Sequence[float]) -> np.ndarray:
    """View a volume (..., X, Y, Z) with its axes nearest to the patient's left, back and head, in this order."""
    order, flips = orientation(direction)
    leading = volume.ndim - 3
    turned = np.transpose(volume, (*range(leading), *(leading + axis for axis in order)))
    x, y, z = (slice(None, None, -1 if flip else 1) for flip in flips)
    return turned[..., x, y, z]


def upright_grid(grid: Grid) -> Grid:
    """The grid of the result of `upright`, with its origin at 0."""
    order, _ = orientation(grid.direction)
    return Grid(as_triple(grid.shape[a] for a in order), as_triple(grid.spacing_mm[a] for a in order))


def save_pair_preview(
    path: Path,
    before: np.ndarray,
    after: np.ndarray,
    mask: np.ndarray,
    boxes: Sequence[Box],
    view: View,
    title: str,
    unit: str = "SUV",
) -> None:
    """Save a picture of a pair: axial, coronal and sagittal planes of the scan before, after, and after with outlines.

    Each plane is the one that cuts most of the mask, or of the boxes if the mask is empty; without a box it goes
    through the middle of the volume.

    Each plane has its slice number, the letters of all four sides and a scale bar; the title ends with the volume and,
    of several tumors, with the number of those that a plane cuts.

    Args:
        path: The PNG file to write.
        before: The host scan, (X, Y, Z).
        after: The scan with the drawn tumor, (X, Y, Z).
        mask: The drawn mask, (X, Y, Z) in [0, 1], outlined in red; inside the boxes, if there are any.
        boxes: The boxes, outlined in blue.
        view: How the scans are shown.
        title: Title of the picture.
        unit: Unit of the intensities.
    """
    whole = Box((0, 0, 0), as_triple(before.shape))
    inside = functools.reduce(Box.hull, boxes) if boxes else tight_box(mask > 0.5) or whole
    margin = as_triple(math.ceil(view.context_mm / edge) for edge in view.spacing_mm)
    near = inside.grown(margin, before.shape)
    # what is outlined lies inside the boxes: the rest of the picture has most of the voxels
    single = [upright(box_mask(before.shape, [box])[inside.slices], view.direction) for box in boxes]
    marked = upright(mask[inside.slices] > 0.5, view.direction)
    boxed = functools.reduce(np.logical_or, single, np.zeros(marked.shape, bool))
    drawn = next((each for each in (marked, boxed) if each.any()), None)
    middle = tuple(n // 2 for n in marked.shape) if drawn is None else most_cut(drawn)
    center = tuple(
        n + (near.stop[axis] - inside.stop[axis] if flip else inside.start[axis] - near.start[axis])
        for n, axis, flip in zip(middle, *orientation(view.direction), strict=True)
    )
    before, after, mask = (upright(array[near.slices], view.direction) for array in (before, after, mask))
    boxed = upright(box_mask(whole.shape, boxes)[near.slices], view.direction)
    numbers = slice_numbers(whole.shape, near, center, view.direction)
    figure = _draw_planes((before, after), mask, boxed, center, numbers, view, unit)
    volume = describe_ml(float(np.count_nonzero(marked)) * math.prod(view.spacing_mm) / 1000)
    tumors, cut = count_cut([marked & each for each in single], middle)
    several = f" in {tumors} tumors, {cut} of them cut by these planes" if tumors > 1 else ""
    figure.suptitle(f"{title} · {volume}{several}", fontsize=10)
    _save(figure, path)


def display_range(limits: Sequence[float], images: Sequence[np.ndarray], box: Box) -> tuple[float, float]:
    """Choose the values shown at both ends of the colormap.

    The low end is that of the clip window. The high end is the highest 99.5th percentile of the images inside the box,
    but at least a tenth of the clip window and at most its high end.

    Args:
        limits: The clip window.
        images: The images that are shown with this range, (X, Y, Z) each.
        box: The box to look at.
    """
    low, high = (float(v) for v in limits)
    brightest = max(float(np.percentile(image[box.slices], 99.5)) for image in images)
    return low, float(np.clip(brightest, low + 0.1 * (high - low), high))


def pick_evenly(names: Sequence[str], most: int) -> list[str]:
    """Pick at most `most` names at even distances, including the first and the last."""
    return [names[i] for i in np.unique(np.linspace(0, len(names) - 1, min(most, len(names))).round().astype(int))]


def box_mask(shape: tuple[int, ...], boxes: Sequence[Box]) -> np.ndarray:
    """Mark the voxels of boxes in an array of a shape."""
    inside = np.zeros(shape, bool)
    for box in boxes:
        inside[box.slices] = True
    return inside


def save_grid_preview(
    path: Path,
    rows: Sequence[Sequence[np.ndarray]],
    row_titles: Sequence[str],
    column_titles: Sequence[str],
    low: float,
    high: float,
) -> None:
    """Save a table of images, dark for high values.

    Args:
        path: The PNG file to write.
        rows: The images of each row, (rows, columns) each; see `plane_image`.
        row_titles: Title of each row.
        column_titles: Title of each column.
        low: Value shown white.
        high: Value shown black.
    """
    columns = max(len(row) for row in rows)
    height, width = (max(image.shape[i] for row in rows for image in row) for i in (0, 1))
    figure = _figure(1.9 * columns + 0.9, min(3.0, 1.9 * height / width) * len(rows) + 0.4)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for r, row in enumerate(rows):
        for c, ax in enumerate(axes[r]):
            _hide_axes(ax)
            if c >= len(row):
                ax.set_axis_off()
                continue
            ax.imshow(row[c], cmap="gray_r", vmin=low, vmax=high, aspect=1.0, interpolation="nearest")
            if r == 0 and c < len(column_titles):
                ax.set_title(column_titles[c], fontsize=8)
            if c == 0 and r < len(row_titles):
                ax.set_ylabel(row_titles[r], fontsize=8)
    _save(figure, path)


def slice_numbers(
    shape: Sequence[int], region: Box, center: Sequence[int], direction: Sequence[float]
) -> list[tuple[int, int]]:
    """Number the slices through a voxel as the scan's file counts them.

    Args:
        shape: Shape of the scan as it is stored.
        region: The part of it, in its own voxels, that is shown.
        center: A voxel of the upright part.
        direction: Direction cosines of the scan's grid.

    Returns:
        For each axis of the upright part: the number of the slice, from 1, and the number of slices of the scan.
    """
    order, flips = orientation(direction)
    found = []
    for middle, axis, flip in zip(center, order, flips, strict=True):
        index = region.stop[axis] - 1 - middle if flip else region.start[axis] + middle
        found.append((index + 1, shape[axis]))
    return found


def bar_mm(width_mm: float) -> float:
    """Length of a scale bar: the longest of 1, 2 or 5 times a power of ten that takes a third of a width at most."""
    power = 10.0 ** math.floor(math.log10(width_mm / 3))
    return max(step * power for step in (1, 2, 5) if step * power <= width_mm / 3 * (1 + 1e-9))


def describe_mm(length: float) -> str:
    """A length as people read it: `5 mm`, `2 cm`."""
    return f"{length / 10:g} cm" if length >= 10 else f"{length:g} mm"


def describe_ml(volume: float) -> str:
    """A volume with two digits or more: `0.052 ml`, `2.0 ml`, `1240 ml`."""
    if volume <= 0:
        return "0 ml"
    return f"{volume:.{max(0, 1 - math.floor(math.log10(volume)))}f} ml"


def _draw_planes(
    images: tuple[np.ndarray, np.ndarray],
    mask: np.ndarray,
    boxed: np.ndarray,
    center: Sequence[int],
    numbers: Sequence[tuple[int, int]],
    view: View,
    unit: str,
) -> Figure:
    """Draw the three planes (rows) through a voxel, of the images and of the second one with outlines (columns)."""
    spacing = view.upright_spacing
    mm = np.array(mask.shape) * spacing
    sizes = [(mm[1] if axis == 0 else mm[0], mm[1] if axis == 2 else mm[2]) for _, axis, _ in PLANES]  # width, height
    inch = 2.6 / max(width for width, _ in sizes)
    heights = [inch * height for _, height in sizes]
    wide, tall = 3 * 2.6 + 1.1, sum(heights) + 0.8
    # places in inches: matplotlib's own layouts draw everything twice
    figure = _figure(wide, tall, None)
    bottom, right, top = 0.1 / tall, 1 - 1.0 / wide, 1 - 0.55 / tall
    places = {"left": 0.4 / wide, "bottom": bottom, "right": right, "top": top, "wspace": 0.02, "hspace": 0.02}
    axes = figure.subplots(3, 3, gridspec_kw={"height_ratios": heights, **places})
    low, high = view.value_range
    for row, (name, axis, sides), (width, height) in zip(axes, PLANES, sizes, strict=True):
        extent = (0.0, width, height, 0.0)
        for ax, volume in zip(row, (*images, images[1]), strict=True):
            _hide_axes(ax)
            picture = plane_image(volume, axis, center[axis]).astype(np.float32)
            shown = ax.imshow(picture, cmap=view.colormap, vmin=low, vmax=high, extent=extent, interpolation="nearest")
        _outline(row[2], plane_image(boxed, axis, center[axis]), extent, _BOX)
        _outline(row[2], plane_image(mask, axis, center[axis]), extent, _MASK)
        number, count = numbers[axis]
        row[0].set_ylabel(f"{name}\nslice {number} of {count}", fontsize=8)
        _annotate(row[0], sides, width, height, reverse=view.colormap.endswith("_r"))
    for ax, text in zip(axes[0], ("before", "after", "after: mask red, box blue"), strict=True):
        ax.set_title(text, fontsize=9)
    bar = figure.add_axes((right + 0.1 / wide, bottom, 0.15 / wide, top - bottom))
    figure.colorbar(shown, cax=bar, extend="max")
    bar.set_title(unit, fontsize=9)
    return figure


_SIDES = (  # where the letter of a side stands in its picture: left, right, top, bottom
    (0.02, 0.5, "left", "center"),
    (0.98, 0.5, "right", "center"),
    (0.5, 0.98, "center", "top"),
    (0.5, 0.02, "center", "bottom"),
)


def _annotate(ax: Axes, sides: str, width: float, height: float, reverse: bool) -> None:
    """Write the letters of the four sides, and a scale bar, into a picture of `width` times `height` mm.

    They are white with a black seam. In a `reverse` colormap, whose background is white, they are black with a white
    seam.
    """
    from matplotlib.patheffects import withStroke

    ink, around = ("black", "white") if reverse else ("white", "black")
    halo, seam = ([withStroke(linewidth=wide, foreground=around)] for wide in (2.4, 4.0))
    for letter, (x, y, across, down) in zip(sides, _SIDES, strict=True):
        ax.text(x, y, letter, transform=ax.transAxes, fontsize=8, ha=across, va=down, color=ink, path_effects=halo)
    length, left, foot = bar_mm(width), 0.05 * width, height - 0.05 * width
    ax.plot([left, left + length], [foot, foot], color=ink, linewidth=2, path_effects=seam, solid_capstyle="butt")
    ax.text(left, foot - 0.02 * width, describe_mm(length), fontsize=7, va="bottom", color=ink, path_effects=halo)


def orientation(direction: Sequence[float]) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """For each patient axis (left, back, head), the nearest array axis and whether it points the other way."""
    import scipy.optimize

    cosines = np.array(direction, float).reshape(3, 3)  # column j: where index axis j points
    _, order = scipy.optimize.linear_sum_assignment(-np.abs(cosines))
    return tuple(int(j) for j in order), tuple(bool(cosines[i, j] < 0) for i, j in enumerate(order))


def count_cut(tumors: Sequence[np.ndarray], center: Sequence[int]) -> tuple[int, int]:
    """The number of masks (X, Y, Z) that are not empty, and of those that a plane through a voxel cuts."""
    found = [each for each in tumors if each.any()]
    cut = [any(each.take(n, axis).any() for axis, n in enumerate(center)) for each in found]
    return len(found), sum(cut)


def most_cut(mask: np.ndarray) -> tuple[int, ...]:
    """The voxel whose three planes each cut most of the mask; of several such planes the middle one."""
    areas = (mask.sum(axis=tuple(other for other in range(3) if other != axis)) for axis in range(3))
    best = (np.flatnonzero(area == area.max()) for area in areas)
    return tuple(int(planes[len(planes) // 2]) for planes in best)


def _outline(ax: Axes, mask: np.ndarray, extent: tuple[float, float, float, float], color: str) -> None:
    """Outline a mask, with a white seam. A margin of one voxel closes the outline at the border of the picture."""
    from matplotlib.patheffects import withStroke

    if not (mask > 0.5).any():
        return
    rows, columns = mask.shape
    left, right, bottom, top = extent
    dx, dy = (right - left) / columns, (bottom - top) / rows
    x = left + dx * (np.arange(-1, columns + 1) + 0.5)
    y = top + dy * (np.arange(-1, rows + 1) + 0.5)
    drawn = ax.contour(x, y, np.pad(mask.astype(np.float32), 1), levels=[0.5], colors=[color], linewidths=1.3)
    drawn.set(path_effects=[withStroke(linewidth=2.6, foreground="white")])
    ax.set(xlim=(left, right), ylim=(bottom, top))


def _hide_axes(ax: Axes) -> None:
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=100, layout=layout, facecolor="white")


def _save(figure: Figure, path: Path) -> None:
    write_stream(path, lambda stream: figure.savefig(stream, format="png", metadata={"Software": None}))
