"""One pair: tumors are painted into a scan one after the other, each until a draw passes; then all is recorded."""

from __future__ import annotations

import functools
import itertools
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from tumorgen_cli.data.body import body_volume_ml
from tumorgen_cli.data.labels import Values, mask_of
from tumorgen_cli.data.slabs import Slabs
from tumorgen_cli.geometry import Box, Triple
from tumorgen_cli.judge.verdict import JUDGE_REASONS, PassRule, check_pair, predict_around
from tumorgen_cli.planning.fingerprint import CaseFacts, TumorFacts
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.synthesis.aim import Aim
from tumorgen_cli.synthesis.counts import draw_count, fixed_count, most_tumors
from tumorgen_cli.synthesis.draws import NO_ROOM, Draw, find_fault, measure_change, place_masks, unpainted
from tumorgen_cli.synthesis.host_checks import check_intensities
from tumorgen_cli.synthesis.jobs import PairJob
from tumorgen_cli.synthesis.paste import host_labels, paste, paste_labels, tumor_place
from tumorgen_cli.synthesis.places import Placing
from tumorgen_cli.synthesis.provenance import PaintedTumor, Provenance
from tumorgen_cli.synthesis.scan import Scan, read_scan, remove_tumors_in_box
from tumorgen_cli.synthesis.sources import Source
from tumorgen_cli.synthesis.sublabels import with_sublabels
from tumorgen_cli.synthesis.window import Window, cut_window
from tumorgen_cli.system.devices import catch_out_of_memory
from tumorgen_cli.system.files import derive_seed, hash_once

if TYPE_CHECKING:
    from tumorgen_cli.judge.model import Judge
    from tumorgen_cli.judge.predictions import Predictions
    from tumorgen_cli.judge.suspects import Suspect
    from tumorgen_cli.methods.base import Method, Sampling


@dataclass(frozen=True)
class Quality:
    """The judge's test, applied to each draw.

    Attributes:
        predictions: the loaded judge, and what it marks in unpainted hosts.
        rule: when a draw passes.
        tries: the pair is given up after this number of draws that do not pass.
    """

    predictions: Predictions
    rule: PassRule
    tries: int

    @property
    def judge(self) -> Judge:
        """The loaded judge."""
        return self.predictions.judge


@dataclass(frozen=True)
class PairInputs:
    """What all pairs of a set are painted with.

    Attributes:
        method: the method; it must be loaded before a pair is painted.
        cases: the training cases. The sizes of their tumors are drawn, and hosts are compared with them.
        sampling: how the method samples.
        box: the user's box in the hosts' voxels; None to draw boxes.
        quality: the test of each draw; None for no such test.
        suspects: suspected lesions of the hosts in which they were looked for, by host.
        count: tumors of a pair, as the user wants it; None for the plan's rule (`counts`).
        anywhere: whether boxes are drawn anywhere in the regions or the body, whatever the plan says.
        trust_units: paint also into hosts that look like another unit than the training cases'.
        aim: how training tumors are drawn in aimed pairs; None if no pair is aimed.
    """

    method: Method
    cases: Sequence[CaseFacts]
    sampling: Sampling
    box: Box | None = None
    quality: Quality | None = None
    suspects: Mapping[str, Sequence[Suspect]] = field(default_factory=dict)
    count: int | None = None
    anywhere: bool = False
    trust_units: bool = False
    aim: Aim | None = None

    @property
    def plan(self) -> Plan:
        """The plan of the method."""
        return self.method.plan

    @property
    def tumors(self) -> tuple[TumorFacts, ...]:
        """The training tumors."""
        return tuple(tumor for case in self.cases for tumor in case.tumors)


@dataclass(frozen=True)
class LoadedHost:
    """A host scan in memory, the places for boxes in it, the hash of its files, and what is doubtful about it."""

    scan: Scan
    placing: Placing
    file_hash: str
    doubts: tuple[str, ...] = ()

    @functools.cached_property
    def slabs(self) -> tuple[Slabs, ...]:
        """The slabs of the host's images, by channel, and of its labels; the files of its pairs take them over."""
        labels = host_labels(self.scan, self.placing.plan.tumor_label)
        images = zip(self.scan.image, self.scan.dtypes, strict=True)
        return (*(Slabs(image, dtype) for image, dtype in images), Slabs(labels, labels.dtype))


def open_host(
    inputs: PairInputs, source: Source, scan: Scan, file_hash: str, region: np.ndarray | None = None
) -> LoadedHost:
    """Check a host scan and find the places for boxes in it.

    Args:
        inputs: what is painted with.
        source: the files of the scan.
        scan: the scan.
        file_hash: hash of its files.
        region: mask (X, Y, Z) bool of the region to paint in, instead of the source's `roi`.

    Raises:
        DataError: the intensities are of another unit than the training cases', or the region cannot be used.
    """
    placing = Placing(scan, source, inputs.plan, inputs.tumors, inputs.box, region, inputs.anywhere)
    doubts: tuple[str, ...] = ()
    if not source.redraw:  # the plan's own cases define what is usual
        doubts = check_intensities(scan, placing.body, inputs.cases, inputs.plan.channels, inputs.trust_units)
    return LoadedHost(scan, placing, file_hash, doubts)


def load_host(inputs: PairInputs, source: Source) -> LoadedHost:
    """Read and check a host scan.

    Raises:
        DataError: the scan or its region cannot be used.
    """
    scan = read_scan(source.name, source.files, source.label, inputs.plan)
    return open_host(inputs, source, scan, hash_once(*source.files))


@dataclass(frozen=True)
class DrawnPair:
    """A host with the tumors that are painted into it so far.

    Attributes:
        scan: the host with these tumors, in its image and in its labels.
        tumors: the record of each tumor; empty if the pair is given up.
        masks: of each tumor, in its box, (X, Y, Z) bool.
        left_out: of each tumor that did not pass, the rejected draws by reason.
        seconds: time of the method, in all draws.
    """

    scan: Scan
    tumors: tuple[PaintedTumor, ...] = ()
    masks: tuple[np.ndarray, ...] = ()
    left_out: tuple[dict[str, int], ...] = ()
    seconds: float = 0.0

    @property
    def boxes(self) -> tuple[Box, ...]:
        """The boxes of the tumors."""
        return tuple(tumor.box for tumor in self.tumors)

    @property
    def mask(self) -> np.ndarray:
        """All new tumors, (X, Y, Z) bool."""
        return place_masks(self.scan.grid, self.boxes, self.masks)

    @property
    def inside(self) -> float:
        """The least share of a tumor in the region or, without one, in the body."""
        return min(tumor.inside for tumor in self.tumors)

    def with_draw(self, draw: Draw, plan: Plan) -> DrawnPair:
        """Return the pair with a draw's tumor or, if no draw passed, with what became of it."""
        seconds = self.seconds + draw.seconds
        if draw.image is None:
            return replace(self, left_out=(*self.left_out, draw.rejected), seconds=seconds)
        labels = paste_labels(self.scan, draw.window.box, draw.mask, plan.tumor_label, draw.sublabels)
        changed = draw.window.box if draw.removal_box is None else draw.window.box.hull(draw.removal_box)
        scan = self.scan.painted(draw.image, labels, changed)
        tumors, masks = (*self.tumors, _describe_draw(draw, scan, plan)), (*self.masks, draw.mask)
        return replace(self, scan=scan, tumors=tumors, masks=masks, seconds=seconds)


def _describe_draw(draw: Draw, scan: Scan, plan: Plan) -> PaintedTumor:
    window = draw.window
    return PaintedTumor(
        requested_box=window.requested_box,
        box=window.box,
        place=tumor_place(window.box, scan.grid, plan.paste.feather_mm),
        padded=window.padded,
        volume_ml=round(draw.volume_ml, 4),
        inside=round(draw.inside, 4),
        attempt=draw.attempt,
        rejected=draw.rejected,
        seconds=round(draw.seconds, 4),
        drawn=draw.drawn,
        removal_box=draw.removal_box,
        unlike=None if window.unlike is None else round(window.unlike, 4),
        aimed_at=draw.aimed_at,
    )


def count_tumors(inputs: PairInputs, job: PairJob, placing: Placing) -> int:
    """Return how many tumors a pair is to have; see `counts`."""
    count = fixed_count(inputs.count, inputs.plan.paste.tumors, inputs.box, job.source.redraw)
    if count is not None:
        return count
    if most_tumors(inputs.cases) == 1:
        return 1
    body_ml = body_volume_ml(placing.body, placing.scan.grid)
    rng = np.random.default_rng(derive_seed(job.seed, "count"))
    return draw_count(inputs.cases, body_ml, rng, _weights(inputs, job))


def _weights(inputs: PairInputs, job: PairJob) -> np.ndarray | None:
    """How often each training tumor is drawn for a pair; None: all alike."""
    return inputs.aim.weights if inputs.aim is not None and job.aimed else None


def _own_extents(inputs: PairInputs, job: PairJob) -> tuple[Triple, ...]:
    """The extents in mm of the tumors of a pair, if the method sets them and boxes are drawn by no aim; else none."""
    if inputs.box is not None or job.source.redraw or job.aimed:
        return ()
    return inputs.method.draw_extents(np.random.default_rng(derive_seed(job.seed, "extents"))) or ()


def draw_pair(inputs: PairInputs, job: PairJob, host: LoadedHost) -> DrawnPair:
    """Paint the tumors of a pair one after the other, each into the scan as it is after the ones before.

    A tumor that does not pass is left out, and the pair keeps the others. It is given up if its first tumor does not
    pass. The same job gives the same pair.

    Raises:
        DataError: there is no place for a box, or the box is too large.
        DeviceError: the GPU has too little memory.
    """
    extents = _own_extents(inputs, job)
    count = (inputs.count or len(extents)) if extents else count_tumors(inputs, job, host.placing)
    pair = DrawnPair(host.scan)
    for number in range(count):
        # the first tumor has the pair's own seed: a pair does not change when others are added to it
        seed = job.seed if number == 0 else derive_seed(job.seed, "tumor", number)
        extent_mm = extents[number % len(extents)] if extents else None
        one = replace(job, seed=seed, turn=job.turn * count + number, extent_mm=extent_mm)
        pair = pair.with_draw(_draw_tumor(inputs, one, host, pair), inputs.plan)
        if not pair.tumors:
            break
    return pair


def _draw_tumor(inputs: PairInputs, job: PairJob, host: LoadedHost, pair: DrawnPair) -> Draw:
    """Draw until a tumor passes.

    It is left out after the plan's number of draws in a row without a tumor that lies where it may, or after
    `quality.tries` draws that the judge does not pass.

    Args:
        inputs: what is painted with.
        job: the pair, with the seed and the turn of this tumor.
        host: the host.
        pair: the host with the tumors before.
    """
    plan, quality, placing = inputs.plan, inputs.quality, host.placing
    rejected: Counter[str] = Counter()
    seconds, failed_in_a_row = 0.0, 0
    for attempt in itertools.count():
        deep = rejected[placing.outside] > 0
        window, reason = _draw_window(inputs, job, placing, pair.boxes, attempt, deep)
        if reason is None:
            draw = _paint_once(inputs, job, host, pair.scan, window, attempt)
            reason = find_fault(draw, placing, plan)
        else:  # nothing needs to be painted to know this
            draw = unpainted(window, attempt)
        seconds += draw.seconds
        if reason is None and quality is not None:
            reason = _judge(quality, draw, host, pair.scan, plan.tumor_label)
        if reason is None:
            return replace(draw, rejected=dict(+rejected), seconds=seconds)
        rejected[reason] += 1
        failed_in_a_row = 0 if reason in JUDGE_REASONS else failed_in_a_row + 1
        judged = sum(rejected[each] for each in JUDGE_REASONS)
        if failed_in_a_row == plan.paste.draws or (quality is not None and judged == quality.tries):
            return replace(draw, image=None, rejected=dict(+rejected), seconds=seconds)
    raise AssertionError  # `itertools.count` does not end


def _draw_window(
    inputs: PairInputs, job: PairJob, placing: Placing, taken: Sequence[Box], attempt: int, deep: bool
) -> tuple[Window, str | None]:
    """Draw where a tumor is painted, and tell why none can be painted there; None if one can.

    A box that overlaps another tumor's is drawn again at once, because that costs little.
    """
    rng = np.random.default_rng([job.seed, attempt, 1])
    for _ in range(inputs.plan.paste.draws):
        weights = _weights(inputs, job)
        window = placing.window(rng, job.turn, inputs.method.cell, deep, taken, job.extent_mm, weights)
        if not any(window.box.overlaps(box) for box in taken):
            return window, None if placing.has_room(window.box, inputs.plan.paste.smallest_ml) else placing.outside
    return window, NO_ROOM


def _judge(quality: Quality, draw: Draw, host: LoadedHost, scan: Scan, tumor_label: Values) -> str | None:
    """The judge's reason to reject a draw, or None; `draw.drawn` gets what the judge found.

    `scan` is the host with the tumors before.
    """
    box = draw.window.box
    others = np.zeros(scan.grid.shape, bool) if scan.labels is None else mask_of(scan.labels, tumor_label)
    others[box.slices] = False
    found = predict_around(quality.judge, np.asarray(draw.image), scan.grid, box)

    def marked_before() -> np.ndarray:
        return quality.predictions.around(scan.name, host.file_hash, scan.grid, [box], lambda: host.scan.image)

    mask = place_masks(scan.grid, [box], [draw.mask])
    outcome = check_pair(mask, others, found, marked_before, ([box], scan.grid), quality.rule)
    draw.drawn["proportion"], draw.drawn["beside"] = round(outcome.proportion, 4), round(outcome.beside, 4)
    return outcome.reason


def _paint_once(inputs: PairInputs, job: PairJob, host: LoadedHost, scan: Scan, window: Window, attempt: int) -> Draw:
    """Paint one draw and paste it into `scan`, the host with the tumors before."""
    method, plan, removed = inputs.method, inputs.plan, None
    if method.needs_healthy_box:
        scan, removed = remove_tumors_in_box(scan, window.box, plan, derive_seed(job.seed, attempt, "healing"))
    case = job.source.name if job.source.redraw else None
    request = cut_window(scan, window, case, host.placing.region)
    sampling, aimed_at = _aim_at(inputs, job, window)
    start = time.perf_counter()
    with catch_out_of_memory(method.name):
        synthetic = method.synthesize(request, derive_seed(job.seed, attempt), sampling)
    seconds = time.perf_counter() - start
    synthetic = with_sublabels(method, request, synthetic)
    pasted = paste(scan, window.box, window.grid, request, synthetic, plan.paste.feather_mm, method.keeps_background)
    volume_ml = float(pasted.mask.sum()) * scan.grid.voxel_ml
    inside = host.placing.share_inside(pasted.mask, window.box)
    before, after = (image[(plan.main_channel, *window.box.slices)] for image in (scan.image, pasted.image))
    on_old_tumor = job.source.redraw and not method.needs_healthy_box
    change = None if on_old_tumor else measure_change(before, after, pasted.mask, request, plan)
    beyond = host.placing.change_beyond_body(before, after, pasted.mask, window.box)
    drawn = dict(synthetic.drawn) | ({} if beyond is None else {"beyond_body": round(beyond, 4)})
    made = pasted.image, pasted.mask, window, removed, attempt, volume_ml, inside, pasted.cut, change, drawn
    return Draw(*made, rejected={}, seconds=seconds, aimed_at=aimed_at, sublabels=pasted.sublabels)


def _aim_at(inputs: PairInputs, job: PairJob, window: Window) -> tuple[Sampling, dict[str, str] | None]:
    """How the method samples in a window, and for the record what an aimed tumor is to be like."""
    if inputs.aim is None or not job.aimed or window.like is None:
        return inputs.sampling, None
    like = inputs.aim.tumors[window.like]
    return replace(inputs.sampling, kind=like.kind), like.record


def make_provenance(
    inputs: PairInputs,
    weights: dict[str, str],
    job: PairJob,
    host: LoadedHost,
    pair: DrawnPair,
    seconds: dict[str, float],
) -> Provenance:
    """Make the record of a pair.

    Args:
        inputs: what the pair was painted with.
        weights: hashes of the method's weights, by name.
        job: what the pair is.
        host: the host scan.
        pair: the pair.
        seconds: times, by name.
    """
    suspects = inputs.suspects.get(host.scan.name)
    return Provenance(
        case=job.case,
        method=inputs.method.name,
        host=host.scan.name,
        host_file=tuple(file.name for file in host.scan.files),
        host_hash=host.file_hash,
        host_voxels=host.scan.voxels,
        seed=job.seed,
        plan_hash=inputs.plan.hash,
        weights=weights,
        seconds={name: round(value, 4) for name, value in seconds.items()},
        tumors=pair.tumors,
        left_out=pair.left_out,
        suspected_ml=None if suspects is None else round(sum(each.volume_ml for each in suspects), 3),
        unlike=host.doubts,
    )
