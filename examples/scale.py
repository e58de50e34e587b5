"""On paper: hours and disk for a synthetic set of thousands of scans, and what limits it, from a few pairs that were made.

    python examples/scale.py SET -w WORK                       # 11,000 CT scans of 512×512×400 int16, one pair each, on 8 shards
    python examples/scale.py SET -w WORK --scans 4000 --shards 64 --shape 200,200,400 --voxel-bytes 4

SET's provenance says what painting and writing took; reading and judging are timed here, on its first pairs, as on one shard of the same
machine; sizes are those of its files. What depends on a scan's size is scaled by its bytes, so a SET of such scans says most.
A scan is read once a pair (`-n` the number of scans). Writes nothing.
"""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from tumorgen_cli.evaluation.cases import TumorCase, synthetic_cases
from tumorgen_cli.evaluation.measure import verdict_of
from tumorgen_cli.judge.find import needed_judge
from tumorgen_cli.judge.model import Judge
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.synthesis.places import allowed_region
from tumorgen_cli.synthesis.scan import read_scan
from tumorgen_cli.synthesis.set_files import read_provenance
from tumorgen_cli.system import console
from tumorgen_cli.system.files import hash_file


@dataclass(frozen=True)
class Step:
    """What one pair takes: seconds of one process; whether they grow with the scan, which no GPU makes faster."""

    command: str
    name: str
    seconds: float
    grows: bool


def main(
    set_folder: Annotated[Path, typer.Argument(help="A finished set.")],
    work: Annotated[Path, typer.Option("-w", "--work")],
    scans: int = 11_000,
    shards: int = 8,
    shape: Annotated[str, typer.Option(help="Voxels of a scan.")] = "512,512,400",
    voxel_bytes: Annotated[int, typer.Option(help="Of all its channels; int16: 2.")] = 2,
    pairs: Annotated[int, typer.Option(help="How many are read and judged here.", min=1)] = 3,
    judge: Annotated[Path | None, typer.Option()] = None,
    device: str = "auto",
) -> None:
    """Prints a step's hours, each command's, the disk they take, and the slowest step."""
    workspace = Workspace(work.resolve())
    plan, files = workspace.plan(), synthetic_cases(workspace.plan(), set_folder)[:pairs]
    steps, size = measured_steps(plan, set_folder, files, needed_judge(workspace, judge, device))  # type: ignore[arg-type]
    wanted = math.prod(int(n) for n in shape.split(",")) * voxel_bytes
    console.note(
        f"{len(files)} pairs of {size / 1e6:.0f} MB in memory were read and judged; for scans of {wanted / 1e6:.0f} MB"
    )
    steps = [Step(s.command, s.name, s.seconds * (wanted / size if s.grows else 1), s.grows) for s in steps]
    rows = []
    for command in ("synthesize", "filter"):
        own = [step for step in steps if step.command == command]
        whole, fixed = (sum(s.seconds for s in own if s.grows or not only) for only in (False, True))
        slowest = max(own, key=lambda step: step.seconds).name
        rows += [
            (command, s.name, f"{s.seconds:.2f}", *hours(s.seconds, scans, shards), f"{s.seconds / whole:.0%}")
            for s in own
        ]
        rows.append((command, f"in all; limited by: {slowest}", f"{whole:.2f}", *hours(whole, scans, shards), ""))
        rows.append(
            (
                command,
                "with method and judge in no time",
                f"{fixed:.2f}",
                *hours(fixed, scans, shards),
                f"{fixed / whole:.0%}",
            )
        )
    console.table(
        f"{scans:,} scans, a pair each",
        ("command", "step", "seconds a pair", "hours", f"hours, {shards} shards", "share"),
        rows,
    )
    disk = [
        (name, f"{each * wanted / size / 1e6:.2f}", f"{each * wanted / size * scans / 1e12:.2f}")
        for name, each in sizes(set_folder).items()
    ]
    console.table("Disk (the kept pairs are links)", ("what", "MB a pair", f"TB of {scans:,}"), disk)


def hours(seconds: float, scans: int, shards: int) -> tuple[str, str]:
    """Of one process, and of so many at once."""
    return f"{seconds * scans / 3600:.1f}", f"{seconds * scans / 3600 / shards:.1f}"


def measured_steps(
    plan: Plan, set_folder: Path, files: tuple[TumorCase, ...], judge: Judge
) -> tuple[list[Step], float]:
    """The steps of both commands (medians over pairs), and the bytes of a scan in memory."""
    made = [record.seconds for record in read_provenance(set_folder)]
    read, method, compute, total = (
        np.array([seconds[key] for seconds in made]) for key in ("read", "method", "compute", "total")
    )
    reading, asking, judging, size = [], [], [], 0
    ask = judge.tumor

    def timed(*arguments):  # type: ignore[no-untyped-def]
        begun = time.perf_counter()
        found = ask(*arguments)
        asking.append(time.perf_counter() - begun)
        return found

    judge.tumor = timed  # type: ignore[method-assign]
    for each in files:
        begun = time.perf_counter()
        scan = read_scan(each.case, each.images, None, plan)
        hash_file(each.images[0])
        allowed_region(scan, None)
        reading.append(time.perf_counter() - begun)
        size = scan.image.nbytes
        with tempfile.TemporaryDirectory() as cache:
            begun = time.perf_counter()
            verdict_of(plan, each, Path(cache), judge)
            judging.append(time.perf_counter() - begun)
    steps = [
        Step("synthesize", "read the scan", float(np.median(reading)), True),
        Step("synthesize", "method", float(np.median(method)), False),
        Step("synthesize", "cut, paste", float(np.median(compute - method)), True),
        Step("synthesize", "compress, write, preview", float(np.median(total - compute - read)), True),
        Step("filter", "read, compare, write the answer", float(np.median(np.array(judging) - asking)), True),
        Step("filter", "judge", float(np.median(asking)), False),
    ]
    return steps, float(size)


def sizes(set_folder: Path) -> dict[str, float]:
    """Mean bytes a pair."""
    pairs = len(read_provenance(set_folder))
    return {
        name: sum(path.stat().st_size for path in (set_folder / name).iterdir()) / pairs
        for name in ("imagesTr", "labelsTr", "previews")
    }


if __name__ == "__main__":
    typer.run(main)
