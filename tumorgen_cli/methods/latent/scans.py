"""What an autoencoder learns from: labeled cases, and scans without labels in a share that the plan gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tumorgen_cli.geometry import cut, draw_window_start
from tumorgen_cli.methods.base import Method
from tumorgen_cli.methods.latent.healthy import healthy_windows
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.preprocessing.cases import Case
from tumorgen_cli.preprocessing.healthy import open_healthy
from tumorgen_cli.preprocessing.intensity import scale
from tumorgen_cli.preprocessing.windows import cut_tumor_window
from tumorgen_cli.system.files import derive_seed

_MOST_WINDOWS = 64  # whose latents are measured


@dataclass(frozen=True)
class TrainingScans:
    """The scans that an autoencoder learns from.

    Attributes:
        cases: the training cases.
        healthy: scans without labels; there may be none.
        healthy_share: share of the patches that are of scans without labels, if there are any.
    """

    cases: Sequence[Case]
    healthy: Sequence[Case] = ()
    healthy_share: float = 0.0

    def draw(self, rng: np.random.Generator) -> Case:
        """Draw a scan; without scans without labels, no random number more is used than one for the case."""
        drawn = len(self.healthy) > 0 and rng.random() < self.healthy_share
        pool = self.healthy if drawn else self.cases
        return pool[int(rng.integers(len(pool)))]


def training_scans(method: Method, stage: str, cases: Sequence[Case]) -> TrainingScans:
    """The scans that a stage learns from: `cases`, and those without labels if its `healthy_share` is not 0.

    Raises:
        StateError: The scans without labels were preprocessed by another plan.
        DataError: Some of them are cases of the data set.
    """
    share = method.healthy_share(stage) or 0.0
    healthy = open_healthy(method.workspace, method.plan) if share else ()
    return TrainingScans(cases, healthy, share if len(healthy) else 0.0)


def statistic_windows(method: Method, scans: TrainingScans) -> Iterator[np.ndarray]:
    """The 64 scaled windows (C, X, Y, Z) from which the statistics of latents are measured.

    They are cut and augmented as those that a flow learns from: around training tumors, all alike often, and in the
    share of the patches in healthy scans. The group norms of an encoder see the whole window, so that the latents of
    whole scans have another mean and spread. If no tumor fits into a window, they lie anywhere in the cases.
    """
    plan, healthy = method.plan, round(scans.healthy_share * _MOST_WINDOWS)
    tumors = [(case, component) for case in scans.cases for component in case.record.components if component.fits]
    for number in range(_MOST_WINDOWS - healthy):
        seed = derive_seed(plan.seed, "statistics", number) % 2**32
        if not tumors:
            yield _cut_anywhere(scans.cases[number % len(scans.cases)], plan, seed)
            continue
        step = max(1.0, len(tumors) / (_MOST_WINDOWS - healthy))
        case, component = tumors[int(number * step) % len(tumors)]
        yield cut_tumor_window(case, component, plan.channels, plan.window.shape, seed).image
    if tumors:
        yield from (window.image for window in healthy_windows(method, healthy))
    else:
        for number in range(healthy):
            seed = derive_seed(plan.seed, "healthy statistics", number) % 2**32
            yield _cut_anywhere(scans.healthy[number % len(scans.healthy)], plan, seed)


def _cut_anywhere(case: Case, plan: Plan, seed: int) -> np.ndarray:
    """A window anywhere in a case, (C, X, Y, Z) in [-1, 1]."""
    start = draw_window_start(case.record.shape, plan.window.shape, np.random.default_rng(seed))
    image = cut(case.image, start, plan.window.shape)
    return scale(image, plan.channels, np.array(case.record.limits, np.float32))
