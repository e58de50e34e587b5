"""Measure what painting costs nnU-Net on the same cores: how much slower its iteration is, and how many patches come.

    python examples/live_cost.py -w WORK --healthy DIR --folder SCRATCH
    python examples/live_cost.py -w WORK --healthy DIR --folder SCRATCH --method copypaste --shares 0.3 --seconds 120

nnU-Net prepares the training cases of the workspace in SCRATCH, which a later call uses again, and trains on them as
`downstream` does: without painting, and with a painter at each of `--shares`. The two take turns; while the one without
trains, the painter is stopped. The first iterations of a turn are not counted, because their batches were made before.
Goals: an iteration at most 20 % slower, and 100 fresh patches within seven minutes. Prints a row for each share, with
the commit, the command and the machine.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from origin import origin_and_command

from tumorgen_cli.nnunet.job import (
    CONFIGURATION,
    NAME,
    PLANS,
    VARIABLES,
    Schedule,
    TrainingJob,
    TrainingOptions,
    device_kind,
    make_job,
    training_data,
)
from tumorgen_cli.nnunet.on_the_fly.settings import PROGRESS
from tumorgen_cli.nnunet.runner import run_job
from tumorgen_cli.pipeline.nnunet_setup import set_up_nnunet
from tumorgen_cli.planning.planned_data import read_planned_dataset
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.synthesis.options import HostOptions, OnTheFlyOptions
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName, usable_cores

_WARMUP = 20  # iterations of a turn that are not counted: nnU-Net's queues hold 12 batches
_ENDLESS = Schedule(epochs=1000, iterations=250, seconds_per_iteration=1.0)


@dataclass(frozen=True)
class Cost:
    """What painting at a share costs.

    Attributes:
        share: largest share of its time that the painter may compute.
        plain: seconds of an iteration without painting, in each turn.
        painted: the same with a painter beside it.
        patches: patches that were painted in the turns with a painter.
        seconds: length of these turns.
        busy: share of these turns in which the painter computed.
    """

    share: float
    plain: tuple[float, ...]
    painted: tuple[float, ...]
    patches: int
    seconds: float
    busy: float

    @property
    def slower(self) -> float:
        """By which share an iteration is longer, in the median of the turns."""
        return float(np.median(self.painted) / np.median(self.plain) - 1)

    @property
    def minutes_for_100(self) -> float:
        """Minutes in which 100 fresh patches are painted; infinite if none was."""
        return 100 * self.seconds / self.patches / 60 if self.patches else float("inf")

    @property
    def row(self) -> tuple[str, ...]:
        """The row of the table."""
        plain, painted = (float(np.median(times)) for times in (self.plain, self.painted))
        return (
            f"{self.share:g}",
            f"{plain:.4f}",
            f"{painted:.4f}",
            f"{self.slower:+.1%}",
            f"{self.busy:.0%}",
            f"{self.patches}",
            f"{self.minutes_for_100:.1f}",
        )


def main(
    work: Annotated[Path, typer.Option("-w", "--work", help="A workspace with the method trained.")],
    healthy: Annotated[Path, typer.Option(help="Folder of scans without tumors to paint into.")],
    folder: Annotated[Path, typer.Option(help="Folder for what nnU-Net prepares and writes.")],
    method: str = "tumorgen",
    shares: Annotated[str, typer.Option(help="Largest shares of its time that the painter computes.")] = "0.15,0.3,0.6",
    rounds: Annotated[int, typer.Option(help="Turns with and without a painter.")] = 3,
    seconds: Annotated[float, typer.Option(help="Length of a turn.")] = 60.0,
    device: DeviceName = "auto",
) -> None:
    """Print what painting costs nnU-Net; see the docstring of this file."""
    print(origin_and_command(), flush=True)
    kind = device_kind(device)
    torch.set_num_threads(usable_cores() if kind == "cpu" else 1)  # as nnU-Net's own command does
    workspace = Workspace(work.resolve())
    job = prepare(workspace, folder, device)
    rows = []
    for share in map(float, shares.split(",")):
        patches = OnTheFlyOptions(probability=0.5, share=share)
        hosts, place = HostOptions(healthy), folder / f"share_{share:g}"
        painting = set_up_nnunet(workspace, method, hosts, patches, device=device, folder=place).file
        rows.append(measure(share, job, painting, place, rounds, seconds).row)
    columns = ("share", "plain [s]", "painted [s]", "slower", "painter busy", "patches", "minutes for 100 patches")
    console.table(f"{method}, {rounds} turns of {seconds:g} s, {torch.get_num_threads()} threads", columns, rows)


def prepare(workspace: Workspace, folder: Path, device: DeviceName) -> TrainingJob:
    """Let nnU-Net prepare the training cases in a folder; return the job of a training on all of them."""
    plan = workspace.plan()
    data = training_data(read_planned_dataset(workspace, plan), workspace.splits())
    options = TrainingOptions(1.0, 0, device_kind(device), plan.precision)
    run_job(data, folder, make_job(data, folder, options, ()), "preparing the training cases")
    return replace(make_job(data, folder, options), schedule=_ENDLESS)


def measure(share: float, job: TrainingJob, painting: str, place: Path, rounds: int, seconds: float) -> Cost:
    """Train without and with a painter in turn.

    Args:
        share: largest share of its time that the painter computes.
        job: the job of a training without painting.
        painting: the file that says what to paint.
        place: folder for what nnU-Net writes.
        rounds: turns with and without a painter.
        seconds: length of a turn.
    """
    trainers = {name: start(replace(job, painting=file), place / name) for name, file in _kinds(painting)}
    painter = trainers["painted"].painter
    times: dict[str, list[float]] = {name: [] for name in trainers}
    before = after = _progress(painter)
    patches, busy, spent = 0, 0.0, 0.0
    try:
        for name in [*trainers] * rounds:
            os.killpg(painter.child.pid, signal.SIGCONT if name == "painted" else signal.SIGSTOP)
            begun, before = time.perf_counter(), _progress(painter)
            times[name].append(_turn(trainers[name], seconds))
            if name == "painted":
                after, length = _progress(painter), time.perf_counter() - begun
                patches, spent = patches + after["painted"] - before["painted"], spent + length
                busy += after["busy_seconds"] - before["busy_seconds"]
    finally:
        os.killpg(painter.child.pid, signal.SIGCONT)  # a stopped painter would not notice that this process ends
        for trainer in trainers.values():
            trainer.disable_checkpointing = True
            trainer.on_train_end()
    return Cost(share, tuple(times["plain"]), tuple(times["painted"]), patches, spent, busy / spent)


def _kinds(painting: str) -> Sequence[tuple[str, str | None]]:
    return (("plain", None), ("painted", painting))


def start(job: TrainingJob, folder: Path) -> Any:
    """Start nnU-Net's trainer in this process; its loaders, and the painter if it has one, run from here on."""
    prepared = Path(job.prepared)
    for name, where in zip(VARIABLES, (prepared, prepared, folder), strict=True):
        os.environ[name] = str(where / name)
    os.environ |= {"nnUNet_n_proc_DA": "1", "nnUNet_compile": "f"}
    from tumorgen_cli.nnunet.trainer import trainer_class

    preprocessed = prepared / VARIABLES[1] / NAME
    plans = json.loads((preprocessed / f"{PLANS}.json").read_text(encoding="utf-8")) | {"continue_training": False}
    described = json.loads((preprocessed / "dataset.json").read_text(encoding="utf-8"))
    trainer = trainer_class(job, lambda *_: None)(plans, CONFIGURATION, "all", described, torch.device(job.device))
    trainer.on_train_start()
    trainer.network.train()
    return trainer


def _turn(trainer: Any, seconds: float) -> float:
    """Train for some seconds; return the mean seconds of an iteration, after the first ones."""
    for _ in range(_WARMUP):
        trainer.train_step(next(trainer.dataloader_train))
    begun, done = time.perf_counter(), 0
    while not done or time.perf_counter() - begun < seconds:
        trainer.train_step(next(trainer.dataloader_train))
        done += 1
    return (time.perf_counter() - begun) / done


def _progress(painter: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((painter.folder / PROGRESS).read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    typer.run(main)
