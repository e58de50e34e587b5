"""Draw the front page's picture: hosts, painted scans and masks of a synthetic set, side by side.

python examples/picture.py tumorgen_demo/synthetic/tumorgen_healthy docs/images/pairs.png

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
    pairs: Annotated[int, typer.Option(help="Number of columns; the largest tumors come first.")] = 8,
    brightest: Annotated[float, typer.Option(help="The intensity that is drawn black.")] = 6.0,
) -> None:
    """Draw the coronal slice in which most of a pair's tumors is cut: one column a pair."""
    found = sorted(read_provenance(folder), key=lambda pair: -pair.volume_ml)[:pairs]
    source = hosts or folder.parents[1] / "phantoms" / "healthy"
    size = (1.35 * len(found) + 0.3, 4.2)
    figure, axes = plt.subplots(3, len(found), figsize=size, squeeze=False, facecolor="white")
    for column, pair in zip(axes.T, found, strict=True):
        host, grid = read_volume(source / pair.host_file[0])
        painted, _ = read_volume(next((folder / "imagesTr").glob(f"{pair.case}_0000.*")))
        mask, _ = read_volume(next((folder / "labelsTr").glob(f"{pair.case}.*")))
        middle = int(np.argmax((mask > 0).sum((0, 2))))
        for axis, volume in zip(column, (host, painted, painted), strict=True):
            show(axis, volume[:, middle].T[::-1], brightest, grid.spacing_mm[2] / grid.spacing_mm[0])
        column[2].contour(mask[:, middle].T[::-1] > 0, levels=[0.5], colors="#e4572e", linewidths=1.2)
    for axis, title in zip(axes[:, 0], TITLES, strict=True):
        axis.text(-0.08, 0.5, title, rotation=90, va="center", ha="right", transform=axis.transAxes, fontsize=9)
    figure.subplots_adjust(left=0.04, right=0.995, bottom=0.01, top=0.99, wspace=0.04, hspace=0.04)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)


def show(axis: Axes, picture: np.ndarray, brightest: float, aspect: float) -> None:
    """Draw a gray slice without ticks. High uptake is dark, as radiologists read PET."""
    axis.imshow(picture, cmap="gray_r", vmin=0, vmax=brightest, aspect=aspect, interpolation="nearest")
    axis.set_axis_off()


if __name__ == "__main__":
    typer.run(main)
