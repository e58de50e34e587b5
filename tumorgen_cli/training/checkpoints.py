"""Checkpoints: saved atomically, resumed exactly, checked against the stage that wrote them."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from tumorgen_cli.system.errors import Fault, StateError
from tumorgen_cli.system.files import atomic, hash_file
from tumorgen_cli.system.json_records import read_plain
from tumorgen_cli.training.ema import _Ema, _put, _state
from tumorgen_cli.training.stage import Stage


def finished(folder: Path, inputs_hash: str, iterations: int | None = None) -> bool:
    """Whether the stage in `folder` is finished, made from these inputs, and long enough."""
    path = folder / "run.json"
    if not path.is_file():
        return False
    run = read_plain(path, "train the stage again")
    return run["inputs_hash"] == inputs_hash and (iterations is None or run["iterations"] >= iterations)


def load_weights(models: Mapping[str, nn.Module], folder: Path) -> str:
    """Puts the EMA weights of a finished stage into `models`; returns the file's hash.

    Raises:
        StateError: not trained, or the weights do not fit the plan.
    """
    path, train = folder / "weights.safetensors", f"tumorgen train {folder.name}"
    if not (folder / "run.json").is_file() or not path.is_file():
        fault = Fault(str(folder), "no finished run", "weights.safetensors and run.json", f"run `{train}`")
        raise StateError("A stage is not trained", [fault])
    state = load_file(path)
    for name, model in models.items():
        part = {key[len(name) + 1 :]: value for key, value in state.items() if key.startswith(f"{name}.")}
        try:
            model.load_state_dict(part)
        except RuntimeError as error:
            found = str(error).splitlines()[-1].strip()
            fault = Fault(str(path), found, f"the plan's {name}", f"run `{train} --restart`")
            raise StateError("Weights do not fit", [fault]) from error
    return hash_file(path)


def _resume(
    stage: Stage, folder: Path, ema: _Ema, optimizers: list[torch.optim.AdamW], restart: bool
) -> tuple[int, float]:
    """Puts the saved state into place; returns the step to go on from and the seconds spent so far."""
    path = folder / "last.pt"
    if restart:  # or a kill before the first checkpoint would bring the old run back
        for old in (path, folder / "run.json", folder / "log.csv"):
            old.unlink(missing_ok=True)
    if not path.is_file():
        return 0, 0.0
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["inputs_hash"] != stage.inputs_hash:
        fault = Fault(
            str(path),
            "made from other data, plan or earlier stages",
            "the present ones",
            f"`tumorgen train {stage.name} --restart` (what was trained is replaced)",
        )
        raise StateError(f"The {stage.name} stage is stale", [fault])
    _put(stage.models, state["models"])
    for objective, extra in zip(stage.objectives, state["extras"], strict=True):
        objective.module.load_state_dict(extra, strict=False)
    with torch.no_grad():
        for key, value in ema.state.items():
            value.copy_(state["ema"][key])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"], state["seconds"]


def _save(
    stage: Stage,
    folder: Path,
    ema: _Ema,
    optimizers: list[torch.optim.AdamW],
    step: int,
    seconds: float,
    rows: list[dict[str, float]],
) -> None:
    (folder / "run.json").unlink(missing_ok=True)  # not finished while it goes on
    models = _state(stage.models)
    shared = {v.data_ptr() for v in models.values()}
    extras = [  # what an objective trains beside the saved models, such as a discriminator
        {k: v for k, v in o.module.state_dict().items() if v.data_ptr() not in shared and _trained(o.module, k)}
        for o in stage.objectives
    ]
    state = {
        "inputs_hash": stage.inputs_hash,
        "step": step,
        "seconds": seconds,
        "models": models,
        "extras": extras,
        "ema": ema.state,
        "optimizers": [o.state_dict() for o in optimizers],
    }
    with atomic(folder / "last.pt") as temporary:
        torch.save(state, temporary)
    _append_log(folder / "log.csv", rows, step)
    rows.clear()


def _trained(module: nn.Module, key: str) -> bool:
    parameters = dict(module.named_parameters())
    return key not in parameters or parameters[key].requires_grad


def _append_log(path: Path, rows: list[dict[str, float]], step: int) -> None:
    """Adds rows, and drops those of a run that was killed after its last checkpoint."""
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
