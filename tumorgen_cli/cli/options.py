"""What commands have in common: their options, how a user's error is told, what a command cost. Nothing heavy is imported here."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, TypeVar

import typer

from tumorgen_cli.system import console
from tumorgen_cli.system.errors import Fault, PlanError, TumorgenError

if TYPE_CHECKING:
    from tumorgen_cli.planning.workspace import Workspace
    from tumorgen_cli.synthesis.shards import Shard


F = TypeVar("F", bound=Callable[..., Any])
Work = Annotated[Path, typer.Option("-w", "--work", help="Workspace: one folder, one data set.")]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="Where to compute.")]
Seed = Annotated[Optional[int], typer.Option("--seed", help="Seed of every random draw (default: the plan's).")]
Json = Annotated[bool, typer.Option("--json", help="Print results as JSON on stdout.")]
MethodName = Annotated[str, typer.Option("--method", help="How to paint; the README has the list.")]
Settings = Annotated[Optional[list[str]], typer.Option("--set", help="Set a plan field: a.b=value. Repeatable.")]
Preset = Annotated[
    Optional[str], typer.Option("--preset", help="A preset's name (see `tumorgen presets`) or YAML file.")
]
Memory = Annotated[
    Optional[float], typer.Option("--memory", help="GiB to plan for (default: what the device has).", min=0.5)
]
TumorLabel = Annotated[Optional[str], typer.Option("--tumor-label", help="Name or value of the tumor label.")]
Workers = Annotated[
    Optional[int], typer.Option("--workers", help="Processes (default: by cores and memory; 0: none).", min=0)
]
FoldNumber = Annotated[
    Optional[int],
    typer.Option(
        "--fold",
        help="Held out: of splits_final.json (else 0), or, without it, of nnU-Net's five (else every fifth case).",
        min=0,
    ),
]
JudgeFolder = Annotated[
    Optional[Path],
    typer.Option(
        "--judge",
        help="An nnU-Net v2 results folder, or `bundled` (default: the workspace's own, else, for FDG-PET, the bundled one).",
    ),
]
Keep = Annotated[
    float,
    typer.Option("--keep", help="Least share of the mask that the judge must find (FreeTumor's P).", min=0.0, max=1.0),
]
Features = Annotated[
    Literal["lite0", "filters", "inception"],
    typer.Option("--features", help="Feature network; only inception gives FID."),
]
Inception = Annotated[
    Optional[Path], typer.Option("--inception", help="The standard FID weights, if not to be downloaded.", exists=True)
]
ShardOption = Annotated[
    Optional[str],
    typer.Option("--shard", help="i/n: part i of n of the pairs (default: torchrun's RANK and WORLD_SIZE)."),
]
Hosts = Annotated[Optional[Path], typer.Option("--healthy", help="Folder of tumor-free scans to paint into.")]
OwnCases = Annotated[
    Optional[Literal["train"]], typer.Option("--cases", help="Redraw the training cases' own tumors, instead or too.")
]
Regions = Annotated[Optional[Path], typer.Option("--roi", help="Folder of masks to paint in, one per scan.")]
UntilPass = Annotated[
    Optional[int], typer.Option("--until-pass", help="Draw a pair again, so often, until it passes the judge.", min=1)
]
Sets = Annotated[
    Optional[list[Path]], typer.Option("--synthetic", help="A set; repeatable (default: every set of the workspace).")
]
DEFAULT_WORK = Path("tumorgen_work")


def command(function: F) -> F:
    """A command: a user's error is told without a traceback (exit 1), time and peak memory go to `commands.jsonl`."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        begun = time.monotonic()
        try:
            function(*args, **kwargs)
            _record(function.__name__, kwargs, time.monotonic() - begun)
        except TumorgenError as error:
            console.show_error(error)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            console.warn("stopped; what was finished is kept, the same command goes on from there")
            raise typer.Exit(130) from None

    return run  # type: ignore[return-value]


def _record(command: str, options: dict[str, Any], seconds: float) -> None:
    """A line of what a command cost, for benchmarks and `status`."""
    from tumorgen_cli.system.devices import peak_memory_gib
    from tumorgen_cli.system.files import append_line

    root = options.get("work")
    if not isinstance(root, Path) or not root.is_dir() or command in ("status", "presets"):
        return
    line = {
        "command": command,
        "stage": options.get("stage"),
        "seconds": round(seconds, 1),
        "peak_memory_gib": round(peak_memory_gib(), 2),
    }
    append_line(root / "commands.jsonl", json.dumps(line))


def open_workspace(work: Path) -> Workspace:
    """The workspace of -w."""
    from tumorgen_cli.planning.workspace import Workspace

    return Workspace(work.resolve())


def at_work(work: Path) -> str:
    """The -w of the next command; nothing where it is the default."""
    return "" if work == DEFAULT_WORK else f" -w {work}"


def judge_faults(judge: Path | None, until_pass: int | None) -> list[Fault]:
    """The fault of a judge that has nothing to do."""
    unused = judge is not None and until_pass is None
    return [Fault("--judge", str(judge), "--until-pass beside it", "add it, or leave both out")] if unused else []


def method_names(option: str, text: str, faults: list[Fault], live: bool = False) -> list[str]:
    """The methods (or arms of `downstream`) that an option names; tells what is wrong with them together with `faults`."""
    from tumorgen_cli.methods.registry import METHODS
    from tumorgen_cli.system.json_records import unknown_name_fault

    names, known = [name.strip() for name in text.split(",")], METHODS
    if live:
        known = ("real", *METHODS, *(f"{name}-live" for name in METHODS))
    faults += [unknown_name_fault(option, name, known) for name in dict.fromkeys(names) if name not in known]
    faults += [
        Fault(f"{option}.{name}", "named twice", "once", "leave one out") for name in known if names.count(name) > 1
    ]
    if faults:
        raise PlanError("Nothing can be compared so", faults)
    return names


def parse_shard(text: str | None) -> Shard | None:
    """What --shard says; without it this process's place among those of torchrun or accelerate, if there are several."""
    from tumorgen_cli.synthesis.shards import Shard

    where = "--shard" if text is not None else "RANK and WORLD_SIZE"
    if text is None:
        if os.environ.get("WORLD_SIZE", "1") == "1":
            return None
        rank = os.environ.get("RANK", "")
        text = f"{int(rank) + 1 if rank.isdecimal() else '?'}/{os.environ['WORLD_SIZE']}"
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        fault = Fault(
            f"{where} {text}",
            "no part of a whole",
            "i/n, 1 <= i <= n",
            "for example --shard 1/8, and so on to --shard 8/8",
        )
        raise PlanError("The shard cannot be read", [fault])
    return Shard(int(number), int(count)) if int(count) > 1 else None
