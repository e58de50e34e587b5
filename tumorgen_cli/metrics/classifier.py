"""A reader test by machine: can a classifier tell synthetic lesions from real ones, and by which features?

A lesion is a vector of named features (intensity, texture, shape, boundary, surroundings). A classifier is
cross-validated on them, and each feature is tested alone. Arrays in, frozen records out; no files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

import numpy as np

from tumorgen_cli.metrics.radiomics import Family, Feature
from tumorgen_cli.system.files import derive_seed

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline


LEAST_LESIONS = 10  # on each side; with fewer, folds are too small for an AUC
SHOWN = 10  # most features that are listed
_FOLDS = 5
_REPEATS = 10
_SHUFFLES = 2
_RESAMPLES = 1000
#: A bootstrap of held-out scores varies the lesions that are scored, not those that were trained on. On simulated
#: lesions (30 and 40 a side, 6 and 39 features) the true standard deviation of the AUC was 1.3 to 1.4 times the
#: bootstrap's, and equal to it at an AUC of 0.95.
_WIDENED = math.sqrt(2)
_STRENGTH = 0.1  # C of the logistic regression


@dataclass(frozen=True)
class GiveAway:
    """A feature that separates synthetic from real lesions beyond chance.

    Attributes:
        feature: Name of the feature.
        family: Its family.
        title: Its title in a table.
        direction: Whether synthetic lesions have lower or higher values.
        auc: AUC of the feature alone in that direction.
        low: Lower end of its 95 % interval.
        high: Upper end of its 95 % interval.
        importance: How much AUC the classifier loses on held-out lesions when the feature is shuffled.
        synthetic: Median of the synthetic lesions.
        real: Median of the real lesions.
    """

    feature: str
    family: Family
    title: str
    direction: Literal["lower", "higher"]
    auc: float
    low: float
    high: float
    importance: float
    synthetic: float
    real: float

    @property
    def words(self) -> str:
        """The feature, its direction and its AUC as one phrase."""
        return f"{self.title}: synthetic {self.direction}, AUC {self.auc:.2f}"


@dataclass(frozen=True)
class FamilyAuc:
    """The AUC of the same classifier on one family of features only."""

    family: Family
    auc: float
    low: float
    high: float


@dataclass(frozen=True)
class Undefined:
    """A feature that is nan for some lesions, and for how many on each side."""

    feature: str
    synthetic: int
    real: int


@dataclass(frozen=True)
class ReaderTest:
    """How well a classifier tells synthetic lesions from real ones. An AUC of 0.5 is best and 1 is worst.

    Attributes:
        synthetic: Number of synthetic lesions.
        real: Number of real lesions.
        synthetic_groups: Number of hosts of the synthetic lesions.
        real_groups: Number of patients of the real lesions.
        folds: Folds of each division; 0 where nothing was measured.
        repeats: Number of divisions.
        auc: The AUC; values below 0.5 are kept as they are.
        low: Lower end of its 95 % interval, by a bootstrap over hosts and patients (a point where the AUC is 1).
        high: Upper end of that interval.
        reason: Why the AUC is nan; empty otherwise.
        notes: What makes the result weaker.
        families: AUC of each family of features.
        give_aways: Features that separate the two beyond chance, strongest first.
        undefined: Features that are nan for some lesions.
        suspicion: Mean held-out probability of each synthetic lesion to be synthetic.
    """

    synthetic: int
    real: int
    synthetic_groups: int
    real_groups: int
    folds: int
    repeats: int
    auc: float
    low: float
    high: float
    reason: str
    notes: tuple[str, ...]
    families: tuple[FamilyAuc, ...]
    give_aways: tuple[GiveAway, ...]
    undefined: tuple[Undefined, ...]
    suspicion: tuple[float, ...]


def reader_test(
    synthetic: np.ndarray,
    real: np.ndarray,
    synthetic_groups: Sequence[str],
    real_groups: Sequence[str],
    features: Sequence[Feature],
    seed: int,
) -> ReaderTest:
    """Measure how well a classifier tells synthetic lesions from real ones, and which features separate them.

    The classifier is a standardized logistic regression with an L2 penalty and balanced classes; nan is imputed by the
    median of the training folds. It is cross-validated over 10 divisions into at most 5 folds. Lesions of one group are
    always in the same fold. Only lesions of the same fold are compared: scores of two classifiers are not comparable,
    and pooling them would push an AUC of chance below 0.5.

    Where all lesions of a side are of one group, that group cannot be held out: each lesion then is a group of its own,
    and a note says so. With fewer than 10 lesions on a side the AUC is nan, with the reason.

    Args:
        synthetic: Features of the synthetic lesions (N, F).
        real: Features of the real lesions (M, F).
        synthetic_groups: Host of each synthetic lesion (N,).
        real_groups: Patient of each real lesion (M,); the same name on both sides is the same group.
        features: What the F features are.
        seed: Seed of the divisions, the shuffles and the bootstrap.

    Raises:
        ValueError: The arrays do not fit the features or groups.
    """
    parts = [np.reshape(part, (-1, len(features))) for part in (synthetic, real)]
    values = np.concatenate(parts).astype(np.float64)
    n, m = len(synthetic_groups), len(real_groups)
    if len(values) != n + m:
        raise ValueError(f"{len(values)} lesions, but groups of {n + m}")
    groups, notes = _groups(synthetic_groups, real_groups)
    counts, undefined = (len(set(synthetic_groups)), len(set(real_groups))), _undefined(values, n, features)
    if min(n, m) < LEAST_LESIONS:
        reason = f"{n} synthetic and {m} real lesions; at least {LEAST_LESIONS} of each are needed"
        nan = math.nan
        return ReaderTest(n, m, *counts, 0, 0, nan, nan, nan, reason, (), (), (), undefined, (nan,) * n)
    labels = np.arange(n + m) < n
    divisions, folds = _divisions(labels, groups, seed)
    whole = _cross_validate(values, labels, divisions, np.random.default_rng(derive_seed("reader test shuffles", seed)))
    weights = _draws(groups, seed)
    auc, low, high = _interval(whole.wins, whole.pairs, weights, _WIDENED)
    return ReaderTest(
        synthetic=n,
        real=m,
        synthetic_groups=counts[0],
        real_groups=counts[1],
        folds=folds,
        repeats=_REPEATS,
        auc=auc,
        low=low,
        high=high,
        reason="",
        notes=notes,
        families=_families(values, labels, divisions, features, weights),
        give_aways=_give_aways(values, n, features, whole.importances, weights),
        undefined=undefined,
        suspicion=tuple(float(p) for p in whole.probabilities[:n]),
    )


def _undefined(values: np.ndarray, n: int, features: Sequence[Feature]) -> tuple[Undefined, ...]:
    """Count the nan of each feature on both sides; the first `n` rows are synthetic."""
    rows = [
        Undefined(f.name, *(int(np.isnan(part[:, i]).sum()) for part in (values[:n], values[n:])))
        for i, f in enumerate(features)
    ]
    return tuple(row for row in rows if row.synthetic or row.real)


def _families(
    values: np.ndarray, labels: np.ndarray, divisions: np.ndarray, features: Sequence[Feature], weights: np.ndarray
) -> tuple[FamilyAuc, ...]:
    """Compute the AUC of the classifier on each family of features alone."""
    found = []
    for family in dict.fromkeys(f.family for f in features):
        own = [f.family == family for f in features]
        part = _cross_validate(values[:, own], labels, divisions, None)
        found.append(FamilyAuc(family, *_interval(part.wins, part.pairs, weights, _WIDENED)))
    return tuple(found)


@dataclass(frozen=True)
class _Validated:
    """Results over all divisions.

    Attributes:
        wins: (N, M), how often the synthetic lesion scored above the real one (a tie is half).
        pairs: (N, M), how often both were in the same held-out fold.
        importances: (F,), importance of each feature.
        probabilities: (N + M,), mean held-out probability of each lesion.
    """

    wins: np.ndarray
    pairs: np.ndarray
    importances: np.ndarray
    probabilities: np.ndarray


def _groups(synthetic: Sequence[str], real: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Number the group of each lesion, and note sides of a single group, whose lesions become groups of their own."""
    names, notes = [], []
    for side, own in (("synthetic", synthetic), ("real", real)):
        if len(set(own)) == 1 and len(own) > 1:
            notes.append(
                f"all {side} lesions are of {own[0]}: folds are by lesion there, so the AUC may measure the host and "
                "not the lesions"
            )
            names += [f"{name} {side} {i}" for i, name in enumerate(own)]
        else:
            names += list(own)
    return np.unique(names, return_inverse=True)[1], tuple(notes)


def _divisions(labels: np.ndarray, groups: np.ndarray, seed: int) -> tuple[np.ndarray, int]:
    """Assign each lesion a fold in every division (`_REPEATS`, N + M), and return the number of folds.

    Groups stay whole and both sides are spread evenly.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    folds = min(_FOLDS, *(len(np.unique(groups[labels == side])) for side in (True, False)))
    own = np.zeros((_REPEATS, len(labels)), int)
    for repeat in range(_REPEATS):
        splitter = StratifiedGroupKFold(
            folds, shuffle=True, random_state=derive_seed("reader test", seed, repeat) % 2**32
        )
        for number, (_, held_out) in enumerate(splitter.split(labels[:, None], labels, groups)):
            own[repeat, held_out] = number
    return own, folds


def _cross_validate(
    values: np.ndarray, labels: np.ndarray, divisions: np.ndarray, rng: np.random.Generator | None
) -> _Validated:
    """Score every lesion by classifiers that were not trained on its fold. Importances are zero without `rng`."""
    n, total, width = int(labels.sum()), len(labels), values.shape[1]
    wins, pairs = np.zeros((n, total - n)), np.zeros((n, total - n))
    lost, compared, probabilities, seen = np.zeros(width), 0, np.zeros(total), np.zeros(total)
    for own in divisions:
        for number in np.unique(own):
            train = own != number
            if len(np.unique(labels[train])) < 2:
                continue
            held_out = np.flatnonzero(~train)
            model = _classifier().fit(values[train], labels[train])
            scores = model.decision_function(values[held_out])
            probabilities[held_out] += 1 / (1 + np.exp(-scores))
            seen[held_out] += 1
            first = labels[held_out]
            won = _wins(scores[first], scores[~first])
            both = np.ix_(held_out[first], held_out[~first] - n)
            wins[both] += won
            pairs[both] += 1
            if rng is not None and won.size:
                shuffled = _shuffled(values[held_out], rng)
                again = model.decision_function(shuffled.reshape(-1, width)).reshape(_SHUFFLES, width, -1)
                lost += won.sum() - _wins(again[..., first], again[..., ~first]).sum(axis=(2, 3)).mean(axis=0)
                compared += won.size
    return _Validated(wins, pairs, lost / max(compared, 1), probabilities / np.maximum(seen, 1))


def _classifier() -> Pipeline:
    """Return an untrained classifier of lesions. A column that is nan everywhere counts as constant.

    It is a logistic regression, which told real from synthetic PET lesions at least as well as a random forest and
    gradient boosting. Some tens of lesions are too few for a larger model.
    """
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = LogisticRegression(C=_STRENGTH, class_weight="balanced", max_iter=1000)
    return make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler(), model)


def _shuffled(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return copies (`_SHUFFLES`, F, N, F) of values (N, F), each with one column shuffled."""
    copies = np.tile(values, (_SHUFFLES, values.shape[1], 1, 1))
    for row in copies:
        for column, copy in enumerate(row):
            copy[:, column] = rng.permutation(copy[:, column])
    return copies


def _wins(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Compare values (..., N) with others (..., M): 1 where they are larger, 0.5 where equal, else 0, (..., N, M)."""
    a, b = ours[..., :, None], theirs[..., None, :]
    return (a > b) + 0.5 * (a == b)


def _alone(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return wins and pairs (N, M) of the values of one feature; a nan is in no pair."""
    pairs = np.isfinite(ours)[:, None] & np.isfinite(theirs)[None]
    return _wins(ours, theirs) * pairs, pairs.astype(np.float64)


def _draws(groups: np.ndarray, seed: int) -> np.ndarray:
    """Count how often each lesion is in each bootstrap draw of groups: (draws, N + M)."""
    count = int(groups.max()) + 1
    rng = np.random.default_rng(derive_seed("reader test bootstrap", seed))
    return rng.multinomial(count, np.full(count, 1 / count), size=_RESAMPLES)[:, groups].astype(np.float64)


def _resampled(wins: np.ndarray, pairs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute the AUC of every draw that has lesions of both sides."""
    n = len(wins)
    top, bottom = (((weights[:, :n] @ part) * weights[:, n:]).sum(axis=1) for part in (wins, pairs))
    return np.asarray(top[bottom > 0] / bottom[bottom > 0])


def _interval(
    wins: np.ndarray, pairs: np.ndarray, weights: np.ndarray, widened: float = 1.0
) -> tuple[float, float, float]:
    """Compute the AUC and its 95 % bootstrap interval, widened by a factor around the AUC and clipped to 0 and 1."""
    if not pairs.any():
        return (math.nan,) * 3
    auc = float(wins.sum() / pairs.sum())
    ends = np.percentile(_resampled(wins, pairs, weights), (2.5, 97.5))
    low, high = np.clip(auc + widened * (ends - auc), 0, 1)
    return auc, float(low), float(high)


def _give_aways(
    values: np.ndarray,
    n: int,
    features: Sequence[Feature],
    importances: np.ndarray,
    weights: np.ndarray,
) -> tuple[GiveAway, ...]:
    """Find the features whose own AUC is beyond chance, strongest first.

    Beyond chance: further from 0.5 than the bootstrap's standard deviation times a normal quantile. The quantile is the
    one that one feature exceeds by chance in 20 tests of all features (Bonferroni).
    """
    far = NormalDist().inv_cdf(1 - 0.05 / (2 * len(features)))
    found = []
    for i, feature in enumerate(features):
        wins, pairs = _alone(values[:n, i], values[n:, i])
        auc, low, high = _interval(wins, pairs, weights)
        if not pairs.any() or abs(auc - 0.5) <= far * _resampled(wins, pairs, weights).std():
            continue
        lower = auc < 0.5
        numbers = (1 - auc, 1 - high, 1 - low) if lower else (auc, low, high)
        medians = (float(np.nanmedian(part[:, i])) for part in (values[:n], values[n:]))
        direction: Literal["lower", "higher"] = "lower" if lower else "higher"
        found.append(
            GiveAway(feature.name, feature.family, feature.words, direction, *numbers, float(importances[i]), *medians)
        )
    return tuple(sorted(found, key=lambda row: -row.auc)[:SHOWN])
