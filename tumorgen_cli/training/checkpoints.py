"""Checkpoints of a stage: saved atomically, resumed exactly, checked against the inputs of the stage."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tumorgen_cli.system.errors import Fault, StateError
from tumorgen_cli.system.files import check_hash, write_stream, write_text
from tumorgen_cli.system.json_records import read_fields, read_written
from tumorgen_cli.training.ema import ExponentialMovingAverage, named_tensors, set_tensors
from tumorgen_cli.training.stage import Stage, StageRun

PROGRESS = "progress.json"  # of a stage that is being trained, see `training.loop`
_LOG = "log.csv"


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


def read_run(folder: Path) -> StageRun:
    """Read the record of the finished stage in `folder`.

    Raises:
        StateError: The stage is not trained, or its record is damaged. As the remedy says, `tumorgen train` then
            finishes the stage again, from its last checkpoint if there is one.
    """
    path, remedy = folder / "run.json", f"run `tumorgen train {folder.name}`"
    if not path.is_file():
        fault = Fault(str(folder), "no finished run", "weights.safetensors and run.json", remedy)
        raise StateError("A stage is not trained", [fault])
    return read_written(StageRun, path, remedy, "the record of a finished stage", "The record of a stage is damaged")


def is_finished(folder: Path, inputs_hash: str, iterations: int | None = None) -> bool:
    """Whether the stage in `folder` is finished, made from these inputs, and at least `iterations` steps long."""
    if not (folder / "run.json").is_file():
        return False
    run = read_run(folder)
    return run.inputs_hash == inputs_hash and (iterations is None or run.iterations >= iterations)


def forget_damaged_run(folder: Path) -> StateError | None:
    """Delete the record of a finished stage if the record or the weights are damaged.

    The stage then counts as not finished, and its training goes on from the last checkpoint.

    Returns:
        What is damaged; None if nothing is, or if the stage is not finished.
    """
    if not (folder / "run.json").is_file():
        return None
    try:
        check_hash(folder / "weights.safetensors", read_run(folder).weights_hash, "")
    except StateError as error:
        (folder / "run.json").unlink()
        return error
    return None


def load_weights(models: Mapping[str, nn.Module], folder: Path) -> str:
    """Load the averaged weights of a finished stage into `models`.

    Returns:
        The hash of the weights file.

    Raises:
        StateError: The stage is not trained, its weights have changed since, or they do not fit the plan.
    """
    path, train = folder / "weights.safetensors", f"tumorgen train {folder.name}"
    run = read_run(folder)
    check_hash(path, run.weights_hash, f"run `{train}`")
    _load(models, path, f"run `{train} --restart`")
    return run.weights_hash


def load_initial_weights(models: Mapping[str, nn.Module], path: Path) -> None:
    """Load the weights that a stage starts from: safetensors of the same stage. Other tensors of the file are ignored.

    Raises:
        StateError: The file cannot be read or is damaged, or the weights do not fit the plan.
    """
    check_initial(path)
    _load(models, path, "give weights of a plan with the same networks, or plan with their widths")


def check_initial(path: Path) -> None:
    """Check given first weights against the record beside them: a stage's run.json, or a card.json that lists files.

    Raises:
        StateError: The weights have changed since the record was written.
    """
    run, card = path.with_name("run.json"), path.with_name("card.json")
    remedy = "copy the file again, or give other weights"
    expected = None
    if path.name == "weights.safetensors" and run.is_file():
        expected = read_fields(run, remedy, weights_hash=str)["weights_hash"]
    elif card.is_file():
        files = read_fields(card, remedy).get("files", {})
        expected = files.get(path.name, {}).get("sha256")
    if expected is not None:
        check_hash(path, expected, remedy)


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


def restart_folder(folder: Path) -> Path:
    """Where a stage is trained again from the beginning, while its finished run in `folder` stays in use."""
    return folder.with_name(f"{folder.name}.restart")


def settle_restart(folder: Path) -> None:
    """Put a finished restart in the place of the earlier run. After a kill in between, the next call completes it."""
    fresh, replaced = restart_folder(folder), folder.with_name(f"{folder.name}.replaced")
    if (fresh / "run.json").is_file():
        if folder.is_dir():
            shutil.rmtree(replaced, ignore_errors=True)
            folder.rename(replaced)
        fresh.rename(folder)
    shutil.rmtree(replaced, ignore_errors=True)


def read_checkpoint(path: Path, remedy: str) -> dict[str, Any] | None:
    """Read a checkpoint of `save_checkpoint` without running pickled code; None if there is none.

    Raises:
        StateError: The checkpoint is damaged.
    """
    if not path.is_file():
        return None
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        digest = saved.pop("digest", None)
        damaged = digest != _digest(saved)
        found = "other content than was written" if digest else "no checksum, as earlier versions wrote it"
    except Exception as error:  # noqa: BLE001  (torch's unpickler raises whatever a damaged file makes it run into)
        damaged, found = True, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"
    if damaged:
        raise StateError("A checkpoint is damaged", [Fault(str(path), found, "the checkpoint as written", remedy)])
    checkpoint: dict[str, Any] = saved
    return checkpoint


def resume_checkpoint(stage: Stage, folder: Path, state: TrainingState) -> None:
    """Load the last checkpoint of a stage, if there is one, into its networks and into `state`.

    Raises:
        StateError: The checkpoint is damaged, or it was made from other inputs.
    """
    path, restart = folder / "last.pt", f"run `tumorgen train {stage.name} --restart`"
    saved = read_checkpoint(path, restart)
    if saved is None:
        return
    if saved["inputs_hash"] != stage.inputs_hash:
        fault = Fault(
            str(path),
            "made from other data, healthy scans, plan or earlier stages",
            "the present ones",
            f"{restart} (what was trained is replaced when the new training is finished)",
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
    content = {**saved, "digest": _digest(saved)}
    write_stream(folder / "last.pt", lambda stream: torch.save(content, stream))
    _append_log(folder / _LOG, state.rows, state.step)
    state.rows.clear()


def _digest(content: Any) -> str:
    """A hash of nested dictionaries, lists, numbers and tensors."""
    digest = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, Tensor):
            digest.update(f"{part.dtype} {tuple(part.shape)}".encode())
            digest.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(part, Mapping):
            for key, value in part.items():
                digest.update(repr(key).encode())
                add(value)
        elif isinstance(part, (list, tuple)):
            for value in part:
                add(value)
        else:
            digest.update(repr(part).encode())

    add(content)
    return digest.hexdigest()


def _is_trained(module: nn.Module, key: str) -> bool:
    """Whether a tensor of a module's state is a buffer or a parameter that requires gradients."""
    parameters = dict(module.named_parameters())
    return key not in parameters or parameters[key].requires_grad


def read_log(folder: Path) -> list[dict[str, float]]:
    """The rows of a stage's log, one for every few steps; a row has the numbers that were logged at its step."""
    return [{name: float(text) for name, text in row.items() if _is_number(text)} for row in _read_log(folder / _LOG)]


def _append_log(path: Path, rows: list[dict[str, float]], step: int) -> None:
    """Append rows to the log, and drop the rows of a run that was killed after its last checkpoint."""
    first = rows[0]["step"] if rows else step + 1
    everything = [row for row in _read_log(path) if float(row["step"]) < first] + rows
    if not everything:
        return
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(dict.fromkeys(k for row in everything for k in row)))
    writer.writeheader()
    writer.writerows(everything)
    write_text(path, text.getvalue())


def _read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of the log that can be read; the log is for people, so a damaged one stops nothing."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8", errors="replace") as stream, contextlib.suppress(csv.Error):
        return [row for row in csv.DictReader(stream) if None not in row and _is_number(row.get("step"))]
    return []


def _is_number(text: str | None) -> bool:
    try:
        float(text or "")
    except ValueError:
        return False
    return True
