"""Find nnU-Net v2 raw data sets by path, id or name, and read what their dataset.json and file names say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tumorgen_cli.data.checks import NNUNET_FORMAT, json_faults, list_scans
from tumorgen_cli.data.entries import Entry, read_entries
from tumorgen_cli.data.labels import CLASS_ORDER, Values, choose_any, choose_tumor, parse_labels
from tumorgen_cli.system import json_records
from tumorgen_cli.system.errors import DataError, Fault, StateError


@dataclass(frozen=True)
class Dataset:
    """A raw data set: what dataset.json says, the cases that have an image, and which label is the tumor.

    `tumor_label` is the voxel value of the tumor, or several values. `entries` are the files of the cases if
    dataset.json lists them; else their names in imagesTr and labelsTr tell. `class_order` is `regions_class_order`.
    """

    path: Path
    name: str
    channel_names: tuple[str, ...]
    labels: dict[str, Values]
    file_ending: str
    cases: tuple[str, ...]
    tumor_name: str
    tumor_label: Values
    entries: Mapping[str, Entry] | None = None
    class_order: tuple[int, ...] = ()

    def image_files(self, case: str) -> tuple[Path, ...]:
        """The image files of a case, one per channel; they may not exist."""
        if self.entries is not None:
            return self.entries[case].images
        names = (f"{case}_{channel:04d}{self.file_ending}" for channel in range(len(self.channel_names)))
        return tuple(self.path / "imagesTr" / name for name in names)

    def label_file(self, case: str) -> Path:
        """The label file of a case; it may not exist."""
        if self.entries is not None:
            return self.entries[case].label
        return self.path / "labelsTr" / f"{case}{self.file_ending}"


def find_dataset(name: str) -> Path:
    """Find the folder of a data set by its path, or by its id ("501") or name ("Dataset501_X") under $nnUNet_raw.

    Raises:
        DataError: there is no such data set, or several folders have this id; the message lists the candidates.
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


def read_dataset(path: Path, tumor_label: str | None = None, any_tumor: bool = False) -> Dataset:
    """Read the data set in a folder. Its files are listed but not opened; `integrity.check_case` opens them.

    Args:
        path: The folder of the data set.
        tumor_label: Names or values of the labels that are the tumor; see `labels.choose_tumor`.
        any_tumor: Take any label for the tumor's.

    Raises:
        DataError: dataset.json has faults (all are listed), or it is unclear which label is the tumor.
    """
    where = path / "dataset.json"
    try:
        content = json_records.read_plain(where, NNUNET_FORMAT)
    except StateError as error:
        raise DataError(f"{path.name} is not an nnU-Net raw dataset", error.faults) from error
    faults = json_faults(where, content)
    if faults:
        raise DataError(f"{path.name} has a faulty dataset.json", faults)
    labels, names, ending = parse_labels(content["labels"]), content["channel_names"], content["file_ending"]
    tumor, values = choose_any(labels) if any_tumor else choose_tumor(where, labels, tumor_label)
    entries = read_entries(path, content)
    cases = list_scans(path / "imagesTr", (ending,))[0] if entries is None else entries
    channels = tuple(str(names[str(channel)]) for channel in range(len(names)))
    order = tuple(content.get(CLASS_ORDER) or ()) if any(isinstance(each, tuple) for each in labels.values()) else ()
    return Dataset(path, path.name, channels, labels, ending, tuple(sorted(cases)), tumor, values, entries, order)
