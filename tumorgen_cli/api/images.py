"""Images in memory: arrays, nibabel images and SimpleITK images as voxels and a grid, and back.

The kind of an image is known by the name of its module, so that neither nibabel nor SimpleITK is imported for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tumorgen_cli.geometry import Grid, as_triple
from tumorgen_cli.system.errors import DataError, Fault, PlanError

_LPS = np.diag([-1.0, -1.0, 1.0])  # nibabel counts x and y to the patient's right and front, SimpleITK to left and back

_GIVE_SPACING = "give spacing_mm=(x, y, z), the edges of a voxel in mm"


@dataclass(frozen=True)
class MemoryImage:
    """An image in memory.

    Attributes:
        channels: Voxels (C, X, Y, Z).
        grid: The geometry.
        as_image: Makes an image of the kind that was given from voxels (C, X, Y, Z).
        as_mask: Makes a mask of that kind from a mask (X, Y, Z) bool: an array stays bool, images get uint8.
    """

    channels: np.ndarray
    grid: Grid
    as_image: Callable[[np.ndarray], Any]
    as_mask: Callable[[np.ndarray], Any]


def read_memory(image: Any, spacing_mm: Sequence[float] | None) -> MemoryImage:
    """Voxels and geometry of an image in memory.

    Args:
        image: Array (X, Y, Z) or (C, X, Y, Z), nibabel image (channels last), or SimpleITK image (channels are
            components).
        spacing_mm: Voxel edges x, y, z in mm; for arrays alone, as images know their own.

    Raises:
        PlanError: no spacing for an array, or a spacing beside an image.
        DataError: not 3D, or a geometry with shear.
    """
    kind = library_of(image)
    if (spacing_mm is None) == (kind == "array"):
        found = "not given" if spacing_mm is None else "given beside an image, which has its own"
        remedy = _GIVE_SPACING if spacing_mm is None else "leave it out"
        raise PlanError("The spacing is not clear", [Fault("spacing_mm", found, "the spacing once", remedy)])
    if kind == "nibabel":
        return _read_nibabel(image)
    if kind == "SimpleITK":
        return _read_sitk(image)
    array = np.asarray(image)
    _check_axes(array, "(X, Y, Z) or (C, X, Y, Z)")
    channels = array if array.ndim == 4 else array[None]
    edges = [float(edge) for edge in (() if spacing_mm is None else spacing_mm)]
    if len(edges) != 3 or not all(0 < edge < math.inf for edge in edges):
        fault = Fault("spacing_mm", str(spacing_mm), "three positive numbers", _GIVE_SPACING)
        raise PlanError("The spacing is not clear", [fault])
    grid = Grid(as_triple(channels.shape[1:]), as_triple(edges))
    return MemoryImage(channels, grid, lambda voxels: voxels if array.ndim == 4 else voxels[0], lambda mask: mask)


def read_region(region: Any) -> tuple[np.ndarray, Grid | None]:
    """The values of a region (X, Y, Z), 0 where no tumor may be, and the geometry of an image; an array has none."""
    kind = library_of(region)
    if kind == "array":
        return np.asarray(region), None
    image = _read_nibabel(region) if kind == "nibabel" else _read_sitk(region)
    return image.channels[0], image.grid


def library_of(image: Any) -> str:
    """The library of an image: `nibabel`, `SimpleITK`, or `array` for everything else."""
    modules = {base.__module__.partition(".")[0] for base in type(image).__mro__}
    return next((name for name in ("nibabel", "SimpleITK") if name in modules), "array")


def _read_nibabel(image: Any) -> MemoryImage:
    array = np.asanyarray(image.dataobj)
    _check_axes(array, "(X, Y, Z) or (X, Y, Z, C)")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    axes = _LPS @ image.affine[:3, :3]
    spacing = np.linalg.norm(axes, axis=0)
    direction = axes / spacing
    if not np.allclose(direction.T @ direction, np.eye(3), atol=1e-3):
        remedy = "resample it along its axes (nibabel.processing.resample_to_output(image, (X, Y, Z)), in mm)"
        fault = Fault("image.affine", "axes that are not at right angles", "a rotation and a scale", remedy)
        raise DataError("An image has a sheared geometry", [fault])
    origin = _LPS @ image.affine[:3, 3]
    cosines = tuple(float(cosine) for cosine in direction.ravel())
    shape = as_triple(array.shape[:3])
    grid = Grid(shape, as_triple(float(s) for s in spacing), as_triple(float(o) for o in origin), cosines)

    def like(data: np.ndarray) -> Any:
        header = image.header.copy()
        header.set_data_dtype(data.dtype)
        return type(image)(data, image.affine, header)

    def as_image(channels: np.ndarray) -> Any:
        return like(np.moveaxis(channels, 0, -1) if array.ndim == 4 else channels[0])

    return MemoryImage(
        np.moveaxis(array, -1, 0) if array.ndim == 4 else array[None],
        grid,
        as_image,
        lambda mask: like(mask.astype(np.uint8)),
    )


def _read_sitk(image: Any) -> MemoryImage:
    from tumorgen_cli.data.volumes import from_sitk, to_sitk

    channels, grid = from_sitk(image)
    return MemoryImage(
        channels, grid, lambda voxels: to_sitk(voxels, grid), lambda mask: to_sitk(mask[None].astype(np.uint8), grid)
    )


def _check_axes(array: np.ndarray, expected: str) -> None:
    if array.ndim not in (3, 4) or min(array.shape, default=0) < 1:
        fault = Fault("image", f"shape {array.shape}", expected, "give one 3D scan, with one or several channels")
        raise DataError("An image is not a 3D scan", [fault])
