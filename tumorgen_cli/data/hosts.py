"""Host scans: the healthy scans of a folder, their labels, and whether they are cases of a data set."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tumorgen_cli.data import volumes
from tumorgen_cli.data.channels import modality
from tumorgen_cli.data.checks import (
    NNUNET_FORMAT,
    Scans,
    channel_faults,
    geometry_faults,
    list_images,
    read_header,
    sort_scans,
)
from tumorgen_cli.data.dataset import Dataset
from tumorgen_cli.data.dicom import find_series
from tumorgen_cli.data.entries import lost_file_faults, read_listed_files
from tumorgen_cli.data.labels import Labels, Values, named_values, parse_labels, tumor_names, values_of
from tumorgen_cli.geometry import Shape
from tumorgen_cli.system import console, json_records
from tumorgen_cli.system.errors import DataError, Fault, abbreviate_list, say_count

_OTHER_HOSTS = "take hosts with the channels of the training set, in its order"


@dataclass(frozen=True)
class Host:
    """A scan that tumors are painted into, with one file, or folder of a DICOM series, per channel."""

    case: str
    files: tuple[Path, ...]


def find_hosts(folder: Path, channel_names: Sequence[str], file_ending: str = ".nii.gz") -> tuple[Host, ...]:
    """Find the scans of a folder (`<case>_0000.nii.gz`, ...), or of its imagesTr/ if there is one, sorted by case.

    Folders in it, at any depth, that hold a DICOM series are scans too. If the folder is a data set whose dataset.json
    lists its files, these are the scans. Headers are read, voxels are not.

    Raises:
        DataError: there are no scans, channels are missing or too many, or files are unreadable or differ in geometry.
    """
    inner = folder / "imagesTr" if (folder / "imagesTr").is_dir() else folder
    faults = _foreign_channels(folder / "dataset.json", channel_names)
    listed = read_listed_files(folder)
    series = find_series(inner) if listed is None and inner.is_dir() else {}
    if listed is None:
        scans, more = _scans_inside(inner, series, channel_names, file_ending)
    else:
        scans = {case: dict(enumerate(entry.images)) for case, entry in listed.items()}
        more = lost_file_faults({case: entry.images for case, entry in listed.items()})
    faults += more
    if not scans and not faults:
        found = "no scans" if inner.is_dir() else "no such folder"
        expected = (
            f"files <case>_0000{file_ending}, a file per channel ({', '.join(channel_names)}), or folders with a DICOM "
            "series each"
        )
        faults.append(Fault(str(inner), found, expected, "name another folder, or rename its files to that pattern"))
    faults += channel_faults(scans, inner, channel_names, file_ending)
    hosts = tuple(Host(case, tuple(scans[case][channel] for channel in sorted(scans[case]))) for case in sorted(scans))
    factors: list[float] = []
    with console.progress("reading the headers of DICOM slices", len(hosts), quiet=not series) as tick:
        for number, host in enumerate(hosts, 1):
            grids = {path: read_header(path, faults) for path in host.files if path.is_file() or path in series}
            faults += geometry_faults({path: grid for path, grid in grids.items() if grid is not None})
            for path, channel in zip(host.files, channel_names, strict=False):
                if path in series and grids[path] is not None:
                    faults += _modality_faults(path, channel)
                    factors.append(volumes.read_series(path).factor)
            tick(number, host.case)
    if faults:
        raise DataError("The host scans cannot be used", faults)
    if scaled := [factor for factor in factors if factor != 1]:
        low, high = f"{min(scaled):.3g}", f"{max(scaled):.3g}"
        text = low if low == high else f"{low} to {high}"
        console.note(f"PET of {say_count(len(scaled), 'scan')} is read as SUV by body weight: voxels times {text}")
    volumes.warn_of_skewed(host.files[0] for host in hosts)
    return hosts


def _scans_inside(
    folder: Path, series: Mapping[Path, str], channel_names: Sequence[str], file_ending: str
) -> tuple[Scans, list[Fault]]:
    """List the scans of a folder, files and the DICOM series that were found in it, with a fault for each odd name."""
    endings = tuple(dict.fromkeys((file_ending, ".nii.gz")))
    images, faults = list_images(folder, endings, (".dcm",) if series else ())
    scans, more = sort_scans([*images, *((place, _stem(name, channel_names)) for place, name in series.items())])
    return scans, faults + more


def find_host_labels(folder: Path, labels: Labels, tumor_name: str, file_ending: str = ".nii.gz") -> dict[str, Path]:
    """Find the label files of a folder of scans, in the labelsTr/ beside imagesTr/.

    Args:
        folder: The folder of a raw data set, or its imagesTr/.
        labels: Names and values of the labels that are wanted.
        tumor_name: Name of the tumor. Its values are not compared, because hosts have no tumor.
        file_ending: Ending of the label files.

    Returns:
        The files by case. It is empty if the folder's dataset.json has other names or values than `labels`.
    """
    root = folder.resolve().parent if folder.resolve().name == "imagesTr" else folder
    tumors = {name.lower() for name in (tumor_name, *tumor_names(tumor_name, labels))}
    tumor = {*values_of(named_values(labels, tumor_name) or ())}
    for name, value in parse_labels(_declared(root / "dataset.json", "labels") or {}).items():
        if name.lower() not in tumors and not _same_but_tumor(labels.get(name), value, tumor):
            return {}
    if (listed := read_listed_files(root)) is not None:
        return {case: entry.label for case, entry in listed.items() if entry.label.is_file()}
    return {path.name.removesuffix(file_ending): path for path in sorted((root / "labelsTr").glob(f"*{file_ending}"))}


def index_cases_by_voxels(
    dataset: Dataset, cases: Sequence[str], shapes: Collection[Shape]
) -> dict[Shape, dict[str, str]]:
    """Index cases of a data set by the shape and the hash (`hash_voxels`) of their first channel.

    Args:
        dataset: The data set.
        cases: The cases to index.
        shapes: Only scans of these shapes are read and indexed.

    Returns:
        For each shape, the cases by hash.
    """
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
    """Find the scans that are cases of a data set, by their names or by their voxels.

    Files are read only for scans with another name and the shape of a case.

    Args:
        scans: The file of the first channel of each scan, by the name of the scan.
        dataset: The data set.
        cases: The cases to compare with.

    Returns:
        The case that each matching scan is.
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
    """Describe the result of `match_cases`: the first scans, and the name of the case where it differs."""
    return abbreviate_list([name if name == case else f"{name}, which is {case}" for name, case in known.items()])


def _stem(name: str, channel_names: Sequence[str]) -> str:
    """The name of a series with its channel number. Where scans have one channel, folders need none."""
    return name if len(channel_names) > 1 or name.endswith("_0000") else f"{name}_0000"


def _modality_faults(folder: Path, channel: str) -> list[Fault]:
    """Find a readable DICOM series of another modality than its channel's name tells."""
    wanted, found = modality(channel), volumes.read_series(folder).modality
    if wanted.word is None or wanted.kind == "raw" or modality(found).kind == wanted.kind:
        return []
    return [Fault(str(folder), f"DICOM modality {found or 'not given'}", f"channel {channel} ({wanted})", _OTHER_HOSTS)]


def _foreign_channels(path: Path, channel_names: Sequence[str]) -> list[Fault]:
    """Find a dataset.json of the hosts that names other channels; a CT must not be painted on as if it were a PET."""
    names = _declared(path, "channel_names")
    if names is None or [str(n).lower() for n in names.values()] == [n.lower() for n in channel_names]:
        return []
    found, expected = ", ".join(map(str, names.values())), ", ".join(channel_names)
    return [Fault(f"{path}: channel_names", found, expected, _OTHER_HOSTS)]


def _same_but_tumor(one: Values | None, other: Any, tumor: set[int]) -> bool:
    """Whether two labels or regions are the same, but for values of the tumor, which a host may lack."""
    if one is None or not isinstance(other, (int, tuple)):
        return False
    return {*values_of(one)} - tumor == {*values_of(other)} - tumor


def _declared(path: Path, key: str) -> dict[str, Any] | None:
    """Read a mapping from the dataset.json of a folder of hosts; None if there is no such file or mapping."""
    content = json_records.read_plain(path, f"{NNUNET_FORMAT}, or remove it") if path.is_file() else None
    found = content.get(key) if isinstance(content, dict) else None
    return found if isinstance(found, dict) else None
