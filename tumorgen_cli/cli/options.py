"""The options that commands share, and what they accept. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import typer

from tumorgen_cli.system.errors import Fault, PlanError, gather_faults

if TYPE_CHECKING:
    from tumorgen_cli.geometry import Box

#: flags have `metavar=""`, or typer shows them as options with a value
#: the choices are written out, so that they are shown and completed without importing torch; a test compares them
Method = Literal[
    "tumorgen",
    "difftumor",
    "freetumor",
    "blended",
    "maskfirst",
    "syntumor",
    "pixel2cancer",
    "copypaste",
    "unconditional",
]
Solver = Literal["euler", "heun", "ddpm", "ddim"]
Kind = Literal["low-contrast", "necrotic", "heterogeneous"]
Feature = Literal["lite0", "filters", "inception"]
Logger = Literal["tensorboard", "wandb", "mlflow"]

_RUNNING, _JUDGING, _PLANNING, _PAINTING = "Running", "Judge", "Plan", "Painting"
_JUDGE_HELP = (
    "nnU-Net v2 results folder, or 'bundled'. Default: the workspace's own judge, else the bundled one if it knows "
    "such scans."
)

Work = Annotated[
    Path, typer.Option("-w", "--work", help="Workspace: the folder of one data set.", rich_help_panel=_RUNNING)
]
Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option("--device", help="Where to compute.", rich_help_panel=_RUNNING)
]
Seed = Annotated[
    Optional[int],
    typer.Option("--seed", help="Seed of every random draw. Default: the plan's.", rich_help_panel=_RUNNING),
]
Json = Annotated[
    bool,
    typer.Option("--json", metavar="", help="Print the result as JSON on standard output.", rich_help_panel=_RUNNING),
]
Log = Annotated[
    Optional[Logger],
    typer.Option(
        "--log",
        help="Also send the numbers of the training's log, after each checkpoint, to a logger; each is an extra.",
        rich_help_panel=_RUNNING,
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "-v",
        "--verbose",
        metavar="",
        help="Also print versions, details, time and memory.",
        rich_help_panel=_RUNNING,
    ),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "-q",
        "--quiet",
        metavar="",
        help="Print only warnings, errors, results and the next command.",
        rich_help_panel=_RUNNING,
    ),
]
Workers = Annotated[
    Optional[int],
    typer.Option(
        "--workers",
        help="Number of processes; 0: no additional one. Default: by cores and memory.",
        min=0,
        rich_help_panel=_RUNNING,
    ),
]
ShardOption = Annotated[
    Optional[str],
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Work on part I of N parts of the pairs. Default: RANK and WORLD_SIZE of torchrun.",
        rich_help_panel=_RUNNING,
    ),
]
MethodOption = Annotated[Method, typer.Option("--method", help="The method that paints.", rich_help_panel=_PAINTING)]
Settings = Annotated[
    Optional[list[str]],
    typer.Option(
        "--set", metavar="FIELD=VALUE", help="Set a field of the plan; repeatable.", rich_help_panel=_PLANNING
    ),
]
Preset = Annotated[
    Optional[str],
    typer.Option("--preset", help="Name of a preset (see 'tumorgen presets') or YAML file.", rich_help_panel=_PLANNING),
]
Memory = Annotated[
    Optional[float],
    typer.Option(
        "--memory",
        metavar="GIB",
        help="Memory to plan for. Default: what the device has.",
        min=0.5,
        rich_help_panel=_PLANNING,
    ),
]
TumorLabel = Annotated[
    Optional[str],
    typer.Option(
        "--tumor-label",
        help="Name or value of the tumor label; of several, with commas between.",
        rich_help_panel=_PLANNING,
    ),
]
FoldNumber = Annotated[
    Optional[int],
    typer.Option(
        "--fold",
        help="Fold that is held out: of splits_final.json (default: 0), else of nnU-Net's five folds (default: every "
        "fifth case).",
        min=0,
        rich_help_panel=_PLANNING,
    ),
]
Groups = Annotated[
    Optional[Path],
    typer.Option(
        "--groups",
        metavar="FILE",
        help="CSV file (case,patient): scans of one patient are never on both sides of a split. Default: patients.csv "
        "of the data set.",
        rich_help_panel=_PLANNING,
    ),
]
JudgeFolder = Annotated[Optional[Path], typer.Option("--judge", help=_JUDGE_HELP, rich_help_panel=_JUDGING)]
Keep = Annotated[
    float,
    typer.Option(
        "--keep",
        metavar="SHARE",
        help="Least share of the mask that the judge must find.",
        min=0.0,
        max=1.0,
        rich_help_panel=_JUDGING,
    ),
]
PAlone = Annotated[
    bool,
    typer.Option(
        "--p-alone",
        metavar="",
        help="Only --keep counts, as in FreeTumor: what the judge newly marks beside the mask does not.",
        rich_help_panel=_JUDGING,
    ),
]
SkipSuspects = Annotated[
    bool,
    typer.Option(
        "--skip-suspects",
        metavar="",
        help="Leave out scans in which the judge marks suspected lesions.",
        rich_help_panel=_JUDGING,
    ),
]
TrustUnits = Annotated[
    bool,
    typer.Option(
        "--trust-units", metavar="", help="Paint also into scans that look like another unit than the training cases'."
    ),
]
UntilPass = Annotated[
    Optional[int],
    typer.Option(
        "--until-pass",
        metavar="N",
        help="Draw a pair up to N times until it passes the judge.",
        min=1,
        rich_help_panel=_JUDGING,
    ),
]
Features = Annotated[
    Feature,
    typer.Option("--features", help="Feature network of the distances; only inception gives the FID."),
]
Inception = Annotated[
    Optional[Path],
    typer.Option("--inception", help="File with the standard FID weights. Default: download.", exists=True),
]
Healthy = Annotated[
    Optional[Path],
    typer.Option("--healthy", help="Folder of scans without tumors to paint into: NIfTI files or DICOM series."),
]
Cases = Annotated[
    Optional[Literal["test", "train"]],
    typer.Option("--cases", help="Redraw the tumors of the held-out (test) or the training (train) cases."),
]
TrainingCases = Annotated[
    Optional[Literal["train"]], typer.Option("--cases", help="Redraw the tumors of the training cases.")
]
TumorCount = Annotated[
    Optional[int],
    typer.Option("--tumors", help="Tumors in a pair. Default: as many as patients have; of a redrawn case one.", min=1),
]
Anywhere = Annotated[
    bool,
    typer.Option(
        "--anywhere",
        metavar="",
        help="Paint anywhere in the body or the regions, not only where the surroundings look like those of training "
        "tumors.",
    ),
]
Aim = Annotated[
    Optional[Path],
    typer.Option(
        "--aim",
        metavar="SEGMENTOR",
        help="Aim half of the pairs at what an nnU-Net misses or outlines badly: its results folder, with folds of the "
        "training cases.",
    ),
]
Regions = Annotated[
    Optional[Path], typer.Option("--roi", help="Folder of masks, one per scan; paint where a mask is not 0.")
]
Sets = Annotated[
    Optional[list[Path]],
    typer.Argument(
        metavar="SETS", help="Sets: folders, or names in the workspace. Default: every set of the workspace."
    ),
]
DatasetArgument = Annotated[
    str, typer.Argument(metavar="DATASET", help="Path of an nnU-Net raw data set, or its id or name under $nnUNet_raw.")
]


def refuse(message: str, faults: list[Fault]) -> None:
    """Raise a `PlanError` if there are faults."""
    if faults:
        raise PlanError(message, faults)


def method_names(option: str, text: str, faults: list[Fault]) -> list[str]:
    """The methods that an option names with commas between.

    Raises:
        PlanError: `faults`, and those of the names.
    """
    from tumorgen_cli.methods.registry import METHODS
    from tumorgen_cli.system.json_records import unknown_name_fault

    names = [name.strip() for name in text.split(",")]
    faults += [unknown_name_fault(option, name, METHODS) for name in dict.fromkeys(names) if name not in METHODS]
    faults += _repeated(option, names)
    refuse("The methods cannot be compared", faults)
    return names


def arm_names(text: str | None, with_healthy: bool, faults: list[Fault]) -> tuple[str, ...]:
    """The arms that `downstream --arms` names with commas between; without it, those that the hosts allow.

    Raises:
        PlanError: `faults`, and those of the names.
    """
    from tumorgen_cli.evaluation.design import default_arms, find_arm

    if text is None:
        refuse("The experiment cannot be made", faults)
        return default_arms(with_healthy)
    if "real" not in {name.strip() for name in text.split(",")}:
        fault = Fault(f"--arms {text}", "no real", "the arm that gains are measured against", "add real to --arms")
        faults.insert(0, fault)
    names = [name.strip() for name in text.split(",")]
    for name in dict.fromkeys(names):
        gather_faults(faults, partial(find_arm, name))
    faults += _repeated("--arms", names)
    refuse("The experiment cannot be made", faults)
    return tuple(names)


def _repeated(option: str, names: Sequence[str]) -> list[Fault]:
    """The faults of names that are given more than once."""
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    return [Fault(f"{option}.{name}", "named twice", "once", "leave one out") for name in twice]


def parse_box(text: str | None) -> Box | None:
    """The box of --box: `x0,y0,z0,x1,y1,z1` in voxels.

    Raises:
        PlanError: not six whole numbers, or a stop that is not beyond its start.
    """
    if text is None:
        return None
    from tumorgen_cli.geometry import Box

    try:
        x0, y0, z0, x1, y1, z1 = (int(part) for part in text.split(","))
    except ValueError:
        remedy = "for example --box 40,40,60,60,60,80"
        fault = Fault(f"--box {text}", "not six whole numbers", "x0,y0,z0,x1,y1,z1", remedy)
        raise PlanError("The box cannot be read", [fault]) from None
    if x1 <= x0 or y1 <= y0 or z1 <= z0:
        found, expected = "a stop that is not beyond its start", "x0 < x1, y0 < y1, z0 < z1"
        raise PlanError("The box has no volume", [Fault(f"--box {text}", found, expected, "swap the corners")])
    return Box((x0, y0, z0), (x1, y1, z1))


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """The part and the number of parts of --shard; without it those of torchrun or accelerate, if there are several.

    Raises:
        PlanError: not I/N with 1 <= I <= N.
    """
    where = "--shard" if text is not None else "RANK and WORLD_SIZE"
    if text is None:
        if os.environ.get("WORLD_SIZE", "1") == "1":
            return None
        rank = os.environ.get("RANK", "")
        text = f"{int(rank) + 1 if rank.isdecimal() else '?'}/{os.environ['WORLD_SIZE']}"
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        remedy = "for example --shard 1/8, and so on to --shard 8/8"
        fault = Fault(f"{where} {text}", "no part of a whole", "i/n, 1 <= i <= n", remedy)
        raise PlanError("The shard cannot be read", [fault])
    return (int(number), int(count)) if int(count) > 1 else None
