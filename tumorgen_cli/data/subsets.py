"""Data sets of some cases of another: those with tumors in one organ, or those without tumors.

They are for learning in one organ and painting in another. Label files are read.

Source:
    DiffTumor, section 4: generalization, trained on one organ and painted in others.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from tumorgen_cli.data.checks import NNUNET_FORMAT
from tumorgen_cli.data.contents import case_files
from tumorgen_cli.data.dataset import Dataset, read_dataset
from tumorgen_cli.data.entries import KEY as LISTED
from tumorgen_cli.data.labels import Values, find_tumor_names, mask_of, organ_labels, tumor_names, values_of
from tumorgen_cli.data.patients import write_patients
from tumorgen_cli.data.splits import HOLD_OUT, Splits
from tumorgen_cli.data.volumes import read_volume
from tumorgen_cli.geometry import Triple, as_triple, box_of_slices, shell_mm
from tumorgen_cli.system.claims import claim_folder
from tumorgen_cli.system.errors import DataError, Fault, PlanError
from tumorgen_cli.system.files import UNFINISHED
from tumorgen_cli.system.json_records import read_fields, read_plain, unknown_name_fault, write_json
from tumorgen_cli.system.links import copy_file, link_file

_RECORD = "subset.json"
_TOUCHING = np.ones((3, 3, 3))


def find_tumor_organs(labels: np.ndarray, tumor: Values, organs: Sequence[Values], spacing_mm: Triple) -> set[Values]:
    """Find the organs in which the tumors of a case lie.

    For each 26-connected tumor component, it is the most frequent organ in the shell around it
    (`geometry.shell_mm`): its own voxels have the tumor's label.

    Args:
        labels: Label map, (X, Y, Z).
        tumor: Value of the tumor.
        organs: Values of the organs.
        spacing_mm: Voxel edges.

    Returns:
        The values of the organs; 0 for a tumor without any organ around it.
    """
    parts, _ = ndimage.label(mask_of(labels, tumor), _TOUCHING)
    found: set[Values] = set()
    for number, slices in enumerate(ndimage.find_objects(parts), 1):
        tight = box_of_slices(slices)
        reach = shell_mm(np.count_nonzero(parts[tight.slices] == number), spacing_mm)
        around = tight.grown(as_triple(int(np.ceil(reach / s)) for s in spacing_mm), labels.shape).slices
        own = parts[around] == number
        shell = ndimage.distance_transform_edt(~own, spacing_mm) <= reach
        counts = {organ: int(mask_of(labels[around][shell], organ).sum()) for organ in organs}
        best = max(counts, key=lambda organ: counts[organ], default=0)
        found.add(best if counts.get(best) else 0)
    return found


def select_organ_cases(dataset: Dataset, organ: str, train: Collection[str]) -> list[str]:
    """Select the cases that have tumors, all of them in the given organ.

    Args:
        dataset: The data set.
        organ: Label name of the organ.
        train: The training cases.

    Raises:
        PlanError: there is no such organ label.
        DataError: no training case is selected.
    """
    organs = organ_labels(dataset.labels, dataset.tumor_label)
    if organ not in organs:
        raise PlanError("No such organ", [unknown_name_fault("--train-on", organ, organs)])
    found = []
    for case in dataset.cases:
        labels, grid = read_volume(dataset.label_file(case))
        if find_tumor_organs(labels, dataset.tumor_label, tuple(organs.values()), grid.spacing_mm) == {organs[organ]}:
            found.append(case)
    if not {*found} & {*train}:
        missing = f"no training case whose tumors all lie in {organ} (held out: {len(found)})"
        fault = Fault(
            str(dataset.path),
            missing,
            "one or more",
            f"name another organ or data set, or {HOLD_OUT}",
        )
        raise DataError("There is nothing to learn from", [fault])
    return found


def write_tumor_free_subset(path: Path, out: Path, tumor_name: str) -> Path:
    """Write a raw data set of the cases of another one that certainly have no tumor.

    These cases have no voxel of a label that is called `tumor_name` or whose name means a tumor. If there is no such
    label, they have no voxel of any label.

    Args:
        path: The folder of the data set.
        out: The folder to write.
        tumor_name: Name of the tumor label.

    Raises:
        DataError: there is no such case.
    """
    told = read_fields(path / "dataset.json", NNUNET_FORMAT, labels=dict)
    labels = [*told["labels"]]
    known = {part.lower() for part in (tumor_name, *tumor_names(tumor_name, {}))}
    named = [name for name in labels if name.lower() in known or name in find_tumor_names(labels)]
    suspects = [*named, "ignore"] if named else [name for name in labels if name != "background"]
    free = []
    if suspects:
        dataset = read_dataset(path, any_tumor=True)
        values = [value for name in suspects if name in labels for value in values_of(dataset.labels[name])]
        free = [case for case in dataset.cases if not np.isin(read_volume(dataset.label_file(case))[0], values).any()]
    if not free:
        found = f"no case without a voxel of {', '.join(named or suspects) or 'any label, for there is none'}"
        reason = "such labels may be tumors" if named else "no label is named as a tumor, so any may be one"
        remedy = f"give scans without tumors: --healthy instead of --paint-in (--healthy {path} if no case has one)"
        fault = Fault(str(path), found, "one or more: " + reason, remedy)
        raise DataError("Cases without a tumor cannot be found", [fault])
    return write_subset(dataset, free, out)


def write_subset(dataset: Dataset, cases: Sequence[str], out: Path, splits: Splits | None = None) -> Path:
    """Write a raw data set of some cases of another one: links to its images, copies of its labels.

    Files of other cases are removed from `out`.

    Args:
        dataset: The data set.
        cases: The cases to include.
        out: The folder to write.
        splits: If given, a `splits_final.json` with these splits, restricted to the cases, is written, and
            `patients.csv` where the patients are known.

    Returns:
        `out`.

    Raises:
        StateError: `out` holds other files, or a subset of another data set.
    """
    claim_folder(out, _RECORD, {"command": "compare or downstream", "subset_of": str(dataset.path)}, lambda: True)
    (out / "dataset.json").unlink(missing_ok=True)
    wanted = {out / name: path for case in cases for name, path in case_files(dataset, case).items()}
    for other in {*out.glob("imagesTr/*"), *out.glob("labelsTr/*")} - {*wanted}:
        if not other.name.startswith(UNFINISHED):
            other.unlink()
    for target, source in wanted.items():
        (copy_file if target.parent.name == "labelsTr" else link_file)(source, target)
    if splits is not None:
        kept = {
            key: [case for case in group if case in set(cases)]
            for key, group in (("train", splits.train), ("val", splits.test))
        }
        write_json(out / "splits_final.json", [kept])
        write_patients(out, splits.patients)
    plain = read_plain(dataset.path / "dataset.json", NNUNET_FORMAT)
    plain.pop(LISTED, None)  # the files of the subset have nnU-Net's names
    write_json(out / "dataset.json", {**plain, "numTraining": len(cases)})
    return out
