"""What nnU-Nets gain from synthetic pairs: their scores on real held-out patients, paired per patient against real cases alone.

A patient counts once: measures are first averaged over seeds, then intervals and tests run over patients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage, stats

from tumorgen_cli.geometry import Triple
from tumorgen_cli.metrics.overlap import verdict
from tumorgen_cli.metrics.summary import Summary, summarize
from tumorgen_cli.nnunet.job import Schedule

EARLY_MM = 20.0  # FreeTumor's early tumors: a diameter under 2 cm
REAL, LIVE = "real", "-live"
SCORES = 2  # of the form of a run's scores; raise it when that changes
_EXACT = 13  # patients up to which every assignment of signs is counted


@dataclass(frozen=True)
class LesionOutcome:
    """A real lesion: its diameter, and whether a voxel of it was found. Diameters are of the ball of a volume."""

    diameter_mm: float
    found: bool


@dataclass(frozen=True)
class PatientScore:
    """An nnU-Net on a held-out scan; Dice and surface Dice are None where there is nothing to find: false positives, here by
    their diameters, tell of that."""

    case: str
    dice: float | None
    surface_dice: float | None
    lesions: tuple[LesionOutcome, ...]
    false_positives: tuple[float, ...]


@dataclass(frozen=True)
class TrainedNnunet:
    """A training and its scores. `cases`: real training cases; `pairs`: synthetic ones (of a live arm: painted by its end);
    `real_share`: of what is drawn in training."""

    arm: str
    cases: int
    seed: int
    pairs: int
    real_share: float
    iterations: int
    minutes: float
    inputs_hash: str
    patients: tuple[PatientScore, ...]


@dataclass(frozen=True)
class ArmMeasure:
    """A measure of an arm over patients, the spread between them, and the gain over real cases alone (of false positives: how many
    fewer): interval, p of Wilcoxon's signed-rank test, patients better and worse; nan and 0 for the real arm itself.

    `seeds` both arms have: the gain is of these, the measure of all of the arm's own.
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
    """Lesions of a size: the share of a patient's that was found, false positives of that size, and the scores of patients whose
    largest lesion is of it."""

    name: str
    lesions: int
    patients: int
    dice: ArmMeasure
    surface_dice: ArmMeasure
    sensitivity: ArmMeasure
    false_positives: ArmMeasure


@dataclass(frozen=True)
class Arm:
    """An arm at a number of real cases, all seeds together."""

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


@dataclass(frozen=True)
class Design:
    """What is compared. An arm is REAL, a method, or a method and LIVE: painted while nnU-Net trains.

    `ratio`: pairs to a real case. `real_share`: of real cases among those that nnU-Net draws, reached by repeating them.
    `minutes` of a training, of which the first measures how many steps they are: all then take these.
    """

    arms: tuple[str, ...]
    fractions: tuple[float, ...]
    seeds: int
    minutes: float
    ratio: int
    real_share: float


@dataclass(frozen=True)
class Failure:
    """An arm that came to no pairs, or one of its trainings that failed, and why."""

    arm: str
    cases: int
    reason: str


@dataclass(frozen=True)
class Downstream:
    """What `downstream.json` holds. `schedule`: epochs and their iterations, alike for all runs."""

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


def score_patient(
    case: str, found: np.ndarray, truth: np.ndarray, spacing_mm: Triple, tolerance_mm: float
) -> PatientScore:
    """Scores of a mask (X, Y, Z) against the truth. A lesion is found by one voxel in common; a false positive touches none."""
    judged = verdict(truth, found, spacing_mm, tolerance_mm)
    known = [round(value, 4) if judged.lesions else None for value in (judged.dice, judged.surface_dice)]
    lesions = tuple(LesionOutcome(diameter, touched) for diameter, touched in _components(truth, found, spacing_mm))
    spurious = tuple(diameter for diameter, touched in _components(found, truth, spacing_mm) if not touched)
    return PatientScore(case, known[0], known[1], lesions, spurious)


def _components(mask: np.ndarray, other: np.ndarray, spacing_mm: Triple) -> list[tuple[float, bool]]:
    """The diameter of each component of a mask (X, Y, Z), in mm, and whether it has a voxel in common with another mask."""
    parts, count = ndimage.label(mask, np.ones((3, 3, 3)))
    volumes = np.bincount(parts.ravel(), minlength=count + 1)[1:] * math.prod(spacing_mm)
    touched = np.isin(np.arange(1, count + 1), parts[mask & other])
    return [
        (round(2 * (0.75 * float(v) / math.pi) ** (1 / 3), 2), bool(t)) for v, t in zip(volumes, touched, strict=True)
    ]


def size_strata(diameters: Sequence[float]) -> list[tuple[str, float, float]]:
    """(name, from, below) in mm: under 2 cm and the rest where there are both, else the set's own tertiles; one for fewer than 3."""
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
    """Every arm at every number of cases, in the order of the runs. The gain compares patients over the seeds that both arms have."""
    strata = (
        size_strata([lesion.diameter_mm for patient in runs[0].patients for lesion in patient.lesions]) if runs else []
    )
    groups: dict[tuple[str, int], list[TrainedNnunet]] = {}
    for run in runs:
        groups.setdefault((run.arm, run.cases), []).append(run)
    return [_arm(own, groups.get((REAL, cases), []), strata) for (_, cases), own in groups.items()]


def _arm(
    runs: Sequence[TrainedNnunet], real: Sequence[TrainedNnunet], strata: Sequence[tuple[str, float, float]]
) -> Arm:
    first = runs[0]
    measures = {
        name: _measure(runs, real, pick, f"{first.arm} {first.cases} {name}") for name, pick in MEASURES.items()
    }
    by_seed = [float(np.nanmean([_number(p.dice) for p in run.patients])) for run in runs]
    seeds_apart = float(np.std(by_seed, ddof=1)) if len(runs) > 1 else math.nan
    by_size = tuple(_stratum(runs, real, *each) for each in strata)
    share = round(_mean([run.real_share for run in runs]), 4)
    return Arm(
        first.arm,
        first.cases,
        len(runs),
        first.pairs,
        share,
        **measures,
        by_size=by_size,
        spread_over_seeds=seeds_apart,
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
            f"{runs[0].arm} {runs[0].cases} {name} {each}",
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
    shared = {run.seed for run in runs} & {run.seed for run in real}
    if runs[0].arm == REAL or not shared:
        return ArmMeasure(summary, spread, None, math.nan, 0, 0, 0)
    mine, theirs = (_by_patient([run for run in group if run.seed in shared], pick) for group in (runs, real))
    gains = np.round(
        theirs - mine if pick is MEASURES["false_positives"] else mine - theirs, 6
    )  # or sums in another order would differ
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
    """p of Wilcoxon's signed-rank test, two-sided, zeros left out; exact, ties or not, for up to 13 gains. nan without two patients or a gain."""
    other = gains[gains != 0]
    if len(gains) < 2 or not len(other):
        return math.nan
    if len(other) == 1:  # of either sign with the same probability
        return 1.0
    return float(stats.wilcoxon(other, method=stats.PermutationMethod() if len(other) <= _EXACT else "auto").pvalue)


def _by_patient(runs: Sequence[TrainedNnunet], pick: Callable[[PatientScore], float]) -> np.ndarray:
    """(patients): the mean over runs, nan where no run has a value."""
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
