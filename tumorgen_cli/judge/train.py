"""Training of a workspace's own judge: an nnU-Net is trained on the training cases and scored on the held-out cases.

Reads the cases of an nnU-Net raw data set. Writes the judge into one folder: plans.json, dataset.json,
fold_all/checkpoint_final.pth (weights alone), nnunet.log, MODEL_CARD.md and, last, judge.json. During training
nnU-Net's nnUNet_raw (links), nnUNet_preprocessed and nnUNet_results are in that folder, too.

nnunetv2 runs in a child process, see `nnunet.runner`. The next call continues from nnU-Net's last checkpoint.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tumorgen_cli.data.labels import Values, mask_of
from tumorgen_cli.data.volumes import read_image, read_volume
from tumorgen_cli.geometry import Shape, Triple
from tumorgen_cli.judge.card import LIMITS, HeldOutScore, JudgeRecord, model_card
from tumorgen_cli.judge.domain import Domain
from tumorgen_cli.judge.results_files import read_judge_record
from tumorgen_cli.metrics.overlap import dice, surface_dice
from tumorgen_cli.nnunet.job import (
    CONFIGURATION,
    Schedule,
    TrainingCase,
    TrainingData,
    TrainingJob,
    TrainingOptions,
    check_data,
    hash_cases,
    make_job,
)
from tumorgen_cli.nnunet.results import FINAL
from tumorgen_cli.nnunet.runner import results_folder, run_job
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import usable_cores
from tumorgen_cli.system.errors import Fault, StateError
from tumorgen_cli.system.files import hash_file, write_text
from tumorgen_cli.system.json_records import hash_value, read_fields, read_plain, write_json
from tumorgen_cli.system.links import copy_file
from tumorgen_cli.system.locks import locked

if TYPE_CHECKING:
    from tumorgen_cli.judge.model import Judge


_KEPT_BYTES = 256 << 20  # preprocessed data up to this size are kept for a restart
_RESTART = "run `tumorgen train judge --restart`"


def train_judge(
    data: TrainingData,
    folder: Path,
    options: TrainingOptions,
    tolerance_mm: float,
    fingerprint_hash: str,
    domain: Domain,
    restart: bool = False,
) -> JudgeRecord:
    """Train the judge in `folder` to its end, or find it finished.

    An earlier judge stays until the new one is trained.

    Args:
        data: training cases and held-out cases.
        folder: folder of the judge.
        options: how to train.
        tolerance_mm: tolerance of the surface Dice.
        fingerprint_hash: hash of the planned data set; a judge of another one is stale.
        domain: what the training cases are like.
        restart: replace what was trained before.

    Returns:
        The record of the judge, as in judge.json.

    Raises:
        DataError: files are missing, or a case is both a training case and a held-out case.
        StateError: `folder` holds a judge of other data or settings, or nnU-Net failed (its log is quoted).
        DeviceError: nnU-Net's process was killed.
    """
    check_data(data)
    folder = folder.resolve()
    job = make_job(data, folder, options)
    inputs = [job.inputs_hash, data.tumor_name, hash_cases(data.test), tolerance_mm, fingerprint_hash]
    job = replace(job, inputs_hash=hash_value(inputs))
    with locked(folder, "judge"):
        goes_on = _is_restarted(folder, job, restart)
        if restart and not goes_on:
            _remove_training_files(folder, keep_prepared=True)
        if goes_on and not restart:
            console.note(f"the judge is trained again, as was begun; to keep the old one, delete {folder / 'job.json'}")
        record = None if restart or goes_on else _read_finished(folder, job)
        if record is not None and (folder / "job.json").is_file():
            console.note("the finished judge is kept; an unfinished training with other settings is removed")
        if record is None:
            _train(data, folder, job)
            record = _score_and_record(data, folder, job, tolerance_mm, fingerprint_hash, domain)
        _remove_training_files(folder)
    return record


def score_held_out(
    judge: Judge,
    cases: Sequence[TrainingCase],
    tumor_label: Values,
    tolerance_mm: float,
    ticker: console.Ticker | None = None,
    ignored: int = -1,
) -> tuple[HeldOutScore, ...]:
    """Score the judge's tumor against the label of each case, over the whole scan.

    Args:
        judge: the judge.
        cases: the held-out cases.
        tumor_label: value of the tumor in the labels.
        tolerance_mm: tolerance of the surface Dice.
        ticker: is called after each case with its number and name.
        ignored: value of voxels in which the prediction does not count.
    """
    scores = []
    for number, case in enumerate(cases, 1):
        image, grid = read_image(case.images)
        labels, _ = read_volume(case.label)
        truth = mask_of(labels, tumor_label)
        start = time.perf_counter()
        found = judge.tumor(image, grid)
        seconds = time.perf_counter() - start
        found = found & (labels != ignored)
        values = [dice(found, truth), surface_dice(found, truth, grid.spacing_mm, tolerance_mm)]
        a, b = (None if math.isnan(value) else round(value, 4) for value in values)
        scores.append(HeldOutScore(case.name, a, b, round(seconds, 2)))
        if ticker is not None:
            ticker(number, case.name)
    return tuple(scores)


def _is_begun(folder: Path, job: TrainingJob, restart: bool = False) -> bool:
    """Tell whether a training of this job has begun; a damaged record of it is an error, unless it is restarted."""
    path = folder / "job.json"
    try:
        return path.is_file() and read_fields(path, _RESTART).get("inputs_hash") == job.inputs_hash
    except StateError:
        if restart:
            return False
        raise


def _is_restarted(folder: Path, job: TrainingJob, restart: bool) -> bool:
    """Tell whether this job has begun beside a finished judge: a restart that was stopped, which goes on."""
    return (folder / "judge.json").is_file() and _is_begun(folder, job, restart)


def _read_finished(folder: Path, job: TrainingJob) -> JudgeRecord | None:
    """Return the record of a finished judge; None if there is none yet.

    Raises:
        StateError: the judge, or a training that has begun, is of other data or settings.
    """
    record = read_judge_record(folder)
    if record is not None and record.inputs_hash == job.inputs_hash:
        return record
    if _is_begun(folder, job) or (record is None and not (folder / "job.json").is_file()):
        return None
    path = folder / ("judge.json" if record is not None else "job.json")
    remedy = f"{_RESTART} (what was trained is replaced)"
    fault = Fault(str(path), "made from other cases or settings", "the present ones", remedy)
    raise StateError("The judge is stale", [fault])


def _train(data: TrainingData, folder: Path, job: TrainingJob) -> None:
    """Train nnU-Net to its end and copy the files of the judge to their places in `folder`."""
    run_job(data, folder, job, "training the judge")
    results = results_folder(folder)
    (folder / "judge.json").unlink(missing_ok=True)  # it names the weights that are replaced now
    for name in ("plans.json", "dataset.json", "dataset_fingerprint.json", f"fold_all/{FINAL}"):
        copy_file(results / name, folder / name)
    for path in sorted((results / "fold_all").glob("training_log_*.txt")):
        copy_file(path, folder / "fold_all" / path.name)


def _score_and_record(
    data: TrainingData, folder: Path, job: TrainingJob, tolerance_mm: float, fingerprint_hash: str, domain: Domain
) -> JudgeRecord:
    """Score the held-out cases; write MODEL_CARD.md and, last, judge.json."""
    import torch

    from tumorgen_cli.judge.model import Judge

    judge = Judge(folder, torch.device(job.device), data.tumor_name, job.precision)
    with console.progress("scoring held-out cases", len(data.test)) as tick:
        scores = score_held_out(judge, data.test, data.tumor_label, tolerance_mm, tick, data.ignored)
    record = _make_record(data, folder, job, scores, tolerance_mm, fingerprint_hash, domain)
    text = f"Cases of {data.dataset}, channels {', '.join(data.channel_names)}; {len(data.test)} cases were held out."
    command = f"tumorgen train judge --minutes {job.minutes:g}"
    write_text(folder / "MODEL_CARD.md", model_card(record, f"Judge of {data.dataset}", text, command, LIMITS))
    write_json(folder / "judge.json", record)
    return record


def _make_record(
    data: TrainingData,
    folder: Path,
    job: TrainingJob,
    scores: tuple[HeldOutScore, ...],
    tolerance_mm: float,
    fingerprint_hash: str,
    domain: Domain,
) -> JudgeRecord:
    """Make the record of a trained and scored judge."""
    from importlib.metadata import version

    import torch

    plans = read_plain(folder / "plans.json", _RESTART)
    planned = plans["configurations"][CONFIGURATION]
    checkpoint = torch.load(folder / "fold_all" / FINAL, map_location="cpu", weights_only=True)
    weights = {
        value.data_ptr(): value.numel() for value in checkpoint["network_weights"].values()
    }  # some have two names
    schedule = read_plain(results_folder(folder) / "fold_all" / "schedule.json", _RESTART)
    spacing_mm, patch = _in_scan_order(plans, planned)
    return JudgeRecord(
        inputs_hash=job.inputs_hash,
        dataset=data.dataset,
        fingerprint_hash=fingerprint_hash,
        tumor_name=data.tumor_name,
        cases=tuple(case.name for case in data.train),
        minutes=job.minutes,
        seed=job.seed,
        device=torch.cuda.get_device_name() if job.device == "cuda" else f"CPU, {usable_cores()} cores",
        precision="nnU-Net's autocast" if job.device == "cuda" else job.precision,
        schedule=Schedule(schedule["epochs"], schedule["iterations"], schedule["seconds_per_iteration"]),
        seconds=float(checkpoint["seconds"]),
        spacing_mm=spacing_mm,
        patch=patch,
        batch=int(planned["batch_size"]),
        features=tuple(int(n) for n in planned["architecture"]["arch_kwargs"]["features_per_stage"]),
        parameters=sum(weights.values()),
        weights_hash=hash_file(folder / "fold_all" / FINAL),
        tolerance_mm=tolerance_mm,
        held_out=scores,
        versions={name: version(name) for name in ("nnunetv2", "torch", "tumorgen")},
        domain=domain,
    )


def _in_scan_order(plans: dict[str, Any], planned: dict[str, Any]) -> tuple[Triple, Shape]:
    """Return the spacing in mm and the patch of a configuration in the order x, y, z."""
    x, y, z = (int(i) for i in reversed(plans["transpose_backward"]))
    spacing, patch = [float(s) for s in planned["spacing"]], [int(n) for n in planned["patch_size"]]
    return (spacing[x], spacing[y], spacing[z]), (patch[x], patch[y], patch[z])


def _remove_training_files(folder: Path, keep_prepared: bool = False) -> None:
    """Remove what only training needed; small preprocessed data stay for a restart, with `keep_prepared` all do."""
    for name in ("job.json", "progress.json"):  # first: without it, what is left is no training that was begun
        (folder / name).unlink(missing_ok=True)
    for name in ("nnUNet_raw", "nnUNet_results"):
        shutil.rmtree(folder / name, ignore_errors=True)
    if keep_prepared:
        return
    preprocessed = folder / "nnUNet_preprocessed"
    if sum(path.stat().st_size for path in preprocessed.rglob("*") if path.is_file()) > _KEPT_BYTES:
        shutil.rmtree(preprocessed)
