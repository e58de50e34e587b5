"""A bounded folder of painted patches: one process adds entries and removes the oldest; any number of processes read.

An entry is a folder named by its number: image.npy, labels.npy, locations.npz, and the same of a patch from elsewhere
in the painted scan. It appears and disappears by renaming, so readers see a whole entry or none.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tumorgen_cli.system.files import write_stream

Locations = Mapping[int | tuple[int, ...], np.ndarray]
_ELSEWHERE = "elsewhere_"  # begins the names of the files of a patch from elsewhere
_MAX_TRIES = 100  # entries may vanish between listing and opening; if so many do, something else is wrong


@dataclass(frozen=True)
class PaintedPatch:
    """A painted patch in the form in which nnU-Net's loader takes a case, on nnU-Net's grid and in its order of axes.

    Attributes:
        number: number of the pair.
        image: (C, X, Y, Z) float32.
        labels: (1, X, Y, Z).
        locations: voxels (n, 4) of each label, by which the loader looks for foreground. If there is an ignore label,
            also the voxels of all annotated labels, with the tuple of these labels as key.
    """

    number: int
    image: np.ndarray
    labels: np.ndarray
    locations: Locations


@dataclass(frozen=True)
class Pool:
    """At most `size` entries in `folder`."""

    folder: Path
    size: int

    def entries(self) -> list[Path]:
        """Return the entries, oldest first; an empty list if there is no folder yet."""
        return sorted(path for path in self.folder.glob("[0-9]*") if path.name.isdecimal())

    def put(self, entry: PaintedPatch, elsewhere: PaintedPatch) -> None:
        """Add an entry; the oldest entries are removed first if the pool is full.

        Args:
            entry: the patch around a tumor.
            elsewhere: a patch from elsewhere in the same scan.
        """
        target = self.folder / f"{entry.number:08d}"
        temporary = self.folder / f".begun_{target.name}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for prefix, patch in (("", entry), (_ELSEWHERE, elsewhere)):
            _write(temporary, prefix, patch)
        if target.is_dir():  # left by a process that was killed before it recorded the pair
            self._remove(target)
        self.shrink(self.size - 1)
        temporary.rename(target)

    def shrink(self, size: int) -> None:
        """Remove the oldest entries until `size` are left."""
        for path in self.entries()[: -size or None]:
            self._remove(path)

    def clean(self) -> None:
        """Remove what a kill left unfinished. Only the process that adds entries may call this, before it starts."""
        for path in (*self.folder.glob(".gone_*"), *self.folder.glob(".begun_*")):
            shutil.rmtree(path, ignore_errors=True)
        self.shrink(self.size)

    def draw(self, random: Callable[[], float], elsewhere: bool = False) -> PaintedPatch | None:
        """Draw an entry; its arrays are memory-mapped, not read.

        Args:
            random: returns a number in [0, 1).
            elsewhere: draw the patch from elsewhere in the scan, not the one around a tumor.

        Returns:
            The patch; None if the pool is empty.

        Raises:
            FileNotFoundError: no entry can be opened.
        """
        for _ in range(_MAX_TRIES):
            paths = self.entries()
            if not paths:
                return None
            try:
                return _open(paths[int(random() * len(paths))], _ELSEWHERE if elsewhere else "")
            except FileNotFoundError:  # it has just been removed
                continue
        raise FileNotFoundError(f"{self.folder}: no entry can be opened")

    def _remove(self, path: Path) -> None:
        removed = path.with_name(f".gone_{path.name}")
        shutil.rmtree(removed, ignore_errors=True)
        path.rename(removed)
        # a network disk keeps a file that a loader has mapped, and with it the folder: it is removed with a later entry
        for each in self.folder.glob(".gone_*"):
            shutil.rmtree(each, ignore_errors=True)


def _write(folder: Path, prefix: str, patch: PaintedPatch) -> None:
    locations: dict[str, Any] = {_key_to_name(key): voxels for key, voxels in patch.locations.items()}
    write_stream(folder / f"{prefix}image.npy", lambda stream: np.save(stream, patch.image))
    write_stream(folder / f"{prefix}labels.npy", lambda stream: np.save(stream, patch.labels))
    write_stream(folder / f"{prefix}locations.npz", lambda stream: np.savez(stream, **locations))


def _open(path: Path, prefix: str) -> PaintedPatch:
    # copy on write: a change of an array in place does not change the file
    image, labels = (np.load(path / f"{prefix}{name}.npy", mmap_mode="c") for name in ("image", "labels"))
    with np.load(path / f"{prefix}locations.npz") as found:
        return PaintedPatch(int(path.name), image, labels, {_name_to_key(name): found[name] for name in found.files})


def _key_to_name(key: int | tuple[int, ...]) -> str:
    """Return the array name of a key: `3` for a label, `-1_0_1_` for a tuple of labels."""
    return "".join(f"{value}_" for value in key) if isinstance(key, tuple) else str(key)


def _name_to_key(name: str) -> int | tuple[int, ...]:
    return tuple(int(value) for value in name.split("_")[:-1]) if "_" in name else int(name)
