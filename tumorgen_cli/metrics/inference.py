"""Intervals, tests and the planning of an experiment whose units are few. Arrays in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from tumorgen_cli.system.files import derive_seed

LEVEL = 0.95  # of every interval
POWER = 0.8  # with which a difference counts as detectable
RESAMPLES = 2000
_EQUAL = 1e-12  # numbers that differ by less are equal but for their last digits


@dataclass(frozen=True)
class Estimate:
    """An estimate and the ends of its 95 % interval; the ends are nan where the data hold nothing about them."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether both ends are on the same side of 0."""
        return self.low > 0 or self.high < 0

    @property
    def negative(self) -> Estimate:
        """The interval of the negative number."""
        return Estimate(-self.value, -self.high, -self.low)


UNKNOWN = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Components:
    """Standard deviations of a nested experiment: over subsets, paintings of a subset, and seeds of a painting.

    One that the experiment cannot tell from others is nan, and contained in the next one before it: without a second
    seed, `painting` holds both; without a second painting, `subset` holds both.
    """

    subset: float
    painting: float
    seed: float


def t_interval(values: Sequence[float] | np.ndarray) -> Estimate:
    """Return the mean and its t interval; nan values are left out.

    There are no ends with fewer than two values, or where all are equal: shares of a few lesions may be equal by
    chance, and an interval without width would claim certainty.
    """
    kept = np.asarray(values, float)
    kept = kept[np.isfinite(kept)]
    if len(kept) < 2 or np.ptp(kept) < _EQUAL:
        return Estimate(float(kept.mean()) if len(kept) else math.nan, math.nan, math.nan)
    mean = float(kept.mean())
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(kept) - 1) * kept.std(ddof=1) / math.sqrt(len(kept)))
    return Estimate(mean, mean - half, mean + half)


def ratio_t_interval(tops: Sequence[float] | np.ndarray, bottoms: Sequence[float] | np.ndarray) -> Estimate:
    """Return the ratio of two means of pairs with its t interval, by the ratio estimator's variance.

    Args:
        tops: The numerators (units,).
        bottoms: The denominators of the same units (units,).

    Source: Cochran, Sampling Techniques, 1977, section 6.4.
    """
    top, bottom = np.asarray(tops, float), np.asarray(bottoms, float)
    ratio = float(top.mean() / bottom.mean())
    residual = t_interval(top - ratio * bottom)  # its mean is 0
    low, high = (end / abs(float(bottom.mean())) for end in (residual.low, residual.high))
    return Estimate(ratio, ratio + low, ratio + high)


def t_test(differences: Sequence[float] | np.ndarray) -> float:
    """Compute the two-sided p of the paired t test; nan with fewer than two differences or without any spread."""
    kept = np.asarray(differences, float)
    kept = kept[np.isfinite(kept)]
    if len(kept) < 2 or np.ptp(kept) < _EQUAL:
        return math.nan
    return float(stats.ttest_1samp(kept, 0).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values by Holm's method; a nan stays nan and does not count as a test."""
    corrected, largest = [math.nan] * len(p_values), 0.0
    order = sorted((i for i, p in enumerate(p_values) if math.isfinite(p)), key=lambda i: p_values[i])
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def draw_weights(patients: Sequence[str], what: str) -> np.ndarray:
    """Draw patients with replacement: how often each was drawn (resamples, patients).

    Args:
        patients: The patients, every one once.
        what: Name of the quantity; it seeds the draws.
    """
    generator = np.random.default_rng(derive_seed("bootstrap", what))
    return generator.multinomial(len(patients), np.full(len(patients), 1 / len(patients)), size=RESAMPLES)


def bootstrap_interval(value: float, resampled: np.ndarray, units: int) -> Estimate:
    """Return an estimate with the expanded percentile interval of its resamples; nan resamples are left out.

    The plain percentiles are too narrow for few units: they lack the factor n / (n - 1) of the variance and the tails
    of t. The percentiles that a t interval of normal data would have mend both. There are no ends for fewer than five
    units: drawing the most extreme one only (1 of n^n draws) is then likelier than the tail.

    Args:
        value: The estimate.
        resampled: The estimate of every resample (resamples,).
        units: Number of units that were drawn.

    Source: Hesterberg 2015 (The American Statistician 69), expanded percentile interval.
    """
    kept = resampled[~np.isnan(resampled)]
    if units < 2 or not len(kept):
        return Estimate(value, math.nan, math.nan)
    tail = stats.norm.cdf(-math.sqrt(units / (units - 1)) * stats.t.ppf((1 + LEVEL) / 2, units - 1))
    if tail < units ** -float(units):
        return Estimate(value, math.nan, math.nan)
    low, high = np.quantile(kept, (tail, 1 - tail), method="inverted_cdf")  # also of inf
    return Estimate(value, float(low), float(high))


def nested_components(values: Sequence[tuple[Hashable, Hashable, float]]) -> Components:
    """Estimate the components of a nested experiment from (subset, painting, value); one value for every seed.

    Analysis of variance by moments, also for unequal numbers; an estimate below 0 is 0.

    Source: Searle, Casella & McCulloch, Variance Components, 1992, the two-way nested classification.
    """
    kept = [each for each in values if math.isfinite(each[2])]
    total = len(kept)
    outer = _group([subset for subset, _, _ in kept])
    inner = _group([(subset, painting) for subset, painting, _ in kept])
    y = np.array([value for _, _, value in kept], float)
    count_outer, count_inner = int(outer.max(initial=-1)) + 1, int(inner.max(initial=-1)) + 1
    n_outer, n_inner = np.bincount(outer), np.bincount(inner)
    mean_outer, mean_inner = (np.bincount(g, y) / np.bincount(g) for g in (outer, inner))
    seeds = _over(((y - mean_inner[inner]) ** 2).sum(), total - count_inner)
    # expectations of the sums of squares, as multiples of the components
    within = (n_inner[inner] / n_outer[outer]).sum()  # sum over paintings of n² / n of its subset
    of_seed = 0.0 if math.isnan(seeds) else seeds
    squares = ((mean_inner[inner] - mean_outer[outer]) ** 2).sum()
    paintings = _over(squares - (count_inner - count_outer) * of_seed, (count_inner > count_outer) * (total - within))
    of_painting = 0.0 if math.isnan(paintings) else paintings
    squares = ((mean_outer[outer] - y.mean()) ** 2).sum() if total else 0.0
    rest = (count_outer - 1) * of_seed + (within - (n_inner**2).sum() / max(total, 1)) * of_painting
    subsets = _over(squares - rest, (count_outer > 1) * (total - (n_outer**2).sum() / max(total, 1)))
    return Components(
        *(each if math.isnan(each) else math.sqrt(max(0.0, each)) for each in (subsets, paintings, seeds))
    )


def _group(names: Sequence[Hashable]) -> np.ndarray:
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], int)


def _over(value: float, divisor: float) -> float:
    return float(value / divisor) if divisor > 0 else math.nan


def detectable_difference(spread: float, units: int, power: float = POWER) -> float:
    """Return the true mean difference that a two-sided paired t test of so many units finds with this power.

    Args:
        spread: Standard deviation of the differences over units.
        units: Number of units; with fewer than two the result is inf.
        power: The power.
    """
    if units < 2 or not math.isfinite(spread):
        return math.inf if units < 2 else math.nan
    critical = stats.t.ppf((1 + LEVEL) / 2, units - 1)
    # what the sample's own standard deviation may be, over the true one; scipy's noncentral t fails for few units
    own = np.sqrt(stats.chi2.ppf((np.arange(4000) + 0.5) / 4000, units - 1) / (units - 1))

    def lacking(shift: float) -> float:
        found = stats.norm.sf(critical * own - shift) + stats.norm.cdf(-critical * own - shift)
        return float(found.mean()) - power

    return float(optimize.brentq(lacking, 0, 10 * critical)) * spread / math.sqrt(units)


def upper_spread(spread: float, freedom: int) -> float:
    """Return the upper end of the one-sided 80 % interval of a standard deviation; nan without a degree of freedom.

    Source: Browne 1995 (Statistics in Medicine 14): a study planned with a pilot's own spread is too small more often
    than not.
    """
    return spread * math.sqrt(freedom / stats.chi2.ppf(1 - POWER, freedom)) if freedom > 0 else math.nan


def cases_worth(curve: dict[int, float], value: float) -> float:
    """Return the number of cases at which a learning curve reaches a value.

    The curve is made to rise (isotonic regression) and interpolated along the logarithm of the number of cases. It is 0
    where already the fewest cases are better, and inf where the most are not enough.

    Args:
        curve: The score of each number of cases.
        value: The score to reach.
    """
    counts = sorted(curve)
    rising = optimize.isotonic_regression([curve[count] for count in counts]).x
    reached = int(np.searchsorted(rising, value))
    if reached == len(counts):
        return math.inf
    if reached == 0:
        return float(counts[0]) if value == rising[0] else 0.0
    below, above = rising[reached - 1], rising[reached]
    step = (value - below) / (above - below)
    return float(counts[reached - 1] * (counts[reached] / counts[reached - 1]) ** step)
