"""nnU-Net v2 raw datasets and folders of host scans.

Reads dataset.json, imagesTr/ and labelsTr/ (imagesTs/ is left alone). Writes nothing. Faults are collected over all
files and raised together; what they are is in `faults`.
"""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tumorgen_cli import console, files, volumes
from tumorgen_cli.console import Ticker
from tumorgen_cli.devices import available_memory_gib, usable_cores
from tumorgen_cli.errors import DataError, DeviceError, Fault, StateError, TumorgenError, few
from tumorgen_cli.faults import (
    channel_faults,
    geometry_faults,
    intensity_faults,
    json_faults,
    label_faults,
    list_images,
    list_scans,
    read_header,
    read_whole,
)
from tumorgen_cli.records import Grid, Shape

T = TypeVar("T")

_TUMOR = re.compile(r"(?<!peri)(?<!non)(?<!non.)(tumou?r|lesion|cancer|metasta|gtv|neoplas|carcinom|sarcom|malignan)", re.I)
_WORKER_BYTES = 400 << 20  # a Python process with numpy, scipy and SimpleITK
_COPIES = 6  # arrays of a channel's size that checking and measuring hold at once, at worst
_IN_PROCESS_BYTES = 64 << 20  # smaller data sets are read faster than workers start


@dataclass(frozen=True)
class Dataset:
    """What dataset.json says, the cases that have an image, and which label is the tumor."""

    path: Path
    name: str
    channel_names: tuple[str, ...]
    labels: dict[str, int]
    file_ending: str
    cases: tuple[str, ...]
    tumor_name: str

    @property
    def tumor_label(self) -> int:
        return self.labels[self.tumor_name]

    def image_files(self, case: str) -> tuple[Path, ...]:
        """One file per channel, whether it exists or not."""
        names = (f"{case}_{channel:04d}{self.file_ending}" for channel in range(len(self.channel_names)))
        return tuple(self.path / "imagesTr" / name for name in names)

    def label_file(self, case: str) -> Path:
        return self.path / "labelsTr" / f"{case}{self.file_ending}"


@dataclass(frozen=True)
class Host:
    """A scan to paint in: one file per channel."""

    case: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class CaseCheck:
    """What is wrong with one case, and its tumor voxels (none where the label cannot be read)."""

    case: str
    faults: tuple[Fault, ...]
    tumor_voxels: int | None


@dataclass(frozen=True)
class CaseVoxels:
    """A sound case: one (X, Y, Z) array per channel in the file's data type, the tumor mask, the geometry."""

    channels: tuple[np.ndarray, ...]
    tumor: np.ndarray
    grid: Grid


# -- finding and reading -----------------------------------------------------------------------------------------
def find_dataset(name: str) -> Path:
    """The folder of a dataset given as a path, or as an id ("501") or name ("Dataset501_X") under $nnUNet_raw.

    Raises:
        DataError: no such dataset, or an id that several folders bear; the candidates are listed.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return _absolute(path)
    raw = os.environ.get("nnUNet_raw", "")
    known = sorted(p.parent.name for p in Path(raw).glob("*/dataset.json")) if raw else []
    prefix = f"Dataset{int(name):03d}_" if name.isdecimal() else None
    matches = [k for k in known if k == name or (prefix and k.startswith(prefix))]
    if len(matches) == 1:
        return _absolute(Path(raw)) / matches[0]
    if matches:
        found = f"{len(matches)} folders: {', '.join(matches)}"
        fault = Fault(f"dataset {name}", found, "one folder per id", "give the whole name")
        raise DataError("A dataset id is not unique", [fault])
    candidates = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "") if known else "none"
    found = f"no such folder; datasets under $nnUNet_raw ({raw or 'not set'}): {candidates}"
    remedy = "give the path of the dataset, or export nnUNet_raw=<the folder that holds DatasetNNN_Name>"
    raise DataError("A dataset was not found", [Fault(f"dataset {name}", found, "a path, an id or a name", remedy)])


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100  (`resolve` would name a linked dataset after the link's target)


def read_dataset(path: Path, tumor_label: str | None = None) -> Dataset:
    """The dataset in folder `path`; its files are listed, not opened (see `check_dataset`).

    `tumor_label` is a name or value; without it the label whose name speaks of a tumor, or the only one, is taken.

    Raises:
        DataError: everything that is wrong with dataset.json, or a tumor label that cannot be told.
    """
    where = path / "dataset.json"
    try:
        content = files.read_plain(where, "write it as nnU-Net v2 asks (its documentation/dataset_format.md)")
    except StateError as error:
        raise DataError(f"{path.name} is not an nnU-Net raw dataset", error.faults) from error
    faults = json_faults(where, content)
    if faults:
        raise DataError(f"{path.name} has a faulty dataset.json", faults)
    labels, names, ending = dict(content["labels"]), content["channel_names"], content["file_ending"]
    tumor = _find_tumor(where, labels, tumor_label)
    scans, _ = list_scans(path / "imagesTr", (ending,))
    channels = tuple(str(names[str(channel)]) for channel in range(len(names)))
    return Dataset(path, path.name, channels, labels, ending, tuple(sorted(scans)), tumor)


def tumors_by_name(names: Iterable[str]) -> list[str]:
    """The labels whose names speak of a tumor."""
    return [name for name in names if _TUMOR.search(name)]


def _find_tumor(where: Path, labels: dict[str, int], wanted: str | None) -> str:
    names = [name for name in labels if name not in ("background", "ignore")]
    listed = ", ".join(f"{name} = {labels[name]}" for name in names) or "none but background"
    if wanted is not None:
        matches = [n for n in names if wanted in (n, str(labels[n]))] or [n for n in names if n.lower() == wanted.lower()]
        found = f"--tumor-label {wanted}, but the labels are: {listed}"
    else:
        matches = tumors_by_name(names) if len(names) > 1 else names
        found = f"{len(matches) or 'no'} labels that may be the tumor, of: {listed}"
    if len(matches) == 1:
        return matches[0]
    remedy = "name it, by name or value: --tumor-label NAME"
    raise DataError("The tumor label cannot be told", [Fault(f"{where}: labels", found, "one label that is the tumor", remedy)])


def host_scans(folder: Path, channel_names: Sequence[str], file_ending: str = ".nii.gz") -> tuple[Host, ...]:
    """The scans of a folder (`<case>_0000.nii.gz` ...), sorted by case; its imagesTr/ is used where there is one.

    Headers are read, voxels are not.

    Raises:
        DataError: no scans, channels missing or too many, files that cannot be read or differ in geometry.
    """
    inner = folder / "imagesTr" if (folder / "imagesTr").is_dir() else folder
    scans, faults = list_scans(inner, tuple(dict.fromkeys((file_ending, ".nii.gz"))))
    faults += _foreign_channels(folder / "dataset.json", channel_names)
    if not scans:
        found = "no scans" if inner.is_dir() else "no such folder"
        expected = f"files <case>_0000{file_ending}, a file per channel ({', '.join(channel_names)})"
        faults.append(Fault(str(inner), found, expected, "name another folder, or rename its files to that pattern"))
    faults += channel_faults(scans, inner, channel_names, file_ending)
    hosts = tuple(Host(case, tuple(scans[case][channel] for channel in sorted(scans[case]))) for case in sorted(scans))
    for host in hosts:
        grids = {path: read_header(path, faults) for path in host.files}
        faults += geometry_faults({path: grid for path, grid in grids.items() if grid is not None})
    if faults:
        raise DataError("The host scans cannot be used", faults)
    return hosts


def host_labels(folder: Path, labels: Mapping[str, int], tumor_name: str, file_ending: str = ".nii.gz") -> dict[str, Path]:
    """The label files of a folder of scans, by case: those in the labelsTr/ that nnU-Net's form has beside imagesTr/.

    None where the folder's dataset.json gives a name of `labels` another value, or knows other names; the tumor's, which no host has,
    does not count.
    """
    root = folder.resolve().parent if folder.resolve().name == "imagesTr" else folder
    declared = _declared(root / "dataset.json", "labels") or {}
    if any(labels.get(name) != value for name, value in declared.items() if name.lower() != tumor_name.lower()):
        return {}
    return {path.name.removesuffix(file_ending): path for path in sorted((root / "labelsTr").glob(f"*{file_ending}"))}


def organ_labels(labels: Mapping[str, int], tumor_label: int) -> dict[str, int]:
    """The labels of a data set beside background, the tumor and what nnU-Net is told to ignore."""
    return {name: value for name, value in labels.items() if value not in (0, tumor_label) and name != "ignore"}


def cases_by_voxels(dataset: Dataset, cases: Sequence[str], shapes: Collection[Shape]) -> dict[Shape, dict[str, str]]:
    """The cases of a data set by the shape of their first channel and by what `hash_voxels` says of it; of other shapes none is read."""
    images = {case: dataset.image_files(case)[0] for case in cases}
    read = {case: path for case, path in images.items() if volumes.read_grid(path).shape in shapes}
    found: dict[Shape, dict[str, str]] = {}
    with console.progress("reading cases that may be among the hosts", len(read), quiet=not read) as tick:
        for number, (case, path) in enumerate(read.items(), 1):
            image, grid = volumes.read_volume(path)
            found.setdefault(grid.shape, {}).setdefault(volumes.hash_voxels(image), case)
            tick(number, case)
    return found


def cases_among(scans: Mapping[str, Path], dataset: Dataset, cases: Sequence[str]) -> dict[str, str]:
    """Which scans (by name, their first channel's file) are among the cases of a data set, by name or by voxels, and which case each is.

    Files are read only where names do not tell and shapes agree.
    """
    shapes = {name: volumes.read_grid(path).shape for name, path in scans.items() if name not in cases}
    known = cases_by_voxels(dataset, cases, {*shapes.values()})
    found = {}
    for name, path in scans.items():
        if name in cases:
            found[name] = name
        elif (alike := known.get(shapes[name])) and (case := alike.get(volumes.hash_voxels(volumes.read_volume(path)[0]))):
            found[name] = case
    return found


def case_words(known: Mapping[str, str]) -> str:
    """What `cases_among` found, in words: the first scans, with the case's name beside that of a scan which goes by another."""
    return few([name if name == case else f"{name}, which is {case}" for name, case in known.items()])


def _foreign_channels(path: Path, channel_names: Sequence[str]) -> list[Fault]:
    """The fault of hosts that are a dataset of other channels: a CT taken for a PET would be painted on silently."""
    names = _declared(path, "channel_names")
    if names is None or [str(n).lower() for n in names.values()] == [n.lower() for n in channel_names]:
        return []
    remedy = "take hosts with the channels of the training set, in its order"
    return [Fault(f"{path}: channel_names", ", ".join(map(str, names.values())), ", ".join(channel_names), remedy)]


def _declared(path: Path, key: str) -> dict[str, Any] | None:
    """What the dataset.json of a folder of hosts says, if there is one and it says that by name."""
    content = files.read_plain(path, "correct or remove it") if path.is_file() else None
    found = content.get(key) if isinstance(content, dict) else None
    return found if isinstance(found, dict) else None


def file_faults(dataset: Dataset) -> list[Fault]:
    """What is wrong with imagesTr and labelsTr by the names of their files alone."""
    images, labels, ending = dataset.path / "imagesTr", dataset.path / "labelsTr", dataset.file_ending
    scans, faults = list_scans(images, (ending,))
    if not scans:
        found = "no cases" if images.is_dir() else "no such folder"
        remedy = "put the scans there, or correct file_ending in dataset.json"
        faults.append(Fault(str(images), found, f"files <case>_0000{ending}", remedy))
    faults += channel_faults(scans, images, dataset.channel_names, ending)
    marked, more = list_images(labels, (ending,))
    faults += more
    cases = {stem for _, stem in marked}
    for case in sorted(scans.keys() - cases):
        remedy = "add the label (all background for a tumor-free scan), or move the image to imagesTs"
        faults.append(Fault(str(dataset.label_file(case)), "no such file", f"the label of image {case}", remedy))
    for case in sorted(cases - scans.keys()):
        where, expected = str(dataset.label_file(case)), f"imagesTr/{dataset.image_files(case)[0].name}"
        faults.append(Fault(where, "a label without an image", expected, "add the image or remove the label"))
    return faults


# -- checking ----------------------------------------------------------------------------------------------------
def check_dataset(dataset: Dataset, workers: int | None = None, ticker: Ticker | None = None) -> tuple[str, ...]:
    """The tumor-free cases of a sound dataset; every file is read. `workers` as for `each_case`.

    Raises:
        DataError: every fault of every file, or no tumor voxel in any case.
    """
    return settle(dataset, list(each_case(_only_check, dataset, workers, ticker)))


def _only_check(dataset: Dataset, case: str) -> CaseCheck:
    return check_case(dataset, case)[0]


def check_case(dataset: Dataset, case: str) -> tuple[CaseCheck, CaseVoxels | None]:
    """Reads those files of a case that exist, once; voxels come back only where all is well."""
    faults: list[Fault] = []
    paths = [path for path in (*dataset.image_files(case), dataset.label_file(case)) if path.exists()]
    volumes = {path: volume for path in paths if (volume := read_whole(path, faults)) is not None}
    label = volumes.pop(dataset.label_file(case), None)
    for path, (array, _) in volumes.items():
        faults += intensity_faults(path, array)
    grids = {path: grid for path, (_, grid) in volumes.items()}
    tumor = None
    if label is not None:
        faults += label_faults(dataset.label_file(case), label[0], dataset.labels)
        grids[dataset.label_file(case)] = label[1]
        tumor = label[0] == dataset.tumor_label
    faults += geometry_faults(grids)
    check = CaseCheck(case, tuple(faults), None if tumor is None else int(np.count_nonzero(tumor)))
    if faults or tumor is None or len(volumes) < len(dataset.channel_names):
        return check, None
    return check, CaseVoxels(tuple(array for array, _ in volumes.values()), tumor, next(iter(grids.values())))


def settle(dataset: Dataset, checks: Sequence[CaseCheck]) -> tuple[str, ...]:
    """The tumor-free cases, once every case has been checked.

    Raises:
        DataError: every fault of every file, or no tumor voxel in any case.
    """
    faults = file_faults(dataset) + [fault for check in checks for fault in check.faults]
    counts = [check.tumor_voxels for check in checks if check.tumor_voxels is not None]
    if counts and not any(counts):
        found = f"no voxel of {dataset.tumor_name} = {dataset.tumor_label} in any of {len(counts)} label files"
        remedy = "choose the right label with --tumor-label, or correct the files"
        faults.append(Fault(str(dataset.path / "labelsTr"), found, "a tumor in one case at least", remedy))
    if faults:
        raise DataError(f"{dataset.name} cannot be used: {len(faults)} fault{'s' * (len(faults) > 1)}", faults)
    return tuple(check.case for check in checks if check.tumor_voxels == 0)


# -- several processes -------------------------------------------------------------------------------------------
def each_case(
    task: Callable[[Dataset, str], T], dataset: Dataset, workers: int | None = None, ticker: Ticker | None = None
) -> Iterator[T]:
    """What `task` makes of each case, in order. `workers` processes, 0 for none, by cores and memory if not given.

    `task` is a module's function and its results are small: they are all that crosses between processes.

    Raises:
        DeviceError: a worker was killed.
    """
    count = choose_workers(dataset) if workers is None else min(workers, len(dataset.cases))
    if count == 0:
        yield from _told((task(dataset, case) for case in dataset.cases), dataset, ticker)
        return
    alone = replace(dataset, cases=())  # the list of cases need not travel with every case
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
        try:
            yield from _told(pool.map(task, [alone] * len(dataset.cases), dataset.cases), dataset, ticker)
        except BrokenProcessPool as error:
            remedy = "give fewer: --workers 1, or 0 to read in this process"
            fault = Fault(f"{count} worker processes", "one was killed, most often for want of memory", "all to finish", remedy)
            raise DeviceError("A worker process was killed", [fault]) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _told(results: Iterator[T], dataset: Dataset, ticker: Ticker | None) -> Iterator[T]:
    for done, case in enumerate(dataset.cases, 1):
        try:
            result = next(results)
        except (TumorgenError, BrokenProcessPool):
            raise
        except Exception as error:  # a bug: a worker's traceback does not say which case it was at
            raise RuntimeError(f"case {case}: {error!r}") from error
        if ticker is not None:
            ticker(done, case)
        yield result


def choose_workers(dataset: Dataset) -> int:
    """Processes worth having: one per core this process may use, as many as memory holds, 0 for small datasets."""
    sizes = {case: sum(p.stat().st_size for p in dataset.image_files(case) if p.exists()) for case in dataset.cases}
    if sum(sizes.values()) < _IN_PROCESS_BYTES:
        return 0
    largest = max(sizes, key=sizes.__getitem__)
    grids = [read_header(path, []) for path in dataset.image_files(largest) if path.exists()]
    voxels = max((int(np.prod(grid.shape)) for grid in grids if grid is not None), default=0)
    need = _WORKER_BYTES + voxels * 4 * (_COPIES + len(dataset.channel_names))
    return max(1, min(usable_cores(), len(dataset.cases), int(available_memory_gib() * 2**30) // 2 // need))
