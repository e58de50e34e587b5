"""Voxels packed by gzip in slabs, so that a pair of a host and a few tumors takes over most of the host's packed bytes.

A NIfTI file has its planes one after the other, z slowest. A slab is some of these planes as a deflate stream of its
own that ends on a full flush. Such streams, joined in order, are one stream: a file is one gzip member, whose checksum
is combined from those of the slabs. A slab's bytes depend on its voxels, on ISA-L and on nothing else.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import isal
import numpy as np
from isal import isal_zlib

from tumorgen_cli.geometry import cast_to_dtype

#: what packs the voxels; another version may write other bytes for the same voxels
PACKER = f"isal {isal.__version__}, ISA-L {isal.ISAL_VERSION}"
_LEVEL = 2  # of ISA-L: as small as zlib's default, in a tenth of the time
_CACHE_LINE = 64  # bytes
_MEMBER_START = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # gzip: deflate, no name, no time, any system
_LAST_BLOCK = b"\x03\x00"  # deflate: the last block, empty


def planes_at_once(dtype: np.dtype[Any]) -> int:
    """How many planes of an array (X, Y, Z) a CPU reads at once: their voxels lie side by side."""
    return max(1, _CACHE_LINE // dtype.itemsize)


class Packed(NamedTuple):
    """A piece of a file as a deflate stream, with the checksum and the number of its bytes before packing."""

    content: bytes
    crc: int
    size: int


class Slabs:
    """The slabs of a volume. Each is packed when it is first asked for, and kept.

    Attributes:
        array: voxels (X, Y, Z); they must not change afterwards, since packed slabs are kept.
        dtype: data type of the file, to which the voxels are rounded and clipped.
        planes: planes of a slab (`planes_at_once`). At 512×512 voxels of int16, it has 16 MiB; a tumor touches one to
            three such slabs.
    """

    def __init__(self, array: np.ndarray, dtype: np.dtype[Any]) -> None:
        self.array, self.dtype = array, dtype
        self.planes = planes_at_once(dtype)
        self._packed: dict[int, Packed] = {}

    def __len__(self) -> int:
        return math.ceil(self.array.shape[2] / self.planes)

    def content(self, number: int) -> memoryview:
        """The bytes of a slab in the file's order."""
        part = self.array[:, :, number * self.planes : (number + 1) * self.planes]
        return reverse_axes(cast_to_dtype(part, self.dtype)).reshape(-1).view(np.uint8).data

    def packed(self, number: int) -> Packed:
        """A packed slab."""
        if number not in self._packed:
            self._packed[number] = _deflate(self.content(number))
        return self._packed[number]

    def unlike(self, array: np.ndarray) -> set[int]:
        """The numbers of the slabs in which another volume, of the same shape and data type, has other bits."""
        bits = np.dtype(f"u{self.array.itemsize}")
        planes = np.zeros(array.shape[2], bool)
        for own, other in zip(self.array.view(bits), array.view(bits), strict=True):
            if not np.array_equal(own, other):
                planes |= (own != other).any(axis=0)
        return set((np.flatnonzero(planes) // self.planes).tolist())


def pack(start: bytes, array: np.ndarray, dtype: np.dtype[Any], base: Slabs | None = None) -> Iterator[bytes]:
    """Give the parts of a gzip file in order.

    Args:
        start: what comes before the voxels.
        array: voxels (X, Y, Z).
        dtype: data type of the voxels in the file.
        base: slabs of a volume of the same shape and data types; those in which `array` is equal are taken over.
    """
    own = Slabs(array, dtype)
    changed = set(range(len(own))) if base is None else base.unlike(array)

    def slab(number: int) -> Packed:
        return _deflate(own.content(number)) if base is None or number in changed else base.packed(number)

    crc, size = 0, 0
    yield _MEMBER_START
    for part in itertools.chain([_deflate(start)], map(slab, range(len(own)))):
        crc, size = isal_zlib.crc32_combine(crc, part.crc, part.size), size + part.size
        yield part.content
    yield _LAST_BLOCK + crc.to_bytes(4, "little") + (size % 2**32).to_bytes(4, "little")


def unpacked(start: bytes, array: np.ndarray, dtype: np.dtype[Any]) -> Iterator[bytes | memoryview]:
    """Give the parts of a file that is not packed, in order; see `pack`."""
    slabs = Slabs(array, dtype)
    yield start
    yield from map(slabs.content, range(len(slabs)))


def _deflate(content: bytes | memoryview) -> Packed:
    packer = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = packer.compress(content) + packer.flush(isal_zlib.Z_FULL_FLUSH)
    return Packed(packed, isal_zlib.crc32(content), len(content))


def reverse_axes(array: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Copy an array with its three axes in reverse order.

    The planes pass through a buffer whose rows begin an odd number of cache lines apart. The rows of the array may lie
    a power of two apart, as in scans 512 voxels wide, and then push each other out of the cache: with the buffer, such
    scans are copied four times faster.

    Args:
        array: The array (A, B, C).
        out: Where the copy (C, B, A) is written, of the same data type; None for a new array.
    """
    rows, planes, columns = array.shape
    lines = -(-columns * array.itemsize // _CACHE_LINE) | 1
    buffer = np.empty((rows, lines * _CACHE_LINE // array.itemsize), array.dtype)[:, :columns]
    reversed_array = np.empty(array.shape[::-1], array.dtype) if out is None else out
    for number in range(planes):
        buffer[:] = array[:, number]
        reversed_array[:, number] = buffer.T
    return reversed_array
