"""Training as functions: the stages of a method, what they will cost, and the judge of a workspace."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tumorgen_cli.api.options import WORK, StrPath, open_workspace

if TYPE_CHECKING:
    from tumorgen_cli.judge.card import JudgeRecord
    from tumorgen_cli.pipeline.training_forecast import TrainingForecast
    from tumorgen_cli.system.devices import DeviceName
    from tumorgen_cli.training.loggers import LoggerName
    from tumorgen_cli.training.stage import StageRun


def train(
    stage: str = "all",
    *,
    method: str | None = None,
    iterations: int | None = None,
    initial: StrPath | None = None,
    restart: bool = False,
    log: LoggerName | None = None,
    work: StrPath = WORK,
    device: DeviceName = "auto",
    seed: int | None = None,
) -> list[StageRun]:
    """Train a stage of a method, or all of them in order; a training that was stopped goes on.

    Args:
        stage: Name of the stage (of tumorgen: `vae`, `flow`, `refiner`), or `all`.
        method: The method that the stage belongs to. None: the first method with such a stage; tumorgen for `all`.
        iterations: Training steps in all. None: as many as the plan says.
        initial: Checkpoint that the stage (of `all`, the first one) starts from.
        restart: Train from the beginning; the old weights stay until the new ones are finished.
        log: A logger that gets the numbers of the log, too: `tensorboard`, `wandb` or `mlflow`, each an extra.
        work: The workspace, planned and preprocessed.
        device: Where to train.
        seed: Only a check: an error if it is not the seed of the plan.

    Returns:
        The runs that were made now; a stage that was finished before has none.

    Raises:
        PlanError: no such method or stage, or another seed than the plan's.
        StateError: a stage is stale, an earlier one is missing, or the logger is not installed or cannot be opened.

    Example:
        >>> from tumorgen_cli import api
        >>> api.train("vae", work="tumorgen_demo", device="cpu")
        []
    """
    from tumorgen_cli.methods.registry import find_method, method_of_stage
    from tumorgen_cli.pipeline.train import StageOptions, train_stages

    workspace, method = open_workspace(work), method or method_of_stage(stage)
    first = next(iter(find_method(method).stages), stage) if stage == "all" else stage
    options = StageOptions({} if initial is None else {first: Path(initial)}, log)
    return train_stages(workspace, method, stage, iterations, device, restart, options, seed)


def train_judge(
    minutes: float = 30.0,
    *,
    restart: bool = False,
    work: StrPath = WORK,
    device: DeviceName = "auto",
    seed: int | None = None,
) -> JudgeRecord:
    """Train an nnU-Net on the training cases as the judge of this workspace, and score it on the held-out cases.

    Args:
        minutes: Length of the training.
        restart: Train from the beginning; the old judge stays until the new one is finished.
        work: The workspace, planned.
        device: Where to train.
        seed: Seed of the training. None: the plan's.

    Raises:
        StateError: there is no plan, the data set has changed, or the judge is stale.

    Example:
        >>> from tumorgen_cli import api
        >>> judge = api.train_judge(minutes=5, work="tumorgen_demo")  # doctest: +SKIP
        >>> judge.mean_dice  # doctest: +SKIP
        0.83
    """
    from tumorgen_cli.pipeline.train import train_own_judge

    return train_own_judge(open_workspace(work), minutes, device, seed, restart)


def forecast_training(
    stage: str = "all",
    *,
    method: str | None = None,
    iterations: int | None = None,
    restart: bool = False,
    work: StrPath = WORK,
    device: DeviceName = "auto",
) -> TrainingForecast:
    """Measure what `train` with the same arguments would cost; the workspace is not changed.

    Args:
        stage: Name of the stage, or `all`.
        method: The method that the stage belongs to. None: the first method with such a stage; tumorgen for `all`.
        iterations: Training steps in all. None: as many as the plan says.
        restart: Train from the beginning.
        work: The workspace, planned and preprocessed.
        device: Where to train.

    Returns:
        Steps, seconds and bytes of each stage, and the free space.

    Raises:
        PlanError: no such method or stage.

    Example:
        >>> from tumorgen_cli import api
        >>> [stage.steps for stage in api.forecast_training("vae", work="tumorgen_demo", device="cpu").stages]
        [0]
    """
    from tumorgen_cli.methods.registry import method_of_stage
    from tumorgen_cli.pipeline.training_forecast import forecast_training as forecast

    return forecast(open_workspace(work), method or method_of_stage(stage), stage, iterations, device, restart)
