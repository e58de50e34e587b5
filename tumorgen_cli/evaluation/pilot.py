"""What a pilot says before anything is compared: whether a gain has room, and which one the design can detect."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from tumorgen_cli.evaluation.measures import MEASURES
from tumorgen_cli.evaluation.scan_scores import REAL, ScanScore
from tumorgen_cli.evaluation.trials import Trials
from tumorgen_cli.evaluation.verdicts import amount, interval_text
from tumorgen_cli.metrics.inference import (
    UNKNOWN,
    Components,
    Estimate,
    bootstrap_interval,
    detectable_difference,
    nested_components,
    upper_spread,
)

#: what many real cases must add to few, by measure: about twice what nnU-Net's score varies from run to run
ROOM = {"lesion_dsc": 0.05, "sensitivity": 0.10}


@dataclass(frozen=True)
class Room:
    """Whether the number of real cases matters enough for a gain to be seen.

    Attributes:
        found: Whether it does.
        gains: By measure of `ROOM`, many minus few real cases with the bootstrap interval over test patients.
        verdict: A sentence that says so.
    """

    found: bool
    gains: dict[str, Estimate]
    verdict: str


@dataclass(frozen=True)
class Detectable:
    """What a design can detect.

    Attributes:
        difference: The true difference that it finds with a power of 80 % at a level of 5 %.
        cautious: The same where the spread is at the upper end of its one-sided 80 % interval.
        spread: The standard deviation of a difference over subsets that this assumes.
        verdict: A sentence that says so, and where the spread comes from.
    """

    difference: float
    cautious: float
    spread: float
    verdict: str


def room_for_gain(rows: Sequence[ScanScore], few: int = 8, many: int | None = 32) -> Room:
    """Say whether many real cases are better than few, by one of the measures of `ROOM`.

    The mean over the pilot's trainings must reach it, and the interval over test patients must lie above 0.

    Args:
        rows: Rows of the pilot; only those of the arm REAL are used.
        few: The smaller number of real cases.
        many: The larger one; None means all.
    """
    trials = Trials([row for row in rows if row.arm == REAL and row.cases in {few, many}])
    gains = {}
    for measure in ROOM:
        less, more = (list(trials.by_subset(REAL, cases, None, measure).values()) for cases in (few, many))
        if not less or not more:
            gains[measure] = UNKNOWN
            continue
        value = float(np.mean([own for own, _ in more]) - np.mean([own for own, _ in less]))
        resampled = np.mean([own for _, own in more], axis=0) - np.mean([own for _, own in less], axis=0)
        units = trials.counted(trials.trainings(REAL, many, None), measure)
        gains[measure] = bootstrap_interval(value, resampled, units)
    found = any(gains[measure].value >= least and gains[measure].low > 0 for measure, least in ROOM.items())
    shown = ", ".join(
        f"{MEASURES[measure].title} {amount(measure, gain.value)} {interval_text(measure, gain)}"
        for measure, gain in gains.items()
    )
    wanted = " or ".join(f"{amount(measure, least)} in {MEASURES[measure].title}" for measure, least in ROOM.items())
    much = "all" if many is None else many
    if found:
        return Room(True, gains, f"{much} real cases are better than {few}: {shown}")
    verdict = f"{much} real cases are not clearly better than {few} by {wanted} ({shown}), so no gain could be seen"
    return Room(False, gains, verdict)


def plan_comparison(
    rows: Sequence[ScanScore], measure: str, cases: int | None, subsets: int, paintings: int = 1, seeds: int = 1
) -> Detectable:
    """Say which difference a design with so many subsets, paintings and seeds detects.

    The spread over subsets comes from the pilot's pairs of arms with these cases, because what a draw of the cases does
    to both arms cancels. A pilot with one arm says nothing about that: then the arms of a pair are taken to share
    nothing, which is cautious. Paintings and seeds of the design average their own part of the spread.

    Args:
        rows: Rows of the pilot.
        measure: Name of the primary measure.
        cases: Number of real cases that are compared.
        subsets: Number of subsets.
        paintings: Number of paintings of a subset.
        seeds: Number of seeds of a painting.
    """
    trials = Trials([row for row in rows if row.cases == cases])
    arms = trials.arms()
    values = {
        each: [(key.subset, key.painting, trials.measured(key, measure)[0]) for key in trials.trainings(*each)]
        for each in arms
    }
    components = {each: nested_components(own) for each, own in values.items()}
    variances, freedom, basis = [], [], "pairs of the pilot's arms"
    for one, other in combinations(arms, 2):
        differences = _differences(trials, one, other, measure)
        if len(differences) > 1:
            pair = [components[one], components[other]]
            replicates = [len(trials.trainings(*each)) / len({s for s, _, _ in values[each]}) for each in (one, other)]
            inside = sum(_inside(part, 1, count) for part, count in zip(pair, replicates, strict=True))
            shared = max(0.0, float(np.var(differences, ddof=1)) - inside)
            variances.append(shared + sum(_inside(part, paintings, seeds) for part in pair))
            freedom.append(len(differences) - 1)
    if not variances:
        basis = "one arm of the pilot, as if two arms shared nothing"
        for each, part in components.items():
            if math.isfinite(part.subset):
                variances.append(2 * (part.subset**2 + _inside(part, paintings, seeds)))
                freedom.append(len({subset for subset, _, _ in values[each]}) - 1)
    if not variances:
        verdict = "what the design can detect is not known: the pilot has fewer than two draws of the real cases"
        return Detectable(math.nan, math.nan, math.nan, verdict)
    spread = math.sqrt(float(np.mean(variances)))
    difference = detectable_difference(spread, subsets)
    cautious = detectable_difference(upper_spread(spread, max(freedom)), subsets)
    found, worse, apart = (amount(measure, value) for value in (difference, cautious, spread))
    verdict = (
        f"{subsets} draws of {'all' if cases is None else cases} real cases find a true difference of {found} in "
        f"{MEASURES[measure].title} with a power of 80 % ({worse} if the pilot's spread is too small); "
        f"spread {apart} from {basis}"
    )
    return Detectable(difference, cautious, spread, verdict)


def _differences(
    trials: Trials, one: tuple[str, int | None, int | None], other: tuple[str, int | None, int | None], measure: str
) -> list[float]:
    mine, theirs = trials.by_subset(*one, measure), trials.by_subset(*other, measure)
    return [value for key in mine if key in theirs and math.isfinite(value := mine[key][0] - theirs[key][0])]


def _inside(components: Components, paintings: int, seeds: float) -> float:
    """Return the variance of a subset's mean over paintings and seeds; a component that is not known is 0."""
    painting, seed = (0.0 if math.isnan(each) else each for each in (components.painting, components.seed))
    return painting**2 / paintings + seed**2 / (paintings * seeds)
