"""A judge's verdict on one pair: its tumor voxels around the boxes, compared with the generated mask.

Evaluation, the filter, and painting with a judge all use these functions, so a pair has one verdict everywhere.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from tumorgen_cli.geometry import Box, Grid, Triple, as_triple, shell_mm
from tumorgen_cli.metrics.overlap import Verdict, compare_masks, proportion

if TYPE_CHECKING:
    from tumorgen_cli.judge.model import Judge


_LONG = 1.5  # an axis this many times as long as the judge's training scans is cut
MOST_BESIDE = 0.5  # of the mask's volume: a pair of which the judge newly marks more beside the mask does not pass
NO_MASK, NOT_FOUND, BESIDE = "empty", "P below the threshold", "marked beside the mask"  # why a pair does not pass
JUDGE_REASONS = (NOT_FOUND, BESIDE)


@dataclass(frozen=True)
class PassRule:
    """When a pair passes.

    Attributes:
        keep: least share of the mask that the judge must find (P).
        beside: largest volume that the judge may newly mark beside the mask, over the mask's volume. None: any, which
            is the test of FreeTumor. It passes a picture that the judge marks all over.
    """

    keep: float = 0.7
    beside: float | None = MOST_BESIDE


@dataclass(frozen=True)
class Outcome:
    """What the judge finds of a painted tumor.

    Attributes:
        proportion: P, the share of the mask that is found; nan without a mask.
        beside: volume that is newly marked beside the mask, over the mask's volume; nan without a mask. It is an upper
            limit where the host was not looked at, because the pair passes without that.
        reason: why the pair does not pass; None if it passes.
    """

    proportion: float
    beside: float
    reason: str | None


def check_pair(
    tumor: np.ndarray,
    others: np.ndarray,
    predicted: np.ndarray,
    marked_before: Callable[[], np.ndarray],
    place: tuple[Sequence[Box], Grid],
    rule: PassRule,
) -> Outcome:
    """Decide whether a pair passes.

    It passes if the judge finds enough of the mask, and newly marks little outside the mask within `margin_mm` of the
    boxes. The mask is that of all tumors of the pair. What the judge marks in the unpainted host is not new, and
    neither are older tumors and what it marks around either, unless that is connected with what it marks of the mask.

    Args:
        tumor: generated mask (X, Y, Z) bool.
        others: older tumors (X, Y, Z) bool.
        predicted: the judge's tumor in the pair (X, Y, Z) bool.
        marked_before: returns the judge's tumor in the unpainted host (X, Y, Z) bool. It is called only if the pair
            would not pass otherwise.
        place: the boxes that painting may have changed, and the scan's grid.
        rule: when a pair passes.

    Source: Wu et al., FreeTumor: keep a pair if P >= T, T = 0.7.
    Deviation: a limit on what is marked beside the mask. P alone rises when the judge marks everything.
    """
    near, counted = _surroundings(*place)
    mask, known, found = tumor[near], others[near], predicted[near] & counted
    size = np.count_nonzero(tumor)
    if not size:
        return Outcome(math.nan, math.nan, NO_MASK)
    share = proportion(tumor, predicted)
    beside = np.count_nonzero(_new_marks(mask, known, found) & ~mask) / size
    if share < rule.keep:
        return Outcome(share, beside, NOT_FOUND)
    if rule.beside is not None and beside > rule.beside:
        known = known | (marked_before()[near] & ~mask)
        beside = np.count_nonzero(_new_marks(mask, known, found) & ~mask) / size
        if beside > rule.beside:
            return Outcome(share, beside, BESIDE)
    return Outcome(share, beside, None)


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
    tumor: np.ndarray,
    others: np.ndarray,
    predicted: np.ndarray,
    boxes: Sequence[Box],
    grid: Grid,
    tolerance_mm: float,
) -> Verdict:
    """Compare a prediction with the generated mask, within the boxes grown by `margin_mm`.

    Args:
        tumor: generated mask (X, Y, Z) bool.
        others: older tumors (X, Y, Z) bool. They count neither as hits nor as errors. Neither does what the judge finds
            around them, unless it is connected with what the judge finds of `tumor`.
        predicted: the judge's tumor (X, Y, Z) bool.
        boxes: boxes in the scan's voxels.
        grid: the scan's grid.
        tolerance_mm: tolerance of the surface Dice.
    """
    near, counted = _surroundings(boxes, grid)
    tumor, others, found = tumor[near], others[near], predicted[near] & counted
    return compare_masks(tumor, _new_marks(tumor, others, found), grid.spacing_mm, tolerance_mm)


def margin_mm(box: Box, spacing_mm: Triple) -> float:
    """Return how far around a box a prediction counts: half of the surroundings of a tumor of the box's volume.

    A judge that marks a tumor too large marks more around a large one.
    """
    return shell_mm(math.prod(box.shape), spacing_mm) / 2


def grown_box(box: Box, grid: Grid) -> Box:
    """Return a box that is grown by `margin_mm`."""
    margin = margin_mm(box, grid.spacing_mm)
    x, y, z = (math.ceil(margin / s) for s in grid.spacing_mm)
    return box.grown((x, y, z), grid.shape)


def _surroundings(boxes: Sequence[Box], grid: Grid) -> tuple[tuple[slice, slice, slice], np.ndarray]:
    """Return the slices of the part of a scan that holds all grown boxes, and where in this part they are, bool."""
    grown = [grown_box(box, grid) for box in boxes]
    hull = functools.reduce(Box.hull, grown)
    inside = np.zeros(hull.shape, bool)
    for box in grown:
        inside[box.shifted(as_triple(-a for a in hull.start)).slices] = True
    return hull.slices, inside


def _new_marks(tumor: np.ndarray, known: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return what is found, without known places and without pieces that touch these but not the tumor."""
    pieces, _ = ndimage.label(found, np.ones((3, 3, 3)))
    foreign = np.setdiff1d(pieces[known], pieces[tumor])
    return found & ~known & ~np.isin(pieces, foreign)


def sees_whole_scan(grid: Grid, usual_mm: Sequence[float]) -> bool:
    """Tell whether a judge sees the whole of a scan; see `judged_region`."""
    return all(extent < _LONG * usual for extent, usual in zip(grid.extent_mm, usual_mm, strict=True))


def group_boxes(grid: Grid, boxes: Sequence[Box], usual_mm: Sequence[float]) -> list[list[Box]]:
    """Group boxes so that a judge sees each group in one part of the scan (`judged_region` of the group's hull).

    Each box joins the first group that stays within the usual length of the judge's training scans, with the margin.

    Args:
        grid: the scan's grid.
        boxes: boxes in the scan's voxels.
        usual_mm: edge lengths (x, y, z) of the judge's training scans.
    """
    # where the judge sees the whole length of the scan, every length of a group will do
    most = [
        math.inf if extent < _LONG * usual else usual for extent, usual in zip(grid.extent_mm, usual_mm, strict=True)
    ]
    groups: list[list[Box]] = []
    for box in boxes:
        for group in groups:
            hull = grown_box(functools.reduce(Box.hull, [*group, box]), grid)
            if all(n * s <= length for n, s, length in zip(hull.shape, grid.spacing_mm, most, strict=True)):
                group.append(box)
                break
        else:
            groups.append([box])
    return groups


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
    start, stop, margin = [], [], margin_mm(box, grid.spacing_mm)
    for a, b, n, spacing, usual in zip(box.start, box.stop, grid.shape, grid.spacing_mm, usual_mm, strict=True):
        if n * spacing < _LONG * usual:
            low, high = 0, n
        else:
            length = min(n, max(round(usual / spacing), b - a + 2 * math.ceil(margin / spacing)))
            low = min(max(0, (a + b - length) // 2), n - length)
            high = low + length
        start.append(low)
        stop.append(high)
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
