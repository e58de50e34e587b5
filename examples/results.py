"""One command makes a results page: runs what it shows, then writes the tables with commit, commands and machine.

    python examples/results.py DATASET --healthy DIR -w WORK --out docs/results/NAME.md
    python examples/results.py DATASET --healthy DIR -w WORK --out docs/results/NAME.md --parts quality,stages

Parts: quality (the sets' scores), stages (time and memory), rivals (every method in the same places), downstream (nnU-Nets with and
without pairs; hours). What a workspace has finished is not made again, so a table is replaced by running the same command with new code in
a new workspace.
"""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from tumorgen_cli.system.devices import usable_cores

PARTS = ("quality", "stages", "rivals", "downstream")
METHODS = "tumorgen,difftumor,freetumor,blended,syntumor,copypaste"
ARMS = "real,copypaste,syntumor,tumorgen,tumorgen-live"


def main(
    dataset: Annotated[str, typer.Argument(help="An nnU-Net raw data set.")],
    healthy: Annotated[Path, typer.Option(help="Folder of tumor-free scans.")],
    out: Annotated[Path, typer.Option(help="The Markdown page to write.")],
    work: Annotated[Path, typer.Option("-w", "--work")] = Path("tumorgen_work"),
    parts: Annotated[str, typer.Option(help="Names with commas between.")] = ",".join(PARTS),
    pairs: Annotated[int, typer.Option("-n", "--pairs")] = 40,
    minutes: Annotated[float, typer.Option(help="Minutes of the first nnU-Net of downstream.")] = 7.0,
    title: Annotated[str, typer.Option(help="The page's heading.")] = "Results",
) -> None:
    """Runs the parts in order and writes one page."""
    wanted = parts.split(",")
    if unknown := set(wanted) - set(PARTS):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: not among {', '.join(PARTS)}")
    session = Session(work)
    if not (work / "plan.json").is_file():
        session.run("plan", dataset)
    for command in (["preprocess"], ["train", "all"]):
        session.run(*command)
    sections = []
    for part in (name for name in PARTS if name in wanted):
        sections.append(f"## {part.capitalize()}\n\n{_table(part, session, healthy, pairs, minutes)}\n")
    commands = "\n".join(session.commands)
    page = f"# {title}\n\n{_origin()}\n\n```console\n{commands}\n```\n\n" + "\n".join(sections)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    print(f"wrote {out}")


class Session:
    """Runs commands in one workspace and remembers them as a reader would type them."""

    def __init__(self, work: Path) -> None:
        self.work, self.commands = work, []

    def run(self, *arguments: str) -> Any:
        """What a command prints with --json."""
        self.commands.append(f"$ tumorgen {shlex.join(arguments)} -w {self.work.name}")
        call = [sys.executable, "-m", "tumorgen_cli.cli", *arguments, "-w", str(self.work), "--json"]
        done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout) if done.stdout.strip() else None


def _table(part: str, session: Session, healthy: Path, pairs: int, minutes: float) -> str:
    count, hosts = ("-n", str(pairs)), ("--healthy", str(healthy))
    if part == "quality":
        made = [session.run("synthesize", *source, *count) for source in (("--cases", "test"), hosts)]
        reports = session.run("evaluate", *(Path(each["folder"]).name for each in made))
        columns = {report["name"]: dict(report["rows"]) for report in reports}
        return markdown(pd.DataFrame(columns).rename_axis("measure").reset_index())
    if part == "stages":
        return markdown(_costs(session.work))
    if part == "rivals":
        made = session.run("compare", "--methods", METHODS, "--cases", "test", *hosts, *count)
        return markdown(pd.read_csv(made["table"]))
    made = session.run("downstream", "--arms", ARMS, "--cases", "train", *hosts, "--minutes", f"{minutes:g}")
    return markdown(pd.read_csv(made["table"]))


def _costs(work: Path) -> pd.DataFrame:
    lines = [json.loads(line) for line in (work / "commands.jsonl").read_text().splitlines()]
    rows = [{"what": f"{x['command']} {x['stage'] or ''}".strip(), **x} for x in lines]
    runs = [(path.parent, json.loads(path.read_text())) for path in sorted(work.glob("runs/*/*/run.json"))]
    rows += [{"what": f"{f.parent.name} {f.name}, {run['iterations']} steps", **run} for f, run in runs]
    return pd.DataFrame(rows)[["what", "seconds", "peak_memory_gib"]].round({"seconds": 1, "peak_memory_gib": 2})


def markdown(table: pd.DataFrame) -> str:
    """A Markdown table; numbers with four digits, nothing for what is missing."""
    rows = [
        [f"{v:.4g}" if isinstance(v, float) and v == v else "" if v != v else str(v) for v in row]
        for row in table.to_numpy(object)
    ]
    lines = [list(map(str, table.columns)), ["---"] * table.shape[1], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _origin() -> str:
    """Date, commit and machine in one sentence."""
    import torch

    def git(*arguments: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    changed = ", with uncommitted changes" if git("status", "--porcelain", "-uno") else ""
    cpu = next((x.split(":")[1].strip() for x in _cpu_lines() if x.startswith("model name")), platform.processor())
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{date.today():%d %B %Y}, commit {git('rev-parse', '--short', 'HEAD')}{changed}. {usable_cores()} cores of {cpu}, {gpu}; "
        f"Python {platform.python_version()}, torch {torch.__version__}. Written by `examples/results.py`:"
    )


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


if __name__ == "__main__":
    typer.run(main)
