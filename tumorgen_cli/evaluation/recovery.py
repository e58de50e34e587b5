"""What pairs make up for: the share of the way from n to all real cases, and how many real cases are worth the same."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from tumorgen_cli.evaluation.scan_scores import REAL, ScanScore
from tumorgen_cli.evaluation.trials import Trials
from tumorgen_cli.metrics.inference import (
    UNKNOWN,
    Estimate,
    bootstrap_interval,
    cases_worth,
    ratio_t_interval,
    t_interval,
)

LEAST_WAY = 0.02  # of DSC from n to all cases, its lower bound: the ratio to a number near 0 says nothing


@dataclass(frozen=True)
class Recovered:
    """What an arm makes up for.

    Attributes:
        arm: The arm.
        cases: n, its number of real cases.
        hosts: Its number of hosts, as in its rows.
        share: (DSC of n with pairs - DSC of n) / (DSC of all - DSC of n), with the ratio bootstrap over test patients;
            nan where `reason` is not empty.
        over_subsets: The same share with its t interval over draws of the n cases.
        worth: Number of real cases with which the real arm reaches the arm's DSC, with its interval over test patients.
            0 means fewer than the fewest that were tried, inf more than the most.
        reason: Why there is no share; empty if there is one.
    """

    arm: str
    cases: int
    hosts: int | None
    share: Estimate
    over_subsets: Estimate
    worth: Estimate
    reason: str


def recovered_shares(rows: Sequence[ScanScore], all_cases: int) -> list[Recovered]:
    """Estimate what every arm but REAL makes up for, at every number of cases below all.

    Args:
        rows: The rows of the experiment; without the arm REAL there is no result.
        all_cases: Number of all real cases.
    """
    trials = Trials(rows)
    curve = {
        all_cases if cases is None else cases: _mean(trials, REAL, cases, None)
        for arm, cases, _ in trials.arms()
        if arm == REAL
    }
    return [
        _recovered(trials, curve, (arm, cases, hosts), all_cases)
        for arm, cases, hosts in trials.arms()
        if arm != REAL and cases is not None and cases < all_cases and cases in curve
    ]


def _mean(
    trials: Trials, arm: str, cases: int | None, hosts: int | None, subsets: Collection[int] | None = None
) -> tuple[float, np.ndarray]:
    """Return the DSC over (some) subsets, and that of every resample of the patients."""
    known = trials.by_subset(arm, cases, hosts, "dsc")
    own = [value for subset, value in known.items() if subsets is None or subset in subsets]
    return float(np.mean([value for value, _ in own])), np.mean([resampled for _, resampled in own], axis=0)


def _recovered(
    trials: Trials, curve: dict[int, tuple[float, np.ndarray]], each: tuple[str, int, int | None], all_cases: int
) -> Recovered:
    """Estimate what one arm makes up for, at draws of the cases that the real arm has too."""
    arm, cases, hosts = each
    shared = trials.by_subset(*each, "dsc").keys() & trials.by_subset(REAL, cases, None, "dsc").keys()
    if not shared:
        return Recovered(arm, cases, hosts, UNKNOWN, UNKNOWN, UNKNOWN, "no draw of the real cases has both arms")
    (own, own_resampled), (few, few_resampled) = (_mean(trials, *a, shared) for a in (each, (REAL, cases, None)))
    units = trials.counted(trials.trainings(*each), "dsc")
    levels = zip(*(scores for _, scores in curve.values()), strict=True)
    resampled = [
        cases_worth(dict(zip(curve, map(float, level), strict=True)), float(value))
        for level, value in zip(levels, own_resampled, strict=True)
    ]
    point = cases_worth({count: value for count, (value, _) in curve.items()}, own)
    worth = bootstrap_interval(point, np.array(resampled), units)
    if all_cases not in curve:
        return Recovered(arm, cases, hosts, UNKNOWN, UNKNOWN, worth, "no real arm with all cases")
    most, most_resampled = curve[all_cases]
    over_patients = bootstrap_interval(most - few, most_resampled - few_resampled, units).low
    of_subsets = [most - value for value, _ in trials.by_subset(REAL, cases, None, "dsc").values()]
    least = np.fmin(over_patients, t_interval(of_subsets).low) if math.isfinite(over_patients) else math.nan
    if not least > LEAST_WAY:
        reason = (
            f"DSC of {all_cases} real cases is not surely {LEAST_WAY:g} above that of {cases}: lower bound {least:.3f}"
        )
        return Recovered(arm, cases, hosts, UNKNOWN, UNKNOWN, worth, reason)
    ratios = (own_resampled - few_resampled) / (most_resampled - few_resampled)
    share = bootstrap_interval((own - few) / (most - few), ratios, units)
    mine, theirs = (trials.by_subset(*key, "dsc") for key in (each, (REAL, cases, None)))
    tops = [mine[subset][0] - theirs[subset][0] for subset in shared]
    over_subsets = ratio_t_interval(tops, [most - theirs[subset][0] for subset in shared])
    return Recovered(arm, cases, hosts, share, over_subsets, worth, "")
