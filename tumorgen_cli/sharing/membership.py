"""Does a model's loss tell training tumors from others? The test that an attacker would do who has the scans.

A model that has memorized its training tumors predicts them better than tumors it has never seen. Whoever has a scan
could then find out whether it was among the training scans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tumorgen_cli.system.errors import say_count
from tumorgen_cli.system.files import derive_seed

_DRAWS = 1000


@dataclass(frozen=True)
class Membership:
    """How well the loss of a tumor tells whether it was learned from.

    Attributes:
        auc: chance that a training tumor has a smaller loss than a held-out one: 0.5 tells nothing, 1 tells all.
        low: lower end of the 95 % interval over cases.
        high: upper end.
        training: number of training tumors.
        held_out: number of held-out tumors.
    """

    auc: float
    low: float
    high: float
    training: int
    held_out: int

    @property
    def words(self) -> str:
        """The result in one sentence."""
        counts = f"{self.training} training and {say_count(self.held_out, 'held-out tumor')}"
        verdict = "tells training tumors from others" if self.low > 0.5 else "was not seen to tell them from others"
        return f"AUC {self.auc:.2f} [{self.low:.2f}, {self.high:.2f}] on {counts}: the loss {verdict}"


def membership_test(
    training: Mapping[str, Sequence[float]], held_out: Mapping[str, Sequence[float]]
) -> Membership | None:
    """Compare the losses of tumors, by case; None where a side has fewer than two cases with a loss.

    Source: Yeom et al., Privacy Risk in Machine Learning, CSF 2018: the loss as the attacker's score. The interval is
    that of a bootstrap over cases, because tumors of one case are alike.
    """
    ours, theirs = ([np.array(losses) for losses in side.values() if len(losses)] for side in (training, held_out))
    if min(len(ours), len(theirs)) < 2:
        return None
    rng = np.random.default_rng(derive_seed("membership"))
    drawn = [_auc(_resampled(ours, rng), _resampled(theirs, rng)) for _ in range(_DRAWS)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    one, other = np.concatenate(ours), np.concatenate(theirs)
    return Membership(_auc(one, other), float(low), float(high), len(one), len(other))


def _resampled(cases: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    return np.concatenate([cases[k] for k in rng.integers(len(cases), size=len(cases))])


def _auc(training: np.ndarray, held_out: np.ndarray) -> float:
    """The chance that a training loss is below a held-out one; ties count half."""
    less = training[:, None] < held_out
    same = training[:, None] == held_out
    return float(less.mean() + same.mean() / 2)
