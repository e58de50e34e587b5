"""Planes through scans for the pages: gray pictures in true proportions, with outlines of masks that stay sharp.

A plane is drawn as SVG in millimeters, so that pictures, outlines and scale bars fit together at any size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tumorgen_cli.figures import (
    PLANES,
    View,
    bar_mm,
    box_mask,
    describe_mm,
    most_cut,
    plane_image,
    slice_numbers,
    upright,
)
from tumorgen_cli.geometry import Box, as_triple, tight_box


@dataclass(frozen=True)
class Plane:
    """A slice with its outlines.

    Attributes:
        name: Axial, coronal or sagittal.
        number: Number of the slice in the scan's file, from 1.
        count: Number of slices of the scan.
        size_mm: Width and height.
        sides: Letters of the left, right, top and bottom side.
        pictures: Gray pictures (rows, columns) uint8, by title.
        outlines: Outlines as SVG paths in mm, by title; without a path where nothing is cut.
    """

    name: str
    number: int
    count: int
    size_mm: tuple[float, float]
    sides: str
    pictures: Mapping[str, np.ndarray]
    outlines: Mapping[str, str]

    @property
    def bar_mm(self) -> float:
        """Length of the scale bar."""
        return bar_mm(self.size_mm[0])

    @property
    def bar_words(self) -> str:
        """Length of the scale bar in words."""
        return describe_mm(self.bar_mm)

    @property
    def words(self) -> str:
        """Which slice it is."""
        return f"{self.name}, slice {self.number} of {self.count}"


@dataclass(frozen=True)
class Center:
    """Where planes are cut.

    Attributes:
        region: The part of the scan that is shown, in its voxels.
        voxel: A voxel of the upright part.
    """

    region: Box
    voxel: tuple[int, ...]


def center_on(tumor: np.ndarray, boxes: Sequence[Box], view: View) -> Center:
    """Choose the planes that cut most of a tumor (X, Y, Z), or those through the boxes where there is none."""
    shown = tight_box(tumor > 0)
    for box in boxes:
        shown = box if shown is None else shown.hull(box)
    shown = shown or Box((0, 0, 0), as_triple(tumor.shape))
    margin = as_triple(math.ceil(view.context_mm / edge) for edge in view.spacing_mm)
    region = shown.grown(margin, tumor.shape)
    inside = upright(tumor[region.slices] > 0, view.direction)
    boxed = upright(box_mask(tumor.shape, boxes)[region.slices], view.direction)
    return Center(region, most_cut(inside if inside.any() else boxed))


def cut_planes(
    images: Mapping[str, np.ndarray], outlined: Mapping[str, np.ndarray], center: Center, view: View
) -> tuple[Plane, ...]:
    """Cut the axial, coronal and sagittal plane through a voxel.

    Args:
        images: Scans (X, Y, Z) of one grid, by title.
        outlined: Masks (X, Y, Z), by title.
        center: Where to cut.
        view: How the scans are shown.
    """
    shape = next(iter(images.values())).shape
    parts, masks = (
        {title: upright(each[center.region.slices], view.direction) for title, each in arrays.items()}
        for arrays in (images, outlined)
    )
    numbers = slice_numbers(shape, center.region, center.voxel, view.direction)
    spacing = view.upright_spacing
    found = []
    for name, axis, sides in PLANES:
        across, down = (a for a in range(3) if a != axis)
        edges = float(spacing[across]), float(spacing[down])
        index = center.voxel[axis]
        pictures = {title: to_gray(plane_image(part, axis, index), view) for title, part in parts.items()}
        paths = {title: outline_path(plane_image(mask, axis, index), edges) for title, mask in masks.items()}
        rows, columns = next(iter(pictures.values())).shape
        size = columns * edges[0], rows * edges[1]
        found.append(Plane(name, *numbers[axis], size, sides, pictures, paths))
    return tuple(found)


def cut_best_slice(
    before: np.ndarray, painted: Mapping[str, tuple[np.ndarray, np.ndarray]], box: Box, view: View
) -> dict[str, Plane]:
    """Cut one axial slice of a host with its box, and of every image painted into that box with its mask.

    The slice is the one in which all masks are cut best: for each mask, the cut area is compared with its largest cut,
    and the smallest of these shares is maximized.

    Args:
        before: The host scan, (X, Y, Z).
        painted: The images and masks, (X, Y, Z) each, by title.
        box: The box.
        view: How the scans are shown.

    Returns:
        The planes by title, the host first, as `before`.
    """
    margin = as_triple(math.ceil(view.context_mm / edge) for edge in view.spacing_mm)
    region = box.grown(margin, before.shape)
    boxed = box_mask(before.shape, [box])
    masks = [upright(mask[region.slices] > 0, view.direction) for _, mask in painted.values()]
    areas = [mask.sum(axis=(0, 1)) / max(1, mask.sum(axis=(0, 1)).max()) for mask in masks]
    inside = upright(boxed[region.slices], view.direction)
    # for masks that share no slice, the small term chooses a slice of the box
    index = int(np.argmax(np.min(areas, axis=0) + 1e-3 * inside.any(axis=(0, 1))))
    center = Center(region, (inside.shape[0] // 2, inside.shape[1] // 2, index))
    first = cut_planes({"after": before}, {"box": boxed}, center, view)[0]
    others = {
        title: cut_planes({"after": image}, {"mask": mask}, center, view)[0] for title, (image, mask) in painted.items()
    }
    return {"before": first, **others}


def to_gray(picture: np.ndarray, view: View) -> np.ndarray:
    """Turn values into gray levels, uint8, as the colormap of a view does."""
    low, high = view.value_range
    gray = np.clip((picture.astype(np.float32) - low) / max(high - low, 1e-9), 0, 1)
    if view.colormap.endswith("_r"):
        gray = 1 - gray
    return (gray * 255).round().astype(np.uint8)


def outline_path(mask: np.ndarray, edges_mm: tuple[float, float]) -> str:
    """Trace the edges of the pixels of a mask (rows, columns) as an SVG path in mm; empty for an empty mask."""
    inside = np.pad(np.asarray(mask) > 0, 1)
    width, height = edges_mm
    parts = []
    # a line lies wherever two neighbors differ; runs of such edges are drawn as one line
    for row, start, stop in _runs(inside[1:, 1:-1] != inside[:-1, 1:-1]):
        parts.append(f"M{_mm(start * width)} {_mm(row * height)}h{_mm((stop - start) * width)}")
    for column, start, stop in _runs((inside[1:-1, 1:] != inside[1:-1, :-1]).T):
        parts.append(f"M{_mm(column * width)} {_mm(start * height)}v{_mm((stop - start) * height)}")
    return "".join(parts)


def _runs(edges: np.ndarray) -> list[tuple[int, int, int]]:
    """The runs of true values in each row: row, start, stop."""
    steps = np.diff(np.pad(edges, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    starts, stops = np.argwhere(steps == 1), np.argwhere(steps == -1)
    return [(int(row), int(start), int(stop)) for (row, start), (_, stop) in zip(starts, stops, strict=True)]


def _mm(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
