"""What training will cost: stages are measured for a few steps in a temporary workspace, and nothing else is written.

Imports neither SimpleITK nor nnunetv2.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tumorgen_cli.data.splits import Splits
from tumorgen_cli.methods.base import Method
from tumorgen_cli.methods.open import open_method
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.cases import read_case_record
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName
from tumorgen_cli.system.files import free_bytes
from tumorgen_cli.system.json_records import read_fields, write_json
from tumorgen_cli.training.checkpoints import PROGRESS
from tumorgen_cli.training.loop import seconds_per_step, train

#: steps of a stage that are timed; they are its whole length, so that losses that start late have their share
MEASURED = 10


@dataclass(frozen=True)
class StageMeasure:
    """The measured cost of a stage: seconds of a step, and what its training and its cached windows take on disk."""

    seconds_per_step: float
    disk_bytes: int


@dataclass(frozen=True)
class StageForecast:
    """What is left to train of a stage.

    Attributes:
        stage: Name of the stage.
        steps: Steps that are left; 0: it is trained.
        seconds: Expected time for them, without previews and the encoding of windows.
        disk_bytes: What the stage takes on disk while it is trained.
    """

    stage: str
    steps: int
    seconds: float
    disk_bytes: int


@dataclass(frozen=True)
class TrainingForecast:
    """What is left to train, and the free space where it will be written."""

    stages: tuple[StageForecast, ...]
    free_bytes: int


def forecast_training(
    workspace: Workspace,
    method_name: str,
    stage: str,
    iterations: int | None = None,
    device: DeviceName = "auto",
    restart: bool = False,
) -> TrainingForecast:
    """Measure what `train_stages` with the same arguments would cost. The workspace is not changed."""
    method = open_method(workspace, method_name, device)
    stages = method.stages if stage == "all" else (stage,)
    left: dict[str, int] = {}
    for each in stages:  # what comes after a stage with new weights is trained from the beginning
        new = restart or any(left.get(before) for before in method.needed(each))
        left[each] = _steps_left(method, each, iterations, new)
    wanted = [each for each, steps in left.items() if steps]
    measured = measure_stages(method, wanted) if wanted else {}
    found = [
        StageForecast(each, left[each], round(left[each] * cost.seconds_per_step, 3), cost.disk_bytes)
        for each, cost in measured.items()
    ]
    done = [StageForecast(each, 0, 0.0, 0) for each in stages if not left[each]]
    return TrainingForecast((*done, *found), free_bytes(workspace.root))


def _steps_left(method: Method, stage: str, iterations: int | None, restart: bool) -> int:
    """How many steps of a stage are left; those of an unfinished training are in its `progress.json`."""
    steps = iterations or method.planned_iterations(stage)
    if restart:
        return steps
    if method.trained(stage, steps):
        return 0
    path = method.training_folder(stage) / PROGRESS
    done = read_fields(path, "delete it", step=int)["step"] if path.is_file() else 0
    return max(1, steps - int(done))


def measure_stages(method: Method, wanted: Sequence[str]) -> dict[str, StageMeasure]:
    """Measure stages; a stage that is off or part of another stage has no measure.

    The workspace is not changed. The stages are measured in a temporary workspace with two training cases, in which
    each is trained for one step, because later stages may need it.
    """
    found = {}
    with tempfile.TemporaryDirectory(prefix="tumorgen_") as folder:
        temporary, all_windows, few_windows = _small_workspace(method.workspace, Path(folder))
        console.note(f"{method.name}: measuring the time of a step")
        last = max(map(method.stages.index, wanted))
        for stage in method.stages[: last + 1]:
            own, fresh = (type(method)(method.plan, temporary, method.device) for _ in range(2))
            if own.trained(stage):  # it is off, or part of another stage
                continue
            windows = _size(own.folder("latents"))
            seconds = seconds_per_step(own.stage(stage, MEASURED), method.device, method.plan.precision)
            made = replace(fresh.stage(stage, 1), preview=None)
            train(made, fresh.folder(stage), method.device, method.plan.precision)
            windows = _size(own.folder("latents")) - windows
            # a new checkpoint is written beside the last one
            saved = _size(fresh.folder(stage)) + (fresh.folder(stage) / "last.pt").stat().st_size
            if stage in wanted:
                found[stage] = StageMeasure(seconds, saved + windows * all_windows // max(1, few_windows))
    return found


def _small_workspace(workspace: Workspace, folder: Path) -> tuple[Workspace, int, int]:
    """A workspace in `folder` with at most two training cases and two held-out cases of another one.

    Returns:
        The workspace, the number of training windows of the whole one, and their number in this one.
    """
    splits, small = workspace.splits(), workspace.shared_in(folder)
    windows = {
        case: sum(c.fits for c in read_case_record(workspace.cases / case).components)
        for case in (*splits.train, *splits.test)
    }
    train_cases, test_cases = ([case for case in group if windows[case]][:2] for group in (splits.train, splits.test))
    write_json(small.splits_file, Splits(tuple(train_cases), tuple(test_cases)))
    return small, sum(windows[case] for case in splits.train), sum(windows[case] for case in train_cases)


def _size(folder: Path) -> int:
    """Bytes of the files in a folder; 0 if there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
