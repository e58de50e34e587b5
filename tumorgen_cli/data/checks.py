"""Checks of dataset.json, file names, files and voxels. They return faults; `dataset` and `integrity` collect them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tumorgen_cli.data import volumes
from tumorgen_cli.data.entries import entry_faults
from tumorgen_cli.data.labels import Labels, all_values, describe_labels, labels_faults
from tumorgen_cli.geometry import Grid
from tumorgen_cli.system.errors import Fault, gather_faults, say_count

Scans = dict[str, dict[int, Path]]  # case -> channel -> file
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")  # what SimpleITK reads as 3D, with geometry, from one file
_OTHER_ENDINGS = (".mhd", ".tif", ".tiff", ".png", ".dcm", ".npy", ".npz", ".hdr", ".img", ".mgz")
_SCAN = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
#: remedy for a file of another geometry than the image of its case
RESAMPLE = "resample it onto the image (labels by nearest neighbor)"
#: remedy for a dataset.json that cannot be used
NNUNET_FORMAT = "write it in the format of nnU-Net v2 (its documentation/dataset_format.md)"
#: the reader that dataset.json prescribes to nnU-Net
READER = "overwrite_image_reader_writer"
_FLAT_ENDINGS = (".png", ".bmp", ".jpg", ".jpeg")
_JSON_KEYS = ("channel_names", "labels", "numTraining", "file_ending")
_DIRECTION_TOLERANCE = 1e-3


def json_faults(where: Path, content: Any) -> list[Fault]:
    """Find everything in a parsed dataset.json that nnU-Net v2 or tumorgen cannot use."""
    if not isinstance(content, dict):
        return [Fault(str(where), f"a {type(content).__name__}", "a JSON object", NNUNET_FORMAT)]
    faults = entry_faults(where, content)
    for key in _JSON_KEYS:
        if key not in content:
            old = key == "channel_names" and "modality" in content
            found = "missing (nnU-Net v1 called it modality)" if old else "missing"
            remedy = 'rename "modality" to "channel_names"' if old else f'add "{key}" in the format of nnU-Net v2'
            faults.append(Fault(f"{where}: {key}", found, "a value", remedy))
    if "channel_names" in content:
        faults += _channel_names_faults(f"{where}: channel_names", content["channel_names"])
    if "labels" in content:
        faults += labels_faults(where, content)
    ending = content.get("file_ending", ENDINGS[0])
    if ending in _FLAT_ENDINGS:
        faults.append(Fault(f"{where}: file_ending", f"{ending!r}, 2D images", "3D scans", volumes.STACK))
    elif ending not in ENDINGS:
        dotted = f".{ending}" in ENDINGS
        remedy = f'write ".{ending}"' if dotted else "convert the files to .nii.gz, images and labels alike"
        faults.append(Fault(f"{where}: file_ending", repr(ending), f"one of {', '.join(ENDINGS)}", remedy))
    faults += _reader_faults(f"{where}: {READER}", content.get(READER), ending)
    count = content.get("numTraining", 0)
    if not isinstance(count, int) or isinstance(count, bool):
        faults.append(
            Fault(f"{where}: numTraining", repr(count), "the number of cases in imagesTr", "write a whole number")
        )
    return faults


def _reader_faults(where: str, reader: Any, ending: Any) -> list[Fault]:
    """Find a reader that dataset.json prescribes to nnU-Net and that reads other voxels than tumorgen does."""
    if reader in (None, "None", volumes.READERS[0]):
        return []
    expected = f"one of {', '.join(volumes.SAME_VOXELS)}, or no reader"
    if reader not in volumes.SAME_VOXELS:
        flat = ", which reads 2D images" if reader == "NaturalImage2DIO" else ""
        remedy = f'remove "{READER}" if nnU-Net reads the files without it; otherwise convert them to .nii.gz'
        return [Fault(where, f"{reader!r}{flat}"[:200], expected, remedy)]
    if ending in (".nii.gz", ".nii"):
        return []
    remedy = f'remove "{READER}", so that nnU-Net reads {ending} through SimpleITK'
    return [Fault(where, f"{reader}, which does not read {ending}", f"a reader of {ending}", remedy)]


def _channel_names_faults(where: str, names: Any) -> list[Fault]:
    if isinstance(names, dict) and names and sorted(names) == sorted(map(str, range(len(names)))):
        return []
    expected = 'an object {"0": "PET", "1": "CT", ...}, numbered from 0 without gaps'
    return [Fault(where, repr(names)[:200], expected, "number the channels as the files are: _0000 is channel 0")]


def list_scans(folder: Path, endings: Sequence[str]) -> tuple[Scans, list[Fault]]:
    """List the scans of a folder by case and channel, with a fault for each image that fits no case."""
    paths, faults = list_images(folder, endings)
    scans, more = sort_scans(paths)
    return scans, faults + more


def sort_scans(paths: Iterable[tuple[Path, str]]) -> tuple[Scans, list[Fault]]:
    """Sort images by case and channel, which their names without the ending tell; a fault for each that fits none."""
    scans: Scans = {}
    faults: list[Fault] = []
    for path, stem in paths:
        match = _SCAN.fullmatch(stem)
        if match is None:
            ending = "" if path.is_dir() else path.name[len(stem) :]
            remedy = f"rename it to {path.name.removesuffix(ending)}_0000{ending} if it is channel 0"
            faults.append(Fault(str(path), "no channel number", f"<case>_<four digits>{ending}", remedy))
            continue
        channels, channel = scans.setdefault(match["case"], {}), int(match["channel"])
        if channel in channels:
            found = f"the same channel as {channels[channel].name}"
            faults.append(Fault(str(path), found, "one file per channel", "remove one of them"))
        channels.setdefault(channel, path)
    return scans, faults


def list_images(
    folder: Path, endings: Sequence[str], ignored: Sequence[str] = ()
) -> tuple[list[tuple[Path, str]], list[Fault]]:
    """List the images of a folder with their names without the ending.

    Args:
        folder: The folder; it may be missing.
        endings: Endings of the images that are wanted.
        ignored: Endings of other image formats that are no fault.

    Returns:
        The images; and a fault for each other image format, each image that is no file (a link to nothing, a folder, a
        pipe), and each name that is not UTF-8. An image that is no file is in both lists.
    """
    images: list[tuple[Path, str]] = []
    others: dict[str, list[str]] = {}
    faults: list[Fault] = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        ending = next((e for e in (*ENDINGS, *_OTHER_ENDINGS) if path.name.lower().endswith(e)), None)
        if ending is None or ending in ignored or path.name.startswith("."):
            continue  # notes, tables, hidden files
        if (name_fault := _name_fault(path)) is not None:
            faults.append(name_fault)
        elif ending in endings and path.name.endswith(ending):
            images.append((path, path.name[: -len(ending)]))
            fault = volumes.file_fault(path)
            faults += [] if fault is None else [fault]
        else:
            others.setdefault(path.name[-len(ending) :], []).append(path.name)
    expected = " or ".join(endings)
    remedy = "convert them, move them away, or name their ending as file_ending in dataset.json"
    found = {ending: f"{say_count(len(names), 'file')}, the first {names[0]}" for ending, names in others.items()}
    faults += [Fault(str(folder / f"*{ending}"), text, expected, remedy) for ending, text in found.items()]
    return images, faults


def _name_fault(path: Path) -> Fault | None:
    """Find a name that is not UTF-8, which neither JSON nor tables can hold."""
    try:
        path.name.encode()
    except UnicodeEncodeError:
        where = str(path).encode("utf-8", "backslashreplace").decode()
        remedy = f"rename it (for example `convmv -f latin1 -t utf8 --notest {path.parent}/*`)"
        return Fault(where, f"the name {os.fsencode(path.name)!r}, which is not UTF-8", "a name in UTF-8", remedy)
    return None


def channel_faults(scans: Scans, folder: Path, channel_names: Sequence[str], ending: str) -> list[Fault]:
    """Find the channels that cases lack or have too many."""
    faults = []
    known = ", ".join(f"{channel:04d} = {name}" for channel, name in enumerate(channel_names))
    for case, channels in sorted(scans.items()):
        for channel, name in enumerate(channel_names):
            if channel not in channels:
                remedy = f"add the file, or move the other files of {case} away"
                path = folder / f"{case}_{channel:04d}{ending}"
                faults.append(Fault(str(path), "no such file", f"channel {channel} ({name}) of {case}", remedy))
        for channel in sorted(channels.keys() - range(len(channel_names))):
            remedy = "remove the file, or name its channel in channel_names of dataset.json"
            faults.append(Fault(str(channels[channel]), f"channel {channel}", f"channels {known}", remedy))
    return faults


def read_whole(path: Path, faults: list[Fault]) -> tuple[np.ndarray, Grid] | None:
    """Read voxels and geometry of a file and add its faults to `faults`; None if it cannot be read."""
    return gather_faults(faults, lambda: volumes.read_volume(path))


def read_header(path: Path, faults: list[Fault]) -> Grid | None:
    """Read the geometry of a file and add its faults to `faults`; None if there are faults."""
    return gather_faults(faults, lambda: volumes.read_grid(path))


def intensity_faults(path: Path, array: np.ndarray) -> list[Fault]:
    """Find NaN or infinite voxels, or an image with the same value everywhere."""
    faults, lowest, highest = _finite_faults(path, array), array.min(), array.max()
    if faults or lowest != highest:
        return faults
    remedy = "export the scan again, or remove the case"
    return [Fault(str(path), f"every voxel is {lowest:g}", "an image with contrast", remedy)]


def _finite_faults(path: Path, array: np.ndarray) -> list[Fault]:
    bad = array.size - int(np.count_nonzero(np.isfinite(array)))
    remedy = "replace them with a value that makes sense there (air, no uptake, background)"
    found = f"{bad} of {array.size} voxels are NaN or infinite"
    return [Fault(str(path), found, "finite voxels", remedy)] if bad else []


def label_faults(path: Path, array: np.ndarray, labels: Labels) -> list[Fault]:
    """Find voxel values that are not in dataset.json, are not finite or are no whole numbers."""
    if faults := _finite_faults(path, array):
        return faults
    known = describe_labels(labels)
    strange = array[~np.isin(array, all_values(labels))]
    if not strange.size:
        return []
    if (broken := fractions(strange)).size:
        found = f"{broken.size} voxels that are no whole numbers ({_values(broken)})"
        remedy = "resample labels by nearest neighbor and save them as integers"
        return [Fault(str(path), found, known, remedy)]
    found = f"{say_count(strange.size, 'voxel')} of value {_values(strange)}"
    return [Fault(str(path), found, known, 'add the values to "labels" in dataset.json, or correct the label file')]


def fractions(values: np.ndarray) -> np.ndarray:
    """The values that are no whole numbers (one-dimensional): a mask that was interpolated, or probabilities."""
    return values[values != np.rint(values)] if values.dtype.kind in "fc" else values[:0].ravel()


def geometry_faults(grids: Mapping[Path, Grid]) -> list[Fault]:
    """Find the files of a case whose geometry differs from that of the first file."""
    if not grids:
        return []
    first, reference = next(iter(grids.items()))
    faults = []
    for path, grid in grids.items():
        if not volumes.same_geometry(reference, grid):
            remedy = RESAMPLE
            if grid.shape == reference.shape:
                remedy += "; where voxels do correspond and only the header is wrong, copy the image's header"
            found, expected = (_describe(g, reference, grid) for g in (grid, reference))
            faults.append(Fault(str(path), found, f"as {first.name}: {expected}", remedy))
    return faults


def _describe(grid: Grid, a: Grid, b: Grid) -> str:
    turned = not np.allclose(a.direction, b.direction, atol=_DIRECTION_TOLERANCE)
    direction = f", direction {tuple(round(d, 3) + 0.0 for d in grid.direction)}" if turned else ""
    return volumes.describe_grid(grid) + direction


def _values(array: np.ndarray) -> str:
    unique = np.unique(array)
    return ", ".join(f"{v:g}" for v in unique[:6]) + (f", ... {unique.size} values" if unique.size > 6 else "")
