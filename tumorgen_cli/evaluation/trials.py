"""Comparisons of arms over draws of the annotated cases, from rows of `ScanScore`.

The draw of the annotated cases (the subset) is the unit: paintings and seeds are averaged within it, and intervals are
t intervals over subsets. A bootstrap over the patients of the test set, and nothing else, stands beside them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tumorgen_cli.evaluation.measures import FALSE_POSITIVES, MEASURES, SIZES, Training, segmentors, sensitivity
from tumorgen_cli.evaluation.scan_scores import EMPTY, REAL, ScanScore
from tumorgen_cli.evaluation.verdicts import ArmComparison, Primary, comparison_verdict, undertrained
from tumorgen_cli.metrics.inference import (
    Components,
    Estimate,
    bootstrap_interval,
    draw_weights,
    holm,
    nested_components,
    t_interval,
    t_test,
)


@dataclass(frozen=True)
class MeasuredArm:
    """A measure of an arm at a number of cases.

    Attributes:
        over_subsets: Mean over subsets with its t interval.
        over_patients: The same mean with its bootstrap interval over test patients.
        components: Where the values differ from each other.
    """

    over_subsets: Estimate
    over_patients: Estimate
    components: Components


@dataclass(frozen=True)
class ArmScores:
    """An arm at a number of cases and of hosts, by name of the measure."""

    arm: str
    cases: int | None
    hosts: int | None
    subsets: int
    trainings: int
    measures: dict[str, MeasuredArm]


@dataclass(frozen=True)
class Analysis:
    """All that is concluded from the rows of an experiment.

    Attributes:
        arms: Every arm at every number of cases and hosts.
        primary: The comparison that was named before training; None if none was.
        exploratory: All others.
        silent: A sentence for every number of cases at which nothing is concluded.
    """

    arms: tuple[ArmScores, ...]
    primary: ArmComparison | None
    exploratory: tuple[ArmComparison, ...]
    silent: tuple[str, ...]


class Trials:
    """The trained segmentors of an experiment, and their measures, computed when first asked for."""

    def __init__(self, rows: Sequence[ScanScore]) -> None:
        """Gather the rows."""
        self.segmentors = segmentors(rows, _all_then_drawn)
        self._known: dict[tuple[Training, str], tuple[float, np.ndarray]] = {}

    def arms(self) -> list[tuple[str, int | None, int | None]]:
        """Return every (arm, cases, hosts), in the order of the rows."""
        return list(dict.fromkeys((key.arm, key.cases, key.hosts) for key in self.segmentors))

    def trainings(self, arm: str, cases: int | None, hosts: int | None) -> list[Training]:
        """Return the trainings of an arm."""
        return [key for key in self.segmentors if (key.arm, key.cases, key.hosts) == (arm, cases, hosts)]

    def partner(self, arm: str, cases: int | None, hosts: int | None) -> int | None:
        """Return the number of hosts of the arm to compare with: the same, or None where there is no such arm."""
        return hosts if (arm, cases, hosts) in self.arms() else None

    def measured(self, key: Training, measure: str) -> tuple[float, np.ndarray]:
        """Return a measure of a training, and of every resample of the patients (resamples,)."""
        if (key, measure) not in self._known:
            values = self.segmentors[key].estimate(measure)
            resampled = values[1:] if MEASURES[measure].by_patient else np.full(1, math.nan)
            self._known[key, measure] = float(values[0]), resampled
        return self._known[key, measure]

    def by_subset(
        self, arm: str, cases: int | None, hosts: int | None, measure: str
    ) -> dict[int, tuple[float, np.ndarray]]:
        """Average a measure over seeds, then over paintings, within every subset; one undefined value makes it nan."""
        groups: dict[int, dict[int, list[tuple[float, np.ndarray]]]] = {}
        for key in self.trainings(arm, cases, hosts):
            groups.setdefault(key.subset, {}).setdefault(key.painting, []).append(self.measured(key, measure))
        return {subset: _average([_average(own) for own in paintings.values()]) for subset, paintings in groups.items()}

    def counted(self, keys: Sequence[Training], measure: str) -> int:
        """Return the number of patients with anything that a measure counts; folds have patients of their own."""
        return len(set[int]().union(*(self.segmentors[key].counted(measure) for key in keys)))


def _all_then_drawn(patients: Sequence[str]) -> np.ndarray:
    """Count every patient once, then as often as the bootstrap draws it (1 + resamples, patients)."""
    return np.concatenate([np.ones((1, len(patients))), draw_weights(patients, "patients")])


def _average(values: Sequence[tuple[float, np.ndarray]]) -> tuple[float, np.ndarray]:
    return float(np.mean([value for value, _ in values])), np.mean([resampled for _, resampled in values], axis=0)


def sensitivity_at_fp(
    rows: Sequence[ScanScore], fp_per_scan: float = FALSE_POSITIVES, size_class: str | None = None
) -> float:
    """Compute the share of lesions found at a number of false positives a scan; the mean over trainings.

    Args:
        rows: Rows of all test scans.
        fp_per_scan: Most false positives a scan, over all scans.
        size_class: Name of a class of `SIZES`; None for lesions of every size.
    """
    size = (0.0, math.inf) if size_class is None else SIZES[size_class]
    measure = sensitivity("", size, fp_per_scan)
    found = segmentors(rows, lambda patients: np.ones((1, len(patients)))).values()
    shares = [measure.totals(scores)[0] / max(float(measure.counts(scores).sum()), 1e-9) for scores in found]
    return float(np.mean(shares)) if all(measure.counts(scores).any() for scores in found) else math.nan


def lesion_dsc(rows: Sequence[ScanScore]) -> float:
    """Average the component-matched Dice over all lesions, 0 for missed ones; the mean over trainings."""
    trials = Trials(rows)
    return float(np.mean([trials.measured(key, "lesion_dsc")[0] for key in trials.segmentors]))


def variance_components(rows: Sequence[ScanScore], measure: str) -> Components:
    """Estimate the components of a measure's variance from the rows of one arm at one number of cases."""
    trials = Trials(rows)
    return _components(trials, list(trials.segmentors), measure)


def _components(trials: Trials, keys: Sequence[Training], measure: str) -> Components:
    return nested_components([(key.subset, key.painting, trials.measured(key, measure)[0]) for key in keys])


def compare(rows: Sequence[ScanScore], what: Primary) -> ArmComparison:
    """Compare two arms, paired by subset, as the comparison that was named before training."""
    found = compare_within(Trials(rows), what, exploratory=False)
    return replace(found, verdict=comparison_verdict(found))


def compare_within(trials: Trials, what: Primary, exploratory: bool) -> ArmComparison:
    """Compare two arms, paired by subset; the verdict is left empty."""
    other_hosts = trials.partner(what.against, what.cases, what.hosts)
    own = trials.by_subset(what.arm, what.cases, what.hosts, what.measure)
    other = trials.by_subset(what.against, what.cases, other_hosts, what.measure)
    sign = 1 if MEASURES[what.measure].rises else -1
    shared = [key for key in own if key in other and math.isfinite(own[key][0] - other[key][0])]
    differences = np.array([sign * (own[key][0] - other[key][0]) for key in shared])
    over_subsets = t_interval(differences)
    patients, resampled = 0, np.full(1, math.nan)
    if shared:
        resampled = np.mean([sign * (own[key][1] - other[key][1]) for key in shared], axis=0)
        patients = trials.counted(trials.trainings(what.arm, what.cases, what.hosts), what.measure)
    return ArmComparison(
        what,
        over_subsets,
        bootstrap_interval(over_subsets.value, resampled, patients),
        t_test(differences),
        math.nan,
        float(np.std(differences, ddof=1)) if len(shared) > 1 else math.nan,
        len(shared),
        patients,
        exploratory,
    )


def analyze(rows: Sequence[ScanScore], primary: Primary | None = None, no_room: str = "") -> Analysis:
    """Make the primary comparison and all others: every arm against REAL and EMPTY, at every count, by every measure.

    Args:
        rows: The rows of the experiment.
        primary: The comparison that was named before training, if one was.
        no_room: Why nothing is concluded at all, the verdict of `room_for_gain`; empty if there is room.
    """
    trials = Trials(rows)
    reasons = {
        cases: reason
        for cases in dict.fromkeys(row.cases for row in rows)
        if (reason := no_room or undertrained([row for row in rows if row.cases == cases]))
    }
    exploratory = [
        compare_within(trials, Primary(arm, against, measure, cases, hosts), exploratory=True)
        for arm, cases, hosts in trials.arms()
        if arm != REAL and cases not in reasons
        for against in dict.fromkeys((REAL, EMPTY))
        if against != arm and (against, cases, trials.partner(against, cases, hosts)) in trials.arms()
        for measure in MEASURES
        if Primary(arm, against, measure, cases, hosts) != primary
    ]
    exploratory = [each for each in exploratory if each.subsets]
    corrected = holm([each.p for each in exploratory])
    exploratory = [replace(each, p_holm=p) for each, p in zip(exploratory, corrected, strict=True)]
    return Analysis(
        arms=tuple(_arm(trials, *each) for each in trials.arms()),
        primary=None if primary is None else _primary(trials, primary, reasons.get(primary.cases, "")),
        exploratory=tuple(replace(each, verdict=comparison_verdict(each)) for each in exploratory),
        silent=tuple(
            f"{'all' if cases is None else cases} real cases: no conclusion, {reason}"
            for cases, reason in reasons.items()
        ),
    )


def _primary(trials: Trials, what: Primary, silent: str) -> ArmComparison:
    found = compare_within(trials, what, exploratory=False)
    return replace(found, verdict=f"No conclusion: {silent}." if silent else comparison_verdict(found))


def _arm(trials: Trials, arm: str, cases: int | None, hosts: int | None) -> ArmScores:
    keys = trials.trainings(arm, cases, hosts)
    measures = {}
    for measure in MEASURES:
        own = list(trials.by_subset(arm, cases, hosts, measure).values())
        over_subsets = t_interval([value for value, _ in own])
        if math.isfinite(over_subsets.value):
            resampled = np.mean([each for _, each in own], axis=0)
            over_patients = bootstrap_interval(over_subsets.value, resampled, trials.counted(keys, measure))
            measures[measure] = MeasuredArm(over_subsets, over_patients, _components(trials, keys, measure))
    return ArmScores(arm, cases, hosts, len({key.subset for key in keys}), len(keys), measures)
