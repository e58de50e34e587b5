"""Preprocess raw cases: resample them to the working spacing, in the scan's units, and save them for memory mapping.

It runs in parallel, can be resumed, and has bounded memory. It reads the data set and the plan, and writes
`cases/<id>/image.npy`, `tumors.npy` and, last, `case.json`. Scans without tumors are written to `unlabeled/` in the
same form.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
from scipy import ndimage

from tumorgen_cli.data.channels import fill_paddings
from tumorgen_cli.data.contents import hash_paths, same_content
from tumorgen_cli.data.labels import fill_sublabels, mask_of
from tumorgen_cli.data.volumes import hash_voxels, read_image, read_volume, resample, working_grid
from tumorgen_cli.geometry import Grid, Shape, box_of_slices
from tumorgen_cli.planning.fingerprint import MIN_TUMOR_VOXELS
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.preprocessing.cases import (
    ARRAYS,
    SUBLABELS,
    CaseRecord,
    Component,
    ScanIdentity,
    inputs_hash,
    is_done,
    is_whole,
    read_case_record,
)
from tumorgen_cli.preprocessing.intensity import scan_limits
from tumorgen_cli.system.console import Ticker
from tumorgen_cli.system.errors import Fault, StateError
from tumorgen_cli.system.files import write_stream
from tumorgen_cli.system.json_records import write_json
from tumorgen_cli.system.processes import worker_pool

Job = tuple[str, tuple[Path, ...], Path | None]  # case, image files, label file


def preprocess_case(plan: Plan, case: str, images: tuple[Path, ...], label: Path | None, folder: Path) -> None:
    """Preprocess and write one case; without a label file it has no tumor.

    Padding of the scan is filled, and images are resampled cubically. The tumor mask is resampled linearly, and voxels
    of 0.5 or more are tumor. If the tumor has several labels, each of these voxels gets the nearest one.

    Args:
        plan: The plan.
        case: Name of the case.
        images: One file per channel.
        label: The label file, or None.
        folder: The folder to write.

    Deviation:
        nnU-Net resamples anisotropic data slice by slice. Here all axes are treated alike, because a window must be
        resampled back to the scan's grid by the same operation.
    """
    files = hash_paths(images, {}) if label is None else {}
    array, grid = read_image(images)
    scan = ScanIdentity(grid.shape, hash_voxels(array[0]))
    onto = working_grid(grid, plan.window.spacing_mm)
    array = fill_paddings(array, [channel.name for channel in plan.channels])
    image = np.stack([resample(channel, grid, onto, "cubic") for channel in array]).astype(np.float32)
    tumor, mask, sublabels = None, np.zeros(onto.shape, bool), np.zeros(onto.shape, np.uint8)
    if label is not None:
        labels, label_grid = read_volume(label)
        tumor = mask_of(labels, plan.tumor_label)
        mask = _onto_working_grid(tumor, label_grid, onto)
        if isinstance(plan.tumor_label, tuple):
            own = np.where(tumor, labels, 0).astype(np.min_scalar_type(max(plan.tumor_label)))
            sublabels = fill_sublabels(resample(own, label_grid, onto, "nearest"), mask)
    numbers, components = find_components(mask, plan.window.shape)
    made = [_write_array(folder / ARRAYS[0], image), _write_array(folder / ARRAYS[1], numbers)]
    made += [_write_array(folder / SUBLABELS, sublabels)] if isinstance(plan.tumor_label, tuple) else []
    limits = tuple((float(low), float(high)) for low, high in scan_limits(array, plan.channels, tumor))
    record = CaseRecord(
        case, inputs_hash(plan, case), onto.shape, onto.spacing_mm, limits, components, tuple(made), scan, files
    )
    write_json(folder / "case.json", record)


def _write_array(path: Path, array: np.ndarray) -> str:
    return write_stream(path, lambda stream: np.save(stream, array))


def _onto_working_grid(tumor: np.ndarray, grid: Grid, onto: Grid) -> np.ndarray:
    """Resample a tumor mask (X, Y, Z) bool to another grid; a tumor that exists keeps at least one voxel."""
    mask = resample(tumor.astype(np.float32), grid, onto, "linear") >= 0.5
    if tumor.any() and not mask.any():  # smaller than half a working voxel: keep the voxel that contains most of it
        share = np.zeros(onto.shape, np.int32)
        places = (np.argwhere(tumor) + 0.5) * grid.spacing_mm / onto.spacing_mm
        np.add.at(share, tuple(np.minimum(places.astype(int), np.array(onto.shape) - 1).T), 1)
        mask.flat[share.argmax()] = True
    return mask


def find_components(mask: np.ndarray, window: Shape) -> tuple[np.ndarray, tuple[Component, ...]]:
    """Find the 26-connected components of a tumor mask (X, Y, Z).

    Components below `MIN_TUMOR_VOXELS` are not listed, unless they are the largest of the case.

    Args:
        mask: The mask, (X, Y, Z) bool.
        window: Shape of the training window, in voxels.

    Returns:
        The numbers of components, (X, Y, Z) uint8 or uint16, and the components, largest first.
    """
    labels, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    boxes = ndimage.find_objects(labels)
    components = []
    for rank, index in enumerate(np.argsort(-sizes, kind="stable")):
        if rank and sizes[index] < MIN_TUMOR_VOXELS:
            continue
        box = box_of_slices(boxes[index])
        components.append(Component(int(index) + 1, box, all(n <= w for n, w in zip(box.shape, window, strict=True))))
    return labels.astype(np.uint8 if count < 256 else np.uint16), tuple(components)


def preprocess(plan: Plan, jobs: Sequence[Job], folder: Path, workers: int, ticker: Ticker) -> int:
    """Preprocess the cases that are not done, and those whose files are damaged.

    At most `workers` cases are in memory at the same time. An error of a case is raised unchanged.

    Args:
        plan: The plan.
        jobs: Name, image files and label file of each case.
        folder: The folder with a subfolder for each case.
        workers: Number of processes; 0 or 1 runs in this process.
        ticker: Reports progress.

    Returns:
        The number of cases written.

    Raises:
        StateError: a worker was killed.
    """
    todo = [job for job in jobs if not (is_current(plan, job, folder / job[0]) and is_whole(folder / job[0]))]
    done = len(jobs) - len(todo)
    ticker(done, "")
    for case, _, _ in todo:
        shutil.rmtree(folder / case, ignore_errors=True)
    if workers > 1 and len(todo) >= 3:
        _preprocess_in_parallel(plan, todo, folder, workers, lambda count, case="": ticker(done + count, case))
        return len(todo)
    for count, (case, images, label) in enumerate(todo, 1):
        preprocess_case(plan, case, images, label, folder / case)
        ticker(done + count, case)
    return len(todo)


def is_current(plan: Plan, job: Job, folder: Path) -> bool:
    """Whether a folder holds this case, made from the current plan and, for a scan without labels, from these files.

    Files of the size and time that they had are not read again.
    """
    case, images, label = job
    if not is_done(plan, case, folder):
        return False
    if label is not None:  # the plan knows the content of the data set's files
        return True
    known = read_case_record(folder).files
    return same_content(known, hash_paths(images, known))


def _preprocess_in_parallel(plan: Plan, jobs: Sequence[Job], folder: Path, workers: int, ticker: Ticker) -> None:
    """Preprocess cases in worker processes, which get a new case only when one is finished.

    Joblib is not used, because it does not tell which cases were running when a worker was killed.

    Raises:
        StateError: a worker was killed.
    """
    waiting, running, done = list(jobs), dict[Future[None], str](), 0
    with worker_pool(workers) as pool:
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
                    ticker(done, case)
        except BrokenProcessPool as error:
            cases = ", ".join(sorted({*running.values(), case}))
            remedy = "use --workers 1; what is done is kept"
            fault = Fault(cases, "a worker was killed, most likely because memory ran out", "enough memory", remedy)
            raise StateError("Preprocessing stopped", [fault]) from error
