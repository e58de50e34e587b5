"""A bounded folder of painted patches: one process puts entries in, the oldest giving way; any number draw from it meanwhile.

An entry is a folder named by its number: image.npy, labels.npy, locations.npz. It comes and goes by renaming, so that it is
seen whole or not at all.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Locations = Mapping[int | tuple[int, ...], np.ndarray]
_TRIES = 100  # entries that vanish between being listed and being opened; more say that something else is wrong


@dataclass(frozen=True)
class PaintedPatch:
    """A painted patch, by its number, as nnU-Net's loader takes a case: image (C, X, Y, Z) and labels (1, X, Y, Z) on nnU-Net's grid, in its
    order of axes, and voxels (n, 4) of each label, by which it looks for foreground, and with an ignore label of all that is annotated, under
    the tuple of its labels."""

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
        """The entries, the oldest first; none where there is no folder yet."""
        return sorted(path for path in self.folder.glob("[0-9]*") if path.name.isdecimal())

    def put(self, entry: PaintedPatch) -> None:
        """Adds an entry; the oldest make room for it first."""
        made = self.folder / f"{entry.number:08d}"
        begun = self.folder / f".begun_{made.name}"
        shutil.rmtree(begun, ignore_errors=True)
        begun.mkdir(parents=True)
        np.save(begun / "image.npy", entry.image)
        np.save(begun / "labels.npy", entry.labels)
        np.savez(begun / "locations.npz", **{_name_of(key): voxels for key, voxels in entry.locations.items()})
        if made.is_dir():  # of a process that was killed before it could say so
            self._remove(made)
        self.shrink(self.size - 1)
        begun.rename(made)

    def shrink(self, size: int) -> None:
        """Removes the oldest entries beyond `size`."""
        for path in self.entries()[: -size or None]:
            self._remove(path)

    def clean(self) -> None:
        """Removes what a kill left half done; for the process that puts entries in, before it begins."""
        for path in (*self.folder.glob(".gone_*"), *self.folder.glob(".begun_*")):
            shutil.rmtree(path, ignore_errors=True)
        self.shrink(self.size)

    def draw(self, random: Callable[[], float]) -> PaintedPatch | None:
        """Any entry, chosen by a number in [0, 1), its arrays mapped, not read; None where there is none."""
        for _ in range(_TRIES):
            paths = self.entries()
            if not paths:
                return None
            try:
                return _open(paths[int(random() * len(paths))])
            except FileNotFoundError:  # it has just made room for another
                continue
        raise FileNotFoundError(f"{self.folder}: no entry can be opened")

    def _remove(self, path: Path) -> None:
        gone = path.with_name(f".gone_{path.name}")
        shutil.rmtree(gone, ignore_errors=True)
        path.rename(gone)
        # a network disk keeps a file that a loader has mapped, and so its folder: it goes with a later entry
        for each in self.folder.glob(".gone_*"):
            shutil.rmtree(each, ignore_errors=True)


def _open(path: Path) -> PaintedPatch:
    # copy on write: whoever changes an array in place changes no file
    image, labels = (np.load(path / f"{name}.npy", mmap_mode="c") for name in ("image", "labels"))
    with np.load(path / "locations.npz") as found:
        return PaintedPatch(int(path.name), image, labels, {_key_of(name): found[name] for name in found.files})


def _name_of(key: int | tuple[int, ...]) -> str:
    """A label as `3`, the tuple of what is annotated (nnU-Net's key where there is an ignore label) as `-1_0_1_`."""
    return "".join(f"{value}_" for value in key) if isinstance(key, tuple) else str(key)


def _key_of(name: str) -> int | tuple[int, ...]:
    return tuple(int(value) for value in name.split("_")[:-1]) if "_" in name else int(name)
