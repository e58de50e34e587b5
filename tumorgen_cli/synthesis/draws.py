"""One draw of a tumor, and the reasons to reject it before a judge is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tumorgen_cli.geometry import Box, Grid
from tumorgen_cli.methods.base import Request
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.synthesis.places import Placing
from tumorgen_cli.synthesis.window import Window

_MOST_CUT = 0.05  # share of a tumor that may be cut where the host's intensities end: interpolation and noise
BEYOND_RANGE = "darker or brighter than the host can be"  # the reason to reject a draw of which more is cut
FAINT = "barely visible"  # the reason to reject a draw that changes the host less than training tumors stand out
NO_ROOM = "no room beside the pair's other tumors"  # the reason to reject a draw whose box overlaps another's


@dataclass(frozen=True)
class Draw:
    """The last draw of a tumor, on its host's grid.

    Attributes:
        image: (C, X, Y, Z); None if no draw passed.
        mask: the tumor in the window's box, (X, Y, Z) bool.
        window: where it was painted.
        removal_box: box of the voxels that changed when an old tumor was removed before, if one was.
        attempt: number of the draw.
        volume_ml: volume of the tumor.
        inside: share of the tumor in the region or, without one, in the body.
        cut: share of the tumor whose intensity was cut where the host's intensities end.
        change: see `measure_change`.
        drawn: what the method drew at random.
        aimed_at: see `PaintedTumor`.
        rejected: earlier draws by the reason why they were rejected.
        seconds: time of the method, in all draws.
        sublabels: see `Pasted`.
    """

    image: np.ndarray | None
    mask: np.ndarray
    window: Window
    removal_box: Box | None
    attempt: int
    volume_ml: float
    inside: float
    cut: float
    change: float | None
    drawn: dict[str, Any]
    rejected: dict[str, int]
    seconds: float
    aimed_at: dict[str, str] | None = None
    sublabels: np.ndarray | None = None


def unpainted(window: Window, attempt: int) -> Draw:
    """A draw that was given up before anything was painted."""
    return Draw(None, np.zeros(window.box.shape, bool), window, None, attempt, 0.0, 0.0, 0.0, None, {}, {}, 0.0)


def place_masks(grid: Grid, boxes: Sequence[Box], masks: Sequence[np.ndarray]) -> np.ndarray:
    """The union (X, Y, Z) bool on the scan's grid of masks that each lie in a box, (X, Y, Z) bool of the box."""
    whole = np.zeros(grid.shape, bool)
    for box, mask in zip(boxes, masks, strict=True):
        whole[box.slices] |= mask
    return whole


def find_fault(draw: Draw, placing: Placing, plan: Plan) -> str | None:
    """The reason to reject a draw before a judge is asked, or None."""
    if draw.volume_ml == 0:
        return "empty"
    if draw.volume_ml < plan.paste.smallest_ml:
        return "too small"
    if not placing.holds(draw.inside):
        return placing.outside
    if draw.cut > _MOST_CUT:
        return BEYOND_RANGE
    return FAINT if draw.change is not None and _is_faint(draw.change, plan.paste.least_change) else None


def _is_faint(change: float, least: float) -> bool:
    """Whether a change is weaker than `least`, or of the other sign; no change is if `least` is 0."""
    return least != 0 and change / least < 1


def measure_change(
    before: np.ndarray, after: np.ndarray, mask: np.ndarray, request: Request, plan: Plan
) -> float | None:
    """Mean change of the main channel in a box (X, Y, Z) inside a mask, in the clip window's unit; None if empty."""
    if not mask.any():
        return None
    low, high = request.limits[plan.main_channel]
    channel = plan.channels[plan.main_channel]
    change = float(after[mask].mean(dtype=np.float64) - before[mask].mean(dtype=np.float64))
    return change / float(high - low) * (channel.high - channel.low)
