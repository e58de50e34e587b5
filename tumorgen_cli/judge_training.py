"""A judge of one's own: an nnU-Net v2, planned and trained by nnunetv2 on real training cases, scored on the held-out ones.

Reads the cases of an nnU-Net raw dataset. Writes into one folder, the judge: plans.json, dataset.json,
fold_all/checkpoint_final.pth (weights alone), nnunet.log, MODEL_CARD.md and, last, judge.json. While it trains, nnU-Net's
nnUNet_raw (links), nnUNet_preprocessed and nnUNet_results lie there, too.

nnunetv2 runs in a child process with an environment of its own: the user's nnUNet_* variables are neither needed nor
heeded. The child and all its workers end when this process does, however it ends; the next call goes on from nnU-Net's
last checkpoint. The child is `judge_trainer`.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from tumorgen_cli import console
from tumorgen_cli.dataset import Dataset
from tumorgen_cli.devices import DeviceName, find_device, usable_cores
from tumorgen_cli.errors import DataError, DeviceError, Fault, StateError
from tumorgen_cli.files import atomic, hash_file, hash_value, locked, read_plain, read_record, write_json, write_text
from tumorgen_cli.judge_trainer import (
    CONFIGURATION,
    CPU_SIZE,
    FINAL,
    NAME,
    Job,
    Schedule,
    Size,
    prepared_hash_of,
    results_folder,
)
from tumorgen_cli.metrics.agreement import dice, surface_dice
from tumorgen_cli.records import Shape, Triple
from tumorgen_cli.volumes import read_image, read_volume
from tumorgen_cli.workspace import Splits

if TYPE_CHECKING:
    from tumorgen_cli.judge import Judge

_LOG = "nnunet.log"
_LARGE_BYTES = 256 << 20  # preprocessed data that are kept, for a restart, up to this size
_WORKER_BYTES = 64 << 20  # of images for each process that prepares them: starting one takes seconds
_MOST_WORKERS = 4  # nnU-Net's own number for preprocessing
_POLL_SECONDS = 0.25
_AGAIN = "call it again: it goes on from the last checkpoint"


@dataclass(frozen=True)
class JudgeCase:
    """A case by its files: one image per channel, and its label."""

    name: str
    images: tuple[Path, ...]
    label: Path


@dataclass(frozen=True)
class JudgeData:
    """What a judge learns from (`train`) and is scored on (`test`). `labels` maps names to values, background to 0."""

    dataset: str
    channel_names: tuple[str, ...]
    labels: dict[str, int]
    tumor_name: str
    file_ending: str
    train: tuple[JudgeCase, ...]
    test: tuple[JudgeCase, ...]


@dataclass(frozen=True)
class HeldOutScore:
    """How well the judge finds the tumors of a held-out case, in the whole scan; None where it has and finds none."""

    case: str
    dice: float | None
    surface_dice: float | None
    seconds: float


@dataclass(frozen=True)
class JudgeRecord:
    """`judge.json`. `spacing_mm` and `patch` are in the order x, y, z; `seconds` are those of nnU-Net's epochs."""

    inputs_hash: str
    dataset: str
    tumor_name: str
    cases: tuple[str, ...]
    minutes: float
    seed: int
    device: str
    precision: str
    schedule: Schedule
    seconds: float
    spacing_mm: Triple
    patch: Shape
    batch: int
    features: tuple[int, ...]
    parameters: int
    weights_hash: str
    tolerance_mm: float
    held_out: tuple[HeldOutScore, ...]
    versions: dict[str, str]

    @property
    def mean_dice(self) -> float:
        """Over the held-out cases where it is defined; nan where it is nowhere."""
        return _mean([score.dice for score in self.held_out])

    @property
    def mean_surface_dice(self) -> float:
        return _mean([score.surface_dice for score in self.held_out])


# -- training ----------------------------------------------------------------------------------------------------
def judge_data(dataset: Dataset, splits: Splits) -> JudgeData:
    """The cases of a split, by their files."""

    def cases(names: Sequence[str]) -> tuple[JudgeCase, ...]:
        return tuple(JudgeCase(name, dataset.image_files(name), dataset.label_file(name)) for name in names)

    return JudgeData(
        dataset.name, dataset.channel_names, dataset.labels, dataset.tumor_name, dataset.file_ending, cases(splits.train), cases(splits.test)
    )


def train_judge(
    data: JudgeData,
    folder: Path,
    minutes: float,
    device: DeviceName,
    precision: Literal["fp32", "bf16"],
    tolerance_mm: float,
    seed: int,
    size: Size | None = CPU_SIZE,
    spacing_mm: Triple | None = None,
    restart: bool = False,
) -> JudgeRecord:
    """The record of the judge in `folder`: trained now, or to its end, or found finished.

    Args:
        minutes: how long nnU-Net's epochs take together; preparing and scoring are not counted.
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
    _check_data(data)
    folder = folder.resolve()
    job = _make_job(data, kind, precision, minutes, seed, size, spacing_mm, tolerance_mm)
    with locked(folder, "judge"):
        record = _finished(folder, job, restart)
        if record is None:
            _train(data, folder, job)
            record = _score_and_record(data, folder, job, tolerance_mm)
        _clean(folder)
    return record


def score_held_out(
    judge: Judge, cases: Sequence[JudgeCase], tumor_label: int, tolerance_mm: float, ticker: console.Ticker | None = None
) -> tuple[HeldOutScore, ...]:
    """Dice and surface Dice of the judge's tumor against the label, per case, over the whole scan."""
    scores = []
    for number, case in enumerate(cases, 1):
        image, grid = read_image(case.images)
        truth = read_volume(case.label)[0] == tumor_label
        begun = time.perf_counter()
        found = judge.tumor(image, grid)
        seconds = time.perf_counter() - begun
        values = [dice(found, truth), surface_dice(found, truth, grid.spacing_mm, tolerance_mm)]
        a, b = (None if math.isnan(value) else round(value, 4) for value in values)
        scores.append(HeldOutScore(case.name, a, b, round(seconds, 2)))
        if ticker is not None:
            ticker(number, case.name)
    return tuple(scores)


def copy_judge(folder: Path, out: Path) -> None:
    """Copies what a judge is made of, and nothing of how it was made: the log and dataset_fingerprint.json stay."""
    for name in ("plans.json", "dataset.json", f"fold_all/{FINAL}", "MODEL_CARD.md", "judge.json"):
        with atomic(out / name) as temporary:
            shutil.copyfile(folder / name, temporary)


def model_card(record: JudgeRecord, title: str, data: str, command: str, limits: Sequence[str]) -> str:
    """A judge's card as Markdown: what it is, what it was trained on, its scores, what it must not be used for."""
    schedule = record.schedule
    spacing, patch = (" × ".join(f"{v:.4g}" for v in triple) for triple in (record.spacing_mm, record.patch))
    rows = [f"| {s.case} | {_cell(s.dice)} | {_cell(s.surface_dice)} |" for s in record.held_out]
    lines = [
        f"# {title}", "",
        f"An nnU-Net v2 ({CONFIGURATION}, fold `all`, nnunetv2 {record.versions['nnunetv2']}) that marks `{record.tumor_name}`. TumorGen takes it "
        "as the judge of synthetic pairs: do mask and picture agree? It is an nnU-Net results folder without optimiser state; its checkpoint loads "
        "with `torch.load(..., weights_only=True)`.", "",
        f"* Network: {record.parameters / 1e6:.2f} million parameters, features {'-'.join(map(str, record.features))}, patch {patch} voxels of "
        f"{spacing} mm (x, y, z), batch {record.batch}.",
        f"* Training: {schedule.epochs} epochs of {schedule.iterations} iterations, {console.clock(record.seconds)} on {record.device} "
        f"({record.precision}), seed {record.seed}. Epochs were fitted to {record.minutes:g} minutes.", "",
        "## Data", "", data, "", f"Trained on {len(record.cases)} cases: {', '.join(record.cases)}.", "",
        "## Made by", "", "```bash", command, "```", "",
        "## Scores on held-out cases", "",
        f"Whole scans; NSD at {record.tolerance_mm:g} mm. None of these cases was trained on or chose anything.", "",
        "| case | DSC | NSD |", "|---|---|---|", *rows, f"| mean | {_cell(record.mean_dice)} | {_cell(record.mean_surface_dice)} |", "",
        "## What it must not be used for", "", *(f"* {limit}" for limit in limits), "",
    ]  # fmt: skip
    return "\n".join(lines)


LIMITS = (
    "Diagnosis, treatment, or any decision about a patient: it is a yardstick for synthetic data, small and briefly trained.",
    "Scans unlike those it learned from, in channels, units, body region or extent: it gives no sign that it is lost.",
    "A final model: train nnU-Net on your data, real and synthetic, for that.",
    "Choosing a method or checkpoint alone: agreement above what real held-out tumors reach speaks of easy tumors, not of good ones.",
)


# -- the parent's side -------------------------------------------------------------------------------------------
def _check_data(data: JudgeData) -> None:
    names = [case.name for case in data.train]
    both = sorted({*names} & {case.name for case in data.test})
    paths = [path for case in (*data.train, *data.test) for path in (*case.images, case.label)]
    faults = [Fault(str(path), "no such file", "a file of the case", "put it back") for path in paths if not path.is_file()]
    faults += [Fault(name, "to be learned from and held out", "one of both", "correct the splits") for name in both]
    faults += [Fault(name, "twice among the training cases", "once", "rename one of them") for name in {n for n in names if names.count(n) > 1}]
    faults += [
        Fault(case.name, f"{len(case.images)} images", f"{len(data.channel_names)} ({', '.join(data.channel_names)})", "give every channel")
        for case in (*data.train, *data.test)
        if len(case.images) != len(data.channel_names)
    ]
    faults += [
        Fault(str(path), path.name, f"a name that ends in {data.file_ending}", "convert it: nnU-Net reads one format per data set")
        for case in data.train
        for path in (*case.images, case.label)
        if not path.name.endswith(data.file_ending)
    ]
    if not names:
        faults.append(Fault(data.dataset, "no training cases", "one or more", "correct the splits"))
    if faults:
        raise DataError("A judge cannot be trained on these cases", faults)


def _make_job(
    data: JudgeData,
    device: Literal["cpu", "cuda"],
    precision: Literal["fp32", "bf16"],
    minutes: float,
    seed: int,
    size: Size | None,
    spacing_mm: Triple | None,
    tolerance_mm: float,
) -> Job:
    files, held_out = ([(case.name, *map(hash_file, (*case.images, case.label))) for case in cases] for cases in (data.train, data.test))
    processes = sum(path.stat().st_size for case in data.train for path in case.images) // _WORKER_BYTES
    size = size if device == "cpu" else None
    prepared = hash_value([data.channel_names, data.labels, data.file_ending, files, device, size, spacing_mm])
    inputs = hash_value([prepared, data.tumor_name, held_out, tolerance_mm, precision, minutes, seed])
    return Job(inputs, prepared, device, precision, minutes, seed, size, spacing_mm, max(1, min(processes, usable_cores(), _MOST_WORKERS)))


def _finished(folder: Path, job: Job, restart: bool) -> JudgeRecord | None:
    """The record of a finished judge made of the same; clears the folder for a restart.

    Raises:
        StateError: what lies there was made of something else.
    """
    made, begun = folder / "judge.json", folder / "job.json"
    if restart:
        for old in (made, begun, folder / "MODEL_CARD.md", folder / _LOG):
            old.unlink(missing_ok=True)
        for name in ("nnUNet_results", "fold_all"):
            shutil.rmtree(folder / name, ignore_errors=True)
        return None
    for path in (made, begun):
        found = read_plain(path, "run `tumorgen train judge --restart`").get("inputs_hash") if path.is_file() else job.inputs_hash
        if found != job.inputs_hash:
            remedy = "run `tumorgen train judge --restart` (what was trained is replaced)"
            fault = Fault(str(path), "made from other cases or settings", "the present ones", remedy)
            raise StateError("The judge is stale", [fault])
    return read_record(JudgeRecord, made, "run `tumorgen train judge --restart`") if made.is_file() else None


def _train(data: JudgeData, folder: Path, job: Job) -> None:
    """Has nnU-Net trained to its end; its files are then in their places in `folder`."""
    results = results_folder(folder)
    if not (results / "fold_all" / FINAL).is_file():
        if prepared_hash_of(folder) != job.prepared_hash:
            shutil.rmtree(folder / "nnUNet_preprocessed", ignore_errors=True)
            _link_cases(data, folder / "nnUNet_raw" / NAME)
            console.note("nnU-Net measures, plans and preprocesses the training cases")
        write_json(folder / "job.json", job)
        _run_child(folder, job)
    for path in (results / "plans.json", results / "dataset.json", results / "dataset_fingerprint.json", results / "fold_all" / FINAL):
        with atomic(folder / path.relative_to(results)) as temporary:
            shutil.copyfile(path, temporary)
    for path in sorted((results / "fold_all").glob("training_log_*.txt")):
        shutil.copyfile(path, folder / "fold_all" / path.name)


def _link_cases(data: JudgeData, raw: Path) -> None:
    """An nnU-Net raw dataset of links to the training cases, and to no other."""
    shutil.rmtree(raw, ignore_errors=True)
    for name in ("imagesTr", "labelsTr"):
        (raw / name).mkdir(parents=True)
    for case in data.train:
        for channel, path in enumerate(case.images):
            (raw / "imagesTr" / f"{case.name}_{channel:04d}{data.file_ending}").symlink_to(path.resolve())
        (raw / "labelsTr" / f"{case.name}{data.file_ending}").symlink_to(case.label.resolve())
    channels = {str(i): name for i, name in enumerate(data.channel_names)}
    write_json(
        raw / "dataset.json",
        {"channel_names": channels, "labels": data.labels, "numTraining": len(data.train), "file_ending": data.file_ending, "name": data.dataset},
    )


def _environment(folder: Path, job: Job) -> dict[str, str]:
    """The child's variables: the user's, with nnU-Net's replaced."""
    cores = usable_cores()
    workers = min(12, max(1, cores - 1)) if job.device == "cuda" else 1  # on CPU, training needs the cores itself; nnU-Net cannot plan with 0
    own = {k: v for k, v in os.environ.items() if not k.startswith("nnUNet_")}
    folders = {name: str(folder / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    # torch.compile: a minute at the start and a C compiler, for a training that may be short
    return {**own, **folders, "nnUNet_n_proc_DA": str(workers), "nnUNet_def_n_proc": str(job.processes), "nnUNet_compile": "f"}


def _run_child(folder: Path, job: Job) -> None:
    """Runs nnU-Net in a process group of its own; none of the group outlives this call."""
    progress = folder / "progress.json"
    progress.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tumorgen_cli.judge_trainer", str(folder)]
    with (folder / _LOG).open("ab") as log:
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=_environment(folder, job), start_new_session=True
        )  # the child reads from its stdin only to see it close: that is when this process is gone
        try:
            code = _follow(child, progress)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # no one is left
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            if child.stdin is not None:
                child.stdin.close()
    if code < 0:
        fault = Fault("nnU-Net's process", f"killed by signal {-code}, most often for want of memory", "to finish", f"free some memory and {_AGAIN}")
        raise DeviceError("nnU-Net was killed", [fault])
    if code:
        lines = [line for line in (folder / _LOG).read_text(errors="replace").splitlines() if line.strip()]
        raise StateError("nnU-Net failed", [Fault(str(folder / _LOG), lines[-1][:300], "a finished training", f"see the log; then {_AGAIN}")])


def _follow(child: subprocess.Popen[bytes], path: Path) -> int:
    """Shows the child's progress until it ends; returns its exit code."""
    with contextlib.ExitStack() as stack:
        tick: console.Ticker | None = None
        told = None
        while True:
            code = child.poll()
            state = read_plain(path, _AGAIN) if path.is_file() else None
            if state is not None and state != told:
                told = state
                if tick is None:
                    tick = stack.enter_context(console.progress("training the judge", state["total"], state["done"]))
                tick(state["done"], state["note"])
            if code is not None:
                return code
            time.sleep(_POLL_SECONDS)


def _score_and_record(data: JudgeData, folder: Path, job: Job, tolerance_mm: float) -> JudgeRecord:
    from importlib.metadata import version

    import torch

    from tumorgen_cli.judge import Judge

    judge = Judge(folder, torch.device(job.device), data.tumor_name, job.precision)
    with console.progress("scoring held-out cases", len(data.test)) as tick:
        scores = score_held_out(judge, data.test, data.labels[data.tumor_name], tolerance_mm, tick)
    plans = read_plain(folder / "plans.json", "run `tumorgen train judge --restart`")
    planned = plans["configurations"][CONFIGURATION]
    kwargs = planned["architecture"]["arch_kwargs"]
    checkpoint = torch.load(folder / "fold_all" / FINAL, map_location="cpu", weights_only=True)
    weights = {value.data_ptr(): value.numel() for value in checkpoint["network_weights"].values()}  # some have two names
    trained = read_plain(results_folder(folder) / "fold_all" / "schedule.json", "run `tumorgen train judge --restart`")
    order = [int(i) for i in reversed(plans["transpose_backward"])]
    record = JudgeRecord(
        inputs_hash=job.inputs_hash,
        dataset=data.dataset,
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
    card = model_card(record, f"Judge of {data.dataset}", text, f"tumorgen train judge --minutes {job.minutes:g}", LIMITS)
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


def _mean(values: Sequence[float | None]) -> float:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else math.nan


def _cell(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"
