"""Which cases are held out.

They are a fold of nnU-Net's `splits_final.json`, a fold as nnU-Net would make it, or every fifth case. Where patients
are known (`data.patients`), all cases of a patient are on one side.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tumorgen_cli.data.dataset import Dataset
from tumorgen_cli.data.patients import Patients, group_cases, straddling_faults
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import DataError, Fault, PlanError, say_count
from tumorgen_cli.system.json_records import read_plain

SPLITS = "splits_final.json"
#: remedy for splits that hold out the wrong cases
HOLD_OUT = "write a splits_final.json into the data set that holds out other cases, then plan again"
_WHOLE = "keep all cases of a patient in one part of each fold, or delete the file for folds of whole patients"
_REMEDY = 'give each case of the data set once per fold, in "train" or in "val"; or delete the file'


def make_splits(
    dataset: Dataset, fold: int | None, planned: Splits | None = None, patients: Patients | None = None
) -> Splits:
    """Choose the training cases and the held-out cases of a data set.

    They are a fold of the data set's `splits_final.json`. Without such a file, every fifth case (or patient) is held
    out, or, if a fold is requested, that one of the five folds that nnU-Net would make.

    Args:
        dataset: The data set.
        fold: Number of the fold; None means 0 if there are written folds.
        planned: The splits of an earlier plan. They are kept if a fold was requested for
            them, none is requested now, and no patient is on both of their sides.
        patients: The patients of the cases, which the splits keep. None: they are not known.

    Raises:
        DataError: the fold does not fit the data set, or has a patient on both sides.
        PlanError: there is no such fold.
    """
    patients = dict(patients or {})
    if (
        fold is None
        and planned is not None
        and planned.fold is not None
        and {*planned.train, *planned.test} <= {*dataset.cases}
        and not straddling_faults("", {"train": planned.train, "test": planned.test}, patients, "")
    ):
        console.note(f"splits: fold {planned.fold}, as planned before")
        return replace(planned, patients=patients)
    written, number = read_folds(dataset), fold or 0
    if written is None and fold is None:
        return Splits(*split_cases(dataset.cases, patients), patients=patients)
    where, folds = written or ("nnU-Net's own five", make_nnunet_folds(dataset.cases, 5, patients))
    if number >= len(folds):
        remedy = f"choose one of these, or remove {written[0]} for nnU-Net's five" if written else "choose one of these"
        raise PlanError(
            "No such fold", [Fault(f"--fold {number}", f"{len(folds)} in {where}", f"0 to {len(folds) - 1}", remedy)]
        )
    if written:
        check_folds(dataset, written[0], {number: folds[number]}, patients)
    console.note(f"splits: fold {number} of {where}")
    return replace(folds[number], fold=fold, patients=patients)


def read_folds(dataset: Dataset, preprocessed: Path | None = None) -> tuple[Path, list[Splits]] | None:
    """Read the `splits_final.json` of a data set: in its folder, in `preprocessed`, or in $nnUNet_preprocessed.

    Returns:
        The file and its folds, or None if there is no file.

    Raises:
        DataError: the file does not have nnU-Net's format.
    """
    folders = [
        *([preprocessed] if preprocessed else []),
        *([Path(named)] if (named := os.environ.get("nnUNet_preprocessed")) else []),
    ]
    places = (dataset.path, *(folder / dataset.name for folder in folders))
    path = next((place / SPLITS for place in places if (place / SPLITS).is_file()), None)
    if path is None:
        return None
    try:
        folds = [Splits(tuple(fold["train"]), tuple(fold["val"])) for fold in read_plain(path, _REMEDY)]
        folds[0]
    except (KeyError, IndexError, TypeError) as error:
        fault = Fault(str(path), f"no folds with train and val ({error!r})", "nnU-Net's format", _REMEDY)
        raise DataError("The splits cannot be read", [fault]) from error
    return path, folds


def check_folds(dataset: Dataset, path: Path, folds: Mapping[int, Splits], patients: Patients | None = None) -> None:
    """Check that folds fit a data set.

    Args:
        dataset: The data set.
        path: The file of the folds, for error messages.
        folds: The folds by number.
        patients: The patients of the cases, if they are known.

    Raises:
        DataError: the data set lacks cases, or cases or patients are in both parts of a fold.
    """
    strangers = {case for fold in folds.values() for case in (*fold.train, *fold.test)} - {*dataset.cases}
    faults = [
        Fault(f"{path}: {case}", "a case that the data set lacks", "one of its cases", _REMEDY)
        for case in sorted(strangers)
    ]
    faults += [
        Fault(f"{path}: {case}", f"in train and val of fold {number}", "in one of them", _REMEDY)
        for number, fold in folds.items()
        for case in sorted({*fold.train} & {*fold.test})
    ]
    if patients and not faults:
        for number, fold in folds.items():
            parts = {"train": fold.train, "val": fold.test}
            faults += straddling_faults(f"{path}, fold {number}", parts, patients, _WHOLE)
    if faults:
        raise DataError("The splits do not fit the data set", faults)


def find_fold(dataset: Dataset, splits: Splits) -> tuple[list[Splits], int]:
    """Find the fold that has the given splits.

    It is looked for in the written folds of the data set and, if a fold was requested for the splits, in the five folds
    that nnU-Net would make.

    Returns:
        All folds and the number of the found one; or the given splits as the only fold, number 0.
    """
    written = read_folds(dataset)
    for folds in (
        written[1] if written else [],
        make_nnunet_folds(dataset.cases, 5, splits.patients) if splits.fold is not None else [],
    ):
        for number, fold in enumerate(folds):
            if ({*fold.train}, {*fold.test}) == ({*splits.train}, {*splits.test}):
                return folds, number
    return [splits], 0


def make_nnunet_folds(cases: Sequence[str], count: int, patients: Patients | None = None) -> list[Splits]:
    """Make the folds that nnU-Net would make: the sorted names, shuffled with nnU-Net's seed.

    Where patients are known, they are shuffled instead of the cases, and each goes with all of its cases.

    Raises:
        DataError: there are fewer cases, or patients, than folds.
    """
    groups = group_cases(cases, patients or {})
    if len(groups) < count:
        remedy = "write a splits_final.json with your own folds into the data set, or ask for fewer folds"
        kind = "patient" if patients else "case"
        found, expected = f"{len(groups)} {kind}s", f"a {kind} to validate on per fold"
        raise DataError(f"Too few {kind}s", [Fault(say_count(count, "fold"), found, expected, remedy)])
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    found = generate_crossval_split([*groups], seed=12345, n_splits=count)  # the seed of nnU-Net's trainer
    parts = [
        [[case for each in fold[part] for case in groups[str(each)]] for part in ("train", "val")] for fold in found
    ]
    return [Splits(tuple(train), tuple(test)) for train, test in parts]


def split_cases(cases: Sequence[str], patients: Patients | None = None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (train, test): every fifth case (or patient) by name is held out, at least one if there are two."""
    groups = group_cases(cases, patients or {})
    ordered = [*groups]
    held_out = {*(ordered[4::5] or ordered[1::2][:1])}
    train, test = (
        sorted(case for patient, own in groups.items() if (patient in held_out) == wanted for case in own)
        for wanted in (False, True)
    )
    return tuple(train), tuple(test)


@dataclass(frozen=True)
class Splits:
    """Which cases are learned from and which are held out.

    Attributes:
        train: Names of the training cases.
        test: Names of the held-out cases.
        fold: The requested fold, if any.
        patients: The patient of each case, and of other scans that the user named; empty where patients are not known.
    """

    train: tuple[str, ...]
    test: tuple[str, ...]
    fold: int | None = None
    patients: Patients = field(default_factory=dict)
