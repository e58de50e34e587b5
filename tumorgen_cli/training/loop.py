"""The one training loop for every stage of every method.

It handles checkpoints, exact resume, the moving average of the weights, mixed precision, several processes and preview
pictures. It reads what the stage reads. Into the stage's folder it writes `last.pt` (the whole state),
`weights.safetensors` (averaged weights), `log.csv`, `previews/`, and at the very end `run.json`. While it trains,
`progress.json` has the finished steps (`step`) of all steps (`iterations`), the `seconds` they took, and the stage's
`inputs_hash`; a stop leaves the file. The loop imports neither SimpleITK nor nnunetv2.

Every item of every batch is a pure function of its number. Therefore a resumed run equals an uninterrupted one, and
several processes compute what one process computes, up to rounding.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from tumorgen_cli.system import console
from tumorgen_cli.system.devices import catch_out_of_memory, peak_memory_gib, usable_cores
from tumorgen_cli.system.errors import Fault, StateError
from tumorgen_cli.system.files import write_bytes
from tumorgen_cli.system.json_records import write_json
from tumorgen_cli.system.processes import ignore_stops, stop_later
from tumorgen_cli.training.checkpoints import PROGRESS, TrainingState, resume_checkpoint, save_checkpoint
from tumorgen_cli.training.ema import ExponentialMovingAverage, set_tensors
from tumorgen_cli.training.stage import Stage, StageRun
from tumorgen_cli.training.watch import Moment, Watcher

CHECKPOINT_SECONDS = 60.0
LOG_EVERY = 10  # steps
_PROGRESS_SECONDS = 2.0  # between two writes of it
_WARMUP = 100  # steps
_LAST_RATE = 0.02  # of the learning rate, at the last step
_MOST_WORKERS = 8


class _NumberedItems(Dataset[dict[str, Any]]):
    """The items of a stage as a data set of the given length."""

    def __init__(self, item: Callable[[int], dict[str, Any]], length: int) -> None:
        self.item, self.length = item, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self.item(number)


class _ProcessBatches(Sampler[list[int]]):
    """The item numbers of one process, batch by batch, from step `first` to before step `last`."""

    def __init__(self, first: int, last: int, batch: int, rank: int, processes: int) -> None:
        self.first, self.last, self.batch, self.rank, self.processes = first, last, batch, rank, processes

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[int]]:
        share = self.batch // self.processes
        for step in range(self.first, self.last):
            begin = step * self.batch + self.rank * share
            yield list(range(begin, begin + share))


def learning_rate_factor(step: int, iterations: int) -> float:
    """Factor of the learning rate: linear warm-up over 100 steps (or a tenth of them all), then cosine down to 2 %."""
    warmup = min(_WARMUP, max(1, iterations // 10))
    fraction = min(1.0, step / max(1, iterations))
    return min(1.0, (step + 1) / warmup) * (_LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(math.pi * fraction)))


def train(
    stage: Stage,
    folder: Path,
    device: str,
    precision: str,
    planned: int | None = None,
    tell: Watcher | None = None,
) -> StageRun | None:
    """Train a stage up to its last iteration, from the last checkpoint in `folder` if there is one.

    Args:
        stage: What to train.
        folder: Where checkpoints, weights, log and record are written.
        device: `cpu` or `cuda`.
        precision: `bf16` for mixed precision, otherwise single precision.
        planned: Steps that the plan gives the stage, for the record. None: those of `stage`.
        tell: Is told where the training is: before the first step and after each checkpoint. Only the first process
            tells.

    Returns:
        The record of the run; None on every process but the first.

    Raises:
        StateError: The checkpoint is damaged or was made from other inputs, the batch cannot be divided among the
            processes, or a loss is not finite.
        KeyboardInterrupt: The process was asked to end, by SIGTERM or Ctrl-C; the state is saved.
    """
    accelerator = _accelerator(device, precision)
    _check_batch(stage, folder, accelerator.num_processes)
    modules, optimizers = _prepare(stage, accelerator)
    state = TrainingState(ExponentialMovingAverage(stage.models, stage.ema), optimizers)
    resume_checkpoint(stage, folder, state)
    accelerator.wait_for_everyone()
    main, preview_steps = accelerator.is_main_process, _preview_steps(stage)
    tell = tell if main and tell is not None else _tell_nobody
    tell(_moment(stage, folder, state))
    parts, begun = _Parts(), time.monotonic()
    saved = begun
    spent, total, reported = state.seconds, max(state.step, stage.iterations), -math.inf
    with stop_later() as stop, console.progress(stage.title, total, state.step, quiet=not main) as tick:
        for batch in _loader(stage, state.step, accelerator):
            factor = learning_rate_factor(state.step, stage.iterations)
            with catch_out_of_memory(stage.title):
                moved = {key: value.to(accelerator.device, non_blocking=True) for key, value in batch.items()}
                logs = _step(stage, accelerator, modules, optimizers, moved, factor, parts)
            state.step += 1
            state.ema.update(state.step)
            state.seconds = spent + time.monotonic() - begun
            last = state.step == stage.iterations
            if state.step % LOG_EVERY == 0 or last:
                row = _checked_numbers(logs, stage, state.step, folder)
                state.rows.append({"step": state.step, "seconds": round(state.seconds, 1), "rate": factor, **row})
                tick(state.step, " ".join(f"{o.name} {row[o.name]:.4f}" for o in stage.objectives))
            now, ends = time.monotonic(), _should_stop(accelerator, stop, state.step)
            if main and (now - reported > _PROGRESS_SECONDS or ends):
                _report_progress(stage, folder, state)
                reported = now
            if main and (now - saved > CHECKPOINT_SECONDS or ends or last):
                _checked_numbers(logs, stage, state.step, folder)  # a state not finite never becomes a checkpoint
                save_checkpoint(stage, folder, state)
                console.detail(f"{stage.title}: checkpoint after step {state.step}")
                tell(_moment(stage, folder, state))
                saved = now
            if main and state.step in preview_steps and stage.preview:
                with state.ema.swapped_in():
                    stage.preview(folder / "previews" / f"step_{state.step:06d}.png")
            if ends:
                break
        if _should_stop(accelerator, stop, 0):  # also if the request came while the last step was saved
            if main:
                console.note(f"{stage.title}: the state after {state.step} of {total} steps is saved")
            raise stop[0] if stop else KeyboardInterrupt  # another process was asked to end
    state.seconds = spent + time.monotonic() - begun
    run = _finish(stage, folder, state, accelerator, planned or stage.iterations) if main else None
    accelerator.wait_for_everyone()  # the next stage looks for the record of this one
    return run


def seconds_per_step(
    stage: Stage, device: str, precision: str, clock: Callable[[], float] = time.perf_counter
) -> float:
    """The mean seconds of a training step, over all steps of a (short) stage but the first. Nothing is written.

    The networks change in memory: do not use a stage again after it was measured. `clock` returns seconds.
    """
    accelerator = _accelerator(device, precision)
    modules, optimizers = _prepare(stage, accelerator)
    ema = ExponentialMovingAverage(stage.models, stage.ema)
    durations: list[float] = []
    parts = _Parts()
    for step in range(stage.iterations):
        begun = clock()
        batch = default_collate([stage.item(number) for number in range(step * stage.batch, (step + 1) * stage.batch)])
        if accelerator.device.type == "cuda":  # there, other processes draw the items during the step
            begun = clock()
        moved = {key: value.to(accelerator.device) for key, value in batch.items()}
        logs = _step(stage, accelerator, modules, optimizers, moved, 1.0, parts)
        ema.update(step)
        _ = [float(value) for value in logs.values()]  # waits for the device
        durations.append(clock() - begun)
    return sum(durations[1:]) / (len(durations) - 1)


def _check_batch(stage: Stage, folder: Path, processes: int) -> None:
    """See that every process gets as many items of a batch as the others.

    Raises:
        StateError: The batch is not a multiple of the number of processes.
    """
    if stage.batch % processes:
        batch = processes * max(1, stage.batch // processes)
        setting = f"--set {_section(stage, folder)}.batch={batch}"
        remedy = f"plan with {setting}, or take another number of processes"
        fault = Fault(f"{stage.name}: batch", str(stage.batch), f"a multiple of {processes} processes", remedy)
        raise StateError("The batch cannot be divided among the processes", [fault])


def _section(stage: Stage, folder: Path) -> str:
    """The stage's section of the plan; without one of its own name, that of its folder runs/METHOD/STAGE."""
    return stage.section or f"methods.{folder.parent.name}.{stage.name}"


def _accelerator(device: str, precision: str) -> Accelerator:
    AcceleratorState._reset_state()  # noqa: SLF001  (no public way; a second stage may use another precision)
    return Accelerator(cpu=device == "cpu", mixed_precision="bf16" if precision == "bf16" else "no")


def _prepare(stage: Stage, accelerator: Accelerator) -> tuple[list[nn.Module], list[torch.optim.AdamW]]:
    """The modules of the objectives on the device, in training mode, and an optimizer for each."""
    for objective in stage.objectives:
        objective.module.train()
        _replace_convolutions(objective.module)
    modules = [accelerator.prepare_model(objective.module) for objective in stage.objectives]
    optimizers = [
        torch.optim.AdamW(
            [parameter for parameter in module.parameters() if parameter.requires_grad],
            lr=objective.learning_rate,
            weight_decay=stage.weight_decay,
            betas=(0.9, 0.99),
        )
        for module, objective in zip(modules, stage.objectives, strict=True)
    ]
    return modules, optimizers


def _loader(stage: Stage, step: int, accelerator: Accelerator) -> DataLoader[dict[str, Any]]:
    """The batches of this process from `step` up to the last iteration."""
    on_gpu = accelerator.device.type == "cuda"
    batches = _ProcessBatches(
        min(step, stage.iterations),
        stage.iterations,
        stage.batch,
        accelerator.process_index,
        accelerator.num_processes,
    )
    return DataLoader(
        _NumberedItems(stage.item, stage.iterations * stage.batch),
        batch_sampler=batches,
        num_workers=min(_MOST_WORKERS, usable_cores()) if on_gpu else 0,
        pin_memory=on_gpu,
        worker_init_fn=ignore_stops,
    )


def _preview_steps(stage: Stage) -> set[int]:
    """The steps after which a preview is drawn, evenly spaced; the last step is one of them."""
    return {round(stage.iterations * (i + 1) / stage.previews) for i in range(stage.previews)}


@dataclass
class _Parts:
    """Into how many parts a batch is divided, so that each fits into the memory of the GPU."""

    count: int = 1


def _step(
    stage: Stage,
    accelerator: Accelerator,
    modules: list[nn.Module],
    optimizers: list[torch.optim.AdamW],
    batch: dict[str, Any],
    factor: float,
    parts: _Parts,
) -> dict[str, Tensor]:
    """One step of every objective at its learning rate times `factor`; returns the numbers for the log."""
    logs: dict[str, Tensor] = {}
    for objective, module, optimizer in zip(stage.objectives, modules, optimizers, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = objective.learning_rate * factor
        optimizer.zero_grad(set_to_none=True)
        while (found := _gradients(module, accelerator, batch, parts.count)) is None:
            optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()  # of what the part that did not fit has left
            _divide_more(stage, parts, len(next(iter(batch.values()))))
        loss, numbers = found
        norm = torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], stage.clip_norm)
        optimizer.step()
        logs |= {objective.name: loss, f"{objective.name}_gradient": norm, **numbers}
    return logs


def _gradients(
    module: nn.Module, accelerator: Accelerator, batch: dict[str, Any], parts: int
) -> tuple[Tensor, dict[str, Tensor]] | None:
    """Compute the gradients of an objective, as means over a batch that is computed in parts.

    Returns:
        The loss and its terms; None if the memory of the GPU does not suffice for a part and smaller ones are possible.

    Raises:
        torch.cuda.OutOfMemoryError: a single item does not fit, or several processes train, which must keep in step.
    """
    size = len(next(iter(batch.values())))
    divided = zip(*(value.chunk(parts) for value in batch.values()), strict=True)
    means: dict[str, Tensor] = {}
    try:
        for values in divided:
            share = len(values[0]) / size
            loss, numbers = module(dict(zip(batch, values, strict=True)))
            accelerator.backward(loss if parts == 1 else share * loss)
            for name, value in {"": loss.detach(), **numbers}.items():
                means[name] = value if parts == 1 else means.get(name, 0.0) + share * value
    except torch.cuda.OutOfMemoryError:
        if parts >= size or accelerator.num_processes > 1:
            raise
        return None
    return means.pop(""), means


def _divide_more(stage: Stage, parts: _Parts, size: int) -> None:
    """Divide batches of `size` items into twice as many parts, and say so."""
    parts.count = min(size, 2 * parts.count)
    each = math.ceil(size / parts.count)
    console.warn(
        f"{stage.title}: the GPU's memory does not suffice; from here on {each} of a batch's {size} items are computed "
        "at a time, with the same mean, which takes a little longer"
    )


def _checked_numbers(logs: Mapping[str, Tensor], stage: Stage, step: int, folder: Path) -> dict[str, float]:
    """The numbers of the log as floats.

    Raises:
        StateError: One of them is not finite.
    """
    row = {key: float(value) for key, value in logs.items()}
    bad = {key: value for key, value in row.items() if not math.isfinite(value)}
    if bad:
        remedy = (
            "run the command again: it continues from the last checkpoint; if it stops once more, plan again with "
            f"--set precision=fp32 or a lower --set {_section(stage, folder)}.learning_rate=RATE, then "
            f"run `tumorgen train {stage.name} --restart`"
        )
        fault = Fault(f"{folder.name}, step {step}", str(bad), "finite numbers", remedy)
        raise StateError("A loss is not finite", [fault])
    return row


def _should_stop(accelerator: Accelerator, stop: Sequence[KeyboardInterrupt], step: int) -> bool:
    """Whether to save the state and stop.

    Several processes agree on it every few steps, so that all of them stop after the same step.
    """
    if accelerator.num_processes == 1:
        return bool(stop)
    if step % LOG_EVERY:
        return False
    return bool(accelerator.reduce(torch.tensor(float(bool(stop)), device=accelerator.device)) > 0)


def _moment(stage: Stage, folder: Path, state: TrainingState) -> Moment:
    """Where the training is."""
    return Moment(stage.name, stage.title, folder, state.step, stage.iterations, state.seconds)


def _tell_nobody(_: Moment) -> None:
    """Nobody follows the training."""


def _report_progress(stage: Stage, folder: Path, state: TrainingState) -> None:
    """Write `progress.json`, see the module."""
    progress = {"inputs_hash": stage.inputs_hash, "step": state.step, "iterations": stage.iterations}
    write_json(folder / PROGRESS, {**progress, "seconds": round(state.seconds, 1)})


def _finish(stage: Stage, folder: Path, state: TrainingState, accelerator: Accelerator, planned: int) -> StageRun:
    """Measure the averaged weights, then write them and, last, the record of the run."""
    begun, numbers = time.monotonic(), {}
    if stage.finish:
        with state.ema.swapped_in():
            numbers = stage.finish()
    (folder / "run.json").unlink(missing_ok=True)  # of a shorter training, whose weights are replaced
    tensors = {key: value.contiguous().cpu() for key, value in state.ema.state.items()}
    weights_hash = write_bytes(folder / "weights.safetensors", save(tensors))
    set_tensors(stage.models, state.ema.state)
    peak = torch.cuda.max_memory_allocated() / 2**30 if accelerator.device.type == "cuda" else peak_memory_gib()
    run = StageRun(
        stage=stage.name,
        inputs_hash=stage.inputs_hash,
        iterations=state.step,
        planned_iterations=planned,
        seconds=round(state.seconds + time.monotonic() - begun, 1),
        device=accelerator.device.type,
        processes=accelerator.num_processes,
        peak_memory_gib=round(peak, 2),
        weights_hash=weights_hash,
        numbers=numbers,
    )
    write_json(folder / "run.json", run)
    (folder / PROGRESS).unlink(missing_ok=True)
    return run


class _Convolution(nn.Conv3d):
    """A 3D convolution that computes in single precision where its input is narrower than its kernel.

    This occurs at the bottom of a U-Net. On a CPU, bf16 there gives the weights a gradient of uninitialized memory,
    which is sometimes not finite (torch 2.15, oneDNN, AVX512-BF16). The outputs and the gradient of the input are
    correct.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002  (torch's name)
        if all(n >= k for n, k in zip(input.shape[2:], self.kernel_size, strict=True)):
            return super()._conv_forward(input, weight, bias)
        with torch.autocast(input.device.type, enabled=False):
            return super()._conv_forward(input.float(), weight, bias)


def _replace_convolutions(module: nn.Module) -> None:
    """Turn every `nn.Conv3d` of a module into a `_Convolution`, in place."""
    for part in module.modules():
        if type(part) is nn.Conv3d:
            part.__class__ = _Convolution
