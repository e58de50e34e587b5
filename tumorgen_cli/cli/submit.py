"""The command that submits the other commands to SLURM, or runs them here: submit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from tumorgen_cli import api
from tumorgen_cli.api.options import open_workspace
from tumorgen_cli.cli.commands import planned_command
from tumorgen_cli.cli.options import (
    Anywhere,
    Cases,
    Healthy,
    Json,
    JudgeFolder,
    Keep,
    MethodOption,
    PAlone,
    Regions,
    Seed,
    SkipSuspects,
    TrustUnits,
    TumorCount,
    Work,
)
from tumorgen_cli.pipeline.hints import DEFAULT_WORK, command_line
from tumorgen_cli.system import console

if TYPE_CHECKING:
    from tumorgen_cli.pipeline.submit import Submission

_CLUSTER = "SLURM"


@planned_command
def submit(
    healthy: Healthy = None,
    cases: Cases = None,
    pairs: Annotated[int, typer.Option("-n", "--pairs", help="Number of pairs in the whole set.", min=1)] = 20,
    stages: Annotated[
        str,
        typer.Option(
            "--stages",
            metavar="A,B,...",
            help="What is run: preprocess, train, judge (trains one), synthesize, filter, merge, downstream.",
        ),
    ] = "preprocess,train,synthesize,filter",
    shards: Annotated[
        int, typer.Option("--shards", help="Parts of the set; each is a task of synthesize and of filter.", min=1)
    ] = 8,
    out: Annotated[
        Optional[Path], typer.Option("--out", help="Folder of the set. Default: in the workspace, as synthesize does.")
    ] = None,
    merged: Annotated[
        Optional[str], typer.Option("--merged", metavar="NAME", help="Name of the data set that merge writes.")
    ] = None,
    roi: Regions = None,
    tumors: TumorCount = None,
    anywhere: Anywhere = False,
    method: MethodOption = "tumorgen",
    keep: Keep = 0.7,
    p_alone: PAlone = False,
    judge: JudgeFolder = None,
    skip_suspects: SkipSuspects = False,
    trust_units: TrustUnits = False,
    cluster: Annotated[
        Optional[Path],
        typer.Option(
            "--cluster",
            metavar="FILE",
            help="What your cluster needs to know. Default: WORK/submit/cluster.yaml, written to be filled in.",
            rich_help_panel=_CLUSTER,
        ),
    ] = None,
    write_only: Annotated[
        bool,
        typer.Option(
            "--write-only",
            metavar="",
            help="Write the scripts to read and edit; submit nothing.",
            rich_help_panel=_CLUSTER,
        ),
    ] = False,
    here: Annotated[
        bool, typer.Option("--here", metavar="", help="Run on this machine, not by SLURM.", rich_help_panel=_CLUSTER)
    ] = False,
    at_once: Annotated[
        Optional[int],
        typer.Option(
            "--at-once",
            metavar="N",
            help="Tasks at a time on this machine. Default: one per GPU, or one.",
            min=1,
            rich_help_panel=_CLUSTER,
        ),
    ] = None,
    work: Work = DEFAULT_WORK,
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Submit the stages to SLURM, or run them here where it is missing; run again, it goes on with what is not done.

    Without options it goes on with what was written before; scripts may be edited.
    """
    from tumorgen_cli.pipeline.submit import submit_chain
    from tumorgen_cli.pipeline.submit_records import ChainOptions

    hosts = api.HostOptions(
        healthy, cases, roi, skip_suspects=skip_suspects, tumors=tumors, anywhere=anywhere, trust_units=trust_units
    )
    names = tuple(dict.fromkeys(name.strip() for name in stages.split(",")))
    quality = api.QualityOptions(keep=keep, judge=judge, p_alone=p_alone)
    options = ChainOptions(names, hosts, method, pairs, out, shards, quality, merged, seed)
    made = submit_chain(
        open_workspace(work),
        None if options == ChainOptions() else options,
        cluster,
        write_only=write_only,
        here=here,
        at_once=at_once,
    )
    if as_json:
        console.print_json(made)
    else:
        _show(made)
    if made.where is None:
        console.next_command(f"read and edit the scripts in {made.folder}, then: {command_line('submit', work)}")
    else:
        console.next_command(command_line("status", work))


def _show(made: Submission) -> None:
    """Print the jobs, what they may take, and how far they are."""
    rows = [
        (
            state.job.name,
            state.job.tasks,
            state.job.needs.cores,
            f"{state.job.needs.memory_gib:.0f} GiB{', a GPU' if state.job.needs.gpu else ''}",
            "unknown" if state.job.needs.seconds is None else console.rough_time(state.job.needs.seconds),
            ", ".join(state.job.after),
            state.detail,
        )
        for state in made.jobs
    ]
    columns = ("job", "tasks", "cores", "memory", "time of a task, about", "after", "state")
    console.table(f"Jobs in {made.folder}", columns, rows)
