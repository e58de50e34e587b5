"""What a training will cost, before it is started."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tumorgen_cli.api.options import WORK, StrPath, open_workspace

if TYPE_CHECKING:
    from tumorgen_cli.pipeline.training_forecast import TrainingForecast
    from tumorgen_cli.system.devices import DeviceName


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
