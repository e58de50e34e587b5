"""Estimate the hours and the disk that a synthetic set of many thousand scans takes, and which step is slowest.

    python examples/scale.py SET -w WORK    # 11,000 and 161,000 CT scans of 512×512×400 int16, a pair each, 8 shards
    python examples/scale.py SET -w WORK --scans 4000 --shards 64 --shape 200,200,400 --voxel-bytes 4

SET is a small finished set. Its provenance has the seconds of painting and writing. The script measures what a shard of
this machine does besides: it starts, looks at the header of every host, and reads and judges pairs; the first pairs are
judged. Sizes are those of SET's files. What grows with a scan is scaled by the scan's bytes, so the estimate is best if
SET's scans are like the wanted ones. One scan is read for each pair (`-n` equals the number of scans). Measure on an
idle machine. Writes no files; prints the tables with the commit, the command and the machine.

The cost of n pairs in s shards: start + n · header + n / s · (read + method + cut and paste + write). The efficiency of
s shards is the time of one process, divided by s times the time of s shards.
"""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from origin import origin_and_command

from tumorgen_cli.data.body import body_mask, body_stride
from tumorgen_cli.data.checks import read_header
from tumorgen_cli.evaluation.cases import TumorCase, synthetic_cases
from tumorgen_cli.evaluation.measure import judge_case, verdict_of
from tumorgen_cli.geometry import Grid
from tumorgen_cli.judge.find import needed_judge
from tumorgen_cli.judge.model import Judge
from tumorgen_cli.judge.predictions import Predictions
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.synthesis.scan import read_scan
from tumorgen_cli.synthesis.set_files import read_provenance
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName
from tumorgen_cli.system.files import hash_file


@dataclass(frozen=True)
class Step:
    """A step of one pair.

    Attributes:
        command: `synthesize` or `filter`.
        name: what is done.
        seconds: seconds of one process.
        grows: whether the seconds grow with the size of the scan; a GPU does not make such a step faster.
    """

    command: str
    name: str
    seconds: float
    grows: bool


def main(
    set_folder: Annotated[Path, typer.Argument(help="Folder of a finished set.")],
    work: Annotated[Path, typer.Option("-w", "--work", help="Workspace of the set.")],
    scans: Annotated[list[int], typer.Option(help="Number of scans; repeatable.")] = [11_000, 161_000],  # noqa: B006
    shards: Annotated[int, typer.Option(help="Number of processes at a time.")] = 8,
    shape: Annotated[str, typer.Option(help="Voxels of a scan.")] = "512,512,400",
    voxel_bytes: Annotated[int, typer.Option(help="Bytes of a voxel, all channels together; int16: 2.")] = 2,
    pairs: Annotated[int, typer.Option(help="Number of pairs that are read and judged here.", min=1)] = 3,
    judge: Annotated[Path | None, typer.Option(help="An nnU-Net results folder (default: the workspace's).")] = None,
    device: DeviceName = "auto",
) -> None:
    """Print the hours of each step and command, the slowest step of each command, and the disk they take."""
    workspace = Workspace(work.resolve())
    plan, files = workspace.plan(), synthetic_cases(workspace.plan(), set_folder)[:pairs]
    steps, size = measured_steps(plan, set_folder, files, needed_judge(workspace, judge, device))
    wanted = math.prod(int(n) for n in shape.split(",")) * voxel_bytes
    console.note(
        f"read and judged {len(files)} pairs of {size / 1e6:.0f} MB in memory; "
        f"the estimate is for scans of {wanted / 1e6:.0f} MB"
    )
    steps = [Step(s.command, s.name, s.seconds * (wanted / size if s.grows else 1), s.grows) for s in steps]
    costs = measured_start(set_folder)
    console.table("A process, whatever it paints", ("what", "seconds"), costs.rows())
    header = ("command", "step", "seconds a pair", "hours", f"hours, {shards} shards", "share")
    for count in scans:
        console.table(f"{count:,} scans, a pair each", header, hour_rows(steps, count, shards, costs))
        disk = [
            (name, f"{each * wanted / size / 1e6:.2f}", f"{each * wanted / size * count / 1e12:.2f}")
            for name, each in sizes(set_folder).items()
        ]
        console.table("Disk (the kept pairs are links)", ("what", "MB a pair", f"TB of {count:,}"), disk)
    print(origin_and_command())


@dataclass(frozen=True)
class Start:
    """What every process spends, whatever its part of the pairs.

    Attributes:
        seconds: seconds until it can paint: the start of Python and the libraries.
        header: seconds to look at the header of a host; every process looks at all.
    """

    seconds: float
    header: float

    def rows(self) -> list[tuple[str, str]]:
        """Return the rows of a table."""
        return [("start", f"{self.seconds:.1f}"), ("header of a host", f"{self.header:.4f}")]

    def total(self, scans: int) -> float:
        """Return the seconds for a number of scans."""
        return self.seconds + scans * self.header


def measured_start(set_folder: Path) -> Start:
    """Measure a start, and the reading of the headers of the set's own images."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import tumorgen_cli.pipeline.synthesize, SimpleITK"], check=True)
    seconds = time.perf_counter() - begun
    files = sorted((set_folder / "imagesTr").iterdir())
    begun = time.perf_counter()
    for path in files:
        read_header(path, [])
    return Start(seconds, (time.perf_counter() - begun) / len(files))


def hour_rows(steps: list[Step], scans: int, shards: int, start: Start) -> list[tuple[str, ...]]:
    """Return the rows of the table: each step, then the total of each command with and without its networks."""
    rows: list[tuple[str, ...]] = []
    for name in ("synthesize", "filter"):
        own = [step for step in steps if step.command == name]
        whole, fixed = (sum(s.seconds for s in own if s.grows or not only) for only in (False, True))
        slowest = max(own, key=lambda step: step.seconds).name
        lines = [(step.name, step.seconds, f"{step.seconds / whole:.0%}") for step in own]
        lines.append(("total without method and judge", fixed, f"{fixed / whole:.0%}"))
        rows += [(name, what, f"{s:.2f}", *hours(s, scans, shards), share) for what, s, share in lines]
        share = f"efficiency {efficiency(whole, scans, shards, start):.1%}"
        every = start.total(scans) / 3600
        one, many = (f"{whole * scans / 3600 / n + every:.1f}" for n in (1, shards))
        rows.append((name, f"total with starts; limited by: {slowest}", f"{whole:.2f}", one, many, share))
    return rows


def efficiency(seconds: float, scans: int, shards: int, start: Start) -> float:
    """Return the share of the shards' time that one process would also spend."""
    every = start.total(scans)
    return (every + scans * seconds) / (shards * every + scans * seconds)


def hours(seconds: float, scans: int, shards: int) -> tuple[str, str]:
    """Return the hours of one process, and of `shards` processes at a time."""
    return f"{seconds * scans / 3600:.1f}", f"{seconds * scans / 3600 / shards:.1f}"


def measured_steps(
    plan: Plan, set_folder: Path, files: tuple[TumorCase, ...], judge: Judge
) -> tuple[list[Step], float]:
    """Return the steps of both commands, medians over pairs, and the bytes of a scan in memory."""
    made = [record.seconds for record in read_provenance(set_folder)]
    if any("write" not in seconds for seconds in made):
        raise typer.BadParameter(f"{set_folder} was painted by a former version: paint it again")
    method, compute, write = (np.array([seconds[key] for seconds in made]) for key in ("method", "compute", "write"))
    reading: list[float] = []
    predicting: list[float] = []
    judging: list[float] = []
    size, predict = 0, judge.tumor

    def timed(image: np.ndarray, grid: Grid) -> np.ndarray:
        begun = time.perf_counter()
        found = predict(image, grid)
        predicting.append(time.perf_counter() - begun)
        return found

    judge.tumor = timed  # type: ignore[method-assign]  # the judge's own seconds, apart from those around it
    for each in files:
        begun = time.perf_counter()
        scan = read_scan(each.case, each.images, None, plan)
        hash_file(each.images[0])
        body_mask(scan.measured[(0, *(slice(None, None, body_stride(scan.grid.shape)),) * 3)].astype(np.float32))
        reading.append(time.perf_counter() - begun)
        size = scan.image.nbytes
        with tempfile.TemporaryDirectory() as cache:
            begun = time.perf_counter()
            verdict_of(plan, each, judge_case(plan, each, Predictions(judge, Path(cache))))
            judging.append(time.perf_counter() - begun)
    steps = [
        Step("synthesize", "read the scan", float(np.median(reading)), True),
        Step("synthesize", "method", float(np.median(method)), False),
        Step("synthesize", "cut, paste", float(np.median(compute - method)), True),
        Step("synthesize", "compress, write, preview", float(np.median(write)), True),
        Step("filter", "read, compare, write the verdict", float(np.median(np.array(judging) - predicting)), True),
        Step("filter", "judge", float(np.median(predicting)), False),
    ]
    return steps, float(size)


def sizes(set_folder: Path) -> dict[str, float]:
    """Return the mean bytes of a pair in each folder of the set."""
    pairs = len(read_provenance(set_folder))
    return {
        name: sum(path.stat().st_size for path in (set_folder / name).iterdir()) / pairs
        for name in ("imagesTr", "labelsTr", "previews")
    }


if __name__ == "__main__":
    typer.run(main)
