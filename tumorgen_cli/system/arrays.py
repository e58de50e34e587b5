"""Caches of arrays: a file that was cut or changed counts as missing, so that its content is made again.

A file is a compressed npz. Each array in it has a CRC-32, which is compared when the array is read.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tumorgen_cli.system.files import write_stream

# what NumPy and zipfile raise on files that are damaged; RuntimeError: a bit says that the file is encrypted
_DAMAGED = (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays atomically and verified; `path` ends with `.npz`."""
    content: dict[str, Any] = dict(arrays)
    write_stream(path, lambda stream: np.savez_compressed(stream, **content))


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """Read all arrays of a file; None if there is no such file, or if it is damaged."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as stream, np.load(stream) as found:
            return {name: found[name] for name in found.files}
    except _DAMAGED:
        return None
