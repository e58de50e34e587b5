"""One pair: draws until a tumor passes, pastes it, writes down how it came to be."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from tumorgen_cli.geometry import Box, Grid, tight_box
from tumorgen_cli.judge.verdict import predict_around
from tumorgen_cli.metrics.overlap import proportion
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.synthesis.paste import paste
from tumorgen_cli.synthesis.places import Placing, Source
from tumorgen_cli.synthesis.provenance import NOT_FOUND, Provenance
from tumorgen_cli.synthesis.scan import Scan, without_tumors
from tumorgen_cli.synthesis.window import Window, cut_window
from tumorgen_cli.system.devices import catch_out_of_memory
from tumorgen_cli.system.files import derive_seed

if TYPE_CHECKING:
    from tumorgen_cli.judge.model import Judge
    from tumorgen_cli.methods.base import Method, Sampling


@dataclass(frozen=True)
class PairJob:
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
    plan: Plan, method: Method, job: PairJob, scan: Scan, placing: Placing, sampling: Sampling, quality: Quality | None
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
        with catch_out_of_memory(method.name):
            synthetic = method.synthesize(request, derive_seed(job.seed, attempt), sampling)
        seconds += time.perf_counter() - begun
        image, mask = paste(host, window, request, synthetic, plan, method.keeps_background)
        volume, drawn = float(mask.sum()) * scan.grid.voxel_ml, dict(synthetic.drawn)
        if volume > 0 and volume >= plan.paste.smallest_ml:
            if quality is None:
                break
            drawn["proportion"] = round(
                proportion(mask, predict_around(quality.judge, image, scan.grid, window.box)), 4
            )
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
    plan: Plan,
    method: str,
    weights: dict[str, str],
    job: PairJob,
    scan: Scan,
    host_hash: str,
    draw: Draw,
    seconds: dict[str, float],
) -> Provenance:
    """How a pair came to be."""
    return Provenance(
        job.case,
        method,
        scan.name,
        tuple(f.name for f in scan.files),
        host_hash,
        scan.voxels,
        job.seed,
        draw.attempt,
        draw.window.asked,
        draw.window.box,
        plan.hash,
        weights,
        round(draw.volume_ml, 4),
        draw.window.padded,
        {k: round(v, 4) for k, v in seconds.items()},
        draw.rejected,
        draw.drawn,
        draw.healed,
    )


def pair_labels(plan: Plan, scan: Scan, draw: Draw) -> np.ndarray:
    """The pair's labels (X, Y, Z) uint8: the host's, with the new tumor.

    A tumor that was in the box is gone from them, as from the picture: its voxels take the label nearest to them.
    """
    labels = np.zeros(scan.grid.shape, np.uint8) if scan.labels is None else scan.labels.astype(np.uint8)
    _take_away(labels, draw.window.box, plan.tumor_label, scan.grid)
    labels[draw.mask] = plan.tumor_label
    return labels


def _take_away(labels: np.ndarray, box: Box, tumor_label: int, grid: Grid) -> None:
    """Gives the tumor voxels in a box of labels (X, Y, Z), in place, the label nearest to them."""
    tumors = labels == tumor_label
    around = tight_box(tumors)
    if around is None or not tumors[box.slices].any():
        return
    region = around.grown(1, grid.shape)  # on the way from a tumor voxel to the nearest other one all are tumor
    part, old = labels[region.slices], np.zeros(labels.shape, bool)
    old[box.slices] = tumors[box.slices]
    nearest = ndimage.distance_transform_edt(
        tumors[region.slices], grid.spacing_mm, return_distances=False, return_indices=True
    )
    inside = old[region.slices]
    part[inside] = part[tuple(nearest)][inside]
