"""What nnU-Nets gain from synthetic pairs: scores on real held-out patients, paired by patient with real cases alone.

A patient counts once: measures are first averaged over seeds; intervals and tests are then over patients.

Nothing is concluded from nnU-Nets that have not learned to segment (`undertrained`): there are no gains then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage, stats

from tumorgen_cli.evaluation.design import Design
from tumorgen_cli.evaluation.scan_scores import REAL, ScanScore
from tumorgen_cli.geometry import Triple
from tumorgen_cli.metrics.overlap import compare_masks
from tumorgen_cli.metrics.summary import Summary, summarize
from tumorgen_cli.nnunet.job import Schedule

EARLY_MM = 20.0  # FreeTumor's early tumors: a diameter under 2 cm
LEAST_ITERATIONS = 500  # of a training from which anything is concluded; nnU-Net's own has 250,000
LEAST_DICE = 0.1  # mean over patients that the best arm must reach: below, a few voxels touch every lesion by chance
SCORES = 3  # version of a run's scores; raise it when they change
_EXACT = 13  # up to so many patients, every assignment of signs is counted


@dataclass(frozen=True)
class LesionOutcome:
    """A real lesion: the diameter of the ball of its volume, and whether at least one of its voxels was found."""

    diameter_mm: float
    found: bool


@dataclass(frozen=True)
class PatientScore:
    """An nnU-Net's scores on a held-out scan.

    Attributes:
        case: Name of the case.
        dice: Dice; None where the scan has no lesion.
        surface_dice: Surface Dice; None where the scan has no lesion.
        lesions: Every real lesion.
        false_positives: Diameters in mm of the false positives, each that of the ball of its volume.
    """

    case: str
    dice: float | None
    surface_dice: float | None
    lesions: tuple[LesionOutcome, ...]
    false_positives: tuple[float, ...]


@dataclass(frozen=True)
class TrainedNnunet:
    """A training and its scores.

    Attributes:
        arm: Its arm.
        cases: Number of real training cases.
        seed: Its seed.
        pairs: Number of synthetic pairs; of an arm that paints during training, pairs painted by its end.
        real_share: Share of real cases among the cases drawn in training.
        iterations: Iterations of the training.
        minutes: Minutes of the training.
        inputs_hash: Hash of what it was trained on.
        patients: Scores of the held-out patients.
        hosts: Number of its healthy scans; None: it has none, or all.
        subset: Which draw of the real cases.
        painting: Which painting of that draw.
        scans: Rows of the test scans, for comparisons over draws of the real cases.
    """

    arm: str
    cases: int
    seed: int
    pairs: int
    real_share: float
    iterations: int
    minutes: float
    inputs_hash: str
    patients: tuple[PatientScore, ...]
    hosts: int | None = None
    subset: int = 0
    painting: int = 0
    scans: tuple[ScanScore, ...] = ()

    @property
    def label(self) -> str:
        """The arm as tables show it, with the number of its healthy scans where that is not all."""
        return self.arm if self.hosts is None else f"{self.arm}, {self.hosts} hosts"


@dataclass(frozen=True)
class ArmMeasure:
    """A measure of an arm over patients, and its gain over real cases alone.

    Of false positives the gain is how many fewer there are. For the real arm itself the gain is None, p is nan, and the
    counts are 0.

    Attributes:
        over_patients: Summary over patients, of all of the arm's seeds.
        spread: Standard deviation over patients.
        gain: Summary of the paired gains, of the seeds that both arms have.
        p: p of Wilcoxon's signed-rank test of the gains.
        better: Number of patients with a gain.
        worse: Number of patients with a loss.
        seeds: Number of seeds that both arms have.
    """

    over_patients: Summary
    spread: float
    gain: Summary | None
    p: float
    better: int
    worse: int
    seeds: int


@dataclass(frozen=True)
class SizeGroup:
    """Scores for lesions of a size.

    Attributes:
        name: Name of the size.
        lesions: Number of lesions of that size.
        patients: Number of patients whose largest lesion is of that size.
        dice: Dice of these patients.
        surface_dice: Surface Dice of these patients.
        sensitivity: Share of a patient's lesions of that size that were found.
        false_positives: False positives of that size in a scan.
    """

    name: str
    lesions: int
    patients: int
    dice: ArmMeasure
    surface_dice: ArmMeasure
    sensitivity: ArmMeasure
    false_positives: ArmMeasure


@dataclass(frozen=True)
class Arm:
    """An arm at a number of real cases, all seeds together.

    `undertrained` says why nothing is concluded at this number of real cases; there are no gains then. It is empty
    otherwise.
    """

    arm: str
    cases: int
    seeds: int
    pairs: int
    real_share: float
    dice: ArmMeasure
    surface_dice: ArmMeasure
    sensitivity: ArmMeasure
    false_positives: ArmMeasure
    by_size: tuple[SizeGroup, ...]
    spread_over_seeds: float
    undertrained: str = ""


@dataclass(frozen=True)
class Failure:
    """An arm that has no pairs, or a training that failed, and why."""

    arm: str
    cases: int
    reason: str


@dataclass(frozen=True)
class Downstream:
    """What `downstream.json` holds.

    `schedule`: epochs and their iterations, the same for all runs. `weak`: what was too weak about the weights that
    painted the pairs. `conclusions`: what is concluded, the most important first.
    """

    dataset: str
    plan: str
    held_out: tuple[str, ...]
    hosts: str
    design: Design
    schedule: Schedule
    device: str
    tolerance_mm: float
    arms: tuple[Arm, ...]
    runs: tuple[TrainedNnunet, ...]
    failures: tuple[Failure, ...] = ()
    weak: tuple[str, ...] = ()
    conclusions: tuple[str, ...] = ()


def score_patient(
    case: str, found: np.ndarray, truth: np.ndarray, spacing_mm: Triple, tolerance_mm: float
) -> PatientScore:
    """Score a mask (X, Y, Z) against the truth (X, Y, Z).

    A lesion is found if one voxel of it is found; a false positive touches no lesion.
    """
    judged = compare_masks(truth, found, spacing_mm, tolerance_mm)
    rounded = [round(value, 4) if judged.lesions else None for value in (judged.dice, judged.surface_dice)]
    lesions = tuple(LesionOutcome(diameter, touched) for diameter, touched in _components(truth, found, spacing_mm))
    spurious = tuple(diameter for diameter, touched in _components(found, truth, spacing_mm) if not touched)
    return PatientScore(case, rounded[0], rounded[1], lesions, spurious)


def _components(mask: np.ndarray, other: np.ndarray, spacing_mm: Triple) -> list[tuple[float, bool]]:
    """List each component of a mask (X, Y, Z).

    Returns the diameter in mm, and whether the component has a voxel in common with the other mask.
    """
    parts, count = ndimage.label(mask, np.ones((3, 3, 3)))
    volumes = np.bincount(parts.ravel(), minlength=count + 1)[1:] * math.prod(spacing_mm)
    touched = np.isin(np.arange(1, count + 1), parts[mask & other])
    return [
        (round(2 * (0.75 * float(v) / math.pi) ** (1 / 3), 2), bool(t)) for v, t in zip(volumes, touched, strict=True)
    ]


def size_strata(diameters: Sequence[float]) -> list[tuple[str, float, float]]:
    """Divide lesions by diameter: (name, from, below) in mm.

    The division is at 2 cm where there are lesions on both sides of it, else at the set's own tertiles. Fewer than
    three lesions are one group.
    """
    values = np.asarray(diameters, float)
    if values.size < 3:
        return [("any", 0.0, math.inf)]
    if (values < EARLY_MM).any() and (values >= EARLY_MM).any():
        return [(f"under {EARLY_MM:g} mm", 0.0, EARLY_MM), (f"{EARLY_MM:g} mm and more", EARLY_MM, math.inf)]
    first, second = (float(v) for v in np.percentile(values, (100 / 3, 200 / 3)))
    return [
        (f"under {first:.0f} mm", 0.0, first),
        (f"{first:.0f} to {second:.0f} mm", first, second),
        (f"over {second:.0f} mm", second, math.inf),
    ]


def summarize_arms(runs: Sequence[TrainedNnunet]) -> list[Arm]:
    """Summarize every arm at every number of cases, in the order of the runs.

    The gain compares patients over the seeds that both arms have. There is none where nnU-Nets are undertrained.
    """
    strata = (
        size_strata([lesion.diameter_mm for patient in runs[0].patients for lesion in patient.lesions]) if runs else []
    )
    groups: dict[tuple[str, int], list[TrainedNnunet]] = {}
    for run in runs:
        groups.setdefault((run.label, run.cases), []).append(run)
    reasons = {cases: undertrained([run for run in runs if run.cases == cases]) for _, cases in groups}
    return [
        _arm(own, [] if reasons[cases] else groups.get((REAL, cases), []), strata, reasons[cases])
        for (_, cases), own in groups.items()
    ]


def undertrained(runs: Sequence[TrainedNnunet]) -> str:
    """Say why nothing is concluded from the trainings of one number of real cases; empty if they have learned.

    They have learned if each took at least `LEAST_ITERATIONS` iterations, and the best arm finds something: its Dice,
    averaged over patients and seeds, is at least `LEAST_DICE`.
    """
    fewest = min(run.iterations for run in runs)
    if fewest < LEAST_ITERATIONS:
        return f"trained for {fewest} iterations, fewer than {LEAST_ITERATIONS}"
    arms = [[run for run in runs if run.label == arm] for arm in dict.fromkeys(run.label for run in runs)]
    known = [values[np.isfinite(values)] for values in (_by_patient(own, MEASURES["dice"]) for own in arms)]
    best = max((float(values.mean()) for values in known if values.size), default=math.nan)
    return f"the best arm has a mean DSC of {best:.2f}, less than {LEAST_DICE:g}" if best < LEAST_DICE else ""


def _arm(
    runs: Sequence[TrainedNnunet],
    real: Sequence[TrainedNnunet],
    strata: Sequence[tuple[str, float, float]],
    reason: str,
) -> Arm:
    first = runs[0]
    measures = {
        name: _measure(runs, real, pick, f"{first.label} {first.cases} {name}") for name, pick in MEASURES.items()
    }
    by_seed = [float(np.nanmean([_number(p.dice) for p in run.patients])) for run in runs]
    seeds_apart = float(np.std(by_seed, ddof=1)) if len(runs) > 1 else math.nan
    by_size = tuple(_stratum(runs, real, *each) for each in strata)
    share = round(_mean([run.real_share for run in runs]), 4)
    return Arm(
        first.label,
        first.cases,
        len(runs),
        first.pairs,
        share,
        **measures,
        by_size=by_size,
        spread_over_seeds=seeds_apart,
        undertrained=reason,
    )


def _stratum(
    runs: Sequence[TrainedNnunet], real: Sequence[TrainedNnunet], name: str, low: float, high: float
) -> SizeGroup:
    def inside(run: TrainedNnunet) -> TrainedNnunet:
        own = [
            patient
            for patient in run.patients
            if patient.lesions and low <= max(lesion.diameter_mm for lesion in patient.lesions) < high
        ]
        return replace(run, patients=tuple(own))

    def of_size(patient: PatientScore) -> PatientScore:
        lesions = tuple(lesion for lesion in patient.lesions if low <= lesion.diameter_mm < high)
        return replace(
            patient, lesions=lesions, false_positives=tuple(d for d in patient.false_positives if low <= d < high)
        )

    def cut(run: TrainedNnunet) -> TrainedNnunet:
        return replace(run, patients=tuple(of_size(patient) for patient in run.patients))

    measures = {
        each: _measure(
            [part(run) for run in runs],
            [part(run) for run in real],
            MEASURES[each],
            f"{runs[0].label} {runs[0].cases} {name} {each}",
        )
        for part, each in ((inside, "dice"), (inside, "surface_dice"), (cut, "sensitivity"), (cut, "false_positives"))
    }
    lesions = sum(len(patient.lesions) for patient in cut(runs[0]).patients)
    return SizeGroup(name, lesions, len(inside(runs[0]).patients), **measures)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _measure(
    runs: Sequence[TrainedNnunet], real: Sequence[TrainedNnunet], pick: Callable[[PatientScore], float], what: str
) -> ArmMeasure:
    own = _by_patient(runs, pick)
    summary, spread = summarize(own, what), float(np.nanstd(own, ddof=1)) if np.isfinite(own).sum() > 1 else math.nan
    shared = {(run.subset, run.seed) for run in runs} & {(run.subset, run.seed) for run in real}
    if runs[0].arm == REAL or not shared:
        return ArmMeasure(summary, spread, None, math.nan, 0, 0, 0)
    mine, theirs = (
        _by_patient([run for run in group if (run.subset, run.seed) in shared], pick) for group in (runs, real)
    )
    # rounded, because sums in another order would differ in the last digits
    gains = np.round(theirs - mine if pick is MEASURES["false_positives"] else mine - theirs, 6)
    better, worse = int((gains > 0).sum()), int((gains < 0).sum())  # nan is neither
    return ArmMeasure(
        summary,
        spread,
        summarize(gains, f"{what} gain"),
        _signed_rank(gains[np.isfinite(gains)]),
        better,
        worse,
        len(shared),
    )


def _signed_rank(gains: np.ndarray) -> float:
    """Compute p of Wilcoxon's signed-rank test: two-sided, zeros left out, exact (also with ties) for up to 13 gains.

    It is nan with fewer than two patients or without a gain or loss.
    """
    other = gains[gains != 0]
    if len(gains) < 2 or not len(other):
        return math.nan
    if len(other) == 1:  # both signs have the same probability
        return 1.0
    return float(stats.wilcoxon(other, method=stats.PermutationMethod() if len(other) <= _EXACT else "auto").pvalue)


def _by_patient(runs: Sequence[TrainedNnunet], pick: Callable[[PatientScore], float]) -> np.ndarray:
    """Average over runs: (patients,), nan where no run has a value."""
    values = np.array(
        [[pick(patient) for patient in sorted(run.patients, key=lambda p: p.case)] for run in runs], float
    )
    known = np.isfinite(values)
    total = np.where(known, values, 0).sum(axis=0)
    return np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), math.nan)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _sensitivity(patient: PatientScore) -> float:
    return _mean([lesion.found for lesion in patient.lesions])


#: by field of Arm
MEASURES: dict[str, Callable[[PatientScore], float]] = {
    "dice": lambda patient: _number(patient.dice),
    "surface_dice": lambda patient: _number(patient.surface_dice),
    "sensitivity": _sensitivity,
    "false_positives": lambda patient: float(len(patient.false_positives)),
}
