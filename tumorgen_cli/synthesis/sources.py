"""The host scans that tumors are painted into: healthy scans, or the data set's own cases whose tumors are redrawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tumorgen_cli.data.hosts import find_host_labels, find_hosts
from tumorgen_cli.data.labels import Values, organ_labels
from tumorgen_cli.geometry import Box
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.planned_data import read_planned_dataset
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.synthesis.window import redraw_box, window_shape
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import DataError, Fault, PlanError, abbreviate_list, say_count
from tumorgen_cli.system.json_records import unknown_name_fault


@dataclass(frozen=True)
class Source:
    """A host scan as files, and where in it tumors are painted.

    Attributes:
        name: name of the host.
        files: one file per channel.
        label: file of the host's labels, if it has any.
        redraw: boxes of the tumors to redraw, in the scan's voxels; only for the data set's own cases.
        roi: mask of the region to paint in.
        region: the values of `roi` that count; None for all values except 0.
    """

    name: str
    files: tuple[Path, ...]
    label: Path | None = None
    redraw: tuple[Box, ...] = ()
    roi: Path | None = None
    region: Values | None = None


def healthy_sources(plan: Plan, healthy: Path | None, roi: Path | None, paint_in: str | None = None) -> list[Source]:
    """Return the scans of a folder of healthy scans.

    Args:
        plan: the plan.
        healthy: folder of the scans.
        roi: folder of masks, one per scan. Whether they exist is checked for the scans that are used (`host_checks`).
        paint_in: name of one of the plan's labels. The masks of `roi` are then label files, and only this label counts.

    Raises:
        PlanError: there is no folder, or the plan has no such label.
        DataError: the scans cannot be used.
    """
    if healthy is None:
        fault = Fault("--healthy", "not given", "a folder of scans", "give --healthy DIR or --cases test")
        raise PlanError("Nothing to paint into", [fault])
    organs = organ_labels(plan.labels, plan.tumor_label)
    if paint_in is not None and paint_in not in organs:
        raise PlanError("Nowhere to paint", [unknown_name_fault("--paint-in", paint_in, organs)])
    hosts = find_hosts(healthy, [channel.name for channel in plan.channels], plan.file_ending)
    rois = {host.case: roi / f"{host.case}{plan.file_ending}" if roi else None for host in hosts}
    region = None if paint_in is None else organs[paint_in]
    labels: dict[str, Path | None] = {}
    if region is not None:
        labels.update(rois)
    else:
        labels.update(find_host_labels(healthy, plan.labels, plan.tumor_name, plan.file_ending))
    return [Source(host.case, host.files, labels.get(host.case), roi=rois[host.case], region=region) for host in hosts]


def redraw_sources(workspace: Workspace, plan: Plan, cases: str) -> list[Source]:
    """Return the cases of a split with their tumors.

    A tumor is left out, with a warning, if the largest box that may be drawn around it has no window.

    Args:
        workspace: the workspace.
        plan: the plan.
        cases: "test" or "train".

    Raises:
        PlanError: there is no such split.
        DataError: no tumor is left.
    """
    splits = workspace.splits()
    names = {"test": splits.test, "train": splits.train}.get(cases)
    if names is None:
        raise PlanError("No such cases", [unknown_name_fault("--cases", cases, ("test", "train"))])
    dataset = read_planned_dataset(workspace, plan)
    facts = {case.case: case for case in workspace.fingerprint().cases}
    widest = (1.0, 1.0, 1.0)
    sources, large = [], {}
    for name in names:
        grid, tumors = facts[name].grid, facts[name].tumors
        boxes = tuple(t.box for t in tumors if window_shape(redraw_box(t.box, grid, plan, widest, widest), grid, plan))
        if boxes:
            sources.append(Source(name, dataset.image_files(name), dataset.label_file(name), boxes))
        if len(boxes) < len(tumors):
            large[name] = len(tumors) - len(boxes)
    found = f"tumors too large for twice the plan's window: {sum(large.values())}, in {abbreviate_list([*large])}"
    if not sources:
        if large:
            remedy = "plan with a larger window (--set window.shape=[...])"
        else:
            found, remedy = f"no tumor in {len(names)} cases", "name the other cases, or paint into --healthy DIR"
        raise DataError("There is nothing to redraw", [Fault(f"--cases {cases}", found, "a tumor to redraw", remedy)])
    if large:
        console.warn(f"--cases {cases}, not redrawn: {found}")
    return sources


def unlabeled_hosts(plan: Plan, sources: Sequence[Source]) -> list[str]:
    """Return the hosts without labels if the data set has other labels than the tumor's; else none."""
    organs = organ_labels(plan.labels, plan.tumor_label)
    return [source.name for source in sources if organs and source.label is None]


def unlabeled_hosts_fault(where: str, hosts: Sequence[str]) -> Fault:
    """Return the fault of pairs in hosts without labels, which nnU-Net must not be trained on."""
    found = (
        f"{say_count(len(hosts), 'host')} without labels ({abbreviate_list(hosts)}): from their pairs an nnU-Net would "
        "learn that organs are background"
    )
    remedy = "paint into hosts in nnU-Net's form: imagesTr and, beside it, labelsTr with the data set's own labels"
    return Fault(where, found, "all labels of the data set in every pair", remedy)
