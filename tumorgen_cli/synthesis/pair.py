"""One pair: a tumor is painted into a scan until a draw passes; then its provenance is recorded."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tumorgen_cli.geometry import Box
from tumorgen_cli.judge.verdict import predict_around
from tumorgen_cli.metrics.overlap import proportion
from tumorgen_cli.planning.fingerprint import TumorFacts
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.synthesis.paste import paste
from tumorgen_cli.synthesis.places import Placing
from tumorgen_cli.synthesis.provenance import NOT_FOUND, Provenance
from tumorgen_cli.synthesis.scan import Scan, remove_tumors_in_box
from tumorgen_cli.synthesis.sources import Source
from tumorgen_cli.synthesis.window import Window, cut_window
from tumorgen_cli.system.devices import catch_out_of_memory
from tumorgen_cli.system.files import derive_seed

if TYPE_CHECKING:
    from tumorgen_cli.judge.model import Judge
    from tumorgen_cli.methods.base import Method, Sampling, Synthetic


@dataclass(frozen=True)
class Quality:
    """FreeTumor's test, applied to each draw.

    Attributes:
        judge: the loaded judge.
        keep: a draw passes if the judge finds this share of its mask.
        tries: the pair is given up after this number of draws that do not pass.
    """

    judge: Judge
    keep: float
    tries: int


@dataclass(frozen=True)
class PairInputs:
    """What all pairs of a set are painted with.

    Attributes:
        method: the method; it must be loaded before a pair is painted.
        tumors: the training tumors, whose sizes are drawn.
        sampling: how the method samples.
        box: the user's box in the hosts' voxels; None to draw boxes.
        quality: the test of each draw; None for no such test.
    """

    method: Method
    tumors: Sequence[TumorFacts]
    sampling: Sampling
    box: Box | None = None
    quality: Quality | None = None

    @property
    def plan(self) -> Plan:
        """The plan of the method."""
        return self.method.plan


@dataclass(frozen=True)
class PairJob:
    """What one pair is.

    Attributes:
        index: number of the pair in its set.
        source: the host scan.
        case: name of the pair.
        seed: seed of the pair.
        turn: how many pairs of the set are painted into this scan before; the scan's tumors are redrawn in turn.
    """

    index: int
    source: Source
    case: str
    seed: int
    turn: int


@dataclass(frozen=True)
class LoadedHost:
    """A host scan in memory, the places for boxes in it, and the hash of its files."""

    scan: Scan
    placing: Placing
    file_hash: str


@dataclass(frozen=True)
class Draw:
    """The last draw of a pair, on its host's grid.

    Attributes:
        image: (C, X, Y, Z); None if the pair is given up.
        mask: (X, Y, Z) bool.
        window: where it was painted.
        removal_box: box of the voxels that changed when an old tumor was removed before, if one was.
        attempt: number of the draw.
        volume_ml: volume of the tumor.
        drawn: what the method drew at random.
        rejected: earlier draws by the reason why they were rejected.
        seconds: time of the method, in all draws.
    """

    image: np.ndarray | None
    mask: np.ndarray
    window: Window
    removal_box: Box | None
    attempt: int
    volume_ml: float
    drawn: dict[str, Any]
    rejected: dict[str, int]
    seconds: float


def draw_pair(inputs: PairInputs, job: PairJob, host: LoadedHost) -> Draw:
    """Draw until a tumor passes.

    The pair is given up after the plan's number of draws in a row without a tumor, or after `quality.tries` draws that
    the judge does not pass. The same job gives the same pair.

    Raises:
        DataError: there is no place for a box, or the box is too large.
        DeviceError: the GPU has too little memory.
    """
    plan, method, quality, scan = inputs.plan, inputs.method, inputs.quality, host.scan
    rejected: Counter[str] = Counter()
    seconds, empty_in_a_row = 0.0, 0
    for attempt in itertools.count():
        window = host.placing.window(np.random.default_rng([job.seed, attempt, 1]), job.turn, method.cell)
        image, mask, removed, synthetic, method_seconds = _paint_once(inputs, job, scan, window, attempt)
        seconds += method_seconds
        volume, drawn = float(mask.sum()) * scan.grid.voxel_ml, dict(synthetic.drawn)
        if volume > 0 and volume >= plan.paste.smallest_ml:
            if quality is None:
                break
            found = predict_around(quality.judge, image, scan.grid, window.box)
            drawn["proportion"] = round(proportion(mask, found), 4)
            if drawn["proportion"] >= quality.keep:
                break
            empty_in_a_row = 0
            rejected[NOT_FOUND] += 1
        else:
            empty_in_a_row += 1
            rejected["too small" if volume > 0 else "empty"] += 1
        if empty_in_a_row == plan.paste.draws or (quality is not None and rejected[NOT_FOUND] == quality.tries):
            return Draw(None, mask, window, None, attempt, volume, drawn, dict(+rejected), seconds)
    return Draw(image, mask, window, removed, attempt, volume, drawn, dict(+rejected), seconds)


def _paint_once(
    inputs: PairInputs, job: PairJob, scan: Scan, window: Window, attempt: int
) -> tuple[np.ndarray, np.ndarray, Box | None, Synthetic, float]:
    """Paint one draw and paste it into the scan.

    Returns:
        Image, mask, the box of what changed when an old tumor was removed, the painted window, the method's seconds.
    """
    method, plan, removed = inputs.method, inputs.plan, None
    if method.keeps_background:  # such a method would leave an old tumor in the box
        scan, removed = remove_tumors_in_box(scan, window.box, plan, derive_seed(job.seed, attempt, "healing"))
    request = cut_window(scan, window, job.source.name if job.source.redraw else None)
    start = time.perf_counter()
    with catch_out_of_memory(method.name):
        synthetic = method.synthesize(request, derive_seed(job.seed, attempt), inputs.sampling)
    seconds = time.perf_counter() - start
    image, mask = paste(
        scan, window.box, window.grid, request, synthetic, plan.paste.feather_mm, method.keeps_background
    )
    return image, mask, removed, synthetic, seconds


def make_provenance(
    inputs: PairInputs, weights: dict[str, str], job: PairJob, host: LoadedHost, draw: Draw, seconds: dict[str, float]
) -> Provenance:
    """Make the record of a pair.

    Args:
        inputs: what the pair was painted with.
        weights: hashes of the method's weights, by name.
        job: what the pair is.
        host: the host scan.
        draw: the draw that passed.
        seconds: times, by name.
    """
    return Provenance(
        case=job.case,
        method=inputs.method.name,
        host=host.scan.name,
        host_file=tuple(file.name for file in host.scan.files),
        host_hash=host.file_hash,
        host_voxels=host.scan.voxels,
        seed=job.seed,
        attempt=draw.attempt,
        requested_box=draw.window.requested_box,
        box=draw.window.box,
        plan_hash=inputs.plan.hash,
        weights=weights,
        volume_ml=round(draw.volume_ml, 4),
        padded=draw.window.padded,
        seconds={name: round(value, 4) for name, value in seconds.items()},
        rejected=draw.rejected,
        drawn=draw.drawn,
        removal_box=draw.removal_box,
    )
