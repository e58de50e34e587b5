"""Keeps the pairs of a synthetic set that a judge agrees with: the test of `--until-pass`, after synthesis.

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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from tumorgen_cli.data.volumes import read_image
from tumorgen_cli.evaluation.cases import TumorCase, synthetic_cases, tumor_name
from tumorgen_cli.evaluation.evaluate import read_scores
from tumorgen_cli.evaluation.measure import judge_case, verdict_of
from tumorgen_cli.judge.verdict import PassRule, check_pair
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.synthesis.logs import merge_logs, open_log, read_log
from tumorgen_cli.synthesis.provenance import PAIR_FORMAT, Provenance
from tumorgen_cli.synthesis.set_files import (
    HELD_OUT,
    LEFT_OUT,
    SHORTFALLS,
    is_lost,
    pair_files,
    read_held_out,
    read_hosts,
    read_judges,
    read_origin,
    read_provenance,
    read_shortfalls,
    write_dataset_json,
    write_hosts,
    write_judges,
)
from tumorgen_cli.synthesis.shards import Shard, begin_shard, claim_set, may_finish, remove_division, take_turn
from tumorgen_cli.system.errors import Fault, StateError
from tumorgen_cli.system.files import append_line, hash_file, hash_once, write_text
from tumorgen_cli.system.json_records import from_plain, nan_for_none, none_for_nan, to_plain, write_json
from tumorgen_cli.system.links import copy_file, share_file

if TYPE_CHECKING:
    from tumorgen_cli.judge.predictions import Predictions
    from tumorgen_cli.system.console import Ticker


COPY = "a copy of a training tumor"  # the reason to reject a pair that the judge would pass

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
class JudgedPair:
    """A line of `judged.jsonl`: what the judge finds of a pair; numbers are nan without a tumor.

    Attributes:
        case: Name of the pair.
        reason: Why it is rejected; empty for a kept pair.
        proportion: P, the share of the mask that is found.
        beside: Volume that is newly marked beside the mask, over the mask's volume.
        dice: Dice of the mask and what is found.
        surface_dice: Surface Dice of the two.
    """

    case: str
    reason: str
    proportion: float
    beside: float
    dice: float
    surface_dice: float


def own_pairs(pairs: Sequence[T], shard: Shard | None) -> list[T]:
    """Return the pairs of a shard, or all without a shard."""
    return [pair for index, pair in enumerate(pairs) if shard is None or shard.owns(index)]


def filter_set(
    plan: Plan,
    set_folder: Path,
    out: Path,
    predictions: Predictions,
    rule: PassRule,
    ticker: Ticker,
    shard: Shard | None = None,
    copies: frozenset[str] | None = None,
) -> Filtered:
    """Keep the pairs that pass the judge (`judge.verdict.check_pair`), each with all of its tumors.

    The set itself is not changed. Pairs that have their line are not judged again. With `shard` only its own pairs are
    judged, and the shard that finishes last completes the kept set.

    Args:
        plan: The plan of the workspace.
        set_folder: The set.
        out: Where the kept set is written.
        predictions: The judge and its predictions.
        rule: When a pair passes.
        ticker: Counts the pairs of this run.
        shard: This process's share of the pairs; None: all.
        copies: Pairs to reject all the same, from `copied_pairs`; None: it was not asked which are copies.

    Raises:
        StateError: The set is not complete, `out` holds something else or shards of another division, or the host of a
            pair is needed and is not there any more.
    """
    judge = predictions.judge
    pairs = synthetic_cases(plan, set_folder, shard)
    source = hash_file(set_folder / "provenance.jsonl")
    identity = {
        "format": PAIR_FORMAT,
        "command": "filter",
        "plan": plan.hash,
        "filtered_from": str(set_folder.resolve()),
        "provenance": source,
        "judge": judge.hash,
        "keep": rule.keep,
        "beside": rule.beside,
        "copies": None if copies is None else sorted(copies),
    }
    identity |= read_origin(set_folder)
    records, hosts = {record.case: record for record in read_provenance(set_folder)}, read_hosts(set_folder)
    with take_turn(out, shard):
        claim_set(out, identity, shard)
        begin_shard(out, len(pairs), shard)
        write_judges(out, judge, read_judges(set_folder))
        write_json(out / HELD_OUT, read_held_out(set_folder))
        write_json(out / SHORTFALLS, read_shortfalls(set_folder))
        write_hosts(out, hosts)
        log = open_log(out, _LOG, shard.name if shard else None)
        judged = _judged(out)
    mine = own_pairs(pairs, shard)
    for files in mine:
        if files.case in judged and not judged[files.case].reason:
            _take(plan, set_folder, out, records[files.case])
    missing = [files for files in mine if files.case not in judged]
    ticker(len(mine) - len(missing))
    for number, files in enumerate(missing, len(mine) - len(missing) + 1):
        line = _judge_pair(plan, files, records[files.case], predictions, hosts, rule)
        if copies is not None and files.case in copies and not line.reason:
            line = replace(line, reason=COPY)
        if not line.reason:
            _take(plan, set_folder, out, records[files.case])
        append_line(log, json.dumps(none_for_nan(to_plain(line))))
        ticker(number, files.case)
    with take_turn(out, shard):
        judged = _judged(out)
        left = sum(files.case not in judged for files in pairs)
        if not left and may_finish(out, len(pairs), shard):
            merge_logs(out, _LOG, {files.case: number for number, files in enumerate(pairs)})
            _finish(plan, set_folder, out, records.values(), judged)
            remove_division(out)
    reasons = [line.reason for line in judged.values() if line.reason]
    counts = {reason: reasons.count(reason) for reason in sorted(set(reasons))}
    return Filtered(str(out), len(judged) - len(reasons), len(reasons), counts, len(missing), left)


def copied_pairs(set_folder: Path, evaluation: Path) -> frozenset[str]:
    """Return the pairs of a set with a tumor that its evaluation calls a copy of a training tumor (`Novelty.copied`).

    Args:
        set_folder: The set.
        evaluation: The folder of its evaluation.

    Raises:
        StateError: The set was not evaluated as it is, or its tumors could not be compared with real ones.
    """
    path, unknown = evaluation / "scores.json", "It is not known which pairs are copies"
    scores = read_scores(path) if path.is_file() else None
    if scores is None or scores.set_hash != hash_file(set_folder / "provenance.jsonl"):
        found = "no such file" if scores is None else "the evaluation of other pairs"
        remedy = f"run `tumorgen evaluate {quote(str(set_folder))}` first"
        raise StateError(unknown, [Fault(str(path), found, "the evaluation of this set as it is", remedy)])
    if math.isnan(scores.novelty.singled_out):
        found = scores.novelty.reason or "too few real tumors to compare with"
        fault = Fault(str(path), found, "real tumors of several patients", "filter without --no-copies")
        raise StateError(unknown, [fault])
    copied = set(scores.novelty.copied)
    return frozenset(
        pair.case
        for pair in read_provenance(set_folder)
        if copied & {tumor_name(pair.case, number + 1, len(pair.tumors)) for number in range(len(pair.tumors))}
    )


def _judge_pair(
    plan: Plan,
    files: TumorCase,
    record: Provenance,
    predictions: Predictions,
    hosts: Mapping[str, tuple[Path, ...]],
    rule: PassRule,
) -> JudgedPair:
    """Judge a pair; its host is looked at only if the pair would not pass otherwise."""
    seen = judge_case(plan, files, predictions)

    def marked_before() -> np.ndarray:
        return predictions.around(
            record.host,
            record.host_hash,
            seen.grid,
            files.boxes,
            lambda: _read_host(record, hosts.get(record.host, ())),
        )

    outcome = check_pair(seen.tumor, seen.others, seen.predicted, marked_before, (files.boxes, seen.grid), rule)
    found = verdict_of(plan, files, seen)
    return JudgedPair(
        files.case, outcome.reason or "", outcome.proportion, outcome.beside, found.dice, found.surface_dice
    )


def _read_host(record: Provenance, files: tuple[Path, ...]) -> np.ndarray:
    """Read the unpainted host (C, X, Y, Z) of a pair.

    Raises:
        StateError: It is not where it was, or it has changed.
    """
    lost = [path for path in files if not path.exists()]
    if not files or lost or hash_once(*files) != record.host_hash:
        where = " and ".join(map(str, lost or files or record.host_file))
        found = "no such file" if lost or not files else "another scan than the pair was painted into"
        expected = "the unpainted host, because the judge marks much beside the mask, which may have been there before"
        remedy = "put the scan back, or use --p-alone, which does not look at what is marked beside the mask"
        raise StateError("A host is needed", [Fault(where, found, expected, remedy)])
    return read_image(files)[0]


def _judged(out: Path) -> dict[str, JudgedPair]:
    """Read the pairs that have been judged."""
    lines = nan_for_none(read_log(out, _LOG))
    return {
        case: from_plain(JudgedPair, line, f"{_LOG}.jsonl", "delete the folder and filter again")
        for case, line in lines.items()
    }


def _take(plan: Plan, set_folder: Path, out: Path, record: Provenance) -> None:
    """Put those files of a pair into the kept set that are not there whole; what people may edit is a copy."""
    for path, content in pair_files(set_folder, record, len(plan.channels), plan.file_ending):
        target = out / path.relative_to(set_folder)
        if is_lost(target, content):
            (copy_file if path.parent.name == "labelsTr" else share_file)(path, target)
    preview = set_folder / "previews" / f"{record.case}.png"
    if preview.is_file():
        copy_file(preview, out / preview.relative_to(set_folder))


def _finish(
    plan: Plan, set_folder: Path, out: Path, records: Iterable[Provenance], judged: Mapping[str, JudgedPair]
) -> None:
    """Write the files that describe the whole kept set, in the order of the set that was filtered."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["case", "host", "reason", "proportion", "beside", "dice", "surface_dice"])
    kept = []
    for line in records:
        found = judged[line.case]
        if not found.reason:
            kept.append(json.dumps(to_plain(line)) + "\n")
        else:
            numbers = (found.proportion, found.beside, found.dice, found.surface_dice)
            table.writerow([line.case, line.host, found.reason, *(f"{v:.4f}" for v in numbers)])
    write_text(out / LEFT_OUT, text.getvalue())
    write_text(
        out / "given_up.jsonl", "".join(json.dumps(line) + "\n" for line in read_log(set_folder, "given_up").values())
    )
    write_text(out / "provenance.jsonl", "".join(kept))
    write_dataset_json(out, plan, len(kept))
