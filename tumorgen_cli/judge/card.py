"""A judge's record and model card: the cases it learned from, its scores on held-out cases, its limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tumorgen_cli.geometry import Shape, Triple
from tumorgen_cli.nnunet.job import CONFIGURATION, Schedule
from tumorgen_cli.system import console


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

    `spacing_mm` and `patch` are in the order x, y, z. `seconds` is the time of all of nnU-Net's epochs.
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

    @property
    def mean_dice(self) -> float:
        """Mean over the held-out cases in which Dice is defined; nan if there are none."""
        return _mean([score.dice for score in self.held_out])

    @property
    def mean_surface_dice(self) -> float:
        """Mean over the held-out cases in which surface Dice is defined; nan if there are none."""
        return _mean([score.surface_dice for score in self.held_out])


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
        f"Trained on {len(record.cases)} cases: {', '.join(record.cases)}.",
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
