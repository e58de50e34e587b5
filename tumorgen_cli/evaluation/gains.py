"""What `downstream` records: trained nnU-Nets with their scores on real held-out scans, and what is made of them."""

from __future__ import annotations

from dataclasses import dataclass

from tumorgen_cli.evaluation.design import Design
from tumorgen_cli.evaluation.recovery import Recovered
from tumorgen_cli.evaluation.scan_scores import ScanScore
from tumorgen_cli.evaluation.trials import Analysis
from tumorgen_cli.nnunet.job import Schedule
from tumorgen_cli.system.errors import say_count

SCORES = 4  # version of a run's scores; raise it when they change


@dataclass(frozen=True)
class TrainedNnunet:
    """A training and its scores.

    Attributes:
        arm: Its arm.
        cases: Number of real training cases.
        seed: Its seed.
        pairs: Number of synthetic pairs; of an arm that paints during training, pairs painted by its end.
        real_share: Share of real cases among the cases drawn in training.
        iterations: Iterations of the training.
        minutes: Minutes of the training.
        inputs_hash: Hash of what it was trained on.
        scans: Scores of the held-out scans.
        hosts: Number of its healthy scans; None: it has none, or all.
        subset: Which draw of the real cases.
        painting: Which painting of that draw.
        curve: After each epoch, nnU-Net's moving average of Dice on the cases held aside; empty if none are.
    """

    arm: str
    cases: int
    seed: int
    pairs: int
    real_share: float
    iterations: int
    minutes: float
    inputs_hash: str
    scans: tuple[ScanScore, ...]
    hosts: int | None = None
    subset: int = 0
    painting: int = 0
    curve: tuple[float, ...] = ()

    @property
    def label(self) -> str:
        """The arm as tables show it, with the number of its healthy scans where that is not all."""
        return self.arm if self.hosts is None else f"{self.arm}, {say_count(self.hosts, 'host')}"


@dataclass(frozen=True)
class Failure:
    """An arm that has no pairs, or a training that failed, and why."""

    arm: str
    cases: int
    reason: str


@dataclass(frozen=True)
class Downstream:
    """What `downstream.json` holds.

    `schedule`: epochs and their iterations, the same for all runs. `analysis`: arms and their comparisons. `recovered`:
    what arms make up for. `weak`: what was too weak about the weights that painted the pairs. `conclusions`: what is
    concluded, the most important first.
    """

    dataset: str
    plan: str
    held_out: tuple[str, ...]
    hosts: str
    design: Design
    schedule: Schedule
    device: str
    tolerance_mm: float
    analysis: Analysis
    runs: tuple[TrainedNnunet, ...]
    recovered: tuple[Recovered, ...] = ()
    failures: tuple[Failure, ...] = ()
    weak: tuple[str, ...] = ()
    conclusions: tuple[str, ...] = ()
