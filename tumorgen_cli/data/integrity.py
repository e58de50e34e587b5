"""Check every file of a data set in one pass: it is complete, and its geometry, labels and values are valid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tumorgen_cli.data.checks import (
    channel_faults,
    geometry_faults,
    intensity_faults,
    label_faults,
    list_images,
    list_scans,
    read_whole,
)
from tumorgen_cli.data.dataset import Dataset
from tumorgen_cli.data.entries import lost_file_faults
from tumorgen_cli.data.labels import describe_labels, mask_of
from tumorgen_cli.data.volumes import warn_of_skewed
from tumorgen_cli.data.workers import map_cases
from tumorgen_cli.geometry import Grid
from tumorgen_cli.system.console import Ticker
from tumorgen_cli.system.errors import DataError, Fault, say_count


@dataclass(frozen=True)
class CaseCheck:
    """The faults of one case and its number of tumor voxels (None if the label cannot be read)."""

    case: str
    faults: tuple[Fault, ...]
    tumor_voxels: int | None


@dataclass(frozen=True)
class CaseVoxels:
    """A case without faults: an array (X, Y, Z) per channel in the file's data type, tumor mask and geometry."""

    channels: tuple[np.ndarray, ...]
    tumor: np.ndarray
    grid: Grid


def file_faults(dataset: Dataset) -> list[Fault]:
    """Find the faults of imagesTr and labelsTr, or of listed files, that their names show; no file is opened."""
    if dataset.entries is not None:
        return lost_file_faults({case: (*each.images, each.label) for case, each in dataset.entries.items()})
    images, labels, ending = dataset.path / "imagesTr", dataset.path / "labelsTr", dataset.file_ending
    scans, faults = list_scans(images, (ending,))
    if not scans:
        found = "no cases" if images.is_dir() else "no such folder"
        remedy = "put the scans there, or correct file_ending in dataset.json"
        faults.append(Fault(str(images), found, f"files <case>_0000{ending}", remedy))
    faults += channel_faults(scans, images, dataset.channel_names, ending)
    marked, more = list_images(labels, (ending,))
    faults += more
    cases = {stem for _, stem in marked}
    for case in sorted(scans.keys() - cases):
        remedy = "add the label (all background for a tumor-free scan), or move the image to imagesTs"
        faults.append(Fault(str(dataset.label_file(case)), "no such file", f"the label of image {case}", remedy))
    for case in sorted(cases - scans.keys()):
        where, expected = str(dataset.label_file(case)), f"imagesTr/{dataset.image_files(case)[0].name}"
        faults.append(Fault(where, "a label without an image", expected, "add the image or remove the label"))
    return faults


def damage_faults(dataset: Dataset, workers: int | None = None, ticker: Ticker | None = None) -> list[Fault]:
    """Read every file of a data set, and return the faults of those that are truncated, damaged or invalid."""
    return [fault for check in map_cases(_check_case_only, dataset, workers, ticker) for fault in check.faults]


def _check_case_only(dataset: Dataset, case: str) -> CaseCheck:
    return check_case(dataset, case)[0]


def check_case(dataset: Dataset, case: str) -> tuple[CaseCheck, CaseVoxels | None]:
    """Read and check the files of a case that are there (`file_faults` finds the others).

    Voxels are returned only if there is no fault.
    """
    faults: list[Fault] = []
    paths = [path for path in (*dataset.image_files(case), dataset.label_file(case)) if path.is_file()]
    volumes = {path: volume for path in paths if (volume := read_whole(path, faults)) is not None}
    label = volumes.pop(dataset.label_file(case), None)
    for path, (array, _) in volumes.items():
        faults += intensity_faults(path, array)
    grids = {path: grid for path, (_, grid) in volumes.items()}
    tumor = None
    if label is not None:
        faults += label_faults(dataset.label_file(case), label[0], dataset.labels)
        grids[dataset.label_file(case)] = label[1]
        tumor = mask_of(label[0], dataset.tumor_label)
    faults += geometry_faults(grids)
    check = CaseCheck(case, tuple(faults), None if tumor is None else int(np.count_nonzero(tumor)))
    if faults or tumor is None or len(volumes) < len(dataset.channel_names):
        return check, None
    return check, CaseVoxels(tuple(array for array, _ in volumes.values()), tumor, next(iter(grids.values())))


def conclude_checks(dataset: Dataset, checks: Sequence[CaseCheck]) -> tuple[str, ...]:
    """Raise the faults of all cases, or return the cases without a tumor.

    Raises:
        DataError: there are faults (all are listed), or no case has a tumor voxel.
    """
    faults = file_faults(dataset) + [fault for check in checks for fault in check.faults]
    counts = [check.tumor_voxels for check in checks if check.tumor_voxels is not None]
    if counts and not any(counts):
        named = describe_labels({dataset.tumor_name: dataset.tumor_label})
        found = f"no voxel of {named} in any of {say_count(len(counts), 'label file')}"
        remedy = "choose the right label with --tumor-label, or correct the files"
        faults.append(Fault(str(dataset.path / "labelsTr"), found, "a tumor in one case at least", remedy))
    if faults:
        raise DataError(f"{dataset.name} cannot be used: {len(faults)} fault{'s' * (len(faults) > 1)}", faults)
    warn_of_skewed(dataset.image_files(check.case)[0] for check in checks)
    return tuple(check.case for check in checks if check.tumor_voxels == 0)
