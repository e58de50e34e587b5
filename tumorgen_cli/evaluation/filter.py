"""Keeps the pairs of a synthetic set that a judge agrees with: FreeTumor's quality test, after synthesis.

Reads a set and the predictions that an evaluation may have left. Writes the kept pairs as a set of their own (labels as
copies, images as hard links where the disk allows it), `judges.json`, which says what the judges that selected them
have learned from, and a line of `judged.jsonl` for each pair (a pair is finished when its line is there). Once all
pairs are judged, it writes `rejected.csv`, which lists the rejected pairs with the reason, the set's own
`given_up.jsonl`, `provenance.jsonl` and, last, `dataset.json`. Several processes may each judge a shard of the set
(`shards.py`).
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tumorgen_cli.evaluation.cases import synthetic_cases
from tumorgen_cli.evaluation.measure import verdict_of
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.synthesis.logs import merge_logs, open_log, read_log
from tumorgen_cli.synthesis.provenance import NOT_FOUND, PAIR_FORMAT, Provenance
from tumorgen_cli.synthesis.set_files import (
    HELD_OUT,
    LEFT_OUT,
    is_lost,
    pair_files,
    read_held_out,
    read_judges,
    read_origin,
    read_provenance,
    write_dataset_json,
    write_judges,
)
from tumorgen_cli.synthesis.shards import Shard, begin_shard, claim_set, may_finish, remove_division, take_turn
from tumorgen_cli.system.files import append_line, hash_file, write_text
from tumorgen_cli.system.json_records import from_plain, nan_for_none, none_for_nan, to_plain, write_json
from tumorgen_cli.system.links import copy_file, share_file

if TYPE_CHECKING:
    from tumorgen_cli.judge.model import Judge
    from tumorgen_cli.system.console import Ticker


T = TypeVar("T")
_LOG = "judged"


@dataclass(frozen=True)
class Filtered:
    """What a filter kept, and where.

    Attributes:
        folder: The kept set.
        kept: Number of kept pairs.
        rejected: Number of rejected pairs.
        reasons: How many pairs were rejected for each reason.
        judged: Number of pairs that this run judged.
        left: Number of pairs that other shards still have to judge.
    """

    folder: str
    kept: int
    rejected: int
    reasons: dict[str, int]
    judged: int
    left: int


@dataclass(frozen=True)
class Judged:
    """A line of `judged.jsonl`: the judge's numbers for a pair (P, Dice, surface Dice; nan without a tumor)."""

    case: str
    proportion: float
    dice: float
    surface_dice: float


def own_pairs(pairs: Sequence[T], shard: Shard | None) -> list[T]:
    """Return the pairs of a shard, or all without a shard."""
    return [pair for index, pair in enumerate(pairs) if shard is None or shard.owns(index)]


def filter_set(
    plan: Plan,
    set_folder: Path,
    out: Path,
    cache: Path,
    judge: Judge,
    keep: float,
    ticker: Ticker,
    shard: Shard | None = None,
) -> Filtered:
    """Keep the pairs for which the judge finds at least the share `keep` of the mask (P).

    The set itself is not changed. Pairs that have their line are not judged again. With `shard` only its own pairs are
    judged, and the shard that finishes last completes the kept set.

    Args:
        plan: The plan of the workspace.
        set_folder: The set.
        out: Where the kept set is written.
        cache: The evaluation's cache, where the judge's predictions are read and kept.
        judge: The judge.
        keep: Smallest P of a kept pair.
        ticker: Counts the pairs of this run.
        shard: This process's share of the pairs; None: all.

    Raises:
        StateError: The set is not complete, or `out` holds something else or shards of another division.

    Source: Wu et al., FreeTumor: keep a pair if P >= T, T = 0.7.
    """
    pairs = synthetic_cases(plan, set_folder, shard)
    source = hash_file(set_folder / "provenance.jsonl")
    identity = {
        "format": PAIR_FORMAT,
        "command": "filter",
        "plan": plan.hash,
        "filtered_from": str(set_folder.resolve()),
        "provenance": source,
        "judge": judge.hash,
        "keep": keep,
    }
    identity |= read_origin(set_folder)
    with take_turn(out, shard):
        claim_set(out, identity, alone=shard is None)
        begin_shard(out, len(pairs), shard)
        write_judges(out, judge, read_judges(set_folder))
        write_json(out / HELD_OUT, read_held_out(set_folder))
        log = open_log(out, _LOG, shard.name if shard else None)
        judged = _judged(out)
    mine = own_pairs(pairs, shard)
    records = {record.case: record for record in read_provenance(set_folder)}
    for files in mine:
        if files.case in judged and judged[files.case].proportion >= keep:
            _take(plan, set_folder, out, records[files.case])
    missing = [files for files in mine if files.case not in judged]
    ticker(len(mine) - len(missing))
    for number, files in enumerate(missing, len(mine) - len(missing) + 1):
        found = verdict_of(plan, files, cache, judge)
        if found.proportion >= keep:
            _take(plan, set_folder, out, records[files.case])
        append_line(
            log,
            json.dumps(none_for_nan(to_plain(Judged(files.case, found.proportion, found.dice, found.surface_dice)))),
        )
        ticker(number, files.case)
    with take_turn(out, shard):
        judged = _judged(out)
        left = sum(files.case not in judged for files in pairs)
        if not left and may_finish(out, len(pairs), shard):
            merge_logs(out, _LOG, {files.case: number for number, files in enumerate(pairs)})
            _finish(plan, set_folder, out, judged, keep)
            remove_division(out)
    reasons = [reason for line in judged.values() if (reason := _reason(line, keep))]
    counts = {reason: reasons.count(reason) for reason in sorted(set(reasons))}
    return Filtered(str(out), len(judged) - len(reasons), len(reasons), counts, len(missing), left)


def _judged(out: Path) -> dict[str, Judged]:
    """Read the pairs that have been judged."""
    lines = nan_for_none(read_log(out, _LOG))
    return {
        case: from_plain(Judged, line, f"{_LOG}.jsonl", "delete the folder and filter again")
        for case, line in lines.items()
    }


def _reason(line: Judged, keep: float) -> str | None:
    """Return why a pair is rejected; None for a kept one."""
    if line.proportion >= keep:
        return None
    return NOT_FOUND if math.isfinite(line.proportion) else "empty"


def _take(plan: Plan, set_folder: Path, out: Path, record: Provenance) -> None:
    """Put those files of a pair into the kept set that are not there whole; what people may edit is a copy."""
    for path, content in pair_files(set_folder, record, len(plan.channels), plan.file_ending):
        target = out / path.relative_to(set_folder)
        if is_lost(target, content):
            (copy_file if path.parent.name == "labelsTr" else share_file)(path, target)
    preview = set_folder / "previews" / f"{record.case}.png"
    if preview.is_file():
        copy_file(preview, out / preview.relative_to(set_folder))


def _finish(plan: Plan, set_folder: Path, out: Path, judged: Mapping[str, Judged], keep: float) -> None:
    """Write the files that describe the whole kept set, in the order of the set that was filtered."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["case", "host", "reason", "proportion", "dice", "surface_dice"])
    kept = []
    for line in read_provenance(set_folder):
        found = judged[line.case]
        reason = _reason(found, keep)
        if reason is None:
            kept.append(json.dumps(to_plain(line)) + "\n")
        else:
            table.writerow(
                [
                    line.case,
                    line.host,
                    reason,
                    *(f"{v:.4f}" for v in (found.proportion, found.dice, found.surface_dice)),
                ]
            )
    write_text(out / LEFT_OUT, text.getvalue())
    write_text(
        out / "given_up.jsonl", "".join(json.dumps(line) + "\n" for line in read_log(set_folder, "given_up").values())
    )
    write_text(out / "provenance.jsonl", "".join(kept))
    write_dataset_json(out, plan, len(kept))
