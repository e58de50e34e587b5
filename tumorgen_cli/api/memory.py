"""Paints into an image in memory, with the same code as into files; writes nothing."""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tumorgen_cli.api.images import MemoryImage, read_memory, read_region
from tumorgen_cli.api.options import WORK, StrPath, open_workspace
from tumorgen_cli.geometry import Box
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import DataError, Fault, NoPlaceError, PlanError, describe_counts
from tumorgen_cli.system.files import file_version

if TYPE_CHECKING:
    from tumorgen_cli.methods.base import Method, Sampling
    from tumorgen_cli.planning.plan import Plan
    from tumorgen_cli.planning.workspace import Workspace
    from tumorgen_cli.synthesis.pair import PairInputs
    from tumorgen_cli.synthesis.provenance import Provenance
    from tumorgen_cli.synthesis.scan import Scan
    from tumorgen_cli.system.devices import DeviceName

_RESAMPLE = "resample it onto the image, by nearest neighbor"
_NAME = "image"  # the name of the host and of the pair in the provenance


@dataclass(frozen=True)
class PaintedScan:
    """A pair in memory.

    Attributes:
        image: The image with the tumors, of the kind that was given and in its data type.
        mask: The tumors: an array (X, Y, Z) bool, or a nibabel or SimpleITK image of uint8.
        provenance: How it was made. Outside `provenance.boxes`, `image` equals the image that was given.
    """

    image: Any
    mask: Any
    provenance: Provenance


def paint(
    image: Any,
    spacing_mm: Sequence[float] | None = None,
    *,
    box: Box | None = None,
    region: Any = None,
    tumors: int | None = None,
    anywhere: bool = False,
    method: str = "tumorgen",
    model: str | None = None,
    sampling: Sampling | None = None,
    work: StrPath = WORK,
    device: DeviceName = "auto",
    seed: int | None = None,
    trust_units: bool = False,
) -> PaintedScan:
    """Paint tumors into an image in memory.

    The same image, seed and options give the same pair. It is also the pair that `synthesize` writes for this host with
    this seed in its provenance. The method that was used last stays loaded, and with it its memory; it is loaded again
    when the plan, the training cases or the weights have changed.

    Args:
        image: Array (X, Y, Z) or (C, X, Y, Z), nibabel image (channels last), or SimpleITK image (channels are
            components), with the channels of the data set and in its units.
        spacing_mm: Voxel edges x, y, z in mm; for arrays alone.
        box: Paint one tumor in this box, in voxels of the image. None: a box is drawn for each tumor.
        region: Where a tumor may lie, at least 95 % of it: mask (X, Y, Z), an array or an image. None: in the body.
        tumors: Number of tumors. None: as the plan says, by default as many as patients have.
        anywhere: Paint anywhere in the body or region, not only where the surroundings look like those of training
            tumors.
        method: The method that paints.
        model: Name of an installed model, which paints instead of a method of the workspace.
        sampling: Steps, solver and kind of tumor. None: as the plan says.
        work: The workspace, with the method trained; not used with a model.
        device: Where to compute.
        seed: Seed of the pair. None: the plan's.
        trust_units: Paint also into an image that looks like another unit than the training cases'.

    Returns:
        The painted image, its mask and its provenance.

    Raises:
        PlanError: box and region together, several tumors in one box, an unclear spacing, or an option that the method
            does not know.
        DataError: an image, box or region that cannot be used, or no tumor that passed.
        StateError: a stage is not trained.

    Warns:
        UserWarning: the method's weights are too weak to rely on, for example trained for few of the planned steps.

    Example:
        >>> import nibabel
        >>> from tumorgen_cli import api
        >>> host = nibabel.load("tumorgen_demo/phantoms/healthy/Healthy_000_0000.nii.gz")
        >>> box = api.Box((10, 10, 10), (24, 24, 22))
        >>> pair = api.paint(host, box=box, method="copypaste", work="tumorgen_demo", device="cpu", seed=1)
        >>> pair.image.shape == host.shape, bool(pair.mask.get_fdata().any())
        (True, True)
    """
    # Long: most of it is the description of a public function
    from tumorgen_cli.methods.base import Sampling
    from tumorgen_cli.methods.shortfalls import find_shortfalls
    from tumorgen_cli.pipeline.synthesize import check_sampling, open_model
    from tumorgen_cli.synthesis.counts import count_faults
    from tumorgen_cli.synthesis.host_checks import grid_doubts
    from tumorgen_cli.synthesis.jobs import PairJob
    from tumorgen_cli.synthesis.pair import PairInputs, draw_pair, make_provenance, open_host
    from tumorgen_cli.synthesis.sources import Source

    if faults := count_faults(tumors, box):
        raise PlanError("Options that do not fit together", faults)
    given, workspace = read_memory(image, spacing_mm), open_workspace(work)
    if model is not None:
        workspace, method = open_model(model, method, workspace)
    painter, weights = _open_painter(workspace, method, device)
    cases = workspace.fingerprint().of(workspace.splits().train).cases
    inputs = PairInputs(
        painter, cases, sampling or Sampling(), box, count=tumors, anywhere=anywhere, trust_units=trust_units
    )
    check_sampling(painter, inputs.sampling)
    scan = _make_scan(given, inputs.plan)
    mask = _check_place(scan, box, region, inputs)
    source = Source(_NAME, ())
    for text in find_shortfalls(painter):
        warnings.warn(text, stacklevel=2)
    begun = time.perf_counter()
    host = open_host(inputs, source, scan, scan.voxels, mask)
    for doubt in (*grid_doubts({_NAME: scan.grid}, inputs.cases), *host.doubts):
        console.warn(doubt)
    job = PairJob(0, source, _NAME, inputs.plan.seed if seed is None else seed, 0)
    pair = draw_pair(inputs, job, host)
    if not pair.tumors:
        remedy = "try another seed, box or region, or train longer"
        fault = Fault(_NAME, describe_counts(pair.left_out[0]), "a tumor", remedy)
        raise NoPlaceError("No tumor came", [fault])
    if pair.inside < host.placing.least:
        console.warn(f"{100 * pair.inside:.0f} % of the tumor is in the body; without a box, other places are drawn")
    seconds = {"method": pair.seconds, "total": time.perf_counter() - begun}
    record = make_provenance(inputs, weights, job, host, pair, seconds)
    if record.left_out:
        asked = len(record.tumors) + len(record.left_out)
        console.warn(f"{len(record.tumors)} of {asked} tumors were painted; draws: {describe_counts(record.rejected)}")
    return PaintedScan(given.as_image(pair.scan.image), given.as_mask(pair.mask), record)


def _open_painter(workspace: Workspace, method: str, device: DeviceName) -> tuple[Method, dict[str, str]]:
    """A loaded method, and the hashes of what was loaded."""
    files = [workspace.plan_file, workspace.fingerprint_file, workspace.splits_file]
    for pattern in ("runs/*/*/run.json", "runs/*/*/weights.safetensors", "cases/*/case.json"):
        files += sorted(workspace.root.glob(pattern))
    return _load_painter(workspace, method, device, tuple((file, file_version(file)) for file in files))


@functools.lru_cache(maxsize=1)
def _load_painter(
    workspace: Workspace,
    method: str,
    device: DeviceName,
    state: tuple[tuple[Path, tuple[int, int, int] | None], ...],  # noqa: ARG001  (part of the key: other files are loaded anew)
) -> tuple[Method, dict[str, str]]:
    """Open and load a method; the last one is kept.

    Args:
        workspace: The workspace.
        method: Name of the method.
        device: Where to compute.
        state: Path and version of each file that the method is loaded from.
    """
    import torch

    from tumorgen_cli.methods.open import open_method

    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(
        gpus
    ):  # networks are made from a seed of their own; the caller's stream goes on as it was
        painter = open_method(workspace, method, device)
        return painter, dict(painter.load())


def _make_scan(given: MemoryImage, plan: Plan) -> Scan:
    """The image as a host scan, checked as a file is."""
    from tumorgen_cli.data.checks import intensity_faults
    from tumorgen_cli.preprocessing.intensity import scan_limits
    from tumorgen_cli.synthesis.scan import Scan

    channels, names = given.channels, [channel.name for channel in plan.channels]
    if len(channels) != len(names):
        expected = f"the {len(names)} of the data set: {', '.join(names)}"
        fault = Fault(_NAME, f"{len(channels)} channels", expected, "give an image with these channels, in this order")
        raise DataError("The image has other channels than the data set", [fault])
    faults = [
        fault
        for number, channel in enumerate(channels)
        for fault in intensity_faults(Path(f"{_NAME}, channel {number}"), channel)
    ]
    if faults:
        raise DataError("A host scan cannot be used", faults)
    limits = scan_limits(channels, plan.channels, None)
    return Scan(_NAME, (), channels, (channels.dtype,) * len(channels), given.grid, limits, None, tuple(names))


def _check_place(scan: Scan, box: Box | None, region: Any, inputs: PairInputs) -> np.ndarray | None:
    """The region as a mask (X, Y, Z) bool, or None; box, region and the scan's grid are checked.

    Raises:
        PlanError: both are given.
        DataError: the box, the region or the scan cannot be used.
    """
    from tumorgen_cli.synthesis.host_checks import box_faults, coarse_faults
    from tumorgen_cli.synthesis.places import MARK_REGION, region_faults

    if faults := coarse_faults({_NAME: scan.grid}, inputs.cases):
        raise DataError("Nothing can be painted there", faults)

    if box is not None and region is not None:
        raise PlanError("Two places", [Fault("box and region", "both given", "one of them", "leave one out")])
    if box is not None:
        corners = ",".join(map(str, (*box.start, *box.stop)))
        if faults := box_faults(f"box {corners}", box, scan.grid, inputs.plan):
            raise DataError("Nothing can be painted there", faults)
    if region is None:
        return None
    from tumorgen_cli.data.volumes import describe_grid, same_geometry

    mask, grid = read_region(region)
    if mask.shape != scan.grid.shape or (grid is not None and not same_geometry(grid, scan.grid)):
        found = f"shape {mask.shape}" if grid is None else describe_grid(grid)
        fault = Fault("region", found, f"{describe_grid(scan.grid)}, as the image", _RESAMPLE)
        raise DataError("Region and image differ in geometry", [fault])
    if faults := region_faults("region", mask):
        raise DataError("A region is no mask", faults)
    mask = mask != 0
    if not mask.any():
        raise NoPlaceError("A region is empty", [Fault("region", "no voxel set", "a region to paint in", MARK_REGION)])
    return mask
