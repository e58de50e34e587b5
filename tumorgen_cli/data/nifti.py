"""NIfTI files as bytes: what the header says, voxels of which every byte is checked, and the header of a new file.

SimpleITK replaces missing bytes with zeros without an error, and takes any unit and a voxel edge of 0 for granted.
`data.volumes` asks it for the geometry only; the voxels come from here.
"""

from __future__ import annotations

import collections
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from isal import igzip, isal_zlib
from nibabel.nifti1 import Nifti1Header
from nibabel.spatialimages import HeaderDataError

from tumorgen_cli.geometry import Grid
from tumorgen_cli.system.errors import DataError, Fault

ENDINGS = (".nii.gz", ".nii")
COPY_AGAIN = "copy or export the file again"
_GZIP, _BZIP2 = b"\x1f\x8b", b"BZh"
_HEADER_BYTES, _FIRST_VOXEL = 348, 352
_NIFTI2_BYTES = 540
_UNITS = {1: "meters", 3: "micrometers"}
_MOST_PACKED = 1032  # deflate makes no stream shorter than 1/1032 of its content
_MOST_BEHIND = 1 << 20  # bytes behind the voxels that are read, for the checksum, before the file is refused
_GEOMETRY = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z"),
)
#: what reading a truncated or damaged file raises; ISA-L's stub calls its exception a value
_BROKEN: tuple[type[Exception], ...] = (
    EOFError,
    OSError,
    MemoryError,
    zlib.error,
    cast("type[Exception]", isal_zlib.IsalError),
)


def is_nifti(path: Path) -> bool:
    """Whether the name of a file ends as NIfTI files do."""
    return path.name.endswith(ENDINGS)


def read_header(path: Path) -> Nifti1Header:
    """Read and check the header of a NIfTI file; it may be packed by gzip whatever its name.

    Raises:
        DataError: the file is no NIfTI-1 volume, its header is damaged, or the header's lengths are not in mm.
        OSError: the file cannot be opened.
    """
    try:
        with _opened(path) as stream:
            start = stream.read(_HEADER_BYTES)
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise damaged(path, error) from error
    faults = _start_faults(path, start)
    if not faults:
        order = "little" if int.from_bytes(start[:4], "little") == _HEADER_BYTES else "big"
        header = Nifti1Header(start, order, check=False)
        faults = _header_faults(path, header)
    if faults:
        raise DataError("A file cannot be read", faults)
    return header


def shape_of(header: Nifti1Header) -> tuple[int, ...]:
    """The voxel counts of a header, without axes of one voxel beyond the third."""
    counts = [int(n) for n in header["dim"][1 : 1 + int(header["dim"][0])]]
    while len(counts) > 3 and counts[-1] == 1:
        counts.pop()
    return tuple(counts)


def has_plain_voxels(header: Nifti1Header) -> bool:
    """Whether the stored numbers are the values: one number a voxel, not scaled."""
    kind = header.get_data_dtype()
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    scaled = math.isfinite(slope) and math.isfinite(inter) and (slope, inter) not in ((1.0, 0.0), (0.0, 0.0))
    return kind.kind in "iuf" and kind.itemsize <= 8 and not scaled


def read_voxels(path: Path, header: Nifti1Header, most_voxels: int = 1 << 24) -> Iterator[np.ndarray]:
    """Read the stored numbers of a NIfTI file in the file's order (x fastest), in one-dimensional, read-only pieces.

    Of a packed file every byte is read and, at the end, its checksum compared: no piece may be used before the last
    one has come. No more is unpacked than the header announces.

    Args:
        path: The file.
        header: Its header.
        most_voxels: Voxels of each piece but the last.

    Raises:
        DataError: the file is truncated or damaged, or goes on behind its voxels.
    """
    offset, expected = _extent(header)
    kind, behind = header.get_data_dtype(), 0
    try:
        with _opened(path) as stream:
            whole = expected <= path.stat().st_size * (_MOST_PACKED if isinstance(stream, igzip.IGzipFile) else 1)
            got = len(stream.read(offset))
            while part := stream.read(asked := min(most_voxels * kind.itemsize, expected - got)):
                got += len(part)
                if whole and len(part) == asked:
                    yield np.frombuffer(part, kind)
            behind = len(stream.read(_MOST_BEHIND))  # the checksum is compared at the end
    except _BROKEN as error:
        raise damaged(path, error) from error
    if got == expected and behind < _MOST_BEHIND:
        return
    found = f"truncated: {got} of {expected} bytes"
    if behind:
        found = f"more than the {expected} bytes that its header announces"
    raise DataError("A file cannot be read", [Fault(str(path), found, "a whole NIfTI volume", COPY_AGAIN)])


def check_voxels(path: Path, header: Nifti1Header) -> None:
    """Read the stored numbers of a file and keep none; see `read_voxels`."""
    collections.deque(read_voxels(path, header), maxlen=0)


def check_length(path: Path, header: Nifti1Header) -> None:
    """Check that a file is as long as its header announces; of most packed files only the last bytes are read.

    Raises:
        DataError: the file is truncated.
    """
    _, expected = _extent(header)
    with path.open("rb") as stream:
        packed = stream.read(2) == _GZIP
        stream.seek(-4, 2)
        unpacked = int.from_bytes(stream.read(4), "little")  # gzip's trailer, modulo 4 GiB
    # another length there: truncated, several gzip members, or padding behind the volume
    if unpacked != expected % 2**32 if packed else path.stat().st_size < expected:
        check_voxels(path, header)


def skew_degrees(header: Nifti1Header) -> float:
    """By how many degrees the axes of the sform are off perpendicular; 0 without an sform."""
    with np.errstate(invalid="ignore"):  # NaN of a damaged header
        axes = np.stack([header["srow_x"], header["srow_y"], header["srow_z"]])[:, :3].astype(float)
    lengths = np.linalg.norm(axes, axis=0)
    if not int(header["sform_code"]) or not (np.isfinite(lengths).all() and lengths.all()):
        return 0.0
    cosines = (axes / lengths).T @ (axes / lengths) - np.eye(3)
    return float(np.degrees(np.arcsin(min(1.0, np.abs(cosines).max()))))


def _extent(header: Nifti1Header) -> tuple[int, int]:
    """Where the voxels begin and end in the unpacked file, in bytes."""
    offset = max(int(header["vox_offset"]), _HEADER_BYTES)
    return offset, offset + math.prod(shape_of(header)) * int(header.get_data_dtype().itemsize)


def encode_start(
    shape: tuple[int, ...], dtype: np.dtype[Any], grid: Grid, like: Nifti1Header | None, about: str = ""
) -> bytes:
    """The bytes of a NIfTI file before its voxels.

    Args:
        shape: Voxel counts.
        dtype: Data type of the voxels, one that NIfTI knows.
        grid: Their geometry.
        like: A header whose geometry is taken instead, field by field: both matrices with their codes, and the unit.
        about: What the volume is, for the field `descrip`.
    """
    header = Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(dtype)
    affine = _affine(grid)
    header.set_qform(affine, 1)
    header.set_sform(affine, 1)
    header.set_xyzt_units("mm", "sec")
    if like is not None:
        for key in _GEOMETRY:
            header[key] = like[key]
        header["pixdim"][:4] = like["pixdim"][:4]
    header["descrip"] = about.encode("ascii")
    header["vox_offset"], header["scl_slope"], header["scl_inter"] = _FIRST_VOXEL, 1.0, 0.0
    start: bytes = header.binaryblock.ljust(_FIRST_VOXEL, b"\0")
    return start


def damaged(path: Path, error: Exception) -> DataError:
    """The error of a file that cannot be unpacked or read to its end."""
    found = f"{path.stat().st_size} bytes, truncated or damaged ({error or type(error).__name__})"
    return DataError("A file cannot be read", [Fault(str(path), found, "a whole NIfTI volume", COPY_AGAIN)])


def _opened(path: Path) -> BinaryIO:
    """Open a file for its unpacked bytes; what it holds decides, not its name (SimpleITK does the same)."""
    with path.open("rb") as stream:
        packed = stream.read(2) == _GZIP
    return cast("BinaryIO", igzip.open(path) if packed else path.open("rb"))


def _affine(grid: Grid) -> np.ndarray:
    """The matrix from voxels to mm in NIfTI's axes: right, front, up. SimpleITK's x and y point the other way."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(grid.direction).reshape(3, 3) * np.array(grid.spacing_mm)
    affine[:3, 3] = grid.origin_mm
    affine[:2] *= -1
    return affine


def _start_faults(path: Path, start: bytes) -> list[Fault]:
    """Find why the first bytes of a file are no NIfTI-1 header."""
    with path.open("rb") as stream:
        on_disk = stream.read(4)
    expected, size = "a NIfTI-1 volume", path.stat().st_size
    if on_disk.startswith(_GZIP) and not path.name.endswith(".gz"):
        return [Fault(str(path), "packed by gzip", f"{expected} as its name says", f"rename it to {path.name}.gz")]
    if on_disk.startswith(_BZIP2):
        remedy = f"pack it by gzip: bunzip2 < {path.name} | gzip > NEW.nii.gz"
        return [Fault(str(path), "packed by bzip2, which neither SimpleITK nor nnU-Net reads", expected, remedy)]
    if int.from_bytes(start[:4], "little") == _NIFTI2_BYTES or int.from_bytes(start[:4], "big") == _NIFTI2_BYTES:
        remedy = "save it as NIfTI-1 (nibabel: Nifti1Image.from_image(nibabel.load(FILE)).to_filename(FILE))"
        return [Fault(str(path), "NIfTI-2, which SimpleITK does not read", expected, remedy)]
    if len(start) < _HEADER_BYTES or _HEADER_BYTES not in {int.from_bytes(start[:4], o) for o in ("little", "big")}:
        return [Fault(str(path), f"{size} bytes that are no NIfTI volume", "a whole NIfTI volume", COPY_AGAIN)]
    if not start[344:].startswith(b"n+1"):
        remedy = "save it as one .nii.gz file"
        return [Fault(str(path), "the header of an Analyze or .hdr/.img pair", f"{expected} in one file", remedy)]
    return []


def _header_faults(path: Path, header: Nifti1Header) -> list[Fault]:
    """Find what a NIfTI-1 header says that cannot be: counts, data type, units, voxel edges."""
    axes, counts = int(header["dim"][0]), header["dim"]
    try:
        kind = header.get_data_dtype()
    except (HeaderDataError, KeyError):
        kind = np.dtype("V0")
    offset = float(header["vox_offset"])
    if kind.kind == "c":
        remedy = "save the magnitude, or one file each for real and imaginary part"
        return [Fault(str(path), "complex numbers", "one real number a voxel", remedy)]
    if not (1 <= axes <= 7 and counts[1 : 1 + axes].min() >= 1 and kind.itemsize and 0 <= offset < 2**31):
        found = f"a damaged header (dim {counts.tolist()}, data type {int(header['datatype'])}, offset {offset:g})"
        return [Fault(str(path), found, "a whole NIfTI volume", COPY_AGAIN)]
    unit = _UNITS.get(int(header["xyzt_units"]) & 7)
    if unit:
        remedy = (
            'if its numbers are mm, say so (nibabel: image.header.set_xyzt_units("mm")); otherwise convert its voxel '
            "edges and matrices to mm"
        )
        return [Fault(str(path), f"lengths in {unit}", "lengths in mm", remedy)]
    edges = header["pixdim"][1:4]
    if axes >= 3 and not (np.isfinite(edges).all() and (edges > 0).all()):
        found = f"voxels of {'×'.join(f'{e:g}' for e in edges)} mm"
        remedy = "write the true voxel edges into the header (nibabel: image.header.set_zooms((X, Y, Z)))"
        return [Fault(str(path), found, "edges above 0 mm", remedy)]
    return []
