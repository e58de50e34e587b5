"""Which feature network tells a painted region from a real one: distances under known harm, on a workspace's real cases.

    python examples/realism_study.py -w WORK -o OUT [--judge DIR] [--inception FILE]    # table.csv and distances.png in OUT

Every real case is harmed around its tumor in five steps of blur, noise, lost contrast and a pasted seam. A good network's
distance to undistorted cases rises with every step, soon leaves the floor (real cases against real cases, same counts), and
ranks harm the same way whatever cases are drawn. Windows are what `tumorgen evaluate` looks at.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from scipy import ndimage, stats

from tumorgen_cli.evaluation.cases import TumorCase, read_case, real_tumors
from tumorgen_cli.evaluation.measure import window_around
from tumorgen_cli.judge.model import Judge
from tumorgen_cli.metrics.feature_networks import Network, hand_made, inception, lite0, nnunet_encoder
from tumorgen_cli.metrics.slice_distances import (
    PLANES,
    Distance,
    Interval,
    fit_projection,
    floor,
    frechet_distance,
    kernel_distance,
    over_planes,
    take_slice,
)
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.intensity import scan_limits
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import find_device
from tumorgen_cli.system.files import atomic, derive_seed

#: what a step of harm is -> its strengths, weakest first
STEPS = {
    "blur": (0.4, 0.6, 0.9, 1.3, 2.0),  # sigma, voxels
    "noise": (0.005, 0.01, 0.02, 0.04, 0.08),  # sigma, of the [0, 1] range
    "contrast": (0.1, 0.2, 0.35, 0.5, 0.7),  # lost share of the contrast to the box's surface
    "seam": (0.2, 0.3, 0.4, 0.55, 0.7),  # edge of the box pasted from another case, of the window's
}
DRAWS = 200
MARGIN = 3  # voxels that the harmed box is larger than the tumor's


@dataclass(frozen=True)
class Window:
    """A real tumor: window (C, X, Y, Z) in [0, 1], tumor centre, and edges of the tumor's box in its voxels."""

    case: str
    image: np.ndarray
    center: tuple[float, ...]
    edges: tuple[float, ...]


def one_a_scan(tumors: Sequence[TumorCase]) -> list[TumorCase]:
    """The largest tumor of each scan: the study's splits take every row for a patient of its own."""
    first: dict[str, TumorCase] = {}
    for files in tumors:
        first.setdefault(files.host, files)
    return list(first.values())


def read_windows(plan: Plan, tumors: Sequence[TumorCase]) -> list[Window]:
    """The windows of tumors, in their order."""
    found = []
    for files in tumors:
        image, grid, tumor, others = read_case(plan, files)
        window, center = window_around(plan, image, grid, files.box, scan_limits(image, plan.channels, tumor | others))
        edges = (n * s / w for n, s, w in zip(files.box.shape, grid.spacing_mm, plan.window.spacing_mm, strict=True))
        found.append(Window(files.case, window, center, tuple(edges)))
    return found


def harm(window: Window, other: Window, kind: str, strength: float) -> np.ndarray:
    """The window (C, X, Y, Z) with the box around its tumor harmed; `other` gives what a seam encloses."""
    shape = window.image.shape[1:]
    edges = [strength * n for n in shape] if kind == "seam" else [e + 2 * MARGIN for e in window.edges]
    low = [max(0, round(c - e / 2)) for c, e in zip(window.center, edges, strict=True)]
    high = [min(n, round(c + e / 2)) for c, e, n in zip(window.center, edges, shape, strict=True)]
    inside = (slice(None), *(slice(a, b) for a, b in zip(low, high, strict=True)))
    out = window.image.copy()
    if kind == "seam":
        donor = other.image[:, ::-1]  # mirrored: cases that the distance knows should not come back as they are
        out[inside] = donor[inside]
    elif kind == "blur":
        out[inside] = ndimage.gaussian_filter(window.image, (0, *[strength] * 3))[inside]
    elif kind == "noise":
        rng = np.random.default_rng(
            derive_seed("study", window.case)
        )  # one draw, scaled: steps differ in strength alone
        out[inside] = (window.image + strength * rng.normal(size=window.image.shape).astype(np.float32))[inside]
    else:
        part = window.image[inside]
        surface = np.ones(part.shape[1:], bool)
        surface[1:-1, 1:-1, 1:-1] = False
        ground = np.array([np.median(channel[surface]) for channel in part])[:, None, None, None]
        out[inside] = np.where(part > ground, ground + (1 - strength) * (part - ground), part)
    return np.clip(out, 0, 1)


def harmed(windows: list[Window]) -> Iterator[tuple[str, int, list[np.ndarray]]]:
    """(kind, step, all windows at that step); step 0, of no kind, are the windows themselves."""
    yield "", 0, [window.image for window in windows]
    for kind, strengths in STEPS.items():
        for step, strength in enumerate(strengths, 1):
            yield kind, step, [harm(w, windows[i - 1], kind, strength) for i, w in enumerate(windows)]


@dataclass(frozen=True)
class Row:
    """One network, distance and kind of harm. `means` and `detected` are per step, weakest first.

    `rank`: Spearman's correlation of step (0 the floor) and mean distance. `detected`: the share of draws of the held-out
    count that lie above the floor's interval. `held_out`: the held-out cases' own distance to the training cases.
    """

    network: str
    dimensions: int
    distance: str
    kind: str
    floor: Interval
    held_out: float
    means: tuple[float, ...]
    rank: float
    detected: tuple[float, ...]


def describe(network: Network, windows: list[Window], images: list[np.ndarray]) -> np.ndarray:
    """Features (case, plane, D) of all windows, channels side by side; a network of windows has one plane."""
    if network.dimensions == 3:
        return network.features(np.stack(images))[:, None]
    planes = []
    for plane in PLANES:
        shown = [
            [take_slice(channel, plane, w.center) for channel in image] for image, w in zip(images, windows, strict=True)
        ]
        planes.append(
            np.concatenate([network.features(np.stack(channel)) for channel in zip(*shown, strict=True)], axis=1)
        )
    return np.stack(planes, axis=1)


def projected(distance: Distance, share: float) -> Distance:
    """`distance` on the first principal axes of the second set: `share` of its number of cases."""

    def found(a: np.ndarray, b: np.ndarray) -> float:
        axes = fit_projection(b, min(int(share * len(b)), b.shape[1]))
        return distance(axes(a), axes(b))

    return found


DISTANCES: dict[str, Distance] = {
    "frechet": frechet_distance,
    "frechet, PCA to n/2": projected(frechet_distance, 0.5),
    "kernel": kernel_distance,
}


def measure(network: str, features: dict[tuple[str, int], np.ndarray], tests: int) -> list[Row]:
    """All distances and kinds of harm of a network; the last `tests` rows of `features` are the held-out cases."""
    rows, real = [], features["", 0]
    counts = (tests, len(real) - tests)
    seed = derive_seed("study")
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(real)) for _ in range(DRAWS)]  # the floor's own splits: harm is all that differs
    for name, plain in DISTANCES.items():
        distance = over_planes(plain)
        bottom = floor(real, counts, distance, None, DRAWS, seed)
        held_out = distance(real[-tests:], real[:-tests])
        for kind, strengths in STEPS.items():
            drawn = np.array(
                [
                    [distance(features[kind, step][order[:tests]], real[order[tests:]]) for order in orders]
                    for step in range(1, len(strengths) + 1)
                ]
            )
            means = drawn.mean(axis=1)
            rank = stats.spearmanr(range(len(strengths) + 1), [bottom.value, *means]).statistic
            found = [tuple(float(v) for v in values) for values in (means, (drawn > bottom.high).mean(axis=1))]
            rows.append(Row(network, real.shape[-1], name, kind, bottom, held_out, found[0], float(rank), found[1]))
    return rows


def in_widths(row: Row, value: float) -> float:
    """How far above the floor's mean a distance lies, in half widths of its interval: 1 is where harm begins to show."""
    return (value - row.floor.value) / (row.floor.high - row.floor.value)


HEADER = (
    "network",
    "D",
    "distance",
    "harm",
    "rank",
    "smallest / floor",
    "largest / floor",
    "smallest, widths",
    "largest, widths",
    "detected",
    "floor",
    "floor low",
    "floor high",
    "held-out",
)


def cells(row: Row) -> list[str]:
    """A row of the table. Ratios are to the floor's mean, and empty for the kernel distance, whose floor is 0."""
    small, large = row.means[0], row.means[-1]
    ratios = ["", ""] if row.distance == "kernel" else [f"{v / row.floor.value:.2f}" for v in (small, large)]
    widths = [f"{in_widths(row, v):.2f}" for v in (small, large)]
    numbers = [f"{v:.4g}" for v in (row.floor.value, row.floor.low, row.floor.high, row.held_out)]
    start = [row.network, str(row.dimensions), row.distance, row.kind, f"{row.rank:.2f}"]
    return [*start, *ratios, *widths, f"{np.mean(row.detected):.2f}", *numbers]


def draw(rows: list[Row], counts: tuple[int, int], path: Path) -> None:
    """Per kind of harm: mean distances by step above, the share of detected sets below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(STEPS), 6.6), dpi=100, layout="constrained", facecolor="white")
    axes = figure.subplots(2, len(STEPS), sharey="row", squeeze=False)
    colors = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(row.network for row in rows))}
    styles = dict(zip(DISTANCES, ("-", ":", "--"), strict=True))
    for column, (kind, strengths) in enumerate(STEPS.items()):
        for row in (row for row in rows if row.kind == kind):
            look = {
                "color": colors[row.network],
                "linestyle": styles[row.distance],
                "marker": ".",
                "label": f"{row.network}, {row.distance}",
            }
            axes[0][column].plot(range(len(strengths) + 1), [0, *(in_widths(row, v) for v in row.means)], **look)
            axes[1][column].plot(range(1, len(strengths) + 1), row.detected, **look)
        axes[0][column].axhspan(-1, 1, color="0.9", zorder=0)
        axes[0][column].set_title(kind)
        axes[1][column].set(xlabel="step of harm", xlim=axes[0][column].get_xlim(), ylim=(-0.03, 1.03))
    axes[0][0].set_ylabel("mean distance above the floor,\nin half widths of its interval (grey)")
    axes[1][0].set_ylabel(f"share of {counts[0]} cases against {counts[1]}\nthat lie above the floor's interval")
    lines, labels = axes[1][0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=4, fontsize=8)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png")


def encoder_of(folder: Path, plan: Plan, device: torch.device) -> Network:
    """A judge's encoder as a network: windows back in the scan's unit scale, its axes, z-scored.

    The judge must have been trained on z-scored channels; a window stands in for its scan.
    """
    judge = Judge(folder, device, plan.tumor_name)
    predictor = judge._predictor
    order = predictor.plans_manager.transpose_forward
    powers = np.array([channel.power for channel in plan.channels])[None, :, None, None, None]

    def prepare(windows: np.ndarray) -> np.ndarray:
        turned = (windows ** (1 / powers)).transpose(0, 1, *(4 - axis for axis in order))
        return (turned - turned.mean(axis=(2, 3, 4), keepdims=True)) / (
            turned.std(axis=(2, 3, 4), keepdims=True) + 1e-8
        )

    return nnunet_encoder(
        predictor.network.encoder, judge.hash, prepare, f"z-score, axes {order}, powers {powers.ravel()}", device
    )


def main(
    work: Annotated[Path, typer.Option("-w", "--work", help="Workspace whose real cases are used.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for table.csv and distances.png.")],
    judge: Annotated[Path | None, typer.Option(help="nnU-Net results folder: its encoder takes part.")] = None,
    fid: Annotated[
        Path | None, typer.Option("--inception", help="File of the FID weights: Inception takes part.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Measures every network and prints one table."""
    begun = time.perf_counter()
    workspace, place = Workspace(work), find_device(device)  # type: ignore[arg-type]
    plan = workspace.plan()
    tumors = one_a_scan(real_tumors(plan, workspace.fingerprint(), workspace.splits()))
    windows = read_windows(plan, tumors)
    networks = [hand_made(), lite0(place)]
    networks += [encoder_of(judge, plan, place)] if judge else []
    networks += [inception(place, fid)] if fid else []
    features: dict[str, dict[tuple[str, int], np.ndarray]] = {network.name: {} for network in networks}
    for kind, step, images in harmed(windows):
        for network in networks:
            features[network.name][kind, step] = describe(network, windows, images)
    tests = sum(files.group == "test" for files in tumors)
    rows = [row for name, found in features.items() for row in measure(name, found, tests)]
    draw(rows, (tests, len(windows) - tests), out / "distances.png")
    with atomic(out / "table.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows([HEADER, *map(cells, rows)])
    title = f"{tests} harmed cases against {len(windows) - tests} whole ones, mean of {DRAWS} draws; {time.perf_counter() - begun:.0f} s"
    console.table(title, HEADER, map(cells, rows))


if __name__ == "__main__":
    typer.run(main)
