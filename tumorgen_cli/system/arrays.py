"""Caches of arrays: a file that was cut or changed counts as missing, so that its content is made again.

A file is a compressed npz. Each array in it has a CRC-32, which is compared when the array is read.
"""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tumorgen_cli.system.errors import StateError
from tumorgen_cli.system.files import write_stream
from tumorgen_cli.system.json_records import read_fields, write_json

# what NumPy and zipfile raise on files that are damaged; RuntimeError: a bit says that the file is encrypted
_DAMAGED = (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)


def prepare_cache(folder: Path, made_from: str) -> None:
    """Prepare a folder for cached arrays: those that were made from something else, or from what is unknown, go.

    Args:
        folder: The folder. Its `latents.json` says what its files were made from.
        made_from: A hash of everything that they are made from.
    """
    manifest = folder / "latents.json"
    with contextlib.suppress(StateError):  # there is none, or it is damaged
        if read_fields(manifest, "").get("made_from") == made_from:
            return
    for old in folder.glob("*.npz"):
        old.unlink()
    write_json(manifest, {"made_from": made_from})


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
