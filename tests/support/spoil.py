"""Ways to spoil files, as users, transfers and other programs do."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np


def cut(path: Path, share: float = 0.6) -> None:
    """Keep only the first share of a file."""
    whole = path.read_bytes()
    path.unlink()  # it may be a hard link
    path.write_bytes(whole[: int(len(whole) * share)])


def flip(path: Path, at: float = 0.7) -> None:
    """Change one byte of a file, at a share of its length."""
    whole = bytearray(path.read_bytes())
    whole[int(len(whole) * at)] ^= 0x55
    path.unlink()
    path.write_bytes(bytes(whole))


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    """Change what a JSON file holds; `change` works in place, or returns another value."""
    value = json.loads(path.read_text(encoding="utf-8"))
    changed = change(value)
    path.write_text(json.dumps(value if changed is None else changed), encoding="utf-8")


def put(path: Path, *keys: str | int, value: Any) -> None:
    """Set one value deep in a JSON file."""

    def change(found: Any) -> None:
        for key in keys[:-1]:
            found = found[key]
        found[keys[-1]] = value

    edit_json(path, change)


def drop(path: Path, *keys: str) -> None:
    """Remove one key deep in a JSON file."""

    def change(found: Any) -> None:
        for key in keys[:-1]:
            found = found[key]
        del found[keys[-1]]

    edit_json(path, change)


def edit_header(path: Path, change: Callable[[nibabel.Nifti1Header], None]) -> None:
    """Change the NIfTI header of a `.nii.gz` and keep its voxels' bytes."""
    raw = gzip.decompress(path.read_bytes())
    header = nibabel.Nifti1Header(raw[:348], check=False)
    change(header)
    path.write_bytes(gzip.compress(header.binaryblock + raw[348:], 1))


def edit_voxels(path: Path, change: Callable[[np.ndarray], np.ndarray | None], dtype: Any = None) -> None:
    """Change the voxels of a `.nii.gz` and keep its geometry; `change` works in place, or returns another array."""
    image = nibabel.load(path)
    voxels = np.copy(image.dataobj[...])
    changed = change(voxels)
    voxels = voxels if changed is None else changed
    header = image.header.copy()
    header.set_data_dtype(dtype or voxels.dtype)
    nibabel.save(nibabel.Nifti1Image(voxels.astype(dtype or voxels.dtype), image.affine, header), path)
