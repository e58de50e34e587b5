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

from tumorgen_cli.data.channels import has_own_unit, is_ct, is_pet
from tumorgen_cli.geometry import Box, Grid, Triple, as_triple, tight_box
from tumorgen_cli.system.files import write_stream

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
_PLANES = (("axial", 2, "R"), ("coronal", 1, "R"), ("sagittal", 0, "A"))  # name, axis cut through, side on the left
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
        order, _ = _orientation(self.direction)
        return np.array(self.spacing_mm)[list(order)]

    @property
    def margin(self) -> np.ndarray:
        """`context_mm` in voxels along the axes of `upright`, rounded up."""
        return np.ceil(self.context_mm / self.upright_spacing).astype(int)


def display_style(channel: str) -> tuple[str, str]:
    """The colormap and the unit for a channel's name: PET dark on white in SUV, CT in HU, others without a unit."""
    if is_pet(channel):
        return "gray_r", "SUV"
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
    order, flips = _orientation(direction)
    leading = volume.ndim - 3
    turned = np.transpose(volume, (*range(leading), *(leading + axis for axis in order)))
    x, y, z = (slice(None, None, -1 if flip else 1) for flip in flips)
    return turned[..., x, y, z]


def upright_grid(grid: Grid) -> Grid:
    """The grid of the result of `upright`, with its origin at 0."""
    order, _ = _orientation(grid.direction)
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

    The planes go through the center of the mask, or of the boxes if the mask is empty, or of the volume without a box.
    With several boxes, each plane is the one that cuts most of the mask.

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
    boxed = _box_mask(before.shape, boxes)
    before, after, mask, boxed = (upright(array[near.slices], view.direction) for array in (before, after, mask, boxed))
    center = _center(mask > 0.5, boxed) if len(boxes) < 2 else _most_cut(mask > 0.5)
    figure = _draw_planes((before, after), mask, boxed, center, view, unit)
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def draw_axial_strip(
    image: np.ndarray, mask: np.ndarray, view: View, most: int = 24, width: int = 280
) -> tuple[np.ndarray, int]:
    """Draw axial slices through a mask, one below the other, from the feet up.

    Every frame shows the slice on the left, and the slice with the outline of the mask on the right.

    Args:
        image: The scan, (X, Y, Z).
        mask: The mask, (X, Y, Z).
        view: How the scan is shown.
        most: Largest number of slices; of a longer mask, slices at even distances are shown.
        width: Width of a slice in pixels.

    Returns:
        The picture, (frames * height, 2 * width, 3) uint8, and the number of frames.
    """
    image, mask = upright(image, view.direction), upright(mask, view.direction) > 0.5
    region = _region(mask, np.array([*view.margin[:2], 1]))
    image, mask = image[region], mask[region]
    indices = np.unique(np.linspace(0, image.shape[2] - 1, min(most, image.shape[2])).round().astype(int))
    pixels = _pixels(image.shape, view, width)
    frames = []
    for index in indices:
        frame = _frame(image, index, pixels, view)
        frames.append(np.concatenate([frame, _outlined(frame, plane_image(mask, 2, index)[pixels], _MASK)], axis=1))
    return np.concatenate(frames), len(frames)


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


def draw_box_slices(
    before: np.ndarray, painted: Sequence[tuple[np.ndarray, np.ndarray]], box: Box, view: View, width: int = 280
) -> list[np.ndarray]:
    """Draw one axial slice of a host with its box, and of every image painted into that box with its mask outlined.

    The slice is the one in which all masks are cut best: for each mask, the cut area is compared with its largest cut,
    and the smallest of these shares is maximized.

    Args:
        before: The host scan, (X, Y, Z).
        painted: The images and masks, (X, Y, Z) each.
        box: The box, outlined in blue.
        view: How the scans are shown.
        width: Width of a picture in pixels.

    Returns:
        The pictures, (H, W, 3) uint8 each, the host first.
    """
    boxed = upright(_box_mask(before.shape, [box]), view.direction)
    region = _region(boxed, view.margin)
    boxed, host = boxed[region], upright(before, view.direction)[region]
    views = [
        (upright(image, view.direction)[region], upright(mask, view.direction)[region] > 0.5) for image, mask in painted
    ]
    areas = [mask.sum(axis=(0, 1)) / max(1, mask.sum(axis=(0, 1)).max()) for _, mask in views]
    # for masks that share no slice, the small term chooses a slice of the box
    index = int(np.argmax(np.min(areas, axis=0) + 1e-3 * boxed.any(axis=(0, 1))))
    pixels = _pixels(host.shape, view, width)
    shown = [(host, boxed, _BOX), *((image, mask, _MASK) for image, mask in views)]
    return [
        _outlined(_frame(image, index, pixels, view), plane_image(inside, 2, index)[pixels], color)
        for image, inside, color in shown
    ]


def _box_mask(shape: tuple[int, ...], boxes: Sequence[Box]) -> np.ndarray:
    inside = np.zeros(shape, bool)
    for box in boxes:
        inside[box.slices] = True
    return inside


def _pixels(shape: Sequence[int], view: View, width: int) -> tuple[np.ndarray, ...]:
    """The index of `plane_image` that enlarges an axial slice to `width` pixels with the right proportions."""
    spacing = view.upright_spacing
    height = max(1, round(width * shape[1] * spacing[1] / (shape[0] * spacing[0])))
    rows, columns = ((np.arange(n) + 0.5) / n for n in (height, width))
    return np.ix_((rows * shape[1]).astype(int), (columns * shape[0]).astype(int))


def _frame(image: np.ndarray, index: int, pixels: tuple[np.ndarray, ...], view: View) -> np.ndarray:
    """An axial slice as a gray picture (H, W, 3) uint8."""
    low, high = view.value_range
    gray = np.clip((plane_image(image, 2, index)[pixels] - low) / max(high - low, 1e-9), 0, 1)
    if view.colormap.endswith("_r"):
        gray = 1 - gray
    return np.repeat((gray * 255).round().astype(np.uint8)[..., None], 3, axis=2)


def _outlined(frame: np.ndarray, inside: np.ndarray, color: str) -> np.ndarray:
    """A copy of a picture (H, W, 3) with the edge pixels of a mask (H, W) bool in a color."""
    out, edge = frame.copy(), np.pad(inside, 1)
    inner = edge[2:, 1:-1] & edge[:-2, 1:-1] & edge[1:-1, 2:] & edge[1:-1, :-2]
    out[inside & ~inner] = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return out


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


def _draw_planes(
    images: tuple[np.ndarray, np.ndarray],
    mask: np.ndarray,
    boxed: np.ndarray,
    center: Sequence[int],
    view: View,
    unit: str,
) -> Figure:
    """Draw the three planes (rows) through a voxel, of the images and of the second one with outlines (columns)."""
    spacing = view.upright_spacing
    mm = np.array(mask.shape) * spacing
    sizes = [(mm[1] if axis == 0 else mm[0], mm[1] if axis == 2 else mm[2]) for _, axis, _ in _PLANES]  # width, height
    inch = 2.6 / max(width for width, _ in sizes)
    heights = [inch * height for _, height in sizes]
    wide, tall = 3 * 2.6 + 1.1, sum(heights) + 0.8
    # places in inches: matplotlib's own layouts draw everything twice
    figure = _figure(wide, tall, None)
    bottom, right, top = 0.1 / tall, 1 - 1.0 / wide, 1 - 0.55 / tall
    places = {"left": 0.3 / wide, "bottom": bottom, "right": right, "top": top, "wspace": 0.02, "hspace": 0.02}
    axes = figure.subplots(3, 3, gridspec_kw={"height_ratios": heights, **places})
    low, high = view.value_range
    for row, (name, axis, left), (width, height) in zip(axes, _PLANES, sizes, strict=True):
        extent = (0.0, width, height, 0.0)
        for ax, volume in zip(row, (*images, images[1]), strict=True):
            _hide_axes(ax)
            picture = plane_image(volume, axis, center[axis]).astype(np.float32)
            shown = ax.imshow(picture, cmap=view.colormap, vmin=low, vmax=high, extent=extent, interpolation="nearest")
        _outline(row[2], plane_image(boxed, axis, center[axis]), extent, _BOX)
        _outline(row[2], plane_image(mask, axis, center[axis]), extent, _MASK)
        row[0].set_ylabel(name, fontsize=9)
        row[0].text(0.02, 0.98, left, transform=row[0].transAxes, fontsize=8, va="top", color="#d2691e")
    for ax, text in zip(axes[0], ("before", "after", "after: mask red, box blue"), strict=True):
        ax.set_title(text, fontsize=9)
    bar = figure.add_axes((right + 0.1 / wide, bottom, 0.15 / wide, top - bottom))
    figure.colorbar(shown, cax=bar, extend="max")
    bar.set_title(unit, fontsize=9)
    return figure


def _orientation(direction: Sequence[float]) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """For each patient axis (left, back, head), the nearest array axis and whether it points the other way."""
    import scipy.optimize

    cosines = np.array(direction, float).reshape(3, 3)  # column j: where index axis j points
    _, order = scipy.optimize.linear_sum_assignment(-np.abs(cosines))
    return tuple(int(j) for j in order), tuple(bool(cosines[i, j] < 0) for i, j in enumerate(order))


def _region(shown: np.ndarray, margin: np.ndarray) -> tuple[slice, ...]:
    """The slices of the tight box of a mask with a margin; everything for an empty mask."""
    tight = tight_box(shown)
    return (slice(None),) * 3 if tight is None else tight.grown(as_triple(map(int, margin)), shown.shape).slices


def _center(mask: np.ndarray, boxed: np.ndarray) -> tuple[int, ...]:
    """The center voxel of the mask, or of the box if the mask is empty, or of the array."""
    for part in (mask, boxed):
        if (tight := tight_box(part)) is not None:
            middle = np.argwhere(part[tight.slices]).mean(axis=0) + tight.start
            return tuple(round(float(v)) for v in middle)
    return tuple(n // 2 for n in mask.shape)


def _most_cut(mask: np.ndarray) -> tuple[int, ...]:
    """The voxel whose three planes each cut most of the mask."""
    areas = (mask.sum(axis=tuple(other for other in range(3) if other != axis)) for axis in range(3))
    return tuple(int(np.argmax(area)) for area in areas)


def _outline(ax: Axes, mask: np.ndarray, extent: tuple[float, float, float, float], color: str) -> None:
    """Outline a mask. A margin of one voxel closes the outline at the border of the picture."""
    if not (mask > 0.5).any():
        return
    rows, columns = mask.shape
    left, right, bottom, top = extent
    dx, dy = (right - left) / columns, (bottom - top) / rows
    x = left + dx * (np.arange(-1, columns + 1) + 0.5)
    y = top + dy * (np.arange(-1, rows + 1) + 0.5)
    ax.contour(x, y, np.pad(mask.astype(np.float32), 1), levels=[0.5], colors=[color], linewidths=0.9)
    ax.set(xlim=(left, right), ylim=(bottom, top))


def _hide_axes(ax: Axes) -> None:
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=100, layout=layout, facecolor="white")


def _save(figure: Figure, path: Path) -> None:
    write_stream(path, lambda stream: figure.savefig(stream, format="png", metadata={"Software": None}))
