"""The painter: paints patches on nnU-Net's own grid while nnU-Net trains, and puts them into a bounded pool.

`python -m tumorgen_cli.synthesis.painter FOLDER` is started by nnU-Net's trainer (`nnunet.on_the_fly`) and ends with
it. It reads FOLDER's painter.json, the workspace and the hosts; it writes FOLDER's pool, progress.json, and a line of
provenance.jsonl or given_up.jsonl per pair. A pair depends on the seed and its number alone (one that is mixed with
another also on the pool). The numbers continue where an earlier run of the same training ended.

A pair is drawn by the same code as in a set (`pair.draw_pair`). The whole scan then goes through nnU-Net's own
preprocessor, so that spacing and intensities are those that nnU-Net would give it as a case. A patch around one of its
tumors is kept, and one from anywhere in the scan, as nnU-Net cuts patches from real cases.
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
from typing import Any, NamedTuple

import numpy as np

from tumorgen_cli.geometry import Box, tight_box
from tumorgen_cli.judge.find import needed_judge
from tumorgen_cli.judge.predictions import Predictions
from tumorgen_cli.methods.base import Sampling
from tumorgen_cli.methods.open import open_method
from tumorgen_cli.nnunet.on_the_fly.pool import PaintedPatch, Pool
from tumorgen_cli.nnunet.on_the_fly.settings import JOB, PROGRESS, SETUP, PainterJob, Painting, Progress, pool_of
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.windows import cut_mix
from tumorgen_cli.synthesis.aim import Aim, is_aimed
from tumorgen_cli.synthesis.host_checks import Doubts, check_sources
from tumorgen_cli.synthesis.jobs import PairJob
from tumorgen_cli.synthesis.logs import open_log
from tumorgen_cli.synthesis.options import QualityOptions
from tumorgen_cli.synthesis.pair import (
    DrawnPair,
    LoadedHost,
    PairInputs,
    Quality,
    draw_pair,
    load_host,
    make_provenance,
)
from tumorgen_cli.synthesis.provenance import PAIR_FORMAT, Provenance
from tumorgen_cli.synthesis.sources import Source, healthy_sources, redraw_sources
from tumorgen_cli.system.devices import peak_memory_gib
from tumorgen_cli.system.errors import DataError, Fault, StateError, describe_counts, say_count
from tumorgen_cli.system.files import append_line, derive_seed, file_size
from tumorgen_cli.system.json_records import from_plain, hash_value, read_record, to_plain, write_json
from tumorgen_cli.system.locks import locked
from tumorgen_cli.system.processes import exit_with_parent

_ASK_LESS = "train the method longer, choose other hosts, raise --until-pass, or ask less (--keep, --p-alone)"
_SCANS_IN_MEMORY = 2
_NICE = 5  # training comes first; with 19 nothing would be painted on busy cores, and `share` limits the cost already
_MAX_LOCATIONS = 10_000  # voxels of a label by which nnU-Net's loader looks for it: nnU-Net's own number
_MAX_FAILURES = 20  # pairs in a row that may be given up before the first one is painted


@dataclass(frozen=True)
class LoadedPainting:
    """What pairs are painted with, loaded: inputs, hashes of the method's weights, and the host scans in turn."""

    inputs: PairInputs
    weights: dict[str, str]
    sources: tuple[Source, ...]


def find_sources(workspace: Workspace, plan: Plan, painting: Painting) -> tuple[Source, ...]:
    """Return the host scans in turn; with both healthy scans and training cases, every second one is a training case.

    Raises:
        DataError: hosts or regions cannot be used.
    """
    kinds: list[list[Source]] = []
    if painting.healthy is not None:
        roi = None if painting.roi is None else Path(painting.roi)
        kinds.append(healthy_sources(plan, Path(painting.healthy), roi))
    if painting.cases is not None:
        kinds.append(redraw_sources(workspace, plan, painting.cases))
    cases = workspace.fingerprint().of(workspace.splits().train).cases
    for kind in kinds:
        check_sources(kind, None, plan, cases)
    return tuple(kind[turn % len(kind)] for turn in range(max(map(len, kinds))) for kind in kinds)


def source_names(sources: Sequence[Source]) -> tuple[str, ...]:
    """Return the name of each scan once."""
    return tuple(dict.fromkeys(source.name for source in sources))


def hash_file_sizes(sources: Sequence[Source]) -> str:
    """Hash names and sizes of the scans' files, without reading them; it changes, for instance, with a new export."""
    return hash_value(sorted({(path.name, file_size(path)) for source in sources for path in source.files}))


def find_turn(names: Sequence[str], number: int) -> tuple[int, int]:
    """Find the scan into which a pair is painted, and the pair's `PairJob.turn`.

    Args:
        names: names of the scans in turn; a name may appear more than once.
        number: number of the pair.

    Returns:
        The index in `names`, and how many pairs are painted into the scan of that name before.
    """
    turn, which = divmod(number, len(names))
    same = [name == names[which] for name in names]
    return which, turn * sum(same) + sum(same[:which])


def load_painting(painting: Painting) -> LoadedPainting:
    """Load the method, the judge and the host scans' files.

    Raises:
        StateError: the workspace or the hosts have changed since `painting` was made.
    """
    workspace = Workspace(Path(painting.work))
    method = open_method(workspace, painting.method, painting.device)
    plan, weights = method.plan, dict(method.load())
    sources = find_sources(workspace, plan, painting)
    comparisons: dict[str, tuple[object, object]] = {
        "format": (PAIR_FORMAT, painting.format),
        "plan": (plan.hash, painting.plan_hash),
        "weights": (weights, painting.weights),
        "hosts": (source_names(sources), painting.hosts),
        "sizes of the hosts' files": (hash_file_sizes(sources), painting.hosts_hash),
    }
    faults = [
        Fault(name, f"{now}", f"{then}, as at nnunet-setup", SETUP)
        for name, (now, then) in comparisons.items()
        if now != then
    ]
    if faults:
        raise StateError("The workspace has changed", faults)
    quality = None
    if painting.until_pass is not None:
        folder = None if painting.judge is None else Path(painting.judge)
        judge = needed_judge(workspace, folder, painting.device, [source.files for source in sources])
        rule = QualityOptions(keep=painting.keep, p_alone=painting.p_alone).rule
        quality = Quality(Predictions(judge), rule, painting.until_pass)
    cases = workspace.fingerprint().of(workspace.splits().train).cases
    inputs = PairInputs(
        method,
        cases,
        Sampling(),
        quality=quality,
        count=painting.tumors,
        anywhere=painting.anywhere,
        trust_units=painting.trust_units,
        aim=None if painting.aim is None else from_plain(Aim, painting.aim, "aim"),
    )
    return LoadedPainting(inputs, weights, sources)


def paint(folder: Path, job: PainterJob, pairs: int | None = None) -> None:
    """Paint pairs; pause between them once the pool has the entries that training waits for.

    Args:
        folder: folder of the painter.
        job: what to paint.
        pairs: number of pairs; None to paint until the process is ended.

    Raises:
        StateError: the workspace has changed, or no pair can be painted.
    """
    painting, pool = job.painting, pool_of(folder, job.painting)
    painter = PatchPainter(load_painting(painting), job)
    # the work of a GPU is not counted in the time of this process
    clock = time.process_time if painter.loaded.inputs.method.device == "cpu" else time.perf_counter
    pool.clean()
    lines = {name: open_log(folder, name) for name in ("provenance", "given_up")}
    first = sum(path.read_text(encoding="utf-8").count("\n") for path in lines.values())
    painted = given_up = 0
    busy, reason, start = 0.0, "", time.perf_counter()

    def report() -> None:
        seconds = round(busy, 3), round(time.perf_counter() - start, 3)
        write_json(folder / PROGRESS, Progress(painted, given_up, reason, *seconds, round(peak_memory_gib(), 3)))

    report()  # shows that everything has been loaded
    for number in itertools.count(first) if pairs is None else range(first, first + pairs):
        pair_start = clock()
        try:
            record = painter.paint(number, pool)
            append_line(lines["provenance"], json.dumps(to_plain(record)))
            painted += 1
        except DataError as error:  # the next pair has another host, box and seed
            reason = "; ".join([error.message, *(fault.found for fault in error.faults)])
            append_line(lines["given_up"], json.dumps({"case": f"{number:08d}", "reason": reason}))
            given_up += 1
        spent = clock() - pair_start
        busy += spent
        report()
        if given_up == _MAX_FAILURES and not painted:
            found = f"{say_count(given_up, 'pair')} given up; the last: {reason}"
            raise StateError("No pair can be painted", [Fault(painting.method, found, "at least one pair", _ASK_LESS)])
        if len(pool.entries()) >= job.least:
            time.sleep(spent * (1 - painting.share) / painting.share)


class PatchPainter:
    """Paints pairs by number and puts their patches into the pool."""

    def __init__(self, loaded: LoadedPainting, job: PainterJob) -> None:
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        self.loaded, self.job = loaded, job
        self.manager = PlansManager(job.plans)
        self.configuration = self.manager.get_configuration(job.configuration)
        self._doubts = Doubts()
        healthy = dict.fromkeys(source.name for source in loaded.sources if not source.redraw)
        self._places = {name: place for place, name in enumerate(healthy)}
        self._host = lru_cache(maxsize=_SCANS_IN_MEMORY)(self._load_host)

    def _load_host(self, which: int) -> LoadedHost:
        host = load_host(self.loaded.inputs, self.loaded.sources[which])
        self._doubts.add(host.scan.name, host.doubts)
        return host

    def paint(self, number: int, pool: Pool) -> Provenance:
        """Paint a pair and put its patch into the pool.

        Args:
            number: number of the pair.
            pool: the pool.

        Returns:
            The provenance of the pair.

        Raises:
            DataError: the host cannot be used, or no tumor passes.
        """
        start, inputs, sources, painting = (
            time.perf_counter(),
            self.loaded.inputs,
            self.loaded.sources,
            self.job.painting,
        )
        which, turn = find_turn([source.name for source in sources], number)
        host = self._host(which)
        seed = derive_seed(painting.seed, sources[which].name, number)
        place, aim = self._places.get(sources[which].name), inputs.aim
        aimed = aim is not None and aim.summary.aimed and place is not None and is_aimed(place, turn)
        job = PairJob(number, sources[which], f"{number:08d}", seed, turn, aimed=aimed)
        pair = draw_pair(inputs, job, host)
        if not pair.tumors:
            fault = Fault(host.scan.name, describe_counts(pair.left_out[0]), "a tumor that passes", _ASK_LESS)
            raise DataError("No tumor came", [fault])
        seconds = {"method": pair.seconds, "compute": time.perf_counter() - start}
        rng, mixed_with = np.random.default_rng(seed), None
        chosen = np.random.default_rng(derive_seed(seed, "patch")).integers(len(pair.boxes))
        volume = self._preprocess(pair)
        part = self._find_part(pair, pair.boxes[chosen], volume)
        image, labels = volume.cut(part)
        if rng.random() < painting.mixup and (other := pool.draw(rng.random)) is not None:
            image, labels = mix_patches(image, labels, other, rng)
            mixed_with = other.number
        locations = {key: sample_locations(labels, key, rng) for key in volume.keys}
        pool.put(PaintedPatch(number, image, labels, locations), _cut_elsewhere(number, volume, part, seed))
        seconds["total"] = time.perf_counter() - start
        record = make_provenance(inputs, self.loaded.weights, job, host, pair, seconds)
        return record if mixed_with is None else replace(record, mixed_up_with=mixed_with)

    def _preprocess(self, pair: DrawnPair) -> _Volume:
        """Preprocess a pair as nnU-Net does."""
        scan = pair.scan
        assert scan.labels is not None  # a pair has a tumor
        image, given = (
            np.ascontiguousarray(a.transpose(0, 3, 2, 1), np.float32) for a in (scan.image, scan.labels[None])
        )
        spacing = [float(s) for s in reversed(scan.grid.spacing_mm)]  # in the order z, y, x
        preprocessor = self.configuration.preprocessor_class(verbose=False)
        return _Volume(
            *preprocessor.run_case_npy(
                image, given, {"spacing": spacing}, self.manager, self.configuration, self.job.dataset
            )
        )

    def _find_part(self, pair: DrawnPair, around: Box, volume: _Volume) -> tuple[slice, ...]:
        """Find the part of a preprocessed pair that is cut around one of its tumors; see `patch_slices`."""
        tight = tight_box(pair.mask[around.slices])
        assert tight is not None  # each box of a pair has a tumor
        box, shape = tight.shifted(around.start), volume.image.shape[1:]
        order, cropped = self.manager.transpose_forward, volume.properties["bbox_used_for_cropping"]
        before = volume.properties["shape_after_cropping_and_before_resampling"]
        start, stop = (
            [(corner[axis] - low) * n / m for axis, (low, _), n, m in zip(order, cropped, shape, before, strict=True)]
            for corner in (box.start[::-1], box.stop[::-1])
        )
        return patch_slices(start, stop, self.job.shape, shape)


class _Volume(NamedTuple):
    """A pair on nnU-Net's grid and in its order of axes: image (C, X, Y, Z) and labels (1, X, Y, Z)."""

    image: np.ndarray
    labels: np.ndarray
    properties: dict[str, Any]

    @property
    def keys(self) -> tuple[int | tuple[int, ...], ...]:
        """Keys of label locations: labels and, if there is an ignore label, the tuple of all annotated labels."""
        return tuple(self.properties["class_locations"])

    def cut(self, part: tuple[slice, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Copy a part of the image and of the labels."""
        image, labels = (array[(slice(None), *part)] for array in (self.image, self.labels))
        return np.ascontiguousarray(image, np.float32), np.ascontiguousarray(labels)


def _cut_elsewhere(number: int, volume: _Volume, part: tuple[slice, ...], seed: int) -> PaintedPatch:
    """Cut a patch of the size of a part anywhere in a preprocessed pair."""
    rng = np.random.default_rng(derive_seed(seed, "elsewhere"))
    lengths = [each.stop - each.start for each in part]
    starts = [int(rng.integers(n - length + 1)) for n, length in zip(volume.labels.shape[1:], lengths, strict=True)]
    image, labels = volume.cut(tuple(slice(a, a + n) for a, n in zip(starts, lengths, strict=True)))
    return PaintedPatch(number, image, labels, {key: sample_locations(labels, key, rng) for key in volume.keys})


def patch_slices(
    start: Sequence[float], stop: Sequence[float], shape: Sequence[int], volume: Sequence[int]
) -> tuple[slice, ...]:
    """Return the slices of a patch that is centered on a tumor's box and moved into the volume where it fits.

    Args:
        start: first corner of the tumor's box.
        stop: last corner of the tumor's box.
        shape: shape of the patch; 0 stands for twice the tumor's extent.
        volume: shape of the volume.
    """
    found = []
    for a, b, n, size in zip(start, stop, shape, volume, strict=True):
        length = min(size, n or round(2 * (b - a)) or 1)
        low = int(np.clip(round((a + b - length) / 2), 0, size - length))
        found.append(slice(low, low + length))
    return tuple(found)


def mix_patches(
    image: np.ndarray, labels: np.ndarray, other: PaintedPatch, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Paste a box of another patch into a patch, where both have voxels; see `windows.cut_mix`.

    Args:
        image: (C, X, Y, Z).
        labels: (1, X, Y, Z).
        other: the other patch.
        rng: draws the box.

    Returns:
        New image and labels of the same shapes.
    """
    x, y, z = (slice(0, min(n, m)) for n, m in zip(labels.shape[1:], other.labels.shape[1:], strict=True))
    image, labels = image.copy(), labels.copy()
    mixed = cut_mix(image[:, x, y, z], labels[0, x, y, z], other.image[:, x, y, z], other.labels[0, x, y, z], rng)
    image[:, x, y, z], labels[0, x, y, z] = mixed
    return image, labels


def sample_locations(labels: np.ndarray, key: int | Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Return at most 10,000 voxels (n, 4) of a label, or of a tuple of labels, in labels (1, X, Y, Z)."""
    found = np.argwhere(np.isin(labels, key))
    return found if len(found) <= _MAX_LOCATIONS else found[rng.choice(len(found), _MAX_LOCATIONS, replace=False)]


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
