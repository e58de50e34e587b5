"""Which cases' tumors lie in which organ, and which cases have none: to learn in one organ and to paint in another.

Reads label files.

Source: DiffTumor, section 4 (generalisation: trained on one organ, painted in others).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from tumorgen_cli.data.dataset import Dataset, find_tumor_names, organ_labels, read_dataset
from tumorgen_cli.data.splits import Splits
from tumorgen_cli.data.volumes import read_volume
from tumorgen_cli.geometry import Box, Triple
from tumorgen_cli.system.errors import DataError, Fault, PlanError
from tumorgen_cli.system.files import link_or_copy
from tumorgen_cli.system.json_records import read_plain, unknown_name_fault, write_json

_SHELL_MM = 6.0  # around a tumor, whose own voxels have lost the organ's label
_TOUCHING = np.ones((3, 3, 3))


def find_tumor_organs(labels: np.ndarray, tumor: int, organs: Sequence[int], spacing_mm: Triple) -> set[int]:
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


def select_organ_cases(dataset: Dataset, organ: str, train: Collection[str]) -> list[str]:
    """The cases with a tumor all of whose tumors lie in an organ.

    Raises:
        PlanError: no such label, or it is the tumor's. DataError: none of them is among the training cases, `train`.
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
        told = f"no training case whose tumors all lie in {organ} (held out: {len(found)})"
        fault = Fault(
            str(dataset.path),
            told,
            "one or more",
            "name another organ or data set, or hold out other cases (splits_final.json)",
        )
        raise DataError("There is nothing to learn from", [fault])
    return found


def write_tumor_free_subset(path: Path, out: Path, tumor_name: str) -> Path:
    """A raw data set, in `out`, of those cases of another that are free of tumors for certain.

    They have no voxel of any label that is called `tumor_name` or whose name speaks of a tumor; where there is no such label, of any.

    Raises:
        DataError: there is no such case.
    """
    labels = [*read_plain(path / "dataset.json", "every nnU-Net raw data set has one").get("labels", {})]
    named = [name for name in labels if name.lower() == tumor_name.lower() or name in find_tumor_names(labels)]
    suspects = [*named, "ignore"] if named else [name for name in labels if name != "background"]
    free = []
    if suspects:
        dataset = read_dataset(path, suspects[0])
        values = [dataset.labels[name] for name in suspects if name in labels]
        free = [case for case in dataset.cases if not np.isin(read_volume(dataset.label_file(case))[0], values).any()]
    if not free:
        found = f"no case without a voxel of {', '.join(named or suspects) or 'any label, for there is none'}"
        told = "no label's name speaks of a tumor, so any may be one" if not named else "such labels may be tumors"
        remedy = f"give scans that you know to be free of tumors, with --healthy instead of --paint-in (--healthy {path} if all of these are)"
        raise DataError(
            "Cases without a tumor cannot be told", [Fault(str(path), found, "one or more: " + told, remedy)]
        )
    return write_subset(dataset, free, out)


def write_subset(dataset: Dataset, cases: Sequence[str], out: Path, splits: Splits | None = None) -> Path:
    """A raw data set of some cases of another, for commands that take a data set or a folder of scans; returns `out`.

    With `splits` it has a `splits_final.json` that holds out the same of its cases. Files of other cases are removed from `out`.
    """
    (out / "dataset.json").unlink(missing_ok=True)
    wanted = {out / "labelsTr" / dataset.label_file(case).name: dataset.label_file(case) for case in cases}
    wanted |= {out / "imagesTr" / path.name: path for case in cases for path in dataset.image_files(case)}
    for stray in {*out.glob("imagesTr/*"), *out.glob("labelsTr/*")} - {*wanted}:
        stray.unlink()
    for target, source in wanted.items():
        link_or_copy(source, target)
    if splits is not None:
        kept = {
            key: [case for case in group if case in set(cases)]
            for key, group in (("train", splits.train), ("val", splits.test))
        }
        write_json(out / "splits_final.json", [kept])
    plain = read_plain(dataset.path / "dataset.json", "it was there a moment ago")
    write_json(out / "dataset.json", {**plain, "numTraining": len(cases)})
    return out
