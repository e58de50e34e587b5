"""The scores of a synthetic set: records, and the arithmetic from cases to summaries. No files are read or written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from tumorgen_cli.evaluation.options import FEATURE_WORDS
from tumorgen_cli.evaluation.redrawn import Redrawn
from tumorgen_cli.judge.card import JudgeFacts
from tumorgen_cli.metrics.classifier import ReaderTest
from tumorgen_cli.metrics.lesion_distances import LesionDistance
from tumorgen_cli.metrics.novelty import Novelty
from tumorgen_cli.metrics.overlap import Verdict
from tumorgen_cli.metrics.slice_distances import (
    PLANES,
    Distance,
    Interval,
    cannot_tell,
    equal_counts,
    floor,
    frechet_distance,
    jackknife,
    kernel_distance,
    matched,
    over_planes,
)
from tumorgen_cli.metrics.statistics import TumorStatistics, ks_distance
from tumorgen_cli.metrics.summary import Summary, summarize
from tumorgen_cli.metrics.traits import KINDS, hard_limit, is_hard
from tumorgen_cli.system.files import derive_seed

#: field of `TumorStatistics` -> (title, unit): "" is a pure number, "scan" the channel's unit (`figures.tumor_unit`)
STATISTICS = {
    "volume_ml": ("volume", "ml"),
    "mean": ("mean intensity", "scan"),
    "maximum": ("maximum intensity", "scan"),
    "contrast": ("contrast", "scan"),
    "heterogeneity": ("heterogeneity (CV inside)", ""),
    "core_ratio": ("core ratio (deep / shallow)", ""),
    "sphericity": ("sphericity", ""),
    "boundary_gradient": ("boundary gradient", "scan/mm"),
    "contour_dice": ("Dice of mask and half-contrast contour", ""),
    "surroundings": ("median of the surroundings", "scan"),
}
Place = Literal["middle", "tumor"]
PLACES: tuple[Place, ...] = ("middle", "tumor")
#: the name of the mean over planes
ALL_PLANES = "all"
_DISTANCES: dict[Literal["frechet", "kernel"], Distance] = {"frechet": frechet_distance, "kernel": kernel_distance}
_DRAWS = 50
#: the fields of a verdict
VERDICT = tuple(field.name for field in fields(Verdict))
Group = Literal["synthetic", "train", "test"]
GROUPS: tuple[Group, ...] = ("synthetic", "train", "test")


@dataclass(frozen=True)
class CaseScores:
    """One tumor. The verdict is undefined without a judge and for training cases.

    `host` is the scan that a pair was painted into, and `scan` the pair; for real tumors both are the case.
    """

    group: Group
    case: str
    host: str
    scan: str
    statistics: TumorStatistics
    verdict: Verdict


@dataclass(frozen=True)
class TraitComparison:
    """One tumor statistic of the synthetic tumors beside that of the training tumors and of held-out real ones.

    `ks` is the KS distance between synthetic and training tumors.
    """

    field: str
    title: str
    unit: str
    synthetic: Summary
    training: Summary
    held_out: Summary
    ks: float


@dataclass(frozen=True)
class Share:
    """The share of tumors that are of a hard kind; `threshold` is a percentile of the training tumors."""

    kind: str
    rule: str
    threshold: float
    synthetic: float
    training: float


@dataclass(frozen=True)
class UnusualPlaces:
    """The share of tumors that lie where training tumors do not, by `TumorStatistics.surroundings`.

    Attributes:
        low: The training tumors' 5th percentile.
        high: Their 95th percentile.
        synthetic: Share of the synthetic tumors below or above: 0.1 if their places are alike.
        training: Share of the training tumors: 0.1, or less exact where they are few.
        held_out: Share of the held-out tumors.
    """

    low: float
    high: float
    synthetic: float
    training: float
    held_out: float


@dataclass(frozen=True)
class PlaneDistance:
    """A distance to the training tumors' slices of one plane at one place.

    Attributes:
        measure: Fréchet or kernel distance.
        plane: The plane; `all` is the mean of the planes.
        place: Through the middle of the scan or through the tumor.
        whole: The distance of the whole set.
        matched: The distance of parts of the set with as many slices as the test scans, to compare with `floor`: few
            slices make a Fréchet distance larger.
        floor: The distance of as many real slices.
        unclear: The sample is too small to distinguish `matched` from `floor`.
    """

    measure: Literal["frechet", "kernel"]
    plane: str
    place: Place
    whole: Interval
    matched: Interval
    floor: Interval
    unclear: bool


@dataclass(frozen=True)
class Measure:
    """One measure of the judge's verdicts, on the pairs and on the real test cases.

    The real test cases show what the judge reaches on real tumors.
    """

    field: str
    synthetic: Summary
    real: Summary


@dataclass(frozen=True)
class LesionCount:
    """Lesions of all cases together.

    Attributes:
        cases: Number of cases.
        lesions: Lesions in the masks.
        missed: Lesions of the masks that the judge does not find.
        spurious: Lesions the judge finds that touch no mask.
    """

    cases: int
    lesions: int
    missed: int
    spurious: int


@dataclass(frozen=True)
class VolumeGroup:
    """Dice and surface Dice of the tumors from `least_ml` to below `most_ml` (nan: no bound).

    The bounds are the training tumors' tertiles.
    """

    name: str
    least_ml: float
    most_ml: float
    dice: Measure
    surface_dice: Measure


@dataclass(frozen=True)
class Agreement:
    """How well the judge agrees with the masks."""

    measures: tuple[Measure, ...]
    synthetic_lesions: LesionCount
    real_lesions: LesionCount
    strata: tuple[VolumeGroup, ...]

    def of(self, field: str) -> Measure:
        """Return the measure of a verdict's field."""
        return next(measure for measure in self.measures if measure.field == field)


@dataclass(frozen=True)
class Scores:
    """All scores of a set.

    Attributes:
        name: Name of the set's folder.
        set_hash: Hash of its provenance.jsonl.
        plan_hash: Hash of the plan of this evaluation.
        channel: Name of the main channel.
        judge: The judge's folder; empty without a judge.
        judge_hash: The judge's hash; empty without a judge.
        judge_facts: How long the judge was trained, and its scores on real held-out cases.
        no_judge: Why there is no judge; empty with a judge.
        features: Name of the network of the plane distances.
        is_fid: Whether these distances may be called FID.
        tolerance_mm: Tolerance of the surface Dice.
        agreement: The judge against the masks.
        comparisons: Every tumor statistic beside the training tumors'.
        redrawn: Tumors painted over a case's own tumors, beside these.
        shares: Shares of hard tumors.
        places: Shares of tumors in places where the data have none.
        planes: Distances of slices.
        reader: The reader test by machine.
        novelty: How new the lesions are.
        cases: Every tumor: pairs, training cases, test cases.
        radiomics: Distances of lesions by their radiomics.
    """

    name: str
    set_hash: str
    plan_hash: str
    channel: str
    judge: str
    judge_hash: str
    judge_facts: JudgeFacts
    no_judge: str
    features: str
    is_fid: bool
    tolerance_mm: float
    agreement: Agreement
    comparisons: tuple[TraitComparison, ...]
    redrawn: Redrawn
    shares: tuple[Share, ...]
    places: UnusualPlaces
    planes: tuple[PlaneDistance, ...]
    reader: ReaderTest
    novelty: Novelty
    cases: tuple[CaseScores, ...]
    radiomics: tuple[LesionDistance, ...] = ()

    @property
    def features_words(self) -> str:
        """What the network of the plane distances is."""
        return FEATURE_WORDS.get(self.features, self.features)

    def of(self, group: Group) -> tuple[CaseScores, ...]:
        """Return the cases of a group."""
        return tuple(case for case in self.cases if case.group == group)


def values_of(cases: Sequence[CaseScores], field: str) -> np.ndarray:
    """Return a statistic of the tumor, or a measure of the verdict, of every case (N,)."""
    return np.array([getattr(case.verdict if field in VERDICT else case.statistics, field) for case in cases], float)


def summarize_agreement(
    synthetic: Sequence[CaseScores], real: Sequence[CaseScores], training: Sequence[CaseScores]
) -> Agreement:
    """Summarize the verdicts.

    Args:
        synthetic: The painted tumors; their intervals are over pairs.
        real: The test cases; their intervals are over scans.
        training: The training cases; they set the bounds of the volume groups.
    """
    bounds = (
        (0.0, *np.quantile(values_of(training, "volume_ml"), (1 / 3, 2 / 3)), math.inf) if training else (0.0, math.inf)
    )
    names = ("small", "medium", "large") if training else ("all",)
    strata = []
    for name, low, high in zip(names, bounds, bounds[1:], strict=False):
        ours, theirs = (
            [case for case in cases if low <= case.statistics.volume_ml < high] for cases in (synthetic, real)
        )
        parts = (_measure(field, ours, theirs) for field in ("dice", "surface_dice"))
        strata.append(VolumeGroup(name, float(low), float(high) if math.isfinite(high) else math.nan, *parts))
    measures = tuple(_measure(field, synthetic, real) for field in ("dice", "surface_dice", "proportion"))
    return Agreement(measures, _lesions(synthetic), _lesions(real), tuple(strata))


def _measure(field: str, synthetic: Sequence[CaseScores], real: Sequence[CaseScores]) -> Measure:
    ours, theirs = (
        summarize(values_of(cases, field), what, [case.scan for case in cases])
        for cases, what in ((synthetic, field), (real, f"real {field}"))
    )
    return Measure(field, ours, theirs)


def _lesions(cases: Sequence[CaseScores]) -> LesionCount:
    verdicts = [case.verdict for case in cases]
    return LesionCount(
        len(cases), sum(v.lesions for v in verdicts), sum(v.missed for v in verdicts), sum(v.spurious for v in verdicts)
    )


def compare_statistics(
    synthetic: Sequence[CaseScores], training: Sequence[CaseScores], held_out: Sequence[CaseScores]
) -> tuple[TraitComparison, ...]:
    """Compare every statistic of `STATISTICS` with the training tumors'; beside them stand the held-out ones'."""
    rows = []
    for field, (title, unit) in STATISTICS.items():
        a, b, c = (values_of(cases, field) for cases in (synthetic, training, held_out))
        ours, known, beside = (summarize(values, field) for values in (a, b, c))
        rows.append(TraitComparison(field, title, unit, ours, known, beside, ks_distance(a, b)))
    return tuple(rows)


_SMALL = 10  # percentile of the training tumors' volume below which a tumor is small
_HARD = {"contrast": "contrast, of either sign,", "core_ratio": "core ratio", "heterogeneity": "CV"}


def hard_shares(synthetic: Sequence[CaseScores], training: Sequence[CaseScores]) -> tuple[Share, ...]:
    """Compute the shares of low-contrast, necrotic, heterogeneous and small tumors.

    A generator that paints easy tumors has smaller shares than the data.
    """
    rows = []
    for kind, (field, percentile, side) in KINDS.items():
        limit = hard_limit(kind, values_of(training, field))
        rule = f"{_HARD[field]} {'above' if side > 0 else 'below'} the training tumors' {percentile}th percentile"
        shares = (_share(kind, values_of(cases, field), limit) for cases in (synthetic, training))
        rows.append(Share(kind, rule, limit, *shares))
    ours, theirs = values_of(synthetic, "volume_ml"), values_of(training, "volume_ml")
    limit = float(np.quantile(theirs, _SMALL / 100)) if len(theirs) else math.nan
    shares = (float((values < limit).mean()) if len(values) and len(theirs) else math.nan for values in (ours, theirs))
    return (*rows, Share("small", f"volume below the training tumors' {_SMALL}th percentile", limit, *shares))


def _share(kind: str, values: np.ndarray, limit: float) -> float:
    """Compute the share of the defined values that are of a kind."""
    defined = values[np.isfinite(values)]
    return float(is_hard(kind, defined, limit).mean()) if len(defined) and math.isfinite(limit) else math.nan


_RANGE = (5, 95)  # percentiles of the training tumors between which surroundings are usual


def unusual_places(
    synthetic: Sequence[CaseScores], training: Sequence[CaseScores], held_out: Sequence[CaseScores]
) -> UnusualPlaces:
    """Compute the shares of tumors whose surroundings are outside the training tumors' usual range.

    Undefined surroundings are left out; a share is nan where none is defined.
    """
    found = [values_of(cases, "surroundings") for cases in (synthetic, training, held_out)]
    ours, known, beside = (values[np.isfinite(values)] for values in found)
    if not len(known):
        return UnusualPlaces(*[math.nan] * 5)
    low, high = np.percentile(known, _RANGE)
    outside = [float(((v < low) | (v > high)).mean()) if len(v) else math.nan for v in (ours, known, beside)]
    return UnusualPlaces(float(low), float(high), *outside)


def plane_distances(
    synthetic: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    hosts: Sequence[str],
    train_scans: Sequence[str],
    test_scans: Sequence[str],
) -> tuple[PlaneDistance, ...]:
    """Compute distances to the training slices for each place, plane and measure.

    Features are (N, place, plane, D), or empty. Rows of one scan are drawn and left out together, unless there are
    fewer than three scans; `matched` and `floor` count scans. Through its middle a real scan counts once, however many
    tumors it has; in `matched` this also holds for a host.

    Args:
        synthetic: Features of the pairs.
        train: Features of the training tumors.
        test: Features of the test tumors.
        hosts: The host of each pair.
        train_scans: The scan of each training tumor.
        test_scans: The scan of each test tumor.
    """
    rows = []
    for i, place in enumerate(PLACES):
        ours = synthetic[:, i] if len(synthetic) else synthetic
        (known, names), (unseen, unseen_names) = (
            _at_place(place, train, train_scans),
            _at_place(place, test, test_scans),
        )
        if min(len(ours), len(known)) < 2:
            continue
        groups = [each if len(set(each)) >= 3 else None for each in (hosts, names)]
        real = np.concatenate([known, unseen]) if len(unseen) else known
        most = len(set(hosts)) if place == "middle" else len(ours)
        counts = equal_counts(len(set(names)), len(set(unseen_names)), most)
        for measure, distance in _DISTANCES.items():
            for j, plane in enumerate((*PLANES, ALL_PLANES)):
                one, other, everything = (part if plane == ALL_PLANES else part[:, j] for part in (ours, known, real))
                used = over_planes(distance) if plane == ALL_PLANES else distance
                seed = derive_seed("distances", place, plane)
                at_count = matched(one, other, counts, used, hosts, names, _DRAWS, seed)
                real_real = floor(everything, counts, used, [*names, *unseen_names], _DRAWS, seed)
                unclear = cannot_tell(real_real, at_count.value, real_real.value)
                rows.append(
                    PlaneDistance(
                        measure, plane, place, jackknife(one, other, used, *groups), at_count, real_real, unclear
                    )
                )
    return tuple(rows)


def _at_place(place: Place, features: np.ndarray, scans: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Select real features (N, plane, D) at a place and the scan of each; through its middle a scan counts once."""
    rows = [k for k, scan in enumerate(scans) if place != "middle" or scan not in scans[:k]]
    return features[rows, PLACES.index(place)] if len(features) else features, [scans[k] for k in rows]


#: the statistics of a pair without a tumor: 0 ml, the rest nan
UNDEFINED_STATISTICS = TumorStatistics(0.0, *[math.nan] * 10)
