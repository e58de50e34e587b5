"""DICOM series as scanners write them, one file a slice."""

from __future__ import annotations

import secrets
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tumorgen_cli.geometry import Grid

_IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"
_CLASSES = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4", "PT": "1.2.840.10008.5.1.4.1.1.128"}


def new_uid() -> str:
    return f"1.2.826.0.1.3680043.8.498.{secrets.randbelow(10**12)}"


def write_slice(path: Path, stored: np.ndarray, tags: Mapping[str, str | bytes | None]) -> None:
    """Write one slice (X, Y) of int16, or several frames (X, Y, N), as they are stored.

    Args:
        path: The file.
        stored: The voxels.
        tags: Values of tags, as "0020|0032"; None leaves a tag out; bytes are written as they are, as of `sequence`.
    """
    columns, rows = stored.shape[:2]
    kind, own = _CLASSES.get(str(tags.get("0008|0060") or "CT"), _CLASSES["CT"]), new_uid()
    texts: dict[str, str | bytes | None] = {
        "0008|0016": kind,
        "0008|0018": own,
        "0008|0060": "CT",
        "0020|000d": new_uid(),
        "0020|000e": new_uid(),
    }
    if tags.get("0008|0060") == "PT":
        texts["0054|1001"] = "GML"  # as it is, in SUV
    texts |= {"0028|0004": "MONOCHROME2", "0028|1052": "0", "0028|1053": "1", **tags}
    elements = {tag: _padded(text) for tag, text in texts.items() if text is not None}
    for tag, number in {
        "0002": 1,
        "0010": rows,
        "0011": columns,
        "0100": 16,
        "0101": 16,
        "0102": 15,
        "0103": 1,
    }.items():
        elements[f"0028|{tag}"] = struct.pack("<H", number)
    elements["7fe0|0010"] = stored.T.astype("<i2").tobytes()
    meta = b"".join(
        _tag(f"0002|{tag}") + b"UI" + struct.pack("<H", len(_padded(text))) + _padded(text)
        for tag, text in (("0002", kind), ("0003", own), ("0010", _IMPLICIT_LITTLE_ENDIAN))
    )
    length = _tag("0002|0000") + b"UL" + struct.pack("<HI", 4, len(meta))
    body = _elements(elements)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(128) + b"DICM" + length + meta + body)


def write_series(
    folder: Path,
    values: np.ndarray,
    grid: Grid,
    rescale: Sequence[tuple[float, float]] = ((1.0, 0.0),),
    order: Sequence[int] | None = None,
    **tags: str | bytes | None,
) -> list[Path]:
    """Write the values (X, Y, Z) of a scan as slices.

    Args:
        folder: Where to.
        values: The values.
        grid: Their geometry.
        rescale: Slope and intercept of each slice, or of all.
        order: The slices in the order of their file names; they may lack some. By default all, the last one first.
        tags: Further tags, as `x0008_0060="MR"`.
    """
    direction, series = np.array(grid.direction).reshape(3, 3), new_uid()
    written = []
    for number, index in enumerate(range(grid.shape[2] - 1, -1, -1) if order is None else order):
        slope, intercept = rescale[index % len(rescale)]
        position = np.array(grid.origin_mm) + direction[:, 2] * index * grid.spacing_mm[2]
        own = {
            "0020|000e": series,
            "0020|0032": "\\".join(f"{mm:.6f}" for mm in position),
            "0020|0037": "\\".join(f"{cosine:.9f}" for cosine in (*direction[:, 0], *direction[:, 1])),
            "0028|0030": f"{grid.spacing_mm[1]:.6f}\\{grid.spacing_mm[0]:.6f}",
            "0028|1052": f"{intercept:.8g}",
            "0028|1053": f"{slope:.8g}",
        }
        own |= {tag[1:].replace("_", "|"): value for tag, value in tags.items()}
        written.append(folder / f"IM{number:04d}")
        write_slice(written[-1], np.rint((values[:, :, index] - intercept) / slope), own)
    return written


def sequence(*items: Mapping[str, str | None]) -> bytes:
    """The value of a sequence of these items, to be written as a tag; None leaves a tag out."""
    return b"".join(
        _elements({"fffe|e000": _elements({tag: _padded(text) for tag, text in item.items() if text is not None})})
        for item in items
    )


def _elements(values: Mapping[str, bytes]) -> bytes:
    return b"".join(_tag(tag) + struct.pack("<I", len(value)) + value for tag, value in sorted(values.items()))


def _tag(name: str) -> bytes:
    return struct.pack("<HH", *(int(part, 16) for part in name.split("|")))


def _padded(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else (text + " " * (len(text) % 2)).encode("latin-1")
