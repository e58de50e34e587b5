"""A training stage as a record: what is trained, on which batches, by which objective; and a finished run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Objective:
    """One optimiser's task: `module(batch)` returns the loss and numbers to log; its trainable parameters are trained."""

    name: str
    module: nn.Module
    learning_rate: float


@dataclass(frozen=True)
class Stage:
    """What the loop needs to know of a stage.

    Attributes:
        models: saved, EMA'd modules by name (parts of the objectives' modules).
        item: number -> arrays of one batch item (a pure function).
        preview: draws pictures into a folder with the EMA weights in place.
        finish: measures the EMA weights at the end; its numbers go into `run.json`.
        inputs_hash: what the stage was made from, data, plan section and earlier weights.
    """

    name: str
    title: str
    models: Mapping[str, nn.Module]
    objectives: tuple[Objective, ...]
    item: Callable[[int], dict[str, Any]]
    iterations: int
    batch: int
    ema: float
    inputs_hash: str
    preview: Callable[[Path], None] | None = None
    finish: Callable[[], dict[str, float]] | None = None
    previews: int = 6
    weight_decay: float = 1e-4
    clip_norm: float = 1.0


@dataclass(frozen=True)
class StageRun:
    """`run.json` of a finished stage."""

    stage: str
    inputs_hash: str
    iterations: int
    seconds: float
    device: str
    processes: int
    peak_memory_gib: float
    weights_hash: str
    numbers: dict[str, float] = field(default_factory=dict)
