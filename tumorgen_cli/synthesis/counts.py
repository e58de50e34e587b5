"""How many tumors a pair gets: as many as patients have in what the host shows, or as many as the user says.

A training case with tumors is drawn at random, and the pair gets as many as it has. A host may show less of a patient
than that case does: a liver instead of a whole body. Then each of the case's tumors is kept with the probability of the
host's share of the case's body volume. A host that shows more never gets more tumors: the scans of a data set are often
cut around the tumors, so nobody has counted what lies beyond them. A region to paint in does not change the count: the
user says that tumors lie there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from tumorgen_cli.system.errors import IN_RANGE, Fault

if TYPE_CHECKING:
    from tumorgen_cli.geometry import Box
    from tumorgen_cli.planning.fingerprint import CaseFacts


_SAME_VIEW = 2.0  # patients who are shown alike differ in body volume by up to this factor: it is no other view


def draw_count(
    cases: Sequence[CaseFacts], body_ml: float, rng: np.random.Generator, weights: np.ndarray | None = None
) -> int:
    """Draw how many tumors a pair gets, from the training cases' counts.

    Args:
        cases: the training cases.
        body_ml: volume of the body in the host.
        rng: draws the case and its tumors.
        weights: how often each tumor of the cases is drawn (N,), relative to the others: a case is drawn by the mean
            of its tumors' weights. None: all alike.
    """
    having = [case for case in cases if case.tumors]
    if weights is None:
        case = having[rng.integers(len(having))]
    else:
        first = np.cumsum([0, *(len(each.tumors) for each in having)])[:-1]
        means = np.add.reduceat(weights, first) / [len(each.tumors) for each in having]
        case = having[rng.choice(len(having), p=means / means.sum())]
    if case.body_ml <= _SAME_VIEW * body_ml:
        return len(case.tumors)
    return max(1, int(rng.binomial(len(case.tumors), body_ml / case.body_ml)))


def most_tumors(cases: Sequence[CaseFacts]) -> int:
    """Return the largest number of tumors of a training case."""
    return max(len(case.tumors) for case in cases)


def fixed_count(
    asked: int | None, planned: int | Literal["data"], box: Box | None, redraw: Sequence[Box]
) -> int | None:
    """Return how many tumors a pair gets where the training cases' counts do not decide it; None where they do.

    A pair in the user's own box has one tumor. In a case whose tumors are redrawn it has one, too, unless the user asks
    for more: it can then be compared with one real tumor.

    Args:
        asked: what the user asks for; None for no wish.
        planned: the plan's `paste.tumors`.
        box: the user's own box, if there is one.
        redraw: boxes of the tumors to redraw, if the host is a case of the data set.
    """
    if box is not None:
        return 1
    if redraw:
        return min(asked or 1, len(redraw))
    found = asked or planned
    return None if found == "data" else int(found)


def count_faults(tumors: int | None, box: Box | None) -> list[Fault]:
    """Return the fault of a number of tumors below 1, or of several tumors in the user's own box."""
    if tumors is not None and tumors < 1:
        return [Fault("--tumors", str(tumors), "1 or more", IN_RANGE)]
    if box is None or tumors in (None, 1):
        return []
    expected = "one tumor: the boxes of a pair do not overlap"
    return [Fault("--tumors", f"{tumors} in one --box", expected, "leave out --tumors or --box")]
