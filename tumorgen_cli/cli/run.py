"""The commands that run every stage: demo, run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from tumorgen_cli import api
from tumorgen_cli.api.options import open_workspace
from tumorgen_cli.cli.commands import command
from tumorgen_cli.cli.options import (
    Anywhere,
    DatasetArgument,
    Device,
    FoldNumber,
    Groups,
    Json,
    JudgeFolder,
    Log,
    Memory,
    Preset,
    Seed,
    Settings,
    SkipSuspects,
    TrustUnits,
    TumorCount,
    TumorLabel,
    Work,
)
from tumorgen_cli.cli.printing import WITHOUT_DRY_RUN, show_costs, show_scores, show_set
from tumorgen_cli.data.phantom.options import Modality
from tumorgen_cli.pipeline.hints import DEFAULT_WORK, command_line, quote
from tumorgen_cli.synthesis.options import SetOptions
from tumorgen_cli.system import console

if TYPE_CHECKING:
    from tumorgen_cli.data.phantom import Phantoms
    from tumorgen_cli.pipeline.run import RunReport
    from tumorgen_cli.pipeline.run_forecast import RunForecast


@command
def demo(
    modality: Annotated[
        Modality, typer.Option("--modality", help="PET of the trunk with tumors, or chest CT with nodules.")
    ] = "pet",
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            metavar="",
            help="PET only: fewer phantoms; training starts from weights in the package: about 4 minutes of CPU time.",
        ),
    ] = False,
    cases: Annotated[
        Optional[int], typer.Option("--cases", help="Phantoms with tumors. Default: 20; quick: 10.")
    ] = None,
    healthy: Annotated[
        Optional[int],
        typer.Option("--healthy", help="Phantoms of other patients, without tumors. Default: 4; quick: 2."),
    ] = None,
    crop: Annotated[
        Optional[float],
        typer.Option(
            "--crop",
            metavar="MM",
            help="Draw cubes with this edge that lie at random around a tumor, or around a place for one.",
        ),
    ] = None,
    data_only: Annotated[
        bool, typer.Option("--data-only", metavar="", help="Write the phantoms into WORK/phantoms, and stop.")
    ] = False,
    work: Work = Path("tumorgen_demo"),
    device: Device = "auto",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Write phantoms that look like PET or chest CT, and run every stage on them."""
    phantoms = api.PhantomOptions(modality, cases, healthy, crop)
    if data_only:
        _show_phantoms(api.write_phantoms(phantoms, quick=quick, work=work, seed=seed or 0), as_json)
        return
    made = api.demo(quick=quick, phantoms=phantoms, work=work, device=device, seed=seed or 0)
    _show_run(made, as_json)
    console.next_command(f"open the report above, then: {command_line('run DATASET --healthy DIR', DEFAULT_WORK)}")


@command
def run(
    dataset: DatasetArgument,
    healthy: Annotated[Path, typer.Option("--healthy", help="Folder of scans without tumors to paint into.")],
    pairs: Annotated[int, typer.Option("-n", "--pairs", help="Number of pairs.", min=1)] = 20,
    judge: JudgeFolder = None,
    skip_suspects: SkipSuspects = False,
    tumors: TumorCount = None,
    anywhere: Anywhere = False,
    trust_units: TrustUnits = False,
    tumor_label: TumorLabel = None,
    memory: Memory = None,
    preset: Preset = None,
    settings: Settings = None,
    fold: FoldNumber = None,
    groups: Groups = None,
    log: Log = None,
    work: Work = DEFAULT_WORK,
    device: Device = "auto",
    seed: Seed = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="Say what is left to do, with time and disk; write nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Plan, preprocess, train, synthesize and evaluate; run again, it goes on where it stopped."""
    options = api.PlanOptions(tumor_label, memory, preset, settings or (), seed, fold, groups)
    if dry_run:
        from tumorgen_cli.pipeline.run_forecast import forecast_run

        hosts = api.HostOptions(
            healthy, skip_suspects=skip_suspects, tumors=tumors, anywhere=anywhere, trust_units=trust_units
        )
        found = forecast_run(open_workspace(work), dataset, hosts, SetOptions(pairs), options, device)
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
        tumors=tumors,
        anywhere=anywhere,
        trust_units=trust_units,
        log=log,
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


def _show_phantoms(written: Phantoms, as_json: bool) -> None:
    """Print where phantoms are."""
    if as_json:
        console.print_json(written)
    else:
        rows = [
            ("data set", written.dataset),
            ("without tumors", written.healthy),
            ("room for tumors", written.regions),
        ]
        console.table("Phantoms", ("what", "folder"), rows)
