"""Checkpoints of a stage: saved atomically, resumed exactly, checked against the inputs of the stage."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from tumorgen_cli.system.errors import Fault, StateError
from tumorgen_cli.system.files import atomic, hash_file
from tumorgen_cli.system.json_records import read_plain
from tumorgen_cli.training.ema import ExponentialMovingAverage, named_tensors, set_tensors
from tumorgen_cli.training.stage import Stage


@dataclass
class TrainingState:
    """What changes while a stage is trained, beside the weights of its networks.

    Attributes:
        ema: moving average of the weights.
        optimizers: one for each objective.
        step: number of finished training steps.
        seconds: wall-clock time spent so far, over all interruptions.
        rows: rows of the log that are not yet on disk.
    """

    ema: ExponentialMovingAverage
    optimizers: list[torch.optim.AdamW]
    step: int = 0
    seconds: float = 0.0
    rows: list[dict[str, float]] = field(default_factory=list)


def is_finished(folder: Path, inputs_hash: str, iterations: int | None = None) -> bool:
    """Whether the stage in `folder` is finished, made from these inputs, and at least `iterations` steps long."""
    path = folder / "run.json"
    if not path.is_file():
        return False
    run = read_plain(path, "train the stage again")
    return run["inputs_hash"] == inputs_hash and (iterations is None or run["iterations"] >= iterations)


def load_weights(models: Mapping[str, nn.Module], folder: Path) -> str:
    """Load the averaged weights of a finished stage into `models`.

    Returns:
        The hash of the weights file.

    Raises:
        StateError: The stage is not trained, or the weights do not fit the plan.
    """
    path, train = folder / "weights.safetensors", f"tumorgen train {folder.name}"
    if not (folder / "run.json").is_file() or not path.is_file():
        fault = Fault(str(folder), "no finished run", "weights.safetensors and run.json", f"run `{train}`")
        raise StateError("A stage is not trained", [fault])
    _load(models, path, f"run `{train} --restart`")
    return hash_file(path)


def load_initial_weights(models: Mapping[str, nn.Module], path: Path) -> None:
    """Load the weights that a stage starts from: safetensors of the same stage. Other tensors of the file are ignored.

    Raises:
        StateError: The file cannot be read, or the weights do not fit the plan.
    """
    _load(models, path, "give weights of a plan with the same networks, or plan with their widths")


def _load(models: Mapping[str, nn.Module], path: Path, remedy: str) -> None:
    """Load each model's tensors, whose keys start with the model's name, from a safetensors file."""
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        fault = Fault(str(path), str(error)[:120], "a safetensors file", remedy)
        raise StateError("Weights cannot be read", [fault]) from error
    for name, model in models.items():
        part = {key[len(name) + 1 :]: value for key, value in state.items() if key.startswith(f"{name}.")}
        try:
            model.load_state_dict(part)
        except RuntimeError as error:
            found = str(error).splitlines()[-1].strip()
            raise StateError("Weights do not fit", [Fault(str(path), found, f"the plan's {name}", remedy)]) from error


def remove_run(folder: Path) -> None:
    """Delete the checkpoint, the record and the log of an earlier run, so that a stage starts from the beginning.

    They are deleted before the first step: if the new run is killed before its first checkpoint, the old run does not
    come back.
    """
    for name in ("last.pt", "run.json", "log.csv"):
        (folder / name).unlink(missing_ok=True)


def resume_checkpoint(stage: Stage, folder: Path, state: TrainingState) -> None:
    """Load the last checkpoint of a stage, if there is one, into its networks and into `state`.

    Raises:
        StateError: The checkpoint was made from other inputs.
    """
    path = folder / "last.pt"
    if not path.is_file():
        return
    saved = torch.load(path, map_location="cpu", weights_only=True)
    if saved["inputs_hash"] != stage.inputs_hash:
        fault = Fault(
            str(path),
            "made from other data, plan or earlier stages",
            "the present ones",
            f"`tumorgen train {stage.name} --restart` (what was trained is replaced)",
        )
        raise StateError(f"The {stage.name} stage is stale", [fault])
    set_tensors(stage.models, saved["models"])
    for objective, extra in zip(stage.objectives, saved["extras"], strict=True):
        objective.module.load_state_dict(extra, strict=False)
    with torch.no_grad():
        for key, value in state.ema.state.items():
            value.copy_(saved["ema"][key])
    for optimizer, saved_optimizer in zip(state.optimizers, saved["optimizers"], strict=True):
        optimizer.load_state_dict(saved_optimizer)
    state.step, state.seconds = saved["step"], saved["seconds"]


def save_checkpoint(stage: Stage, folder: Path, state: TrainingState) -> None:
    """Save networks, objectives, average and optimizers to `last.pt`, and append the rows of the log."""
    (folder / "run.json").unlink(missing_ok=True)  # while the training continues, the stage is not finished
    models = named_tensors(stage.models)
    shared = {value.data_ptr() for value in models.values()}
    extras = [  # what an objective trains beside the saved networks, such as a discriminator
        {
            key: value
            for key, value in objective.module.state_dict().items()
            if value.data_ptr() not in shared and _is_trained(objective.module, key)
        }
        for objective in stage.objectives
    ]
    saved = {
        "inputs_hash": stage.inputs_hash,
        "step": state.step,
        "seconds": state.seconds,
        "models": models,
        "extras": extras,
        "ema": state.ema.state,
        "optimizers": [optimizer.state_dict() for optimizer in state.optimizers],
    }
    with atomic(folder / "last.pt") as temporary:
        torch.save(saved, temporary)
    _append_log(folder / "log.csv", state.rows, state.step)
    state.rows.clear()


def _is_trained(module: nn.Module, key: str) -> bool:
    """Whether a tensor of a module's state is a buffer or a parameter that requires gradients."""
    parameters = dict(module.named_parameters())
    return key not in parameters or parameters[key].requires_grad


def _append_log(path: Path, rows: list[dict[str, float]], step: int) -> None:
    """Append rows to the log, and drop the rows of a run that was killed after its last checkpoint."""
    kept: list[dict[str, Any]] = []
    if path.is_file():
        first = rows[0]["step"] if rows else step + 1
        with path.open(newline="") as stream:
            kept = [row for row in csv.DictReader(stream) if float(row["step"]) < first]
    everything = kept + rows
    if not everything:
        return
    with atomic(path) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(dict.fromkeys(k for row in everything for k in row)))
        writer.writeheader()
        writer.writerows(everything)
