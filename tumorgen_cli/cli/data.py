"""The commands about data and workspace: plan, presets, preprocess, status."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from tumorgen_cli import api
from tumorgen_cli.api.options import open_workspace
from tumorgen_cli.cli.commands import command, planned_command
from tumorgen_cli.cli.options import (
    Device,
    FoldNumber,
    Groups,
    Json,
    Memory,
    Preset,
    Seed,
    Settings,
    TumorLabel,
    Work,
    Workers,
    refuse,
)
from tumorgen_cli.cli.printing import WITHOUT_DRY_RUN
from tumorgen_cli.pipeline.hints import DEFAULT_WORK, command_line, quote
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import Fault, PlanError, StateError, say_count
from tumorgen_cli.system.processes import Terminated

if TYPE_CHECKING:
    from tumorgen_cli.pipeline.status import Step

_COLUMNS = ("step", "state", "detail")
_LOOK_SECONDS = 2.0  # between two looks of --watch: as often as a training reports
_LOOK_SHARE = 0.1  # of the time, at most, is spent on looking: large workspaces and slow disks are looked at less often


@command
def plan(
    dataset: Annotated[
        Optional[str],
        typer.Argument(
            metavar="DATASET",
            help="Path of an nnU-Net raw data set, or its id or name under $nnUNet_raw. Without it, --show prints the "
            "plan of the workspace.",
        ),
    ] = None,
    tumor_label: TumorLabel = None,
    memory: Memory = None,
    preset: Preset = None,
    settings: Settings = None,
    fold: FoldNumber = None,
    groups: Groups = None,
    work: Work = DEFAULT_WORK,
    device: Device = "auto",
    workers: Workers = None,
    seed: Seed = None,
    show: Annotated[
        bool, typer.Option("--show", metavar="", help="Print every field with its rule, instead of a summary.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="Check, measure and print; write nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check and measure a data set, and decide every number of the pipeline."""
    from tumorgen_cli.methods.tumorgen.timing import rough_training_seconds
    from tumorgen_cli.pipeline.plan import plan_dataset, read_planned
    from tumorgen_cli.pipeline.plan_summary import plan_rows, summarize_plan

    workspace = open_workspace(work)
    options = api.PlanOptions(tumor_label, memory, preset, settings or (), seed, fold, groups)
    if dataset is not None:
        planned = plan_dataset(workspace, dataset, options, device, workers, dry_run)
    elif options == api.PlanOptions() and (show or as_json):
        planned = read_planned(workspace)
    else:
        raise typer.BadParameter("name a data set; or --show alone for the plan that was made", param_hint="DATASET")
    if as_json:
        console.print_json(planned.plan)
    elif show:
        title = f"Plan of {planned.plan.dataset} ({work / 'plan.json'})"
        console.table(title, ("field", "value", "rule", "inputs"), plan_rows(planned.plan))
    else:
        rows = summarize_plan(planned, rough_training_seconds(planned.plan))
        console.table(f"Plan of {planned.plan.dataset}", ("", "what", "decided by"), rows)
        console.note(f"every field with its rule: {command_line('plan --show', work)}")
    if dry_run:
        console.next_command(WITHOUT_DRY_RUN)
    else:
        console.next_command(command_line("preprocess", work))


@command
def presets(
    name: Annotated[
        Optional[str], typer.Argument(metavar="NAME", help="The preset to show. Default: list all.")
    ] = None,
    copy_to: Annotated[
        Optional[Path], typer.Option("--copy", metavar="FILE", help="Copy the preset to this file, to edit it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List, show or copy the presets that come with tumorgen."""
    from tumorgen_cli.planning.presets import preset_names, preset_text
    from tumorgen_cli.system.files import write_text

    if name is None and copy_to is not None:
        fault = Fault("--copy", "no preset named", "a name before it", "run `tumorgen presets NAME --copy FILE`")
        raise PlanError("Nothing to copy", [fault])
    if name is None:
        firsts = {each: preset_text(each).splitlines()[0].lstrip("# ") for each in preset_names()}
        if as_json:
            console.print_json(firsts)
        else:
            console.table("Presets", ("name", "what"), firsts.items())
        console.next_command(command_line("plan DATASET --preset NAME", DEFAULT_WORK))
        return
    text = preset_text(name)
    if copy_to is not None:
        if copy_to.exists():
            remedy = "choose another name; nothing was written"
            raise PlanError("The file exists", [Fault(str(copy_to), "a file", "a new name", remedy)])
        write_text(copy_to, text)
        console.next_command(command_line(f"plan DATASET --preset {quote(copy_to)}", DEFAULT_WORK))
        return
    typer.echo(text)
    console.next_command(command_line(f"plan DATASET --preset {quote(name)}", DEFAULT_WORK))


@planned_command
def preprocess(
    healthy: Annotated[
        Optional[Path],
        typer.Option(
            "--healthy",
            help="Also preprocess scans without tumors, at most 1,000 of the folder; autoencoders learn from them.",
            exists=True,
        ),
    ] = None,
    work: Work = DEFAULT_WORK,
    workers: Workers = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="Preprocess one case, estimate time and disk; write nothing.")
    ] = False,
) -> None:
    """Bring every case to the working spacing; run again, it goes on where it stopped."""
    if dry_run:
        from tumorgen_cli.pipeline.preprocess import forecast_preprocessing

        console.note(str(forecast_preprocessing(open_workspace(work), healthy)))
        console.next_command(WITHOUT_DRY_RUN)
        return
    made = api.preprocess(work=work, healthy=healthy, workers=workers)
    console.note(f"{say_count(made.cases, 'case')} written")
    if healthy is not None:
        console.note(f"{say_count(made.healthy, 'healthy scan')} written")
    console.next_command(command_line("train all", work))


@command
def status(
    watch: Annotated[
        bool, typer.Option("--watch", metavar="", help="Go on showing it as it changes, until Ctrl-C.")
    ] = False,
    work: Work = DEFAULT_WORK,
    as_json: Json = False,
) -> None:
    """Show what of a workspace is done, what runs, what is outdated, and what is next."""
    if watch:
        both = Fault("--watch and --json", "both given", "one of them", "leave one out")
        refuse("Options that exclude each other", [both] * as_json)
        steps = _watch(work)
    else:
        steps = api.status(work=work)
    if as_json:
        console.print_json(steps)
    elif not watch:
        console.table(f"Workspace {work}", _COLUMNS, _rows(steps))
    from tumorgen_cli.pipeline.status import next_step

    step = next_step(steps)
    if step is None:
        console.next_command(command_line("synthesize --healthy DIR -n N --out DIR", work))
    elif step.state == "running":
        console.next_command(f"when `{step.name}` has finished: {command_line('status', work)}")
    else:
        console.next_command(step.command)


def _look_twice(work: Path) -> Sequence[Step]:
    """The steps of a workspace that others change: a file may be gone since it was seen, so an error may pass."""
    try:
        return api.status(work=work)
    except (StateError, FileNotFoundError):
        time.sleep(_LOOK_SECONDS)
        return api.status(work=work)


def _rows(steps: Sequence[Step]) -> list[tuple[str, str, str]]:
    return [(step.name, step.state, step.detail) for step in steps]


def _watch(work: Path) -> Sequence[Step]:
    """Show the steps of a workspace until Ctrl-C; return the last ones."""
    steps: Sequence[Step] = ()
    try:
        with console.live_table(f"Workspace {work}", _COLUMNS) as show:
            while True:
                start = time.monotonic()
                steps = _look_twice(work)
                show(_rows(steps))
                time.sleep(max(_LOOK_SECONDS, (time.monotonic() - start) / _LOOK_SHARE))
    except KeyboardInterrupt as stop:
        if isinstance(stop, Terminated) or not steps:
            raise
    return steps
