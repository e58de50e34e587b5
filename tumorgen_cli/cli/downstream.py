"""The command that measures whether pairs help nnU-Net: downstream."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional, TypeVar

import typer

from tumorgen_cli import api
from tumorgen_cli.cli.commands import planned_command
from tumorgen_cli.cli.options import (
    Anywhere,
    Device,
    Healthy,
    Json,
    Regions,
    TrainingCases,
    TrustUnits,
    TumorCount,
    Work,
    arm_names,
)
from tumorgen_cli.cli.printing import WITHOUT_DRY_RUN
from tumorgen_cli.nnunet.segmentors import Segmentor
from tumorgen_cli.pipeline.hints import DEFAULT_WORK, command_line
from tumorgen_cli.synthesis.options import host_faults
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import Fault, say_count

if TYPE_CHECKING:
    from tumorgen_cli.studies.downstream import DownstreamReport
    from tumorgen_cli.studies.downstream_forecast import StudyForecast
    from tumorgen_cli.studies.downstream_pilot import PilotReport

T = TypeVar("T")
_DRAWN, _REPEATED, _TRAINED = "What nnU-Net draws", "Repetitions", "Length and machine"
_CONCLUDED = "What is concluded"


@planned_command
def downstream(
    healthy: Healthy = None,
    cases: TrainingCases = None,
    arms: Annotated[
        Optional[str],
        typer.Option(
            "--arms",
            metavar="A,B,...",
            help="real; empty (the healthy scans with empty masks); METHOD; METHOD-live paints while nnU-Net trains; "
            "METHOD-live-mixup; METHOD-aimed and METHOD-live-aimed aim at what nnU-Net misses; METHOD-alone has no "
            "real cases; METHOD-pretrained sees pairs first; METHOD-x16 has 16 pairs per real case; METHOD-from32 "
            "learned from 32; ARM-longer draws real cases as often as real. Default: real,empty,tumorgen; without "
            "--healthy real,tumorgen.",
        ),
    ] = None,
    fractions: Annotated[
        str,
        typer.Option("--fractions", metavar="F,F,...", help="Shares of the real training cases, with commas between."),
    ] = "0.25,0.5,1",
    host_counts: Annotated[
        str,
        typer.Option("--hosts", metavar="N,N,...", help="Numbers of healthy scans, or all.", rich_help_panel=_DRAWN),
    ] = "all",
    ratio: Annotated[int, typer.Option("--ratio", help="Pairs per real case.", min=1, rich_help_panel=_DRAWN)] = 4,
    real_share: Annotated[
        float,
        typer.Option(
            "--real-share",
            help="Share of real cases among the cases drawn.",
            min=0.01,
            max=0.99,
            rich_help_panel=_DRAWN,
        ),
    ] = 0.5,
    unpainted: Annotated[
        Optional[float],
        typer.Option(
            "--unpainted",
            help="Share of healthy scans with empty masks beside an arm's pairs. Default: 0.5 with --healthy.",
            min=0.0,
            max=0.99,
            rich_help_panel=_DRAWN,
        ),
    ] = None,
    subsets: Annotated[
        int,
        typer.Option(
            "--subsets",
            help="Draws of the real cases. Methods, pairs and nnU-Nets are made anew for each.",
            min=1,
            rich_help_panel=_REPEATED,
        ),
    ] = 1,
    paintings: Annotated[
        int,
        typer.Option("--paintings", help="Sets that a method paints for each.", min=1, rich_help_panel=_REPEATED),
    ] = 1,
    seeds: Annotated[
        int, typer.Option("--seeds", help="Trainings of each arm on each set.", min=1, rich_help_panel=_REPEATED)
    ] = 3,
    minutes: Annotated[
        float,
        typer.Option(
            "--minutes",
            help="Length of the first training; all others take as many steps.",
            min=0.01,
            rich_help_panel=_TRAINED,
        ),
    ] = 60.0,
    times: Annotated[
        float,
        typer.Option(
            "--times",
            help="Steps of the other arms, as a multiple of the real arm's.",
            min=0.01,
            rich_help_panel=_TRAINED,
        ),
    ] = 1.0,
    aside: Annotated[
        float,
        typer.Option(
            "--aside",
            metavar="SHARE",
            help="Share of the real cases that no arm learns from: they choose the best weights of each training, and "
            "show how soon it reaches the real arm's plateau.",
            min=0.0,
            max=0.9,
            rich_help_panel=_TRAINED,
        ),
    ] = 0.0,
    segmentor: Annotated[
        Segmentor, typer.Option("--segmentor", help="The network that nnU-Net trains.", rich_help_panel=_TRAINED)
    ] = "nnunet",
    pretrained: Annotated[
        Optional[Path],
        typer.Option(
            "--pretrained",
            metavar="FILE",
            help="A checkpoint of the same network, from which every training starts.",
            rich_help_panel=_TRAINED,
        ),
    ] = None,
    primary: Annotated[
        Optional[str],
        typer.Option(
            "--primary",
            metavar="ARM",
            help="Arm of the one comparison that is named before training. Default: tumorgen, else the first method.",
            rich_help_panel=_CONCLUDED,
        ),
    ] = None,
    measure: Annotated[
        Optional[str],
        typer.Option(
            "--measure",
            help="Its measure: sensitivity (at one false positive a scan), 'sensitivity under 10 mm', lesion_dsc, dsc. "
            "Default: sensitivity.",
            rich_help_panel=_CONCLUDED,
        ),
    ] = None,
    pilot: Annotated[
        bool,
        typer.Option(
            "--pilot",
            metavar="",
            help="Train real cases alone, longer and longer, until their number matters: before, no gain can be seen.",
            rich_help_panel=_CONCLUDED,
        ),
    ] = False,
    longest: Annotated[
        Optional[float],
        typer.Option(
            "--longest",
            metavar="MINUTES",
            help="Longest training of the pilot. Default: 16 times --minutes.",
            min=0.01,
            rich_help_panel=_CONCLUDED,
        ),
    ] = None,
    roi: Regions = None,
    tumors: TumorCount = None,
    anywhere: Anywhere = False,
    jobs: Annotated[
        Optional[int],
        typer.Option(
            "--jobs", help="Trainings at a time. Default: one per GPU, or one.", min=1, rich_help_panel=_TRAINED
        ),
    ] = None,
    trust_units: TrustUnits = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="Check, tell trainings, hours and disk; write nothing.")
    ] = False,
    work: Work = DEFAULT_WORK,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train nnU-Nets with and without pairs, equal in everything else, and score them on real held-out cases."""
    # Long: a command's parameters are its options
    faults: list[Fault] = []
    hosts = api.HostOptions(healthy, cases, roi, tumors=tumors, anywhere=anywhere, trust_units=trust_units)
    if longest is not None and not pilot:
        faults.append(Fault("--longest", "given without --pilot", "--pilot beside it", "add --pilot, or leave it out"))
    if pilot and dry_run:
        remedy = "leave --dry-run out: the pilot tells its hours before it begins"
        faults.append(Fault("--dry-run", "given with --pilot", "one of them", remedy))
    if not pilot and (arms is None or {name.strip() for name in arms.split(",")} != {"real"}):
        faults += host_faults(hosts, both=True)
    shares = _numbers("--fractions", fractions, float, "for example --fractions 0.25,0.5,1", faults)
    counts = _numbers("--hosts", host_counts, _count, "for example --hosts 10,50,all", faults)
    design = api.Design(
        arms=arm_names(arms, healthy is not None, faults),
        fractions=shares,
        seeds=seeds,
        minutes=minutes,
        ratio=ratio,
        real_share=real_share,
        hosts=counts,
        unpainted=unpainted,
        subsets=subsets,
        paintings=paintings,
        times=times,
        aside=aside,
        segmentor=segmentor,
        pretrained=None if pretrained is None else str(pretrained),
        primary=primary,
        measure=measure,
    )
    if dry_run:
        _show_forecast(api.forecast_downstream(hosts, design=design, jobs=jobs, work=work, device=device), as_json)
        return
    if pilot:
        _show_pilot(
            api.pilot_downstream(design=design, longest=longest, jobs=jobs, work=work, device=device), work, as_json
        )
        return
    made = api.downstream(hosts, design=design, jobs=jobs, work=work, device=device)
    if as_json:
        console.print_json(made)
    else:
        _show(made)
    for each in made.result.failures:
        console.warn(f"{each.arm} with {say_count(each.cases, 'real case')} failed: {each.reason}")
    console.next_command(f"open {made.page}")


def _count(text: str) -> int | None:
    """Read a number of healthy scans; None: all."""
    return None if text.strip() == "all" else int(text)


def _numbers(option: str, text: str, read: Callable[[str], T], remedy: str, faults: list[Fault]) -> tuple[T, ...]:
    """Read numbers with commas between; what is none is added to `faults`."""
    try:
        return tuple(read(part) for part in text.split(","))
    except ValueError:
        faults.append(Fault(option, text, "numbers with commas between", remedy))
        return ()


def _show(made: DownstreamReport) -> None:
    """Print the table, and what is concluded."""
    from tumorgen_cli.studies.downstream_tables import COLUMNS, arm_rows

    title = f"{say_count(len(made.result.held_out), 'real held-out scan')} ({made.table})"
    console.table(title, ("real cases", "arm", "draws", *COLUMNS), arm_rows(made.result.analysis))
    for note in made.result.analysis.silent:
        console.warn(note)
    for sentence in made.result.conclusions:
        console.note(sentence)


def _show_forecast(found: StudyForecast, as_json: bool) -> None:
    """Print what is left to do, and warn where the disk has too little space."""
    if as_json:
        console.print_json(found)
    else:
        rows = [
            (
                each.what,
                str(each.count),
                "not known" if each.hours is None else console.rough_time(3600 * each.hours),
                console.size(each.disk_bytes),
            )
            for each in found.steps
        ]
        console.table("What is left to do", ("what", "count", "time", "disk, at most"), rows)
    total = f"{console.rough_time(3600 * found.hours)} and {console.size(found.disk_bytes)} in all"
    console.note(f"{total}, without painting and without scoring of {say_count(found.scans, 'scan')} by each nnU-Net")
    if found.disk_bytes > found.free_bytes:
        console.warn(f"only {console.size(found.free_bytes)} are free")
    console.next_command(WITHOUT_DRY_RUN)


def _show_pilot(found: PilotReport, work: Path, as_json: bool) -> None:
    """Print what the pilot found, and the command that follows."""
    if as_json:
        console.print_json(found)
    else:
        columns = ("minutes", "iterations", "real cases", "room for a gain")
        rows = [
            (f"{each.minutes:g}", str(each.iterations), f"{each.few} and {each.many}", each.room.verdict)
            for each in found.lengths
        ]
        console.table(f"Real cases alone ({found.file})", columns, rows)
        console.note((found.found or found.lengths[-1]).detectable)
    if found.found is None:
        console.warn("no room for a gain at these lengths: give --longest, fewer real cases, or a harder task")
    else:
        console.next_command(command_line(f"downstream --healthy DIR --minutes {found.found.minutes:g}", work))
