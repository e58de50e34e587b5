"""Headers of MetaImage and NRRD files: they hold their voxels themselves, whole, and name no other file.

A header may name any file of the machine as its voxels, which SimpleITK then reads; and SimpleITK does not compare the
checksums of packed voxels.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from pathlib import Path

from tumorgen_cli.data.nifti import COPY_AGAIN
from tumorgen_cli.system.errors import DataError, Fault

_MOST_HEADER = 1 << 20  # bytes in which a header must end
_MOST_BYTES_A_VOXEL = 64  # more than any type that is read


def check_single_file(path: Path) -> None:
    """Check that a MetaImage or NRRD file holds its own voxels; only the header is read.

    Raises:
        DataError: it is no such file, or names other files.
        OSError: the file cannot be opened.
    """
    fields, _ = _read_header(path)
    named = fields.get("elementdatafile") or fields.get("data file") or fields.get("datafile") or "local"
    if named.lower() != "local":
        raise _unreadable(path, f"voxels in {named!r}", "one file", "save it as one file, with its voxels inside")


def check_voxels(path: Path) -> None:
    """Check that the voxels of a MetaImage or NRRD file, if they are packed, are whole; all of them are unpacked.

    Raises:
        DataError: the file is truncated or damaged.
        OSError: the file cannot be opened.
    """
    fields, length = _read_header(path)
    packing = _packing(fields)
    if packing is None:
        return
    counts = (fields.get("dimsize") or fields.get("sizes") or "").split()
    most = math.prod(int(n) for n in counts if n.isdecimal()) * _MOST_BYTES_A_VOXEL
    try:
        fault = None if _unpacks(path, length, packing, most) else "which do not unpack to what the header announces"
    except zlib.error as error:
        fault = f"truncated or damaged ({error})"
    if fault:
        raise _unreadable(path, f"{path.stat().st_size} bytes, {fault}", "a whole volume", COPY_AGAIN)


def _read_header(path: Path) -> tuple[dict[str, str], int]:
    """Read the fields of a header, names in lower case, and its length in bytes.

    Raises:
        DataError: it has no end.
    """
    with path.open("rb") as stream:
        start = stream.read(_MOST_HEADER)
    kind, read = ("MetaImage", _read_metaimage) if path.suffix == ".mha" else ("NRRD", _read_nrrd)
    fields, length = read(start)
    if not length:
        found = f"{path.stat().st_size} bytes that are no {kind} volume"
        raise _unreadable(path, found, f"a whole {kind} volume", COPY_AGAIN)
    return fields, length


def _packing(fields: Mapping[str, str]) -> int | None:
    """The window bits with which zlib unpacks the voxels; None if they are not packed by zlib or gzip."""
    if fields.get("compresseddata", "")[:1].lower() in ("t", "1"):  # as MetaImage's own reader decides
        return zlib.MAX_WBITS
    return 16 + zlib.MAX_WBITS if fields.get("encoding", "").lower() in {"gz", "gzip"} else None


def _unpacks(path: Path, start: int, packing: int, most: int) -> bool:
    """Tell whether what follows `start` unpacks to its end, with its checksum, and to no more than `most` bytes."""
    unpacker, size = zlib.decompressobj(packing), 0
    with path.open("rb") as stream:
        stream.seek(start)
        while not unpacker.eof and size <= most and (packed := stream.read(1 << 20)):
            while packed and size <= most:
                size += len(unpacker.decompress(packed, 1 << 24))
                packed = unpacker.unconsumed_tail
    return unpacker.eof and size <= most


def _unreadable(path: Path, found: str, expected: str, remedy: str) -> DataError:
    return DataError("A file cannot be read", [Fault(str(path), found, expected, remedy)])


def _read_metaimage(start: bytes) -> tuple[dict[str, str], int]:
    """Read the fields of a MetaImage header, names in lower case, and its length in bytes; 0 if it has no end."""
    fields: dict[str, str] = {}
    length = 0
    for line in start.splitlines(keepends=True):
        length += len(line)
        name, _, value = line.decode("latin-1").partition("=")
        fields[name.strip().lower()] = value.strip()
        if name.strip().lower() == "elementdatafile":
            return fields, length
    return {}, 0


def _read_nrrd(start: bytes) -> tuple[dict[str, str], int]:
    """Read the fields of a NRRD header, names in lower case, and its length in bytes; 0 if it has no end."""
    fields: dict[str, str] = {}
    length = 0
    for line in start.splitlines(keepends=True) if start.startswith(b"NRRD") else ():
        length += len(line)
        name, _, value = line.decode("latin-1").partition(":")
        if not line.strip():
            return fields, length
        fields[name.strip().lower()] = value.strip()
    return (fields, length) if {"data file", "datafile"} & {*fields} else ({}, 0)  # a header alone needs no blank line
