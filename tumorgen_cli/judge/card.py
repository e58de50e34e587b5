"""A judge's record and model card: what it learned from, its scores on held-out cases, its limits."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tumorgen_cli.geometry import Shape, Triple
from tumorgen_cli.nnunet.job import CONFIGURATION, Schedule
from tumorgen_cli.nnunet.results import FINAL
from tumorgen_cli.system import console
from tumorgen_cli.system.files import atomic


@dataclass(frozen=True)
class HeldOutScore:
    """How well the judge finds the tumors of a held-out case, in the whole scan; None where it has and finds none."""

    case: str
    dice: float | None
    surface_dice: float | None
    seconds: float


@dataclass(frozen=True)
class JudgeRecord:
    """`judge.json`. `spacing_mm` and `patch` are in the order x, y, z; `seconds` are those of nnU-Net's epochs."""

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
        """Over the held-out cases where it is defined; nan where it is nowhere."""
        return _mean([score.dice for score in self.held_out])

    @property
    def mean_surface_dice(self) -> float:
        return _mean([score.surface_dice for score in self.held_out])


def copy_judge(folder: Path, out: Path) -> None:
    """Copies what a judge is made of, and nothing of how it was made: the log and dataset_fingerprint.json stay."""
    for name in ("plans.json", "dataset.json", f"fold_all/{FINAL}", "MODEL_CARD.md", "judge.json"):
        with atomic(out / name) as temporary:
            shutil.copyfile(folder / name, temporary)


def model_card(record: JudgeRecord, title: str, data: str, command: str, limits: Sequence[str]) -> str:
    """A judge's card as Markdown: what it is, what it was trained on, its scores, what it must not be used for."""
    schedule = record.schedule
    spacing, patch = (" × ".join(f"{v:.4g}" for v in triple) for triple in (record.spacing_mm, record.patch))
    rows = [f"| {s.case} | {_cell(s.dice)} | {_cell(s.surface_dice)} |" for s in record.held_out]
    lines = [
        f"# {title}",
        "",
        f"An nnU-Net v2 ({CONFIGURATION}, fold `all`, nnunetv2 {record.versions['nnunetv2']}) that marks `{record.tumor_name}`. TumorGen takes it "
        "as the judge of synthetic pairs: do mask and picture agree? It is an nnU-Net results folder without optimiser state; its checkpoint loads "
        "with `torch.load(..., weights_only=True)`.",
        "",
        f"* Network: {record.parameters / 1e6:.2f} million parameters, features {'-'.join(map(str, record.features))}, patch {patch} voxels of "
        f"{spacing} mm (x, y, z), batch {record.batch}.",
        f"* Training: {schedule.epochs} epochs of {schedule.iterations} iterations, {console.clock(record.seconds)} on {record.device} "
        f"({record.precision}), seed {record.seed}. Epochs were fitted to {record.minutes:g} minutes.",
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
        f"Whole scans; NSD at {record.tolerance_mm:g} mm. None of these cases was trained on or chose anything.",
        "",
        "| case | DSC | NSD |",
        "|---|---|---|",
        *rows,
        f"| mean | {_cell(record.mean_dice)} | {_cell(record.mean_surface_dice)} |",
        "",
        "## What it must not be used for",
        "",
        *(f"* {limit}" for limit in limits),
        "",
    ]
    return "\n".join(lines)


LIMITS = (
    "Diagnosis, treatment, or any decision about a patient: it is a yardstick for synthetic data, small and briefly trained.",
    "Scans unlike those it learned from, in channels, units, body region or extent: it gives no sign that it is lost.",
    "A final model: train nnU-Net on your data, real and synthetic, for that.",
    "Choosing a method or checkpoint alone: agreement above what real held-out tumors reach speaks of easy tumors, not of good ones.",
)


def _mean(values: Sequence[float | None]) -> float:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else math.nan


def _cell(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"
