"""The machine's reader test: can a classifier tell synthetic lesions from real ones, and what gives them away?

A lesion becomes a vector of named features (intensity, texture, shape, boundary, surroundings), a classifier is
cross-validated on them, and each feature is looked at alone. Arrays in, frozen records out; no I/O.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tumorgen_cli.metrics.radiomics import Family, Feature
from tumorgen_cli.system.files import derive_seed

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline


LEAST_LESIONS = 10  # per side; with fewer, folds are too small for an AUC
SHOWN = 10  # features that are named at most
_FOLDS = 5
_REPEATS = 10
_SHUFFLES = 2
_RESAMPLES = 1000
#: A bootstrap of held-out scores knows the luck of who is judged, not of who was trained on. On drawn lesions (30 and 40 a
#: side, 6 and 39 features) the AUC's real deviation was 1.3 to 1.4 times the bootstrap's, and equal to it at an AUC of 0.95.
_TRAINED = math.sqrt(2)
_STRENGTH = 0.1  # C of the logistic regression


@dataclass(frozen=True)
class GiveAway:
    """A feature that tells synthetic from real beyond chance.

    `auc` is that of the feature alone in the direction stated, with its 95 % interval; `importance` is what the
    classifier's AUC loses on held-out lesions when the feature is shuffled. `synthetic` and `real` are medians.
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
        return f"{self.title}: synthetic {self.direction}, AUC {self.auc:.2f}"


@dataclass(frozen=True)
class FamilyAuc:
    """The AUC of the same classifier that sees one family of features only."""

    family: Family
    auc: float
    low: float
    high: float


@dataclass(frozen=True)
class Undefined:
    """A feature that is nan for some lesions: how many on each side."""

    feature: str
    synthetic: int
    real: int


@dataclass(frozen=True)
class ReaderTest:
    """How well synthetic lesions are told from real ones; an AUC of 0.5 is best, 1 worst, and below 0.5 stays below.

    `low` and `high` are its 95 % interval, by a bootstrap over hosts and patients (a point where the AUC is 1). `reason` says
    why the AUC is nan (empty otherwise); `notes` what weakens it. `suspicion` is each synthetic lesion's mean held-out probability of being one.
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
    """How well a classifier tells synthetic lesions (N, F) from real ones (M, F), and what gives them away.

    A standardised logistic regression with an L2 penalty, classes weighted alike, nan imputed by the training folds' median,
    is cross-validated over 10 divisions into at most 5 folds. Lesions of one group (host or patient; the same name on both
    sides is the same one) are never on both sides of a division. Only lesions of the same fold are compared, since the
    scores of two classifiers do not compare, and pooling them would press an AUC of chance below 0.5.

    A side whose lesions all lie in one host cannot be held out: there every lesion is its own group, and a note says so.
    With fewer than 10 lesions on a side the AUC is nan, with the reason.

    Raises:
        ValueError: the arrays do not fit the features or groups.
    """
    values = np.concatenate([np.reshape(synthetic, (-1, len(features))), np.reshape(real, (-1, len(features)))]).astype(
        np.float64
    )
    n, m = len(synthetic_groups), len(real_groups)
    if len(values) != n + m:
        raise ValueError(f"{len(values)} lesions, but groups of {n + m}")
    missing = [
        Undefined(f.name, *(int(np.isnan(part[:, i]).sum()) for part in (values[:n], values[n:])))
        for i, f in enumerate(features)
    ]
    undefined = tuple(row for row in missing if row.synthetic or row.real)
    groups, notes = _groups(synthetic_groups, real_groups)
    counts = len(set(synthetic_groups)), len(set(real_groups))
    if min(n, m) < LEAST_LESIONS:
        reason = f"{n} synthetic and {m} real lesions: {LEAST_LESIONS} of each are needed"
        nan = math.nan
        return ReaderTest(n, m, *counts, 0, 0, nan, nan, nan, reason, (), (), (), undefined, (nan,) * n)
    labels = np.arange(n + m) < n
    divisions, folds = _divisions(labels, groups, seed)
    whole = _cross_validate(values, labels, divisions, np.random.default_rng(derive_seed("reader test shuffles", seed)))
    weights = _draws(groups, seed)
    families = []
    for family in dict.fromkeys(f.family for f in features):
        own = [f.family == family for f in features]
        part = _cross_validate(values[:, own], labels, divisions, None)
        families.append(FamilyAuc(family, *_interval(part.wins, part.pairs, weights, _TRAINED)))
    alone = [_alone(values[:n, i], values[n:, i]) for i in range(len(features))]
    return ReaderTest(
        n,
        m,
        *counts,
        folds,
        _REPEATS,
        *_interval(whole.wins, whole.pairs, weights, _TRAINED),
        "",
        notes,
        tuple(families),
        _give_aways(values, n, features, alone, whole.importances, weights),
        undefined,
        tuple(float(p) for p in whole.probabilities[:n]),
    )


@dataclass(frozen=True)
class _Validated:
    """Over all divisions: wins (N, M) of the synthetic lesion over the real one (a tie is half), how often a pair was in one
    fold (N, M), each feature's importance (F,), each lesion's mean held-out probability (N + M,).
    """

    wins: np.ndarray
    pairs: np.ndarray
    importances: np.ndarray
    probabilities: np.ndarray


def _groups(synthetic: Sequence[str], real: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """A group number per lesion, and notes; a side of one group is taken apart."""
    names, notes = [], []
    for side, own in (("synthetic", synthetic), ("real", real)):
        if len(set(own)) == 1 and len(own) > 1:
            notes.append(
                f"all {side} lesions are of {own[0]}: folds are by lesion there, so that the AUC may be of the host, not of the lesions"
            )
            names += [f"{name} {side} {i}" for i, name in enumerate(own)]
        else:
            names += list(own)
    return np.unique(names, return_inverse=True)[1], tuple(notes)


def _divisions(labels: np.ndarray, groups: np.ndarray, seed: int) -> tuple[np.ndarray, int]:
    """Each lesion's fold in every division (`_REPEATS`, N + M), groups whole and sides spread evenly; and how many folds."""
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
    """Every lesion judged by classifiers that have not seen its fold. Importances are zero without `rng`."""
    n, total, width = int(labels.sum()), len(labels), values.shape[1]
    wins, pairs = np.zeros((n, total - n)), np.zeros((n, total - n))
    lost, compared, chances, seen = np.zeros(width), 0, np.zeros(total), np.zeros(total)
    for own in divisions:
        for number in np.unique(own):
            train = own != number
            if len(np.unique(labels[train])) < 2:
                continue
            held_out = np.flatnonzero(~train)
            model = _classifier().fit(values[train], labels[train])
            scores = model.decision_function(values[held_out])
            chances[held_out] += 1 / (1 + np.exp(-scores))
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
    return _Validated(wins, pairs, lost / max(compared, 1), chances / np.maximum(seen, 1))


def _classifier() -> Pipeline:
    """An untrained classifier of lesions. A column that is nan throughout counts as constant.

    A logistic regression, since it told real from synthetic PET lesions at least as well as a random forest and gradient
    boosting did, and some tens of lesions leave no room for a larger model.
    """
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = LogisticRegression(C=_STRENGTH, class_weight="balanced", max_iter=1000)
    return make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler(), model)


def _shuffled(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Copies (`_SHUFFLES`, F, N, F) of values (N, F), each with one column shuffled."""
    copies = np.tile(values, (_SHUFFLES, values.shape[1], 1, 1))
    for row in copies:
        for column, copy in enumerate(row):
            copy[:, column] = rng.permutation(copy[:, column])
    return copies


def _wins(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Where ours (..., N) lie above theirs (..., M): 1, equal 0.5, below 0, (..., N, M)."""
    a, b = ours[..., :, None], theirs[..., None, :]
    return (a > b) + 0.5 * (a == b)


def _alone(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wins and pairs (N, M) of one feature's own values; a nan is in no pair."""
    pairs = np.isfinite(ours)[:, None] & np.isfinite(theirs)[None]
    return _wins(ours, theirs) * pairs, pairs.astype(np.float64)


def _draws(groups: np.ndarray, seed: int) -> np.ndarray:
    """How often each lesion is in each of the bootstrap's draws of groups: (draws, N + M)."""
    count = int(groups.max()) + 1
    rng = np.random.default_rng(derive_seed("reader test bootstrap", seed))
    return rng.multinomial(count, np.full(count, 1 / count), size=_RESAMPLES)[:, groups].astype(np.float64)


def _resampled(wins: np.ndarray, pairs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The AUC of every draw that has lesions of both sides."""
    n = len(wins)
    top, bottom = (((weights[:, :n] @ part) * weights[:, n:]).sum(axis=1) for part in (wins, pairs))
    return np.asarray(top[bottom > 0] / bottom[bottom > 0])


def _interval(
    wins: np.ndarray, pairs: np.ndarray, weights: np.ndarray, widened: float = 1.0
) -> tuple[float, float, float]:
    """AUC and its 95 % bootstrap interval, `widened` by a factor about the AUC, within 0 and 1."""
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
    alone: Sequence[tuple[np.ndarray, np.ndarray]],
    importances: np.ndarray,
    weights: np.ndarray,
) -> tuple[GiveAway, ...]:
    """The features whose own AUC is beyond chance, strongest first.

    Beyond chance: further from 0.5 than the bootstrap's standard deviation times the normal quantile at which one feature in
    20 tests of all features would be (Bonferroni).
    """
    far = NormalDist().inv_cdf(1 - 0.05 / (2 * len(features)))
    found = []
    for i, (feature, (wins, pairs)) in enumerate(zip(features, alone, strict=True)):
        auc, low, high = _interval(wins, pairs, weights)
        if not pairs.any() or abs(auc - 0.5) <= far * _resampled(wins, pairs, weights).std():
            continue
        lower = auc < 0.5
        numbers = (1 - auc, 1 - high, 1 - low) if lower else (auc, low, high)
        medians = (float(np.nanmedian(part[:, i])) for part in (values[:n], values[n:]))
        direction: Any = "lower" if lower else "higher"
        found.append(
            GiveAway(feature.name, feature.family, feature.words, direction, *numbers, float(importances[i]), *medians)
        )
    return tuple(sorted(found, key=lambda row: -row.auc)[:SHOWN])
