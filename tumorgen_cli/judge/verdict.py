"""What a judge says of one pair: its tumor voxels around the box that was asked for, held against the generated mask.

Evaluation, the filter and redrawing until a pair passes all ask here, so that one pair has one verdict.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from tumorgen_cli.geometry import Box, Grid
from tumorgen_cli.metrics.overlap import Verdict, verdict

if TYPE_CHECKING:
    from tumorgen_cli.judge.model import Judge


MARGIN_MM = 10.0  # a prediction counts in the box that was asked for, with the mask, and this far around them


def predict_around(judge: Judge, image: np.ndarray, grid: Grid, box: Box) -> np.ndarray:
    """The judge's tumor voxels (X, Y, Z) bool of a scan (C, X, Y, Z), asked about the region around a box; False elsewhere."""
    shown = judged_region(grid, box, judge.usual_extent_mm)
    predicted = np.zeros(grid.shape, bool)
    part = grid.subgrid(shown.start, grid.spacing_mm, shown.shape)
    predicted[shown.slices] = judge.tumor(np.ascontiguousarray(image[(slice(None), *shown.slices)]), part)
    return predicted


def judge_pair(
    tumor: np.ndarray, others: np.ndarray, predicted: np.ndarray, box: Box, grid: Grid, tolerance_mm: float
) -> Verdict:
    """The verdict within the box grown by 10 mm; all arrays (X, Y, Z) bool.

    `others`: tumor voxels that were there before; they count neither for nor against, and neither does what the judge marks around
    them, unless it hangs together with what it finds of the mask.
    """
    margin = tuple(math.ceil(MARGIN_MM / s) for s in grid.spacing_mm)
    near = box.grown(margin, grid.shape).slices  # type: ignore[arg-type]
    tumor, others, found = tumor[near], others[near], predicted[near]
    pieces, _ = ndimage.label(found, np.ones((3, 3, 3)))
    foreign = np.setdiff1d(pieces[others], pieces[tumor])
    return verdict(tumor, found & ~others & ~np.isin(pieces, foreign), grid.spacing_mm, tolerance_mm)


def judged_region(grid: Grid, box: Box, usual_mm: Sequence[float]) -> Box:
    """What a judge is shown: the whole scan, but along an axis that is 1.5 times as long as the scans it was trained on,
    or more, that usual length around the box (never less than the box with its margin). nnU-Net scales intensities by
    what it sees, so a judge of crops is lost in a whole body.
    """
    start, stop = [], []
    for a, b, n, spacing, usual in zip(box.start, box.stop, grid.shape, grid.spacing_mm, usual_mm, strict=True):
        if n * spacing < 1.5 * usual:
            low, high = 0, n
        else:
            length = min(n, max(round(usual / spacing), b - a + 2 * math.ceil(MARGIN_MM / spacing)))
            low = min(max(0, (a + b - length) // 2), n - length)
            high = low + length
        start.append(low)
        stop.append(high)
    return Box(tuple(start), tuple(stop))  # type: ignore[arg-type]
