"""Hashes of the voxels of every pair in a workspace, to compare what two versions of the code paint.

python examples/hash_pairs.py WORK > before.txt
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tumorgen_cli.data.volumes import hash_voxels, read_volume


def main(work: Annotated[Path, typer.Argument(help="A workspace; its sets are in synthetic/.")]) -> None:
    """Prints one line for each image and label file of each set: hash, data type and path."""
    for path in sorted(work.glob("synthetic/*/*Tr/*.nii.gz")):
        voxels, _ = read_volume(path)
        print(hash_voxels(voxels), voxels.dtype, path.relative_to(work))


if __name__ == "__main__":
    typer.run(main)
