"""The commands that make pairs: synthesize, filter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Optional

import typer

from tumorgen_cli import api
from tumorgen_cli.api.options import open_workspace
from tumorgen_cli.cli.commands import planned_command
from tumorgen_cli.cli.options import (
    Aim,
    Anywhere,
    Cases,
    Device,
    Healthy,
    Json,
    JudgeFolder,
    Keep,
    Kind,
    MethodOption,
    PAlone,
    Regions,
    Seed,
    ShardOption,
    SkipSuspects,
    Solver,
    TrustUnits,
    TumorCount,
    UntilPass,
    Work,
    parse_box,
    parse_shard,
)
from tumorgen_cli.cli.printing import OTHER_SHARDS, WITHOUT_DRY_RUN, show_forecast, show_set
from tumorgen_cli.pipeline.hints import DEFAULT_WORK, command_line, filter_options, quote
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import describe_counts


@planned_command
def synthesize(
    healthy: Healthy = None,
    cases: Cases = None,
    pairs: Annotated[int, typer.Option("-n", "--pairs", help="Number of pairs in the whole set.", min=1)] = 20,
    out: Annotated[
        Optional[Path],
        typer.Option(
            "--out", help="Folder of the set. Default: in the workspace, named after method, hosts and options."
        ),
    ] = None,
    roi: Regions = None,
    box: Annotated[
        Optional[str],
        typer.Option("--box", metavar="X0,Y0,Z0,X1,Y1,Z1", help="Paint in this box of every scan, in voxels."),
    ] = None,
    tumors: TumorCount = None,
    anywhere: Anywhere = False,
    aim: Aim = None,
    method: MethodOption = "tumorgen",
    model: Annotated[
        Optional[str],
        typer.Option(
            "--model",
            metavar="NAME",
            help="Paint with an installed model instead of a workspace (see 'tumorgen models').",
            rich_help_panel="Painting",
        ),
    ] = None,
    kind: Annotated[
        Optional[Kind],
        typer.Option("--kind", help="Paint hard tumors of this kind (tumorgen only).", rich_help_panel="Painting"),
    ] = None,
    steps: Annotated[
        Optional[int],
        typer.Option(
            "--steps", help="Number of sampling steps. Default: the plan's.", min=1, rich_help_panel="Painting"
        ),
    ] = None,
    solver: Annotated[
        Optional[Solver],
        typer.Option(
            "--solver",
            help="Sampler: euler or heun; of difftumor, ddpm or ddim. Default: the plan's.",
            rich_help_panel="Painting",
        ),
    ] = None,
    until_pass: UntilPass = None,
    keep: Keep = 0.7,
    p_alone: PAlone = False,
    judge: JudgeFolder = None,
    skip_suspects: SkipSuspects = False,
    trust_units: TrustUnits = False,
    shard: ShardOption = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            metavar="",
            help="Check every host, paint one pair in memory, estimate time and disk; write nothing.",
        ),
    ] = False,
    work: Work = DEFAULT_WORK,
    device: Device = "auto",
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Paint tumors into scans; write image-mask pairs as an nnU-Net raw data set."""
    # Long: a command's parameters are its options
    from tumorgen_cli.pipeline.status import next_training

    place = parse_box(box)
    report = api.synthesize(
        api.HostOptions(
            healthy,
            cases,
            roi,
            place,
            skip_suspects=skip_suspects,
            tumors=tumors,
            anywhere=anywhere,
            trust_units=trust_units,
            aim=aim,
        ),
        pairs,
        method=method,
        model=model,
        sampling=api.Sampling(steps, solver, kind),
        quality=api.QualityOptions(until_pass, keep, judge, p_alone),
        out=out,
        shard=parse_shard(shard),
        dry_run=dry_run,
        work=work,
        device=device,
        seed=seed,
    )
    if as_json:
        console.print_json(report)
    elif dry_run:
        show_forecast(report)
    else:
        show_set(report)
    if dry_run:
        console.next_command(WITHOUT_DRY_RUN)
    elif report.tally.left:
        console.next_command(OTHER_SHARDS)
    elif report.tally.pairs:
        console.next_command(_use_of(report.folder, work))
    elif model is not None:
        console.warn("no pair passed: raise --until-pass, or ask less of a pair (--keep, --p-alone)")
        console.next_command(_ask_less(report.tally.rejected, keep))
    else:
        console.warn("no pair passed: train longer, raise --until-pass, or ask less of a pair (--keep, --p-alone)")
        longer = next_training(open_workspace(work), method, work)
        console.next_command(longer or _ask_less(report.tally.rejected, keep))


def _use_of(folder: str, work: Path) -> str:
    """The command that uses a finished set: `evaluate` where there are real tumors to compare with, else `merge`."""
    if open_workspace(work).plan_file.is_file():
        return command_line(f"evaluate {quote(folder)}", work)
    return command_line(f"merge DATASET {quote(folder)} --out DatasetNNN_Name --folds 5", work)


def _ask_less(rejected: Mapping[str, int], keep: float) -> str:
    """What to do where a trained method made no pair that passed: options that let more pass.

    Args:
        rejected: rejected draws by reason.
        keep: the least share of the mask that the judge had to find.
    """
    from tumorgen_cli.judge.verdict import BESIDE, NOT_FOUND

    less = {NOT_FOUND: f"--keep {keep / 2:g}", BESIDE: "--p-alone"}
    options = [option for reason, option in less.items() if reason in rejected]
    return f"the same command with {' '.join(options) or 'a higher --until-pass'}, and another --out"


@planned_command
def filter_pairs(
    set_folder: Annotated[
        Path, typer.Argument(metavar="SET", help="The set: a folder, or a name in the workspace. It is not changed.")
    ],
    out: Annotated[
        Optional[Path], typer.Option("--out", help="Folder of the kept pairs. Default: SET_kept beside the set.")
    ] = None,
    no_copies: Annotated[
        bool,
        typer.Option(
            "--no-copies", metavar="", help="Reject also copies of training tumors that `evaluate` has found."
        ),
    ] = False,
    keep: Keep = 0.7,
    p_alone: PAlone = False,
    judge: JudgeFolder = None,
    shard: ShardOption = None,
    work: Work = DEFAULT_WORK,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Copy the pairs that pass the judge into a set of their own; list the others with the reasons."""
    quality = api.QualityOptions(keep=keep, judge=judge, p_alone=p_alone)
    part = parse_shard(shard)
    found = api.filter_pairs(set_folder, quality, out=out, shard=part, no_copies=no_copies, work=work, device=device)
    if as_json:
        console.print_json(found)
    else:
        rows = [
            ("kept", found.kept),
            ("rejected (see rejected.csv)", describe_counts(found.reasons) or "none"),
            *([("left to other shards", found.left)] if found.left else []),
        ]
        console.table(f"Pairs in {found.folder}", ("what", "number"), rows)
    if found.left:
        console.next_command(OTHER_SHARDS)
    elif found.kept:
        console.next_command(command_line(f"evaluate {quote(found.folder)}", work))
    else:
        options = filter_options(keep / 2, p_alone, no_copies)
        chosen = f" --judge {quote(judge)}" if judge else ""
        again = f"filter {quote(set_folder)}{options}{chosen} --out {quote(f'{found.folder}_2')}"
        console.next_command(command_line(again, work))
