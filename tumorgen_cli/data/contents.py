"""The content of the files of a data set, by hashes; a file that looks unchanged is not read again.

The rule: a file with the size and the time of modification (to the nanosecond) that it had when it was hashed has the
content that it had. Any other file is hashed again, so a data set that was copied or moved is still known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tumorgen_cli.data.dataset import Dataset
from tumorgen_cli.system import console
from tumorgen_cli.system.files import file_version, hash_file
from tumorgen_cli.system.json_records import hash_value


@dataclass(frozen=True)
class FileContent:
    """A file as it was when it was hashed: bytes, time of modification in ns, and hash."""

    size: int
    modified_ns: int
    hash: str


Contents = dict[str, FileContent]  # by path: in the data set, or absolute


def hash_case(dataset: Dataset, case: str) -> Contents:
    """Hash the files of a case that are there."""
    return {name: _hash(path) for name, path in case_files(dataset, case).items() if path.is_file()}


def hash_contents(dataset: Dataset, known: Mapping[str, FileContent]) -> Contents:
    """Hash the files of a data set that are there.

    Args:
        dataset: The data set.
        known: Their content before; files of the same size and time are not read.
    """
    paths = {name: path for case in dataset.cases for name, path in case_files(dataset, case).items()}
    paths = {name: path for name, path in paths.items() if path.is_file()}
    found = {name: known[name] for name, path in paths.items() if name in known and _looks_alike(path, known[name])}
    new = sorted(paths.keys() - found.keys())
    with console.progress("comparing files that look changed", len(new), quiet=not new) as tick:
        for number, name in enumerate(new, 1):
            found[name] = _hash(paths[name])
            tick(number, name)
    return {name: found[name] for name in paths}


def hash_paths(paths: Iterable[Path], known: Mapping[str, FileContent]) -> Contents:
    """Hash files, by their absolute paths; those of the size and time in `known` are not read."""
    found = {}
    for path in paths:
        name = str(path.resolve())
        found[name] = known[name] if name in known and _looks_alike(path, known[name]) else _hash(path)
    return found


def case_files(dataset: Dataset, case: str) -> dict[str, Path]:
    """The files of a case by their names in imagesTr and labelsTr, wherever dataset.json says that they lie."""
    ending = dataset.file_ending
    found = {f"imagesTr/{case}_{n:04d}{ending}": path for n, path in enumerate(dataset.image_files(case))}
    return {**found, f"labelsTr/{case}{ending}": dataset.label_file(case)}


def _looks_alike(path: Path, known: FileContent) -> bool:
    version = file_version(path)
    return version is not None and version[1:] == (known.size, known.modified_ns)


def _hash(path: Path) -> FileContent:
    _, size, modified_ns = file_version(path) or (0, 0, 0)  # a file that changes meanwhile looks changed the next time
    return FileContent(size, modified_ns, hash_file(path))


def describe_files(dataset: Dataset) -> str:
    """A hash of the names and sizes of all files and the content of the labels; images are not read."""
    images = [path for case in dataset.cases for path in dataset.image_files(case) if path.is_file()]
    labels = [path for case in dataset.cases if (path := dataset.label_file(case)).is_file()]
    sizes = [(path.name, path.stat().st_size) for path in images]
    hashes = [(path.name, hash_file(path)) for path in labels]
    return hash_value([dataset.channel_names, dataset.labels, dataset.cases, sizes, hashes])


def changed_files(before: Mapping[str, FileContent], now: Mapping[str, FileContent]) -> list[str]:
    """The names of the files that are new, lost or have another content."""
    names = sorted({*before, *now})
    return [name for name in names if name not in before or name not in now or before[name].hash != now[name].hash]


def same_content(before: Contents, now: Contents) -> bool:
    """Whether files have the content of others, in the same order, whatever their paths."""
    return [each.hash for each in before.values()] == [each.hash for each in now.values()]
