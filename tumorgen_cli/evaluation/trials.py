"""Comparisons of arms over draws of the annotated cases, from rows of `ScanScore`.

The draw of the annotated cases (the subset) is the unit: paintings and seeds are averaged within it, and intervals are
t intervals over subsets. A bootstrap over the patients of the test set stands beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tumorgen_cli.evaluation.scan_scores import ScanScore


@dataclass(frozen=True)
class Primary:
    """The one comparison that is named before training.

    Attributes:
        arm: The arm that should be better.
        against: The arm it is compared with.
        measure: Name of the measure, of `MEASURES`.
        cases: Number of annotated real cases; None means all.
        hosts: Number of hosts of the arm, as in its rows.
    """

    arm: str
    against: str
    measure: str
    cases: int | None
    hosts: int | None = None


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its 95 % interval; the ends are nan where nothing can be said."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """An arm against another one at the same number of annotated cases; above 0 the arm is better.

    Attributes:
        primary: What is compared.
        over_subsets: Mean difference over subsets with its t interval; nan ends with fewer than two subsets.
        over_patients: The same mean difference with its bootstrap interval over test patients.
        p: Two-sided p of the paired t test over subsets; nan with fewer than two subsets.
        p_holm: p after Holm's correction over all comparisons but the primary one.
        spread: Standard deviation of the difference over subsets.
        subsets: Number of subsets that both arms have.
        exploratory: Whether it is not the one that was named before training.
        verdict: A sentence that says what the intervals carry.
    """

    primary: Primary
    over_subsets: Interval
    over_patients: Interval
    p: float
    p_holm: float
    spread: float
    subsets: int
    exploratory: bool
    verdict: str


@dataclass(frozen=True)
class Components:
    """Standard deviations of a measure: over subsets, paintings of a subset, and seeds of a painting.

    nan where the rows do not hold two of a kind.
    """

    subset: float
    painting: float
    seed: float


@dataclass(frozen=True)
class Room:
    """Whether the number of real cases matters enough for a gain to be seen.

    Attributes:
        found: Whether it does.
        lesion_dsc: Lesion DSC of many minus few real cases, with its interval.
        sensitivity: Sensitivity at one false positive a scan of many minus few, with its interval.
        verdict: A sentence that says so.
    """

    found: bool
    lesion_dsc: Interval
    sensitivity: Interval
    verdict: str


@dataclass(frozen=True)
class Recovered:
    """What an arm makes up for: the share of the way from n to all real cases, and the real cases worth the same.

    Attributes:
        arm: The arm.
        cases: n.
        share: (DSC of n with pairs - DSC of n) / (DSC of all - DSC of n); nan where `reason` is not empty.
        cases_worth: Number of real cases with which the real arm reaches the arm's DSC; the ends may be inf.
        reason: Why there is no share; empty if there is one.
    """

    arm: str
    cases: int | None
    share: Interval
    cases_worth: Interval
    reason: str


@dataclass(frozen=True)
class Detectable:
    """What a design can detect.

    Attributes:
        difference: The true difference that is found with a power of 80 % at a level of 5 %.
        cautious: The same where the spread is at the upper end of its one-sided 80 % interval.
        spread: The standard deviation over subsets that this assumes.
        text: A sentence that says so, and where the spread comes from.
    """

    difference: float
    cautious: float
    spread: float
    text: str


@dataclass(frozen=True)
class Analysis:
    """All that is concluded from the rows of an experiment; `primary` is None where its arms have no rows yet."""

    primary: Comparison | None
    exploratory: tuple[Comparison, ...]
    recovered: tuple[Recovered, ...]


def sensitivity_at_fp(rows: Sequence[ScanScore], fp_per_scan: float = 1.0, size_class: str | None = None) -> float:
    """Compute the share of lesions found where components are kept down to the score that leaves so many false positives.

    The mean over the trained segmentors in the rows.

    Args:
        rows: Rows of all test scans.
        fp_per_scan: Most false positives a scan, over all scans.
        size_class: Name of a class of `SIZES`; None for lesions of every size.

    Raises:
        ValueError: There is no such class.
    """
    raise NotImplementedError


def lesion_dsc(rows: Sequence[ScanScore]) -> float:
    """Average the component-matched Dice over all lesions, 0 for missed ones; the mean over trained segmentors."""
    raise NotImplementedError


def variance_components(rows: Sequence[ScanScore], measure: str) -> Components:
    """Estimate the components of a measure's variance from the rows of one arm at one number of cases."""
    raise NotImplementedError


def compare(rows: Sequence[ScanScore], what: Primary) -> Comparison:
    """Compare two arms, paired by subset."""
    raise NotImplementedError


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values by Holm's method; nan stay nan and do not count."""
    raise NotImplementedError


def recovered_share(
    rows: Sequence[ScanScore], arm: str, cases: int, all_cases: int, hosts: int | None = None
) -> Recovered:
    """Estimate which share of the way from n to all real cases an arm recovers, by a ratio bootstrap over patients."""
    raise NotImplementedError


def detectable_difference(
    rows: Sequence[ScanScore], measure: str, subsets: int, paintings: int, seeds: int
) -> Detectable:
    """Say which difference of an arm a design with so many subsets, paintings and seeds detects, from a pilot's rows."""
    raise NotImplementedError


def room_for_gain(rows: Sequence[ScanScore], few: int = 8, many: int = 32) -> Room:
    """Say whether many real cases are better than few by 0.05 of lesion DSC or 10 points of sensitivity (REAL rows)."""
    raise NotImplementedError


def analyze(rows: Sequence[ScanScore], primary: Primary, all_cases: int) -> Analysis:
    """Make the primary comparison and all others: every arm against REAL and EMPTY, at every count, by every measure."""
    raise NotImplementedError
