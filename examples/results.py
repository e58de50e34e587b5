"""Make a results page with one command: measure, then write the tables with the commit, the commands and the machine.

    python examples/results.py DATASET --healthy DIR -w WORK --out docs/results/NAME.md
    python examples/results.py DATASET --healthy DIR -w WORK --out docs/results/NAME.md --parts quality,stages
    python examples/results.py DATASET -w WORK --out docs/results/NAME.md --parts rivals --train-minutes 40

The parts are quality (scores of the sets), stages (time and memory), rivals (every method at the same places) and
downstream (nnU-Nets trained with and without pairs; takes hours). Work that a workspace has finished is not repeated.
To replace a table, run the same command with the new code in a new workspace.
"""

from __future__ import annotations

import json
import math
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from origin import command, origin

PARTS = ("quality", "stages", "rivals", "downstream")
METHODS = "tumorgen,difftumor,freetumor,blended,maskfirst,syntumor,pixel2cancer,copypaste,unconditional"
SHOWN = {  # of a comparison's columns
    "dice": "DSC",
    "surface_dice": "NSD",
    "proportion": "P",
    "auc": "AUC",
    "near_copies": "near-copies",
    "ks_volume_ml": "KS volume",
    "ks_mean": "KS mean",
    "ks_contrast": "KS contrast",
    "rejected": "draws rejected",
    "seconds_total": "s a pair",
    "training_steps": "training steps",
    "training_minutes": "training minutes",
    "failure": "failure",
}
ARMS = "real,copypaste,syntumor,tumorgen,tumorgen-live"


def main(
    dataset: Annotated[str, typer.Argument(help="An nnU-Net raw data set.")],
    out: Annotated[Path, typer.Option(help="The Markdown page to write.")],
    healthy: Annotated[Path | None, typer.Option(help="Folder of tumor-free scans; downstream needs it.")] = None,
    work: Annotated[Path, typer.Option("-w", "--work", help="Workspace.")] = Path("tumorgen_work"),
    parts: Annotated[str, typer.Option(help="Names of the parts, separated by commas.")] = ",".join(PARTS),
    pairs: Annotated[int, typer.Option("-n", "--pairs", help="Pairs of each set.")] = 40,
    minutes: Annotated[float, typer.Option(help="Training time of the first nnU-Net of downstream.")] = 7.0,
    methods: Annotated[str, typer.Option(help="Methods of rivals, separated by commas.")] = METHODS,
    train_minutes: Annotated[float | None, typer.Option(help="Training time of each method of rivals.")] = None,
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Results",
) -> None:
    """Run the parts in their order and write one page."""
    wanted, rivals = parts.split(","), Rivals(methods, train_minutes)
    if unknown := set(wanted) - set(PARTS):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: not among {', '.join(PARTS)}")
    if "downstream" in wanted and healthy is None:
        raise typer.BadParameter("downstream paints into healthy scans: give --healthy")
    session = Session(work)
    prepare(session, dataset, train=wanted != ["rivals"])
    sections = [
        f"## {part.capitalize()}\n\n{markdown(measure(part, session, healthy, pairs, minutes, rivals))}\n"
        for part in PARTS
        if part in wanted
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page(title, session.commands, sections), encoding="utf-8")
    print(f"wrote {out}")


@dataclass(frozen=True)
class Rivals:
    """The methods to compare, with commas between, and the minutes that each is trained for; None: as planned."""

    methods: str
    minutes: float | None


def prepare(session: Session, dataset: str, train: bool) -> None:
    """Plan and preprocess, and `train` TumorGen as planned, as far as the workspace lacks it; `compare` trains, too."""
    if not (session.work / "plan.json").is_file():
        session.run("plan", dataset)
    session.run("preprocess")
    if train:
        session.run("train", "all")


def page(title: str, commands: list[str], sections: list[str]) -> str:
    """Return the whole page: heading, origin, the commands that were run, and the sections."""
    written = f"{origin()} Written by `{command()}`, which runs:"
    return "\n".join([f"# {title}\n\n{written}\n\n```console", *commands, "```\n", *sections])


class Session:
    """Runs commands in one workspace and records them as a reader would type them.

    Attributes:
        work: the workspace's folder.
        commands: the lines to type, each with a prompt.
    """

    def __init__(self, work: Path) -> None:
        self.work = work
        self.commands: list[str] = []

    def run(self, *arguments: str) -> None:
        """Run a command."""
        subprocess.run(self._call(arguments), check=True)

    def read(self, *arguments: str) -> Any:
        """Run a command and return what it prints with --json."""
        done = subprocess.run([*self._call(arguments), "--json"], stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout)

    def _call(self, arguments: Sequence[str]) -> list[str]:
        """Record a command and return how this Python runs it."""
        self.commands.append(f"$ tumorgen {shlex.join(arguments)} -w {self.work.name}")
        return [sys.executable, "-m", "tumorgen_cli.cli", *arguments, "-w", str(self.work)]


def measure(
    part: str, session: Session, healthy: Path | None, pairs: int, minutes: float, rivals: Rivals
) -> pd.DataFrame:
    """Run the commands of a part and return its table."""
    count, hosts = ("-n", str(pairs)), () if healthy is None else ("--healthy", str(healthy))
    if part == "quality":
        made = [session.read("synthesize", *source, *count) for source in (("--cases", "test"), hosts) if source]
        reports = session.read("evaluate", *(Path(each["folder"]).name for each in made))
        columns = {report["name"]: dict(report["rows"]) for report in reports}
        return pd.DataFrame(columns).rename_axis("measure").reset_index()
    if part == "stages":
        return costs(session.work)
    if part == "rivals":
        budget = () if rivals.minutes is None else ("--minutes", f"{rivals.minutes:g}")
        made = session.read("compare", "--methods", rivals.methods, "--cases", "test", *hosts, *count, *budget)
        return narrow(pd.read_csv(made["table"]))
    made = session.read("downstream", "--arms", ARMS, "--cases", "train", *hosts, "--minutes", f"{minutes:g}")
    return pd.read_csv(made["table"])


def narrow(table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of a comparison that fit on a page, each value with its interval in one cell."""
    kept = {name: title for name, title in SHOWN.items() if name in table}
    cells = {title: [_with_interval(row, name) for _, row in table.iterrows()] for name, title in kept.items()}
    return pd.DataFrame({"hosts": table["hosts"], "method": table["method"], **cells})


def _with_interval(row: pd.Series, name: str) -> str | float:
    value, low, high = (row.get(column, math.nan) for column in (name, f"{name}_low", f"{name}_high"))
    return value if pd.isna(low) or pd.isna(high) else f"{value:.3g} [{low:.3g}, {high:.3g}]"


def costs(work: Path) -> pd.DataFrame:
    """Return seconds and peak memory of every command and training that the workspace has recorded."""
    lines = [json.loads(line) for line in (work / "commands.jsonl").read_text().splitlines()]
    rows = [{"what": f"{x['command']} {x['stage'] or ''}".strip(), **x} for x in lines]
    runs = [(path.parent, json.loads(path.read_text())) for path in sorted(work.glob("runs/*/*/run.json"))]
    rows += [{"what": f"{f.parent.name} {f.name}, {run['iterations']} steps", **run} for f, run in runs]
    return pd.DataFrame(rows)[["what", "seconds", "peak_memory_gib"]].round({"seconds": 1, "peak_memory_gib": 2})


def markdown(table: pd.DataFrame) -> str:
    """Return a Markdown table. Floats have four significant digits; a missing value is an empty cell."""
    rows = [[_cell(value) for value in row] for row in table.to_numpy(object)]
    lines = [list(map(str, table.columns)), ["---"] * table.shape[1], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    if pd.isna(value):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    typer.run(main)
