"""One training loop for every stage of every method: checkpoints, resume, EMA, precision, several processes, previews.

Reads what the stage reads; writes into the stage's folder `last.pt` (the whole state), `weights.safetensors` (EMA
weights), `log.csv`, `previews/`, and last of all `run.json`. Imports neither SimpleITK nor nnunetv2.

Every item of every batch is a pure function of its number, so that a resumed run equals an unbroken one and N processes
compute what one computes, up to rounding.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from tumorgen_cli.system import console
from tumorgen_cli.system.devices import catch_out_of_memory, peak_memory_gib, usable_cores
from tumorgen_cli.system.errors import Fault, StateError
from tumorgen_cli.system.files import atomic, hash_file
from tumorgen_cli.system.json_records import write_json
from tumorgen_cli.training.checkpoints import _resume, _save
from tumorgen_cli.training.ema import _Ema, _put
from tumorgen_cli.training.stage import Stage, StageRun

CHECKPOINT_SECONDS = 60.0
_WARMUP = 100
_LOG_EVERY = 10
_LAST_RATE = 0.02


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


def learning_rate_factor(step: int, iterations: int) -> float:
    """Linear warm-up over 100 steps (or a tenth), then cosine down to 2 %."""
    warmup = min(_WARMUP, max(1, iterations // 10))
    fraction = min(1.0, step / max(1, iterations))
    return min(1.0, (step + 1) / warmup) * (_LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(math.pi * fraction)))


def train(stage: Stage, folder: Path, device: str, precision: str, restart: bool = False) -> StageRun | None:
    """Trains a stage to its last iteration, from where it was; returns its record (None on other ranks).

    Raises:
        StateError: the state in `folder` was made from other inputs, or a loss is not finite.
    """
    accelerator = _accelerator(device, precision)
    if stage.batch % accelerator.num_processes:
        remedy = f"plan with --set methods.METHOD.{stage.name}.batch=N, or take another number of processes"
        fault = Fault(
            f"{stage.name}: batch", str(stage.batch), f"a multiple of {accelerator.num_processes} processes", remedy
        )
        raise StateError("The batch cannot be shared out", [fault])
    modules, optimizers = _prepared(stage, accelerator)
    ema = _Ema(stage.models, stage.ema)
    step, spent = _resume(stage, folder, ema, optimizers, restart)
    accelerator.wait_for_everyone()
    main = accelerator.is_main_process
    loader = DataLoader(
        _Items(stage.item, stage.iterations * stage.batch),
        batch_sampler=_Share(
            min(step, stage.iterations),
            stage.iterations,
            stage.batch,
            accelerator.process_index,
            accelerator.num_processes,
        ),
        num_workers=min(8, usable_cores()) if accelerator.device.type == "cuda" else 0,
        pin_memory=accelerator.device.type == "cuda",
    )
    preview_steps = (
        {round(stage.iterations * (i + 1) / stage.previews) for i in range(stage.previews)} if stage.previews else set()
    )
    begun = saved = time.monotonic()
    rows: list[dict[str, float]] = []
    with _stop_flag() as stop, console.progress(stage.title, max(step, stage.iterations), step, quiet=not main) as tick:
        for batch in loader:
            batch = {k: v.to(accelerator.device, non_blocking=True) for k, v in batch.items()}
            factor = learning_rate_factor(step, stage.iterations)
            with catch_out_of_memory(stage.title):
                logs = _step(stage, accelerator, modules, optimizers, batch, factor)
            step += 1
            ema.update(step)
            if step % _LOG_EVERY == 0 or step == stage.iterations:
                row = {k: float(v) for k, v in logs.items()}
                _check_finite(row, step, folder)
                rows.append(
                    {"step": step, "seconds": round(spent + time.monotonic() - begun, 1), "rate": factor, **row}
                )
                tick(step, " ".join(f"{o.name} {row[o.name]:.4f}" for o in stage.objectives))
            now, ends = time.monotonic(), _ends(accelerator, stop, step)
            if main and (now - saved > CHECKPOINT_SECONDS or ends or step == stage.iterations):
                _check_finite(
                    {k: float(v) for k, v in logs.items()}, step, folder
                )  # a checkpoint is always worth going on from
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


def _finish(stage: Stage, folder: Path, ema: _Ema, accelerator: Accelerator, step: int, seconds: float) -> StageRun:
    """Writes the weights and, last, the record of a stage that has come to its end after `seconds`."""
    begun, numbers = time.monotonic(), {}
    if stage.finish:
        with ema.in_place():
            numbers = stage.finish()
    with atomic(folder / "weights.safetensors") as temporary:
        save_file({k: v.contiguous().cpu() for k, v in ema.state.items()}, str(temporary))
    _put(stage.models, ema.state)
    peak = torch.cuda.max_memory_allocated() / 2**30 if accelerator.device.type == "cuda" else peak_memory_gib()
    run = StageRun(
        stage.name,
        stage.inputs_hash,
        step,
        round(seconds + time.monotonic() - begun, 1),
        accelerator.device.type,
        accelerator.num_processes,
        round(peak, 2),
        hash_file(folder / "weights.safetensors"),
        numbers,
    )
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
        logs = _step(
            stage, accelerator, modules, optimizers, {k: v.to(accelerator.device) for k, v in batch.items()}, 1.0
        )
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
            [p for p in m.parameters() if p.requires_grad],
            lr=o.learning_rate,
            weight_decay=stage.weight_decay,
            betas=(0.9, 0.99),
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
    stage: Stage,
    accelerator: Accelerator,
    modules: list[nn.Module],
    optimizers: list[torch.optim.AdamW],
    batch: dict[str, Any],
    factor: float,
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


def _check_finite(row: Mapping[str, float], step: int, folder: Path) -> None:
    bad = {k: v for k, v in row.items() if not math.isfinite(v)}
    if bad:
        again = "run the command again: it goes on from the last checkpoint"
        remedy = f"{again}; if it stops once more, lower the learning rate, or set precision=fp32, plan again and restart the stage"
        raise StateError(
            "A loss is not finite", [Fault(f"{folder.name}, step {step}", str(bad), "finite numbers", remedy)]
        )


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
