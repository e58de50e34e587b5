"""One training loop for every stage of every method: checkpoints, resume, EMA, precision, several processes, previews.

Reads what the stage reads; writes into the stage's folder `last.pt` (the whole state), `weights.safetensors` (EMA
weights), `log.csv`, `previews/`, and last of all `run.json`. Imports neither SimpleITK nor nnunetv2.

Every item of every batch is a pure function of its number, so that a resumed run equals an unbroken one and N processes
compute what one computes, up to rounding.
"""

from __future__ import annotations

import contextlib
import csv
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from tumorgen_cli import console
from tumorgen_cli.devices import memory_told, peak_memory_gib, usable_cores
from tumorgen_cli.errors import Fault, StateError
from tumorgen_cli.files import atomic, hash_file, read_plain, write_json

CHECKPOINT_SECONDS = 60.0
_WARMUP = 100
_LOG_EVERY = 10
_LAST_RATE = 0.02


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
class Run:
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


class _Items(Dataset[dict[str, Any]]):
    def __init__(self, item: Callable[[int], dict[str, Any]], length: int) -> None:
        self.item, self.length = item, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self.item(number)


class _Share(Sampler[list[int]]):
    """The item numbers of this process, batch by batch, from a step on."""

    def __init__(self, first: int, last: int, batch: int, rank: int, world: int) -> None:
        self.first, self.last, self.batch, self.rank, self.world = first, last, batch, rank, world

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[int]]:
        share = self.batch // self.world
        for step in range(self.first, self.last):
            begin = step * self.batch + self.rank * share
            yield list(range(begin, begin + share))


class _Ema:
    """Exponential moving average of the models' parameters; buffers are copied."""

    def __init__(self, models: Mapping[str, nn.Module], decay: float) -> None:
        self.models, self.decay = models, decay
        self.state = {k: v.detach().clone() for k, v in _state(models).items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for key, value in _state(self.models).items():
            if value.is_floating_point():
                self.state[key].lerp_(value, 1 - decay)
            else:
                self.state[key].copy_(value)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The EMA weights in the models for the block."""
        own = {k: v.detach().clone() for k, v in _state(self.models).items()}
        _put(self.models, self.state)
        modes = {name: model.training for name, model in self.models.items()}
        for model in self.models.values():
            model.eval()
        try:
            with torch.no_grad():
                yield
                self.state = {k: v.detach().clone() for k, v in _state(self.models).items()}  # `finish` may set buffers
        finally:
            _put(self.models, own)
            for name, model in self.models.items():
                model.train(modes[name])


def _state(models: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for name, model in models.items() for key, value in model.state_dict().items()}


def _put(models: Mapping[str, nn.Module], state: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for key, value in _state(models).items():
            value.copy_(state[key])


def learning_rate_factor(step: int, iterations: int) -> float:
    """Linear warm-up over 100 steps (or a tenth), then cosine down to 2 %."""
    warmup = min(_WARMUP, max(1, iterations // 10))
    fraction = min(1.0, step / max(1, iterations))
    return min(1.0, (step + 1) / warmup) * (_LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(math.pi * fraction)))


def train(stage: Stage, folder: Path, device: str, precision: str, restart: bool = False) -> Run | None:
    """Trains a stage to its last iteration, from where it was; returns its record (None on other ranks).

    Raises:
        StateError: the state in `folder` was made from other inputs, or a loss is not finite.
    """
    accelerator = _accelerator(device, precision)
    if stage.batch % accelerator.num_processes:
        remedy = f"plan with --set methods.METHOD.{stage.name}.batch=N, or take another number of processes"
        fault = Fault(f"{stage.name}: batch", str(stage.batch), f"a multiple of {accelerator.num_processes} processes", remedy)
        raise StateError("The batch cannot be shared out", [fault])
    modules, optimizers = _prepared(stage, accelerator)
    ema = _Ema(stage.models, stage.ema)
    step, spent = _resume(stage, folder, ema, optimizers, restart)
    accelerator.wait_for_everyone()
    main = accelerator.is_main_process
    loader = DataLoader(
        _Items(stage.item, stage.iterations * stage.batch),
        batch_sampler=_Share(min(step, stage.iterations), stage.iterations, stage.batch, accelerator.process_index, accelerator.num_processes),
        num_workers=min(8, usable_cores()) if accelerator.device.type == "cuda" else 0,
        pin_memory=accelerator.device.type == "cuda",
    )
    preview_steps = {round(stage.iterations * (i + 1) / stage.previews) for i in range(stage.previews)} if stage.previews else set()
    begun = saved = time.monotonic()
    rows: list[dict[str, float]] = []
    with _stop_flag() as stop, console.progress(stage.title, max(step, stage.iterations), step, quiet=not main) as tick:
        for batch in loader:
            batch = {k: v.to(accelerator.device, non_blocking=True) for k, v in batch.items()}
            factor = learning_rate_factor(step, stage.iterations)
            with memory_told(stage.title):
                logs = _step(stage, accelerator, modules, optimizers, batch, factor)
            step += 1
            ema.update(step)
            if step % _LOG_EVERY == 0 or step == stage.iterations:
                row = {k: float(v) for k, v in logs.items()}
                _check_finite(row, step, folder)
                rows.append({"step": step, "seconds": round(spent + time.monotonic() - begun, 1), "rate": factor, **row})
                tick(step, " ".join(f"{o.name} {row[o.name]:.4f}" for o in stage.objectives))
            now, ends = time.monotonic(), _ends(accelerator, stop, step)
            if main and (now - saved > CHECKPOINT_SECONDS or ends or step == stage.iterations):
                _check_finite({k: float(v) for k, v in logs.items()}, step, folder)  # a checkpoint is always worth going on from
                _save(stage, folder, ema, optimizers, step, spent + now - begun, rows)
                saved = now
            if main and step in preview_steps and stage.preview:
                with ema.in_place():
                    stage.preview(folder / "previews" / f"step_{step:06d}.png")
            if ends:
                raise KeyboardInterrupt
    run = _finish(stage, folder, ema, accelerator, step, spent + time.monotonic() - begun) if main else None
    accelerator.wait_for_everyone()  # the next stage looks for the record of this one
    return run


def _finish(stage: Stage, folder: Path, ema: _Ema, accelerator: Accelerator, step: int, seconds: float) -> Run:
    """Writes the weights and, last, the record of a stage that has come to its end after `seconds`."""
    begun, numbers = time.monotonic(), {}
    if stage.finish:
        with ema.in_place():
            numbers = stage.finish()
    with atomic(folder / "weights.safetensors") as temporary:
        save_file({k: v.contiguous().cpu() for k, v in ema.state.items()}, str(temporary))
    _put(stage.models, ema.state)
    peak = torch.cuda.max_memory_allocated() / 2**30 if accelerator.device.type == "cuda" else peak_memory_gib()
    run = Run(
        stage.name, stage.inputs_hash, step, round(seconds + time.monotonic() - begun, 1), accelerator.device.type,
        accelerator.num_processes, round(peak, 2), hash_file(folder / "weights.safetensors"), numbers,
    )  # fmt: skip
    write_json(folder / "run.json", run)
    return run


def _ends(accelerator: Accelerator, stop: list[bool], step: int) -> bool:
    """Whether to save and stop: several processes ask each other now and then, so that all do so after the same step."""
    if accelerator.num_processes == 1:
        return bool(stop)
    if step % _LOG_EVERY:
        return False
    return bool(accelerator.reduce(torch.tensor(float(bool(stop)), device=accelerator.device)) > 0)


def seconds_a_step(stage: Stage, device: str, precision: str) -> float:
    """The mean seconds of a step of `train`, over all of a (short) stage's steps but the first; writes nothing.

    The weights move in memory: a stage that is measured is not to be used again.
    """
    accelerator = _accelerator(device, precision)
    modules, optimizers = _prepared(stage, accelerator)
    ema = _Ema(stage.models, stage.ema)
    took: list[float] = []
    for step in range(stage.iterations):
        begun = time.perf_counter()
        batch = default_collate([stage.item(number) for number in range(step * stage.batch, (step + 1) * stage.batch)])
        if accelerator.device.type == "cuda":  # there other processes draw the items meanwhile
            begun = time.perf_counter()
        logs = _step(stage, accelerator, modules, optimizers, {k: v.to(accelerator.device) for k, v in batch.items()}, 1.0)
        ema.update(step)
        _ = [float(value) for value in logs.values()]  # waits for the device
        took.append(time.perf_counter() - begun)
    return sum(took[1:]) / (len(took) - 1)


def _accelerator(device: str, precision: str) -> Accelerator:
    AcceleratorState._reset_state()  # a second stage of one process may use another precision
    return Accelerator(cpu=device == "cpu", mixed_precision="bf16" if precision == "bf16" else "no")


def _prepared(stage: Stage, accelerator: Accelerator) -> tuple[list[nn.Module], list[torch.optim.AdamW]]:
    """The objectives' modules on the device, ready to train, and an optimiser for each."""
    for objective in stage.objectives:
        objective.module.train()
        _mend_convolutions(objective.module)
    modules = [accelerator.prepare_model(o.module) for o in stage.objectives]
    optimizers = [
        torch.optim.AdamW(
            [p for p in m.parameters() if p.requires_grad], lr=o.learning_rate, weight_decay=stage.weight_decay, betas=(0.9, 0.99)
        )
        for m, o in zip(modules, stage.objectives, strict=True)
    ]
    return modules, optimizers


class _Convolution(nn.Conv3d):
    """A 3D convolution in fp32 where its input is narrower than its kernel, as at the bottom of a U-Net.

    On a CPU, bf16 there gives the weights a gradient of whatever lay in memory, now and then not finite (torch 2.15, oneDNN,
    AVX512-BF16; outputs and the input's gradient are right).
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if all(n >= k for n, k in zip(input.shape[2:], self.kernel_size, strict=True)):
            return super()._conv_forward(input, weight, bias)
        with torch.autocast(input.device.type, enabled=False):
            return super()._conv_forward(input.float(), weight, bias)


def _mend_convolutions(module: nn.Module) -> None:
    """Makes every `nn.Conv3d` of a module a `_Convolution`, in place."""
    for part in module.modules():
        if type(part) is nn.Conv3d:
            part.__class__ = _Convolution


def _step(
    stage: Stage, accelerator: Accelerator, modules: list[nn.Module], optimizers: list[torch.optim.AdamW], batch: dict[str, Any], factor: float
) -> dict[str, Tensor]:
    """One step of every objective at its learning rate times `factor`; returns what is logged."""
    logs: dict[str, Tensor] = {}
    for objective, module, optimizer in zip(stage.objectives, modules, optimizers, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = objective.learning_rate * factor
        loss, numbers = module(batch)
        optimizer.zero_grad(set_to_none=True)
        accelerator.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], stage.clip_norm)
        optimizer.step()
        logs |= {objective.name: loss.detach(), f"{objective.name}_gradient": norm, **numbers}
    return logs


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
            str(path), "made from other data, plan or earlier stages", "the present ones",
            f"`tumorgen train {stage.name} --restart` (what was trained is replaced)",
        )  # fmt: skip
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
    stage: Stage, folder: Path, ema: _Ema, optimizers: list[torch.optim.AdamW], step: int, seconds: float, rows: list[dict[str, float]]
) -> None:
    (folder / "run.json").unlink(missing_ok=True)  # not finished while it goes on
    models = _state(stage.models)
    shared = {v.data_ptr() for v in models.values()}
    extras = [  # what an objective trains beside the saved models, such as a discriminator
        {k: v for k, v in o.module.state_dict().items() if v.data_ptr() not in shared and _trained(o.module, k)} for o in stage.objectives
    ]
    state = {
        "inputs_hash": stage.inputs_hash, "step": step, "seconds": seconds, "models": models, "extras": extras, "ema": ema.state,
        "optimizers": [o.state_dict() for o in optimizers],
    }  # fmt: skip
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


def _check_finite(row: Mapping[str, float], step: int, folder: Path) -> None:
    bad = {k: v for k, v in row.items() if not math.isfinite(v)}
    if bad:
        again = "run the command again: it goes on from the last checkpoint"
        remedy = f"{again}; if it stops once more, lower the learning rate, or set precision=fp32, plan again and restart the stage"
        raise StateError("A loss is not finite", [Fault(f"{folder.name}, step {step}", str(bad), "finite numbers", remedy)])


@contextlib.contextmanager
def _stop_flag() -> Iterator[list[bool]]:
    """A list that is filled when the process is asked to end (SLURM sends SIGTERM): the loop then saves and stops."""
    flag: list[bool] = []
    try:
        before = signal.signal(signal.SIGTERM, lambda *_: flag.append(True))
    except ValueError:  # not the main thread
        yield flag
        return
    try:
        yield flag
    finally:
        signal.signal(signal.SIGTERM, before)
