"""A host scan in memory, and the removal of its old tumors."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tumorgen_cli.data.channels import fill_paddings
from tumorgen_cli.data.checks import RESAMPLE, intensity_faults, label_faults, read_whole
from tumorgen_cli.data.labels import mask_of
from tumorgen_cli.data.volumes import describe_grid, hash_voxels, read_volume, same_geometry, stack_channels
from tumorgen_cli.geometry import Box, Grid
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.preprocessing.intensity import scan_limits
from tumorgen_cli.system.errors import DataError, Fault
from tumorgen_cli.tumors.removal import remove_tumors


class _Before(NamedTuple):
    """A scan before it was painted into: the image with its padding filled, the box that changed, the image there."""

    filled: np.ndarray
    box: Box
    part: np.ndarray


@dataclass(frozen=True)
class Scan:
    """A host scan.

    Attributes:
        name: name of the host.
        files: one file per channel.
        image: (C, X, Y, Z) in the scan's own units.
        dtypes: data type of each channel's file.
        grid: the scan's grid.
        limits: (C, 2), clip limits, computed without the scan's tumors, as in training. They stay when a tumor is
            removed.
        labels: (X, Y, Z); None if the scan has none.
        channels: names of the channels.
        before: how the scan was measured before it was painted into, if it has padding.
    """

    name: str
    files: tuple[Path, ...]
    image: np.ndarray
    dtypes: tuple[np.dtype[Any], ...]
    grid: Grid
    limits: np.ndarray
    labels: np.ndarray | None
    channels: tuple[str, ...]
    before: _Before | None = field(default=None, compare=False, repr=False)

    @functools.cached_property
    def measured(self) -> np.ndarray:
        """The image with its padding filled: what methods see, and where the body is looked for."""
        if self.before is None:
            return fill_paddings(self.image, self.channels)
        filled, box, part = self.before
        place = (slice(None), *box.slices)
        measured, now = filled.copy(), self.image[place]
        measured[place] = np.where(now == part, filled[place], now)
        return measured

    @functools.cached_property
    def voxels(self) -> str:
        """The hash of the first channel's voxels: it identifies the scan, whatever its name and file format."""
        return hash_voxels(self.image[0])

    def painted(self, image: np.ndarray, labels: np.ndarray | None, box: Box) -> Scan:
        """Return the scan with another image (C, X, Y, Z), which differs in a box alone, and other labels (X, Y, Z).

        What was padding stays filled: to look for padding in the whole scan again after each tumor would take most of
        the time of a pair with dozens of tumors.
        """
        if self.measured is self.image:
            scan = replace(self, image=image, labels=labels)
            vars(scan)["measured"] = image  # where `cached_property` keeps it
            return scan
        before = _Before(self.measured, box, self.image[(slice(None), *box.slices)].copy())
        return replace(self, image=image, labels=labels, before=before)


def read_scan(name: str, files: tuple[Path, ...], label: Path | None, plan: Plan) -> Scan:
    """Read a whole host scan.

    Args:
        name: name of the host.
        files: one file per channel.
        label: file of the labels, if there is one.
        plan: the plan.

    Raises:
        DataError: a file is unreadable, constant or not finite, label and image differ in geometry, or the plan does
            not know a label.
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
            fault = Fault(str(label), describe_grid(label_grid), describe_grid(grid), RESAMPLE)
            raise DataError("Mask and scan differ in geometry", [fault])
        if faults := label_faults(label, labels, plan.labels):
            raise DataError("A host's labels cannot be used", faults)
    limits = scan_limits(image, plan.channels, None if labels is None else mask_of(labels, plan.tumor_label))
    dtypes, names = tuple(volume.dtype for volume, _ in volumes), tuple(channel.name for channel in plan.channels)
    return Scan(name, files, image, dtypes, grid, limits, labels, names)


def remove_tumors_in_box(scan: Scan, box: Box, plan: Plan, seed: int) -> tuple[Scan, Box | None]:
    """Remove the tumors in a box of the scan's voxels.

    Returns:
        The scan without these tumors, and the box of all voxels that changed. Without a tumor there: the scan itself
        and None.
    """
    if scan.labels is None or not mask_of(scan.labels[box.slices], plan.tumor_label).any():
        return scan, None
    tumors = mask_of(scan.labels, plan.tumor_label)
    image, changed = remove_tumors(scan.image, tumors, box, scan.grid.spacing_mm, plan.paste, seed, scan.labels)
    return scan.painted(image, scan.labels, changed or box), changed
