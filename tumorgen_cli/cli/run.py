"""The commands that run every stage: demo, run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tumorgen_cli import api
from tumorgen_cli.api.options import open_workspace
from tumorgen_cli.cli.commands import command
from tumorgen_cli.cli.options import (
    DatasetArgument,
    Device,
    FoldNumber,
    Json,
    JudgeFolder,
    Memory,
    Preset,
    Seed,
    Settings,
    SkipSuspects,
    TumorLabel,
    Work,
)
from tumorgen_cli.cli.printing import WITHOUT_DRY_RUN, show_costs, show_scores, show_set
from tumorgen_cli.pipeline.hints import DEFAULT_WORK, command_line, quote
from tumorgen_cli.synthesis.options import SetOptions
from tumorgen_cli.system import console

if TYPE_CHECKING:
    from tumorgen_cli.pipeline.run import RunReport
    from tumorgen_cli.pipeline.run_forecast import RunForecast


@command
def demo(
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            metavar="",
            help="Fewer phantoms; training starts from weights in the package: 3 minutes at most on 2 cores.",
        ),
    ] = False,
    work: Work = Path("tumorgen_demo"),
    device: Device = "auto",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Write phantoms that look like PET, and run every stage on them."""
    _show_run(api.demo(quick=quick, work=work, device=device, seed=seed or 0), as_json)
    console.next_command(f"open the report above, then: {command_line('run DATASET --healthy DIR', DEFAULT_WORK)}")


@command
def run(
    dataset: DatasetArgument,
    healthy: Annotated[Path, typer.Option("--healthy", help="Folder of scans without tumors to paint into.")],
    pairs: Annotated[int, typer.Option("-n", "--pairs", help="Number of pairs.", min=1)] = 20,
    judge: JudgeFolder = None,
    skip_suspects: SkipSuspects = False,
    tumor_label: TumorLabel = None,
    memory: Memory = None,
    preset: Preset = None,
    settings: Settings = None,
    fold: FoldNumber = None,
    work: Work = DEFAULT_WORK,
    device: Device = "auto",
    seed: Seed = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="Say what is left to do, with time and disk; write nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Plan, preprocess, train, synthesize and evaluate; run again, it goes on where it stopped."""
    options = api.PlanOptions(tumor_label, memory, preset, settings or (), seed, fold)
    if dry_run:
        from tumorgen_cli.pipeline.run_forecast import forecast_run

        hosts, wanted = api.HostOptions(healthy, skip_suspects=skip_suspects), SetOptions(pairs)
        found = forecast_run(open_workspace(work), dataset, hosts, wanted, options, device)
        _show_forecast(found, as_json)
        console.next_command(WITHOUT_DRY_RUN)
        return
    scoring = api.ScoreOptions(judge)
    made = api.run(
        dataset,
        healthy,
        pairs,
        options=options,
        scoring=scoring,
        skip_suspects=skip_suspects,
        work=work,
        device=device,
    )
    _show_run(made, as_json)
    console.next_command(command_line(f"synthesize --healthy {quote(healthy)} -n 100 --out DIR", work))


def _show_forecast(found: RunForecast, as_json: bool) -> None:
    """Print what a run would do, with a warning if it does not fit on the disk."""
    needed = sum(step.disk_bytes for step in found.steps)
    rows = [
        (
            step.step,
            step.what,
            "unknown" if step.seconds is None else console.rough_time(step.seconds) if step.seconds else "",
            console.size(step.disk_bytes) if step.disk_bytes else "",
        )
        for step in found.steps
    ]
    show_costs(found, needed, ("step", "left", "time, about", "on disk, about"), rows, "this", as_json)


def _show_run(made: RunReport, as_json: bool) -> None:
    """Print the pairs and scores of a run."""
    if as_json:
        console.print_json(made)
    else:
        show_set(made.pairs)
        show_scores(made.scores)
