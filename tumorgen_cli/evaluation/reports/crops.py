"""Crops of pairs that the viewer in a page shows: small NIfTI files of 8 bits a voxel, in the pair's coordinates."""

from __future__ import annotations

import base64
import gzip
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tumorgen_cli.geometry import Box, Grid, as_triple

_MOST_VOXELS = 300_000  # a crop of so many gray voxels of noise packs to about 0.2 MB; larger ones are made coarser
_LEVELS = 255
_TO_RAS = np.diag([-1.0, -1.0, 1.0])  # grids count to the patient's left and back, NIfTI to the right and front


@dataclass(frozen=True)
class Crop:
    """A part of a pair around a tumor.

    Attributes:
        after: The painted scan (X, Y, Z) in 255 levels.
        before: The host, alike; empty where it is not known.
        mask: The tumor voxels (X, Y, Z), 0 and 1.
        affine: Voxels to mm (4, 4), as NIfTI has it.
        edges_mm: Voxel edges.
        levels: The values of level 0 and of level 255; others are cut to them.
        shown: The values shown at both ends of the colormap.
    """

    after: np.ndarray
    before: np.ndarray
    mask: np.ndarray
    affine: np.ndarray
    edges_mm: np.ndarray
    levels: np.ndarray
    shown: np.ndarray

    def packed(self) -> dict[str, str]:
        """The parts as text: `after` and `mask` are gzipped NIfTI, `before` the gzipped difference of levels.

        The difference, modulo 256, is 0 wherever nothing was painted, so that it packs well.
        """
        low, high = (float(each) for each in self.levels)
        parts = {
            "after": self._nifti(self.after, (high - low) / _LEVELS, low, (float(self.shown[0]), float(self.shown[1]))),
            "mask": self._nifti(self.mask, 1.0, 0.0, (0.0, 1.0)),
        }
        if self.before.size:
            parts["before"] = (self.after - self.before).tobytes(order="F")
        return {
            name: base64.b64encode(gzip.compress(content, mtime=0)).decode("ascii") for name, content in parts.items()
        }

    def _nifti(self, levels: np.ndarray, slope: float, intercept: float, shown: tuple[float, float]) -> bytes:
        """A NIfTI-1 file of 8 bits a voxel, with the values of its levels, and those that viewers show."""
        import nibabel

        header = nibabel.Nifti1Header()
        header.set_data_shape(levels.shape)
        header.set_data_dtype(np.uint8)
        header.set_zooms(self.edges_mm)
        header.set_sform(self.affine, code=1)
        header.set_qform(self.affine, code=1)
        header.set_xyzt_units("mm")
        header["magic"], header["vox_offset"] = b"n+1", 352
        header["scl_slope"], header["scl_inter"] = slope, intercept
        header["cal_min"], header["cal_max"] = shown
        return bytes(header.binaryblock) + b"\0" * 4 + levels.astype(np.uint8).tobytes(order="F")

    def arrays(self) -> dict[str, np.ndarray]:
        """The fields by name, to be kept in a file."""
        return dict(vars(self))


def make_crop(
    images: Mapping[str, np.ndarray],
    mask: np.ndarray,
    boxes: Sequence[Box],
    grid: Grid,
    limits: tuple[float, float],
    shown: tuple[float, float],
) -> Crop:
    """Cut a pair around the box of a tumor, with half of the box on each side.

    Where that has too many voxels, blocks of voxels are averaged: first along the axis with the finest voxels.

    Args:
        images: The scans (X, Y, Z): `after`, and `before` where it is known.
        mask: Tumor voxels (X, Y, Z) bool.
        boxes: The box of the tumor, and those that must be visible with it.
        grid: Their grid.
        limits: The clip window.
        shown: The values shown at both ends of the colormap.
    """
    hull = boxes[0]
    for box in boxes[1:]:
        hull = hull.hull(box)
    region = hull.grown(as_triple(math.ceil(edge / 2) for edge in hull.shape), grid.shape)
    blocks = _blocks(region.shape, grid.spacing_mm)
    highest = max(float(image[hull.slices].max()) for image in images.values())
    levels = shown[0], float(np.clip(highest, shown[1], max(limits[1], shown[1])))
    parts = {name: _leveled(_averaged(image[region.slices], blocks), levels) for name, image in images.items()}
    direction = _TO_RAS @ np.array(grid.direction, float).reshape(3, 3)
    edges = np.array(grid.spacing_mm) * blocks
    first = np.array(region.start) + (np.array(blocks) - 1) / 2  # middle of the first block, in voxels
    affine = np.eye(4)
    affine[:3, :3] = direction * edges
    affine[:3, 3] = _TO_RAS @ np.array(grid.origin_mm) + direction @ (first * np.array(grid.spacing_mm))
    return Crop(
        after=parts["after"],
        before=parts.get("before", np.empty(0, np.uint8)),
        mask=(_averaged(mask[region.slices].astype(np.float32), blocks) >= 0.5).astype(np.uint8),
        affine=affine,
        edges_mm=edges,
        levels=np.array(levels),
        shown=np.array(shown),
    )


def _blocks(shape: Sequence[int], spacing_mm: Sequence[float]) -> tuple[int, ...]:
    """How many voxels are averaged along each axis, so that few enough blocks remain."""
    blocks = [1, 1, 1]
    while math.prod(math.ceil(n / block) for n, block in zip(shape, blocks, strict=True)) > _MOST_VOXELS:
        finest = min(range(3), key=lambda axis: blocks[axis] * spacing_mm[axis])
        blocks[finest] += 1
    return tuple(blocks)


def _averaged(part: np.ndarray, blocks: Sequence[int]) -> np.ndarray:
    """The means of blocks of voxels; blocks that the part does not fill are left out."""
    if tuple(blocks) == (1, 1, 1):
        return part
    x, y, z = (n // block for n, block in zip(part.shape, blocks, strict=True))
    a, b, c = blocks
    whole = part[: x * a, : y * b, : z * c].astype(np.float32)
    return whole.reshape(x, a, y, b, z, c).mean(axis=(1, 3, 5))


def _leveled(values: np.ndarray, levels: tuple[float, float]) -> np.ndarray:
    low, high = levels
    shares = np.clip((values.astype(np.float32) - low) / max(high - low, 1e-9), 0, 1)
    return (shares * _LEVELS).round().astype(np.uint8)
