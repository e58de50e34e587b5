"""nnU-Net's trainer with our schedule: timed, resumable, sized for the device."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tumorgen_cli.nnunet.job import CONFIGURATION, TRAINER, Schedule, TrainingJob
from tumorgen_cli.nnunet.results import BEST, FINAL
from tumorgen_cli.nnunet.schedule import _LEAST_EPOCHS, _VALIDATION, choose_schedule
from tumorgen_cli.system.files import atomic
from tumorgen_cli.system.json_records import read_record, to_plain, write_json

_SAVE_SECONDS = 60.0
_WARMUP, _TIMED = 12, 12  # nnU-Net's queues hold 12 batches at the start: those come faster than its workers make them
_CPU_ITERATIONS, _CUDA_ITERATIONS = 50, 250  # in an epoch; 250 are nnU-Net's own


def _trainer_class(job: TrainingJob, tell: Callable[[int, int, str], None]) -> type[Any]:
    """nnU-Net's trainer with a schedule fitted to the minutes, whole and plain checkpoints, and bf16 on CPU."""
    import torch
    from nnunetv2.training.logging.nnunet_logger import MetaLogger
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    class PlainLogger(MetaLogger):  # type: ignore[misc]
        """Without the picture, which takes seconds after every epoch."""

        def plot_progress_png(self, output_folder: str) -> None:
            pass

    class OwnTrainer(nnUNetTrainer):  # type: ignore[misc]
        def __init__(
            self, plans: dict[str, Any], configuration: str, fold: str, dataset_json: dict[str, Any], device: Any
        ) -> None:
            resume = plans["continue_training"]  # the base class takes it out
            super().__init__(plans, configuration, fold, dataset_json, device)
            self.logger = PlainLogger(self.output_folder, resume)
            self.num_val_iterations_per_epoch = _VALIDATION
            self.schedule_file = Path(self.output_folder) / "schedule.json"
            self.scheduled = self.schedule_file.is_file()
            self.counting = False
            if self.scheduled:
                self.keep_to(read_record(Schedule, self.schedule_file, "train again from the start"))

        def keep_to(self, schedule: Schedule) -> None:
            self.num_epochs, self.num_iterations_per_epoch = schedule.epochs, schedule.iterations
            epoch_seconds = schedule.iterations * schedule.seconds_per_iteration
            self.save_every = max(1, min(round(_SAVE_SECONDS / epoch_seconds), schedule.epochs // _LEAST_EPOCHS))

        def do_split(self) -> tuple[list[str], list[str]]:
            """The job's cases, to learn from and, since nnU-Net wants some, to validate on; nothing is chosen by the latter."""
            return list(job.train), sorted({*job.train})

        def plot_network_architecture(self) -> None:
            """Needs a package that no longer works."""

        def on_train_start(self) -> None:
            super().on_train_start()
            if not self.scheduled:
                standard = _CUDA_ITERATIONS if job.device == "cuda" else _CPU_ITERATIONS
                schedule = job.schedule or choose_schedule(job.minutes, self.measure(), standard)
                self.keep_to(schedule)
                write_json(self.schedule_file, schedule)
                self.scheduled = True
                self.optimizer, self.lr_scheduler = self.configure_optimizers()  # it falls over the epochs chosen now
            self.print_to_log_file(f"{self.num_epochs} epochs of {self.num_iterations_per_epoch} iterations")
            self.steps = self.current_epoch * self.num_iterations_per_epoch
            self.counting = True
            self.tell("")

        def measure(self) -> float:
            """Seconds of an iteration, batch and all; the weights are as before."""
            weights = copy.deepcopy(self.network.state_dict())
            self.network.train()
            for number in range(_WARMUP + _TIMED):
                if number == _WARMUP:
                    begun = time.perf_counter()
                self.train_step(next(self.dataloader_train))
            seconds = (time.perf_counter() - begun) / _TIMED
            self.network.load_state_dict(weights)
            return round(seconds, 5)

        def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
            made = (
                self.train_step_bf16(batch)
                if job.device == "cpu" and job.precision == "bf16"
                else super().train_step(batch)
            )
            if self.counting:
                self.steps += 1
                self.tell(f"loss {float(made['loss']):.3f}")
            return made

        def train_step_bf16(self, batch: dict[str, Any]) -> dict[str, Any]:
            """nnU-Net's step in bf16; it has no autocast of its own on CPU. The loss is taken in fp32."""
            self.optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16):
                output = self.network(batch["data"])
            loss = self.loss([scale.float() for scale in output], batch["target"])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 12)
            self.optimizer.step()
            return {"loss": loss.detach().numpy()}

        def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
            super().on_train_epoch_end(train_outputs)
            loss = float(self.logger.get_value("train_losses", step=-1))
            if not math.isfinite(loss):
                raise FloatingPointError(f"epoch {self.current_epoch}: the loss is {loss}; the last checkpoint is kept")

        def tell(self, note: str) -> None:
            tell(self.steps, self.num_epochs * self.num_iterations_per_epoch, note)

        def save_checkpoint(self, filename: str) -> None:
            """Writes what nnU-Net's own does, but whole or not at all, and of plain values: reading it runs no code.

            The final one goes without what only training needs. There is no best one: the score that nnU-Net would
            choose by is of training cases.
            """
            path = Path(filename)
            if path.name == BEST:
                return
            log = to_plain(self.logger.get_checkpoint())
            plans = to_plain(self.plans_manager.plans)
            arguments = {
                "plans": plans,
                "configuration": CONFIGURATION,
                "fold": "all",
                "dataset_json": self.dataset_json,
            }
            content = {
                "network_weights": _on_cpu(self.network.state_dict()),
                "current_epoch": self.current_epoch + 1,
                "init_args": arguments,
                "trainer_name": "nnUNetTrainer",  # whoever loads it with nnU-Net itself needs a class of nnU-Net's
                "inference_allowed_mirroring_axes": tuple(int(axis) for axis in self.inference_allowed_mirroring_axes),
            }
            if path.name == FINAL:
                spent = zip(log["epoch_end_timestamps"], log["epoch_start_timestamps"], strict=True)
                content["seconds"] = round(sum(end - start for end, start in spent), 1)
            else:
                scaler = self.grad_scaler.state_dict() if self.grad_scaler is not None else None
                best = None if self._best_ema is None else float(self._best_ema)
                content |= {
                    "optimizer_state": self.optimizer.state_dict(),
                    "grad_scaler_state": scaler,
                    "logging": log,
                    "_best_ema": best,
                }
            with atomic(path) as temporary:
                torch.save(content, temporary)

        def load_checkpoint(self, filename_or_checkpoint: str) -> None:
            torch.load(
                filename_or_checkpoint, map_location="cpu", weights_only=True
            )  # nnU-Net's own would run what is pickled there
            super().load_checkpoint(filename_or_checkpoint)

    if job.painting is None:
        return OwnTrainer
    from tumorgen_cli.nnunet.on_the_fly.settings import Painting
    from tumorgen_cli.nnunet.on_the_fly.trainer import PaintingMixin

    painting = read_record(Painting, Path(job.painting), "start the training again")
    return type(TRAINER, (PaintingMixin, OwnTrainer), {"painting": lambda _: painting})


def _on_cpu(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The weights on CPU; those that share memory under two names still do, or the file would grow."""
    found: dict[tuple[int, tuple[int, ...]], Any] = {}
    for value in weights.values():
        key = (value.data_ptr(), tuple(value.shape))
        if key not in found:
            found[key] = value.detach().cpu().contiguous()
    return {name: found[value.data_ptr(), tuple(value.shape)] for name, value in weights.items()}
