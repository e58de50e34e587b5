"""The command that trains: stages of the methods, and the judge."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from tumorgen_cli import api
from tumorgen_cli.api.options import open_workspace
from tumorgen_cli.cli.commands import planned_command
from tumorgen_cli.cli.options import Device, Json, Log, Method, Seed, Work, refuse
from tumorgen_cli.cli.printing import WITHOUT_DRY_RUN, show_costs
from tumorgen_cli.pipeline.hints import DEFAULT_WORK, command_line
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import Fault

if TYPE_CHECKING:
    from tumorgen_cli.judge.card import JudgeRecord
    from tumorgen_cli.pipeline.training_forecast import TrainingForecast


@planned_command
def train(
    stage: Annotated[
        str,
        typer.Argument(
            metavar="STAGE",
            help="vae, flow or refiner of tumorgen, a stage of another method, or all. judge: an nnU-Net that scores.",
        ),
    ],
    method: Annotated[
        Optional[Method],
        typer.Option("--method", help="The method of the stage. Default: the first method that has such a stage."),
    ] = None,
    iterations: Annotated[
        Optional[int], typer.Option("--iterations", help="Training steps in all. Default: the plan's.", min=1)
    ] = None,
    init: Annotated[
        Optional[Path],
        typer.Option(
            "--init", help="Checkpoint from which the (first) stage starts; for the VAE also MAISI's.", exists=True
        ),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", metavar="", help="Train from the beginning; old weights stay until then.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="Measure a few steps, estimate time and disk; write nothing.")
    ] = False,
    minutes: Annotated[
        Optional[float], typer.Option("--minutes", help="Training time of a judge. Default: 30.", min=0.1)
    ] = None,
    log: Log = None,
    work: Work = DEFAULT_WORK,
    device: Device = "auto",
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Train a stage, or all; run again, it goes on where it stopped. `torchrun` starts it on several GPUs."""
    given: dict[str, object] = {"--minutes": minutes}
    if stage == "judge":
        given = {"--iterations": iterations, "--init": init, "--method": method, "--dry-run": dry_run or None}
        given["--log"] = log
    faults = [
        Fault(option, str(value), f"no such option for {stage}", "leave it out")
        for option, value in given.items()
        if value is not None
    ]
    refuse("Options that do not apply", faults)
    if stage == "judge":
        judge = api.train_judge(
            30.0 if minutes is None else minutes, restart=restart, work=work, device=device, seed=seed
        )
        _show_judge(judge, as_json)
        console.next_command(command_line("evaluate", work))
        return
    if dry_run:
        found = api.forecast_training(
            stage, method=method, iterations=iterations, restart=restart, work=work, device=device
        )
        _show_forecast(found, as_json)
        console.next_command(WITHOUT_DRY_RUN)
        return
    runs = api.train(
        stage,
        method=method,
        iterations=iterations,
        initial=init,
        restart=restart,
        log=log,
        work=work,
        device=device,
        seed=seed,
    )
    if as_json:
        console.print_json(runs)
    console.next_command(_following(stage, method, work))


def _show_forecast(found: TrainingForecast, as_json: bool) -> None:
    """Print what a training will cost, with a warning if it does not fit on the disk."""
    needed, seconds = sum(s.disk_bytes for s in found.stages), sum(s.seconds for s in found.stages)
    rows = [
        (s.stage, s.steps, console.rough_time(s.seconds), console.size(s.disk_bytes))
        if s.steps
        else (s.stage, 0, "trained", "")
        for s in found.stages
    ]
    rows.append(("all", sum(s.steps for s in found.stages), console.rough_time(seconds), console.size(needed)))
    columns = ("stage", "steps to train", "time, about", "on disk, about")
    show_costs(found, needed, columns, rows, "this training", as_json)


def _following(stage: str, method: str | None, work: Path) -> str:
    """The command after a stage: for the first stage that is not done or, if all are, for painting."""
    from tumorgen_cli.methods.registry import method_of_stage
    from tumorgen_cli.pipeline.status import next_training

    method = method or method_of_stage(stage)
    left = next_training(open_workspace(work), method, work)
    if left is None:
        return command_line("synthesize --healthy DIR -n 20", work, method)
    return command_line("train all", work, method) if stage == "all" else left


def _show_judge(record: JudgeRecord, as_json: bool) -> None:
    """Print how a judge scores on the held-out cases, with a warning if it is too weak."""
    from tumorgen_cli.judge.card import record_facts
    from tumorgen_cli.judge.find import WEAK_JUDGE

    if as_json:
        console.print_json(record)
    else:
        rows = [
            (s.case, *("–" if v is None else f"{v:.3f}" for v in (s.dice, s.surface_dice))) for s in record.held_out
        ]
        title = f"The judge on held-out cases ({record.schedule.epochs} epochs, {console.clock(record.seconds)})"
        rows.append(("mean", f"{record.mean_dice:.3f}", f"{record.mean_surface_dice:.3f}"))
        console.table(title, ("case", "DSC", f"NSD at {record.tolerance_mm} mm"), rows)
    if caution := record_facts(record, "this judge").caution:
        console.warn(f"{caution}: {WEAK_JUDGE}")
