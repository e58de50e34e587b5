"""Measures of a trained segmentor over its test scans, for the scans as they are and for resampled patients alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tumorgen_cli.evaluation.scan_scores import ScanScore

#: classes of lesions by diameter: (from, below) in mm
SIZES: Mapping[str, tuple[float, float]] = {
    "under 10 mm": (0.0, 10.0),
    "10 to 20 mm": (10.0, 20.0),
    "20 to 50 mm": (20.0, 50.0),
    "50 mm and more": (50.0, math.inf),
}
FALSE_POSITIVES = 1.0  # a scan, at which sensitivity is measured


class TrainingScores:
    """One trained segmentor's scores as arrays: S scans, L lesions, F false positives.

    Attributes:
        patients: Number of the patient of each scan (S,).
        dsc: Dice of each scan (S,), nan without lesion.
        nsd: Surface Dice of each scan (S,), nan without lesion.
        healthy: Whether each scan has no lesion (S,).
        lesion_scan: Number of the scan of each lesion (L,).
        mm: Diameter of each lesion (L,).
        score: Score of each found lesion (L,), -inf of the others.
        touched: Whether a voxel of each lesion was found (L,).
        lesion_dsc: Component-matched Dice of each lesion (L,).
        spurious_scan: Number of the scan of each false positive (F,), from the highest score to the lowest.
        spurious: Their scores (F,).
        plateau: Iterations to the real arm's plateau, those of the whole training if it was not reached; nan where the
            experiment knows no plateau.
    """

    def __init__(self, rows: Sequence[ScanScore], patients: Mapping[str, int], draws: np.ndarray) -> None:
        """Gather the rows of one segmentor.

        Args:
            rows: Its rows.
            patients: Number of each patient of the experiment.
            draws: How often each patient counts (D, patients), as single-precision numbers.
        """
        rows = sorted(rows, key=lambda row: patients[row.patient])
        self._draws = draws
        self._thresholds: dict[float, np.ndarray] = {}
        self.patients = np.array([patients[row.patient] for row in rows], int)
        self.dsc, self.nsd = (
            np.array([math.nan if value is None else value for value in values], float)
            for values in ([row.dsc for row in rows], [row.nsd for row in rows])
        )
        self.healthy = np.array([row.healthy for row in rows], bool)
        lesions = [(i, lesion) for i, row in enumerate(rows) for lesion in row.lesions]
        self.lesion_scan = np.array([i for i, _ in lesions], int)
        self.mm = np.array([lesion.mm for _, lesion in lesions], float)
        self.score = np.array([-math.inf if each.score is None else each.score for _, each in lesions], float)
        self.touched = np.array([lesion.touched for _, lesion in lesions], bool)
        self.lesion_dsc = np.array([lesion.dsc for _, lesion in lesions], float)
        spurious = sorted(
            ((i, each.score) for i, row in enumerate(rows) for each in row.false_positives), key=lambda each: -each[1]
        )
        self.spurious_scan = np.array([i for i, _ in spurious], int)
        self.spurious = np.array([score for _, score in spurious], float)
        first = rows[0]
        self.plateau = float(first.iterations if first.plateau_iterations is None else first.plateau_iterations)

    @property
    def weights(self) -> np.ndarray:
        """How often each scan counts (D, S)."""
        same = np.array_equal(self.patients, np.arange(self._draws.shape[1]))  # one scan of every patient: no copy
        return self._draws if same else self._draws[:, self.patients]

    def estimate(self, measure: str) -> np.ndarray:
        """Compute a measure for every draw of patients (D,), nan where nothing is counted."""
        counts = MEASURES[measure].counts(self)
        weight = self.weights @ counts
        return np.where(weight > 0, MEASURES[measure].totals(self) / np.maximum(weight, 1e-9), math.nan)

    def counted(self, measure: str) -> set[int]:
        """Return the numbers of the patients with anything that a measure counts."""
        return {*self.patients[MEASURES[measure].counts(self) > 0].tolist()}

    def thresholds(self, false_positives: float) -> np.ndarray:
        """Return the score that a component must exceed so that so many false positives a scan are left (D,).

        It is the score of the false positive that would be one too many; those of all scans and sizes count.
        """
        if false_positives not in self._thresholds:
            found = np.full(len(self._draws), -math.inf)
            if len(self.spurious):
                kept = np.cumsum(self._draws[:, self.patients[self.spurious_scan]], axis=1)
                over = kept > false_positives * self.weights.sum(axis=1, keepdims=True) + 1e-3
                found = np.where(over.any(axis=1), self.spurious[over.argmax(axis=1)], -math.inf)
            self._thresholds[false_positives] = found
        return self._thresholds[false_positives]

    def of_lesions(self, values: np.ndarray) -> np.ndarray:
        """Add up values of the lesions (L,) within each scan (S,)."""
        return np.bincount(self.lesion_scan, values, len(self.patients))


@dataclass(frozen=True)
class ScanMeasure:
    """A measure of a segmentor: a total over a number of things that are counted.

    Attributes:
        title: Its name in tables.
        counts: How many things each scan has (S,): lesions, or 1 for a scan that counts.
        totals: Their total for every draw of patients (D,).
        rises: Whether more is better.
        percent: Whether it is a share, shown in percent.
        by_patient: Whether it depends on the test scans.
    """

    title: str
    counts: Callable[[TrainingScores], np.ndarray]
    totals: Callable[[TrainingScores], np.ndarray]
    rises: bool = True
    percent: bool = False
    by_patient: bool = True


def sensitivity(title: str, size: tuple[float, float], false_positives: float = FALSE_POSITIVES) -> ScanMeasure:
    """Return the share of lesions of a size (from, below, in mm) found at a number of false positives a scan."""

    def inside(scores: TrainingScores) -> np.ndarray:
        return (scores.mm >= size[0]) & (scores.mm < size[1])

    def hits(scores: TrainingScores) -> np.ndarray:
        own = inside(scores)
        found = scores.score[own] > scores.thresholds(false_positives)[:, None]
        return (scores.weights[:, scores.lesion_scan[own]] * found).sum(axis=1)

    return ScanMeasure(title, lambda scores: scores.of_lesions(inside(scores) * 1.0), hits, percent=True)


def _lesion_mean(title: str, values: Callable[[TrainingScores], np.ndarray], percent: bool = False) -> ScanMeasure:
    """Return the mean of values of the lesions (L,)."""
    return ScanMeasure(
        title,
        lambda scores: scores.of_lesions(np.ones(len(scores.mm))),
        lambda scores: scores.weights @ scores.of_lesions(values(scores) * 1.0),
        percent=percent,
    )


def _scan_mean(title: str, values: Callable[[TrainingScores], np.ndarray]) -> ScanMeasure:
    """Return the mean of values of the scans (S,), over those that have one."""
    return ScanMeasure(
        title,
        lambda scores: np.isfinite(values(scores)) * 1.0,
        lambda scores: scores.weights @ np.nan_to_num(values(scores)),
    )


def _false_positives(title: str, counted: Callable[[TrainingScores], np.ndarray]) -> ScanMeasure:
    """Return the number of false positives a scan, over the scans that count."""
    return ScanMeasure(
        title,
        lambda scores: counted(scores) * 1.0,
        lambda scores: (
            scores.weights @ (counted(scores) * np.bincount(scores.spurious_scan, minlength=len(scores.patients)))
        ),
        rises=False,
    )


def _plateau(scores: TrainingScores) -> np.ndarray:
    return scores.weights.sum(axis=1) * scores.plateau


#: by name
MEASURES: Mapping[str, ScanMeasure] = {
    "sensitivity": sensitivity("lesions found at one false positive a scan", (0.0, math.inf)),
    **{f"sensitivity {name}": sensitivity(f"lesions {name} found", size) for name, size in SIZES.items()},
    "touched": _lesion_mean("lesions touched by a voxel", lambda scores: scores.touched, percent=True),
    "lesion_dsc": _lesion_mean("lesion DSC", lambda scores: scores.lesion_dsc),
    "dsc": _scan_mean("DSC", lambda scores: scores.dsc),
    "nsd": _scan_mean("NSD", lambda scores: scores.nsd),
    "false_positives": _false_positives("false positives a scan", lambda scores: np.ones(len(scores.patients))),
    "false_positives_healthy": _false_positives("false positives a healthy scan", lambda scores: scores.healthy),
    "plateau": ScanMeasure(
        "iterations to the real arm's plateau",
        lambda scores: np.ones(len(scores.patients)),
        _plateau,
        rises=False,
        by_patient=False,
    ),
}


@dataclass(frozen=True)
class Training:
    """Which training a segmentor is of; the fields are those of `ScanScore`."""

    arm: str
    cases: int | None
    hosts: int | None
    subset: int
    painting: int
    seed: int


def segmentors(
    rows: Iterable[ScanScore], draws: Callable[[Sequence[str]], np.ndarray]
) -> dict[Training, TrainingScores]:
    """Gather rows by training.

    Args:
        rows: The rows of an experiment.
        draws: From the patients, how often each counts (D, patients).
    """
    groups: dict[Training, list[ScanScore]] = {}
    for row in rows:
        key = Training(row.arm, row.cases, row.hosts, row.subset, row.painting, row.seed)
        groups.setdefault(key, []).append(row)
    patients = sorted({row.patient for own in groups.values() for row in own})
    numbers, weights = {patient: i for i, patient in enumerate(patients)}, draws(patients).astype(np.float32)
    found = {key: TrainingScores(own, numbers, weights) for key, own in groups.items()}
    if all(row.plateau_iterations is None for own in groups.values() for row in own):
        for scores in found.values():
            scores.plateau = math.nan
    return found
