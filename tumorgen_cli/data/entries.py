"""The cases of a dataset.json that lists its files: `"dataset": {case: {"images": [...], "label": ...}}`.

nnU-Net v2 reads such lists in place of imagesTr/ and labelsTr/. Paths may hold variables of the environment, and are
relative to the folder of dataset.json.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tumorgen_cli.system.errors import DataError, Fault
from tumorgen_cli.system.json_records import read_plain
from tumorgen_cli.system.names import name_faults

KEY = "dataset"
_FORM = 'an object {"CASE": {"images": ["FILE of channel 0", ...], "label": "FILE"}, ...}'
_REMEDY = (
    'list the files of each case as nnU-Net v2 does, or remove "dataset" and put the files into imagesTr/ and labelsTr/'
)


@dataclass(frozen=True)
class Entry:
    """The files of a case: one image per channel, and the label."""

    images: tuple[Path, ...]
    label: Path


def entry_faults(where: Path, content: Mapping[str, Any]) -> list[Fault]:
    """Find what is wrong with the list of files in a parsed dataset.json; files are not looked for."""
    listed = content.get(KEY)
    if listed is None and KEY not in content:
        return []
    if not isinstance(listed, dict) or not listed:
        return [Fault(f"{where}: {KEY}", repr(listed)[:200], _FORM, _REMEDY)]
    faults = name_faults(f"{where}: {KEY}", listed, "rename the case in dataset.json")
    names = content.get("channel_names")
    count, ending = len(names) if isinstance(names, dict) else None, content.get("file_ending")
    for case, entry in listed.items():
        at = f"{where}: {KEY}.{case}"
        if not _is_entry(entry):
            faults.append(Fault(at, repr(entry)[:200], _FORM, _REMEDY))
            continue
        if count is not None and len(entry["images"]) != count:
            faults.append(Fault(at, f"{len(entry['images'])} images", f"{count}, one per channel", _REMEDY))
        odd = [name for name in (*entry["images"], entry["label"]) if not name.endswith(str(ending))]
        if odd and ending is not None:
            remedy = "convert it: nnU-Net reads one format per data set"
            faults.append(Fault(at, odd[0], f"a name that ends in {ending}, as file_ending says", remedy))
    return faults


def _is_entry(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("images"), list):
        return False
    return all(isinstance(name, str) and name for name in (*value["images"], value.get("label")))


def read_entries(folder: Path, content: Mapping[str, Any]) -> dict[str, Entry] | None:
    """Read the list of files of a dataset.json without faults; None if it has none."""
    if KEY not in content:
        return None
    return {
        case: Entry(tuple(_path(folder, name) for name in entry["images"]), _path(folder, entry["label"]))
        for case, entry in sorted(content[KEY].items())
    }


def read_listed_files(folder: Path) -> dict[str, Entry] | None:
    """Read the files that the dataset.json of a folder lists; None if it lists none, or is not there.

    Raises:
        DataError: the list is faulty.
    """
    path = folder / "dataset.json"
    content = read_plain(path, _REMEDY) if path.is_file() else None
    if not isinstance(content, dict):
        return None
    if faults := entry_faults(path, content):
        raise DataError("A list of files cannot be used", faults)
    return read_entries(folder, content)


def _path(folder: Path, name: str) -> Path:
    return Path(os.path.abspath(folder / os.path.expandvars(name)))  # noqa: PTH100  (`resolve` would follow links)


def lost_file_faults(files: Mapping[str, Sequence[Path]]) -> list[Fault]:
    """Find the listed files, by case, that are not there."""
    remedy = 'put the file there, or correct its path in "dataset" of dataset.json'
    return [
        Fault(str(path), "no such file", f"a file of case {case}", remedy)
        for case, paths in files.items()
        for path in paths
        if not path.is_file()
    ]
