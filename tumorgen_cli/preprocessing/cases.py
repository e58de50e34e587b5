"""Preprocessed cases on disk: their records, whether they are current, and memory-mapped loading."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from tumorgen_cli.data.contents import FileContent
from tumorgen_cli.geometry import Box, Shape, Triple
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.system.errors import Fault, StateError
from tumorgen_cli.system.files import check_hash, file_version
from tumorgen_cli.system.json_records import hash_value, read_written

ARRAYS = ("image.npy", "tumors.npy")
SUBLABELS = "sublabels.npy"  # a third array, of cases whose tumor has several labels
_REMEDY = "run `tumorgen preprocess`, for scans without labels with --healthy DIR"


@dataclass(frozen=True)
class Component:
    """A tumor component on the working grid: its number in `tumors.npy`, its tight box, whether it fits a window."""

    number: int
    box: Box
    fits: bool


@dataclass(frozen=True)
class ScanIdentity:
    """What tells a scan, under whatever name: the shape of its own grid and the hash of its first channel's voxels.

    The hash is that of `data.volumes.hash_voxels`.
    """

    shape: Shape
    voxels: str


@dataclass(frozen=True)
class HealthyScan:
    """A scan without labels that a method has learned from: its name, and what tells it under whatever name."""

    name: str
    scan: ScanIdentity


@dataclass(frozen=True)
class CaseRecord:
    """The content of `case.json`, which is written last: what is beside it, and a hash of what it was made from.

    `limits` holds the clip limits per channel, in the scan's intensities. `hashes` are those of the files in `arrays`.
    `files` is the content of the image files by their paths, for scans without labels alone: that of the data set's
    cases is in `contents.json`.
    """

    case: str
    inputs_hash: str
    shape: Shape
    spacing_mm: Triple
    limits: tuple[tuple[float, float], ...]
    components: tuple[Component, ...]
    hashes: tuple[str, ...]
    scan: ScanIdentity
    files: dict[str, FileContent]

    @property
    def arrays(self) -> tuple[str, ...]:
        """The files that hold its arrays."""
        return (*ARRAYS, SUBLABELS)[: len(self.hashes)]


@dataclass(frozen=True)
class Case:
    """A preprocessed case.

    `image` is (C, X, Y, Z) float32 in the scan's units; `tumors` is (X, Y, Z) with the numbers of components, 0
    outside. `sublabels` is (X, Y, Z) with the tumors' voxel values, 0 outside; None if the tumor has one label.
    """

    record: CaseRecord
    image: np.ndarray
    tumors: np.ndarray
    sublabels: np.ndarray | None = None


def inputs_hash(plan: Plan, case: str) -> str:
    """Hash everything that a preprocessed case depends on: data, working spacing, window and channel scaling."""
    return hash_value(
        [plan.fingerprint_hash, case, plan.window.spacing_mm, plan.window.shape, plan.channels, plan.tumor_label]
    )


def is_done(plan: Plan, case: str, folder: Path) -> bool:
    """Whether a folder holds this case, made from the current plan. The arrays are not read, see `is_whole`."""
    try:
        return read_case_record(folder).inputs_hash == inputs_hash(plan, case)
    except StateError:  # there is none, or it is damaged
        return False


def is_whole(folder: Path) -> bool:
    """Whether the arrays of a case are what was written; reads them."""
    try:
        record = read_case_record(folder)
        for name, expected in zip(record.arrays, record.hashes, strict=True):
            check_hash(folder / name, expected, _REMEDY)
    except StateError:
        return False
    return True


def read_case_record(folder: Path) -> CaseRecord:
    """Read the record of a preprocessed case.

    Raises:
        StateError: the case is not preprocessed, or its record is damaged.
    """
    message = "A case has to be preprocessed again"
    return read_written(CaseRecord, folder / "case.json", _REMEDY, "the record of a preprocessed case", message)


def load_case(folder: Path) -> Case:
    """Load the memory-mapped case in a folder; once in a process, as long as its files are the same.

    Arrays that are not younger than the record are taken for what was written, because it was written last; hundreds of
    cases are not read whole before each command. Younger ones are compared with its hashes.

    Raises:
        StateError: the case is not preprocessed, or its files are damaged.
    """
    return _load_version(folder, tuple(file_version(folder / name) for name in ("case.json", *ARRAYS, SUBLABELS)))


@lru_cache(maxsize=128)  # each keeps two files open; systems allow a process about a thousand
def _load_version(folder: Path, _versions: tuple[object, ...]) -> Case:
    record = read_case_record(folder)
    written = (folder / "case.json").stat().st_mtime_ns
    arrays = []
    for name, expected in zip(record.arrays, record.hashes, strict=True):
        path = folder / name
        if not path.is_file() or path.stat().st_mtime_ns > written:
            check_hash(path, expected, _REMEDY)
        try:
            arrays.append(np.load(path, mmap_mode="r"))
        except (ValueError, EOFError) as error:  # it was cut, and has its old time
            fault = Fault(str(path), str(error), "the array as written", _REMEDY)
            raise StateError("A file is damaged", [fault]) from error
    return Case(record, *arrays)
