"""How long to train each stage of a method, so that methods get the same steps or the same minutes.

Writes `comparison/budgets/<method>.json` into the workspace: the seconds of a step and the resulting lengths, so that
an interrupted comparison continues with the same lengths. Imports neither SimpleITK nor nnunetv2.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tumorgen_cli.data.splits import Splits
from tumorgen_cli.methods.base import Method
from tumorgen_cli.methods.open import open_method
from tumorgen_cli.pipeline.train import train_stage
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.cases import load_case
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName
from tumorgen_cli.system.json_records import read_record, write_json
from tumorgen_cli.training.loop import seconds_per_step, train

#: steps of a stage that are timed; they are its whole length, so that losses that start late have their share
MEASURED = 10


@dataclass(frozen=True)
class TrainingLength:
    """The same for every method: optimizer steps per stage, or minutes per method.

    Without both, the plan's own lengths are used.
    """

    iterations: int | None = None
    minutes: float | None = None

    @property
    def words(self) -> str:
        """The length in words."""
        if self.iterations is not None:
            return f"{self.iterations} steps for every stage that was not yet trained"
        if self.minutes is None:
            return "the plan's own lengths"
        return (
            f"{self.minutes:g} minutes for every method, divided over all its stages; "
            "stages that were already trained were not trained again"
        )


@dataclass(frozen=True)
class Lengths:
    """The lengths that follow from `minutes`, by stage.

    Attributes:
        minutes: Minutes of the whole method.
        plan: Hash of the plan.
        device: The device of the measurement.
        seconds_a_step: Measured seconds of a step.
        iterations: Steps; 0: the stage is off, or part of another stage.
    """

    minutes: float
    plan: str
    device: str
    seconds_a_step: dict[str, float]
    iterations: dict[str, int]


def train_within(workspace: Workspace, method_name: str, length: TrainingLength, device: DeviceName) -> None:
    """Train the stages of a method that are not trained, each to its length; trained stages are not changed.

    Raises:
        StateError: A stage was trained from inputs that have changed.
    """
    method = open_method(workspace, method_name, device)
    # a stage that is off, or part of another, counts as trained once the stages before it are trained
    wanted = [stage for stage in method.stages if not method.trained(stage)]
    if not wanted:
        return
    if length.minutes is None:
        lengths: Mapping[str, int | None] = dict.fromkeys(wanted, length.iterations)
    else:
        lengths = stage_lengths(
            method, method.stages, length.minutes
        )  # trained stages have used their share of the minutes
    for stage in wanted:
        if not open_method(workspace, method_name, device).trained(stage):
            train_stage(workspace, method_name, stage, lengths.get(stage), device)


def stage_lengths(method: Method, wanted: Sequence[str], minutes: float) -> dict[str, int]:
    """Return the steps of each stage.

    They come from the record of an earlier call where it still holds, else they are measured and recorded.
    """
    path = method.workspace.root / "comparison" / "budgets" / f"{method.name}.json"
    if path.is_file():
        found = read_record(Lengths, path, "delete it")
        known = (found.minutes, found.plan, found.device) == (minutes, method.plan.hash, method.device)
        if known and {*wanted} <= {*found.iterations}:
            return found.iterations
    seconds = measure_stages(method, wanted)
    planned = {stage: method.planned_iterations(stage) for stage in wanted if stage in seconds}
    iterations = dict.fromkeys(wanted, 0) | share_minutes(minutes, planned, seconds)
    write_json(
        path,
        Lengths(minutes, method.plan.hash, method.device, {k: round(v, 6) for k, v in seconds.items()}, iterations),
    )
    steps = ", ".join(f"{stage} {iterations[stage]} steps of {1000 * seconds[stage]:.3g} ms" for stage in seconds)
    console.note(f"{method.name}: {minutes:g} minutes are {steps}")
    return iterations


def share_minutes(minutes: float, planned: Mapping[str, int], seconds: Mapping[str, float]) -> dict[str, int]:
    """Divide minutes into steps by stage: every stage the same multiple of its planned steps, at least one step."""
    whole = sum(planned[stage] * seconds[stage] for stage in planned)
    return {stage: max(1, round(planned[stage] * 60 * minutes / whole)) for stage in planned}


def measure_stages(method: Method, wanted: Sequence[str]) -> dict[str, float]:
    """Measure the seconds of a step of each stage; a stage that is off or part of another stage has none.

    The workspace is not changed. The steps are measured in a temporary workspace with two training cases, in which
    earlier stages are trained for one step, because later stages may need them.
    """
    workspace, splits = method.workspace, method.workspace.splits()
    fits = {
        case: any(c.fits for c in load_case(workspace.cases / case).record.components)
        for case in (*splits.train, *splits.test)
    }
    with_tumor = [case for case, fit in fits.items() if fit]
    train_cases, test_cases = (
        [case for case in group if case in with_tumor][:2] for group in (splits.train, splits.test)
    )
    few = Splits(tuple(train_cases), tuple(test_cases))
    found = {}
    with tempfile.TemporaryDirectory(prefix="tumorgen_") as folder:
        temporary = Workspace(Path(folder))
        for path in (workspace.plan_file, workspace.fingerprint_file):
            shutil.copyfile(path, temporary.root / path.name)
        write_json(temporary.splits_file, few)
        temporary.cases.symlink_to(workspace.cases.resolve())
        if workspace.unlabeled.is_dir():
            temporary.unlabeled.symlink_to(workspace.unlabeled.resolve())
        console.note(f"{method.name}: measuring the time of a step")
        last = max(map(method.stages.index, wanted))
        for number, stage in enumerate(method.stages[: last + 1]):
            own = type(method)(method.plan, temporary, method.device)
            if own.trained(stage):  # it is off, or part of another stage
                continue
            if stage in wanted:
                found[stage] = seconds_per_step(own.stage(stage, MEASURED), method.device, method.plan.precision)
            if number < last:
                fresh = type(method)(method.plan, temporary, method.device)
                run = train(
                    replace(fresh.stage(stage, 1), preview=None),
                    fresh.folder(stage),
                    method.device,
                    method.plan.precision,
                )
                if run is not None:  # numbers of a single step must not lead to warnings
                    write_json(fresh.folder(stage) / "run.json", replace(run, numbers={}))
    return found
