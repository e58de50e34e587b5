"""DICOM series: which folders hold one, and how its slices make one volume.

A folder with the files of one series counts as one scan, as a NIfTI file does. `data.volumes` reads the files; this
module looks at what their tags say. ITK's own reader of series stacks slices without a word where some are missing.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tumorgen_cli.geometry import Grid, as_triple
from tumorgen_cli.system.errors import DataError, Fault, say_count

SERIES, MODALITY, DESCRIPTION = "0020|000e", "0008|0060", "0008|103e"
ORIENTATION, POSITION, SPACING = "0020|0037", "0020|0032", "0028|0030"
SLOPE, INTERCEPT, COLORS = "0028|1053", "0028|1052", "0028|0004"
TAGS = (SERIES, MODALITY, DESCRIPTION, ORIENTATION, POSITION, SPACING, SLOPE, INTERCEPT, COLORS)
#: what has to be done with a series that is no plain stack of slices
CONVERT = "convert it to a NIfTI file (for example with dcm2niix), and give the file in place of the folder"
_EXPORT = "export the whole series again, or leave the folder out"
_EXPECTED = "parallel slices of one size, each behind the one before, at even distances"
_MARK, _MARK_AT = b"DICM", 128
_INDEX = "DICOMDIR"  # a table of contents, in the same format
_OTHER_FILES = (".nii", ".gz", ".nrrd", ".mha", ".png", ".json", ".csv", ".txt", ".xml", ".zip", ".npz")
_UNEVEN = 0.02  # of the distance of two slices: more than the rounding of positions in tags
_ROUNDING_MM = 0.01  # of positions in tags
_SKEWED_DEGREES = 0.5  # less is rounding, as in NIfTI files
_TURNED = 1e-3  # difference of direction cosines


@dataclass(frozen=True)
class Slice:
    """A file of a series: the values of `TAGS` that it has, and its size in columns, rows and frames."""

    path: Path
    tags: Mapping[str, str]
    size: tuple[int, ...]

    def numbers(self, tag: str) -> tuple[float, ...]:
        """The numbers of a tag; empty if it is missing or holds none."""
        try:
            found = tuple(float(part) for part in self.tags.get(tag, "").split("\\"))
        except ValueError:
            return ()
        return found if np.isfinite(found).all() else ()


@dataclass(frozen=True)
class Series:
    """A series as one volume: its files in the order of the z axis, its geometry, and what it is.

    Attributes:
        files: the files.
        grid: the geometry.
        modality: DICOM's word for what was measured with.
        factor: what rescaled voxels are multiplied by to be in the unit of hosts, which is SUV for PET (`data.suv`).
    """

    files: tuple[Path, ...]
    grid: Grid
    modality: str
    factor: float = 1.0


def list_slices(folder: Path) -> tuple[Path, ...]:
    """List the DICOM files of a folder, by name; what they hold decides, not their ending."""
    return tuple(path for path in sorted(folder.iterdir()) if _is_dicom(path))


def find_series(folder: Path) -> dict[Path, str]:
    """Find the folders with DICOM files in a folder, at any depth, with a name for each.

    The name is that of the outermost folder that holds no other series: of `patient1/2020-01-01/thorax/*.dcm` it is
    `patient1`, if this patient has one series. Further folders are joined to it by `-`.
    """
    found = [place for place in _walk(folder) if any(_is_dicom(path) for path in sorted(place.iterdir()))]
    parts = {place: place.relative_to(folder).parts or (folder.resolve().name,) for place in found}
    sharing = Counter(own[:depth] for own in parts.values() for depth in range(1, len(own) + 1))
    names = {}
    for place, own in parts.items():
        alone = (depth for depth in range(1, len(own)) if sharing[own[:depth]] == 1)
        names[place] = "-".join(own[: next(alone, len(own))])
    return names


def _walk(folder: Path) -> list[Path]:
    """The folder and the folders in it, at any depth, without hidden ones; each once, whatever links lead to it."""
    found: dict[Path, Path] = {}
    for name, inner, _ in os.walk(folder, followlinks=True):
        place = Path(name)
        if place.resolve() in found:
            inner.clear()
            continue
        found[place.resolve()] = place
        inner[:] = sorted(each for each in inner if not each.startswith("."))
    return list(found.values())


def _is_dicom(path: Path) -> bool:
    if path.name.startswith(".") or path.name.lower().endswith(_OTHER_FILES) or not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(_MARK_AT + len(_MARK)).endswith(_MARK) and path.name.upper() != _INDEX


def arrange(folder: Path, slices: Sequence[Slice]) -> Series:
    """Put the slices of a folder in order, and find the geometry of their volume.

    Raises:
        DataError: the folder holds several series, or one that is no plain stack of slices: frames or colors, other
            sizes or orientations, a tilted gantry, slices that are missing or there twice, no scale of a CT's values.
    """
    fault: Fault | None = None
    for find in (_series_fault, _slice_fault, _value_fault, _alike_fault):
        fault = fault or find(folder, slices)
    if fault is not None:
        raise DataError("A DICOM series cannot be used", [fault])
    first = slices[0]
    right, down, normal = _axes(first)
    positions = np.array([each.numbers(POSITION) for each in slices])
    heights = positions @ normal
    order = np.argsort(heights, kind="stable")
    fault = _stack_fault(folder, positions[order], heights[order], normal)
    if fault is not None:
        raise DataError("A DICOM series cannot be used", [fault])
    rows_mm, columns_mm = first.numbers(SPACING)
    between_mm = round(float(np.ptp(heights)) / (len(slices) - 1), 6)
    direction = np.stack([right, down, normal], axis=1)
    grid = Grid(
        (first.size[0], first.size[1], len(slices)),
        as_triple((columns_mm, rows_mm, between_mm)),
        as_triple(float(mm) for mm in positions[order[0]]),
        tuple(float(cosine) for cosine in direction.ravel()),
    )
    return Series(tuple(slices[index].path for index in order), grid, first.tags.get(MODALITY, "").strip())


def _axes(first: Slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The directions (3,) of columns, rows and slices, exactly perpendicular; those in tags are rounded."""
    right, down = np.array(first.numbers(ORIENTATION)).reshape(2, 3)
    right /= np.linalg.norm(right)
    down -= (down @ right) * right
    down /= np.linalg.norm(down)
    return right, down, np.cross(right, down)


def _series_fault(folder: Path, slices: Sequence[Slice]) -> Fault | None:
    """The fault of a folder that holds several series."""
    counts = Counter(each.tags.get(SERIES, "").strip() for each in slices)
    if len(counts) == 1:
        return None
    kinds = []
    for series, count in counts.items():
        tags = next(each.tags for each in slices if each.tags.get(SERIES, "").strip() == series)
        name = " ".join(tags.get(tag, "").strip() for tag in (MODALITY, DESCRIPTION)).strip() or "unnamed"
        kinds.append(f"{name}: {say_count(count, 'file')}")
    found = f"{len(counts)} DICOM series ({'; '.join(kinds[:5])}{'; ...' if len(kinds) > 5 else ''})"
    remedy = "move the files of each series into a folder of its own, and leave out series that are no host"
    return Fault(str(folder), found, "the files of one series", remedy)


def _slice_fault(folder: Path, slices: Sequence[Slice]) -> Fault | None:
    """The fault of a series whose files are no gray slices with a place."""
    first = slices[0]
    frames = max(each.size[2] if len(each.size) > 2 else 1 for each in slices)
    if frames > 1:
        return Fault(str(folder), f"files of {frames} frames", "one slice a file", CONVERT)
    if len(slices) < 2:
        return Fault(str(folder), "a single slice", "a 3D scan", _EXPORT)
    counts = {ORIENTATION: (6, "orientation"), POSITION: (3, "position"), SPACING: (2, "voxel edges")}
    for tag, (count, name) in counts.items():
        lost = [each.path.name for each in slices if len(each.numbers(tag)) != count]
        if lost:
            found = f"no {name} ({tag}) in {say_count(len(lost), 'file')}, as {lost[0]}"
            return Fault(str(folder), found, _EXPECTED, CONVERT)
    if min(first.numbers(SPACING)) <= 0:
        return Fault(str(folder), f"voxel edges {first.tags[SPACING].strip()} mm", "edges above 0 mm", CONVERT)
    return None


def _value_fault(folder: Path, slices: Sequence[Slice]) -> Fault | None:
    """The fault of a series whose voxels are no gray values, or a CT without a scale of its values."""
    colors = {each.tags.get(COLORS, "").strip() for each in slices} - {"MONOCHROME2", ""}
    if colors:
        return Fault(str(folder), f"colors {', '.join(sorted(colors))}", "gray values, higher is brighter", _EXPORT)
    scaled = [each for each in slices if len(each.numbers(SLOPE)) == len(each.numbers(INTERCEPT)) == 1]
    if slices[0].tags.get(MODALITY, "").strip() == "CT" and len(scaled) < len(slices):
        found = f"no rescale slope and intercept in {len(slices) - len(scaled)} of {len(slices)} files"
        return Fault(str(folder), found, "those of a CT, which make its numbers HU", _EXPORT)
    if any(each.numbers(SLOPE) == (0.0,) for each in slices):
        return Fault(str(folder), "a rescale slope of 0", "another slope", _EXPORT)
    return None


def _alike_fault(folder: Path, slices: Sequence[Slice]) -> Fault | None:
    """The fault of slices that differ in size, voxel edges or orientation."""
    first = slices[0]
    for each in slices:
        if each.size[:2] != first.size[:2]:
            found = f"slices of {'×'.join(map(str, first.size[:2]))} and {'×'.join(map(str, each.size[:2]))} voxels"
        elif not np.allclose(each.numbers(SPACING), first.numbers(SPACING), rtol=1e-3):
            found = f"voxel edges {first.tags[SPACING].strip()} and {each.tags[SPACING].strip()} mm"
        elif not np.allclose(each.numbers(ORIENTATION), first.numbers(ORIENTATION), atol=_TURNED):
            found = f"slices of several orientations ({first.path.name}, {each.path.name})"
        else:
            continue
        return Fault(str(folder), found, _EXPECTED, _EXPORT)
    right, down = np.array(first.numbers(ORIENTATION)).reshape(2, 3)
    if not np.allclose([right @ right, down @ down, right @ down], (1, 1, 0), atol=10 * _TURNED):
        return Fault(str(folder), f"axes {first.tags[ORIENTATION].strip()}", "two axes at right angles", CONVERT)
    return None


def _stack_fault(folder: Path, positions: np.ndarray, heights: np.ndarray, normal: np.ndarray) -> Fault | None:
    """The fault of slices (N, in order) that do not follow each other at even distances along their normal."""
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    least = _UNEVEN * usual + _ROUNDING_MM
    if gaps.min() < _ROUNDING_MM:
        found = f"{_slices(int((gaps < _ROUNDING_MM).sum()))} in the place of another one: several phases or times?"
        return Fault(str(folder), found, "one slice at each place", _EXPORT)
    wide = np.flatnonzero(np.abs(gaps - usual) > least)
    if wide.size:
        at = int(wide[0])
        counts = gaps[wide] / usual
        whole = bool((np.abs(counts - np.rint(counts)) * usual < 2 * least).all())
        what = f"{_slices(int((np.rint(counts) - 1).sum()))} missing" if whole else "uneven distances of slices"
        found = (
            f"{what}: {gaps[at]:.4g} mm between {heights[at]:.4g} and {heights[at + 1]:.4g} mm along the normal, "
            f"{usual:.4g} mm elsewhere"
        )
        return Fault(str(folder), found, _EXPECTED, _EXPORT if whole else CONVERT)
    aside = positions[-1] - positions[0] - (heights[-1] - heights[0]) * normal
    degrees = float(np.degrees(np.arctan2(np.linalg.norm(aside), heights[-1] - heights[0])))
    if degrees > _SKEWED_DEGREES:
        return Fault(str(folder), f"slices shifted by {degrees:.1f}° (a tilted gantry)", _EXPECTED, CONVERT)
    return None


def _slices(count: int) -> str:
    return f"{count} slice{'s' * (count > 1)}"
