"""Real cases and synthetic pairs -> one nnU-Net raw data set whose folds validate on real cases that no pair knows.

Reads a raw data set and synthetic sets. Writes `imagesTr/` and `labelsTr/` (hard links where the disk allows, else
copies; a pair is named `SET_PAIR`), `provenance.jsonl` of the pairs, `folds.json` with what each fold holds,
`splits_final.json`, and, last, `dataset.json`.

nnU-Net 2.8 takes its folds from `nnUNet_preprocessed/DatasetNNN_Name/splits_final.json`: planning copies the raw data
set's there (and stops where another one is), training makes folds of its own only where there is none. A fold beyond the
file's is drawn at random from all cases, the synthetic ones among them: train the folds of the file, no other.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tumorgen_cli.data.dataset import Dataset, read_dataset
from tumorgen_cli.data.hosts import index_cases_by_voxels
from tumorgen_cli.data.integrity import file_faults
from tumorgen_cli.data.splits import SPLITS, Splits, check_folds, make_nnunet_folds, read_folds
from tumorgen_cli.data.volumes import read_grid
from tumorgen_cli.planning.fingerprint import content_hash
from tumorgen_cli.synthesis.places import bare_fault
from tumorgen_cli.synthesis.provenance import Provenance
from tumorgen_cli.synthesis.set_files import read_bare, read_held_out, read_judges, read_learnt_from, read_provenance
from tumorgen_cli.synthesis.shards import claim, division_faults
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import DataError, Fault, abbreviate_list, gather_faults
from tumorgen_cli.system.files import hash_files, link_or_copy, write_text
from tumorgen_cli.system.json_records import hash_value, read_plain, to_plain, write_json

RECORD = "merge.json"
LEARNT, PAINTED = "learnt from its validation cases", "painted into one of them"
_NAME = re.compile(r"Dataset\d{3}_\w[\w-]*")
_AGAIN = "run the same `tumorgen synthesize` command again; it adds what is missing (then `tumorgen filter`, if the set is a filtered one)"


@dataclass(frozen=True)
class Fold:
    """A fold: the real cases it learns from and validates on, the pairs it learns from, how many it may not have, and why.

    `real_share`: the share of real cases among those that nnU-Net draws in training, over-sampling counted.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    pairs: tuple[str, ...]
    left_out: dict[str, int]
    real_share: float


@dataclass(frozen=True)
class Pair:
    """A pair under its name in the merged set, its files, and the real cases that it was made from."""

    record: Provenance
    images: tuple[Path, ...]
    label: Path
    learnt_from: frozenset[str]
    hosts: frozenset[str]


@dataclass(frozen=True)
class Merge:
    """A merge that has been checked. `splits`: every place where splits_final.json goes."""

    real: Dataset
    pairs: tuple[Pair, ...]
    folds: tuple[Fold, ...]
    oversample: int
    out: Path
    splits: tuple[Path, ...]
    identity: dict[str, Any]

    @property
    def steps(self) -> int:
        return len(self.real.cases) + len(self.pairs)


@dataclass(frozen=True)
class _Set:
    """A synthetic set as it lies on disk, and its name among the others."""

    folder: Path
    name: str
    dataset: Dataset
    records: tuple[Provenance, ...]
    learnt_from: tuple[str, ...]
    held_out: tuple[str, ...]


def plan_merge(
    real_folder: Path,
    set_folders: Sequence[Path],
    out: Path,
    folds: int = 1,
    oversample: int = 1,
    preprocessed: Path | None = None,
) -> Merge:
    """What a merge would write. Labels are compared by what the data sets declare; images are opened only to know hosts by their voxels.

    A pair is left out of the training of each fold that validates on a case its method has seen (`learnt_from` of its
    set) or on its host, known by name or by voxels. The one fold is the split of the sets' workspace: what it holds out validates
    (of several workspaces: what one holds out and none has learnt from). With more, the folds are those of the real data set's
    `splits_final.json` if it has as many, else nnU-Net's own; a set then serves the folds whose validation cases its workspace held
    out, and no other. A judge that chose a set's pairs and is known to have learnt from cases that validate is warned of.

    `oversample`: how often each real case stands in a fold's training list. nnU-Net draws training cases from that list
    uniformly, with repeats as they are.

    Raises:
        DataError: everything that is wrong with the data sets, their names, the folds or `out`.
    """
    faults: list[Fault] = []
    set_folders = [folder.resolve() for folder in set_folders]
    real = gather_faults(faults, lambda: _read(real_folder))
    names = _set_names(set_folders)
    read = [gather_faults(faults, lambda each=each: _read_set(*each)) for each in zip(set_folders, names, strict=True)]  # type: ignore[misc]
    sets = [found for found in read if found is not None]
    faults += _name_faults(out, preprocessed) + _twice(names, set_folders)
    if real is not None:
        faults += _real_faults(real)
        for each in sets:
            faults += _match_faults(real, each)
        divided = gather_faults(faults, lambda: _divide(real, sets, folds, preprocessed))
    if faults or real is None or divided is None:
        raise DataError(f"The sets cannot be merged: {len(faults)} fault{'s' * (len(faults) > 1)}", faults)
    pairs = _pairs(real, sets)
    named = Counter([*real.cases, *(pair.record.case for pair in pairs)])
    faults = [
        Fault(
            str(pair.label),
            f"{pair.record.case}, the name of another pair or a real case",
            "a name of its own",
            "rename the set's folder",
        )
        for pair in pairs
        if named[pair.record.case] > 1
    ]
    made = tuple(_fold(each.train, each.test, pairs, oversample) for each in divided)
    _warn_of_judges(sets, made)
    places = (out / SPLITS, *([preprocessed / out.name / SPLITS] if preprocessed else []))
    faults += _splits_faults(places[1:], made, oversample)
    if faults:
        raise DataError("The sets cannot be merged", faults)
    identity = {
        "real": str(real.path),
        "content": content_hash(real),
        "folds": folds,
        "oversample": oversample,
        "sets": {str(each.folder): hash_value([each.records, each.learnt_from]) for each in sets},
    }
    return Merge(real, pairs, made, oversample, out, places, identity)


def write_merge(merge: Merge, tick: Callable[[int, str], None]) -> None:
    """Writes the merged data set; run again after a kill it goes on.

    Raises:
        StateError: `out` holds something else.
    """
    claim(merge.out, to_plain(merge.identity), name=RECORD)
    write_text(
        merge.out / "provenance.jsonl", "".join(json.dumps(to_plain(pair.record)) + "\n" for pair in merge.pairs)
    )
    work = [(case, merge.real.image_files(case), merge.real.label_file(case)) for case in merge.real.cases]
    work += [(pair.record.case, pair.images, pair.label) for pair in merge.pairs]
    ending = merge.real.file_ending
    for number, (case, images, label) in enumerate(work, 1):
        for channel, path in enumerate(images):
            link_or_copy(path, merge.out / "imagesTr" / f"{case}_{channel:04d}{ending}")
        link_or_copy(label, merge.out / "labelsTr" / f"{case}{ending}")
        tick(number, case)
    write_json(merge.out / "folds.json", merge.folds)
    for path in merge.splits:
        write_json(path, splits_of(merge.folds, merge.oversample))
    content = read_plain(merge.real.path / "dataset.json", "correct it")
    said = f"{len(merge.real.cases)} real cases and {len(merge.pairs)} synthetic pairs, see provenance.jsonl and folds.json"
    write_json(merge.out / "dataset.json", {**content, "numTraining": len(work), "description": said})


def splits_of(folds: Iterable[Fold], oversample: int) -> list[dict[str, list[str]]]:
    """The folds as nnU-Net reads them, each real training case `oversample` times."""
    return [{"train": sorted([*fold.train * oversample, *fold.pairs]), "val": list(fold.validation)} for fold in folds]


def _divide(real: Dataset, sets: Sequence[_Set], folds: int, preprocessed: Path | None) -> Sequence[Splits]:
    """The real cases of each fold.

    Raises:
        DataError: no case is left to validate on, or fewer than folds.
    """
    if folds > 1:
        path, written = read_folds(real, preprocessed) or (real.path / SPLITS, [])
        if len(written) == folds:
            console.note(f"folds: of {path}")
            check_folds(real, path, dict(enumerate(written)))
            return written
        console.note("folds: nnU-Net's own" + f"; {path} has {len(written)}" * bool(written))
        return make_nnunet_folds(real.cases, folds)
    seen = {case for each in sets for case in each.learnt_from}
    held_out = {case for each in sets for case in each.held_out} - seen
    if sets and held_out.isdisjoint(real.cases):
        found = "no real case that a set's workspace holds out and no other has learnt from"
        remedy = "merge sets of one workspace, whose held-out cases are left, or give --folds 5 (a set then serves the folds it knows nothing of)"
        raise DataError("No case is left", [Fault("--folds 1", found, "real cases that no set knows", remedy)])
    if left := [case for case in real.cases if case not in seen | held_out]:
        console.warn(f"{len(left)} real cases are in no part of the sets' splits and are left out ({abbreviate_list(left)})")
    return [Splits(tuple(c for c in real.cases if c in seen), tuple(c for c in real.cases if c in held_out))]


def _fold(train: tuple[str, ...], validation: tuple[str, ...], pairs: Sequence[Pair], oversample: int) -> Fold:
    left_out: Counter[str] = Counter()
    taken = []
    for pair in pairs:
        if not pair.learnt_from.isdisjoint(validation):
            left_out[LEARNT] += 1
        elif not pair.hosts.isdisjoint(validation):
            left_out[PAINTED] += 1
        else:
            taken.append(pair.record.case)
    real = len(train) * oversample
    return Fold(train, validation, tuple(taken), dict(left_out), round(real / (real + len(taken)), 4))


def _warn_of_judges(sets: Sequence[_Set], folds: Sequence[Fold]) -> None:
    """Warns of the judges that chose pairs of a fold and know its validation cases, by their names."""
    for each in sets:
        validated = {
            case for fold in folds for case in fold.validation if not set(each.learnt_from) & set(fold.validation)
        }
        for judge, learnt in read_judges(each.folder).items():
            if seen := sorted(validated.intersection(learnt.cases)):
                console.warn(
                    f"the judge that chose the pairs of {each.folder.name} ({judge}) has learnt from {len(seen)} cases of {learnt.dataset} that bear "
                    f"names of those its folds validate on ({abbreviate_list(seen)}): if they are the same, scores there may come out too high"
                )


def _pairs(real: Dataset, sets: Sequence[_Set]) -> tuple[Pair, ...]:
    """The pairs of the sets, and the real cases that each was painted into: a host may be a case of another name, written anew."""
    painted = {record.host for each in sets for record in each.records}
    contents = {case: hash_files(real.image_files(case)) for case in real.cases if case in painted}
    others = [
        (each, record) for each in sets for record in each.records if contents.get(record.host) != record.host_hash
    ]
    first = {record.host_voxels: each.dataset.image_files(record.case)[0] for each, record in others}
    known = index_cases_by_voxels(real, real.cases, {read_grid(path).shape for path in first.values()})
    case_of = {voxels: case for alike in known.values() for voxels, case in alike.items()}
    found = []
    for each in sets:
        for record in each.records:
            hosts = {record.host, case_of.get(record.host_voxels, record.host)} & set(real.cases)
            files = each.dataset.image_files(record.case), each.dataset.label_file(record.case)
            named = replace(record, case=f"{each.name}_{record.case}")
            found.append(Pair(named, *files, frozenset(each.learnt_from), frozenset(hosts)))
    return tuple(found)


def _read(folder: Path) -> Dataset:
    return read_dataset(folder, "1")  # which label is the tumor does not matter here; every data set has a label 1


def _set_names(folders: Sequence[Path]) -> list[str]:
    """What pairs are named after: their set, after its workspace where another's set is called alike."""
    names = [folder.name for folder in folders]
    return [
        name if names.count(name) == 1 else f"{folder.parent.parent.name}_{name}"
        for name, folder in zip(names, folders, strict=True)
    ]


def _read_set(folder: Path, name: str) -> _Set:
    if not (folder / "provenance.jsonl").is_file() or (folder / RECORD).is_file():
        fault = Fault(
            str(folder), "no synthetic set", "a folder that `tumorgen synthesize` or `filter` wrote", "correct the path"
        )
        raise DataError("No such set", [fault])
    if not (folder / "dataset.json").is_file():
        raise DataError(
            "A set is not whole",
            [Fault(str(folder), "no dataset.json", "a finished set", "run `tumorgen synthesize` again")],
        )
    if faults := division_faults(folder):
        raise DataError("A set is not whole", faults)
    records, learnt_from = read_provenance(folder), read_learnt_from(folder)
    if not records:
        raise DataError("A set is empty", [Fault(str(folder), "no pair", "one pair at least", "leave the set out")])
    if learnt_from is None:
        expected = "the cases that its method has seen, without which no fold is known to be clean"
        raise DataError(
            "A set does not say what it learnt from",
            [Fault(f"{folder / 'set.json'}: learnt_from", "missing", expected, _AGAIN)],
        )
    return _Set(folder, name, _read(folder), records, learnt_from, read_held_out(folder))


def _real_faults(real: Dataset) -> list[Fault]:
    faults = file_faults(real)
    for name in ("provenance.jsonl", RECORD):
        if (real.path / name).is_file():
            faults.append(
                Fault(
                    str(real.path / name),
                    "synthetic pairs",
                    "a data set of real cases alone",
                    "give the real data set first",
                )
            )
            break
    return faults


def _match_faults(real: Dataset, each: _Set) -> list[Fault]:
    """What keeps a set from standing beside the real cases."""
    where, remedy = each.folder / "dataset.json", "merge with the data set that the pairs were made from"
    faults = file_faults(each.dataset)
    compared = {
        "labels": (each.dataset.labels, real.labels),
        "channel_names": (*([name.lower() for name in d.channel_names] for d in (each.dataset, real)),),
        "file_ending": (each.dataset.file_ending, real.file_ending),
    }
    for name, (found, wanted) in compared.items():
        if found != wanted:
            faults.append(Fault(f"{where}: {name}", str(found), f"{wanted}, as in {real.name}", remedy))
    known = {record.case for record in each.records}
    for case in sorted(known ^ set(each.dataset.cases)):
        parts = (
            ("a line of provenance.jsonl", "its files") if case in known else ("files", "a line of provenance.jsonl")
        )
        faults.append(
            Fault(f"{each.folder}: {case}", f"{parts[0]} alone", f"{parts[1]}, too", "run `tumorgen synthesize` again")
        )
    if bare := sorted({*read_bare(each.folder)} & {record.host for record in each.records}):
        faults.append(bare_fault(str(each.folder / "labelsTr"), bare))
    strangers = sorted(set(each.learnt_from) - set(real.cases))
    if strangers:
        found = f"{len(strangers)} cases that {real.name} lacks ({abbreviate_list(strangers)})"
        expected = "cases of the real data set, by the names they had then: what a fold may have is decided by them"
        faults.append(Fault(f"{each.folder / 'set.json'}: learnt_from", found, expected, remedy))
    return faults


def _name_faults(out: Path, preprocessed: Path | None) -> list[Fault]:
    if not _NAME.fullmatch(out.name):
        return [
            Fault(
                f"--out {out}",
                out.name,
                "nnU-Net's DatasetNNN_Name",
                f"for example --out {out.parent / 'Dataset601_Merged'}",
            )
        ]
    number = out.name[: len("Dataset000_")]
    folders = [
        folder
        for parent in (out.parent, preprocessed)
        if parent is not None and parent.is_dir()
        for folder in sorted(parent.iterdir())
    ]
    expected = "one data set per number, which is how nnU-Net finds it"
    return [
        Fault(str(folder), f"the number of --out {out.name}", expected, "choose another number")
        for folder in folders
        if folder.name.startswith(number) and folder.name != out.name
    ]


def _twice(names: Sequence[str], folders: Sequence[Path]) -> list[Fault]:
    return [
        Fault(
            str(folder),
            "another set of that name",
            "a name of its own: pairs are named after their set",
            "rename the folder of one of them",
        )
        for name, folder in zip(names, folders, strict=True)
        if names.count(name) > 1
    ]


def _splits_faults(places: Iterable[Path], folds: Sequence[Fold], oversample: int) -> list[Fault]:
    remedy = f"delete it, with what nnU-Net made from it, or choose another number for --out; nnU-Net would go on using that {SPLITS}"
    return [
        Fault(str(path), "other folds", "no file, or the folds of this merge", remedy)
        for path in places
        if path.is_file() and read_plain(path, remedy) != splits_of(folds, oversample)
    ]
