"""Comparisons of two arms, and sentences that say what their intervals carry, and no more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tumorgen_cli.evaluation.measures import MEASURES
from tumorgen_cli.evaluation.scan_scores import ScanScore
from tumorgen_cli.metrics.inference import LEVEL, Estimate
from tumorgen_cli.system.errors import say_count

LEAST_ITERATIONS = 500  # of a training from which anything is concluded; nnU-Net's own has 250,000
LEAST_DICE = 0.1  # mean that the best arm must reach: below, a few voxels touch every lesion by chance


@dataclass(frozen=True)
class Primary:
    """A comparison; the one of an experiment is named before training.

    Attributes:
        arm: The arm that should be better.
        against: The arm it is compared with.
        measure: Name of the measure, of `MEASURES`.
        cases: Number of annotated real cases; None means all.
        hosts: Number of hosts of the arm, as in its rows. The arm `against` is the one with as many hosts, else the one
            without a number of hosts.
    """

    arm: str
    against: str
    measure: str
    cases: int | None
    hosts: int | None = None


@dataclass(frozen=True)
class ArmComparison:
    """An arm against another one at the same number of annotated cases; above 0 the arm is better.

    Attributes:
        what: What is compared.
        over_subsets: Mean difference over subsets with its t interval; nan ends with fewer than two subsets.
        over_patients: The same mean difference with its bootstrap interval over test patients.
        p: Two-sided p of the paired t test over subsets; nan with fewer than two subsets.
        p_holm: p after Holm's correction over all comparisons but the primary one; nan for the primary one.
        spread: Standard deviation of the difference over subsets.
        subsets: Number of subsets that both arms have.
        patients: Number of test patients with a value.
        exploratory: Whether it is not the one that was named before training.
        verdict: A sentence that says what the intervals carry.
    """

    what: Primary
    over_subsets: Estimate
    over_patients: Estimate
    p: float
    p_holm: float
    spread: float
    subsets: int
    patients: int
    exploratory: bool
    verdict: str = ""


def undertrained(rows: Sequence[ScanScore]) -> str:
    """Say why nothing is concluded from the trainings of one number of real cases; empty if they have learned.

    They have learned if each took at least `LEAST_ITERATIONS` iterations, and the best arm finds something: its mean
    DSC is at least `LEAST_DICE`.
    """
    fewest = min(row.iterations for row in rows)
    if fewest < LEAST_ITERATIONS:
        return f"trained for {fewest} iterations, fewer than {LEAST_ITERATIONS}"
    known: dict[str, list[float]] = {}
    for row in rows:
        if row.dsc is not None:
            known.setdefault(row.arm, []).append(row.dsc)
    best = max((float(np.mean(values)) for values in known.values()), default=math.nan)
    return f"the best arm has a mean DSC of {best:.2f}, less than {LEAST_DICE:g}" if best < LEAST_DICE else ""


def amount(measure: str, value: float, percent: str = "points") -> str:
    """Write a number of a measure: iterations, three decimals, or percent with the unit `percent`."""
    if not math.isfinite(value):
        return "–"
    if MEASURES[measure].percent:
        return f"{100 * value:.1f} {percent}"
    return f"{value:.0f}" if measure == "plateau" else f"{value:.3f}"


def interval_text(measure: str, interval: Estimate) -> str:
    """Write the ends of an interval of a measure."""
    if not math.isfinite(interval.low):
        return "no interval"
    scale, digits = (100, 1) if MEASURES[measure].percent else (1, 0 if measure == "plateau" else 3)
    return f"[{scale * interval.low:.{digits}f}, {scale * interval.high:.{digits}f}]"


def comparison_verdict(found: ArmComparison) -> str:
    """Say what a comparison shows.

    A gain is shown for other draws of the real cases where the t interval over draws excludes 0, and for other patients
    where the bootstrap over patients does. A comparison that was not named before training must also withstand Holm's
    correction.
    """
    what = found.what
    cases = "all" if what.cases is None else str(what.cases)
    start = f"{what.arm} against {what.against}, {cases} real cases, {MEASURES[what.measure].title}: "
    return ("Exploratory: " if found.exploratory else "") + start + _finding(found) + "."


def shown_briefly(found: ArmComparison) -> str:
    """Say in few words what a comparison shows, by the same rules as `comparison_verdict`."""
    draws, patients = found.over_subsets.excludes_zero, found.over_patients.excludes_zero
    word = "better" if found.over_subsets.value > 0 else "worse"
    if found.p_holm >= 1 - LEVEL or not (draws or patients):
        return "no"
    if draws and (patients or not MEASURES[found.what.measure].by_patient):
        return word
    return f"{word} on these patients" if draws else f"{word} with these draws"


def _finding(found: ArmComparison) -> str:
    measure, draws, patients = found.what.measure, found.over_subsets, found.over_patients
    if not found.subsets:
        return "not compared, because no draw of the real cases has this measure of both"
    shown = f"{'better' if draws.value > 0 else 'worse'} by {amount(measure, abs(draws.value))}"
    shown = shown if draws.value else "no difference"
    of_draws, of_patients = interval_text(measure, draws), interval_text(measure, patients)
    if not math.isfinite(draws.low) and found.subsets > 1:
        return f"{shown} in each of {say_count(found.subsets, 'draw')} of the real cases, which gives no interval"
    if not math.isfinite(draws.low):
        return f"{shown} with one draw of the real cases ({of_patients} over patients); other draws may differ"
    if draws.excludes_zero:
        return _shown(found, f"{shown}, {of_draws} over draws of the real cases", of_patients)
    if patients.excludes_zero:
        return (
            f"{shown} with these draws of the real cases, {of_patients} over patients; not shown for others, {of_draws}"
        )
    return (
        f"no difference is shown; over draws of the real cases a gain above {amount(measure, draws.high)} "
        f"and a loss above {amount(measure, -draws.low)} are excluded"
    )


def _shown(found: ArmComparison, shown: str, of_patients: str) -> str:
    """Say what holds where the interval over draws excludes 0."""
    if found.p_holm >= 1 - LEVEL:  # nan, of the primary comparison, is not
        return f"{shown}; not shown, because p is {found.p_holm:.3f} after Holm's correction"
    if not MEASURES[found.what.measure].by_patient:
        return shown
    if found.over_patients.excludes_zero:
        return f"{shown}, {of_patients} over patients"
    return f"{shown}, on these test patients; not shown for others, {of_patients} over patients"
