"""A judge's record and model card: its training cases, its training, its scores on held-out cases, its limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tumorgen_cli.geometry import Shape, Triple
from tumorgen_cli.judge.domain import Domain
from tumorgen_cli.nnunet.job import CONFIGURATION, Schedule
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import say_count

PLANNED_MINUTES = 30.0  # of a judge's training, unless the user asks for others
USEFUL_DICE = 0.4  # the scores of a judge below it on real held-out cases mean little
TRAINED_ITERATIONS = 1000  # fewer are no training: nnU-Net's own has 250,000, the bundled judge 6,000


@dataclass(frozen=True)
class HeldOutScore:
    """How well the judge finds the tumors of a held-out case in the whole scan.

    The scores are None if the case has no tumor and the judge finds none.
    """

    case: str
    dice: float | None
    surface_dice: float | None
    seconds: float


@dataclass(frozen=True)
class JudgeRecord:
    """The record of a trained judge; `judge.json`.

    `spacing_mm` and `patch` are in the order x, y, z. `seconds` is the time of all of nnU-Net's epochs. `domain` is
    what its training scans are like.
    """

    inputs_hash: str
    dataset: str
    fingerprint_hash: str
    tumor_name: str
    cases: tuple[str, ...]
    minutes: float
    seed: int
    device: str
    precision: str
    schedule: Schedule
    seconds: float
    spacing_mm: Triple
    patch: Shape
    batch: int
    features: tuple[int, ...]
    parameters: int
    weights_hash: str
    tolerance_mm: float
    held_out: tuple[HeldOutScore, ...]
    versions: dict[str, str]
    domain: Domain

    @property
    def mean_dice(self) -> float:
        """Mean over the held-out cases in which Dice is defined; nan if there are none."""
        return _mean([score.dice for score in self.held_out])

    @property
    def mean_surface_dice(self) -> float:
        """Mean over the held-out cases in which surface Dice is defined; nan if there are none."""
        return _mean([score.surface_dice for score in self.held_out])


@dataclass(frozen=True)
class JudgeFacts:
    """What a reader of a judge's scores needs to know of the judge.

    Attributes:
        title: which judge it is.
        iterations: training iterations; 0 if unknown.
        minutes: minutes that its training was given; 0 if unknown.
        held_out: number of real held-out cases that it was scored on after its training.
        dice: its mean Dice on them; nan if there are none.
        surface_dice: its mean surface Dice on them.
    """

    title: str
    iterations: int = 0
    minutes: float = 0.0
    held_out: int = 0
    dice: float = math.nan
    surface_dice: float = math.nan

    @property
    def is_trained(self) -> bool:
        """Whether conclusions can be drawn from its scores; also if its training is unknown."""
        return not 0 < self.iterations < TRAINED_ITERATIONS

    @property
    def words(self) -> str:
        """Which judge it is, how long it was trained, and its scores on real held-out cases."""
        trained = f"{self.iterations:,} training iterations" if self.iterations else "training unknown"
        if 0 < self.minutes < PLANNED_MINUTES / 2:
            trained += f" in {self.minutes:g} of {PLANNED_MINUTES:g} planned minutes"
        scores = f"DSC {self.dice:.2f}, NSD {self.surface_dice:.2f} on {say_count(self.held_out, 'real held-out case')}"
        return f"{self.title}: {trained}; {scores if self.held_out else 'not scored on held-out cases after training'}"

    @property
    def caution(self) -> str:
        """Why its scores tell nothing or little; empty if they do."""
        if not self.is_trained:
            least = f"fewer than {TRAINED_ITERATIONS:,} iterations"
            return f"no conclusion: this judge is hardly trained ({self.iterations:,} iterations; {least} are too few)"
        if self.held_out and not self.dice >= USEFUL_DICE:
            return f"its scores mean little: it reaches a DSC of {self.dice:.2f} on real held-out cases"
        return ""


def record_facts(record: JudgeRecord, title: str) -> JudgeFacts:
    """Return the facts of a judge that TumorGen has trained."""
    return JudgeFacts(
        title,
        record.schedule.epochs * record.schedule.iterations,
        record.minutes,
        len(record.held_out),
        record.mean_dice,
        record.mean_surface_dice,
    )


def model_card(record: JudgeRecord, title: str, data: str, command: str, limits: Sequence[str]) -> str:
    """Write a judge's model card in Markdown.

    Args:
        record: the record of the judge.
        title: heading of the card.
        data: description of the data set.
        command: command that made the judge.
        limits: what it must not be used for.
    """
    schedule = record.schedule
    spacing, patch = (" × ".join(f"{v:.4g}" for v in triple) for triple in (record.spacing_mm, record.patch))
    lines = [
        f"# {title}",
        "",
        (
            f"An nnU-Net v2 ({CONFIGURATION}, fold `all`, nnunetv2 {record.versions['nnunetv2']}) that segments "
            f"`{record.tumor_name}`. TumorGen uses it as the judge of synthetic pairs: do mask and image agree? It is "
            "an nnU-Net results folder without optimizer state; its checkpoint loads with "
            "`torch.load(..., weights_only=True)`."
        ),
        "",
        (
            f"* Network: {record.parameters / 1e6:.2f} million parameters, features "
            f"{'-'.join(map(str, record.features))}, patch {patch} voxels of {spacing} mm (x, y, z), "
            f"batch {record.batch}."
        ),
        (
            f"* Training: {schedule.epochs} epochs of {schedule.iterations} iterations, "
            f"{console.clock(record.seconds)} on {record.device} ({record.precision}), seed {record.seed}. "
            f"Epochs were fitted to {record.minutes:g} minutes."
        ),
        "",
        "## Data",
        "",
        data,
        "",
        f"Trained on {say_count(len(record.cases), 'case')}: {', '.join(record.cases)}.",
        "",
        "## Made by",
        "",
        "```bash",
        command,
        "```",
        "",
        "## Scores on held-out cases",
        "",
        (
            f"Whole scans; NSD at {record.tolerance_mm:g} mm. None of these cases was used to train the judge or to "
            "choose anything."
        ),
        "",
        *_score_table(record),
        "",
        "## What it must not be used for",
        "",
        *(f"* {limit}" for limit in limits),
        "",
    ]
    return "\n".join(lines)


LIMITS = (
    "Diagnosis, treatment, or any decision about a patient: it is a small, briefly trained network for synthetic data.",
    "Scans unlike its training scans in channels, units, body region or extent: it gives no warning when it fails.",
    "A final segmentation model: train nnU-Net on your real and synthetic data for that.",
    (
        "As the only criterion for a method or checkpoint: higher agreement than on real held-out tumors means easy "
        "tumors, not good ones."
    ),
)


def _score_table(record: JudgeRecord) -> list[str]:
    """Return the lines of the table of held-out scores."""
    return [
        "| case | DSC | NSD |",
        "|---|---|---|",
        *(f"| {s.case} | {_cell(s.dice)} | {_cell(s.surface_dice)} |" for s in record.held_out),
        f"| mean | {_cell(record.mean_dice)} | {_cell(record.mean_surface_dice)} |",
    ]


def _mean(values: Sequence[float | None]) -> float:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else math.nan


def _cell(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"
