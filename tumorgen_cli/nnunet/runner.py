"""nnU-Net v2 in a process of its own: planned, preprocessed and trained by nnunetv2, with an environment of its own.

Two kinds of folders: what is prepared (nnUNet_raw, links to the cases that nnU-Net plans from; nnUNet_preprocessed), and a
training (job.json, progress.json, nnunet.log, nnUNet_results); several trainings may share what is prepared, and both may be one.

The user's nnUNet_* variables are neither needed nor heeded. The child, `nnunet_child`, and all its workers end when this
process does, however it ends; the next call goes on from nnU-Net's last checkpoint. Imports neither torch nor nnunetv2.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tumorgen_cli import console
from tumorgen_cli.dataset import Dataset
from tumorgen_cli.devices import usable_cores
from tumorgen_cli.errors import DataError, DeviceError, Fault, StateError
from tumorgen_cli.files import hash_file, hash_value, read_plain, write_json
from tumorgen_cli.records import Triple
from tumorgen_cli.results import FINAL
from tumorgen_cli.workspace import Splits

NAME = "Dataset900_Cases"
CONFIGURATION = "3d_fullres"
PLANS = "nnUNetPlans"
TRAINER = "OwnTrainer"
LOG = "nnunet.log"
VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
_WORKER_BYTES = 64 << 20  # of images for each process that prepares them: starting one takes seconds
_MOST_WORKERS = 4  # nnU-Net's own number for preprocessing
_POLL_SECONDS = 0.25
_AGAIN = "call it again: it goes on from the last checkpoint"


@dataclass(frozen=True)
class CaseFiles:
    """A case by its files: one image per channel, and its label."""

    name: str
    images: tuple[Path, ...]
    label: Path


@dataclass(frozen=True)
class TrainingData:
    """What an nnU-Net learns from (`train`) and is scored on (`test`). `labels` maps names to values, background to 0."""

    dataset: str
    channel_names: tuple[str, ...]
    labels: dict[str, int]
    tumor_name: str
    file_ending: str
    train: tuple[CaseFiles, ...]
    test: tuple[CaseFiles, ...]

    @property
    def ignored(self) -> int:
        """The value of voxels that are neither learnt from nor scored; -1 where there are none."""
        return self.labels.get("ignore", -1)


@dataclass(frozen=True)
class Size:
    """What a network may cost: voxels of a patch, resolution stages, features of the first stage and of any."""

    voxels: int
    stages: int
    first: int
    most: int


#: On two cores with AMX a step on two patches of 40×64×40 voxels takes 0.26 s in bf16; 2,250 such steps gave DSC 0.75 on 8
#: held-out sarcoma PET cases. 2^17 voxels are a patch of 48×48×48 and a little; nnU-Net's own 32 to 320 features take ten
#: times as long.
CPU_SIZE = Size(voxels=2**17, stages=4, first=16, most=128)


@dataclass(frozen=True)
class Schedule:
    """How long is trained: chosen once, from the time the first iterations took; resumed runs keep to it."""

    epochs: int
    iterations: int
    seconds_per_iteration: float


@dataclass(frozen=True)
class Extra:
    """A case to learn from that nnU-Net does not plan from, by its files."""

    name: str
    images: tuple[str, ...]
    label: str


@dataclass(frozen=True)
class Job:
    """What the child is told.

    `prepared`: the folder of what is prepared. `train`: the cases to learn from, as often each as it is to be drawn; without
    any, all is only prepared. `extra`: those of them that nnU-Net does not plan from. `schedule`: None to fit one to the minutes.
    `painting`: the file that says what is painted meanwhile, if anything is (see `live`).
    """

    inputs_hash: str
    prepared: str
    prepared_hash: str
    device: Literal["cpu", "cuda"]
    precision: Literal["fp32", "bf16"]
    minutes: float
    seed: int
    size: Size | None
    spacing_mm: Triple | None
    processes: int
    train: tuple[str, ...]
    extra: tuple[Extra, ...] = ()
    schedule: Schedule | None = None
    painting: str | None = None


# -- what is to be done --------------------------------------------------------------------------------------------
def training_data(dataset: Dataset, splits: Splits) -> TrainingData:
    """The cases of a split, by their files."""

    def cases(names: Sequence[str]) -> tuple[CaseFiles, ...]:
        return tuple(CaseFiles(name, dataset.image_files(name), dataset.label_file(name)) for name in names)

    return TrainingData(
        dataset.name, dataset.channel_names, dataset.labels, dataset.tumor_name, dataset.file_ending, cases(splits.train), cases(splits.test)
    )


def check_data(data: TrainingData) -> None:
    """Raises:
    DataError: files are missing, or a case is to be learned from and held out.
    """
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
        raise DataError("nnU-Net cannot be trained on these cases", faults)


def hash_cases(cases: Sequence[CaseFiles]) -> list[tuple[str, ...]]:
    """The name and the files' hashes of each case."""
    return [(case.name, *map(hash_file, (*case.images, case.label))) for case in cases]


def make_job(
    data: TrainingData,
    prepared: Path,
    device: Literal["cpu", "cuda"],
    precision: Literal["fp32", "bf16"],
    minutes: float,
    seed: int,
    size: Size | None,
    spacing_mm: Triple | None,
    cases: Sequence[str] | None = None,
    extra: Sequence[CaseFiles] = (),
) -> Job:
    """The job of a training on `cases` (every training case once, if None); see Job. `size` counts on CPU only.

    All that it learns from is part of `inputs_hash`, where files lie is not.
    """
    cases = tuple(case.name for case in data.train) if cases is None else tuple(cases)
    size = size if device == "cpu" else None
    hashed = hash_value([data.channel_names, data.labels, data.file_ending, hash_cases(data.train), device, size, spacing_mm])
    inputs = hash_value([hashed, precision, minutes, seed, cases, hash_cases(extra)])
    processes = sum(path.stat().st_size for case in (*data.train, *extra) for path in case.images) // _WORKER_BYTES
    processes = max(1, min(processes, usable_cores(), _MOST_WORKERS))
    found = tuple(Extra(case.name, tuple(str(path.resolve()) for path in case.images), str(case.label.resolve())) for case in extra)
    return Job(inputs, str(prepared.resolve()), hashed, device, precision, minutes, seed, size, spacing_mm, processes, cases, found)


# -- where things lie ----------------------------------------------------------------------------------------------
def results_folder(folder: Path) -> Path:
    return folder / "nnUNet_results" / NAME / f"{TRAINER}__{PLANS}__{CONFIGURATION}"


def is_trained(folder: Path) -> bool:
    return (results_folder(folder) / "fold_all" / FINAL).is_file()


def prepared_hash_of(folder: Path) -> str | None:
    path = folder / "nnUNet_preprocessed" / "prepared.json"
    return str(read_plain(path, "delete it")["prepared_hash"]) if path.is_file() else None


def loader_workers(jobs: int) -> int:
    """Processes that load batches for each of the trainings at a time on this machine: nnU-Net's own number at most."""
    return max(1, min(12, usable_cores() // jobs - 1))


def users_folders(root: Path) -> dict[str, Path]:
    """The user's own nnU-Net folders by variable; where one is not set, a default in `root`/nnunet."""
    return {name: Path(os.environ.get(name) or root.absolute() / "nnunet" / name) for name in VARIABLES}


def export_line(folders: Mapping[str, Path]) -> str:
    """The shell's `export` of those of nnU-Net's folders that its variables do not name yet; empty where they do."""
    given = " ".join(f"{name}={shlex.quote(str(folder))}" for name, folder in folders.items() if os.environ.get(name) != str(folder))
    return f"export {given}" if given else ""


# -- running it ----------------------------------------------------------------------------------------------------
def run_job(data: TrainingData, folder: Path, job: Job, title: str | None, variables: Mapping[str, str] | None = None) -> None:
    """Has nnU-Net trained to its end: its results are then in `results_folder(folder)`.

    `title` names the progress that is shown, None for none; `variables` are given to the child on top.

    Raises:
        StateError: nnU-Net failed (its log is quoted). DeviceError: it was killed.
    """
    if job.train and is_trained(folder):
        return
    prepared = Path(job.prepared)
    if prepared_hash_of(prepared) != job.prepared_hash:
        shutil.rmtree(prepared / "nnUNet_preprocessed", ignore_errors=True)
        _link_cases(data, prepared / "nnUNet_raw" / NAME)
        console.note("nnU-Net measures, plans and preprocesses the training cases")
    write_json(folder / "job.json", job)
    _run_child(folder, job, title, variables or {})

def _link_cases(data: TrainingData, raw: Path) -> None:
    """An nnU-Net raw dataset of links to the cases to learn from, and to no other."""
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
    workers = loader_workers(1) if job.device == "cuda" else 1  # on CPU, training needs the cores itself; nnU-Net cannot plan with 0
    own = {k: v for k, v in os.environ.items() if not k.startswith("nnUNet_")}
    raw, preprocessed, results = VARIABLES
    folders = {raw: str(Path(job.prepared) / raw), preprocessed: str(Path(job.prepared) / preprocessed), results: str(folder / results)}
    # torch.compile: a minute at the start and a C compiler, for a training that may be short
    return {**own, **folders, "nnUNet_n_proc_DA": str(workers), "nnUNet_def_n_proc": str(job.processes), "nnUNet_compile": "f"}


def _run_child(folder: Path, job: Job, title: str | None, variables: Mapping[str, str]) -> None:
    """Runs nnU-Net in a process group of its own; none of the group outlives this call."""
    progress = folder / "progress.json"
    progress.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tumorgen_cli.nnunet_child", str(folder)]
    with (folder / LOG).open("ab") as log:
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env={**_environment(folder, job), **variables}, start_new_session=True
        )  # the child reads from its stdin only to see it close: that is when this process is gone
        try:
            code = _follow(child, progress, title)
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
        lines = [line for line in (folder / LOG).read_text(errors="replace").splitlines() if line.strip()] or ["no word in its log"]
        raise StateError("nnU-Net failed", [Fault(str(folder / LOG), lines[-1][:300], "a finished training", f"see the log; then {_AGAIN}")])


def _follow(child: subprocess.Popen[bytes], path: Path, title: str | None) -> int:
    """Waits for the child's end, showing its progress under a title if there is one; returns its exit code."""
    with contextlib.ExitStack() as stack:
        tick: console.Ticker | None = None
        told = None
        while True:
            code = child.poll()
            state = read_plain(path, _AGAIN) if path.is_file() else None
            if title is not None and state is not None and state != told:
                told = state
                if tick is None:
                    tick = stack.enter_context(console.progress(title, state["total"], state["done"]))
                tick(state["done"], state["note"])
            if code is not None:
                return code
            time.sleep(_POLL_SECONDS)
