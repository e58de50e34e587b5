"""The scores of a segmentor on the training tumors: each scan is scored by a fold that has not seen it.

Reads an nnU-Net results folder with its folds, and the training cases. Scores are kept in the workspace's folder `aim`,
so that all shards and later sets have the same. No held-out case is read, and no fold is asked that has learned from
one.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from tumorgen_cli.data.channels import fill_paddings
from tumorgen_cli.data.dataset import Dataset
from tumorgen_cli.data.labels import mask_of, named_values, values_of
from tumorgen_cli.data.patients import group_cases, scans_of_same_patients
from tumorgen_cli.data.splits import SPLITS, Splits, make_nnunet_folds
from tumorgen_cli.data.volumes import read_image, read_volume, same_geometry
from tumorgen_cli.geometry import Box, Grid, as_triple, box_of_slices, shell_mm
from tumorgen_cli.judge.results_files import read_folder
from tumorgen_cli.metrics.traits import FIELDS, describe_traits
from tumorgen_cli.nnunet.results import FINAL
from tumorgen_cli.planning.fingerprint import CaseFacts, Fingerprint, TumorFacts
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.planned_data import read_planned_dataset
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.intensity import scan_limits, to_comparable_units
from tumorgen_cli.synthesis.aim import ScoredTumor, SegmentorScores
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName, find_device
from tumorgen_cli.system.errors import Fault, StateError, abbreviate_list, say_count
from tumorgen_cli.system.files import hash_once
from tumorgen_cli.system.json_records import hash_value, read_record, read_written, write_json
from tumorgen_cli.system.locks import wait_for_turn

if TYPE_CHECKING:
    from tumorgen_cli.judge.model import Judge


_FORMAT = 1  # of the kept scores; raise it when tumors are scored in another way
_CONNECTIVITY_26 = np.ones((3, 3, 3), bool)
_MESSAGE = "The segmentor cannot score the training cases"


@dataclass(frozen=True)
class WrittenFold:
    """A fold of nnU-Net's `splits_final.json`."""

    train: tuple[str, ...]
    val: tuple[str, ...]


@dataclass(frozen=True)
class Segmentor:
    """An nnU-Net with folds.

    Attributes:
        folder: its results folder.
        folds: which cases each fold has learned from and which not, by the folder of the fold.
        ending: file ending of its predictions.
        labels: the values of its labels; a region has several.
    """

    folder: Path
    folds: dict[Path, WrittenFold]
    ending: str
    labels: dict[str, tuple[int, ...]]

    def prediction(self, fold: Path, case: str) -> Path:
        """The validation prediction of a case, which may not exist."""
        return fold / "validation" / f"{case}{self.ending}"


def score_segmentor(
    workspace: Workspace, plan: Plan, folder: Path, device: DeviceName, keep: bool = True
) -> SegmentorScores:
    """Score a segmentor on the training cases, or read the scores that are kept.

    Args:
        workspace: the workspace.
        plan: its plan.
        folder: the segmentor's results folder.
        device: where cases without a validation prediction are predicted.
        keep: write the scores into the workspace.

    Raises:
        StateError: the folder is no nnU-Net with folds, or a fold has learned from held-out cases, or cases are not
            scored by any fold; all faults are listed.
        DataError: the segmentor does not know the tumor, or a prediction cannot be read.
    """
    dataset, splits = read_planned_dataset(workspace, plan), workspace.splits()
    segmentor = open_segmentor(folder, dataset)
    wanted = workspace.fingerprint().of(splits.train)
    having = [case for case in wanted.cases if case.tumors]
    folds = _assign_folds(workspace, segmentor, having, splits)
    tumor = _tumor_values(segmentor, plan.tumor_name)
    made_from = _hash_sources(segmentor, folds, wanted, (plan.fingerprint_hash, plan.precision, *sorted(tumor)))
    learned = {case for fold in set(folds.values()) for case in segmentor.folds[fold].train}
    path = workspace.root / "aim" / f"{made_from}.json"
    # the shards that wait read what the first has scored
    with wait_for_turn(path.parent) if keep else contextlib.nullcontext():
        tumors = _kept(path, having)
        if tumors is None:
            tumors = _score(plan, dataset, segmentor, having, folds, tumor, device)
            if keep:
                write_json(path, tumors)
    return SegmentorScores(tumors, folder.resolve().name, made_from, tuple(sorted(learned | {*folds})))


def open_segmentor(folder: Path, dataset: Dataset) -> Segmentor:
    """Read which cases each fold of an nnU-Net has learned from.

    `splits_final.json` says it: the one in the results folder, in nnU-Net's preprocessed data set, or in the raw data
    set. Without such a file the folds' validation predictions do, if they are of all cases of the data set.

    Raises:
        StateError: it is no results folder, it has no folds, or it is unknown which cases a fold has learned from.
    """
    if (folder / FINAL).is_file():
        fault = Fault(str(folder), "one fold", "the folder of all folds", f"give {folder.resolve().parent}")
        raise StateError(_MESSAGE, [fault])
    plans, content = read_folder(folder)
    ending = str(content.get("file_ending", ".nii.gz"))
    labels = {name: tuple(value) if isinstance(value, list) else (value,) for name, value in content["labels"].items()}
    folders = sorted(path for path in folder.glob("fold_*") if path.name.removeprefix("fold_").isdecimal())
    if not folders:
        found, expected = "no folds", "fold_0, fold_1, ...: a case is scored by a fold that has not seen it"
        remedy = "train nnU-Net's folds (`nnUNetv2_train DATASET CONFIGURATION 0`, then 1, ...) and give their folder"
        raise StateError(_MESSAGE, [Fault(str(folder), found, expected, remedy)])
    validated = {
        fold: {path.name.removesuffix(ending) for path in fold.glob(f"validation/*{ending}")} for fold in folders
    }
    path = _find_splits(folder, plans, dataset)
    folds = _complete_folds(folder, validated, content) if path is None else _written_folds(path, validated)
    return Segmentor(folder, folds, ending, labels)


def _find_splits(folder: Path, plans: Mapping[str, Any], dataset: Dataset) -> Path | None:
    """Find the splits that an nnU-Net was trained with."""
    preprocessed = os.environ.get("nnUNet_preprocessed")
    places = [
        folder,
        *([Path(preprocessed) / str(plans.get("dataset_name", ""))] if preprocessed else []),
        dataset.path,
    ]
    return next((place / SPLITS for place in places if (place / SPLITS).is_file()), None)


def _written_folds(path: Path, validated: Mapping[Path, set[str]]) -> dict[Path, WrittenFold]:
    """Read the folds of `splits_final.json`, and check that the segmentor was trained with them.

    Raises:
        StateError: the file is malformed, or a fold has validated on other cases.
    """
    remedy = "put the splits_final.json with which its folds were trained into the results folder"
    written = read_record(tuple[WrittenFold, ...], path, remedy)
    folds, faults = {}, []
    for fold, cases in validated.items():
        number = int(fold.name.removeprefix("fold_"))
        if number >= len(written):
            faults.append(Fault(str(fold), f"only {say_count(len(written), 'fold')} in {path}", "its splits", remedy))
        elif strangers := sorted(cases - {*written[number].val}):
            found = f"validated on {abbreviate_list(strangers)}, which {path} does not say"
            faults.append(Fault(str(fold), found, "the splits that it was trained with", remedy))
        else:
            folds[fold] = written[number]
    if faults:
        raise StateError(_MESSAGE, faults)
    return folds


def _complete_folds(
    folder: Path, validated: Mapping[Path, set[str]], content: Mapping[str, Any]
) -> dict[Path, WrittenFold]:
    """Tell from the validation predictions which cases each fold has learned from: those of the other folds.

    Raises:
        StateError: there are not predictions of all cases of the data set, each by one fold.
    """
    known, count = sorted(set().union(*validated.values())), content.get("numTraining")
    if count != len(known) or sum(map(len, validated.values())) != len(known):
        found = f"no {SPLITS}, and validation predictions of {say_count(len(known), 'case')}, not once each of {count}"
        remedy = f"copy {SPLITS} from nnU-Net's preprocessed data set into the results folder"
        raise StateError(_MESSAGE, [Fault(str(folder), found, "which cases each fold has learned from", remedy)])
    return {
        fold: WrittenFold(tuple(case for case in known if case not in own), tuple(sorted(own)))
        for fold, own in validated.items()
    }


def _assign_folds(
    workspace: Workspace, segmentor: Segmentor, cases: Sequence[CaseFacts], splits: Splits
) -> dict[str, Path]:
    """Assign to each case the fold that has not seen it.

    Raises:
        StateError: a case has no fold, a fold has learned from held-out cases, or neither a prediction nor weights are
            there.
    """
    found = {case.case: fold for case in cases for fold, split in segmentor.folds.items() if case.case in split.val}
    faults = []
    if missing := [case.case for case in cases if case.case not in found]:
        what = f"no fold that has not seen {len(missing)} of {len(cases)} training cases ({abbreviate_list(missing)})"
        remedy = "train the folds that are missing, or give an nnU-Net of this data set"
        faults.append(Fault(str(segmentor.folder), what, "each training case in the validation of one fold", remedy))
    used = sorted(set(found.values()))
    folds, patients = segmentor.folds, splits.patients
    learned = {case for fold in used for case in folds[fold].train}
    leaks = sorted((learned & {*splits.test}) | {*scans_of_same_patients(learned, splits.test, patients)})
    torn = [case for case, fold in found.items() if scans_of_same_patients(folds[fold].train, [case], patients)]
    if leaks or torn:
        faults.append(_folds_fault(workspace, segmentor.folder, leaks, torn))
    else:
        for fold in used:
            unscored = [
                case for case, own in found.items() if own == fold and not segmentor.prediction(fold, case).is_file()
            ]
            if unscored and not (fold / FINAL).is_file():
                what = f"neither {FINAL} nor predictions of {abbreviate_list(unscored)}"
                remedy = "let this fold end (`nnUNetv2_train` with --c continues it)"
                faults.append(Fault(str(fold), what, "one of them", remedy))
    if faults:
        raise StateError(_MESSAGE, faults)
    return found


def _folds_fault(workspace: Workspace, folder: Path, leaks: Sequence[str], torn: Sequence[str]) -> Fault:
    """The fault of folds that have learned from held-out patients, or from the patients whose scans they score.

    Folds without it are written beside the scores.
    """
    splits = workspace.splits()
    path = workspace.root / "aim" / SPLITS
    patients = group_cases(splits.train, splits.patients)
    folds = make_nnunet_folds(splits.train, min(5, len(patients)), splits.patients)
    write_json(path, [{"train": fold.train, "val": fold.test} for fold in folds])
    found = f"{say_count(len(leaks), 'scan')} of held-out patients ({abbreviate_list(leaks)})"
    if not leaks:
        found = f"the patients of {say_count(len(torn), 'scan')} to score ({abbreviate_list(torn)})"
    found = f"folds that have learned from {found}"
    remedy = (
        f"train nnU-Net on the training cases alone: copy {path}, which has folds of them, into its preprocessed data "
        "set, and train them with another nnUNet_results"
    )
    return Fault(str(folder), found, "folds of training cases: what is aimed at must not depend on others", remedy)


def _tumor_values(segmentor: Segmentor, name: str) -> tuple[int, ...]:
    """The values that count as tumor in the segmentor's predictions.

    Raises:
        StateError: it has no such label.
    """
    values = values_of(named_values(segmentor.labels, name) or 0)
    if values == (0,):
        known = ", ".join(label for label in segmentor.labels if label != "background")
        remedy = "give an nnU-Net of this data set"
        fault = Fault(str(segmentor.folder / "dataset.json"), f"labels {known}", f"a label {name!r}", remedy)
        raise StateError(_MESSAGE, [fault])
    return values


def _hash_sources(
    segmentor: Segmentor, folds: Mapping[str, Path], wanted: Fingerprint, settings: Sequence[object]
) -> str:
    """Hash everything that the scores depend on."""
    predictions = {case: segmentor.prediction(fold, case) for case, fold in folds.items()}
    files = [path if path.is_file() else folds[case] / FINAL for case, path in sorted(predictions.items())]
    return hash_value(
        [_FORMAT, sorted(folds), [case.case for case in wanted.cases], settings, list(map(hash_once, files))]
    )


def _kept(path: Path, cases: Sequence[CaseFacts]) -> dict[str, tuple[ScoredTumor, ...]] | None:
    """Read kept scores; None if there are none, or they are of other tumors."""
    if not path.is_file():
        return None
    what = "the scores of a segmentor"
    found = read_written(dict[str, tuple[ScoredTumor, ...]], path, f"delete {path}", what, "A file is damaged")
    counts = {case.case: len(case.tumors) for case in cases}
    return found if {case: len(scores) for case, scores in found.items()} == counts else None


def _score(
    plan: Plan,
    dataset: Dataset,
    segmentor: Segmentor,
    cases: Sequence[CaseFacts],
    folds: Mapping[str, Path],
    tumor: Sequence[int],
    device: DeviceName,
) -> dict[str, tuple[ScoredTumor, ...]]:
    """Score every tumor; cases without a validation prediction are predicted, fold by fold."""
    load = functools.lru_cache(maxsize=1)(functools.partial(_load_fold, plan, device))
    found = {}
    with console.progress("scoring the segmentor on training cases", len(cases)) as tick:
        for number, case in enumerate(sorted(cases, key=lambda case: (folds[case.case].name, case.case)), 1):
            fold = folds[case.case]
            labels, grid = read_volume(dataset.label_file(case.case))
            image, _ = read_image(dataset.image_files(case.case))
            path = segmentor.prediction(fold, case.case)
            marked = _read_prediction(path, grid) if path.is_file() else load(fold).predict(image, grid)
            truth = mask_of(labels, plan.tumor_label)
            found[case.case] = _score_case(plan, image, truth, np.isin(marked, tumor), case)
            tick(number, case.case)
    return {case.case: found[case.case] for case in cases}


def _load_fold(plan: Plan, device: DeviceName, fold: Path) -> Judge:
    from tumorgen_cli.judge.model import Judge

    return Judge(fold, find_device(device), plan.tumor_name, plan.precision)


def _read_prediction(path: Path, grid: Grid) -> np.ndarray:
    """Read a validation prediction.

    Raises:
        StateError: it is of another scan.
    """
    labels, own = read_volume(path)
    if not same_geometry(own, grid):
        remedy = "delete the file: the case is then predicted again"
        raise StateError(_MESSAGE, [Fault(str(path), "another grid than the case's", "the same", remedy)])
    return labels


def _score_case(
    plan: Plan, image: np.ndarray, truth: np.ndarray, marked: np.ndarray, case: CaseFacts
) -> tuple[ScoredTumor, ...]:
    """Score the tumors of a case, in the order of the fingerprint."""
    pieces, _ = ndimage.label(truth, _CONNECTIVITY_26)
    marks, _ = ndimage.label(marked, _CONNECTIVITY_26)
    boxes = [box_of_slices(slices) for slices in ndimage.find_objects(marks)]
    spacing, limits = case.grid.spacing_mm, scan_limits(image, plan.channels, truth)
    filled = fill_paddings(image, [channel.name for channel in plan.channels])
    comparable, zero = to_comparable_units(filled, plan.channels, limits)
    scores = []
    for tumor, number in zip(case.tumors, _component_numbers(pieces, case.tumors), strict=True):
        own = pieces[tumor.box.slices] == number
        hits = np.setdiff1d(marks[tumor.box.slices][own], 0)
        near = functools.reduce(Box.hull, [boxes[hit - 1] for hit in hits], tumor.box).slices
        inside = pieces[near] == number
        # what is marked of other tumors is no error of this one
        found = np.isin(marks[near], hits) & (inside | ~truth[near])
        dice = 2 * np.count_nonzero(found & inside) / (np.count_nonzero(found) + np.count_nonzero(inside))
        reach = shell_mm(np.count_nonzero(own), spacing)
        around = tumor.box.grown(as_triple(math.ceil(reach / s) for s in spacing), case.grid.shape).slices
        traits = describe_traits(comparable[(slice(None), *around)], pieces[around] == number, spacing, zero)
        named = dict(zip(FIELDS, traits.reshape(-1, len(FIELDS))[plan.main_channel].tolist(), strict=True))
        heterogeneity, core = (named[name] for name in ("heterogeneity", "core_ratio"))
        scores.append(ScoredTumor(round(dice, 4), *(v if math.isfinite(v) else None for v in (heterogeneity, core))))
    return tuple(scores)


def _component_numbers(pieces: np.ndarray, tumors: Sequence[TumorFacts]) -> list[int]:
    """The number of each tumor among labeled components; of those with one box the larger comes first."""
    sizes = np.bincount(pieces.ravel())
    boxes: dict[Box, list[int]] = {}
    for number, slices in enumerate(ndimage.find_objects(pieces), 1):
        boxes.setdefault(box_of_slices(slices), []).append(number)
    for numbers in boxes.values():
        numbers.sort(key=lambda number: -sizes[number])
    return [boxes[tumor.box].pop(0) for tumor in tumors]
