"""nnU-Net's training as a process of its own: its fingerprint, plan, preprocessing and trainer, and nothing of ours in between
but sizes, epochs and checkpoints.

`python -m tumorgen_cli.nnunet_child FOLDER` is started by `nnunet`, with nnU-Net's variables set. It reads FOLDER's job.json
and nnUNet_raw; writes nnUNet_preprocessed, FOLDER's nnUNet_results and progress.json. It ends with its parent.
"""

from __future__ import annotations

import copy
import json
import math
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from tumorgen_cli.files import atomic, read_plain, read_record, to_plain, write_json
from tumorgen_cli.nnunet import CONFIGURATION, NAME, PLANS, TRAINER, Extra, Job, Schedule, Size, prepared_hash_of, results_folder
from tumorgen_cli.processes import end_with_parent
from tumorgen_cli.results import BEST, FINAL, LATEST

_FINGERPRINT_VOXELS = 1e7  # nnU-Net's 1e8 take 2.5 GB; its statistics differ by less than 1 %
_SAVE_SECONDS = 60.0
_WARMUP, _TIMED = 12, 12  # nnU-Net's queues hold 12 batches at the start: those come faster than its workers make them
_CPU_ITERATIONS, _CUDA_ITERATIONS = 50, 250  # in an epoch; 250 are nnU-Net's own
_VALIDATION = 2  # nnU-Net's 50 would say nothing: with fold "all" it validates on training cases
_LEAST_EPOCHS = 20  # the learning rate falls by epochs: fewer would make it fall in leaps
_MOST_ITERATIONS = 1000 * 250  # nnU-Net's own length
_PLANNED_GIB = 8.0  # what nnU-Net plans for unless told otherwise


# -- rules -------------------------------------------------------------------------------------------------------
def choose_schedule(minutes: float, seconds_per_iteration: float, standard: int) -> Schedule:
    """Epochs of `standard` iterations that fit the minutes; of fewer where not even 20 would fit, since the learning rate
    falls from epoch to epoch. Never longer than nnU-Net's own training, never shorter than an iteration."""
    seconds = 60 * minutes
    total = min(_MOST_ITERATIONS, max(1, int(seconds / seconds_per_iteration)))
    iterations = min(standard, max(1, total // _LEAST_EPOCHS))
    fitting = int(seconds / (seconds_per_iteration * (iterations + _VALIDATION)))
    return Schedule(max(1, min(fitting, _MOST_ITERATIONS // iterations)), iterations, seconds_per_iteration)


def shrink_patch(patch: Sequence[int], multiple: Sequence[int], voxels: int) -> list[int]:
    """A patch of at most `voxels`, as near to nnU-Net's proportions as sides divisible by `multiple` allow.

    The side that is longest against the planned one gives way first, as in nnU-Net's own planner. No side falls below
    four cells of the lowest resolution (nnU-Net's floor), even if the patch stays larger than asked for.
    """
    made = list(patch)
    while math.prod(made) > voxels:
        room = [n / p if n - m >= 4 * m else 0.0 for n, p, m in zip(made, patch, multiple, strict=True)]
        axis = int(np.argmax(room))
        if room[axis] == 0:
            break
        made[axis] -= multiple[axis]
    return made


def shrink_configuration(configuration: Mapping[str, Any], size: Size) -> dict[str, Any]:
    """nnU-Net's plan of a configuration for a network of `size`: its own strides and kernels, the first stages of them,
    fewer features, a smaller patch, nnU-Net's least batch of 2. Spacing and normalisation stay."""
    made = copy.deepcopy(dict(configuration))
    kwargs = made["architecture"]["arch_kwargs"]
    stages = min(size.stages, int(kwargs["n_stages"]))
    for key, count in (("strides", stages), ("kernel_sizes", stages), ("n_conv_per_stage", stages), ("n_conv_per_stage_decoder", stages - 1)):
        kwargs[key] = list(kwargs[key][:count])
    planned = kwargs["features_per_stage"]
    kwargs["features_per_stage"] = [min(size.most, size.first * 2**i, int(planned[i])) for i in range(stages)]
    kwargs["n_stages"] = stages
    multiple = [int(n) for n in np.prod(kwargs["strides"], axis=0)]
    made["patch_size"] = shrink_patch([int(n) for n in made["patch_size"]], multiple, size.voxels)
    made["batch_size"] = 2
    return made


# -- the child --------------------------------------------------------------------------------------------------
def _prepare(folder: Path, job: Job) -> None:
    """Fingerprint, plan and preprocessing by nnU-Net; `prepared.json` is written last."""
    import torch
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    extractor = DatasetFingerprintExtractor(NAME, job.processes)
    extractor.num_foreground_voxels_for_intensitystats = _FINGERPRINT_VOXELS
    extractor.run(overwrite_existing=True)
    target = [float(s) for s in reversed(job.spacing_mm)] if job.spacing_mm else None  # nnU-Net's order is z, y, x
    memory = _PLANNED_GIB
    if job.device == "cuda":
        memory = min(memory, torch.cuda.get_device_properties(0).total_memory / 2**30)
    ExperimentPlanner(NAME, gpu_memory_target_in_gb=memory, overwrite_target_spacing=target).plan_experiment()
    path = folder / "nnUNet_preprocessed" / NAME / f"{PLANS}.json"
    plans = json.loads(path.read_text(encoding="utf-8"))
    planned = plans["configurations"][CONFIGURATION]
    plans["configurations"] = {CONFIGURATION: shrink_configuration(planned, job.size) if job.size else planned}
    write_json(path, plans)
    preprocessor = PlansManager(plans).get_configuration(CONFIGURATION).preprocessor_class(verbose=False)
    preprocessor.run(NAME, CONFIGURATION, PLANS, num_processes=job.processes)
    write_json(folder / "nnUNet_preprocessed" / "prepared.json", {"prepared_hash": job.prepared_hash})


def _prepare_extra(
    preprocessed: Path, job: Job, plans: dict[str, Any], dataset: dict[str, Any], tell: Callable[[int, int, str], None]
) -> None:
    """Preprocesses, as planned from the other cases, what is not there yet, or was made of other files of that name (`extra.json`)."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(plans)
    configuration = manager.get_configuration(CONFIGURATION)
    folder = preprocessed / configuration.data_identifier
    record = preprocessed.parent / "extra.json"
    made_of = read_plain(record, "delete it") if record.is_file() else {}
    missing = [case for case in job.extra if made_of.get(case.name) != _stamp(case) or not (folder / f"{case.name}.pkl").is_file()]
    if not missing:
        return
    with ProcessPoolExecutor(job.processes, multiprocessing.get_context("spawn")) as pool:
        begun = {case: pool.submit(_preprocess_case, case, folder, plans, dataset) for case in missing}
        for number, (case, each) in enumerate(begun.items(), 1):
            each.result()
            made_of[case.name] = _stamp(case)
            write_json(record, made_of)
            tell(number, len(missing), "")


def _stamp(case: Extra) -> list[list[int]]:
    """Tells files from others that take their place: pairs that are painted again bear the same names."""
    return [[found.st_size, found.st_mtime_ns] for found in (Path(path).stat() for path in (*case.images, case.label))]


def _preprocess_case(case: Extra, folder: Path, plans: dict[str, Any], dataset: dict[str, Any]) -> None:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(plans)
    configuration = manager.get_configuration(CONFIGURATION)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".tmp_") as passing:
        begun = Path(passing) / case.name
        preprocessor = configuration.preprocessor_class(verbose=False)
        preprocessor.run_case_save(str(begun), list(case.images), case.label, manager, configuration, dataset)
        for path in sorted(begun.parent.iterdir(), key=lambda path: path.suffix == ".pkl"):  # the properties last
            path.replace(folder / path.name)


def _trainer_class(job: Job, tell: Callable[[int, int, str], None]) -> type[Any]:
    """nnU-Net's trainer with a schedule fitted to the minutes, whole and plain checkpoints, and bf16 on CPU."""
    import torch
    from nnunetv2.training.logging.nnunet_logger import MetaLogger
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    class PlainLogger(MetaLogger):  # type: ignore[misc]
        """Without the picture, which takes seconds after every epoch."""

        def plot_progress_png(self, output_folder: str) -> None:
            pass

    class OwnTrainer(nnUNetTrainer):  # type: ignore[misc]
        def __init__(self, plans: dict[str, Any], configuration: str, fold: str, dataset_json: dict[str, Any], device: Any) -> None:
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
            made = self.train_step_bf16(batch) if job.device == "cpu" and job.precision == "bf16" else super().train_step(batch)
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
            arguments = {"plans": plans, "configuration": CONFIGURATION, "fold": "all", "dataset_json": self.dataset_json}
            content = {
                "network_weights": _on_cpu(self.network.state_dict()), "current_epoch": self.current_epoch + 1, "init_args": arguments,
                "trainer_name": "nnUNetTrainer",  # whoever loads it with nnU-Net itself needs a class of nnU-Net's
                "inference_allowed_mirroring_axes": tuple(int(axis) for axis in self.inference_allowed_mirroring_axes),
            }  # fmt: skip
            if path.name == FINAL:
                spent = zip(log["epoch_end_timestamps"], log["epoch_start_timestamps"], strict=True)
                content["seconds"] = round(sum(end - start for end, start in spent), 1)
            else:
                scaler = self.grad_scaler.state_dict() if self.grad_scaler is not None else None
                best = None if self._best_ema is None else float(self._best_ema)
                content |= {"optimizer_state": self.optimizer.state_dict(), "grad_scaler_state": scaler, "logging": log, "_best_ema": best}
            with atomic(path) as temporary:
                torch.save(content, temporary)

        def load_checkpoint(self, filename_or_checkpoint: str) -> None:
            torch.load(filename_or_checkpoint, map_location="cpu", weights_only=True)  # nnU-Net's own would run what is pickled there
            super().load_checkpoint(filename_or_checkpoint)

    if job.painting is None:
        return OwnTrainer
    from tumorgen_cli.live import Painting, PaintingMixin

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


def _progress_teller(path: Path) -> Callable[[int, int, str], None]:
    """Writes progress to a file, at most twice a second."""
    told = [-math.inf]

    def tell(done: int, total: int, note: str) -> None:
        if done == total or time.monotonic() - told[0] > 0.5:
            told[0] = time.monotonic()
            write_json(path, {"done": done, "total": total, "note": note})

    return tell


def _main(folder: Path) -> None:
    end_with_parent()
    import torch

    job = read_record(Job, folder / "job.json", "start the training again")
    prepared = Path(job.prepared)
    if prepared_hash_of(prepared) != job.prepared_hash:
        _prepare(prepared, job)
    preprocessed = prepared / "nnUNet_preprocessed" / NAME
    plans, dataset = (json.loads((preprocessed / name).read_text(encoding="utf-8")) for name in (f"{PLANS}.json", "dataset.json"))
    tell = _progress_teller(folder / "progress.json")
    _prepare_extra(preprocessed, job, plans, dataset, (lambda *_: None) if job.train else tell)
    if not job.train:
        return
    latest = results_folder(folder) / "fold_all" / LATEST
    plans["continue_training"] = latest.is_file()
    torch.manual_seed(job.seed)
    torch.backends.cudnn.benchmark = True  # as nnU-Net's own command does
    trainer = _trainer_class(job, tell)(plans, CONFIGURATION, "all", dataset, torch.device(job.device))
    for stale in latest.parent.glob(".*.tmp.pth"):  # of a kill while a checkpoint was written
        stale.unlink()
    if latest.is_file():
        trainer.load_checkpoint(str(latest))
    trainer.run_training()


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
