"""nnU-Net v2 in a process of its own: planned, preprocessed and trained by nnunetv2, with an environment of its own.

Two kinds of folders: what is prepared (nnUNet_raw, links to the cases that nnU-Net plans from; nnUNet_preprocessed), and a
training (job.json, progress.json, nnunet.log, nnUNet_results); several trainings may share what is prepared, and both may be one.

The user's nnUNet_* variables are neither needed nor heeded. The child, `child`, and all its workers end when this
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
from collections.abc import Mapping
from pathlib import Path

from tumorgen_cli.nnunet.job import CONFIGURATION, NAME, PLANS, TRAINER, VARIABLES, TrainingData, TrainingJob
from tumorgen_cli.nnunet.results import FINAL
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import usable_cores
from tumorgen_cli.system.errors import DeviceError, Fault, StateError
from tumorgen_cli.system.json_records import read_plain, write_json

LOG = "nnunet.log"
_POLL_SECONDS = 0.25
_AGAIN = "call it again: it goes on from the last checkpoint"


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
    given = " ".join(
        f"{name}={shlex.quote(str(folder))}" for name, folder in folders.items() if os.environ.get(name) != str(folder)
    )
    return f"export {given}" if given else ""


def run_job(
    data: TrainingData, folder: Path, job: TrainingJob, title: str | None, variables: Mapping[str, str] | None = None
) -> None:
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
        {
            "channel_names": channels,
            "labels": data.labels,
            "numTraining": len(data.train),
            "file_ending": data.file_ending,
            "name": data.dataset,
        },
    )


def _environment(folder: Path, job: TrainingJob) -> dict[str, str]:
    """The child's variables: the user's, with nnU-Net's replaced."""
    workers = (
        loader_workers(1) if job.device == "cuda" else 1
    )  # on CPU, training needs the cores itself; nnU-Net cannot plan with 0
    own = {k: v for k, v in os.environ.items() if not k.startswith("nnUNet_")}
    raw, preprocessed, results = VARIABLES
    folders = {
        raw: str(Path(job.prepared) / raw),
        preprocessed: str(Path(job.prepared) / preprocessed),
        results: str(folder / results),
    }
    # torch.compile: a minute at the start and a C compiler, for a training that may be short
    return {
        **own,
        **folders,
        "nnUNet_n_proc_DA": str(workers),
        "nnUNet_def_n_proc": str(job.processes),
        "nnUNet_compile": "f",
    }


def _run_child(folder: Path, job: TrainingJob, title: str | None, variables: Mapping[str, str]) -> None:
    """Runs nnU-Net in a process group of its own; none of the group outlives this call."""
    progress = folder / "progress.json"
    progress.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tumorgen_cli.nnunet.child", str(folder)]
    with (folder / LOG).open("ab") as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**_environment(folder, job), **variables},
            start_new_session=True,
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
        fault = Fault(
            "nnU-Net's process",
            f"killed by signal {-code}, most often for want of memory",
            "to finish",
            f"free some memory and {_AGAIN}",
        )
        raise DeviceError("nnU-Net was killed", [fault])
    if code:
        lines = [line for line in (folder / LOG).read_text(errors="replace").splitlines() if line.strip()] or [
            "no word in its log"
        ]
        raise StateError(
            "nnU-Net failed",
            [Fault(str(folder / LOG), lines[-1][:300], "a finished training", f"see the log; then {_AGAIN}")],
        )


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
