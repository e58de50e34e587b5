"""The child process that runs nnU-Net's fingerprint, plan, preprocessing and trainer.

TumorGen only sets the network size, the number of epochs and the form of checkpoints.

`python -m tumorgen_cli.nnunet.child FOLDER` is started by `nnunet.runner`, with nnU-Net's variables set. It reads
FOLDER's job.json and nnUNet_raw; it writes nnUNet_preprocessed, FOLDER's nnUNet_results and progress.json. It ends with
its parent.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tumorgen_cli.nnunet.job import CONFIGURATION, NAME, PLANS, ExtraCase, TrainingJob
from tumorgen_cli.nnunet.results import LATEST
from tumorgen_cli.nnunet.runner import read_prepared_hash, results_folder
from tumorgen_cli.nnunet.segmentors import RESIDUAL_PLANNERS, plan_network
from tumorgen_cli.system.json_records import read_fields, read_record, write_json
from tumorgen_cli.system.processes import exit_when_stdin_closes

_FINGERPRINT_VOXELS = 1e7  # nnU-Net's 1e8 take 2.5 GB; its statistics differ by less than 1 %
_PLANNED_GIB = 8.0  # the GPU memory that nnU-Net plans for by default
_PROGRESS_SECONDS = 0.5  # between two writes of progress.json


def _prepare(folder: Path, job: TrainingJob) -> None:
    """Run nnU-Net's fingerprint, plan and preprocessing; `prepared.json` is written last."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    extractor = DatasetFingerprintExtractor(NAME, job.processes)
    extractor.num_foreground_voxels_for_intensitystats = _FINGERPRINT_VOXELS
    extractor.run(overwrite_existing=True)
    target = [float(s) for s in reversed(job.spacing_mm)] if job.spacing_mm else None  # nnU-Net's order is z, y, x
    _planner(job, target).plan_experiment()
    path = folder / "nnUNet_preprocessed" / NAME / f"{PLANS}.json"
    plans = json.loads(path.read_text(encoding="utf-8"))
    planned = plans["configurations"][CONFIGURATION]
    plans["configurations"] = {CONFIGURATION: plan_network(planned, job.segmentor, job.size)}
    write_json(path, plans)
    preprocessor = PlansManager(plans).get_configuration(CONFIGURATION).preprocessor_class(verbose=False)
    preprocessor.run(NAME, CONFIGURATION, PLANS, num_processes=job.processes)
    write_json(folder / "nnUNet_preprocessed" / "prepared.json", {"prepared_hash": job.prepared_hash})


def _planner(job: TrainingJob, target: list[float] | None) -> Any:
    """Return nnU-Net's planner of a segmentor, for its usual GPU memory or that of a smaller GPU.

    Args:
        job: The job.
        target: Spacing (z, y, x) to train at; None: nnU-Net's own choice.
    """
    import torch
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
    from nnunetv2.experiment_planning.experiment_planners.residual_unets import residual_encoder_unet_planners

    planner, memory = ExperimentPlanner, _PLANNED_GIB
    if job.segmentor in RESIDUAL_PLANNERS:
        name, memory = RESIDUAL_PLANNERS[job.segmentor]
        planner = getattr(residual_encoder_unet_planners, name)
    if job.device == "cuda":
        memory = min(memory, torch.cuda.get_device_properties(0).total_memory / 2**30)
    return planner(NAME, gpu_memory_target_in_gb=memory, plans_name=PLANS, overwrite_target_spacing=target)


def _prepare_extra(
    preprocessed: Path,
    job: TrainingJob,
    plans: dict[str, Any],
    dataset: dict[str, Any],
    report: Callable[[int, int, str], None],
) -> None:
    """Preprocess the job's extra cases, by the plan that was made from the other cases.

    A case is skipped if it is there already and `extra.json` says that it was made from the same files.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    configuration = PlansManager(plans).get_configuration(CONFIGURATION)
    folder = preprocessed / configuration.data_identifier
    record = preprocessed.parent / "extra.json"
    made_of = read_fields(record, f"delete {record}") if record.is_file() else {}
    missing = [
        case
        for case in job.extra
        if made_of.get(case.name) != _file_stamps(case) or not (folder / f"{case.name}.pkl").is_file()
    ]
    if not missing:
        return
    with ProcessPoolExecutor(job.processes, multiprocessing.get_context("spawn")) as pool:
        running = {case: pool.submit(_preprocess_case, case, folder, plans, dataset) for case in missing}
        for number, (case, future) in enumerate(running.items(), 1):
            future.result()
            made_of[case.name] = _file_stamps(case)
            write_json(record, made_of)
            report(number, len(missing), "")


def _file_stamps(case: ExtraCase) -> list[list[int]]:
    """Return size and modification time of a case's files: pairs that are painted again keep their names."""
    return [[found.st_size, found.st_mtime_ns] for found in (Path(path).stat() for path in (*case.images, case.label))]


def _preprocess_case(case: ExtraCase, folder: Path, plans: dict[str, Any], dataset: dict[str, Any]) -> None:
    """Preprocess one case into a temporary folder, then move its files to `folder`."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(plans)
    configuration = manager.get_configuration(CONFIGURATION)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".tmp_") as temporary:
        target = Path(temporary) / case.name
        preprocessor = configuration.preprocessor_class(verbose=False)
        preprocessor.run_case_save(str(target), list(case.images), case.label, manager, configuration, dataset)
        for path in sorted(target.parent.iterdir(), key=lambda path: path.suffix == ".pkl"):  # the properties last
            path.replace(folder / path.name)


def _progress_writer(path: Path) -> Callable[[int, int, str], None]:
    """Return a function that writes progress to a file, at most twice a second."""
    last = -math.inf

    def write(done: int, total: int, note: str) -> None:
        nonlocal last
        if done == total or time.monotonic() - last > _PROGRESS_SECONDS:
            last = time.monotonic()
            write_json(path, {"done": done, "total": total, "note": note})

    return write


def _main(folder: Path) -> None:
    exit_when_stdin_closes()
    import torch

    from tumorgen_cli.nnunet.initial_weights import load_initial_weights
    from tumorgen_cli.nnunet.trainer import trainer_class

    job = read_record(TrainingJob, folder / "job.json", "start the training again")
    prepared = Path(job.prepared)
    if read_prepared_hash(prepared) != job.prepared_hash:
        _prepare(prepared, job)
    preprocessed = prepared / "nnUNet_preprocessed" / NAME
    plans, dataset = (
        json.loads((preprocessed / name).read_text(encoding="utf-8")) for name in (f"{PLANS}.json", "dataset.json")
    )
    report = _progress_writer(folder / "progress.json")
    _prepare_extra(preprocessed, job, plans, dataset, (lambda *_: None) if job.train else report)
    if not job.train:
        return
    latest = results_folder(folder) / "fold_all" / LATEST
    plans["continue_training"] = latest.is_file()
    torch.manual_seed(job.seed)
    torch.backends.cudnn.benchmark = True  # as nnU-Net's own command does
    trainer = trainer_class(job, report)(plans, CONFIGURATION, "all", dataset, torch.device(job.device))
    if latest.is_file():
        trainer.load_checkpoint(str(latest))
    elif job.initial is not None:
        trainer.initialize()
        load_initial_weights(trainer.network, Path(job.initial))
    trainer.run_training()


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
