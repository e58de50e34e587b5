"""Which cases' tumors lie in which organ, and data sets of some cases alone: to learn in one organ and to paint in another.

Reads label files; writes a raw data set of hard links where the disk allows, else copies.

Source: DiffTumor, section 4 (generalisation: trained on one organ, painted in others).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from tumorgen_cli.dataset import Dataset
from tumorgen_cli.errors import DataError, Fault, PlanError
from tumorgen_cli.files import link_or_copy, read_plain, unknown_name, write_json
from tumorgen_cli.volumes import read_volume

_SHELL_VOXELS = 2  # around a tumor, whose own voxels have lost the organ's label


def organ_of(labels: np.ndarray, tumor: np.ndarray, organs: Sequence[int]) -> int:
    """The organ's value that most of the shell around a tumor has; 0 where there is none. `labels` and `tumor`: (X, Y, Z)."""
    shell = ndimage.binary_dilation(tumor, iterations=_SHELL_VOXELS) & ~tumor
    counts = {organ: int((labels[shell] == organ).sum()) for organ in organs}
    best = max(counts, key=lambda organ: counts[organ], default=0)
    return best if counts.get(best) else 0


def organ_cases(dataset: Dataset, organ: str) -> list[str]:
    """The cases with a tumor all of whose tumors lie in an organ.

    Raises:
        PlanError: no such label, or it is the tumor's. DataError: there is no such case.
    """
    organs = {name: value for name, value in dataset.labels.items() if value not in (0, dataset.tumor_label)}
    if organ not in organs:
        raise PlanError("No such organ", [unknown_name("--train-on", organ, organs)])
    found = []
    for case in dataset.cases:
        labels, _ = read_volume(dataset.label_file(case))
        parts, count = ndimage.label(labels == dataset.tumor_label)
        lying = {organ_of(labels, parts == number, tuple(organs.values())) for number in range(1, count + 1)}
        if lying == {organs[organ]}:
            found.append(case)
    return _some(dataset, found, f"whose tumors all lie in {organ}")


def tumor_free_cases(dataset: Dataset) -> list[str]:
    """The cases without a tumor voxel.

    Raises:
        DataError: there is no such case.
    """
    free = [case for case in dataset.cases if not (read_volume(dataset.label_file(case))[0] == dataset.tumor_label).any()]
    return _some(dataset, free, "without a tumor")


def write_subset(dataset: Dataset, cases: Sequence[str], out: Path) -> Path:
    """A raw data set of some cases of another, for commands that take a data set or a folder of scans; returns `out`."""
    for case in cases:
        for path in dataset.image_files(case):
            link_or_copy(path, out / "imagesTr" / path.name)
        link_or_copy(dataset.label_file(case), out / "labelsTr" / dataset.label_file(case).name)
    plain = read_plain(dataset.path / "dataset.json", "it was there a moment ago")
    write_json(out / "dataset.json", {**plain, "numTraining": len(cases)})
    return out


def _some(dataset: Dataset, cases: list[str], what: str) -> list[str]:
    if not cases:
        fault = Fault(str(dataset.path), f"no case {what}", "one case or more", "name another organ or data set")
        raise DataError("There are no such cases", [fault])
    return cases
