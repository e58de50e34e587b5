"""The files of a synthetic set, and how they are read and written.

`set.json` says how the set was made; `held_out.json` which cases its workspace holds out; `hosts.json` where its host
scans lie; `shortfalls.json` what was too weak about the weights that painted it; `provenance.jsonl` how each pair was
made; `judges.json` from which cases the judges that chose its pairs have learned; `rejected.csv` which pairs a filter
left out. `dataset.json` is written when the set is complete.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tumorgen_cli.data.checks import ENDINGS
from tumorgen_cli.data.labels import describe_for_nnunet
from tumorgen_cli.data.volumes import read_volume
from tumorgen_cli.judge.suspects import FILE as SUSPECTS
from tumorgen_cli.nnunet.results import LearnedCases, read_learned_cases
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.preprocessing.cases import HealthyScan
from tumorgen_cli.synthesis.aim import AimSummary
from tumorgen_cli.synthesis.logs import complete_lines, list_logs, read_logs
from tumorgen_cli.synthesis.provenance import PAIR_FORMAT, Provenance
from tumorgen_cli.synthesis.shards import LOGS, SETTINGS, Shard
from tumorgen_cli.system.errors import DataError, Fault, PlanError, StateError
from tumorgen_cli.system.files import hash_once
from tumorgen_cli.system.json_records import from_plain, read_plain, read_record, write_json
from tumorgen_cli.system.links import describe_missing
from tumorgen_cli.system.names import name_faults

if TYPE_CHECKING:
    from tumorgen_cli.judge.model import Judge


JUDGES = "judges.json"
HELD_OUT = "held_out.json"
HOSTS = "hosts.json"
SHORTFALLS = "shortfalls.json"
LEFT_OUT = "rejected.csv"
#: what every volume of a pair says of itself in its header; it stays true in every set into which the pair is taken
SYNTHETIC = "SYNTHETIC: tumors painted into a scan by tumorgen; see provenance.jsonl"
#: fields of set.json: the cases that the method has learned from; the scans without labels that it has learned from, if
#: there are any; the hosts without the data set's other labels; what the pairs were aimed at
LEARNED_FROM, LEARNED_FROM_HEALTHY, UNLABELED_HOSTS = "learned_from", "learned_from_healthy", "hosts_without_labels"
AIM = "aim"
#: field of set.json: the installed model that painted
MODEL = "model"
_KEPT = (LEARNED_FROM, LEARNED_FROM_HEALTHY, UNLABELED_HOSTS, AIM, MODEL)


def read_learned_from(folder: Path) -> tuple[str, ...] | None:
    """Return the cases that the method of a set was trained on, or took tumors or sizes from; None if it is unknown."""
    found = read_origin(folder).get(LEARNED_FROM)
    return None if found is None else _names(folder / SETTINGS, LEARNED_FROM, found, _restore(folder))


def read_learned_from_healthy(folder: Path) -> tuple[HealthyScan, ...]:
    """Return the scans without labels that the method of a set was trained on; empty if there are none."""
    found = read_origin(folder).get(LEARNED_FROM_HEALTHY, [])
    where = f"{folder / SETTINGS}: {LEARNED_FROM_HEALTHY}"
    return from_plain(tuple[HealthyScan, ...], found, where, _restore(folder))


def read_held_out(folder: Path) -> tuple[str, ...]:
    """Return the cases that the workspace of a set held out when the set was last made; empty if it is unknown."""
    path = folder / HELD_OUT
    return _names(path, "", read_plain(path, again(folder)), again(folder)) if path.is_file() else ()


def forget_set(folder: Path) -> None:
    """Remove the files of a set that has no pair. A folder that was made for the set then goes with its lock."""
    for name in (SETTINGS, HELD_OUT, HOSTS, SHORTFALLS, JUDGES, SUSPECTS):
        (folder / name).unlink(missing_ok=True)
    for log in (log for name in LOGS for log in list_logs(folder, name)):
        log.unlink()


def read_shortfalls(folder: Path) -> tuple[str, ...]:
    """Return what was too weak about the weights that painted a set (`methods.shortfalls`), as far as it is known."""
    path = folder / SHORTFALLS
    return _names(path, "", read_plain(path, again(folder)), again(folder)) if path.is_file() else ()


def write_hosts(folder: Path, hosts: Mapping[str, Sequence[Path]]) -> None:
    """Record where the host scans of a set lie, by name: a judge may have to look at an unpainted host."""
    write_json(folder / HOSTS, {name: [str(path.resolve()) for path in files] for name, files in hosts.items()})


def read_hosts(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Return the files of the host scans of a set, by name, as they lay when it was made; empty if it is unknown."""
    path = folder / HOSTS
    if not path.is_file():
        return {}
    found = read_record(dict[str, tuple[str, ...]], path, f"delete {path}")
    return {name: tuple(map(Path, files)) for name, files in found.items()}


def read_unlabeled_hosts(folder: Path) -> tuple[str, ...]:
    """Return the hosts of a set without labels: their pairs have the tumor's label only; the data set has others."""
    found = read_origin(folder).get(UNLABELED_HOSTS, [])
    return _names(folder / SETTINGS, UNLABELED_HOSTS, found, _restore(folder))


def read_aim(folder: Path) -> AimSummary | None:
    """Return what the pairs of a set were aimed at; None if they were not."""
    found = read_origin(folder).get(AIM)
    return None if found is None else from_plain(AimSummary, found, f"{folder / SETTINGS}: {AIM}", _restore(folder))


def _restore(folder: Path) -> str:
    """Return the remedy for a set.json that cannot be used: nothing else says how the set was made."""
    return f"put {SETTINGS} back as it was, or delete {folder} and make the set again"


def _names(path: Path, field: str, found: object, remedy: str) -> tuple[str, ...]:
    """Read a list of names, which a set's file holds."""
    where = f"{path}: {field}" if field else str(path)
    return from_plain(tuple[str, ...], found, where, remedy)


def read_origin(folder: Path) -> dict[str, Any]:
    """Return those fields of a set's set.json that a subset of its pairs keeps."""
    found = read_settings(folder)
    return {key: found[key] for key in _KEPT if key in found}


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the content of a set's set.json; empty if there is no such file.

    Raises:
        StateError: the file cannot be read, or another version of TumorGen wrote the set.
    """
    path = folder / SETTINGS
    if not path.is_file():
        return {}
    found = read_plain(path, _restore(folder))
    version = found.get("format") if isinstance(found, dict) else None
    if version != PAIR_FORMAT:
        remedy = f"use the version that made it, or delete {folder} and make the set again"
        fault = Fault(str(path), f"format {version}", f"format {PAIR_FORMAT}, of this version of TumorGen", remedy)
        raise StateError("The set is of another version", [fault])
    settings: dict[str, Any] = found
    return settings


def again(folder: Path) -> str:
    """Return the remedy for a set that is not whole: the command that made it makes what is missing."""
    command = read_settings(folder).get("command", "synthesize")
    return f"run the same `tumorgen {command}` command again; it makes what is missing"


def read_ending(folder: Path) -> str:
    """Return the file ending of a finished set.

    Raises:
        StateError: the set is not finished, or its dataset.json cannot be used.
    """
    path = folder / "dataset.json"
    found = read_plain(path, again(folder))
    ending = found.get("file_ending") if isinstance(found, dict) else None
    if ending not in ENDINGS:
        fault = Fault(
            f"{path}: file_ending", repr(ending), f"one of {', '.join(ENDINGS)}", f"delete {path}, then {again(folder)}"
        )
        raise StateError("A set cannot be read", [fault])
    return str(ending)


def case_files(folder: Path, case: str, channels: int, ending: str) -> tuple[tuple[Path, ...], Path]:
    """Return the image files of a case, one per channel, and its label file."""
    images = tuple(folder / "imagesTr" / f"{case}_{channel:04d}{ending}" for channel in range(channels))
    return images, folder / "labelsTr" / f"{case}{ending}"


def pair_files(folder: Path, record: Provenance, channels: int, ending: str) -> list[tuple[Path, str]]:
    """Return the files of a pair, images and label, each with the hash that its provenance has ("" if it has none)."""
    images, label = case_files(folder, record.case, channels, ending)
    hashes = (*record.files, *[""] * (channels + 1))
    return [*zip((*images, label), hashes, strict=False)]


def is_whole(path: Path, content: str) -> bool:
    """Tell whether a file of a pair is as it was written; `content` is its hash (`Provenance.files`)."""
    return path.is_file() and hash_once(path) == content


def is_lost(path: Path, content: str) -> bool:
    """Tell whether a file of a pair is missing, truncated or damaged: it may be made again.

    A volume that can be read but is another one was edited by somebody; nothing may replace it.
    """
    if is_whole(path, content):
        return False
    try:
        read_volume(path)
    except DataError:
        return True
    return False


def pair_file_faults(
    folder: Path, records: Sequence[Provenance], channels: int, ending: str, shard: Shard | None = None
) -> list[Fault]:
    """Return the faults of a set's files: those of a pair that are lost or changed, and those of no pair.

    Args:
        folder: folder of the set.
        records: provenance of the pairs.
        channels: number of image files of a pair.
        ending: file ending.
        shard: if given, only the files of its own pairs are read.
    """
    remedy, faults, known = again(folder), list[Fault](), set[Path]()
    for index, record in enumerate(records):
        for path, content in pair_files(folder, record, channels, ending):
            known.add(path)
            if not path.is_file():
                faults.append(Fault(str(path), describe_missing(path), "a file of the pair", remedy))
            elif (shard is None or shard.owns(index)) and not is_whole(path, content):
                found, expected = "truncated or damaged", "the file as it was written"
                if is_lost(path, content):
                    faults.append(Fault(str(path), found, expected, remedy))
                else:
                    restore = f"put the file back, or delete it, then {remedy}"
                    faults.append(Fault(str(path), "changed since it was written", expected, restore))
    for path in sorted(folder.glob(f"*Tr/[!.]*{ending}")):
        if path not in known:
            found, expected = "no line in provenance.jsonl", "a line for every pair"
            faults.append(Fault(str(path), found, expected, f"move the file away, then {remedy}"))
    return faults


def write_judges(folder: Path, judge: Judge, earlier: Mapping[str, LearnedCases] | None = None) -> None:
    """Record the judge that chose a set's pairs, with the cases that it has learned from.

    Args:
        folder: folder of the set.
        judge: the judge.
        earlier: judges that chose the pairs before.
    """
    write_json(folder / JUDGES, {**(earlier or {}), str(judge.folder.resolve()): read_learned_cases(judge.folder)})


def read_judges(folder: Path) -> dict[str, LearnedCases]:
    """Return the cases that the judges of a set have learned from, by the judge's folder."""
    path = folder / JUDGES
    if not path.is_file():
        return {}
    return read_record(dict[str, LearnedCases], path, again(folder))


def read_left_out(folder: Path) -> dict[str, str]:
    """Return the pairs that a filter left out of a set, with the reason; empty if the set is not filtered."""
    path = folder / LEFT_OUT
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            return {row["case"]: row["reason"] for row in csv.DictReader(stream)}
    except (KeyError, UnicodeDecodeError, csv.Error) as error:
        fault = Fault(
            str(path), f"no such table ({error!r})", "columns case and reason", f"delete it, then {again(folder)}"
        )
        raise StateError("A file cannot be read", [fault]) from error


def read_provenance(folder: Path) -> tuple[Provenance, ...]:
    """Read the finished pairs of a set, including those of unfinished shards.

    Raises:
        StateError: the set is of another version, or the file is missing or has invalid lines, all of which are listed.
    """
    read_settings(folder)
    path = folder / "provenance.jsonl"
    if not path.is_file():
        fault = Fault(str(path), "no such file", "one line per pair", again(folder))
        raise StateError("A file is missing", [fault])
    found: dict[str, Provenance] = {}
    faults: list[Fault] = []
    for log, text in read_logs(folder, "provenance").items():
        remedy = f"delete these lines of {log.name}, then {again(folder)}"
        lines = text if log == path else complete_lines(text)  # a shard may be writing its last line
        for number, line in enumerate(lines.splitlines(), 1):
            try:
                record = from_plain(Provenance, json.loads(line), where=f"{log.name} line {number}", remedy=remedy)
                faults += name_faults(f"{log} line {number}", [record.case, record.host, *record.host_file], remedy)
                found.setdefault(record.case, record)
            except PlanError as error:
                faults += error.faults
            except (ValueError, RecursionError) as error:
                faults.append(Fault(f"{log} line {number}", str(error), "a JSON object", remedy))
    if faults:
        raise StateError("The set's provenance cannot be read", faults)
    return tuple(found.values())


def write_dataset_json(out: Path, plan: Plan, pairs: int) -> None:
    """Write nnU-Net's dataset.json of a complete set with `pairs` pairs."""
    write_json(
        out / "dataset.json",
        {
            "channel_names": {str(i): channel.name for i, channel in enumerate(plan.channels)},
            **describe_for_nnunet(plan.labels, plan.regions_class_order),
            "numTraining": pairs,
            "file_ending": plan.file_ending,
            "description": f"synthetic pairs, see provenance.jsonl; learned from {plan.dataset}",
            "synthetic": describe_synthetic(pairs, pairs),
        },
    )


def describe_synthetic(pairs: int, cases: int) -> dict[str, Any]:
    """What dataset.json says of the synthetic cases of a data set, in its field `synthetic`.

    Args:
        pairs: number of synthetic pairs.
        cases: number of all cases.
    """
    return {"pairs": pairs, "of_cases": cases, "made_by": "tumorgen", "listed_in": "provenance.jsonl"}


def count_rejected(records: Sequence[Provenance], given_up: Mapping[str, Mapping[str, Any]]) -> Counter[str]:
    """Count the rejected draws of a set by reason, including the draws of pairs that were given up."""
    rejected: Counter[str] = Counter()
    for reasons in (*(record.rejected for record in records), *(record["rejected"] for record in given_up.values())):
        rejected.update(reasons)
    return rejected
