"""The missing pairs of a set, painted one after the other.

While a GPU paints, the next host is read and the last pair is written.
"""

from __future__ import annotations

import functools
import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from tumorgen_cli.data.volumes import write_volume, writer_of
from tumorgen_cli.figures import View, display_range, display_style, save_pair_preview
from tumorgen_cli.geometry import Box
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.synthesis.background import Background
from tumorgen_cli.synthesis.host_checks import Doubts
from tumorgen_cli.synthesis.jobs import PairJob
from tumorgen_cli.synthesis.pair import DrawnPair, LoadedHost, PairInputs, draw_pair, load_host, make_provenance
from tumorgen_cli.synthesis.provenance import Provenance
from tumorgen_cli.synthesis.set_files import SYNTHETIC, case_files
from tumorgen_cli.synthesis.sources import Source
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import DataError, Fault, abbreviate_list, one_line
from tumorgen_cli.system.files import append_line
from tumorgen_cli.system.json_records import to_plain

_Read: TypeAlias = "tuple[LoadedHost, float]"  # a host, and the seconds to read it
_Written: TypeAlias = "tuple[Provenance, float]"  # a pair, and the share of its tumors that had to lie where they may


def make_pairs(
    inputs: PairInputs,
    weights: dict[str, str],
    jobs: Sequence[PairJob],
    out: Path,
    logs: tuple[Path, Path],
    tick: Callable[[int, str], None],
) -> tuple[int, list[Fault]]:
    """Make pairs that are sorted by source, and write them or the reason why they were given up.

    Args:
        inputs: what the pairs are painted with.
        weights: hashes of the method's weights, by name.
        jobs: the pairs.
        out: folder of the set.
        logs: log of the finished pairs, and log of the pairs that are given up.
        tick: is called after each pair with its position and a note.

    Returns:
        The number of finished pairs, and the faults of hosts because of which pairs were given up.

    Raises:
        StateError: a file cannot be written.
    """
    maker = _Maker(inputs, weights, out, logs, tick)
    maker.make(jobs)
    maker.doubts.tell()
    _warn_of_tumors_beside(maker.beside, maker.made)
    _warn_of_unlike_places(maker.unlike, maker.made)
    return maker.made, list(maker.faults)


@dataclass
class _Maker:
    """Makes pairs, and keeps what there is to tell of them in the end; see `make_pairs` for the first five.

    Attributes:
        begun: when the last pair was finished, or the first one begun, in seconds.
        position: number of pairs that are finished or given up.
        made: number of finished pairs.
        faults: of hosts, in order, each once.
        beside: least share of a tumor in the region or body, of the pairs in which it is too small.
        unlike: see `PaintedTumor.unlike`, of the pairs in which it is above 1.
        doubts: what is doubtful about the hosts.
    """

    inputs: PairInputs
    weights: dict[str, str]
    out: Path
    logs: tuple[Path, Path]
    tick: Callable[[int, str], None]
    begun: float = field(default_factory=time.perf_counter)
    position: int = 0
    made: int = 0
    faults: dict[Fault, None] = field(default_factory=dict)
    beside: dict[str, float] = field(default_factory=dict)
    unlike: dict[str, float] = field(default_factory=dict)
    doubts: Doubts = field(default_factory=Doubts)

    def make(self, jobs: Sequence[PairJob]) -> None:
        """Make pairs that are sorted by source."""
        groups = [[*group] for _, group in itertools.groupby(jobs, key=lambda job: job.source.name)]
        reads = [functools.partial(self._read, group[0].source) for group in groups]
        # on the CPU, threads would take the painting's cores, and memory for another scan and another pair
        with Background[_Read, _Written](reads, self.inputs.method.device != "cpu") as background:
            for group in groups:
                try:
                    host, read_seconds = background.next_host()
                except DataError as error:  # the pairs of other hosts do not depend on this one
                    self._finish(background)
                    for job in group:
                        self._give_up(job, error)
                    continue
                self.doubts.add(host.scan.name, host.doubts)
                for job in group:
                    self._paint(job, host, read_seconds, background)
                    read_seconds = 0.0
                del host  # before the next one is read
            self._finish(background)

    def _read(self, source: Source) -> _Read:
        start = time.perf_counter()
        host = load_host(self.inputs, source)
        return host, time.perf_counter() - start

    def _paint(
        self, job: PairJob, host: LoadedHost, read_seconds: float, background: Background[_Read, _Written]
    ) -> None:
        """Paint a pair, and have it written once the one before is finished."""
        start = time.perf_counter()
        try:
            pair = draw_pair(self.inputs, job, host)
        except DataError as error:
            self._finish(background)
            self._give_up(job, error)
            return
        seconds = {"read": read_seconds, "method": pair.seconds, "compute": time.perf_counter() - start}
        self._finish(background)
        if pair.tumors:
            background.write(functools.partial(self._write, job, host, pair, seconds))
            if not background.beside:
                self._finish(background)
        else:
            append_line(self.logs[1], json.dumps({"case": job.case, "rejected": pair.left_out[0]}))
            self._count(job.case)

    def _write(self, job: PairJob, host: LoadedHost, pair: DrawnPair, seconds: dict[str, float]) -> _Written:
        """Write a pair, then its line: with it, the pair is finished."""
        start = time.perf_counter()
        files = write_pair(self.inputs.plan, job, host, pair, self.out)
        end = time.perf_counter()
        seconds |= {"write": end - start, "total": end - self.begun}
        self.begun = end
        record = make_provenance(self.inputs, self.weights, job, host, pair, seconds)
        record = replace(record, files=files, writer=writer_of(self.inputs.plan.file_ending))
        append_line(self.logs[0], json.dumps(to_plain(record)))
        return record, host.placing.least

    def _finish(self, background: Background[_Read, _Written]) -> None:
        """Wait until the pair before is finished, if there is one, and count it."""
        written = background.finish()
        if written is None:
            return
        record, least = written
        self.made += 1
        if (inside := min(tumor.inside for tumor in record.tumors)) < least:
            self.beside[record.case] = inside
        if (most := max(tumor.unlike or 0.0 for tumor in record.tumors)) > 1:
            self.unlike[record.case] = most
        self._count(record.case)

    def _give_up(self, job: PairJob, error: DataError) -> None:
        self.faults.update(dict.fromkeys(error.faults))
        append_line(self.logs[1], json.dumps({"case": job.case, "rejected": {}, "reason": one_line(error)}))
        self._count(f"{job.case} given up")

    def _count(self, note: str) -> None:
        self.position += 1
        self.tick(self.position, note)


def write_pair(plan: Plan, job: PairJob, host: LoadedHost, pair: DrawnPair, out: Path) -> tuple[str, ...]:
    """Write the images, the labels and the preview of a pair; return the hashes for `Provenance.files`.

    Args:
        plan: the plan.
        job: what the pair is.
        host: the unpainted host.
        pair: the pair.
        out: folder of the set.
    """
    scan, image, labels = host.scan, pair.scan.image, pair.scan.labels
    assert labels is not None  # a pair has a tumor
    paths, label = case_files(out, job.case, len(image), plan.file_ending)
    arrays, likes = (*image, labels), (*scan.files, scan.files[0])
    hashes = [
        write_volume(path, array, scan.grid, like, base, SYNTHETIC)
        for path, array, like, base in zip((*paths, label), arrays, likes, host.slabs, strict=True)
    ]
    main = plan.main_channel
    colormap, unit = display_style(plan.channels[main].name)
    hull = functools.reduce(Box.hull, pair.boxes)
    shown = display_range(scan.limits[main], (scan.image[main], image[main]), hull)
    save_pair_preview(
        out / "previews" / f"{job.case}.png",
        scan.image[main],
        image[main],
        pair.mask,
        pair.boxes,
        View(scan.grid.spacing_mm, shown, scan.grid.direction, colormap, context_mm=80.0),
        job.case,
        unit,
    )
    return tuple(hashes)


def _warn_of_tumors_beside(beside: Mapping[str, float], made: int) -> None:
    """Warn of tumors in the user's own box that do not lie in the region or body."""
    if beside:
        shown = abbreviate_list([f"{case}: {100 * share:.0f} %" for case, share in beside.items()])
        console.warn(
            f"--box: in {len(beside)} of {made} pairs the tumor is not whole in the region or body ({shown}); without "
            "--box, other places are drawn"
        )


def _warn_of_unlike_places(unlike: Mapping[str, float], made: int) -> None:
    """Warn of tumors in hosts that have no place like those of training tumors."""
    if unlike:
        shown = abbreviate_list([f"{case}: {distance:.1f} times" for case, distance in unlike.items()])
        console.warn(
            f"in {len(unlike)} of {made} pairs the host has no place whose surroundings look like those of training "
            f"tumors; the most similar one was taken, farther from theirs than these are from each other ({shown}): "
            "look at the previews, give regions (--roi), or leave these hosts out"
        )
