"""A judge's verdict on one pair: its tumor voxels around the requested box, compared with the generated mask.

Evaluation, the filter, and synthesis with a judge all use these functions, so a pair has one verdict everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from tumorgen_cli.geometry import Box, Grid
from tumorgen_cli.metrics.overlap import Verdict, compare_masks

if TYPE_CHECKING:
    from tumorgen_cli.judge.model import Judge


MARGIN_MM = 10.0  # a prediction counts in the requested box, in the mask, and up to this distance around them


def predict_around(judge: Judge, image: np.ndarray, grid: Grid, box: Box) -> np.ndarray:
    """Predict the tumor voxels in the region around a box.

    Args:
        judge: the judge.
        image: scan (C, X, Y, Z) in its own units.
        grid: the scan's grid.
        box: box in the scan's voxels.

    Returns:
        Mask (X, Y, Z) bool of the whole scan; False outside the region that the judge sees.
    """
    region = judged_region(grid, box, judge.usual_extent_mm)
    predicted = np.zeros(grid.shape, bool)
    part = grid.subgrid(region.start, grid.spacing_mm, region.shape)
    predicted[region.slices] = judge.tumor(np.ascontiguousarray(image[(slice(None), *region.slices)]), part)
    return predicted


def judge_pair(
    tumor: np.ndarray, others: np.ndarray, predicted: np.ndarray, box: Box, grid: Grid, tolerance_mm: float
) -> Verdict:
    """Compare a prediction with the generated mask, within the box grown by `MARGIN_MM`.

    Args:
        tumor: generated mask (X, Y, Z) bool.
        others: older tumors (X, Y, Z) bool. They count neither as hits nor as errors. Neither does what the judge finds
            around them, unless it is connected with what the judge finds of `tumor`.
        predicted: the judge's tumor (X, Y, Z) bool.
        box: box in the scan's voxels.
        grid: the scan's grid.
        tolerance_mm: tolerance of the surface Dice.
    """
    x, y, z = (math.ceil(MARGIN_MM / s) for s in grid.spacing_mm)
    near = box.grown((x, y, z), grid.shape).slices
    tumor, others, found = tumor[near], others[near], predicted[near]
    pieces, _ = ndimage.label(found, np.ones((3, 3, 3)))
    foreign = np.setdiff1d(pieces[others], pieces[tumor])
    return compare_masks(tumor, found & ~others & ~np.isin(pieces, foreign), grid.spacing_mm, tolerance_mm)


def judged_region(grid: Grid, box: Box, usual_mm: Sequence[float]) -> Box:
    """Return the part of a scan that the judge sees.

    Along each axis this is the whole scan, unless the scan is at least 1.5 times as long as the judge's training scans.
    Then it is their usual length around the box, and at least the box with its margin. nnU-Net scales intensities by
    what it sees, so a judge that was trained on crops fails on a whole body.

    Args:
        grid: the scan's grid.
        box: box in the scan's voxels.
        usual_mm: edge lengths (x, y, z) of the judge's training scans.
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
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
