"""A synthetic set as it lies on disk: what its files are called, and how they are read.

`set.json` says where its pairs come from, `held_out.json` what its workspace holds out, `provenance.jsonl` how each came to be,
`judges.json` what the judges that chose them have learnt from, `rejected.csv` what a filter left out, `dataset.json` that the set is
whole.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tumorgen_cli.nnunet.results import Learnt, read_learnt
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.synthesis.provenance import Provenance
from tumorgen_cli.synthesis.shards import read_logs, whole_lines
from tumorgen_cli.system.errors import Fault, PlanError, StateError
from tumorgen_cli.system.json_records import from_plain, read_plain, read_record, write_json

if TYPE_CHECKING:
    from tumorgen_cli.judge.model import Judge


JUDGES = "judges.json"
BARE = "hosts_without_labels"  # of set.json
HELD_OUT = "held_out.json"
LEFT_OUT = "rejected.csv"


def read_learnt_from(folder: Path) -> tuple[str, ...] | None:
    """The cases that the method of a set has seen: those it was trained on, or took tumors or their sizes from.

    None where the set does not say.
    """
    found = read_origin(folder).get("learnt_from")
    return None if found is None else tuple(found)


def read_held_out(folder: Path) -> tuple[str, ...]:
    """The cases that the workspace of a set held out when it was last asked for; none where the set does not say."""
    path = folder / HELD_OUT
    return tuple(read_plain(path, "run `tumorgen synthesize` again")) if path.is_file() else ()


def read_bare(folder: Path) -> tuple[str, ...]:
    """The hosts of a set without labels, whose pairs hold none but the tumor's, where the data set has others."""
    return tuple(read_origin(folder).get(BARE, ()))


def read_origin(folder: Path) -> dict[str, Any]:
    """What the set.json of a set, or of a part of one, says of where its pairs come from."""
    path = folder / "set.json"
    found = read_plain(path, "run `tumorgen synthesize` again") if path.is_file() else {}
    return {key: found[key] for key in ("learnt_from", BARE) if key in found}


def write_judges(folder: Path, judge: Judge, earlier: Mapping[str, Learnt] | None = None) -> None:
    """Records which judge chose a set's pairs, and `earlier` ones, with the cases that each is known to have learnt from."""
    write_json(folder / JUDGES, {**(earlier or {}), str(judge.folder.resolve()): read_learnt(judge.folder)})


def read_judges(folder: Path) -> dict[str, Learnt]:
    """What the judges that chose a set's pairs are known to have learnt from, by the judge's folder."""
    path = folder / JUDGES
    return read_record(dict[str, Learnt], path, "run `tumorgen synthesize` or `filter` again") if path.is_file() else {}


def read_left_out(folder: Path) -> dict[str, str]:
    """The pairs that a filter left out of a set, with the reason; none of a set that is not filtered."""
    path = folder / LEFT_OUT
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as stream:
        return {row["case"]: row["reason"] for row in csv.DictReader(stream)}


def read_provenance(folder: Path) -> tuple[Provenance, ...]:
    """The finished pairs of a set, those of shards that are still at work among them.

    Raises:
        StateError: missing, or lines that are no provenance; all of them are named.
    """
    path, remedy = folder / "provenance.jsonl", f"delete {folder} and run `tumorgen synthesize` again"
    if not path.is_file():
        raise StateError(
            "A file is missing",
            [Fault(str(path), "no such file", "one line per pair", "run `tumorgen synthesize` again")],
        )
    found: dict[str, Provenance] = {}
    faults: list[Fault] = []
    for log, text in read_logs(folder, "provenance").items():
        if log != path:  # a shard may be at its last line
            text = whole_lines(text)
        for number, line in enumerate(text.splitlines(), 1):
            try:
                record = from_plain(Provenance, json.loads(line), where=f"{log.name} line {number}", remedy=remedy)
                found.setdefault(record.case, record)
            except PlanError as error:
                faults += error.faults
            except json.JSONDecodeError as error:
                faults.append(Fault(f"{log} line {number}", str(error), "a JSON object", remedy))
    if faults:
        raise StateError("The set's provenance cannot be read", faults)
    return tuple(found.values())


def write_dataset_json(out: Path, plan: Plan, pairs: int) -> None:
    write_json(
        out / "dataset.json",
        {
            "channel_names": {str(i): channel.name for i, channel in enumerate(plan.channels)},
            "labels": plan.labels,
            "numTraining": pairs,
            "file_ending": plan.file_ending,
            "description": f"synthetic pairs, see provenance.jsonl; learnt from {plan.dataset}",
        },
    )


def count_rejected(records: Sequence[Provenance], given_up: Mapping[str, Mapping[str, Any]]) -> Counter[str]:
    """The draws of a set that were rejected, by reason, those of pairs given up among them."""
    rejected: Counter[str] = Counter()
    for reasons in (*(record.rejected for record in records), *(record["rejected"] for record in given_up.values())):
        rejected.update(reasons)
    return rejected
