"""Aimed synthesis: half of all pairs get tumors like those that a segmentor misses or outlines badly.

Each training tumor has an error: 1 minus the Dice with what a segmentor that has not seen its scan finds of it. Tumors
are sorted into strata by what painting can follow: size and place of each method, contrast and kind of methods that
know kinds. Additive effects of the strata are fitted to the errors and shrunk. A training tumor is then drawn in
proportion to the error that its strata predict: a single tumor that was missed by chance counts for little.

Source:
    The idea is TextoMorph's targeted sampling; strata, shrinkage and the half that stays as the data are our own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tumorgen_cli.data.patients import Patients, patient_of
from tumorgen_cli.data.surroundings import QUANTILES
from tumorgen_cli.metrics.traits import hard_limit, is_hard
from tumorgen_cli.planning.fingerprint import TumorFacts

#: with fewer tumors only size and contrast are looked at, and effects shrink as if the missing ones had the mean error
ENOUGH = 30
FOUND = 0.1  # least Dice of a tumor that counts as found
_PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0)  # tumors of the mean error that are added to each stratum
_LEAST = 0.01  # error that is predicted at least: no tumor is ruled out
_SIZE, _CONTRAST = "size", "contrast"
#: the kind (`Sampling.kind`) that is asked for tumors of a stratum
_KINDS = {
    (_CONTRAST, "low"): "low-contrast",
    ("core", "necrotic"): "necrotic",
    ("texture", "heterogeneous"): "heterogeneous",
}


@dataclass(frozen=True)
class ScoredTumor:
    """What a segmentor finds of a training tumor that it has not seen.

    Attributes:
        dice: Dice of the tumor and what was found of it; 0 if nothing was.
        heterogeneity: the trait of that name (`metrics.traits`) in the main channel; None where it is undefined.
        core_ratio: likewise.
    """

    dice: float
    heterogeneity: float | None = None
    core_ratio: float | None = None


@dataclass(frozen=True)
class AimedTumor:
    """How a training tumor is drawn in aimed pairs.

    Attributes:
        case: its case.
        weight: how often it is drawn, relative to the mean tumor.
        strata: its stratum of each trait that is looked at.
        kind: the kind of tumor that the method is asked for; None for any.
    """

    case: str
    weight: float
    strata: dict[str, str]
    kind: str | None

    @property
    def record(self) -> dict[str, str]:
        """What provenance says of a tumor that is to be like this one."""
        asked = {} if self.kind is None else {"kind": self.kind}
        return {"like": self.case, **self.strata, **asked}


@dataclass(frozen=True)
class AimedStratum:
    """A row of the table of what is aimed at.

    Attributes:
        trait: what tumors are sorted by.
        name: which of them are in the stratum.
        tumors: number of training tumors.
        found: share of them that the segmentor finds, with a Dice of `FOUND` at least.
        dice: their mean Dice.
        factor: how many times as often as in the data they are drawn in aimed pairs.
    """

    trait: str
    name: str
    tumors: int
    found: float
    dice: float
    factor: float


@dataclass(frozen=True)
class AimSummary:
    """What a set was aimed at; the field `aim` of set.json.

    Attributes:
        segmentor: name of the segmentor's folder.
        scores: hash of the segmentor's scores.
        tumors: number of training tumors.
        cases: number of training cases with tumors.
        found: share of the tumors that were found.
        dice: mean Dice of the tumors.
        strata: a row for each stratum.
    """

    segmentor: str
    scores: str
    tumors: int
    cases: int
    found: float
    dice: float
    strata: tuple[AimedStratum, ...]

    @property
    def aimed(self) -> bool:
        """Whether any stratum is drawn more often than another."""
        return any(stratum.factor != 1 for stratum in self.strata)


@dataclass(frozen=True)
class Aim:
    """How training tumors are drawn in aimed pairs.

    Attributes:
        summary: what is aimed at.
        tumors: a record for each training tumor, in the order of the fingerprint.
        learned_from: the cases from which the segmentor has learned or that it has scored.
    """

    summary: AimSummary
    tumors: tuple[AimedTumor, ...]
    learned_from: tuple[str, ...]

    @property
    def weights(self) -> np.ndarray:
        """The weight of each training tumor (N,); their mean is 1."""
        return np.array([tumor.weight for tumor in self.tumors])


class Followed(NamedTuple):
    """What painting follows beside size: the kinds that the method knows, and whether places are like real ones."""

    kinds: tuple[str, ...]
    places: bool


class SegmentorScores(NamedTuple):
    """The scores of a segmentor.

    Attributes:
        tumors: by case with tumors, a score for each of them, in the order of the fingerprint.
        segmentor: name of the segmentor's folder.
        hash: hash of what was scored.
        learned_from: see `Aim`.
    """

    tumors: Mapping[str, Sequence[ScoredTumor]]
    segmentor: str
    hash: str
    learned_from: tuple[str, ...]


def is_aimed(place: int, turn: int) -> bool:
    """Tell whether a pair is aimed: every second one of each host, and about half in each turn of the hosts.

    Args:
        place: number of the host among the hosts.
        turn: number of pairs that are painted into the host before.
    """
    return (place + turn) % 2 == 1


def make_aim(
    scores: SegmentorScores,
    facts: Mapping[str, Sequence[TumorFacts]],
    channel: int,
    followed: Followed,
    patients: Patients | None = None,
) -> Aim:
    """Learn how often each training tumor is drawn in aimed pairs.

    Args:
        scores: the scores of a segmentor.
        facts: the tumors of each training case, in the order of the fingerprint.
        channel: the main channel.
        followed: what painting follows.
        patients: the patient of each case, where they are known.
    """
    cases = [case for case, tumors in facts.items() for _ in tumors]
    tumors = [tumor for each in facts.values() for tumor in each]
    scored = [score for case in facts for score in scores.tumors.get(case, ())]
    dice = np.array([score.dice for score in scored])
    traits = sort_tumors(tumors, scored, channel, followed)
    names = [(trait, name) for trait, strata in traits.items() for name in dict.fromkeys(filter(None, strata))]
    members = {(trait, name): np.array([each == name for each in traits[trait]]) for trait, name in names}
    columns = np.array(list(members.values()), float).reshape(len(names), len(tumors)).T
    expected, effects = predict_errors(1 - dice, [patient_of(case, patients or {}) for case in cases], columns)
    weights = expected / expected.mean()
    order = sorted(range(len(names)), key=lambda number: -effects[number])
    asked = [(names[number], _KINDS[names[number]]) for number in order if names[number] in _KINDS]
    aimed = tuple(
        AimedTumor(
            case=cases[number],
            weight=round(float(weights[number]), 4),
            strata={trait: strata[number] for trait, strata in traits.items() if strata[number]},
            kind=next((kind for key, kind in asked if kind in followed.kinds and members[key][number]), None),
        )
        for number in range(len(tumors))
    )
    rows = tuple(
        AimedStratum(
            *key,
            int(inside.sum()),
            round(float((dice[inside] >= FOUND).mean()), 4),
            round(float(dice[inside].mean()), 4),
            round(float(weights[inside].mean()), 3),
        )
        for key, inside in members.items()
    )
    found, mean = round(float((dice >= FOUND).mean()), 4), round(float(dice.mean()), 4)
    summary = AimSummary(scores.segmentor, scores.hash, len(tumors), len(set(cases)), found, mean, rows)
    return Aim(summary, aimed, scores.learned_from)


def sort_tumors(
    tumors: Sequence[TumorFacts], scored: Sequence[ScoredTumor], channel: int, followed: Followed
) -> dict[str, list[str]]:
    """Sort tumors into strata; "" where a trait is undefined. Traits that tell no tumors apart are left out."""
    found = {_SIZE: _thirds([tumor.volume_ml for tumor in tumors], ("small", "medium", "large"))}
    if "low-contrast" in followed.kinds:
        found[_CONTRAST] = _thirds([abs(tumor.contrast[channel]) for tumor in tumors], ("low", "medium", "high"))
    if len(tumors) >= ENOUGH:
        values: dict[str, Callable[[ScoredTumor], float | None]] = {
            "necrotic": lambda score: score.core_ratio,
            "heterogeneous": lambda score: score.heterogeneity,
        }
        for (trait, name), kind in _KINDS.items():
            if kind in followed.kinds and name in values:
                found[trait] = _hard(kind, [values[name](score) for score in scored], name)
        around = [tumor.surroundings for tumor in tumors]
        if followed.places and any(around):
            middle = QUANTILES.index(0.5)
            levels = [np.nan if each is None else each.levels[channel][middle] for each in around]
            texture = [np.nan if each is None else each.texture[channel] for each in around]
            found["surroundings"] = _thirds(levels, ("dark", "medium", "bright"))
            found["surroundings' texture"] = _thirds(texture, ("even", "medium", "varied"))
    return {trait: strata for trait, strata in found.items() if len({*strata} - {""}) > 1}


def _thirds(values: Sequence[float], names: tuple[str, str, str]) -> list[str]:
    """Sort values into the lowest, the middle and the highest third."""
    known = np.array(values, float)
    if not np.isfinite(known).any():
        return [""] * len(known)
    bounds = np.nanpercentile(known, (100 / 3, 200 / 3))
    return [names[np.searchsorted(bounds, value)] if np.isfinite(value) else "" for value in known]


def _hard(kind: str, values: Sequence[float | None], name: str) -> list[str]:
    """Sort values into those of a hard kind and the others."""
    known = np.array([np.nan if value is None else value for value in values])
    hard = is_hard(kind, known, hard_limit(kind, known))
    return [
        (name if of_kind else "other") if np.isfinite(value) else "" for value, of_kind in zip(known, hard, strict=True)
    ]


def predict_errors(errors: np.ndarray, patients: Sequence[str], columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Predict errors by additive effects of strata, in ridge regression.

    The penalty is the one that predicts best the errors of patients that are left out. If none predicts better than the
    mean error, by more than the standard error of the difference, all errors are predicted to be the mean.

    Args:
        errors: error of each tumor (N,), 0 to 1.
        patients: patient of each tumor.
        columns: (N, S) 1 where a tumor is in a stratum, else 0.

    Returns:
        The predicted errors (N,), above 0 and at most 1, and the effect of each stratum (S,).
    """
    missing = max(0.0, ENOUGH - len(errors))
    names = np.array(patients)
    best, chosen = 0.0, None
    losses = {penalty: _losses_left_out(errors, names, columns, penalty + missing) for penalty in _PENALTIES}
    constant = _losses_left_out(errors, names, columns, None)
    for penalty, found in losses.items():
        gained = constant - found
        error = len(gained) ** 0.5 * gained.std(ddof=1) if len(gained) > 1 else np.inf
        if gained.sum() > max(best, error):
            best, chosen = gained.sum(), penalty + missing
    mean, effects = _fit(errors, columns, chosen)
    return np.clip(mean + columns @ effects, _LEAST, 1), effects


def _losses_left_out(errors: np.ndarray, names: np.ndarray, columns: np.ndarray, penalty: float | None) -> np.ndarray:
    """The sum of squared differences from what the other patients predict, for each patient."""
    found = []
    for patient in dict.fromkeys(names.tolist()):
        out = names == patient
        if out.all():
            return np.zeros(1)
        constant, effects = _fit(errors[~out], columns[~out], penalty)
        found.append(np.square(errors[out] - constant - columns[out] @ effects).sum())
    return np.array(found)


def _fit(errors: np.ndarray, columns: np.ndarray, penalty: float | None) -> tuple[float, np.ndarray]:
    """Fit a constant, which is not shrunk, and the effect of each column (S,); without a penalty the mean alone."""
    mean, center = errors.mean(), columns.mean(axis=0)
    if penalty is None:
        return float(mean), np.zeros(columns.shape[1])
    around = columns - center
    effects = np.linalg.solve(around.T @ around + penalty * np.eye(columns.shape[1]), around.T @ (errors - mean))
    return float(mean - center @ effects), effects
