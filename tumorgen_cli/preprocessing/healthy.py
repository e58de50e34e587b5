"""The preprocessed scans without labels, from which methods learn what healthy tissue looks like.

They lie in the workspace's `unlabeled/`, one folder a scan. A scan is known by its voxels, not by its name, because a
held-out case under another name teaches a method what it is scored on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeVar, overload

import numpy as np

from tumorgen_cli.data.hosts import describe_matches
from tumorgen_cli.data.patients import scans_of_same_patients
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.cases import Case, CaseRecord, is_done, load_case, read_case_record
from tumorgen_cli.system.errors import DataError, Fault, StateError, abbreviate_list, say_count
from tumorgen_cli.system.files import file_version

T = TypeVar("T")

#: Most scans of a folder that are learned from. A plan for a CPU draws about 2,000 patches of healthy scans, one for a
#: GPU more than 20,000: of 1,000 scans each gives only a few patches, and more scans would hardly be seen twice. On the
#: working grid a chest CT takes about 0.1 GB, so that this many take about 100 GB.
MOST_SCANS = 1000


class Scans(Sequence[Case]):
    """Preprocessed scans that are opened when they are used: thousands of them would be too many open files."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)

    def __len__(self) -> int:
        """The number of scans."""
        return len(self.folders)

    @overload
    def __getitem__(self, index: int) -> Case: ...
    @overload
    def __getitem__(self, index: slice) -> Scans: ...
    def __getitem__(self, index: int | slice) -> Case | Scans:
        """The scan of a number; of a slice, these scans, not opened."""
        return Scans(self.folders[index]) if isinstance(index, slice) else load_case(self.folders[index])

    def __iter__(self) -> Iterator[Case]:
        """The scans, one after the other."""
        return map(load_case, self.folders)


def choose_evenly(items: Sequence[T], most: int) -> list[T]:
    """At most `most` items in their order, at even distances: the first and the last are among them."""
    if len(items) <= most:
        return list(items)
    return [items[int(at)] for at in np.linspace(0, len(items) - 1, most).round()]


def unlabeled_folders(workspace: Workspace) -> tuple[Path, ...]:
    """The folders of the preprocessed scans without labels, in the order of their names."""
    return tuple(path.parent for path in sorted(workspace.unlabeled.glob("*/case.json")))


def unlabeled_records(workspace: Workspace) -> tuple[CaseRecord, ...]:
    """The records of these scans, in the order of their names; a record is read once, as long as its file is the same.

    Raises:
        StateError: a record is damaged.
    """
    return tuple(_read_version(folder, file_version(folder / "case.json")) for folder in unlabeled_folders(workspace))


@lru_cache(maxsize=1 << 14)
def _read_version(folder: Path, _version: tuple[int, int, int] | None) -> CaseRecord:
    return read_case_record(folder)


def case_records(workspace: Workspace) -> tuple[CaseRecord, ...]:
    """The records of the preprocessed cases of the data set.

    Raises:
        StateError: a record is damaged.
    """
    splits = workspace.splits()
    folders = [workspace.cases / case for case in (*splits.train, *splits.test)]
    versions = {folder: file_version(folder / "case.json") for folder in folders}
    return tuple(_read_version(folder, version) for folder, version in versions.items() if version is not None)


def labeled_twins(workspace: Workspace) -> dict[str, str]:
    """The scans without labels that have the voxels of a preprocessed case of the data set; the case, by the scan."""
    cases = {record.scan: record.case for record in case_records(workspace)}
    return {each.case: cases[each.scan] for each in unlabeled_records(workspace) if each.scan in cases}


def open_healthy(workspace: Workspace, plan: Plan) -> Scans:
    """The scans without labels to learn from; there may be none.

    Raises:
        StateError: a record is damaged, or scans were preprocessed by another plan.
        DataError: scans have the voxels of cases of the data set, or are of a held-out patient.
    """
    names = [folder.name for folder in unlabeled_folders(workspace)]
    stale = [name for name in names if not is_done(plan, name, workspace.unlabeled / name)]
    if stale:
        found = f"{say_count(len(stale), 'scan')} made by another plan ({abbreviate_list(stale)})"
        remedy = "run `tumorgen preprocess --healthy DIR` again, or delete the folder to do without"
        fault = Fault(str(workspace.unlabeled), found, "the present plan's", remedy)
        raise StateError("Unlabeled scans are stale", [fault])
    splits = workspace.splits()
    twins = scans_of_same_patients(names, splits.test, splits.patients) | labeled_twins(workspace)
    if twins:
        raise DataError("Labeled cases are among the healthy scans", [twins_fault(str(workspace.unlabeled), twins)])
    return Scans(unlabeled_folders(workspace))


def twins_fault(where: str, twins: Mapping[str, str]) -> Fault:
    """The fault of scans without labels that are cases of the data set; `twins` gives the case by the scan."""
    found = f"{len(twins)} of the data set's own cases, or scans of their names or patients ({describe_matches(twins)})"
    remedy = "remove them, or rename what is another scan: held-out cases teach nothing"
    return Fault(where, found, "other scans", remedy)
