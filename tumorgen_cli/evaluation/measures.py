"""Measures of a trained segmentor over its test scans, for the scans as they are and for resampled patients alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from tumorgen_cli.evaluation.scan_scores import ScanScore
from tumorgen_cli.metrics.inference import resample

#: classes of lesions by diameter: (from, below) in mm
SIZES: Mapping[str, tuple[float, float]] = {
    "under 10 mm": (0.0, 10.0),
    "10 to 20 mm": (10.0, 20.0),
    "20 to 50 mm": (20.0, 50.0),
    "50 mm and more": (50.0, math.inf),
}
FALSE_POSITIVES = 1.0  # a scan, at which sensitivity is measured


class SegmentorScores:
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

    def __init__(self, rows: Sequence[ScanScore], patients: Mapping[str, int]) -> None:
        """Gather the rows of one segmentor; `patients` numbers the patients of the experiment."""
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

    def estimate(self, measure: str, weights: np.ndarray) -> np.ndarray:
        """Compute a measure for every row of weights of the experiment's patients (resamples, patients)."""
        of_scans = partial(MEASURES[measure].estimate, self)
        return resample(lambda part: of_scans(part[:, self.patients]), weights, len(self.spurious) + len(self.mm))


@dataclass(frozen=True)
class Measure:
    """A measure of a segmentor.

    Attributes:
        title: Its name in tables.
        estimate: Its value for rows of weights of the scans (resamples, S): (resamples,), nan where undefined.
        rises: Whether more is better.
        percent: Whether it is a share, shown in percent.
        by_patient: Whether it depends on the test scans.
    """

    title: str
    estimate: Callable[[SegmentorScores, np.ndarray], np.ndarray]
    rises: bool = True
    percent: bool = False
    by_patient: bool = True


def sensitivity(
    scores: SegmentorScores,
    weights: np.ndarray,
    false_positives: float = FALSE_POSITIVES,
    size: tuple[float, float] = (0.0, math.inf),
) -> np.ndarray:
    """Compute the share of lesions found at a number of false positives a scan.

    The false positive that would be one too many sets the score that a component must exceed. False positives of all
    scans and sizes count.

    Args:
        scores: The segmentor.
        weights: Weights of the scans (resamples, S).
        false_positives: Most false positives a scan.
        size: Diameters of the lesions that count: (from, below) in mm.
    """
    threshold = np.full(len(weights), -math.inf)
    if len(scores.spurious):
        kept = np.cumsum(weights[:, scores.spurious_scan], axis=1)
        over = kept > false_positives * weights.sum(axis=1, keepdims=True) + 1e-9
        threshold = np.where(over.any(axis=1), scores.spurious[over.argmax(axis=1)], -math.inf)
    hits = scores.score[None] > threshold[:, None]
    return _lesion_mean(scores, weights, hits, size)


def _lesion_mean(
    scores: SegmentorScores, weights: np.ndarray, values: np.ndarray, size: tuple[float, float] = (0.0, math.inf)
) -> np.ndarray:
    """Average values of lesions (L,) or (resamples, L) over the lesions of a size."""
    inside = (scores.mm >= size[0]) & (scores.mm < size[1])
    own = weights[:, scores.lesion_scan[inside]]
    return _divide((own * values[..., inside]).sum(axis=1), own.sum(axis=1))


def _scan_mean(weights: np.ndarray, values: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    """Average values of scans (S,) over the scans with a value that are counted."""
    known = np.isfinite(values) if counted is None else counted
    return _divide(weights[:, known] @ values[known], weights[:, known].sum(axis=1))


def _divide(total: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return np.where(weight > 0, total / np.maximum(weight, 1e-9), math.nan)


def _false_positives(scores: SegmentorScores, weights: np.ndarray, healthy: bool) -> np.ndarray:
    counts = np.bincount(scores.spurious_scan, minlength=len(scores.patients)).astype(float)
    return _scan_mean(weights, counts, scores.healthy if healthy else None)


#: by name
MEASURES: Mapping[str, Measure] = {
    "sensitivity": Measure("lesions found at one false positive a scan", sensitivity, percent=True),
    **{
        f"sensitivity {name}": Measure(f"lesions {name} found", partial(sensitivity, size=size), percent=True)
        for name, size in SIZES.items()
    },
    "touched": Measure("lesions touched by a voxel", lambda s, w: _lesion_mean(s, w, s.touched), percent=True),
    "lesion_dsc": Measure("lesion DSC", lambda s, w: _lesion_mean(s, w, s.lesion_dsc)),
    "dsc": Measure("DSC", lambda s, w: _scan_mean(w, s.dsc)),
    "nsd": Measure("NSD", lambda s, w: _scan_mean(w, s.nsd)),
    "false_positives": Measure("false positives a scan", partial(_false_positives, healthy=False), rises=False),
    "false_positives_healthy": Measure(
        "false positives a healthy scan", partial(_false_positives, healthy=True), rises=False
    ),
    "plateau": Measure(
        "iterations to the real arm's plateau",
        lambda s, w: np.full(len(w), s.plateau),
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


def segmentors(rows: Iterable[ScanScore]) -> tuple[dict[Training, SegmentorScores], tuple[str, ...]]:
    """Gather rows by training; also return the patients, in the order of their numbers."""
    groups: dict[Training, list[ScanScore]] = {}
    for row in rows:
        key = Training(row.arm, row.cases, row.hosts, row.subset, row.painting, row.seed)
        groups.setdefault(key, []).append(row)
    patients = sorted({row.patient for own in groups.values() for row in own})
    numbers = {patient: i for i, patient in enumerate(patients)}
    found = {key: SegmentorScores(own, numbers) for key, own in groups.items()}
    if all(row.plateau_iterations is None for own in groups.values() for row in own):
        for scores in found.values():
            scores.plateau = math.nan
    return found, tuple(patients)
