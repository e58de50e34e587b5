"""Healthy scans × boxes -> image-mask pairs, as an nnU-Net raw data set with provenance and previews.

Reads the workspace and host scans. Writes `imagesTr/`, `labelsTr/`, `previews/`, a line of `provenance.jsonl` per pair
(the pair is finished when its line is there), a line of `given_up.jsonl` per pair that did not come, with the reason,
`judges.json`, which says what a judge that chose them has learnt from, and, last, `dataset.json`. Several processes may each
make a shard of a set (`shards.py`); nothing then tells it from one made at once.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tumorgen_cli.data.volumes import write_volume
from tumorgen_cli.figures import display_range, display_style, save_pair_preview
from tumorgen_cli.geometry import Box, cast_to_dtype
from tumorgen_cli.planning.fingerprint import TumorFacts
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.synthesis.pair import Draw, PairJob, Quality, draw_pair, pair_labels, provenance_of
from tumorgen_cli.synthesis.places import Placing, Source, check_places
from tumorgen_cli.synthesis.provenance import NOT_FOUND, PAIR_FORMAT, Provenance
from tumorgen_cli.synthesis.scan import Scan, read_scan
from tumorgen_cli.synthesis.set_files import (
    HELD_OUT,
    JUDGES,
    count_rejected,
    read_provenance,
    write_dataset_json,
    write_judges,
)
from tumorgen_cli.synthesis.shards import (
    Shard,
    claim,
    divide,
    divided_so,
    drop_lines,
    end_division,
    gather,
    logs_of,
    open_log,
    read_log,
    turn,
)
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import DataError, Fault, StateError, describe_counts, one_line
from tumorgen_cli.system.files import append_line, derive_seed, hash_files
from tumorgen_cli.system.json_records import to_plain, write_json

if TYPE_CHECKING:
    from tumorgen_cli.methods.base import Method, Sampling


@dataclass(frozen=True)
class Tally:
    """What a set cost: pairs made now, pairs given up, draws rejected by reason, windows padded, over the whole set.

    `left`: pairs that other shards have yet to make.
    """

    pairs: int
    made: int
    left: int
    given_up: int
    draws: int
    rejected: dict[str, int]
    padded: int
    seconds_per_pair: float


def make_jobs(sources: Sequence[Source], pairs: int, seed: int) -> list[PairJob]:
    """Pairs shared out over the sources in turn, then ordered by source, so that each scan is read once."""
    jobs = []
    for index in range(pairs):
        turn, which = divmod(index, len(sources))
        source = sources[which]
        jobs.append(PairJob(index, source, f"{source.name}_s{index:04d}", derive_seed(seed, source.name, index), turn))
    return sorted(jobs, key=lambda job: (job.index % len(sources), job.index))


def own_jobs(jobs: Sequence[PairJob], shard: Shard | None) -> list[PairJob]:
    """The jobs of a shard, or all."""
    return [job for job in jobs if shard is None or shard.owns(job.index)]


def synthesize_set(
    plan: Plan,
    method: Method,
    jobs: Sequence[PairJob],
    out: Path,
    training_tumors: Sequence[TumorFacts],
    box: Box | None,
    sampling: Sampling,
    settings: dict[str, Any],
    quality: Quality | None,
    tick: Callable[[int, str], None],
    shard: Shard | None = None,
) -> Tally:
    """Makes the pairs that are not there yet; with `quality` only such as pass, with `shard` only its own.

    `box` is the user's, in the host's voxels; without it boxes are drawn. `settings` identify the set: a folder made
    with others is refused. `jobs` are those of the whole set; `tick` counts the shard's. A pair whose host cannot be used, or of which
    no tumor comes, is given up: the set is finished without it, and with a warning. The next call tries the first kind again.

    Raises:
        StateError: `out` holds another set, or shards of another division. DataError: see `check_places`; or no pair came at all.
    """
    check_places(tuple(dict.fromkeys(job.source for job in jobs)), box, plan)
    weights = dict(method.load())
    if quality is not None:
        settings = {**settings, "judge": quality.judge.hash, "keep": quality.keep, "tries": quality.tries}
    identity = to_plain(
        {"format": PAIR_FORMAT, "method": method.name, "plan": plan.hash, "weights": weights, **settings}
    )
    mine = own_jobs(jobs, shard)
    own = {job.case for job in mine}
    with turn(out, shard):
        claim(out, identity, alone=shard is None)
        divide(out, len(jobs), shard)
        write_json(
            out / HELD_OUT, method.workspace.splits().test
        )  # not part of what the set is: other cases may be held out later
        if quality is None:
            (out / JUDGES).unlink(missing_ok=True)  # of a set that came to nothing
        else:
            write_judges(out, quality.judge)
        provenance, losses = (open_log(out, name, shard) for name in ("provenance", "given_up"))
        drop_lines(out, "given_up", lambda line: "reason" in line and line["case"] in own)  # an error may have passed
        done, given_up = _finished_pairs(out), read_log(out, "given_up")
    made, scan = 0, None  # the scan is the last host that could be used
    hash_host = functools.cache(hash_files)  # each host is read for it once
    missing = [job for job in mine if job.case not in done and job.case not in given_up]
    if missing:
        _check_hosts(mine, done, hash_host, out, tick)
    tick(len(mine) - len(missing), "")
    for number, job in enumerate(missing, len(mine) - len(missing) + 1):
        started = time.perf_counter()
        try:
            if scan is None or scan.name != job.source.name:
                found = read_scan(job.source.name, job.source.files, job.source.label, plan)
                scan, placing, host_hash = (
                    found,
                    Placing(found, job.source, plan, training_tumors, box),
                    hash_host(job.source.files),
                )
            begun = time.perf_counter()
            draw = draw_pair(plan, method, job, scan, placing, sampling, quality)
        except DataError as error:  # the other pairs are no worse for it
            append_line(losses, json.dumps({"case": job.case, "rejected": {}, "reason": one_line(error)}))
            tick(number, f"{job.case} given up")
            continue
        if draw.image is None:
            append_line(losses, json.dumps({"case": job.case, "rejected": draw.rejected}))
        else:
            seconds = {"read": begun - started, "method": draw.seconds, "compute": time.perf_counter() - begun}
            _write_pair(plan, job, scan, draw, out)
            seconds["total"] = time.perf_counter() - started
            record = provenance_of(plan, method.name, weights, job, scan, host_hash, draw, seconds)
            append_line(provenance, json.dumps(to_plain(record)))
            made += 1
        tick(number, job.case)
    with turn(out, shard):
        done, given_up = _finished_pairs(out), read_log(out, "given_up")
        left = sum(job.case not in done and job.case not in given_up for job in jobs)
        if not left and divided_so(out, len(jobs), shard):
            _tell_given_up(out, done, given_up)
            order = {job.case: number for number, job in enumerate(jobs)}
            for name in ("provenance", "given_up"):
                gather(out, name, order)
            write_dataset_json(out, plan, len(done))
            end_division(out)
    return _tally(list(done.values()), made, left, given_up)


def _tell_given_up(out: Path, done: Mapping[str, Provenance], given_up: Mapping[str, Mapping[str, Any]]) -> None:
    """Warns of what was given up.

    Raises:
        DataError: it is all there is, and not for a judge; nothing is kept, so that the same command tries again, as may one with other settings.
    """
    if not given_up:
        return
    reasons = [record.get("reason") or describe_counts(record["rejected"]) for record in given_up.values()]
    told = "; ".join(list(dict.fromkeys(reasons))[:3])
    if not done and not any(NOT_FOUND in record["rejected"] for record in given_up.values()):
        for log in logs_of(out, "given_up"):
            log.unlink()
        end_division(out)
        remedy = "train longer, choose other hosts or boxes, or allow more draws (--set paste.draws=N at planning)"
        raise DataError(
            "No tumor came", [Fault(str(out), f"{len(given_up)} pairs given up ({told})", "one pair at least", remedy)]
        )
    console.warn(
        f"{len(given_up)} pairs were given up, beside {len(done)} that came: {told} (all: {out / 'given_up.jsonl'}; the same command tries those "
        "with an error again, and a pair whose line there is deleted)"
    )


def _write_pair(plan: Plan, job: PairJob, scan: Scan, draw: Draw, out: Path) -> None:
    image, mask, box, labels = np.asarray(draw.image), draw.mask, draw.window.box, pair_labels(plan, scan, draw)
    for channel, array in enumerate(image):
        write_volume(
            out / "imagesTr" / f"{job.case}_{channel:04d}{plan.file_ending}",
            cast_to_dtype(array, scan.dtypes[channel]),
            scan.grid,
        )
    write_volume(out / "labelsTr" / f"{job.case}{plan.file_ending}", labels, scan.grid)
    main = plan.main_channel
    colormap, unit = display_style(plan.channels[main].name)
    shown = display_range(scan.limits[main], (scan.image[main], image[main]), box)
    save_pair_preview(
        out / "previews" / f"{job.case}.png",
        scan.image[main],
        image[main],
        mask,
        box,
        scan.grid.spacing_mm,
        shown,
        job.case,
        direction=scan.grid.direction,
        colormap=colormap,
        unit=unit,
    )


def _finished_pairs(out: Path) -> dict[str, Provenance]:
    """The pairs that need not be made again."""
    return {record.case: record for record in read_provenance(out)}


def _check_hosts(
    jobs: Sequence[PairJob],
    done: Mapping[str, Provenance],
    hash_host: Callable[[tuple[Path, ...]], str],
    out: Path,
    tick: Callable[[int, str], None],
) -> None:
    """Sees that the finished pairs were painted into the hosts as they are now; `tick` counts them.

    Raises:
        StateError: hosts have changed; all are listed, with their pairs.
    """
    stale: dict[str, list[str]] = {}
    for number, job in enumerate([job for job in jobs if job.case in done], 1):
        if done[job.case].host_hash != hash_host(job.source.files):
            stale.setdefault(" and ".join(map(str, job.source.files)), []).append(job.case)
        tick(number, f"{job.case} is there")
    remedy = f"put back the old scans, choose another --out, or delete {out}"
    faults = [
        Fault(files, f"another scan than {', '.join(pairs)} were painted into", "the same", remedy)
        for files, pairs in stale.items()
    ]
    if faults:
        raise StateError("Hosts have changed since pairs were painted into them", faults)


def _tally(records: Sequence[Provenance], made: int, left: int, given_up: Mapping[str, Mapping[str, Any]]) -> Tally:
    rejected = count_rejected(records, given_up)
    draws = len(records) + sum(rejected.values())
    seconds = float(np.mean([record.seconds["total"] for record in records])) if records else 0.0
    padded = sum(record.padded for record in records)
    return Tally(len(records), made, left, len(given_up), draws, dict(rejected), padded, round(seconds, 3))
