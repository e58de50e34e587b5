"""The two sentences that a page begins with: fit to train on, or what to fix first.

No sentence needs a threshold: a fault is what an interval tells apart from real tumors or from chance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tumorgen_cli.evaluation.reports.one_set_tables import Losses
from tumorgen_cli.evaluation.reports.pages import number
from tumorgen_cli.evaluation.scores import ALL_PLANES, Scores
from tumorgen_cli.metrics.summary import Summary

Grade = Literal["good", "care", "bad", "unknown"]
#: what a grade is called beside its color
GRADES: dict[Grade, str] = {
    "good": "Fit to train on",
    "care": "Fit to train on, with care",
    "bad": "Fix this first",
    "unknown": "Cannot tell",
}


@dataclass(frozen=True)
class PageVerdict:
    """Two sentences and their grade."""

    grade: Grade
    first: str
    second: str

    @property
    def title(self) -> str:
        """The grade in words."""
        return GRADES[self.grade]

    @property
    def text(self) -> str:
        """Both sentences."""
        return f"{self.first} {self.second}"


def judge_set(scores: Scores, losses: Losses) -> PageVerdict:
    """Say whether a set is fit to train on: the gravest fault and its remedy, or that no check found one."""
    faults = [*_grave_faults(scores, losses)]
    if faults:
        more = f" ({len(faults) - 1} more below)" if len(faults) > 1 else ""
        return PageVerdict("bad", f"{GRADES['bad']}: {faults[0][0]}{more}.", f"{faults[0][1]}.")
    agreement = _agreement(scores)
    if agreement is None:
        why = scores.no_judge or "too few tumors have a score"
        first = (
            f"{GRADES['unknown']} whether the set is fit to train on: whether image and mask agree was not measured."
        )
        return PageVerdict("unknown", first, f"The reason: {why}; look at the pairs below.")
    told = [*_visible_differences(scores)]
    agree = f"image and mask agree as well as in real tumors ({_compared(*agreement)})"
    if told:
        first = f"{GRADES['care']}: {agree}, but {told[0][0]}."
        return PageVerdict("care", first, f"{told[0][1]}.")
    helps = "Whether they help a segmentation network is not on this page: `tumorgen downstream` measures it."
    new = (
        ""
        if losses.copied or math.isnan(scores.novelty.singled_out)
        else ", and no tumor is a copy of a training tumor"
    )
    return PageVerdict("good", f"{GRADES['good']}: {agree}{new}.", helps)


def _grave_faults(scores: Scores, losses: Losses) -> Iterator[tuple[str, str]]:
    """Faults for which a set should not be trained on, with their remedies, the gravest first."""
    if scores.novelty.singled_out > 0 and not losses.copied:
        copies = f"{scores.novelty.singled_out:.0f} of {len(scores.of('synthetic'))} tumors"
        yield (
            f"{copies} are copies of training tumors",
            "Leave them out (`tumorgen filter --no-copies`), and train on more patients: see “Are they new?”",
        )
    for text in losses.shortfalls:
        yield "the weights that painted this set are weak", f"The reason: {text}"
    empty = sum(not case.statistics.volume_ml > 0 for case in scores.of("synthetic"))
    if empty:
        yield f"{empty} painted boxes hold no tumor", "Leave these pairs out: they are named under “What went wrong?”"
    agreement = _agreement(scores)
    if agreement is not None and _below(*agreement[1:]):
        remedy = "Train longer, or keep only pairs that a judge confirms: `tumorgen filter` does that"
        yield f"image and mask agree less than in real tumors ({_compared(*agreement)})", remedy


def _compared(title: str, ours: Summary, real: Summary) -> str:
    return f"{title} {number(ours.mean)}, real {number(real.mean)}"


def _visible_differences(scores: Scores) -> Iterator[tuple[str, str]]:
    """Differences from real tumors that do not make a set useless, with what to do, the plainest first."""
    reader = scores.reader
    if reader.low > 0.5:
        named = [each.title for each in reader.give_aways[:1]]
        aspect = f"What gives them away first: {named[0]}" if named else "No single feature gives them away"
        yield f"a classifier tells them from real ones (AUC {number(reader.auc)}, chance 0.5)", aspect
    for plane in scores.planes:
        is_shown = (plane.place, plane.plane, plane.measure) == ("tumor", ALL_PLANES, "kernel") and not plane.unclear
        if is_shown and plane.matched.value > plane.floor.high:
            values = f"{number(plane.matched.value)}, real against real {number(plane.floor.value)}"
            yield f"their slices lie farther from real ones ({values})", "Look at the pairs for what differs"


def _agreement(scores: Scores) -> tuple[str, Summary, Summary] | None:
    """How well image and mask agree, painted and real: by the judge, or else by the half-contrast contour."""
    if scores.judge:
        measure = scores.agreement.of("dice")
        title, ours, real = "DSC", measure.synthetic, measure.real
    else:
        contour = next(c for c in scores.comparisons if c.field == "contour_dice")
        title, ours, real = "DSC with the half-contrast contour", contour.synthetic, contour.training
    return (title, ours, real) if ours.count and real.count else None


def _below(ours: Summary, real: Summary) -> bool:
    """Whether an interval lies below that of real tumors, or below their mean where they have none."""
    if not math.isfinite(ours.high):
        return False
    return ours.high < (real.low if math.isfinite(real.low) else real.mean)
