"""Checks before a merge: do the synthetic sets fit the real data set, and do all names and files fit nnU-Net?"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tumorgen_cli.data.dataset import Dataset, read_dataset
from tumorgen_cli.data.hosts import index_cases_by_voxels
from tumorgen_cli.data.integrity import file_faults
from tumorgen_cli.data.labels import CLASS_ORDER
from tumorgen_cli.preprocessing.cases import HealthyScan, ScanIdentity
from tumorgen_cli.synthesis.provenance import Provenance
from tumorgen_cli.synthesis.set_files import (
    MODEL,
    again,
    pair_file_faults,
    read_held_out,
    read_learned_from,
    read_learned_from_healthy,
    read_origin,
    read_provenance,
    read_unlabeled_hosts,
)
from tumorgen_cli.synthesis.shards import unfinished_shard_faults
from tumorgen_cli.synthesis.sources import unlabeled_hosts_fault
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import DataError, Fault, abbreviate_list, say_count
from tumorgen_cli.system.json_records import read_plain

MERGED = "merge.json"
_NAME = re.compile(r"Dataset\d{3}_\w[\w-]*")


@dataclass(frozen=True)
class SyntheticSet:
    """A finished synthetic set.

    Attributes:
        folder: folder of the set.
        name: the set's name among the merged sets; names of its pairs begin with it.
        dataset: the set as a raw data set.
        records: provenance of its pairs.
        learned_from: the cases that its method has learned from.
        healthy: the scans without labels that its method has learned from.
        held_out: the cases that its workspace holds out.
    """

    folder: Path
    name: str
    dataset: Dataset
    records: tuple[Provenance, ...]
    learned_from: tuple[str, ...]
    healthy: tuple[HealthyScan, ...]
    held_out: tuple[str, ...]


def read_raw_dataset(folder: Path) -> Dataset:
    """Read a raw data set, whichever of its labels is the tumor."""
    return read_dataset(folder, any_tumor=True)


def read_set(folder: Path, name: str) -> SyntheticSet:
    """Read a finished set.

    Args:
        folder: folder of the set.
        name: its name among the merged sets.

    Raises:
        DataError: there is no finished set, it has no pair, or it does not say which cases its method has learned from.
    """
    if not (folder / "provenance.jsonl").is_file() or (folder / MERGED).is_file():
        expected = "a folder that `tumorgen synthesize` or `filter` wrote"
        raise DataError("No such set", [Fault(str(folder), "no synthetic set", expected, "correct the path")])
    if not (folder / "dataset.json").is_file():
        fault = Fault(str(folder), "no dataset.json", "a finished set", again(folder))
        raise DataError("A set is not finished", [fault])
    if faults := unfinished_shard_faults(folder):
        raise DataError("A set is not finished", faults)
    records, learned_from = read_provenance(folder), read_learned_from(folder)
    if not records:
        raise DataError("A set is empty", [Fault(str(folder), "no pair", "at least one pair", "leave the set out")])
    if learned_from is None:
        expected = "the cases that its method has learned from; without them no fold is known to be clean"
        remedy = f"delete {folder} and make the set again"
        fault = Fault(f"{folder / 'set.json'}: learned_from", "missing", expected, remedy)
        raise DataError("A set does not say what it learned from", [fault])
    healthy, held_out = read_learned_from_healthy(folder), read_held_out(folder)
    return SyntheticSet(folder, name, read_raw_dataset(folder), records, learned_from, healthy, held_out)


def with_known_cases(real: Dataset, each: SyntheticSet) -> SyntheticSet:
    """Return a set with what it has learned from, as far as the real data set has these cases.

    Only a set of an installed model may have learned from others, of another data set; a warning says so. Every other
    set stays as it is.
    """
    model = read_origin(each.folder).get(MODEL)
    foreign = set(each.learned_from) - set(real.cases)
    if model is None or not foreign:
        return each
    console.warn(
        f"{each.name}: the model {model} has learned from {say_count(len(foreign), 'case')} that {real.name} does not "
        "have by name; its card says of which data set: nothing here can tell whether real cases are among them under "
        "other names"
    )
    return replace(each, learned_from=tuple(case for case in each.learned_from if case not in foreign))


def with_healthy_cases(real: Dataset, sets: Sequence[SyntheticSet]) -> list[SyntheticSet]:
    """Add to what sets have learned from the real cases that are among their scans without labels, by their voxels.

    Raises:
        DataError: a real case that has the shape of such a scan cannot be read.
    """
    scans = {each.scan for found in sets for each in found.healthy}
    known = index_cases_by_voxels(real, real.cases, {scan.shape for scan in scans})
    cases = {scan: case for scan in scans if (case := known.get(scan.shape, {}).get(scan.voxels))}
    return [
        replace(each, learned_from=tuple(dict.fromkeys((*each.learned_from, *_cases_among(each.healthy, cases)))))
        for each in sets
    ]


def _cases_among(healthy: Iterable[HealthyScan], cases: Mapping[ScanIdentity, str]) -> list[str]:
    return [cases[each.scan] for each in healthy if each.scan in cases]


def name_sets(folders: Sequence[Path]) -> list[str]:
    """Return the names of sets: their folders' names, with the workspace's name if two sets have the same name."""
    names = [folder.name for folder in folders]
    return [
        name if names.count(name) == 1 else f"{folder.parent.parent.name}_{name}"
        for name, folder in zip(names, folders, strict=True)
    ]


def real_faults(real: Dataset) -> list[Fault]:
    """Return the faults of the real data set: faulty files, or synthetic pairs in it."""
    faults = file_faults(real)
    path = next((real.path / name for name in ("provenance.jsonl", MERGED) if (real.path / name).is_file()), None)
    if path is not None:
        expected = "a data set of real cases alone"
        faults.append(Fault(str(path), "synthetic pairs", expected, "give the real data set first"))
    return faults


def set_faults(real: Dataset, each: SyntheticSet) -> list[Fault]:
    """Return the reasons why a set cannot be merged with the real cases."""
    where, remedy = each.folder / "dataset.json", "merge with the data set that the pairs were made from"
    ending = each.dataset.file_ending
    faults = pair_file_faults(each.folder, each.records, len(each.dataset.channel_names), ending)
    channels, real_channels = ([name.lower() for name in d.channel_names] for d in (each.dataset, real))
    comparisons: dict[str, tuple[object, object]] = {
        "labels": (each.dataset.labels, real.labels),
        CLASS_ORDER: (each.dataset.class_order, real.class_order),
        "channel_names": (channels, real_channels),
        "file_ending": (ending, real.file_ending),
    }
    for name, (found, wanted) in comparisons.items():
        if found != wanted:
            faults.append(Fault(f"{where}: {name}", str(found), f"{wanted}, as in {real.name}", remedy))
    if unlabeled := sorted({*read_unlabeled_hosts(each.folder)} & {record.host for record in each.records}):
        faults.append(unlabeled_hosts_fault(str(each.folder / "labelsTr"), unlabeled))
    foreign = sorted(set(each.learned_from) - set(real.cases))
    if foreign:
        shown = f"{say_count(len(foreign), 'case')} that {real.name} does not have ({abbreviate_list(foreign)})"
        expected = "cases of the real data set, by the same names: the names decide which folds a pair may be in"
        faults.append(Fault(f"{each.folder / 'set.json'}: learned_from", shown, expected, remedy))
    return faults


def output_faults(out: Path, known: Sequence[Path]) -> list[Fault]:
    """Return the faults of the merged data set's name.

    Args:
        out: folder of the merged data set.
        known: folders beside its own in which nnU-Net looks for the number of a data set.
    """
    if not _NAME.fullmatch(out.name):
        remedy = f"for example --out {out.parent / 'Dataset601_Merged'}"
        return [Fault(f"--out {out}", out.name, "nnU-Net's DatasetNNN_Name", remedy)]
    number = out.name[: len("Dataset000_")]
    parents = dict.fromkeys(parent.resolve() for parent in (out.parent, *known) if parent.is_dir())
    expected = "one data set per number, by which nnU-Net finds it"
    return [
        Fault(str(folder), f"the number of --out {out.name}", expected, "choose another number for --out")
        for parent in parents
        for folder in sorted(parent.glob(f"{number}*"))
        if folder.name != out.name
    ]


def same_name_faults(names: Sequence[str], folders: Sequence[Path]) -> list[Fault]:
    """Return the faults of sets with the same name, whose pairs could have the same names."""
    expected = "different names: names of pairs begin with the name of their set"
    return [
        Fault(str(folder), "another set of the same name", expected, "rename one of the folders")
        for name, folder in zip(names, folders, strict=True)
        if names.count(name) > 1
    ]


def splits_file_faults(paths: Iterable[Path], splits: Sequence[dict[str, list[str]]]) -> list[Fault]:
    """Return the faults of existing splits_final.json files with other folds, which nnU-Net would go on using."""
    remedy = (
        "delete it and what nnU-Net made from it, or choose another number for --out; nnU-Net would go on using that "
        "splits_final.json"
    )
    return [
        Fault(str(path), "other folds", "no file, or the folds of this merge", remedy)
        for path in paths
        if path.is_file() and read_plain(path, remedy) != splits
    ]
