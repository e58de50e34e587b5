"""Host scans: the healthy scans in a folder, their labels, and whether they are cases of the data set."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tumorgen_cli.data import volumes
from tumorgen_cli.data.checks import channel_faults, geometry_faults, list_scans, read_header
from tumorgen_cli.data.dataset import Dataset
from tumorgen_cli.geometry import Shape
from tumorgen_cli.system import console, json_records
from tumorgen_cli.system.errors import DataError, Fault, abbreviate_list


@dataclass(frozen=True)
class Host:
    """A scan to paint in: one file per channel."""

    case: str
    files: tuple[Path, ...]


def find_hosts(folder: Path, channel_names: Sequence[str], file_ending: str = ".nii.gz") -> tuple[Host, ...]:
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


def find_host_labels(
    folder: Path, labels: Mapping[str, int], tumor_name: str, file_ending: str = ".nii.gz"
) -> dict[str, Path]:
    """The label files of a folder of scans, by case: those in the labelsTr/ that nnU-Net's form has beside imagesTr/.

    None where the folder's dataset.json gives a name of `labels` another value, or knows other names; the tumor's, which no host has,
    does not count.
    """
    root = folder.resolve().parent if folder.resolve().name == "imagesTr" else folder
    declared = _declared(root / "dataset.json", "labels") or {}
    if any(labels.get(name) != value for name, value in declared.items() if name.lower() != tumor_name.lower()):
        return {}
    return {path.name.removesuffix(file_ending): path for path in sorted((root / "labelsTr").glob(f"*{file_ending}"))}


def index_cases_by_voxels(dataset: Dataset, cases: Sequence[str], shapes: Collection[Shape]) -> dict[Shape, dict[str, str]]:
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


def match_cases(scans: Mapping[str, Path], dataset: Dataset, cases: Sequence[str]) -> dict[str, str]:
    """Which scans (by name, their first channel's file) are among the cases of a data set, by name or by voxels, and which case each is.

    Files are read only where names do not tell and shapes agree.
    """
    shapes = {name: volumes.read_grid(path).shape for name, path in scans.items() if name not in cases}
    known = index_cases_by_voxels(dataset, cases, {*shapes.values()})
    found = {}
    for name, path in scans.items():
        if name in cases:
            found[name] = name
        elif (alike := known.get(shapes[name])) and (
            case := alike.get(volumes.hash_voxels(volumes.read_volume(path)[0]))
        ):
            found[name] = case
    return found


def describe_matches(known: Mapping[str, str]) -> str:
    """What `match_cases` found, in words: the first scans, with the case's name beside that of a scan which goes by another."""
    return abbreviate_list([name if name == case else f"{name}, which is {case}" for name, case in known.items()])


def _foreign_channels(path: Path, channel_names: Sequence[str]) -> list[Fault]:
    """The fault of hosts that are a dataset of other channels: a CT taken for a PET would be painted on silently."""
    names = _declared(path, "channel_names")
    if names is None or [str(n).lower() for n in names.values()] == [n.lower() for n in channel_names]:
        return []
    remedy = "take hosts with the channels of the training set, in its order"
    return [Fault(f"{path}: channel_names", ", ".join(map(str, names.values())), ", ".join(channel_names), remedy)]


def _declared(path: Path, key: str) -> dict[str, Any] | None:
    """What the dataset.json of a folder of hosts says, if there is one and it says that by name."""
    content = json_records.read_plain(path, "correct or remove it") if path.is_file() else None
    found = content.get(key) if isinstance(content, dict) else None
    return found if isinstance(found, dict) else None
