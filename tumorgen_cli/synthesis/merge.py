"""Merge of real cases and synthetic pairs into one nnU-Net raw data set, whose folds are free of leaks.

Each fold validates on real cases that none of its pairs depends on.

Reads a raw data set and synthetic sets. Writes `imagesTr/` (links to the originals) and `labelsTr/` (copies, which may
be edited); a pair is named `SET_PAIR`. Writes `provenance.jsonl` of the pairs, `folds.json` with the content of each
fold, `splits_final.json`, and, last, `dataset.json`.

nnU-Net 2.8 takes its folds from `nnUNet_preprocessed/DatasetNNN_Name/splits_final.json`. Planning copies the raw data
set's file there (and stops if there is another one); training makes its own folds only if there is none. A fold beyond
the folds of the file is drawn at random from all cases, synthetic ones too: train only the folds of the file.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tumorgen_cli.data.checks import NNUNET_FORMAT
from tumorgen_cli.data.contents import describe_files
from tumorgen_cli.data.dataset import Dataset
from tumorgen_cli.data.entries import KEY as LISTED
from tumorgen_cli.data.hosts import index_cases_by_voxels
from tumorgen_cli.data.integrity import damage_faults
from tumorgen_cli.data.patients import Patients, find_patients, group_cases, patient_of, write_patients
from tumorgen_cli.data.splits import SPLITS, Splits, check_folds, make_nnunet_folds, read_folds
from tumorgen_cli.data.volumes import read_grid
from tumorgen_cli.synthesis.merge_checks import (
    MERGED,
    SyntheticSet,
    name_sets,
    output_faults,
    read_raw_dataset,
    read_set,
    real_faults,
    same_name_faults,
    set_faults,
    splits_file_faults,
    with_healthy_cases,
    with_known_cases,
)
from tumorgen_cli.synthesis.provenance import PAIR_FORMAT, Provenance
from tumorgen_cli.synthesis.set_files import describe_synthetic, read_judges
from tumorgen_cli.system import console
from tumorgen_cli.system.claims import claim_folder, refuse_other_files
from tumorgen_cli.system.errors import DataError, Fault, StateError, abbreviate_list, gather_faults, say_count
from tumorgen_cli.system.files import hash_files, write_text
from tumorgen_cli.system.json_records import hash_value, read_plain, to_plain, write_json
from tumorgen_cli.system.links import copy_file, link_file, same_content

_LONGEST_NAME = 255  # bytes of a file's name that file systems allow
#: reasons why a pair is left out of a fold
LEARNED, PAINTED = "learned from its validation cases", "painted into one of them"


@dataclass(frozen=True)
class Fold:
    """One fold of the merged data set.

    Attributes:
        train: the real cases to train on.
        validation: the real cases to validate on.
        pairs: the pairs to train on.
        left_out: number of pairs that the fold leaves out, by reason.
        real_share: share of real cases among the training cases that nnU-Net draws, with repeats.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    pairs: tuple[str, ...]
    left_out: dict[str, int]
    real_share: float


@dataclass(frozen=True)
class Pair:
    """A pair of the merged data set.

    Attributes:
        record: its provenance, with its name in the merged data set.
        images: one file per channel.
        label: file of its labels.
        learned_from: the real cases that its method has learned from.
        hosts: the real cases that it was painted into.
    """

    record: Provenance
    images: tuple[Path, ...]
    label: Path
    learned_from: frozenset[str]
    hosts: frozenset[str]


@dataclass(frozen=True)
class Merge:
    """A merge that has been checked.

    Attributes:
        real: the real data set.
        pairs: the pairs of all sets.
        folds: the folds.
        oversample: how often each real case stands in a fold's training list.
        out: folder of the merged data set.
        splits: all files in which splits_final.json is written.
        identity: what identifies the merge; the content of merge.json.
        patients: the patients of the real cases, if they are known.
    """

    real: Dataset
    pairs: tuple[Pair, ...]
    folds: tuple[Fold, ...]
    oversample: int
    out: Path
    splits: tuple[Path, ...]
    identity: dict[str, Any]
    patients: Patients

    @property
    def steps(self) -> int:
        """The number of cases to write."""
        return len(self.real.cases) + len(self.pairs)


def plan_merge(
    real_folder: Path,
    set_folders: Sequence[Path],
    out: Path,
    folds: int = 1,
    oversample: int = 1,
    preprocessed: Path | None = None,
    known: Sequence[Path] = (),
    planned: Splits | None = None,
) -> Merge:
    """Check a merge and decide what it writes.

    A pair is left out of the training of each fold that validates on its host, known by name or by voxels, or on a case
    that its method has learned from, also as a scan without labels. Every file is read whole, so that none is truncated
    or damaged. If a judge that chose a set's pairs is known to have learned from validation cases, there is a warning.

    Args:
        real_folder: the real data set.
        set_folders: the synthetic sets.
        out: folder of the merged data set.
        folds: number of folds. A single fold is the split of the sets' workspace: the cases that it holds out validate
            (of several workspaces: those that one holds out and none has learned from). More folds are those of the
            real data set's `splits_final.json` if it has as many, else nnU-Net's own; a set is then useful in those
            folds whose validation cases its workspace held out.
        oversample: how often each real case stands in a fold's training list, from which nnU-Net draws uniformly.
        preprocessed: nnU-Net's folder of preprocessed data sets, if it is known.
        known: other folders in which nnU-Net looks for the number of a data set.
        planned: the splits of the workspace that was planned on the real data set, if there is one. Its cases are then
            known to be whole and are not read here, and its patients are those of the cases, unless `patients.csv` of
            the data set names them.

    Raises:
        DataError: the data sets, their names, the folds or `out` have faults; all are listed.
        StateError: `out` holds other files.
    """
    refuse_other_files(out, MERGED)  # before everything is read
    faults: list[Fault] = []
    set_folders = [folder.resolve() for folder in set_folders]
    names = name_sets(set_folders)
    real = gather_faults(faults, lambda: read_raw_dataset(real_folder))
    found = [gather_faults(faults, partial(read_set, *each)) for each in zip(set_folders, names, strict=True)]
    sets = [each for each in found if each is not None]
    faults += output_faults(out, [*([preprocessed] if preprocessed else []), *known]) + same_name_faults(
        names, set_folders
    )
    divided, patients = None, {}
    if real is not None:
        faults += real_faults(real)
        before = planned.patients if planned else None
        patients = gather_faults(faults, partial(find_patients, real, None, before)) or {}
        sets = [with_known_cases(real, each) for each in sets]
        sets = gather_faults(faults, partial(with_healthy_cases, real, sets)) or sets
        for each in sets:
            faults += set_faults(real, each)
        checked = real
        if folds > 1 or len(sets) == len(set_folders):  # without all sets it is unknown which cases may validate
            divided = gather_faults(faults, lambda: _divide(checked, sets, folds, preprocessed, patients))
    if faults or real is None or divided is None:
        raise DataError(f"The sets cannot be merged: {len(faults)} fault{'s' * (len(faults) > 1)}", faults)
    if planned is None:
        with console.progress("checking the real cases", len(real.cases)) as tick:
            if faults := damage_faults(real, ticker=tick):
                raise DataError("The real cases cannot be merged", faults)
    pairs = _find_pairs(real, sets, patients)
    faults = _pair_name_faults(real, pairs)
    made = tuple(_make_fold(each.train, each.test, pairs, oversample) for each in divided)
    _warn_of_judges(sets, made)
    files = (out / SPLITS, *([preprocessed / out.name / SPLITS] if preprocessed else []))
    faults += splits_file_faults(files[1:], format_splits(made, oversample))
    if faults:
        raise DataError("The sets cannot be merged", faults)
    hashes = {str(each.folder): hash_value([each.records, each.learned_from]) for each in sets}
    described = {"real": str(real.path), "content": describe_files(real)}
    identity = {
        "format": PAIR_FORMAT,
        "command": "merge",
        **described,
        "folds": folds,
        "oversample": oversample,
        "sets": hashes,
        **({"patients": hash_value(patients)} if patients else {}),
    }
    return Merge(real, pairs, made, oversample, out, files, identity, patients)


def write_merge(merge: Merge, tick: Callable[[int, str], None], copy: bool = False) -> None:
    """Write the merged data set; after a kill, the next call continues.

    Labels are copies, because people edit them. Images are reflinks or symbolic links.

    Args:
        merge: a merge that has been checked.
        tick: is called after each case with its number and name.
        copy: whether images are copies, too.

    Raises:
        StateError: `out` holds something else, or labels there were edited.
    """
    provenance = merge.out / "provenance.jsonl"
    claim_folder(merge.out, MERGED, merge.identity, provenance.is_file)
    cases = [(case, merge.real.image_files(case), merge.real.label_file(case)) for case in merge.real.cases]
    cases += [(pair.record.case, pair.images, pair.label) for pair in merge.pairs]
    ending = merge.real.file_ending
    labels = {merge.out / "labelsTr" / f"{case}{ending}": label for case, _, label in cases}
    if faults := _edited_label_faults(labels):
        raise StateError("Labels were edited after they were merged", faults)
    write_text(provenance, "".join(json.dumps(to_plain(pair.record)) + "\n" for pair in merge.pairs))
    for number, ((case, images, label), target) in enumerate(zip(cases, labels, strict=True), 1):
        for channel, path in enumerate(images):
            (copy_file if copy else link_file)(path, merge.out / "imagesTr" / f"{case}_{channel:04d}{ending}")
        copy_file(label, target)
        tick(number, case)
    write_json(merge.out / "folds.json", merge.folds)
    write_patients(merge.out, {case: merge.patients[case] for case in merge.real.cases if case in merge.patients})
    for path in merge.splits:
        write_json(path, format_splits(merge.folds, merge.oversample))
    content = read_plain(merge.real.path / "dataset.json", NNUNET_FORMAT)
    content.pop(LISTED, None)  # the merged files have nnU-Net's names
    content["numTraining"] = len(cases)
    content["synthetic"] = describe_synthetic(len(merge.pairs), len(cases))
    content["description"] = (
        f"{say_count(len(merge.real.cases), 'real case')} and {say_count(len(merge.pairs), 'synthetic pair')}, "
        "see provenance.jsonl and folds.json"
    )
    write_json(merge.out / "dataset.json", content)


def _edited_label_faults(labels: Mapping[Path, Path]) -> list[Fault]:
    """Return the faults of labels of an earlier run that differ from their originals; they may hold people's work.

    Args:
        labels: the original of each merged label.
    """
    return [
        Fault(
            str(target),
            f"another content than {source}",
            "the label that was merged",
            "choose another --out to keep the edit, or delete this file to take the original again",
        )
        for target, source in labels.items()
        if target.is_file() and not same_content(target, source)
    ]


def format_splits(folds: Iterable[Fold], oversample: int) -> list[dict[str, list[str]]]:
    """Return the folds in the form of splits_final.json, with each real training case `oversample` times."""
    return [{"train": sorted([*fold.train * oversample, *fold.pairs]), "val": list(fold.validation)} for fold in folds]


def _divide(
    real: Dataset, sets: Sequence[SyntheticSet], folds: int, preprocessed: Path | None, patients: Patients
) -> Sequence[Splits]:
    """Divide the real cases into folds of whole patients.

    Raises:
        DataError: no case is left to validate on, there are fewer cases than folds, or a patient is on both sides.
    """
    if folds > 1:
        path, written = read_folds(real, preprocessed) or (real.path / SPLITS, [])
        if len(written) == folds:
            console.note(f"folds: of {path}")
            check_folds(real, path, dict(enumerate(written)), patients)
            return written
        console.note("folds: nnU-Net's own" + f"; {path} has {len(written)}" * bool(written))
        return make_nnunet_folds(real.cases, folds, patients)
    learned_from = {case for each in sets for case in each.learned_from}
    known = {patient_of(case, patients) for case in learned_from}
    held_out = {case for each in sets for case in each.held_out if patient_of(case, patients) not in known}
    if sets and held_out.isdisjoint(real.cases):
        found = "no real case that one set's workspace holds out and no other set has learned from"
        remedy = (
            "merge sets of one workspace, whose held-out cases are left, or give --folds 5 (a set is then useful in "
            "the folds whose validation cases it does not know)"
        )
        raise DataError("No case is left", [Fault("--folds 1", found, "real cases that no set knows", remedy)])
    if rest := [case for case in real.cases if case not in learned_from | held_out]:
        console.warn(
            f"left out, because in no part of the sets' splits: {say_count(len(rest), 'real case')} "
            f"({abbreviate_list(rest)})"
        )
    train = tuple(case for case in real.cases if case in learned_from)
    return [Splits(train, tuple(case for case in real.cases if case in held_out))]


def _make_fold(train: tuple[str, ...], validation: tuple[str, ...], pairs: Sequence[Pair], oversample: int) -> Fold:
    """Choose the pairs of a fold."""
    left_out: Counter[str] = Counter()
    used = []
    for pair in pairs:
        if not pair.learned_from.isdisjoint(validation):
            left_out[LEARNED] += 1
        elif not pair.hosts.isdisjoint(validation):
            left_out[PAINTED] += 1
        else:
            used.append(pair.record.case)
    real = len(train) * oversample
    return Fold(train, validation, tuple(used), dict(left_out), round(real / (real + len(used)), 4))


def _warn_of_judges(sets: Sequence[SyntheticSet], folds: Sequence[Fold]) -> None:
    """Warn of judges that chose pairs of a fold and know its validation cases, by their names."""
    for each in sets:
        validated = {
            case for fold in folds for case in fold.validation if not set(each.learned_from) & set(fold.validation)
        }
        for judge, learned in read_judges(each.folder).items():
            if seen := sorted(validated.intersection(learned.cases)):
                console.warn(
                    f"the judge that chose the pairs of {each.folder.name} ({judge}) has learned from "
                    f"{say_count(len(seen), 'case')} of {learned.dataset} with the same names as validation cases of "
                    f"its folds ({abbreviate_list(seen)}): if they are the same cases, scores there may be too high"
                )


def _find_pairs(real: Dataset, sets: Sequence[SyntheticSet], patients: Patients) -> tuple[Pair, ...]:
    """Return the pairs of the sets, with the real cases that each was painted into.

    A host may be a real case under another name, or in files that were written again. It is then known by its voxels.
    All cases of the same patients count as hosts too, and as learned from.
    """
    scans_of = group_cases(real.cases, patients)

    def whole(cases: Iterable[str]) -> frozenset[str]:
        return frozenset(scan for case in cases for scan in scans_of.get(patient_of(case, patients), ()))

    painted = {record.host for each in sets for record in each.records}
    hashes = {case: hash_files(real.image_files(case)) for case in real.cases if case in painted}
    others = [(each, record) for each in sets for record in each.records if hashes.get(record.host) != record.host_hash]
    images = {record.host_voxels: each.dataset.image_files(record.case)[0] for each, record in others}
    known = index_cases_by_voxels(real, real.cases, {read_grid(path).shape for path in images.values()})
    case_of = {voxels: case for same_shape in known.values() for voxels, case in same_shape.items()}
    found = []
    for each in sets:
        for record in each.records:
            hosts = whole((record.host, case_of.get(record.host_voxels, record.host)))
            files = each.dataset.image_files(record.case), each.dataset.label_file(record.case)
            named = replace(record, case=f"{each.name}_{record.case}")
            found.append(Pair(named, *files, whole(each.learned_from), hosts))
    return tuple(found)


def _pair_name_faults(real: Dataset, pairs: Sequence[Pair]) -> list[Fault]:
    """Return the faults of pairs that have the name of another pair or of a real case, or a name that is too long."""
    counts, faults = Counter([*real.cases, *(pair.record.case for pair in pairs)]), []
    for pair in pairs:
        if counts[pair.record.case] > 1:
            found = f"{pair.record.case}, the name of another pair or a real case"
            faults.append(Fault(str(pair.label), found, "a name of its own", "rename the set's folder"))
        elif (size := len(os.fsencode(f"{pair.record.case}_0000{real.file_ending}"))) > _LONGEST_NAME:
            found, expected = f"a merged name of {size} bytes", f"at most {_LONGEST_NAME}"
            faults.append(Fault(str(pair.label), found, expected, "give the set's folder a shorter name"))
    return faults
