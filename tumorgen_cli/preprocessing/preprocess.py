"""Raw cases -> memory-mapped cases on the working spacing, in the scan's units. Parallel, resumable, bounded memory.

Reads the data set and the plan; writes `cases/<id>/image.npy`, `tumors.npy` and, last, `case.json`; scans without tumors go into
`unlabelled/` in the same form.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from scipy import ndimage

from tumorgen_cli.data.volumes import read_image, read_volume, resample, working_grid
from tumorgen_cli.geometry import Box, Grid, Shape
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.preprocessing.cases import CaseRecord, Component, inputs_hash, is_done
from tumorgen_cli.preprocessing.intensity import scan_limits
from tumorgen_cli.system.errors import Fault, StateError
from tumorgen_cli.system.files import atomic
from tumorgen_cli.system.json_records import write_json

_CRUMB_VOXELS = 8


def preprocess_case(plan: Plan, case: str, images: tuple[Path, ...], label: Path | None, folder: Path) -> None:
    """Writes one case; one without a label has no tumor. Cubic resampling for images; a tumor voxel is one whose linear share is a half or more.

    Deviation: nnU-Net resamples anisotropic data slice by slice; here all axes are treated alike, since a window must
    go back to the scan's grid by the same operation.
    """
    array, grid = read_image(images)
    onto = working_grid(grid, plan.window.spacing_mm)
    image = np.stack([resample(channel, grid, onto, "cubic") for channel in array]).astype(np.float32)
    tumor, mask = None, np.zeros(onto.shape, bool)
    if label is not None:
        labels, label_grid = read_volume(label)
        tumor = labels == plan.tumor_label
        mask = _onto_working_grid(tumor, label_grid, onto)
    numbers, components = find_components(mask, plan.window.shape)
    for name, data in (("image", image), ("tumors", numbers)):
        with atomic(folder / f"{name}.npy") as temporary:
            np.save(temporary, data)
    limits = tuple((float(low), float(high)) for low, high in scan_limits(array, plan.channels, tumor))
    record = CaseRecord(case, inputs_hash(plan, case), onto.shape, onto.spacing_mm, limits, components)
    write_json(folder / "case.json", record)


def _onto_working_grid(tumor: np.ndarray, grid: Grid, onto: Grid) -> np.ndarray:
    """A tumor (X, Y, Z) bool on another grid."""
    mask = resample(tumor.astype(np.float32), grid, onto, "linear") >= 0.5
    if tumor.any() and not mask.any():  # smaller than half a working voxel: the voxel that holds most of it stays
        share = np.zeros(onto.shape, np.int32)
        places = (np.argwhere(tumor) + 0.5) * grid.spacing_mm / onto.spacing_mm
        np.add.at(share, tuple(np.minimum(places.astype(int), np.array(onto.shape) - 1).T), 1)
        mask.flat[share.argmax()] = True
    return mask


def find_components(mask: np.ndarray, window: Shape) -> tuple[np.ndarray, tuple[Component, ...]]:
    """Component numbers (X, Y, Z), uint8 or uint16, and the components, largest first; crumbs below 8 voxels keep a number only
    where they are the case's largest tumor."""
    labels, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    boxes = ndimage.find_objects(labels)
    components = []
    for rank, index in enumerate(np.argsort(-sizes, kind="stable")):
        if rank and sizes[index] < _CRUMB_VOXELS:
            continue
        spans = boxes[index]
        box = Box(tuple(int(s.start) for s in spans), tuple(int(s.stop) for s in spans))  # type: ignore[arg-type]
        components.append(Component(int(index) + 1, box, all(n <= w for n, w in zip(box.shape, window, strict=True))))
    return labels.astype(np.uint8 if count < 256 else np.uint16), tuple(components)


def preprocess(
    plan: Plan,
    jobs: Sequence[tuple[str, tuple[Path, ...], Path | None]],
    folder: Path,
    workers: int,
    tick: Callable[[int, str], None],
) -> int:
    """Preprocesses the cases that are not done; returns how many it wrote. `workers` 0 or 1 runs in this process.

    At most `workers` cases are in memory at a time. Whatever a case raises is raised here, as it was.
    """
    todo = [job for job in jobs if not is_done(plan, job[0], folder / job[0])]
    done = len(jobs) - len(todo)
    tick(done, "")
    for stale in todo:
        shutil.rmtree(folder / stale[0], ignore_errors=True)
    if workers <= 1 or len(todo) < 3:
        for case, images, label in todo:
            preprocess_case(plan, case, images, label, folder / case)
            done += 1
            tick(done, case)
        return len(todo)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        waiting = list(todo)
        running: dict[Future[None], str] = {}
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    case, images, label = waiting.pop(0)
                    running[pool.submit(preprocess_case, plan, case, images, label, folder / case)] = case
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    case = running.pop(future)
                    future.result()
                    done += 1
                    tick(done, case)
        except BrokenProcessPool as error:
            cases = ", ".join(sorted({*running.values(), case}))
            fault = Fault(
                cases,
                "a worker was killed, most likely for memory",
                "room for it",
                "use --workers 1; what is done is kept",
            )
            raise StateError("Preprocessing stopped", [fault]) from error
    return len(todo)
