"""A training stage as a record: the networks, the batches, the objectives; and the record of a finished run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Objective:
    """What one optimizer minimizes.

    Attributes:
        name: column of the loss in the log.
        module: `module(batch)` returns the loss and a dictionary of numbers to log. Its parameters that require
            gradients are trained.
        learning_rate: learning rate after the warm-up.
    """

    name: str
    module: nn.Module
    learning_rate: float


@dataclass(frozen=True)
class Stage:
    """Everything the training loop needs to know about a stage.

    Attributes:
        name: name of the stage and of its folder.
        title: name in the progress bar and in messages.
        models: the networks that are averaged and saved, by name; they are parts of the objectives' modules.
        objectives: trained one after the other in every step.
        item: returns the arrays of one batch item for its number. It must be a pure function.
        iterations: training steps.
        batch: items per step, of all processes together.
        ema: largest decay of the moving average of the weights.
        inputs_hash: hash of what the stage is made from: data, section of the plan, weights of earlier stages.
        preview: writes a picture to a path, with the averaged weights in the networks.
        finish: measures the averaged weights at the end; its numbers go into `run.json`.
        previews: number of preview pictures during the training.
        weight_decay: weight decay of AdamW.
        clip_norm: largest norm of an objective's gradient.
        section: its section of the plan, such as methods.tumorgen.flow, if that is not named after folder and stage.
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
    section: str = ""


@dataclass(frozen=True)
class StageRun:
    """Record of a finished stage, the content of `run.json`.

    Attributes:
        stage: name of the stage.
        inputs_hash: see `Stage`.
        iterations: training steps.
        planned_iterations: training steps that the plan gives the stage.
        seconds: wall-clock time of the training, over all interruptions.
        device: `cpu` or `cuda`.
        processes: number of processes.
        peak_memory_gib: peak memory: of the GPU on `cuda`, of the process on `cpu`.
        weights_hash: hash of `weights.safetensors`.
        numbers: what `Stage.finish` measured.
    """

    stage: str
    inputs_hash: str
    iterations: int
    planned_iterations: int
    seconds: float
    device: str
    processes: int
    peak_memory_gib: float
    weights_hash: str
    numbers: dict[str, float] = field(default_factory=dict)
