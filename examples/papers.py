"""The papers' tables for your data set: rows that differ in one setting, trained, painted and scored alike.

    python examples/papers.py freetumor-4 DATASET --healthy DIR -o OUT           # prints the commands, in their order
    python examples/papers.py freetumor-4 DATASET --healthy DIR -o OUT --run     # runs them and writes the table

docs/reference/coverage.md lists the tables, and what of the papers needs no script or is not built. Every row has a
workspace of its own in OUT. Preprocessed scans, trained stages, scores and nnU-Nets of real cases that another row has
made from the same inputs are taken from there, not made again. With `--minutes` each row also trains nnU-Nets with and
without its pairs, as `tumorgen downstream` does; the papers report their DSC. If the script is stopped, run it again:
it continues. It writes the table, OUT/<table>.csv, after every row, and the commit, command and machine,
OUT/origin.txt.
"""

from __future__ import annotations

import csv
import math
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Annotated

import typer
from origin import origin_and_command, write_origin
from paper_tables import TABLES, Row, Table

from tumorgen_cli.evaluation.comparison import COLUMNS, PaintedSet, Value, set_values
from tumorgen_cli.evaluation.evaluate import read_scores
from tumorgen_cli.evaluation.scan_scores import REAL
from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.synthesis.logs import read_log
from tumorgen_cli.synthesis.set_files import read_provenance
from tumorgen_cli.system import console
from tumorgen_cli.system.files import write_text
from tumorgen_cli.system.links import share_file

SET = "pairs"  # name of each row's set
DONE = "commands.txt"  # in a row's workspace: the commands that are finished
#: columns of `compare` on the terminal, with their titles
SHOWN = {
    "dice": "DSC",
    "surface_dice": "NSD",
    "proportion": "P",
    "kernel_all": "kernel distance",
    "auc": "AUC",
    "rejected": "draws rejected",
    "seconds_total": "s a pair",
}
GAIN = ("nnU-Net DSC", "gain", "gain_low", "gain_high")


@dataclass(frozen=True)
class Setup:
    """What all rows have in common.

    Attributes:
        dataset: The data set.
        healthy: Folder of scans without tumors.
        out: Folder of the rows' workspaces and of the table.
        pairs: Pairs of each row.
        plan: Options of `plan`.
        judge: An nnU-Net results folder; None: the workspace's own choice.
        minutes: Length of the first nnU-Net; None: no nnU-Nets.
        nnunets: nnU-Nets of each kind.
        device: Where to compute.
    """

    dataset: str
    healthy: Path
    out: Path
    pairs: int = 40
    plan: tuple[str, ...] = ()
    judge: Path | None = None
    minutes: float | None = None
    nnunets: int = 3
    device: str = "auto"

    def workspace(self, row: Row, seed: int) -> Workspace:
        """The workspace of a row."""
        return Workspace(self.out / f"{re.sub(r'[^A-Za-z0-9.-]+', '_', row.name)}_seed{seed}")


def row_commands(table: Table, row: Row, setup: Setup, seed: int) -> list[tuple[str, ...]]:
    """The words after `tumorgen` of each command of a row, in their order."""
    work, hosts = setup.workspace(row, seed), ("--healthy", str(setup.healthy))
    settings = [word for setting in row.settings for word in ("--set", setting)]
    lines = [
        ("plan", setup.dataset, *setup.plan, *settings, "--seed", str(seed), "--device", setup.device),
        ("preprocess", *(hosts if row.unlabeled else ())),
    ]
    if find_method(row.method).stages:
        lines.append(("train", "all", "--method", row.method, "--device", setup.device))
    place = ("--cases", "test") if table.hosts == "test" else hosts
    made = ("-n", str(setup.pairs), "--out", str(work.synthetic(SET)), "--device", setup.device)
    lines.append(("synthesize", "--method", row.method, *place, *row.painting, *_judge(setup, row.painting), *made))
    lines.append(("evaluate", SET, *_judge(setup), "--device", setup.device))
    if setup.minutes is not None and not row.painting:
        seeds = ("--seeds", str(setup.nnunets), "--minutes", f"{setup.minutes:g}", "--device", setup.device)
        lines.append(("downstream", "--arms", f"real,{arm_of(row)}", *hosts, "--fractions", "1", *seeds))
    return [(*line, "-w", str(work.root)) for line in lines]


def arm_of(row: Row) -> str:
    """The row's arm of `downstream`."""
    return row.method + "-live" * row.live


def _judge(setup: Setup, painting: Sequence[str] = ("--until-pass",)) -> tuple[str, ...]:
    """The judge's option, for commands that ask it."""
    return ("--judge", str(setup.judge)) if setup.judge is not None and "--until-pass" in painting else ()


def run_row(commands: Sequence[tuple[str, ...]], row: Row, workspace: Workspace, others: Sequence[Workspace]) -> None:
    """Run the commands of a row that are not finished.

    Args:
        commands: The commands.
        row: The row.
        workspace: Its workspace.
        others: Workspaces of other rows, from which is taken what they have made from the same inputs.

    Raises:
        subprocess.CalledProcessError: A command failed.
    """
    for number in range(count_finished(commands, workspace), len(commands)):
        name = commands[number][0]
        if name == "preprocess":
            share_folders(workspace, others, ("cases", *(("unlabeled",) if row.unlabeled else ())))
        elif name == "train":
            share_stages(workspace, others, row.method)
        elif name == "evaluate":
            share_folders(workspace, others, ("evaluation/.cache",))
        elif name == "downstream":
            share_nnunets(workspace, others)
        tumorgen(commands[number])
        write_text(workspace.root / DONE, "".join(f"{shlex.join(words)}\n" for words in commands[: number + 1]))


def count_finished(commands: Sequence[tuple[str, ...]], workspace: Workspace) -> int:
    """Count the first commands of a row that are finished; one that has changed outdates all commands after it."""
    path = workspace.root / DONE
    done = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    pairs = zip(done, map(shlex.join, commands), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def tumorgen(words: Sequence[str]) -> None:
    """Run a command.

    Raises:
        subprocess.CalledProcessError: It failed; it has said why.
    """
    console.headline(f"tumorgen {shlex.join(words)}")
    subprocess.run([sys.executable, "-m", "tumorgen_cli.cli", *words], check=True)


def share_folders(workspace: Workspace, others: Sequence[Workspace], names: Sequence[str]) -> None:
    """Share folders of the first other workspace that has them; the commands check what they find there."""
    for name in names:
        found = next((other.root / name for other in others if (other.root / name).is_dir()), None)
        if found is not None:
            share_folder(found, workspace.root / name)


def share_stages(workspace: Workspace, others: Sequence[Workspace], method_name: str) -> None:
    """Share the stages of a method that another workspace has trained from the same inputs, in their order."""
    method = find_method(method_name)(workspace.plan(), workspace)
    for stage in method.stages:
        if method.trained(stage):
            continue
        if any(not method.trained(needed) for needed in method.needed(stage)):
            return
        for other in others:
            if not other.plan_file.is_file():
                continue
            twin = find_method(method_name)(other.plan(), other)
            if twin.trained(stage) and twin.inputs_hash(stage) == method.inputs_hash(stage):
                share_folder(twin.folder(stage), method.folder(stage))
                break


def share_nnunets(workspace: Workspace, others: Sequence[Workspace]) -> None:
    """Share the nnU-Nets of real cases alone, so that all rows have one baseline and train for as many steps.

    `downstream` makes them again if they are not of the same cases and settings.
    """
    for other in others:
        for run in sorted(other.root.glob("downstream/nnunet/*/runs/real_seed*/run.json")):
            share_folder(run.parent, workspace.root / run.parent.relative_to(other.root))
        held_out, own = (each.root / "downstream" / "held_out.json" for each in (other, workspace))
        if held_out.is_file() and not own.exists():  # without it scores count as outdated
            own.parent.mkdir(parents=True, exist_ok=True)
            share_file(held_out, own)


def share_folder(source: Path, target: Path) -> None:
    """Share the files of a folder, completely or not at all; an existing target stays as it is."""
    if target.exists():
        return
    half = target.with_name(f"{target.name}.half")
    shutil.rmtree(half, ignore_errors=True)
    shutil.copytree(source, half, copy_function=lambda a, b: share_file(Path(a), Path(b)))
    half.rename(target)


def row_values(workspace: Workspace) -> dict[str, Value]:
    """The scores of a row's set, by column of `compare`."""
    folder = workspace.synthetic(SET)
    scores = read_scores(workspace.evaluation(SET) / "scores.json")
    return set_values(PaintedSet(folder, scores, read_provenance(folder), read_log(folder, "given_up")))


def row_gain(path: Path, arm: str) -> dict[str, str]:
    """The DSC of a row's nnU-Nets and its gain over real cases alone, from `downstream.csv`; empty without one."""
    if not path.is_file():
        return {}
    found = {}
    with path.open(newline="", encoding="utf-8") as stream:
        for line in csv.DictReader(stream):
            if (line["arm"], line["measure"]) == (arm, "dsc"):
                if not line["against"]:
                    found["nnU-Net DSC"] = line["value"]
                elif line["against"] == REAL:
                    values = (line["value"], line["low over patients"], line["high over patients"])
                    found |= dict(zip(GAIN[1:], values, strict=True))
    return found


def write_table(path: Path, table: Table, lines: Sequence[Mapping[str, str]]) -> None:
    """Write the rows so far as CSV."""
    columns = ["row", "seed", f"paper: {table.reports}", *(column.key for column in COLUMNS), *GAIN, "failure"]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        sheet = csv.DictWriter(stream, columns, restval="", extrasaction="ignore", lineterminator="\n")
        sheet.writeheader()
        sheet.writerows(lines)


def make_table(
    table: Table, rows: Sequence[Row], setup: Setup, seeds: Sequence[int], path: Path
) -> list[dict[str, str]]:
    """Run rows for every seed, and write the table after each, with all rows that are finished.

    A row that fails says which command failed.
    """
    lines = []
    for seed in seeds:
        others = [setup.workspace(row, seed) for row in table.rows]
        for row in table.rows:
            workspace, commands = setup.workspace(row, seed), row_commands(table, row, setup, seed)
            if row not in rows and count_finished(commands, workspace) < len(commands):
                continue
            line = {"row": row.name, "seed": str(seed), f"paper: {table.reports}": row.paper}
            try:
                run_row(commands, row, workspace, [each for each in others if each.root != workspace.root])
            except subprocess.CalledProcessError as error:
                line["failure"] = f"tumorgen {error.cmd[3]}"
                console.warn(f"{row.name}, seed {seed}: {line['failure']} failed; the same command tries it again")
            else:
                values = row_values(workspace)
                line |= {key: f"{value.value:.6g}" for key, value in values.items() if math.isfinite(value.value)}
                line |= row_gain(workspace.root / "downstream" / "downstream.csv", arm_of(row))
            lines.append(line)
            write_table(path, table, lines)
    return lines


def main(
    name: Annotated[str, typer.Argument(metavar="TABLE", help=f"One of {', '.join(TABLES)}.")],
    dataset: Annotated[str, typer.Argument(help="An nnU-Net raw data set.")],
    healthy: Annotated[Path, typer.Option(help="Folder of scans without tumors.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the workspaces and of the table.")],
    run: Annotated[bool, typer.Option("--run", help="Run the commands; without it they are printed.")] = False,
    only: Annotated[list[str], typer.Option("--row", help="A row of the table; default: all.")] = [],  # noqa: B006 - typer copies it
    seeds: Annotated[list[int], typer.Option(help="Seeds of the trainings and pairs.")] = [0],  # noqa: B006
    pairs: Annotated[int, typer.Option("-n", "--pairs", help="Pairs of each row and seed.")] = 40,
    preset: Annotated[str | None, typer.Option(help="The preset of every row.")] = None,
    settings: Annotated[list[str], typer.Option("--set", help="A field of the plan for every row.")] = [],  # noqa: B006
    judge: Annotated[Path | None, typer.Option(help="An nnU-Net results folder.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Train nnU-Nets, the first one for this long.")] = None,
    nnunets: Annotated[int, typer.Option(help="nnU-Nets of each kind.")] = 3,
    device: Annotated[str, typer.Option(help="Where to compute: auto, cpu or cuda.")] = "auto",
) -> None:
    """Print the commands of a table's rows, or run them and write the table."""
    if name not in TABLES:
        raise typer.BadParameter(f"tables: {', '.join(TABLES)}", param_hint="TABLE")
    table = TABLES[name]
    if set(only) - {row.name for row in table.rows}:
        raise typer.BadParameter(f"rows: {', '.join(row.name for row in table.rows)}", param_hint="--row")
    rows = [row for row in table.rows if not only or row.name in only]
    plan = (*(("--preset", preset) if preset else ()), *(word for field in settings for word in ("--set", field)))
    setup = Setup(
        dataset, healthy.resolve(), out.resolve(), pairs, plan, judge and judge.resolve(), minutes, nnunets, device
    )
    if not run:
        for seed in seeds:
            for row in rows:
                print(f"# {table.title}: {row.name}, seed {seed}")
                print(*(f"tumorgen {shlex.join(words)}" for words in row_commands(table, row, setup, seed)), sep="\n")
        return
    lines = make_table(table, rows, setup, seeds, setup.out / f"{name}.csv")
    write_origin(setup.out)
    shown = {"row": "row", "seed": "seed", f"paper: {table.reports}": "paper", **SHOWN}
    shown |= {key: key for key in (*GAIN[:2], "failure")}
    console.table(table.title, list(shown.values()), [[each.get(key, "") for key in shown] for each in lines])
    console.note(f"paper: {table.reports}")
    print(origin_and_command())
    if any("failure" in line for line in lines):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
