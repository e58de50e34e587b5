"""What a set will cost, before it is painted; and a rehearsal that checks every host and writes nothing."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tumorgen_cli.synthesis.host_checks import Doubts, check_sources
from tumorgen_cli.synthesis.jobs import PairJob, own_jobs
from tumorgen_cli.synthesis.logs import read_log
from tumorgen_cli.synthesis.pair import PairInputs, draw_pair, load_host
from tumorgen_cli.synthesis.provenance import Provenance
from tumorgen_cli.synthesis.set_files import read_provenance
from tumorgen_cli.synthesis.set_pairs import write_pair
from tumorgen_cli.synthesis.shards import Shard, check_set
from tumorgen_cli.synthesis.sources import Source
from tumorgen_cli.synthesis.synthesize import set_identity
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import DataError, Fault, StateError, describe_counts, say_count
from tumorgen_cli.system.files import file_size, free_bytes

_OTHER_FILES = 1.1  # labels and preview of a pair, relative to its images
_PREVIEW_BYTES = 100_000


@dataclass(frozen=True)
class Forecast:
    """What a set will cost this process.

    Attributes:
        there: finished pairs of the whole set.
        missing: pairs that this process is to paint.
        hosts: host scans into which they are painted.
        disk_bytes: expected size of the missing pairs.
        free_bytes: free space where the set is.
        seconds: expected time for the missing pairs; None if no pair of this method has been painted in the workspace.
    """

    there: int
    missing: int
    hosts: int
    disk_bytes: int
    free_bytes: int
    seconds: float | None

    def __str__(self) -> str:
        if not self.missing:
            return f"no pair is left to paint; the set has {self.there}"
        there = f" ({self.there} are there)" if self.there else ""
        time_text = "" if self.seconds is None else f", {console.rough_time(self.seconds)}"
        return (
            f"{say_count(self.missing, 'pair')} to paint{there} into {say_count(self.hosts, 'host')}: "
            f"about {console.size(self.disk_bytes)} on disk{time_text}"
        )


def forecast_set(inputs: PairInputs, jobs: Sequence[PairJob], out: Path, shard: Shard | None = None) -> Forecast:
    """Estimate what is left to paint of a set, from what was painted before and the files of the hosts.

    Warns if the disk has too little space.

    Args:
        inputs: what the pairs are painted with.
        jobs: the pairs of the whole set.
        out: folder of the set.
        shard: the part of the pairs that this process makes; None for all.
    """
    done = _read_finished(out)
    given_up = read_log(out, "given_up")
    # pairs that were given up because of their host are tried again
    over = {record.case for record in done} | {case for case, line in given_up.items() if "reason" not in line}
    missing = [job for job in own_jobs(jobs, shard) if job.case not in over]
    bytes_each = [_OTHER_FILES * sum(map(file_size, job.source.files)) + _PREVIEW_BYTES for job in missing]
    known = done or _painted_before(inputs, out)
    each = float(np.median([record.seconds["total"] for record in known])) if known else None
    free = free_bytes(out)
    found = Forecast(
        there=len(done),
        missing=len(missing),
        hosts=len({job.source.name for job in missing}),
        disk_bytes=int(sum(bytes_each)),
        free_bytes=free,
        seconds=None if each is None else round(each * len(missing), 1),
    )
    if found.disk_bytes > free:
        console.warn(
            f"the pairs need about {console.size(found.disk_bytes)}; where {out} is, {console.size(free)} are free"
        )
    return found


def rehearse_set(
    inputs: PairInputs,
    jobs: Sequence[PairJob],
    out: Path,
    settings: dict[str, Any],
    tick: Callable[[int, str], None],
    shard: Shard | None = None,
) -> Forecast:
    """Check everything that `synthesize_set` needs, every host as a whole, and paint one pair; leave nothing behind.

    Args:
        inputs: what the pairs are painted with.
        jobs: the pairs of the whole set.
        out: folder of the set.
        settings: as for `synthesize_set`.
        tick: is called with the number of hosts that are checked, and the name of the last one.
        shard: the part of the pairs that this process makes; None for all.

    Raises:
        StateError: a stage is not trained, or `out` holds another set.
        DataError: hosts that cannot be used; the faults of all of them are listed.
    """
    check_sources(tuple(dict.fromkeys(job.source for job in jobs)), inputs.box, inputs.plan, inputs.cases)
    weights = dict(inputs.method.load())
    check_set(out, set_identity(inputs, weights, settings), shard)
    found = forecast_set(inputs, jobs, out, shard)
    own = own_jobs(jobs, shard)
    check_voxels(inputs, list(dict.fromkeys(job.source for job in own)), tick)
    if not found.missing:
        return found
    start = time.perf_counter()
    size = _paint_away(inputs, own[0])
    seconds = round((time.perf_counter() - start) * found.missing, 3)
    return replace(found, disk_bytes=size * found.missing or found.disk_bytes, seconds=seconds)


def check_voxels(inputs: PairInputs, sources: Sequence[Source], tick: Callable[[int, str], None]) -> None:
    """Read and check hosts and their regions as a whole, and warn of intensities unlike the training cases'.

    Args:
        inputs: what is to be painted with; the method need not be loaded.
        sources: the host scans.
        tick: is called with the number of hosts that are checked, and the name of the last one.

    Raises:
        DataError: hosts that cannot be used; the faults of all of them are listed.
    """
    faults: list[Fault] = []
    doubts = Doubts()
    for number, source in enumerate(sources, 1):
        try:
            doubts.add(source.name, load_host(inputs, source).doubts)
        except DataError as error:
            faults += error.faults
        tick(number, source.name)
    doubts.tell()
    if faults:
        raise DataError("Hosts cannot be used", faults)


def _paint_away(inputs: PairInputs, job: PairJob) -> int:
    """Paint a pair and write it to a folder that is deleted again; return its size in bytes, 0 if none came."""
    host = load_host(inputs, job.source)
    pair = draw_pair(inputs, job, host)
    if not pair.tumors:
        console.warn(f"{job.case} would be given up: {describe_counts(pair.left_out[0])}")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        write_pair(inputs.plan, job, host, pair, Path(folder))
        return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def _read_finished(folder: Path) -> tuple[Provenance, ...]:
    """The finished pairs of a set; none if there is no set, or not a readable one."""
    try:
        return read_provenance(folder)
    except StateError:
        return ()


def _painted_before(inputs: PairInputs, out: Path) -> list[Provenance]:
    """The pairs of other sets beside a set that the same method has painted."""
    sets = sorted(out.parent.glob("*/provenance.jsonl")) if out.parent.is_dir() else []
    return [record for path in sets for record in _read_finished(path.parent) if record.method == inputs.method.name]
