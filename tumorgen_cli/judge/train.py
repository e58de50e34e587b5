"""A judge of one's own: an nnU-Net v2, planned and trained by nnunetv2 on real training cases, scored on the held-out ones.

Reads the cases of an nnU-Net raw dataset. Writes into one folder, the judge: plans.json, dataset.json,
fold_all/checkpoint_final.pth (weights alone), nnunet.log, MODEL_CARD.md and, last, judge.json. While it trains, nnU-Net's
nnUNet_raw (links), nnUNet_preprocessed and nnUNet_results lie there, too.

nnunetv2 runs in a child process, see `nnunet`; the next call goes on from nnU-Net's last checkpoint.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tumorgen_cli.data.volumes import read_image, read_volume
from tumorgen_cli.geometry import Triple
from tumorgen_cli.judge.card import LIMITS, HeldOutScore, JudgeRecord, model_card
from tumorgen_cli.metrics.overlap import dice, surface_dice
from tumorgen_cli.nnunet.job import (
    CONFIGURATION,
    CPU_SIZE,
    Schedule,
    Size,
    TrainingCase,
    TrainingData,
    TrainingJob,
    check_data,
    hash_cases,
    make_job,
)
from tumorgen_cli.nnunet.results import FINAL
from tumorgen_cli.nnunet.runner import LOG, results_folder, run_job
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName, find_device, usable_cores
from tumorgen_cli.system.errors import Fault, StateError
from tumorgen_cli.system.files import atomic, hash_file, write_text
from tumorgen_cli.system.json_records import hash_value, read_plain, read_record, write_json
from tumorgen_cli.system.locks import locked

if TYPE_CHECKING:
    from tumorgen_cli.judge.model import Judge


_LARGE_BYTES = 256 << 20  # preprocessed data that are kept, for a restart, up to this size


def train_judge(
    data: TrainingData,
    folder: Path,
    minutes: float,
    device: DeviceName,
    precision: Literal["fp32", "bf16"],
    tolerance_mm: float,
    seed: int,
    fingerprint_hash: str,
    size: Size | None = CPU_SIZE,
    spacing_mm: Triple | None = None,
    restart: bool = False,
) -> JudgeRecord:
    """The record of the judge in `folder`: trained now, or to its end, or found finished.

    Args:
        minutes: how long nnU-Net's epochs take together; preparing and scoring are not counted.
        fingerprint_hash: of the planned data set: another makes the judge stale.
        precision: on CPU only; CUDA has nnU-Net's own autocast.
        size: on CPU only, where nnU-Net's plan is shrunk to it; None, and CUDA, leave the plan as it is.
        spacing_mm: spacing (x, y, z) to train at; None for nnU-Net's own choice, the median.
        restart: what was trained before is replaced.

    Two trainings of one seed differ: nnU-Net's workers draw as they will.

    Raises:
        DataError: files are missing, or a case is to be learned from and held out.
        StateError: `folder` holds a judge of other data or settings, or nnU-Net failed (its log is quoted).
        DeviceError: no such device, or a process was killed.
    """
    kind: Literal["cpu", "cuda"] = "cuda" if find_device(device).type == "cuda" else "cpu"
    check_data(data)
    folder = folder.resolve()
    job = make_job(data, folder, kind, precision, minutes, seed, size, spacing_mm)
    job = replace(
        job,
        inputs_hash=hash_value(
            [job.inputs_hash, data.tumor_name, hash_cases(data.test), tolerance_mm, fingerprint_hash]
        ),
    )
    with locked(folder, "judge"):
        record = _finished(folder, job, restart)
        if record is None:
            _train(data, folder, job)
            record = _score_and_record(data, folder, job, tolerance_mm, fingerprint_hash)
        _clean(folder)
    return record


def score_held_out(
    judge: Judge,
    cases: Sequence[TrainingCase],
    tumor_label: int,
    tolerance_mm: float,
    ticker: console.Ticker | None = None,
    ignored: int = -1,
) -> tuple[HeldOutScore, ...]:
    """Dice and surface Dice of the judge's tumor against the label, per case, over the whole scan but for what is `ignored`."""
    scores = []
    for number, case in enumerate(cases, 1):
        image, grid = read_image(case.images)
        labels, _ = read_volume(case.label)
        truth = labels == tumor_label
        begun = time.perf_counter()
        found = judge.tumor(image, grid)
        seconds = time.perf_counter() - begun
        found = found & (labels != ignored)
        values = [dice(found, truth), surface_dice(found, truth, grid.spacing_mm, tolerance_mm)]
        a, b = (None if math.isnan(value) else round(value, 4) for value in values)
        scores.append(HeldOutScore(case.name, a, b, round(seconds, 2)))
        if ticker is not None:
            ticker(number, case.name)
    return tuple(scores)


def _finished(folder: Path, job: TrainingJob, restart: bool) -> JudgeRecord | None:
    """The record of a finished judge made of the same; clears the folder for a restart.

    Raises:
        StateError: what lies there was made of something else.
    """
    made, begun = folder / "judge.json", folder / "job.json"
    if restart:
        for old in (made, begun, folder / "MODEL_CARD.md", folder / LOG):
            old.unlink(missing_ok=True)
        for name in ("nnUNet_results", "fold_all"):
            shutil.rmtree(folder / name, ignore_errors=True)
        return None
    for path in (made, begun):
        found = (
            read_plain(path, "run `tumorgen train judge --restart`").get("inputs_hash")
            if path.is_file()
            else job.inputs_hash
        )
        if found != job.inputs_hash:
            remedy = "run `tumorgen train judge --restart` (what was trained is replaced)"
            fault = Fault(str(path), "made from other cases or settings", "the present ones", remedy)
            raise StateError("The judge is stale", [fault])
    return read_record(JudgeRecord, made, "run `tumorgen train judge --restart`") if made.is_file() else None


def _train(data: TrainingData, folder: Path, job: TrainingJob) -> None:
    """Has nnU-Net trained to its end; its files are then in their places in `folder`."""
    run_job(data, folder, job, "training the judge")
    results = results_folder(folder)
    for path in (
        results / "plans.json",
        results / "dataset.json",
        results / "dataset_fingerprint.json",
        results / "fold_all" / FINAL,
    ):
        with atomic(folder / path.relative_to(results)) as temporary:
            shutil.copyfile(path, temporary)
    for path in sorted((results / "fold_all").glob("training_log_*.txt")):
        shutil.copyfile(path, folder / "fold_all" / path.name)


def _score_and_record(
    data: TrainingData, folder: Path, job: TrainingJob, tolerance_mm: float, fingerprint_hash: str
) -> JudgeRecord:
    from importlib.metadata import version

    import torch

    from tumorgen_cli.judge.model import Judge

    judge = Judge(folder, torch.device(job.device), data.tumor_name, job.precision)
    with console.progress("scoring held-out cases", len(data.test)) as tick:
        scores = score_held_out(judge, data.test, data.labels[data.tumor_name], tolerance_mm, tick, data.ignored)
    plans = read_plain(folder / "plans.json", "run `tumorgen train judge --restart`")
    planned = plans["configurations"][CONFIGURATION]
    kwargs = planned["architecture"]["arch_kwargs"]
    checkpoint = torch.load(folder / "fold_all" / FINAL, map_location="cpu", weights_only=True)
    weights = {
        value.data_ptr(): value.numel() for value in checkpoint["network_weights"].values()
    }  # some have two names
    trained = read_plain(results_folder(folder) / "fold_all" / "schedule.json", "run `tumorgen train judge --restart`")
    order = [int(i) for i in reversed(plans["transpose_backward"])]
    record = JudgeRecord(
        inputs_hash=job.inputs_hash,
        dataset=data.dataset,
        fingerprint_hash=fingerprint_hash,
        tumor_name=data.tumor_name,
        cases=tuple(case.name for case in data.train),
        minutes=job.minutes,
        seed=job.seed,
        device=torch.cuda.get_device_name() if job.device == "cuda" else f"CPU, {usable_cores()} cores",
        precision="nnU-Net's autocast" if job.device == "cuda" else job.precision,
        schedule=Schedule(trained["epochs"], trained["iterations"], trained["seconds_per_iteration"]),
        seconds=float(checkpoint["seconds"]),
        spacing_mm=tuple(float(planned["spacing"][i]) for i in order),  # type: ignore[arg-type]
        patch=tuple(int(planned["patch_size"][i]) for i in order),  # type: ignore[arg-type]
        batch=int(planned["batch_size"]),
        features=tuple(int(n) for n in kwargs["features_per_stage"]),
        parameters=sum(weights.values()),
        weights_hash=hash_file(folder / "fold_all" / FINAL),
        tolerance_mm=tolerance_mm,
        held_out=scores,
        versions={name: version(name) for name in ("nnunetv2", "torch", "tumorgen")},
    )
    text = f"Cases of {data.dataset}, channels {', '.join(data.channel_names)}; {len(data.test)} cases were held out."
    card = model_card(
        record, f"Judge of {data.dataset}", text, f"tumorgen train judge --minutes {job.minutes:g}", LIMITS
    )
    write_text(folder / "MODEL_CARD.md", card)
    write_json(folder / "judge.json", record)
    return record


def _clean(folder: Path) -> None:
    """Removes what only training needed; preprocessed data stay where they are small, for a restart."""
    for name in ("nnUNet_raw", "nnUNet_results"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("job.json", "progress.json"):
        (folder / name).unlink(missing_ok=True)
    preprocessed = folder / "nnUNet_preprocessed"
    if sum(path.stat().st_size for path in preprocessed.rglob("*") if path.is_file()) > _LARGE_BYTES:
        shutil.rmtree(preprocessed)
