"""The painter: makes painted patches for as long as nnU-Net trains, on nnU-Net's own grid, and puts them into a bounded pool.

`python -m tumorgen_cli.synthesis.painter FOLDER` is started by the trainer (`live`) and ends with it. It reads FOLDER's painter.json, the
workspace and the hosts; writes FOLDER's pool, a line of provenance.jsonl or given_up.jsonl per pair, and progress.json. A
pair depends on the seed and its number alone (with what it is mixed up, on the pool, too), and the numbers go on where an
earlier run of the same training ended.

A pair is drawn by the same code as a set's (`synthesis.draw_pair`). The whole scan goes through nnU-Net's own preprocessor, so
that spacing and intensities are what nnU-Net would have made of it as a case; what is kept is a patch around the tumor.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tumorgen_cli.geometry import Grid, tight_box
from tumorgen_cli.judge.find import needed_judge
from tumorgen_cli.methods.base import Method, Sampling
from tumorgen_cli.methods.open import open_method
from tumorgen_cli.nnunet.on_the_fly.pool import PaintedPatch, Pool
from tumorgen_cli.nnunet.on_the_fly.settings import JOB, PROGRESS, SETUP, PainterJob, Painting, Progress, pool_of
from tumorgen_cli.planning.fingerprint import TumorFacts
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.windows import cut_mix
from tumorgen_cli.synthesis.pair import Draw, PairJob, Quality, draw_pair, pair_labels, provenance_of
from tumorgen_cli.synthesis.places import Placing, Source, check_places, healthy_sources, redraw_sources
from tumorgen_cli.synthesis.provenance import Provenance
from tumorgen_cli.synthesis.scan import Scan, read_scan
from tumorgen_cli.synthesis.shards import open_log
from tumorgen_cli.system.devices import peak_memory_gib
from tumorgen_cli.system.errors import DataError, Fault, StateError, describe_counts
from tumorgen_cli.system.files import append_line, derive_seed, hash_files
from tumorgen_cli.system.json_records import hash_value, read_record, to_plain, write_json
from tumorgen_cli.system.locks import locked
from tumorgen_cli.system.processes import exit_with_parent

_HOSTS = 2  # scans in memory
_NICE = 5  # training comes first, but on cores that it fills 19 would mean that nothing is painted: `share` is what bounds the cost
_LOCATIONS = 10_000  # voxels of a label by which nnU-Net's loader looks for it: nnU-Net's own number
_HOPELESS = 20  # pairs in a row that are given up, before any was painted


@dataclass(frozen=True)
class Studio:
    """A workspace opened to paint: its method, loaded, and everything a pair is drawn from."""

    plan: Plan
    method: Method
    weights: dict[str, str]
    sources: tuple[Source, ...]
    tumors: tuple[TumorFacts, ...]
    quality: Quality | None


def sources_of(workspace: Workspace, plan: Plan, painting: Painting) -> tuple[Source, ...]:
    """The scans to paint into, in turn; where healthy ones and training cases are, every second is one of these.

    Raises:
        DataError: hosts or regions that cannot be used.
    """
    kinds: list[list[Source]] = []
    if painting.healthy is not None:
        kinds.append(
            healthy_sources(plan, Path(painting.healthy), None if painting.roi is None else Path(painting.roi))
        )
    if painting.cases is not None:
        kinds.append(redraw_sources(workspace, plan, painting.cases))
    for kind in kinds:
        check_places(kind, None, plan)
    return tuple(kind[turn % len(kind)] for turn in range(max(map(len, kinds))) for kind in kinds)


def names_of(sources: Sequence[Source]) -> tuple[str, ...]:
    """Each scan once."""
    return tuple(dict.fromkeys(source.name for source in sources))


def hash_sizes(sources: Sequence[Source]) -> str:
    """Of the names and sizes of the scans' files: that of others, exported anew, say, differs, and no file is read for it."""
    return hash_value(sorted({(path.name, path.stat().st_size) for source in sources for path in source.files}))


def times_met(names: Sequence[str], number: int) -> tuple[int, int]:
    """Which of the scans, in turn, a pair of that number is painted into, and how often that scan was before (`PairJob.turn`), where it stands
    among `names` more than once, too."""
    turn, which = divmod(number, len(names))
    alike = [name == names[which] for name in names]
    return which, turn * sum(alike) + sum(alike[:which])


def open_studio(painting: Painting) -> Studio:
    """Everything loaded.

    Raises:
        StateError: the workspace is no longer what `painting` was made from.
    """
    workspace = Workspace(Path(painting.work))
    method = open_method(workspace, painting.method, painting.device)
    plan, weights = method.plan, dict(method.load())
    sources = sources_of(workspace, plan, painting)
    now = {
        "plan": plan.hash,
        "weights": weights,
        "hosts": names_of(sources),
        "sizes of the hosts' files": hash_sizes(sources),
    }
    then = dict(zip(now, (painting.plan_hash, painting.weights, painting.hosts, painting.hosts_hash), strict=True))
    faults = [
        Fault(name, f"{now[name]}", f"{then[name]}, as at nnunet-setup", SETUP)
        for name in now
        if now[name] != then[name]
    ]
    if faults:
        raise StateError("The workspace has changed", faults)
    quality = None
    if painting.until_pass is not None:
        judge = needed_judge(workspace, None if painting.judge is None else Path(painting.judge), painting.device)
        quality = Quality(judge, painting.keep, painting.until_pass)
    tumors = workspace.fingerprint().of(workspace.splits().train).tumors
    return Studio(plan, method, weights, sources, tumors, quality)


def paint(folder: Path, job: PainterJob, pairs: int | None = None) -> None:
    """Makes pairs for ever, or so many, resting between them once there are as many entries as training waits for.

    Raises:
        StateError: the workspace has changed, or no pair passes.
    """
    painting, pool = job.painting, pool_of(folder, job.painting)
    studio = open_studio(painting)
    clock = (
        time.process_time if studio.method.device == "cpu" else time.perf_counter
    )  # a GPU's work is none of this process's
    pool.clean()
    lines = {name: open_log(folder, name, None) for name in ("provenance", "given_up")}
    first = sum(path.read_text(encoding="utf-8").count("\n") for path in lines.values())
    easel = _Easel(studio, job)
    painted = given_up = 0
    busy, reason, begun = 0.0, "", time.perf_counter()

    def tell() -> None:
        spans = round(busy, 3), round(time.perf_counter() - begun, 3)
        write_json(folder / PROGRESS, Progress(painted, given_up, reason, *spans, round(peak_memory_gib(), 3)))

    tell()  # that all that is needed has been found
    for number in itertools.count(first) if pairs is None else range(first, first + pairs):
        clocked = clock()
        try:
            record = easel.paint(number, pool)
            append_line(lines["provenance"], json.dumps(to_plain(record)))
            painted += 1
        except DataError as error:  # one pair of many; the next has another host, box and seed
            reason = "; ".join([error.message, *(fault.found for fault in error.faults)])
            append_line(lines["given_up"], json.dumps({"case": f"{number:08d}", "reason": reason}))
            given_up += 1
        spent = clock() - clocked
        busy += spent
        tell()
        if given_up == _HOPELESS and not painted:
            remedy = "lower --keep, raise --until-pass, choose other hosts, or train the method longer"
            raise StateError(
                "No pair can be painted",
                [Fault(painting.method, f"{given_up} pairs given up; the last: {reason}", "some", remedy)],
            )
        if len(pool.entries()) >= job.least:
            time.sleep(spent * (1 - painting.share) / painting.share)


class _Easel:
    """Paints the pair of a number and puts its patch into the pool."""

    def __init__(self, studio: Studio, job: PainterJob) -> None:
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        self.studio, self.job = studio, job
        self.manager = PlansManager(job.plans)
        self.configuration = self.manager.get_configuration(job.configuration)
        self.host = lru_cache(maxsize=_HOSTS)(self._host)

    def _host(self, number: int) -> tuple[Scan, str, Placing]:
        source, plan = self.studio.sources[number], self.studio.plan
        scan = read_scan(source.name, source.files, source.label, plan)
        return scan, hash_files(source.files), Placing(scan, source, plan, self.studio.tumors, None)

    def paint(self, number: int, pool: Pool) -> Provenance:
        """The provenance of the pair; its patch is in the pool.

        Raises:
            DataError: the host cannot be used, no tumor came, or none passed the judge.
        """
        studio, begun = self.studio, time.perf_counter()
        sources, plan = studio.sources, studio.plan
        which, turn = times_met([source.name for source in sources], number)
        scan, host_hash, placing = self.host(which)
        seed = derive_seed(self.job.painting.seed, sources[which].name, number)
        job = PairJob(number, sources[which], f"{number:08d}", seed, turn)
        draw = draw_pair(plan, studio.method, job, scan, placing, Sampling(), studio.quality)
        if draw.image is None:
            remedy = "lower --keep, raise --until-pass, or train longer"
            raise DataError("No tumor came", [Fault(scan.name, describe_counts(draw.rejected), "one that passes", remedy)])
        seconds = {"method": draw.seconds, "compute": time.perf_counter() - begun}
        rng = np.random.default_rng(seed)
        image, labels, keys = self._patch(scan.grid, draw, pair_labels(plan, scan, draw))
        if rng.random() < self.job.painting.mixup and (other := pool.draw(rng.random)) is not None:
            image, labels = mix(image, labels, other, rng)
            draw = replace(draw, drawn={**draw.drawn, "mixed_up_with": other.number})
        pool.put(PaintedPatch(number, image, labels, {key: locations(labels, key, rng) for key in keys}))
        seconds["total"] = time.perf_counter() - begun
        return provenance_of(plan, studio.method.name, studio.weights, job, scan, host_hash, draw, seconds)

    def _patch(self, grid: Grid, draw: Draw, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, Sequence[Any]]:
        """The part around the tumor of what nnU-Net makes of the scan, and the labels it would look for (a tuple: all that is
        annotated, where there is an ignore label)."""
        image, given = (
            np.ascontiguousarray(a.transpose(0, 3, 2, 1), np.float32) for a in (np.asarray(draw.image), labels[None])
        )
        properties: dict[str, Any] = {
            "spacing": [float(s) for s in reversed(grid.spacing_mm)]
        }  # nnU-Net's order: z, y, x
        preprocessor = self.configuration.preprocessor_class(verbose=False)
        data, seg, properties = preprocessor.run_case_npy(
            image, given, properties, self.manager, self.configuration, self.job.dataset
        )
        box = tight_box(draw.mask)
        assert box is not None  # a draw has a tumor
        spans = [tuple(reversed(box.start)), tuple(reversed(box.stop))]
        order, cropped = self.manager.transpose_forward, properties["bbox_used_for_cropping"]
        before = properties["shape_after_cropping_and_before_resampling"]
        start, stop = (
            [
                (span[axis] - low) * n / m
                for axis, (low, _), n, m in zip(order, cropped, data.shape[1:], before, strict=True)
            ]
            for span in spans
        )
        part = (slice(None), *around(start, stop, self.job.shape, data.shape[1:]))
        return (
            np.ascontiguousarray(data[part], np.float32),
            np.ascontiguousarray(seg[part]),
            tuple(properties["class_locations"]),
        )


def around(
    start: Sequence[float], stop: Sequence[float], shape: Sequence[int], volume: Sequence[int]
) -> tuple[slice, ...]:
    """The slices of a patch of `shape` (0: twice the tumor's extent) centred on a tumor's box, moved into the volume where it fits."""
    found = []
    for a, b, n, size in zip(start, stop, shape, volume, strict=True):
        length = min(size, n or round(2 * (b - a)) or 1)
        low = int(np.clip(round((a + b - length) / 2), 0, size - length))
        found.append(slice(low, low + length))
    return tuple(found)


def mix(
    image: np.ndarray, labels: np.ndarray, other: PaintedPatch, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A patch (C, X, Y, Z) and labels (1, X, Y, Z) into which a box of another is pasted, where both have voxels; see `windows.cut_mix`."""
    common = tuple(slice(0, min(n, m)) for n, m in zip(labels.shape[1:], other.labels.shape[1:], strict=True))
    image, labels = image.copy(), labels.copy()
    part = (slice(None), *common)
    mixed = cut_mix(image[part], labels[(0, *common)], other.image[part], other.labels[(0, *common)], rng)
    image[part], labels[(0, *common)] = mixed
    return image, labels


def locations(labels: np.ndarray, key: int | Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Voxels (n, 4) of a label, or of any of a tuple's, in labels (1, X, Y, Z): all, or 10,000 drawn of more."""
    found = np.argwhere(np.isin(labels, key))
    return found if len(found) <= _LOCATIONS else found[rng.choice(len(found), _LOCATIONS, replace=False)]


def _main(folder: Path) -> None:
    job = read_record(PainterJob, folder / JOB, "start nnU-Net again")
    exit_with_parent(job.parent)
    os.nice(_NICE)
    import torch

    torch.set_num_threads(1)
    with locked(folder, "painter"):
        paint(folder, job)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
