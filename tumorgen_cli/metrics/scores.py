"""The scores of a synthetic set: records, and the arithmetic from cases to summaries. No I/O."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tumorgen_cli.files import derive_seed
from tumorgen_cli.metrics.frechet import PLANES, frechet_distance
from tumorgen_cli.metrics.tumors import TumorStatistics, ks_distance

#: field of `TumorStatistics` -> (title, unit; "" is a pure number, "scan" the scan's own unit)
STATISTICS = {
    "volume_ml": ("volume", "ml"),
    "mean": ("mean uptake", "scan"),
    "maximum": ("maximum uptake", "scan"),
    "contrast": ("contrast", "scan"),
    "heterogeneity": ("heterogeneity (CV inside)", ""),
    "core_ratio": ("core ratio (deep / shallow)", ""),
    "sphericity": ("sphericity", ""),
}
PLACES: tuple[Literal["middle", "tumor"], ...] = ("middle", "tumor")
_RESAMPLES = 2000
_DRAWS = 50

Group = Literal["synthetic", "train", "test"]


@dataclass(frozen=True)
class CaseScores:
    """One case. `host` is empty for real cases; scores are nan without a judge (and for training cases)."""

    group: Group
    case: str
    host: str
    statistics: TumorStatistics
    dice: float
    surface_dice: float


@dataclass(frozen=True)
class Summary:
    """Of `count` defined values (and `undefined` ones): mean with its 95 % bootstrap interval, median, quartiles."""

    count: int
    undefined: int
    mean: float
    low: float
    high: float
    median: float
    quartile_1: float
    quartile_3: float


@dataclass(frozen=True)
class Comparison:
    """One tumor statistic of the synthetic tumors beside that of the training tumors; `ks` is their KS distance."""

    field: str
    title: str
    unit: str
    synthetic: Summary
    training: Summary
    ks: float


@dataclass(frozen=True)
class Share:
    """The fraction of tumors that are of a hard kind; `threshold` is a percentile of the training tumors."""

    kind: str
    rule: str
    threshold: float
    synthetic: float
    training: float


@dataclass(frozen=True)
class PlaneDistance:
    """Fréchet distance to the training cases' slices of one plane at one place.

    `synthetic` of the whole set; `matched` of the set at the test cases' number (mean over draws), since few slices make a
    distance larger; `floor` of the real test cases, to be held against `matched`.
    """

    plane: str
    place: Literal["middle", "tumor"]
    synthetic: float
    matched: float
    floor: float


@dataclass(frozen=True)
class Agreement:
    """The judge against the masks: on the pairs, and on the real test cases (the ceiling a real tumor reaches)."""

    dice: Summary
    surface_dice: Summary
    real_dice: Summary
    real_surface_dice: Summary


@dataclass(frozen=True)
class Scores:
    """All scores of a set. `judge` and `judge_hash` are empty without a judge; `set_hash` is provenance.jsonl's."""

    name: str
    set_hash: str
    plan_hash: str
    channel: str
    judge: str
    judge_hash: str
    features: str
    tolerance_mm: float
    agreement: Agreement
    comparisons: tuple[Comparison, ...]
    shares: tuple[Share, ...]
    planes: tuple[PlaneDistance, ...]
    cases: tuple[CaseScores, ...]

    def of(self, group: Group) -> tuple[CaseScores, ...]:
        return tuple(case for case in self.cases if case.group == group)


def values_of(cases: Sequence[CaseScores], field: str) -> np.ndarray:
    """A statistic (or dice, surface_dice) of every case."""
    own = field in ("dice", "surface_dice")
    return np.array([getattr(case if own else case.statistics, field) for case in cases], float)


def summarize(values: np.ndarray, what: str) -> Summary:
    """The summary of values; nan are counted and left out. `what` seeds the bootstrap, and nothing else does."""
    defined = values[np.isfinite(values)]
    count, undefined = len(defined), len(values) - len(defined)
    if not count:
        return Summary(0, undefined, *[math.nan] * 6)
    rng = np.random.default_rng(derive_seed("bootstrap", what))
    means = defined[rng.integers(count, size=(_RESAMPLES, count))].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5)) if count > 1 else (math.nan, math.nan)
    first, median, third = np.percentile(defined, (25, 50, 75))
    return Summary(count, undefined, *(float(v) for v in (defined.mean(), low, high, median, first, third)))


def compare(synthetic: Sequence[CaseScores], training: Sequence[CaseScores]) -> tuple[Comparison, ...]:
    """Every statistic of `STATISTICS` side by side."""
    rows = []
    for field, (title, unit) in STATISTICS.items():
        a, b = values_of(synthetic, field), values_of(training, field)
        rows.append(Comparison(field, title, unit, summarize(a, field), summarize(b, field), ks_distance(a, b)))
    return tuple(rows)


def hard_shares(synthetic: Sequence[CaseScores], training: Sequence[CaseScores]) -> tuple[Share, ...]:
    """Shares of low-uptake, necrotic and heterogeneous tumors; a generator of easy tumors has less than the data."""
    kinds = (
        ("low uptake", "contrast below the training tumors' 20th percentile", "contrast", 20, -1),
        ("necrotic", "core ratio below the training tumors' 20th percentile", "core_ratio", 20, -1),
        ("heterogeneous", "CV above the training tumors' 80th percentile", "heterogeneity", 80, 1),
    )
    rows = []
    for kind, rule, field, percentile, sign in kinds:
        real = values_of(training, field)
        defined = real[np.isfinite(real)]
        threshold = float(np.percentile(defined, percentile)) if len(defined) else math.nan
        shares = (_share(sign * values_of(cases, field), sign * threshold) for cases in (synthetic, training))
        rows.append(Share(kind, rule, threshold, *shares))
    return tuple(rows)


def _share(values: np.ndarray, threshold: float) -> float:
    """Fraction of the defined values above a threshold (both with the sign turned where the hard side lies below)."""
    defined = values[np.isfinite(values)]
    return float((defined > threshold).mean()) if len(defined) and math.isfinite(threshold) else math.nan


def plane_distances(synthetic: np.ndarray, train: np.ndarray, test: np.ndarray) -> tuple[PlaneDistance, ...]:
    """Distances to the training slices per place and plane; features are (N, place, plane, D), or empty."""
    rows = []
    for i, place in enumerate(PLACES):
        for j, plane in enumerate(PLANES):
            ours, real, held_out = (part[:, i, j] if len(part) > 1 else None for part in (synthetic, train, test))
            whole = matched = floor = math.nan
            if real is not None and held_out is not None:
                floor = frechet_distance(held_out, real)
            if real is not None and ours is not None:
                whole = frechet_distance(ours, real)
                matched = _matched(ours, real, len(test), f"{place} {plane}")
            rows.append(PlaneDistance(plane, place, whole, matched, floor))
    return tuple(rows)


def _matched(synthetic: np.ndarray, train: np.ndarray, count: int, what: str) -> float:
    """Mean distance of draws of `count` synthetic slices; nan where there are fewer, or fewer than two."""
    if count < 2 or len(synthetic) < count:
        return math.nan
    rng = np.random.default_rng(derive_seed("matched", what))
    draws = [rng.choice(len(synthetic), count, replace=False) for _ in range(_DRAWS)]
    return float(np.mean([frechet_distance(synthetic[draw], train) for draw in draws]))


def undefined_statistics(channels: int) -> TumorStatistics:
    """The statistics of a tumor that is not there: 0 ml, the rest nan."""
    nan, nans = math.nan, (math.nan,) * channels
    return TumorStatistics(0.0, nan, nan, nan, nan, nan, nan, nan, nans, nans, nans)
