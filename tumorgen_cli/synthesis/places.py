"""Where tumors are painted: sources of host scans, boxes that are drawn or given, boxes around existing tumors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tumorgen_cli.data.checks import geometry_faults, read_header
from tumorgen_cli.data.dataset import Dataset, find_dataset, organ_labels, read_dataset
from tumorgen_cli.data.hosts import find_host_labels, find_hosts
from tumorgen_cli.data.volumes import read_volume
from tumorgen_cli.geometry import Box, Grid
from tumorgen_cli.planning.fingerprint import TumorFacts, content_hash
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.synthesis.scan import Scan, allowed_region
from tumorgen_cli.synthesis.window import Window, fade_mm, lay_window, too_large, window_shape
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import DataError, Fault, PlanError, StateError, abbreviate_list
from tumorgen_cli.system.json_records import unknown_name_fault
from tumorgen_cli.tumors.boxes import draw_size_mm, place_box


def dataset_of(plan: Plan) -> Dataset:
    """The planned data set, as it lies on disk now.

    Raises:
        StateError: its files have changed since planning.
    """
    dataset = read_dataset(find_dataset(plan.dataset_path), plan.tumor_name)
    if content_hash(dataset) != plan.fingerprint_hash:
        fault = Fault(
            plan.dataset_path,
            "files changed since planning",
            "the planned data",
            f"run `tumorgen plan {plan.dataset_path}`",
        )
        raise StateError("The data set has changed", [fault])
    return dataset


def healthy_sources(plan: Plan, healthy: Path | None, roi: Path | None, paint_in: str | None = None) -> list[Source]:
    if healthy is None:
        raise PlanError(
            "Nothing to paint into",
            [Fault("--healthy", "not given", "a folder of scans", "give --healthy DIR or --cases test")],
        )
    organs = organ_labels(plan.labels, plan.tumor_label)
    if paint_in is not None and paint_in not in organs:
        raise PlanError("Nowhere to paint", [unknown_name_fault("--paint-in", paint_in, organs)])
    hosts = find_hosts(healthy, [channel.name for channel in plan.channels], plan.file_ending)
    rois = {host.case: roi / f"{host.case}{plan.file_ending}" if roi else None for host in hosts}
    faults = [
        Fault(
            str(path), "no such file", f"a mask for {case}", "write one mask per scan, named as the scan without _0000"
        )
        for case, path in rois.items()
        if path is not None and not path.is_file()
    ]
    if faults:
        raise DataError("Regions of interest are missing", faults)
    region = None if paint_in is None else organs[paint_in]
    labels = (
        rois
        if region is not None
        else find_host_labels(healthy, plan.labels, plan.tumor_name, plan.file_ending)
        if organs
        else {}
    )
    return [Source(host.case, host.files, labels.get(host.case), roi=rois[host.case], region=region) for host in hosts]


def bare_hosts(plan: Plan, sources: Sequence[Source]) -> list[str]:
    """The hosts without labels, where the data set has others than the tumor's."""
    organs = organ_labels(plan.labels, plan.tumor_label)
    return [source.name for source in sources if organs and source.label is None]


def redraw_sources(workspace: Workspace, plan: Plan, cases: str) -> list[Source]:
    """The cases of a split with their tumors, but for those too large to be redrawn: these are told.

    Raises:
        PlanError: no such split. DataError: no tumor is left.
    """
    splits = workspace.splits()
    names = {"test": splits.test, "train": splits.train}.get(cases)
    if names is None:
        raise PlanError("No such cases", [unknown_name_fault("--cases", cases, ("test", "train"))])
    dataset = dataset_of(plan)
    facts = {case.case: case for case in workspace.fingerprint().cases}
    sources, large, widest = (
        [],
        {},
        (1.0, 1.0, 1.0),
    )  # a tumor is left out if the largest box that may be drawn around it has no window
    for name in names:
        grid, tumors = facts[name].grid, facts[name].tumors
        boxes = tuple(t.box for t in tumors if window_shape(redraw_box(t.box, grid, plan, widest, widest), grid, plan))
        if boxes:
            sources.append(Source(name, dataset.image_files(name), dataset.label_file(name), boxes))
        if len(boxes) < len(tumors):
            large[name] = len(tumors) - len(boxes)
    told = f"tumors too large for twice the plan's window: {sum(large.values())}, in {abbreviate_list([*large])}"
    if not sources:
        remedy = (
            "plan with a larger window (--set window.shape=[...])"
            if large
            else "name the other cases, or paint into --healthy DIR"
        )
        fault = Fault(
            f"--cases {cases}", told if large else f"no tumor in {len(names)} cases", "a tumor to redraw", remedy
        )
        raise DataError("There is nothing to redraw", [fault])
    if large:
        console.warn(f"--cases {cases}, not redrawn: {told}")
    return sources


def bare_fault(where: str, hosts: Sequence[str]) -> Fault:
    """What is wrong with pairs in hosts without labels, for nnU-Net."""
    found = f"{len(hosts)} hosts without labels ({abbreviate_list(hosts)}), in whose pairs an nnU-Net would learn that organs are background"
    remedy = "paint into hosts in nnU-Net's form: imagesTr and, beside it, labelsTr with the data set's own labels"
    return Fault(where, found, "all labels of the data set in every pair", remedy)


@dataclass(frozen=True)
class Source:
    """Where a pair comes from: a host's files; its labels and the tumor boxes to redraw, for the data set's own cases; a mask of the
    region to paint in, of which `region` is the label that counts (None: all that is not 0)."""

    name: str
    files: tuple[Path, ...]
    label: Path | None = None
    redraw: tuple[Box, ...] = ()
    roi: Path | None = None
    region: int | None = None


def check_places(sources: Sequence[Source], box: Box | None, plan: Plan) -> None:
    """Where the user wants tumors, by the headers alone.

    Raises:
        DataError: regions of another geometry than their scans, scans that the user's box is not in, or for which it is too large; all of them.
    """
    faults: list[Fault] = []
    for source in sources:
        if box is None and source.roi is None:
            continue
        files = [source.files[0], *([source.roi] if source.roi else [])]
        grids = {path: grid for path in files if (grid := read_header(path, faults)) is not None}
        faults += geometry_faults(grids)
        grid = grids.get(files[0])
        if box is None or grid is None:
            continue
        where = f"--box {','.join(map(str, (*box.start, *box.stop)))} on {source.name}"
        if any(a < 0 or b > n or b - a < 2 for a, b, n in zip(box.start, box.stop, grid.shape, strict=True)):
            expected = "0 <= start, start + 2 <= stop <= size per axis"
            faults.append(Fault(where, f"outside the scan of {grid.shape} voxels", expected, "correct the box"))
        elif window_shape(box, grid, plan) is None:
            faults.append(too_large(where, box, grid, plan))
    if faults:
        raise DataError("Nothing can be painted there", faults)


class Placing:
    """Boxes for one scan: the user's, a redrawn tumor's with BA-PMG offsets, or of a training tumor's size in the body.

    Those that are drawn have an edge, so that the tumor's place in them (`hosts.tumor_place`) is of that size.
    """

    def __init__(self, scan: Scan, source: Source, plan: Plan, tumors: Sequence[TumorFacts], box: Box | None) -> None:
        self.scan, self.source, self.plan, self.tumors, self.user_box = scan, source, plan, tumors, box
        if box is None and not source.redraw:
            self.allowed, self.stride = allowed_region(scan, self._roi())

    def _roi(self) -> np.ndarray | None:
        if self.source.roi is None:
            return None
        roi, _ = read_volume(self.source.roi)
        if self.source.region is not None:
            roi = roi == self.source.region
        if not roi.any():
            found = "no voxel set" if self.source.region is None else f"no voxel of label {self.source.region}"
            raise DataError(
                "A region is empty",
                [Fault(str(self.source.roi), found, "a region to paint in", "draw one, or leave this host out")],
            )
        return roi

    def window(self, rng: np.random.Generator, turn: int, cell: int) -> Window:
        """The window around a box, whose place for a tumor is of whole cells (`Method.cell`) unless the box is the user's."""
        return lay_window(self.scan, self.box(rng, turn), self.plan, cell if self.user_box is None else 1)

    def box(self, rng: np.random.Generator, turn: int) -> Box:
        if self.user_box is not None:
            return self.user_box
        if self.source.redraw:
            tumor = self.source.redraw[turn % len(self.source.redraw)]
            return redraw_box(tumor, self.scan.grid, self.plan, rng.uniform(0, 1, 3), rng.uniform(0, 1, 3))
        spacing = self.scan.grid.spacing_mm
        place_mm, _ = draw_size_mm(self.tumors, self.plan.window.alpha, self.plan.window.extent_mm, rng)
        size_mm = [e + fade_mm(e, self.plan.paste.feather_mm) for e in place_mm]
        # A host smaller than the box gets a box of its own size; the window is then padded, and counted.
        size = tuple(
            max(1, min(round(e / s), n) // self.stride)
            for e, s, n in zip(size_mm, spacing, self.scan.grid.shape, strict=True)
        )
        coarse = place_box(size, self.allowed, rng)  # type: ignore[arg-type]
        if coarse is None:
            fault = Fault(self.scan.name, "no place for a box", "a body or region of interest", "give --roi or --box")
            raise DataError("A host has no place for a tumor", [fault])
        return Box(
            tuple(a * self.stride for a in coarse.start),
            tuple(min(b * self.stride, n) for b, n in zip(coarse.stop, self.scan.grid.shape, strict=True)),
        )  # type: ignore[arg-type]


def redraw_box(tumor: Box, grid: Grid, plan: Plan, low: Sequence[float], high: Sequence[float]) -> Box:
    """BA-PMG on the scan's own grid: the tumor's box with offsets that are the shares `low` and `high` (3,) of α D_i, D_i the window's
    length, and the edge in which the picture fades."""
    reach = np.array([plan.window.alpha * e / s for e, s in zip(plan.window.extent_mm, grid.spacing_mm, strict=True)])
    before, after = low * reach, high * reach
    place = [n + a + b for n, a, b in zip(tumor.shape, before, after, strict=True)]
    fade = [fade_mm(n * s, plan.paste.feather_mm) / 2 / s for n, s in zip(place, grid.spacing_mm, strict=True)]
    start = tuple(max(0, round(a - d - f)) for a, d, f in zip(tumor.start, before, fade, strict=True))
    stop = tuple(min(n, round(b + d + f)) for b, d, f, n in zip(tumor.stop, after, fade, grid.shape, strict=True))
    return Box(start, stop)  # type: ignore[arg-type]
