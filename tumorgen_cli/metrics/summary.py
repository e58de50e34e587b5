"""Mean, quartiles and bootstrap interval of a list of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tumorgen_cli.system.errors import say_count
from tumorgen_cli.system.files import derive_seed

_RESAMPLES = 2000


@dataclass(frozen=True)
class Summary:
    """Mean, interval and quartiles of a list of numbers; all are nan without a defined value.

    Attributes:
        count: Number of defined values.
        undefined: Number of nan values.
        mean: Mean of the defined values.
        low: Lower end of the mean's 95 % bootstrap interval; nan with fewer than two groups.
        high: Upper end of that interval.
        median: Median of the defined values.
        quartile_1: First quartile.
        quartile_3: Third quartile.
    """

    count: int
    undefined: int
    mean: float
    low: float
    high: float
    median: float
    quartile_1: float
    quartile_3: float

    @property
    def text(self) -> str:
        """The mean and its interval, or why they are undefined."""
        if not self.count:
            return f"undefined: {say_count(self.undefined, 'case')} without a value" if self.undefined else "no case"
        has_interval = math.isfinite(self.low)
        interval = f"[{self.low:.3f}, {self.high:.3f}]" if has_interval else "(no interval: too few cases or scans)"
        return f"{self.mean:.3f} {interval}"


def summarize(values: np.ndarray, what: str, groups: Sequence[str] | None = None) -> Summary:
    """Summarize values; nan are counted and left out.

    The bootstrap is a percentile bootstrap over groups with its own random stream, so that an interval depends on the
    values and on `what` only.

    Args:
        values: The numbers (N,).
        what: Name of the quantity; it seeds the bootstrap.
        groups: The group of each value (N,), for instance its scan. Values of one group are drawn together. None: every
            value is a group of its own.
    """
    kept = np.isfinite(values)
    defined = values[kept]
    count, undefined = len(defined), len(values) - len(defined)
    if not count:
        return Summary(0, undefined, *[math.nan] * 6)
    group = np.arange(count) if groups is None else np.unique(np.array(groups)[kept], return_inverse=True)[1]
    sums, sizes = np.bincount(group, defined), np.bincount(group)
    drawn = np.random.default_rng(derive_seed("bootstrap", what)).integers(len(sizes), size=(_RESAMPLES, len(sizes)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.percentile(means, (2.5, 97.5)) if len(sizes) > 1 else (math.nan, math.nan)
    first, median, third = np.percentile(defined, (25, 50, 75))
    return Summary(count, undefined, *(float(v) for v in (defined.mean(), low, high, median, first, third)))
