"""Which cases' tumors lie in which organ, and which cases have none: to learn in one organ and to paint in another.

Reads label files.

Source: DiffTumor, section 4 (generalisation: trained on one organ, painted in others).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from tumorgen_cli.dataset import Dataset, read_dataset, tumor_names
from tumorgen_cli.errors import DataError, Fault, PlanError
from tumorgen_cli.files import unknown_name
from tumorgen_cli.records import Box, Triple
from tumorgen_cli.subsets import write_subset
from tumorgen_cli.volumes import read_volume

_SHELL_MM = 6.0  # around a tumor, whose own voxels have lost the organ's label
_TOUCHING = np.ones((3, 3, 3))


def organs_of(labels: np.ndarray, tumor: int, organs: Sequence[int], spacing_mm: Triple) -> set[int]:
    """The organs that the tumors of a case lie in: for each component the value that most of the shell around it has, 0 for none.

    `labels`: (X, Y, Z). Components touch by faces, edges or corners, as everywhere here.
    """
    parts, _ = ndimage.label(labels == tumor, _TOUCHING)
    reach = tuple(int(np.ceil(_SHELL_MM / s)) for s in spacing_mm)
    found = set()
    for number, slices in enumerate(ndimage.find_objects(parts), 1):
        around = Box(tuple(s.start for s in slices), tuple(s.stop for s in slices)).grown(reach, labels.shape).slices  # type: ignore[arg-type]
        own = parts[around] == number
        shell = ndimage.distance_transform_edt(~own, spacing_mm) <= _SHELL_MM
        counts = {organ: int((labels[around][shell] == organ).sum()) for organ in organs}
        best = max(counts, key=lambda organ: counts[organ], default=0)
        found.add(best if counts.get(best) else 0)
    return found


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
        labels, grid = read_volume(dataset.label_file(case))
        if organs_of(labels, dataset.tumor_label, tuple(organs.values()), grid.spacing_mm) == {organs[organ]}:
            found.append(case)
    return _some(dataset, found, f"whose tumors all lie in {organ}")


def tumor_free_subset(path: Path, out: Path) -> Path:
    """A raw data set of the cases of another that have no tumor voxel, in `out`; `path` itself where no label is a tumor's by its name.

    Raises:
        DataError: there is no such case, or more than one label may be the tumor's.
    """
    if not tumor_names(path):
        return path
    dataset = read_dataset(path)
    free = [case for case in dataset.cases if not (read_volume(dataset.label_file(case))[0] == dataset.tumor_label).any()]
    return write_subset(dataset, _some(dataset, free, "without a tumor"), out)


def _some(dataset: Dataset, cases: list[str], what: str) -> list[str]:
    if not cases:
        fault = Fault(str(dataset.path), f"no case {what}", "one case or more", "name another organ or data set")
        raise DataError("There are no such cases", [fault])
    return cases
