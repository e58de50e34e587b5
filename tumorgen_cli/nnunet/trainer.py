"""nnU-Net's trainer with TumorGen's schedule: fitted to the given minutes, resumable, and usable in bf16 on a CPU.

Importing this module imports torch and nnunetv2; only the child process does so.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.logging.nnunet_logger import MetaLogger
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from tumorgen_cli.nnunet.job import CONFIGURATION, TRAINER, Schedule, TrainingJob
from tumorgen_cli.nnunet.on_the_fly.settings import Painting
from tumorgen_cli.nnunet.on_the_fly.trainer import PaintingMixin
from tumorgen_cli.nnunet.results import BEST, FINAL
from tumorgen_cli.nnunet.schedule import MIN_EPOCHS, VALIDATION_ITERATIONS, choose_schedule
from tumorgen_cli.nnunet.segmentors import TRANSFORMERS, has_own_network
from tumorgen_cli.system.files import write_stream
from tumorgen_cli.system.json_records import read_record, to_plain, write_json

_SAVE_SECONDS = 60.0
# nnU-Net's queues hold 12 batches at the start: these come faster than its workers make them
_WARMUP_ITERATIONS, _TIMED_ITERATIONS = 12, 12
_ADAM_RATE, _ADAM_DECAY = 1e-4, 1e-5
_ASIDE_EVERY = 5  # iterations to one on cases held aside: nnU-Net's own 250 and 50
_CPU_ITERATIONS, _CUDA_ITERATIONS = 50, 250  # per epoch; 250 is nnU-Net's own number


class PlainLogger(MetaLogger):
    """nnU-Net's logger without the progress plot, which takes seconds after every epoch."""

    def plot_progress_png(self, output_folder: str) -> None:
        """Plot nothing."""


class OwnTrainer(nnUNetTrainer):
    """nnU-Net's trainer with a schedule fitted to the minutes, checkpoints of plain values, and bf16 on CPU.

    nnU-Net names the results folder after the class and copies the parameters of `__init__`, so job and progress
    function are class attributes, which `trainer_class` sets.
    """

    job: TrainingJob
    report_progress: Callable[[int, int, str], None]

    def __init__(
        self, plans: dict[str, Any], configuration: str, fold: str, dataset_json: dict[str, Any], device: torch.device
    ) -> None:
        resume = plans["continue_training"]  # nnU-Net's __init__ removes it
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.enable_deep_supervision = has_own_network(self.job.segmentor)
        self.logger = PlainLogger(self.output_folder, resume)
        self.num_val_iterations_per_epoch = VALIDATION_ITERATIONS
        self.schedule_file = Path(self.output_folder) / "schedule.json"
        self.has_schedule = self.schedule_file.is_file()
        self.is_counting = False
        if self.has_schedule:
            remedy = f"delete {self.output_folder}, then run the same command again"
            self.apply_schedule(read_record(Schedule, self.schedule_file, remedy))

    def apply_schedule(self, schedule: Schedule) -> None:
        """Set the number of epochs and iterations, and how often a checkpoint is saved."""
        self.num_epochs, self.num_iterations_per_epoch = schedule.epochs, schedule.iterations
        if self.job.aside:
            self.num_val_iterations_per_epoch = max(VALIDATION_ITERATIONS, schedule.iterations // _ASIDE_EVERY)
        epoch_seconds = schedule.iterations * schedule.seconds_per_iteration
        self.save_every = max(1, min(round(_SAVE_SECONDS / epoch_seconds), schedule.epochs // MIN_EPOCHS))

    def do_split(self) -> tuple[list[str], list[str]]:
        """Return the job's training cases, and the cases for the validation that nnU-Net requires.

        These are the cases held aside, by whose scores the best weights are chosen. Without such, the training cases
        are validated on, and nothing is chosen by their scores.
        """
        return list(self.job.train), sorted({*(self.job.aside or self.job.train)})

    def plot_network_architecture(self) -> None:
        """Plot nothing: nnU-Net's own version needs a package that no longer works."""

    def configure_optimizers(self) -> tuple[Any, Any]:
        """Return nnU-Net's optimizer, or AdamW for transformers, and nnU-Net's fall of the learning rate."""
        if self.job.segmentor not in TRANSFORMERS:
            found: tuple[Any, Any] = super().configure_optimizers()
            return found
        # the values with which UNETR and Swin UNETR were published
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=_ADAM_RATE, weight_decay=_ADAM_DECAY)
        return optimizer, PolyLRScheduler(optimizer, _ADAM_RATE, self.num_epochs)

    def on_train_start(self) -> None:
        """Measure the time of an iteration and choose the schedule, unless there is one already."""
        super().on_train_start()
        if not self.has_schedule:
            standard = _CUDA_ITERATIONS if self.job.device == "cuda" else _CPU_ITERATIONS
            schedule = self.job.schedule or choose_schedule(self.job.minutes, self.measure_iteration(), standard)
            self.apply_schedule(schedule)
            write_json(self.schedule_file, schedule)
            self.has_schedule = True
            # the learning rate falls over the number of epochs that was just chosen
            self.optimizer, self.lr_scheduler = self.configure_optimizers()
        self.print_to_log_file(f"{self.num_epochs} epochs of {self.num_iterations_per_epoch} iterations")
        self.steps = self.current_epoch * self.num_iterations_per_epoch
        self.is_counting = True
        self._report("")

    def measure_iteration(self) -> float:
        """Return the seconds of one iteration, loading of its batch included; the weights stay as they were."""
        weights = copy.deepcopy(self.network.state_dict())
        self.network.train()
        for _ in range(_WARMUP_ITERATIONS):
            self.train_step(next(self.dataloader_train))
        start = time.perf_counter()
        for _ in range(_TIMED_ITERATIONS):
            self.train_step(next(self.dataloader_train))
        seconds = (time.perf_counter() - start) / _TIMED_ITERATIONS
        self.network.load_state_dict(weights)
        return round(seconds, 5)

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Train on one batch and report the loss."""
        use_bf16 = self.job.device == "cpu" and self.job.precision == "bf16"
        result: dict[str, Any] = self._train_step_bf16(batch) if use_bf16 else super().train_step(batch)
        if self.is_counting:
            self.steps += 1
            self._report(f"loss {float(result['loss']):.3f}")
        return result

    def _train_step_bf16(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Do nnU-Net's training step with bf16 autocast, which nnU-Net lacks on CPU; the loss is computed in fp32."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            output = self.network(batch["data"])
        output = [scale.float() for scale in output] if self.enable_deep_supervision else output.float()
        loss = self.loss(output, batch["target"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 12)
        self.optimizer.step()
        return {"loss": loss.detach().numpy()}

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Log the epoch.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        super().on_train_epoch_end(train_outputs)
        loss = float(self.logger.get_value("train_losses", step=-1))
        if not math.isfinite(loss):
            raise FloatingPointError(f"epoch {self.current_epoch}: the loss is {loss}; the last checkpoint is kept")

    def _report(self, note: str) -> None:
        self.report_progress(self.steps, self.num_epochs * self.num_iterations_per_epoch, note)

    def save_checkpoint(self, filename: str) -> None:
        """Write nnU-Net's own checkpoint, but atomically and of plain values only: reading it runs no code.

        The final checkpoint leaves out what only training needs. The best one is written where cases are held aside,
        and the final one then has its weights; else nnU-Net would choose it by a score on training cases.
        """
        path = Path(filename)
        if path.name == BEST and not self.job.aside:
            return
        log = to_plain(self.logger.get_checkpoint())
        content = {
            "network_weights": _copy_to_cpu(self.network.state_dict()),
            "current_epoch": self.current_epoch + 1,
            "init_args": {
                "plans": to_plain(self.plans_manager.plans),
                "configuration": CONFIGURATION,
                "fold": "all",
                "dataset_json": self.dataset_json,
            },
            "trainer_name": "nnUNetTrainer",  # nnU-Net itself can only load it by a class of its own
            "inference_allowed_mirroring_axes": tuple(int(axis) for axis in self.inference_allowed_mirroring_axes),
        }
        if path.name == FINAL:
            epochs = zip(log["epoch_end_timestamps"], log["epoch_start_timestamps"], strict=True)
            content["seconds"] = round(sum(end - start for end, start in epochs), 1)
            if self.job.aside:
                best = torch.load(path.with_name(BEST), map_location="cpu", weights_only=True)
                content |= {"network_weights": best["network_weights"], "curve": log["ema_fg_dice"]}
        elif path.name != BEST:
            content |= {
                "optimizer_state": self.optimizer.state_dict(),
                "grad_scaler_state": self.grad_scaler.state_dict() if self.grad_scaler is not None else None,
                "logging": log,
                "_best_ema": None if self._best_ema is None else float(self._best_ema),
            }
        write_stream(path, lambda stream: torch.save(content, stream))

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """Load a checkpoint after a check that it holds plain values only: nnU-Net would run code pickled in it."""
        torch.load(filename_or_checkpoint, map_location="cpu", weights_only=True)
        super().load_checkpoint(filename_or_checkpoint)


def trainer_class(job: TrainingJob, report: Callable[[int, int, str], None]) -> type[OwnTrainer]:
    """Return the trainer of a job: a subclass of `OwnTrainer`, which also paints tumors if the job says so.

    Args:
        job: what to train.
        report: is called with the finished steps, all steps, and a note.
    """
    attributes: dict[str, Any] = {"job": job, "report_progress": staticmethod(report)}
    if job.painting is None:
        return type(TRAINER, (OwnTrainer,), attributes)
    painting = read_record(Painting, Path(job.painting), "start the training again")
    return type(TRAINER, (PaintingMixin, OwnTrainer), {**attributes, "painting": lambda _: painting})


def _copy_to_cpu(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copy weights to the CPU; weights that share memory under two names still share it, or the file would grow."""
    found: dict[tuple[int, tuple[int, ...]], torch.Tensor] = {}
    for value in weights.values():
        key = (value.data_ptr(), tuple(value.shape))
        if key not in found:
            found[key] = value.detach().cpu().contiguous()
    return {name: found[value.data_ptr(), tuple(value.shape)] for name, value in weights.items()}
