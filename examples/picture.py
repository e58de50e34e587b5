"""Draw the front page's picture: hosts, painted scans and masks of a synthetic set, side by side.

python examples/picture.py tumorgen_demo/synthetic/tumorgen_healthy docs/images/pairs.png --pairs 3

The outline of the mask is drawn on the painted scan.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import numpy as np
import typer
from matplotlib.axes import Axes

from tumorgen_cli.data.volumes import read_volume
from tumorgen_cli.synthesis.set_files import read_provenance

TITLES = ("healthy scan", "painted scan", "mask")


def main(
    folder: Annotated[Path, typer.Argument(help="Folder of a synthetic set.")],
    out: Annotated[Path, typer.Argument(help="The PNG file to write.")],
    hosts: Annotated[Path | None, typer.Option(help="Folder of the hosts (default: the demo's phantoms).")] = None,
    pairs: Annotated[int, typer.Option(help="Number of rows; the largest tumors come first.")] = 3,
) -> None:
    """Draw the coronal slice in which each tumor is largest, from 0 to the maximum of the painted slice."""
    found = sorted(read_provenance(folder), key=lambda pair: -pair.volume_ml)[:pairs]
    source = hosts or next((folder.parents[1] / "phantoms").glob("healthy*"))
    figure, axes = plt.subplots(len(found), 3, figsize=(7.2, 2.9 * len(found)), squeeze=False, facecolor="white")
    for row, pair in zip(axes, found, strict=True):
        host, grid = read_volume(source / pair.host_file[0])
        painted, _ = read_volume(next((folder / "imagesTr").glob(f"{pair.case}_0000.*")))
        mask, _ = read_volume(next((folder / "labelsTr").glob(f"{pair.case}.*")))
        middle = int(np.argmax((mask > 0).sum((0, 2))))
        slices = [volume[:, middle].T[::-1] for volume in (host, painted, painted)]
        aspect = grid.spacing_mm[2] / grid.spacing_mm[0]
        for axis, picture, title in zip(row, slices, TITLES, strict=True):
            show(axis, picture, float(slices[1].max()), aspect)
            if row is axes[0]:
                axis.set_title(title, fontsize=11)
        outline = (mask[:, middle].T[::-1] > 0).astype(float)
        row[2].contour(outline, levels=[0.5], colors="#e4572e", linewidths=1.4)
    figure.tight_layout(pad=0.4)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


def show(axis: Axes, picture: np.ndarray, brightest: float, aspect: float) -> None:
    """Draw a gray slice without ticks. High uptake is dark, as radiologists read PET."""
    axis.imshow(picture, cmap="gray_r", vmin=0, vmax=brightest, aspect=aspect, interpolation="nearest")
    axis.set_axis_off()


if __name__ == "__main__":
    typer.run(main)
