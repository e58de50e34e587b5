"""nnU-Net v2 in a child process with its own environment: nnunetv2 plans, preprocesses and trains there.

There are two kinds of folders. One holds the raw and preprocessed data (nnUNet_raw with links to the cases that nnU-Net
plans from; nnUNet_preprocessed). The other holds a training (job.json, progress.json, nnunet.log, nnUNet_results).
Several trainings may share the preprocessed data, and one folder may serve both purposes.

The user's nnUNet_* variables are ignored. The child process (`nnunet.child`) and its workers end when this process
ends, however it ends. The next call continues from nnU-Net's last checkpoint. Imports neither torch nor nnunetv2.
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

from tumorgen_cli.data.labels import describe_for_nnunet
from tumorgen_cli.nnunet.job import CONFIGURATION, NAME, PLANS, TRAINER, VARIABLES, TrainingData, TrainingJob
from tumorgen_cli.nnunet.results import FINAL
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import usable_cores
from tumorgen_cli.system.errors import DeviceError, Fault, StateError
from tumorgen_cli.system.json_records import read_fields, read_record, write_json
from tumorgen_cli.system.links import copy_file, link_file

LOG = "nnunet.log"
_POLL_SECONDS = 0.25
_CALL_AGAIN = "call it again: it continues from the last checkpoint"


def results_folder(folder: Path) -> Path:
    """Return nnU-Net's results folder of the training in `folder`."""
    return folder / "nnUNet_results" / NAME / f"{TRAINER}__{PLANS}__{CONFIGURATION}"


def is_trained(folder: Path) -> bool:
    """Tell whether the training in `folder` is finished."""
    return (results_folder(folder) / "fold_all" / FINAL).is_file()


def read_prepared_hash(folder: Path) -> str | None:
    """Return the hash that the preprocessed data in `folder` were made with; None if there are none."""
    path = folder / "nnUNet_preprocessed" / "prepared.json"
    return read_record(dict[str, str], path, "delete it").get("prepared_hash") if path.is_file() else None


def loader_workers(jobs: int) -> int:
    """Return the number of loader processes for each of `jobs` simultaneous trainings; at most nnU-Net's own number."""
    return max(1, min(12, usable_cores() // jobs - 1))


def user_folders(root: Path) -> dict[str, Path]:
    """Return the user's own nnU-Net folders by variable; the default is a folder in `root`/nnunet."""
    return {name: Path(os.environ.get(name) or root.absolute() / "nnunet" / name) for name in VARIABLES}


def export_line(folders: Mapping[str, Path]) -> str:
    """Return the shell's `export` line for folders that nnU-Net's variables do not name yet; empty if none."""
    given = " ".join(
        f"{name}={shlex.quote(str(folder))}" for name, folder in folders.items() if os.environ.get(name) != str(folder)
    )
    return f"export {given}" if given else ""


def run_job(
    data: TrainingData, folder: Path, job: TrainingJob, title: str | None, variables: Mapping[str, str] | None = None
) -> None:
    """Run a training until it is finished; its results are then in `results_folder(folder)`.

    Args:
        data: the cases that nnU-Net's plan depends on.
        folder: folder of the training.
        job: what to train.
        title: title of the progress bar; None shows no progress.
        variables: additional environment variables of the child process.

    Raises:
        StateError: nnU-Net failed (the last line of its log is quoted).
        DeviceError: nnU-Net's process was killed.
    """
    if job.train and is_trained(folder):
        return
    prepared = Path(job.prepared)
    if read_prepared_hash(prepared) != job.prepared_hash:
        shutil.rmtree(prepared / "nnUNet_preprocessed", ignore_errors=True)
        _link_cases(data, prepared / "nnUNet_raw" / NAME)
        console.note("nnU-Net measures, plans and preprocesses the training cases")
    write_json(folder / "job.json", job)
    _run_child(folder, job, title, variables or {})


def _link_cases(data: TrainingData, raw: Path) -> None:
    """Make an nnU-Net raw data set of the training cases and of no other: links to images, copies of labels."""
    shutil.rmtree(raw, ignore_errors=True)
    for case in data.train:
        for channel, path in enumerate(case.images):
            link_file(path, raw / "imagesTr" / f"{case.name}_{channel:04d}{data.file_ending}")
        copy_file(case.label, raw / "labelsTr" / f"{case.name}{data.file_ending}")
    channels = {str(i): name for i, name in enumerate(data.channel_names)}
    write_json(
        raw / "dataset.json",
        {
            "channel_names": channels,
            **describe_for_nnunet(data.labels, data.class_order),
            "numTraining": len(data.train),
            "file_ending": data.file_ending,
            "name": data.dataset,
        },
    )


def _environment(folder: Path, job: TrainingJob) -> dict[str, str]:
    """Return the child's environment: the user's, with nnU-Net's variables replaced."""
    # on CPU, training itself needs the cores, but nnU-Net cannot plan with 0 workers
    workers = loader_workers(1) if job.device == "cuda" else 1
    others = {k: v for k, v in os.environ.items() if not k.startswith("nnUNet_")}
    raw, preprocessed, results = VARIABLES
    return {
        **others,
        raw: str(Path(job.prepared) / raw),
        preprocessed: str(Path(job.prepared) / preprocessed),
        results: str(folder / results),
        "nnUNet_n_proc_DA": str(workers),
        "nnUNet_def_n_proc": str(job.processes),
        # torch.compile takes a minute at the start and needs a C compiler; a training may be short
        "nnUNet_compile": "f",
    }


def _run_child(folder: Path, job: TrainingJob, title: str | None, variables: Mapping[str, str]) -> None:
    """Run nnU-Net in a process group of its own; no process of the group is left after this call."""
    progress = folder / "progress.json"
    progress.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tumorgen_cli.nnunet.child", str(folder)]
    with (folder / LOG).open("ab") as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # the child watches it only to see it close, which means that this process has ended
            stdout=log,
            stderr=log,
            env={**_environment(folder, job), **variables},
            start_new_session=True,
        )
        try:
            code = _follow(child, progress, title)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # all have ended by themselves
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            if child.stdin is not None:
                child.stdin.close()
    if code < 0:
        fault = Fault(
            "nnU-Net's process",
            f"killed by signal {-code}, most often because memory ran out",
            "to finish",
            f"free some memory and {_CALL_AGAIN}",
        )
        raise DeviceError("nnU-Net was killed", [fault])
    if code:
        lines = [line for line in (folder / LOG).read_text(errors="replace").splitlines() if line.strip()]
        last = lines[-1][:300] if lines else "its log is empty"
        fault = Fault(str(folder / LOG), last, "a finished training", f"see this log for the cause; then {_CALL_AGAIN}")
        raise StateError("nnU-Net failed", [fault])


def _follow(child: subprocess.Popen[bytes], path: Path, title: str | None) -> int:
    """Wait until the child ends and show its progress if there is a title; return its exit code."""
    with contextlib.ExitStack() as stack:
        tick: console.Ticker | None = None
        shown = None
        while True:
            code = child.poll()
            state = read_fields(path, _CALL_AGAIN, total=int, done=int, note=str) if path.is_file() else None
            if title is not None and state is not None and state != shown:
                shown = state
                if tick is None:
                    tick = stack.enter_context(console.progress(title, state["total"], state["done"]))
                tick(state["done"], state["note"])
            if code is not None:
                return code
            time.sleep(_POLL_SECONDS)
