"""Pictures of pairs and of training: arrays in, one PNG out. Writes the path it is given, nothing else.

Volumes are shown upright and radiologically: the patient's right and front on the left, head up. Figures are made as
objects (no pyplot), so that previews may be drawn in any thread and leave no global state.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tumorgen_cli.data.channels import has_own_unit, is_ct, is_pet
from tumorgen_cli.geometry import Box, Grid, Triple
from tumorgen_cli.system.files import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
_PLANES = (("axial", 2, "R"), ("coronal", 1, "R"), ("sagittal", 0, "A"))  # name, axis cut through, side on the left
_MASK, _BOX = "#e0245e", "#1d9bf0"


def display_style(channel: str) -> tuple[str, str]:
    """(colour map, unit) for a channel's name: PET dark on white in SUV, CT in HU, others in intensity."""
    if is_pet(channel):
        return "gray_r", "SUV"
    return ("gray", "HU") if is_ct(channel) else ("gray", "intensity")


def tumor_unit(channel: str) -> str:
    """The unit in which a channel's tumors are measured (`windows.comparable`), for its name: that of its pictures, if it has one."""
    return "scan ranges" if has_own_unit(channel) else display_style(channel)[1]


def plane_image(volume: np.ndarray, axis: int, index: int) -> np.ndarray:
    """The slice of (X, Y, Z) at `index` of `axis` as (rows, columns), row 0 on top.

    Axes are taken to point left, back and up (see `upright`): axial has the front on top, the others the head.
    """
    flat = np.asarray(np.take(volume, index, axis)).T
    return flat if axis == 2 else flat[::-1]


def upright(volume: np.ndarray, direction: Sequence[float]) -> np.ndarray:
    """A view of (..., X, Y, Z) whose axes point, as nearly as may be, to the patient's left, back and head."""
    order, flips = _orientation(direction)
    leading = volume.ndim - 3
    turned = np.transpose(volume, (*range(leading), *(leading + axis for axis in order)))
    return turned[(..., *(slice(None, None, -1 if flip else 1) for flip in flips))]


def upright_grid(grid: Grid) -> Grid:
    """The grid of what `upright` gives, with its origin at 0."""
    order, _ = _orientation(grid.direction)
    return Grid(tuple(grid.shape[a] for a in order), tuple(grid.spacing_mm[a] for a in order))  # type: ignore[arg-type]


def save_pair_preview(
    path: Path,
    before: np.ndarray,
    after: np.ndarray,
    mask: np.ndarray,
    box: Box | None,
    spacing_mm: Triple,
    value_range: tuple[float, float],
    title: str,
    direction: Sequence[float] = _IDENTITY,
    context_mm: float = 80.0,
    colormap: str = "gray_r",
    unit: str = "SUV",
) -> None:
    """Three planes (axial, coronal, sagittal through the mask's centre) × before, after, after with mask and box.

    `before`, `after`: (X, Y, Z) in the scan's units. `mask`: (X, Y, Z) in [0, 1]; where it is empty the planes go through
    the box's centre (without a box: the volume's). `context_mm` is shown around box and mask.
    """
    order, _ = _orientation(direction)
    spacing = np.array(spacing_mm)[list(order)]
    boxed = np.zeros(before.shape, bool)
    if box is not None:
        boxed[box.slices] = True
    views = [upright(array, direction) for array in (before, after, mask, boxed)]
    region = _region((views[2] > 0.5) | views[3], np.ceil(context_mm / spacing).astype(int))
    before, after, mask, boxed = (view[region] for view in views)
    center = _center(mask > 0.5, boxed)
    _draw_planes((before, after), mask, boxed, center, spacing, value_range, title, colormap, unit, path)


def draw_axial_strip(
    image: np.ndarray,
    mask: np.ndarray,
    spacing_mm: Triple,
    value_range: tuple[float, float],
    direction: Sequence[float] = _IDENTITY,
    context_mm: float = 40.0,
    colormap: str = "gray_r",
    most: int = 24,
    width: int = 280,
) -> tuple[np.ndarray, int]:
    """Axial slices through a mask, one below the other, and their number: (frames * height, 2 * width, 3) uint8.

    Every frame shows the slice bare on the left and with the mask's outline on the right. `image`, `mask` (X, Y, Z); where
    the mask is longer than `most` slices, every n-th is shown. From the feet up.
    """
    order, _ = _orientation(direction)
    spacing = np.array(spacing_mm)[list(order)]
    image, mask = upright(image, direction), upright(mask, direction) > 0.5
    margin = np.array([np.ceil(context_mm / spacing[0]), np.ceil(context_mm / spacing[1]), 1]).astype(int)
    region = _region(mask, margin)
    image, mask = image[region], mask[region]
    indices = np.unique(np.linspace(0, image.shape[2] - 1, min(most, image.shape[2])).round().astype(int))
    onto = _enlarged(image.shape, spacing, width)
    frames = []
    for index in indices:
        bare = _frame(image, index, onto, value_range, colormap)
        frames.append(np.concatenate([bare, _inked(bare, plane_image(mask, 2, index)[onto], _MASK)], axis=1))
    return np.concatenate(frames), len(frames)


def display_range(limits: Sequence[float], images: Sequence[np.ndarray], box: Box) -> tuple[float, float]:
    """Shows the 99.5th percentile in a box of any of the images (X, Y, Z) at full scale, but never less than a tenth of the clip window."""
    low, high = (float(v) for v in limits)
    seen = max(float(np.percentile(image[box.slices], 99.5)) for image in images)
    return low, float(np.clip(seen, low + 0.1 * (high - low), high))


def pick_evenly(names: Sequence[str], most: int) -> list[str]:
    """At most so many of the names, at even distances, the first and the last among them."""
    return [names[i] for i in np.unique(np.linspace(0, len(names) - 1, min(most, len(names))).round().astype(int))]


def draw_box_slices(
    before: np.ndarray,
    painted: Sequence[tuple[np.ndarray, np.ndarray]],
    box: Box,
    spacing_mm: Triple,
    value_range: tuple[float, float],
    direction: Sequence[float] = _IDENTITY,
    context_mm: float = 40.0,
    colormap: str = "gray_r",
    width: int = 280,
) -> list[np.ndarray]:
    """One axial slice of a host, with the box, and of every (image, mask) painted into that box, outlined: (H, W, 3) uint8 each.

    The slice is one in which the mask that is cut worst, against its own largest cut, is cut best. All arrays (X, Y, Z).
    """
    order, _ = _orientation(direction)
    spacing = np.array(spacing_mm)[list(order)]
    boxed = np.zeros(before.shape, bool)
    boxed[box.slices] = True
    boxed = upright(boxed, direction)
    region = _region(boxed, np.ceil(context_mm / spacing).astype(int))
    views = [(upright(image, direction)[region], upright(mask, direction)[region] > 0.5) for image, mask in painted]
    areas = [mask.sum(axis=(0, 1)) / max(1, mask.sum(axis=(0, 1)).max()) for _, mask in views]
    index = int(
        np.argmax(np.min(areas, axis=0) + 1e-3 * boxed[region].any(axis=(0, 1)))
    )  # masks that share no slice: one of the box
    host = upright(before, direction)[region]
    onto = _enlarged(host.shape, spacing, width)
    frames = [
        _inked(_frame(host, index, onto, value_range, colormap), plane_image(boxed[region], 2, index)[onto], _BOX)
    ]
    return frames + [
        _inked(_frame(image, index, onto, value_range, colormap), plane_image(mask, 2, index)[onto], _MASK)
        for image, mask in views
    ]


def _enlarged(shape: Sequence[int], spacing: np.ndarray, width: int) -> tuple[np.ndarray, ...]:
    """Which voxels an axial picture `width` pixels wide shows, as an index of `plane_image`."""
    height = max(1, round(width * shape[1] * spacing[1] / (shape[0] * spacing[0])))
    rows, columns = ((np.arange(n) + 0.5) / n for n in (height, width))
    return np.ix_((rows * shape[1]).astype(int), (columns * shape[0]).astype(int))


def _frame(
    image: np.ndarray, index: int, onto: tuple[np.ndarray, ...], value_range: tuple[float, float], colormap: str
) -> np.ndarray:
    """An axial slice as a grey picture (H, W, 3) uint8."""
    low, high = value_range
    grey = np.clip((plane_image(image, 2, index)[onto] - low) / max(high - low, 1e-9), 0, 1)
    return np.repeat(
        ((1 - grey if colormap.endswith("_r") else grey) * 255).round().astype(np.uint8)[..., None], 3, axis=2
    )


def _inked(frame: np.ndarray, inside: np.ndarray, color: str) -> np.ndarray:
    """A copy of a picture (H, W, 3) with the edge of (H, W) bool in a colour."""
    out, edge = frame.copy(), np.pad(inside, 1)
    out[inside & ~(edge[2:, 1:-1] & edge[:-2, 1:-1] & edge[1:-1, 2:] & edge[1:-1, :-2])] = [
        int(color[i : i + 2], 16) for i in (1, 3, 5)
    ]
    return out


def save_grid_preview(
    path: Path,
    rows: Sequence[Sequence[np.ndarray]],
    row_titles: Sequence[str],
    column_titles: Sequence[str],
    vmin: float,
    vmax: float,
    contours: Sequence[Sequence[np.ndarray | None]] | None = None,
    aspect: float = 1.0,
    colormap: str = "gray_r",
) -> None:
    """Images (rows, columns; see `plane_image`) in a table.

    `contours`: masks outlined on the images. `aspect`: spacing of the rows over that of the columns.
    """
    columns = max(len(row) for row in rows)
    height, width = (max(image.shape[i] for row in rows for image in row) for i in (0, 1))
    figure = _figure(1.9 * columns + 0.9, min(3.0, 1.9 * aspect * height / width) * len(rows) + 0.4)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for r, row in enumerate(rows):
        for c, ax in enumerate(axes[r]):
            _bare(ax)
            if c >= len(row):
                ax.set_axis_off()
                continue
            ax.imshow(row[c], cmap=colormap, vmin=vmin, vmax=vmax, aspect=aspect, interpolation="nearest")
            if contours is not None and contours[r][c] is not None:
                _outline(ax, contours[r][c], None, _MASK)
            if r == 0 and c < len(column_titles):
                ax.set_title(column_titles[c], fontsize=8)
            if c == 0 and r < len(row_titles):
                ax.set_ylabel(row_titles[r], fontsize=8)
    _save(figure, path)


def _draw_planes(
    images: tuple[np.ndarray, np.ndarray],
    mask: np.ndarray,
    boxed: np.ndarray,
    center: tuple[int, ...],
    spacing: np.ndarray,
    value_range: tuple[float, float],
    title: str,
    colormap: str,
    unit: str,
    path: Path,
) -> None:
    mm = np.array(mask.shape) * spacing
    sizes = [(mm[1] if axis == 0 else mm[0], mm[1] if axis == 2 else mm[2]) for _, axis, _ in _PLANES]  # width, height
    inch = 2.6 / max(width for width, _ in sizes)
    figure = _figure(3 * 2.6 + 1.1, inch * sum(height for _, height in sizes) + 0.8)
    axes = figure.subplots(3, 3, gridspec_kw={"height_ratios": [height for _, height in sizes]})
    low, high = value_range
    for row, (name, axis, left), (width, height) in zip(axes, _PLANES, sizes, strict=True):
        extent = (0.0, width, height, 0.0)
        for ax, volume in zip(row, (*images, images[1]), strict=True):
            _bare(ax)
            picture = plane_image(volume, axis, center[axis]).astype(np.float32)
            shown = ax.imshow(picture, cmap=colormap, vmin=low, vmax=high, extent=extent, interpolation="nearest")
        _outline(row[2], plane_image(boxed, axis, center[axis]), extent, _BOX)
        _outline(row[2], plane_image(mask, axis, center[axis]), extent, _MASK)
        row[0].set_ylabel(name, fontsize=9)
        row[0].text(0.02, 0.98, left, transform=row[0].transAxes, fontsize=8, va="top", color="#d2691e")
    for ax, text in zip(axes[0], ("before", "after", "after: mask red, box blue"), strict=True):
        ax.set_title(text, fontsize=9)
    figure.colorbar(shown, ax=axes, fraction=0.03, pad=0.02, label=unit, extend="max")
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def _orientation(direction: Sequence[float]) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Per patient axis (left, back, head) the index axis nearest to it, and whether that runs the other way."""
    import scipy.optimize

    cosines = np.array(direction, float).reshape(3, 3)  # column j: where index axis j points
    _, order = scipy.optimize.linear_sum_assignment(-np.abs(cosines))
    return tuple(int(j) for j in order), tuple(bool(cosines[i, j] < 0) for i, j in enumerate(order))


def _region(shown: np.ndarray, margin: np.ndarray) -> tuple[slice, ...]:
    places = np.argwhere(shown)
    if not len(places):
        return (slice(None),) * 3
    low = np.maximum(places.min(axis=0) - margin, 0)
    return tuple(slice(int(a), int(b)) for a, b in zip(low, places.max(axis=0) + margin + 1, strict=True))


def _center(mask: np.ndarray, boxed: np.ndarray) -> tuple[int, ...]:
    for part in (mask, boxed):
        if part.any():
            return tuple(round(float(v)) for v in np.argwhere(part).mean(axis=0))
    return tuple(n // 2 for n in mask.shape)


def _outline(ax: Axes, mask: np.ndarray | None, extent: tuple[float, ...] | None, color: str) -> None:
    """Outlines a mask along voxel edges' middle; one voxel of background around it closes it at the picture's border."""
    if mask is None or not (mask > 0.5).any():
        return
    rows, columns = mask.shape
    left, right, bottom, top = extent or (-0.5, columns - 0.5, rows - 0.5, -0.5)
    dx, dy = (right - left) / columns, (bottom - top) / rows
    x = left + dx * (np.arange(-1, columns + 1) + 0.5)
    y = top + dy * (np.arange(-1, rows + 1) + 0.5)
    ax.contour(x, y, np.pad(mask.astype(np.float32), 1), levels=[0.5], colors=[color], linewidths=0.9)
    ax.set(xlim=(left, right), ylim=(bottom, top))


def _bare(ax: Axes) -> None:
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=100, layout="constrained", facecolor="white")


def _save(figure: Any, path: Path) -> None:
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
