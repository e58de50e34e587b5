"""A host scan in memory: body, tumors, and where a box may lie."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tumorgen_cli.data.checks import intensity_faults, label_faults, read_whole
from tumorgen_cli.data.volumes import describe_grid, hash_voxels, read_volume, same_geometry, stack_channels
from tumorgen_cli.geometry import Box, Grid
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.preprocessing.intensity import scan_limits
from tumorgen_cli.system.errors import DataError, Fault
from tumorgen_cli.tumors.boxes import body_mask
from tumorgen_cli.tumors.removal import remove_tumors

_PLACING_VOXELS = 4_000_000


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
            fault = Fault(str(label), describe_grid(label_grid), describe_grid(grid), "resample the mask to its scan")
            raise DataError("Mask and scan differ in geometry", [fault])
        if faults := label_faults(label, labels, plan.labels):
            raise DataError("A host's labels cannot be used", faults)
    limits = scan_limits(image, plan.channels, None if labels is None else labels == plan.tumor_label)
    return Scan(name, files, image, tuple(volume.dtype for volume, _ in volumes), grid, limits, labels)


def without_tumors(scan: Scan, box: Box, plan: Plan, seed: int) -> tuple[Scan, Box | None]:
    """The scan with the tumors in a box taken away (`removal.remove_tumors`), and the box of what changed; one without tumors there as it is."""
    if scan.labels is None:
        return scan, None
    tumors = scan.labels == plan.tumor_label
    image, healed = remove_tumors(scan.image, tumors, box, scan.grid.spacing_mm, plan.paste, seed, scan.labels)
    return replace(scan, image=image), healed


def allowed_region(scan: Scan, roi: np.ndarray | None) -> tuple[np.ndarray, int]:
    """Where box centres may lie: the region of interest, else the body. Returns a mask on every `stride`-th voxel."""
    stride = max(1, int(np.ceil((np.prod(scan.grid.shape) / _PLACING_VOXELS) ** (1 / 3))))
    if roi is not None:
        return roi[::stride, ::stride, ::stride] > 0, stride
    return body_mask(scan.image[0, ::stride, ::stride, ::stride].astype(np.float32)), stride
