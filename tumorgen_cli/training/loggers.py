"""Loggers that a training can write to beside its own log: TensorBoard, Weights & Biases, MLflow.

Each is an extra. A logger gets the rows of `log.csv`, after each checkpoint those that it does not have yet.
`logger.json` in the stage's folder holds the run and its last step, so that a resumed training goes on in the same run.
What is sent are the numbers of the log, the facts about the run and its name. The services would add console output,
command line, paths, host, user and code, which may name patients: these are held back (`_WANDB_SETTINGS`,
`_MLFLOW_TAGS`). Pictures are never sent.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from tumorgen_cli.system.errors import Fault, StateError
from tumorgen_cli.system.json_records import read_fields, write_json
from tumorgen_cli.training.checkpoints import read_log
from tumorgen_cli.training.watch import Moment

LoggerName = Literal["tensorboard", "wandb", "mlflow"]
RECORD = "logger.json"
_PROJECT = "tumorgen"
#: what to install, as in the extras of pyproject.toml
PACKAGES: dict[str, str] = {"tensorboard": "tensorboard>=2.14", "wandb": "wandb>=0.19", "mlflow": "mlflow>=2.9"}
#: what to do if a logger cannot be opened; `{folder}` is the stage's folder
_OPENING: dict[str, str] = {
    "tensorboard": "make {folder}/tensorboard a folder that you can write in",
    "wandb": "run `wandb login` or set WANDB_MODE=offline",
    "mlflow": "correct MLFLOW_TRACKING_URI",
}
_HELD_BACK = "not sent"
#: keep back what Weights & Biases finds out on its own: an empty host or program would be filled in
_WANDB_SETTINGS: dict[str, Any] = {
    "console": "off",
    "disable_git": True,
    "disable_code": True,
    "save_code": False,
    "disable_job_creation": True,
    "host": _HELD_BACK,
    "program": _PROJECT,
    "program_abspath": _PROJECT,
    "program_relpath": _PROJECT,
    "x_disable_meta": True,  # command line, folder, versions, hardware
    "x_disable_stats": True,  # of the machine and its disks
    "x_disable_machine_info": True,
    "x_save_requirements": False,  # the installed packages, which may lie in named folders
}
#: MLflow fills in what is not given
_MLFLOW_TAGS = {
    f"mlflow.{name}": _HELD_BACK
    for name in ("user", "source.name", "source.git.commit", "source.git.branch", "source.git.repoURL")
}


def check_logger(name: LoggerName | None) -> None:
    """See that the package of a logger is installed, without importing it.

    Raises:
        StateError: It is not.
    """
    if name is None:
        return
    found = find_spec(name)
    if found is None or found.origin is None:  # a mere folder of that name has no origin
        fault = Fault(f"--log {name}", "not installed", f"the package {name}", f"pip install '{PACKAGES[name]}'")
        raise StateError("A package is missing", [fault])


class _Run(Protocol):
    """A run of a logger.

    Attributes:
        key: What finds the run again.
    """

    key: str

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Add the numbers of a step, so that they are kept if this process is killed."""

    def close(self) -> None:
        """Send what is left and end the run; closing again does no harm."""


class _TensorBoard:
    """Event files in the stage's folder; each session adds one."""

    def __init__(self, folder: Path, key: str, title: str, facts: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.key = key or "tensorboard"
        self._writer = SummaryWriter(str(folder / "tensorboard"))
        if not key:
            self._writer.add_text(
                "run", "\n".join(f"- {name}: {text}" for name, text in {"run": title, **facts}.items())
            )

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # by itself the writer does so every two minutes

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    """A run of Weights & Biases, which WANDB_MODE, WANDB_PROJECT and `wandb login` direct."""

    def __init__(self, folder: Path, key: str, title: str, facts: Mapping[str, Any]) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=title,
            id=key or None,
            resume="allow",
            dir=str(folder),
            config=dict(facts),
            settings=dict(_WANDB_SETTINGS),
        )
        self.key = str(self._run.id)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    """A run of MLflow, which MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME direct."""

    def __init__(self, folder: Path, key: str, title: str, facts: Mapping[str, Any]) -> None:  # noqa: ARG002  (one form)
        import mlflow

        self._mlflow = mlflow
        if not key:  # a run that goes on stays in its experiment
            mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT))
        run = mlflow.start_run(run_id=key or None, run_name=title, tags=dict(_MLFLOW_TAGS))
        self.key = str(run.info.run_id)
        try:
            if not key:
                mlflow.log_params(dict(facts))
        except Exception:  # whatever it is, it is raised again: an open run would be in the way of the next one
            _close_quietly(self)
            raise

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(numbers), step=step)

    def close(self) -> None:
        self._mlflow.end_run()


def _close_quietly(run: _Run) -> None:
    """Close a run after an error, which is the one to tell; that of closing says nothing new."""
    with contextlib.suppress(Exception):
        run.close()


_RUNS: dict[str, type[_TensorBoard] | type[_WeightsAndBiases] | type[_MLflow]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WeightsAndBiases,
    "mlflow": _MLflow,
}


class TrainingLogger:
    """Copies the rows of a stage's log to a logger: a watcher of a training.

    Args:
        name: The logger.
        title: Name of the run.
        facts: What the run is about, by name.
    """

    def __init__(self, name: LoggerName, title: str, facts: Mapping[str, Any]) -> None:
        self._name, self._title, self._facts = name, title, dict(facts)
        self._run: _Run | None = None
        self._step = 0

    def __call__(self, moment: Moment) -> None:
        """Send the rows that are new since the last call or the last training.

        After an error the run is closed: a watcher that fails is told nothing more, and the next stage opens its own.
        What a logger prints goes to stderr, since stdout is for results.

        Raises:
            StateError: At the first call: the logger cannot be opened.
        """
        with contextlib.redirect_stdout(sys.stderr):
            if self._run is None:
                self._run = self._open(moment.folder)
            try:
                self._send(moment, self._run)
            except Exception:  # whatever a service's network makes it raise, it is raised again once the run is closed
                _close_quietly(self._run)
                raise

    def _send(self, moment: Moment, run: _Run) -> None:
        """Send new rows, note that they are sent, and close the run at the end of the training."""
        for row in read_log(moment.folder):
            if row["step"] > self._step:
                self._step = int(row["step"])
                run.log(self._step, {name: value for name, value in row.items() if name != "step"})
        write_json(moment.folder / RECORD, {"logger": self._name, "run": run.key, "step": self._step})
        if moment.state != "running":
            run.close()

    def _open(self, folder: Path) -> _Run:
        """Open the run that the stage's last training wrote to, or a new one."""
        path, key = folder / RECORD, ""
        if path.is_file():
            known = read_fields(path, f"delete {path}", logger=str, run=str, step=int)
            if known["logger"] == self._name:
                key, self._step = known["run"], known["step"]
        try:
            return _RUNS[self._name](folder, key, self._title, self._facts)
        except Exception as error:  # each package has kinds of its own for a folder, a key or a server
            lines = str(error).splitlines() or [type(error).__name__]
            remedy = f"{_OPENING[self._name].format(folder=folder)}, or train without --log"
            fault = Fault(f"--log {self._name}", lines[0][:200], "a logger that can be opened", remedy)
            raise StateError("The logger cannot be opened", [fault]) from error
