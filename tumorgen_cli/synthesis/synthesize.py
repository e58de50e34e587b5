"""A set of pairs from host scans: an nnU-Net raw data set with provenance and previews.

Reads the workspace and host scans. Writes `imagesTr/`, `labelsTr/` and `previews/`; a line of `provenance.jsonl` per
pair, with which the pair is finished; a line of `given_up.jsonl` per pair that was given up, with the reason;
`judges.json`, which says from which cases a judge that chose the pairs has learned; and, last, `dataset.json`. Several
processes may each make a shard of a set (`shards.py`); the result is the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tumorgen_cli.judge.suspects import write_suspects
from tumorgen_cli.judge.verdict import JUDGE_REASONS
from tumorgen_cli.methods.shortfalls import find_shortfalls
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.synthesis.host_checks import check_sources
from tumorgen_cli.synthesis.jobs import PairJob, own_jobs
from tumorgen_cli.synthesis.logs import drop_lines, list_logs, merge_logs, open_log, read_log
from tumorgen_cli.synthesis.pair import PairInputs
from tumorgen_cli.synthesis.provenance import PAIR_FORMAT, Provenance
from tumorgen_cli.synthesis.set_files import (
    HELD_OUT,
    JUDGES,
    SHORTFALLS,
    count_rejected,
    forget_set,
    is_lost,
    pair_files,
    read_provenance,
    write_dataset_json,
    write_hosts,
    write_judges,
)
from tumorgen_cli.synthesis.set_pairs import make_pairs
from tumorgen_cli.synthesis.shards import Shard, begin_shard, claim_set, may_finish, remove_division, take_turn
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import (
    DataError,
    Fault,
    StateError,
    abbreviate_list,
    describe_counts,
    say_count,
)
from tumorgen_cli.system.files import hash_once
from tumorgen_cli.system.json_records import to_plain, write_json

_LOGS = ("provenance", "given_up")


@dataclass(frozen=True)
class Tally:
    """What a set has cost.

    Attributes:
        pairs: finished pairs of the whole set.
        tumors: tumors of these pairs.
        left_out: tumors that these pairs were to have, too, and that did not pass.
        made: pairs that this call made.
        left: pairs that other shards have not made yet.
        given_up: pairs of the whole set that were given up.
        draws: draws of the whole set.
        rejected: rejected draws of the whole set, by reason.
        padded: tumors of finished pairs whose window extends beyond the scan.
        seconds_per_pair: mean time of a finished pair.
    """

    pairs: int
    tumors: int
    left_out: int
    made: int
    left: int
    given_up: int
    draws: int
    rejected: dict[str, int]
    padded: int
    seconds_per_pair: float


def synthesize_set(
    inputs: PairInputs,
    jobs: Sequence[PairJob],
    out: Path,
    settings: dict[str, Any],
    tick: Callable[[int, str], None],
    shard: Shard | None = None,
) -> Tally:
    """Make the pairs of a set that are not there yet.

    A pair is given up if its host cannot be used or its first tumor does not pass. The set is then finished without
    it, with a warning. The next call tries again the pairs whose host could not be used.

    Args:
        inputs: what the pairs are painted with.
        jobs: the pairs of the whole set.
        out: folder of the set.
        settings: settings that identify the set, beside method, plan, weights and quality. A folder that was made with
            others is refused.
        tick: is called with the number of this process's pairs that are done, and a note.
        shard: the part of the pairs that this process makes; None for all.

    Raises:
        StateError: `out` holds another set, or shards of another division, or hosts have changed.
        DataError: see `check_sources`; or all pairs were given up.
    """
    check_sources(tuple(dict.fromkeys(job.source for job in jobs)), inputs.box, inputs.plan, inputs.cases)
    weights = dict(inputs.method.load())
    shortfalls = find_shortfalls(inputs.method)
    for text in shortfalls:
        console.warn(text)
    mine = own_jobs(jobs, shard)
    own = {job.case for job in mine}
    with take_turn(out, shard):
        _begin_set(out, inputs, set_identity(inputs, weights, settings), len(jobs), shard)
        write_json(out / SHORTFALLS, shortfalls)
        write_hosts(out, {job.source.name: job.source.files for job in jobs})
        if inputs.suspects:
            write_suspects(out, inputs.suspects)
        provenance, losses = (open_log(out, name, shard.name if shard else None) for name in _LOGS)
        # what could not be used before may be usable now
        drop_lines(out, "given_up", lambda line: "reason" in line and line["case"] in own)
        done, given_up = _read_finished(out), read_log(out, "given_up")
        lost = {case for case, record in done.items() if case in own and _is_lost(out, inputs.plan, record)}
        drop_lines(out, "provenance", lambda line: line["case"] in lost)
    done = {case: record for case, record in done.items() if case not in lost}
    missing = [job for job in mine if job.case not in done and job.case not in given_up]
    if missing:
        _check_hosts(mine, done, out, tick)
    first = len(mine) - len(missing)
    tick(first, "")
    made, faults = make_pairs(
        inputs, weights, missing, out, (provenance, losses), lambda done, note: tick(first + done, note)
    )
    return _finish_set(out, inputs.plan, jobs, made, faults, shard)


def set_identity(inputs: PairInputs, weights: Mapping[str, str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what identifies a set; the content of set.json."""
    identity = {
        "format": PAIR_FORMAT,
        "command": "synthesize",
        "method": inputs.method.name,
        "plan": inputs.method.plan_hash,
        "weights": weights,
        **settings,
    }
    quality = inputs.quality
    if quality is not None:
        rule = quality.rule
        identity |= {"judge": quality.judge.hash, "keep": rule.keep, "beside": rule.beside, "tries": quality.tries}
    plain: dict[str, Any] = to_plain(identity)
    return plain


def _begin_set(out: Path, inputs: PairInputs, identity: dict[str, Any], pairs: int, shard: Shard | None) -> None:
    """Write the files that a set begins with.

    Raises:
        StateError: see `claim_set` and `begin_shard`.
    """
    claim_set(out, identity, shard)
    begin_shard(out, pairs, shard)
    # no part of the identity: other cases may be held out later
    write_json(out / HELD_OUT, inputs.method.workspace.splits().test)
    if inputs.quality is None:
        (out / JUDGES).unlink(missing_ok=True)  # left by a set of which nothing was kept
    else:
        write_judges(out, inputs.quality.judge)


def _finish_set(
    out: Path, plan: Plan, jobs: Sequence[PairJob], made: int, faults: Sequence[Fault], shard: Shard | None
) -> Tally:
    """Finish the set if no pair is left, and count what it has cost.

    Raises:
        DataError: all pairs were given up.
    """
    with take_turn(out, shard):
        done, given_up = _read_finished(out), read_log(out, "given_up")
        left = sum(job.case not in done and job.case not in given_up for job in jobs)
        if not left and may_finish(out, len(jobs), shard):
            _warn_of_given_up(out, done, given_up, faults)
            _warn_of_left_out(done)
            order = {job.case: number for number, job in enumerate(jobs)}
            for name in _LOGS:
                merge_logs(out, name, order)
            write_dataset_json(out, plan, len(done))
            remove_division(out)
    return _count(list(done.values()), made, left, given_up)


def _warn_of_given_up(
    out: Path,
    done: Mapping[str, Provenance],
    given_up: Mapping[str, Mapping[str, Any]],
    faults: Sequence[Fault],
) -> None:
    """Warn of pairs that were given up.

    Raises:
        DataError: all pairs were given up, and not because of a judge. Nothing is kept, so that the same command, or
            one with other settings, tries again.
    """
    if not given_up:
        return
    reasons = [record.get("reason") or describe_counts(record["rejected"]) for record in given_up.values()]
    different = list(dict.fromkeys(reasons))
    summary = "; ".join(different[:3]) + (f"; and {len(different) - 3} other reasons" if len(different) > 3 else "")
    if not done and not any(reason in record["rejected"] for record in given_up.values() for reason in JUDGE_REASONS):
        forget_set(out)
        remove_division(out)
        if faults and all("reason" in record for record in given_up.values()):
            raise DataError("No host can be used", faults)
        remedy = (
            "train longer, choose other hosts, regions or boxes, or allow more draws (--set paste.draws=N at planning)"
        )
        fault = Fault(str(out), f"{say_count(len(given_up), 'pair')} given up ({summary})", "at least one pair", remedy)
        raise DataError("No tumor came", [fault])
    console.warn(
        f"{len(given_up)} pairs were given up, {len(done)} were made: {summary}. {out / 'given_up.jsonl'} has the "
        "reason of each. The same command tries those again whose host could not be used; to have another one tried "
        "again, delete its line there"
    )


def _warn_of_left_out(done: Mapping[str, Provenance]) -> None:
    """Warn of pairs with fewer tumors than they were to have."""
    fewer = {case: record for case, record in done.items() if record.left_out}
    if not fewer:
        return
    reasons: Counter[str] = Counter()
    for record in fewer.values():
        for rejected in record.left_out:
            reasons.update(rejected)
    shown = abbreviate_list(
        [f"{case}: {len(each.tumors)} of {len(each.tumors) + len(each.left_out)}" for case, each in fewer.items()]
    )
    console.warn(
        f"{len(fewer)} of {len(done)} pairs have fewer tumors than they were to have ({shown}); draws rejected for the "
        f"missing ones: {describe_counts(reasons)}"
    )


def _is_lost(out: Path, plan: Plan, record: Provenance) -> bool:
    """Tell whether a file of a finished pair is missing, truncated or damaged."""
    files = pair_files(out, record, len(plan.channels), plan.file_ending)
    return any(is_lost(path, content) for path, content in files)


def _read_finished(out: Path) -> dict[str, Provenance]:
    """Return the finished pairs by name."""
    return {record.case: record for record in read_provenance(out)}


def _check_hosts(
    jobs: Sequence[PairJob],
    done: Mapping[str, Provenance],
    out: Path,
    tick: Callable[[int, str], None],
) -> None:
    """Check that the hosts of the finished pairs have not changed; `tick` is called for each of these pairs.

    Raises:
        StateError: hosts have changed; all are listed, with their pairs.
    """
    stale: dict[str, list[str]] = {}
    for number, job in enumerate([job for job in jobs if job.case in done], 1):
        if done[job.case].host_hash != hash_once(*job.source.files):
            stale.setdefault(" and ".join(map(str, job.source.files)), []).append(job.case)
        tick(number, f"{job.case} is there")
    remedy = f"put back the old scans, choose another --out, or delete {out}"
    faults = [
        Fault(files, f"another scan than the host of {', '.join(pairs)}", "the same", remedy)
        for files, pairs in stale.items()
    ]
    if faults:
        raise StateError("Hosts have changed since pairs were painted into them", faults)


def count_set(out: Path, left: int) -> Tally:
    """What a set has cost so far, with the number of pairs that are left to make."""
    done = read_provenance(out) if any(list_logs(out, "provenance")) else ()
    return _count(done, 0, left, read_log(out, "given_up"))


def _count(records: Sequence[Provenance], made: int, left: int, given_up: Mapping[str, Mapping[str, Any]]) -> Tally:
    rejected = count_rejected(records, given_up)
    tumors, left_out = sum(len(record.tumors) for record in records), sum(len(record.left_out) for record in records)
    draws = tumors + sum(rejected.values())
    seconds = float(np.mean([record.seconds["total"] for record in records])) if records else 0.0
    padded = sum(tumor.padded for record in records for tumor in record.tumors)
    return Tally(
        pairs=len(records),
        tumors=tumors,
        left_out=left_out,
        made=made,
        left=left,
        given_up=len(given_up),
        draws=draws,
        rejected=dict(rejected),
        padded=padded,
        seconds_per_pair=round(seconds, 3),
    )
