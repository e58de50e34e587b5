"""Which cases are held out: a fold of nnU-Net's `splits_final.json`, one that nnU-Net would make, or every fifth case."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tumorgen_cli.data import splits
from tumorgen_cli.data.dataset import Dataset
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import DataError, Fault, PlanError
from tumorgen_cli.system.json_records import read_plain

SPLITS = "splits_final.json"
_REMEDY = "correct or remove it"


def make_splits(dataset: Dataset, fold: int | None, planned: Splits | None = None) -> Splits:
    """A fold of nnU-Net's `splits_final.json`, 0 unless given; where there is none, every fifth case held out, or, if given, of nnU-Net's five.

    `planned`: of a plan before; if they are of a fold that was asked for then, and none is now, they stay.

    Raises:
        DataError: a fold that does not fit the data set. PlanError: no such fold.
    """
    if (
        fold is None
        and planned is not None
        and planned.fold is not None
        and {*planned.train, *planned.test} <= {*dataset.cases}
    ):
        console.note(f"splits: fold {planned.fold}, as planned before")
        return planned
    written, number = read_folds(dataset), fold or 0
    if written is None and fold is None:
        return Splits(*splits.split_cases(dataset.cases))
    where, folds = written or ("nnU-Net's own five", make_nnunet_folds(dataset.cases, 5))
    if number >= len(folds):
        remedy = "choose one of these" + f", or remove {where} for nnU-Net's five" * bool(written)
        raise PlanError(
            "No such fold", [Fault(f"--fold {number}", f"{len(folds)} in {where}", f"0 to {len(folds) - 1}", remedy)]
        )
    if written:
        check_folds(dataset, written[0], {number: folds[number]})
    console.note(f"splits: fold {number} of {where}")
    return replace(folds[number], fold=fold)


def read_folds(dataset: Dataset, preprocessed: Path | None = None) -> tuple[Path, list[Splits]] | None:
    """Where the data set's folds are written, and the folds: beside it, in `preprocessed`, or in $nnUNet_preprocessed; None where there are none.

    Raises:
        DataError: not nnU-Net's format.
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


def check_folds(dataset: Dataset, path: Path, folds: Mapping[int, Splits]) -> None:
    """Sees that folds by number, as they stand in `path`, are of a data set.

    Raises:
        DataError: cases that the data set lacks, or that are in both parts of a fold.
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
    if faults:
        raise DataError("The splits do not fit the data set", faults)


def find_fold(dataset: Dataset, splits: Splits) -> tuple[list[Splits], int]:
    """The data set's folds, or nnU-Net's own five if `splits` are of one asked for, and the number of that fold; else `splits` alone."""
    written = read_folds(dataset)
    for folds in (written[1] if written else [], make_nnunet_folds(dataset.cases, 5) if splits.fold is not None else []):
        for number, fold in enumerate(folds):
            if ({*fold.train}, {*fold.test}) == ({*splits.train}, {*splits.test}):
                return folds, number
    return [splits], 0


def make_nnunet_folds(cases: Sequence[str], count: int) -> list[Splits]:
    """The folds that nnU-Net makes of so many: shuffled with its seed, from sorted names.

    Raises:
        DataError: fewer cases than folds.
    """
    if len(cases) < count:
        remedy = "take fewer folds, or those of a splits_final.json of your own"
        raise DataError(
            "Too few cases", [Fault(f"{count} folds", f"{len(cases)} cases", "a case to validate on per fold", remedy)]
        )
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    found = generate_crossval_split(sorted(cases), seed=12345, n_splits=count)  # the seed of nnU-Net's trainer
    return [Splits(tuple(map(str, fold["train"])), tuple(map(str, fold["val"]))) for fold in found]


def split_cases(cases: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(train, test): every fifth case of the sorted names is held out, at least one where there are two."""
    ordered = sorted(cases)
    test = ordered[4::5] or ordered[1::2][:1]
    return tuple(c for c in ordered if c not in test), tuple(test)


@dataclass(frozen=True)
class Splits:
    """Case names to learn from, and held out; `fold`: the one that was asked for."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    fold: int | None = None
