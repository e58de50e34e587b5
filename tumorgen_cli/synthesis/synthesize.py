"""Healthy scans × boxes -> image-mask pairs, as an nnU-Net raw data set with provenance and previews.

Reads the workspace and host scans. Writes `imagesTr/`, `labelsTr/`, `previews/`, a line of `provenance.jsonl` per pair
(the pair is finished when its line is there), a line of `given_up.jsonl` per pair that did not come, with the reason,
`judges.json`, which says what a judge that chose them has learnt from, and, last, `dataset.json`. Several processes may each
make a shard of a set (`shards.py`); nothing then tells it from one made at once.
"""

from __future__ import annotations

import functools
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from tumorgen_cli import console
from tumorgen_cli.boxes import draw_size_mm, place_box
from tumorgen_cli.devices import memory_told
from tumorgen_cli.errors import DataError, Fault, StateError, one_line, reason_words
from tumorgen_cli.faults import geometry_faults, read_header
from tumorgen_cli.files import append_line, derive_seed, hash_files, to_plain, write_json
from tumorgen_cli.hosts import (
    Scan,
    Window,
    allowed_region,
    cut_window,
    fade_mm,
    lay_window,
    paste,
    read_scan,
    too_large,
    window_shape,
    without_tumors,
)
from tumorgen_cli.judging import predict_around
from tumorgen_cli.metrics.agreement import proportion
from tumorgen_cli.plan import Plan
from tumorgen_cli.previews import display_of, display_range, pair_preview
from tumorgen_cli.records import PAIR_FORMAT, Box, Grid, Provenance, Shard, TumorFacts
from tumorgen_cli.sets import HELD_OUT, JUDGES, NOT_FOUND, count_rejected, read_provenance, write_dataset_json, write_judges
from tumorgen_cli.shards import (
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
from tumorgen_cli.volumes import read_volume, write_volume
from tumorgen_cli.windows import in_type, tight_box

if TYPE_CHECKING:
    from tumorgen_cli.judge import Judge
    from tumorgen_cli.methods.method import Method, Sampling


@dataclass(frozen=True)
class Source:
    """Where a pair comes from: a host's files; its labels and the tumor boxes to redraw, for the data set's own cases; a mask of the
    region to paint in, of which `region` is the label that counts (None: all that is not 0)."""

    name: str
    files: tuple[Path, ...]
    label: Path | None = None
    redraw: tuple[Box, ...] = ()
    roi: Path | None = None
    region: int | None = None


@dataclass(frozen=True)
class Job:
    """Pair `index` of a set, and its name. `turn`: how often its scan is painted into before, so that its tumors are redrawn in turn."""

    index: int
    source: Source
    case: str
    seed: int
    turn: int


@dataclass(frozen=True)
class Quality:
    """FreeTumor's test at once: a draw passes if the judge finds the share `keep` of its mask (P); after `tries` draws that
    do not, the pair is given up."""

    judge: Judge
    keep: float
    tries: int


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


def make_jobs(sources: Sequence[Source], pairs: int, seed: int) -> list[Job]:
    """Pairs shared out over the sources in turn, then ordered by source, so that each scan is read once."""
    jobs = []
    for index in range(pairs):
        turn, which = divmod(index, len(sources))
        source = sources[which]
        jobs.append(Job(index, source, f"{source.name}_s{index:04d}", derive_seed(seed, source.name, index), turn))
    return sorted(jobs, key=lambda job: (job.index % len(sources), job.index))


def own_jobs(jobs: Sequence[Job], shard: Shard | None) -> list[Job]:
    """The jobs of a shard, or all."""
    return [job for job in jobs if shard is None or shard.owns(job.index)]


def check_places(sources: Sequence[Source], box: Box | None, plan: Plan) -> None:
    """Where the user wants tumors, by the headers alone.

    Raises:
        DataError: regions of another geometry than their scans, scans that the user's box is not in, or for which it is too large; all of them.
    """
    faults: list[Fault] = []
    for source in sources:
        if box is None and source.roi is None:
            continue
        files = [source.files[0], *([source.roi] if source.roi else [])]
        grids = {path: grid for path in files if (grid := read_header(path, faults)) is not None}
        faults += geometry_faults(grids)
        grid = grids.get(files[0])
        if box is None or grid is None:
            continue
        where = f"--box {','.join(map(str, (*box.start, *box.stop)))} on {source.name}"
        if any(a < 0 or b > n or b - a < 2 for a, b, n in zip(box.start, box.stop, grid.shape, strict=True)):
            expected = "0 <= start, start + 2 <= stop <= size per axis"
            faults.append(Fault(where, f"outside the scan of {grid.shape} voxels", expected, "correct the box"))
        elif window_shape(box, grid, plan) is None:
            faults.append(too_large(where, box, grid, plan))
    if faults:
        raise DataError("Nothing can be painted there", faults)


def synthesize_set(
    plan: Plan,
    method: Method,
    jobs: Sequence[Job],
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
    identity = to_plain({"format": PAIR_FORMAT, "method": method.name, "plan": plan.hash, "weights": weights, **settings})
    mine = own_jobs(jobs, shard)
    own = {job.case for job in mine}
    with turn(out, shard):
        claim(out, identity, alone=shard is None)
        divide(out, len(jobs), shard)
        write_json(out / HELD_OUT, method.workspace.splits().test)  # not part of what the set is: other cases may be held out later
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
                scan, placing, host_hash = found, Placing(found, job.source, plan, training_tumors, box), hash_host(job.source.files)
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
    reasons = [record.get("reason") or reason_words(record["rejected"]) for record in given_up.values()]
    told = "; ".join(list(dict.fromkeys(reasons))[:3])
    if not done and not any(NOT_FOUND in record["rejected"] for record in given_up.values()):
        for log in logs_of(out, "given_up"):
            log.unlink()
        end_division(out)
        remedy = "train longer, choose other hosts or boxes, or allow more draws (--set paste.draws=N at planning)"
        raise DataError("No tumor came", [Fault(str(out), f"{len(given_up)} pairs given up ({told})", "one pair at least", remedy)])
    console.warn(
        f"{len(given_up)} pairs were given up, beside {len(done)} that came: {told} (all: {out / 'given_up.jsonl'}; the same command tries those "
        "with an error again, and a pair whose line there is deleted)"
    )


@dataclass(frozen=True)
class Draw:
    """A pair on its host's grid (image (C, X, Y, Z), None: given up; mask (X, Y, Z)), how it was drawn, and the method's seconds.

    `healed`: the box in which an old tumor was taken away before, if one was.
    """

    image: np.ndarray | None
    mask: np.ndarray
    window: Window
    healed: Box | None
    attempt: int
    volume_ml: float
    drawn: dict[str, Any]
    rejected: dict[str, int]
    seconds: float


def draw_pair(
    plan: Plan, method: Method, job: Job, scan: Scan, placing: Placing, sampling: Sampling, quality: Quality | None
) -> Draw:
    """Draws until a tumor comes that passes `quality`, or the pair is given up: after the plan's number of draws without one, or after
    `quality.tries` that do not pass. The same job, the same pair.

    Raises:
        DataError: there is no place for a box, or it is too large.
    """
    rejected: Counter[str] = Counter()
    seconds, empties = 0.0, 0  # draws without a tumor since the last one with
    for attempt in itertools.count():
        window = placing.window(np.random.default_rng([job.seed, attempt, 1]), job.turn, method.cell)
        host, healed = scan, None  # or, for a method that would leave the old tumor in it, without that
        if method.keeps_background:
            host, healed = without_tumors(scan, window.box, plan, derive_seed(job.seed, attempt, "healing"))
        request = cut_window(host, window, job.source.name if job.source.redraw else None)
        begun = time.perf_counter()
        with memory_told(method.name):
            synthetic = method.synthesize(request, derive_seed(job.seed, attempt), sampling)
        seconds += time.perf_counter() - begun
        image, mask = paste(host, window, request, synthetic, plan, method.keeps_background)
        volume, drawn = float(mask.sum()) * scan.grid.voxel_ml, dict(synthetic.drawn)
        if volume > 0 and volume >= plan.paste.smallest_ml:
            if quality is None:
                break
            drawn["proportion"] = round(proportion(mask, predict_around(quality.judge, image, scan.grid, window.box)), 4)
            if drawn["proportion"] >= quality.keep:
                break
            empties = 0
            rejected[NOT_FOUND] += 1
        else:
            empties += 1
            rejected["too small" if volume > 0 else "empty"] += 1
        if empties == plan.paste.draws or (quality is not None and rejected[NOT_FOUND] == quality.tries):
            return Draw(None, mask, window, None, attempt, volume, drawn, dict(+rejected), seconds)
    return Draw(image, mask, window, healed, attempt, volume, drawn, dict(+rejected), seconds)


def provenance_of(
    plan: Plan, method: str, weights: dict[str, str], job: Job, scan: Scan, host_hash: str, draw: Draw, seconds: dict[str, float]
) -> Provenance:
    """How a pair came to be."""
    return Provenance(
        job.case, method, scan.name, tuple(f.name for f in scan.files), host_hash, scan.voxels, job.seed, draw.attempt,
        draw.window.asked, draw.window.box, plan.hash, weights, round(draw.volume_ml, 4), draw.window.padded,
        {k: round(v, 4) for k, v in seconds.items()}, draw.rejected, draw.drawn, draw.healed,
    )  # fmt: skip


def pair_labels(plan: Plan, scan: Scan, draw: Draw) -> np.ndarray:
    """The pair's labels (X, Y, Z) uint8: the host's, with the new tumor.

    A tumor that was in the box is gone from them, as from the picture: its voxels take the label nearest to them.
    """
    labels = np.zeros(scan.grid.shape, np.uint8) if scan.labels is None else scan.labels.astype(np.uint8)
    _take_away(labels, draw.window.box, plan.tumor_label, scan.grid)
    labels[draw.mask] = plan.tumor_label
    return labels


def _write_pair(plan: Plan, job: Job, scan: Scan, draw: Draw, out: Path) -> None:
    image, mask, box, labels = np.asarray(draw.image), draw.mask, draw.window.box, pair_labels(plan, scan, draw)
    for channel, array in enumerate(image):
        write_volume(out / "imagesTr" / f"{job.case}_{channel:04d}{plan.file_ending}", in_type(array, scan.dtypes[channel]), scan.grid)
    write_volume(out / "labelsTr" / f"{job.case}{plan.file_ending}", labels, scan.grid)
    main = plan.main_channel
    colormap, unit = display_of(plan.channels[main].name)
    shown = display_range(scan.limits[main], (scan.image[main], image[main]), box)
    pair_preview(
        out / "previews" / f"{job.case}.png", scan.image[main], image[main], mask, box, scan.grid.spacing_mm, shown,
        job.case, direction=scan.grid.direction, colormap=colormap, unit=unit,
    )  # fmt: skip


def _take_away(labels: np.ndarray, box: Box, tumor_label: int, grid: Grid) -> None:
    """Gives the tumor voxels in a box of labels (X, Y, Z), in place, the label nearest to them."""
    tumors = labels == tumor_label
    around = tight_box(tumors)
    if around is None or not tumors[box.slices].any():
        return
    region = around.grown(1, grid.shape)  # on the way from a tumor voxel to the nearest other one all are tumor
    part, old = labels[region.slices], np.zeros(labels.shape, bool)
    old[box.slices] = tumors[box.slices]
    nearest = ndimage.distance_transform_edt(tumors[region.slices], grid.spacing_mm, return_distances=False, return_indices=True)
    inside = old[region.slices]
    part[inside] = part[tuple(nearest)][inside]


class Placing:
    """Boxes for one scan: the user's, a redrawn tumor's with BA-PMG offsets, or of a training tumor's size in the body.

    Those that are drawn have an edge, so that the tumor's place in them (`hosts.tumor_place`) is of that size.
    """

    def __init__(self, scan: Scan, source: Source, plan: Plan, tumors: Sequence[TumorFacts], box: Box | None) -> None:
        self.scan, self.source, self.plan, self.tumors, self.user_box = scan, source, plan, tumors, box
        if box is None and not source.redraw:
            self.allowed, self.stride = allowed_region(scan, self._roi())

    def _roi(self) -> np.ndarray | None:
        if self.source.roi is None:
            return None
        roi, _ = read_volume(self.source.roi)
        if self.source.region is not None:
            roi = roi == self.source.region
        if not roi.any():
            found = "no voxel set" if self.source.region is None else f"no voxel of label {self.source.region}"
            raise DataError("A region is empty", [Fault(str(self.source.roi), found, "a region to paint in", "draw one, or leave this host out")])
        return roi

    def window(self, rng: np.random.Generator, turn: int, cell: int) -> Window:
        """The window around a box, whose place for a tumor is of whole cells (`Method.cell`) unless the box is the user's."""
        return lay_window(self.scan, self.box(rng, turn), self.plan, cell if self.user_box is None else 1)

    def box(self, rng: np.random.Generator, turn: int) -> Box:
        if self.user_box is not None:
            return self.user_box
        if self.source.redraw:
            tumor = self.source.redraw[turn % len(self.source.redraw)]
            return redraw_box(tumor, self.scan.grid, self.plan, rng.uniform(0, 1, 3), rng.uniform(0, 1, 3))
        spacing = self.scan.grid.spacing_mm
        place_mm, _ = draw_size_mm(self.tumors, self.plan.window.alpha, self.plan.window.extent_mm, rng)
        size_mm = [e + fade_mm(e, self.plan.paste.feather_mm) for e in place_mm]
        # A host smaller than the box gets a box of its own size; the window is then padded, and counted.
        size = tuple(
            max(1, min(round(e / s), n) // self.stride) for e, s, n in zip(size_mm, spacing, self.scan.grid.shape, strict=True)
        )
        coarse = place_box(size, self.allowed, rng)  # type: ignore[arg-type]
        if coarse is None:
            fault = Fault(self.scan.name, "no place for a box", "a body or region of interest", "give --roi or --box")
            raise DataError("A host has no place for a tumor", [fault])
        return Box(
            tuple(a * self.stride for a in coarse.start),
            tuple(min(b * self.stride, n) for b, n in zip(coarse.stop, self.scan.grid.shape, strict=True)),
        )  # type: ignore[arg-type]


def redraw_box(tumor: Box, grid: Grid, plan: Plan, low: Sequence[float], high: Sequence[float]) -> Box:
    """BA-PMG on the scan's own grid: the tumor's box with offsets that are the shares `low` and `high` (3,) of α D_i, D_i the window's
    length, and the edge in which the picture fades."""
    reach = np.array([plan.window.alpha * e / s for e, s in zip(plan.window.extent_mm, grid.spacing_mm, strict=True)])
    before, after = low * reach, high * reach
    place = [n + a + b for n, a, b in zip(tumor.shape, before, after, strict=True)]
    fade = [fade_mm(n * s, plan.paste.feather_mm) / 2 / s for n, s in zip(place, grid.spacing_mm, strict=True)]
    start = tuple(max(0, round(a - d - f)) for a, d, f in zip(tumor.start, before, fade, strict=True))
    stop = tuple(min(n, round(b + d + f)) for b, d, f, n in zip(tumor.stop, after, fade, grid.shape, strict=True))
    return Box(start, stop)  # type: ignore[arg-type]


def _finished_pairs(out: Path) -> dict[str, Provenance]:
    """The pairs that need not be made again."""
    return {record.case: record for record in read_provenance(out)}


def _check_hosts(
    jobs: Sequence[Job], done: Mapping[str, Provenance], hash_host: Callable[[tuple[Path, ...]], str], out: Path, tick: Callable[[int, str], None]
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
    faults = [Fault(files, f"another scan than {', '.join(pairs)} were painted into", "the same", remedy) for files, pairs in stale.items()]
    if faults:
        raise StateError("Hosts have changed since pairs were painted into them", faults)


def _tally(records: Sequence[Provenance], made: int, left: int, given_up: Mapping[str, Mapping[str, Any]]) -> Tally:
    rejected = count_rejected(records, given_up)
    draws = len(records) + sum(rejected.values())
    seconds = float(np.mean([record.seconds["total"] for record in records])) if records else 0.0
    padded = sum(record.padded for record in records)
    return Tally(len(records), made, left, len(given_up), draws, dict(rejected), padded, round(seconds, 3))
