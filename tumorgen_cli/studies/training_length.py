"""How long to train each stage of a method, so that methods get the same steps or the same minutes.

Writes `comparison/budgets/<method>.json` into the workspace: the seconds of a step and the resulting lengths, so that
an interrupted comparison continues with the same lengths. Imports neither SimpleITK nor nnunetv2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tumorgen_cli.methods.base import Method
from tumorgen_cli.methods.open import open_method
from tumorgen_cli.pipeline.train import train_stage
from tumorgen_cli.pipeline.training_forecast import measure_stages
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName
from tumorgen_cli.system.json_records import read_record, write_json


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
    seconds = {stage: found.seconds_per_step for stage, found in measure_stages(method, wanted).items()}
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
