"""Compare feature networks: how well do their distances show that a region of a real scan was damaged?

    python examples/realism_study.py -w WORK -o OUT [--inception FILE]

The study damages every real case of the workspace around its tumor, in five steps of blur, noise, lost contrast and a
pasted seam. With a good network, the distance to undamaged cases rises with every step, exceeds the floor (real cases
against real cases, same counts) at an early step, and ranks the steps in the same order for every draw of cases. The
windows are those that `tumorgen evaluate` compares. Writes table.csv, distances.png and origin.txt (commit, command,
machine) into OUT.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from origin import origin_and_command, write_origin
from scipy import ndimage, stats

from tumorgen_cli.evaluation.cases import TumorCase, read_case, real_tumors
from tumorgen_cli.evaluation.measure import window_around
from tumorgen_cli.metrics.feature_networks import Network, hand_made, inception, lite0
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
from tumorgen_cli.system.devices import DeviceName, find_device
from tumorgen_cli.system.files import atomic, derive_seed

#: Kind of damage -> its strengths, weakest first.
STEPS = {
    "blur": (0.4, 0.6, 0.9, 1.3, 2.0),  # sigma in voxels
    "noise": (0.005, 0.01, 0.02, 0.04, 0.08),  # sigma as a share of the range [0, 1]
    "contrast": (0.1, 0.2, 0.35, 0.5, 0.7),  # lost share of the contrast to the surface of the box
    "seam": (0.2, 0.3, 0.4, 0.55, 0.7),  # edge of the box pasted from another case, as a share of the window's
}
DRAWS = 200
MARGIN = 3  # voxels by which the damaged box exceeds the tumor's box on each side


@dataclass(frozen=True)
class Window:
    """The window around a real tumor.

    Attributes:
        case: name of the case.
        image: window (C, X, Y, Z) in [0, 1].
        center: center of the tumor in voxels of the window.
        edges: edges of the tumor's box in voxels of the window.
    """

    case: str
    image: np.ndarray
    center: tuple[float, ...]
    edges: tuple[float, ...]


def one_a_scan(tumors: Sequence[TumorCase]) -> list[TumorCase]:
    """Return the largest tumor of each scan, because the study's splits treat each row as a different patient."""
    first: dict[str, TumorCase] = {}
    for files in tumors:
        first.setdefault(files.host, files)
    return list(first.values())


def read_windows(plan: Plan, tumors: Sequence[TumorCase]) -> list[Window]:
    """Return the windows of tumors, in their order."""
    found = []
    for files in tumors:
        image, grid, tumor, others = read_case(plan, files)
        window, center = window_around(plan, image, grid, files.hull, scan_limits(image, plan.channels, tumor | others))
        edges = (n * s / w for n, s, w in zip(files.hull.shape, grid.spacing_mm, plan.window.spacing_mm, strict=True))
        found.append(Window(files.case, window, center, tuple(edges)))
    return found


def damage(window: Window, other: Window, kind: str, strength: float) -> np.ndarray:
    """Return the window (C, X, Y, Z) with the box around its tumor damaged.

    Args:
        window: The window.
        other: A window of another case; a seam encloses a part of it.
        kind: A key of `STEPS`.
        strength: Strength of the damage; see `STEPS`.
    """
    shape = window.image.shape[1:]
    edges = [strength * n for n in shape] if kind == "seam" else [e + 2 * MARGIN for e in window.edges]
    low = [max(0, round(c - e / 2)) for c, e in zip(window.center, edges, strict=True)]
    high = [min(n, round(c + e / 2)) for c, e, n in zip(window.center, edges, shape, strict=True)]
    inside = (slice(None), *(slice(a, b) for a, b in zip(low, high, strict=True)))
    out = window.image.copy()
    if kind == "seam":
        donor = other.image[:, ::-1]  # mirrored, so that the other case's own voxels do not lower the distance
        out[inside] = donor[inside]
    elif kind == "blur":
        out[inside] = ndimage.gaussian_filter(window.image, (0, *[strength] * 3))[inside]
    elif kind == "noise":
        # One draw for each case, scaled, so that the steps differ only in strength.
        rng = np.random.default_rng(derive_seed("study", window.case))
        out[inside] = (window.image + strength * rng.normal(size=window.image.shape).astype(np.float32))[inside]
    else:
        part = window.image[inside]
        surface = np.ones(part.shape[1:], bool)
        surface[1:-1, 1:-1, 1:-1] = False
        ground = np.array([np.median(channel[surface]) for channel in part])[:, None, None, None]
        out[inside] = np.where(part > ground, ground + (1 - strength) * (part - ground), part)
    return np.clip(out, 0, 1)


def damaged(windows: list[Window]) -> Iterator[tuple[str, int, list[np.ndarray]]]:
    """Yield (kind, step, all windows at that step); first step 0 without a kind, the windows themselves."""
    yield "", 0, [window.image for window in windows]
    for kind, strengths in STEPS.items():
        for step, strength in enumerate(strengths, 1):
            yield kind, step, [damage(w, windows[i - 1], kind, strength) for i, w in enumerate(windows)]


@dataclass(frozen=True)
class Row:
    """Results of one network, distance and kind of damage.

    Attributes:
        network: name of the network.
        dimensions: number of features.
        distance: a key of `DISTANCES`.
        kind: a key of `STEPS`.
        floor: the distance between real cases.
        held_out: the distance between held-out cases and training cases.
        means: mean distance of each step, weakest first.
        rank: Spearman's correlation between step (0 is the floor) and mean distance.
        detected: of each step, the share of draws whose distance is above the floor's interval.
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
    """Return features (case, plane, D) of all windows, channels concatenated."""
    planes = []
    for plane in PLANES:
        shown = [
            [take_slice(channel, plane, window.center) for channel in image]
            for image, window in zip(images, windows, strict=True)
        ]
        channels = [network.features(np.stack(slices)) for slices in zip(*shown, strict=True)]
        planes.append(np.concatenate(channels, axis=1))
    return np.stack(planes, axis=1)


def projected(distance: Distance, share: float) -> Distance:
    """Return `distance` computed on the first principal axes of the second set, `share` times its number of cases."""

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
    """Return the rows of a network; the last `tests` rows of `features` are the held-out cases."""
    rows, real = [], features["", 0]
    counts = (tests, len(real) - tests)
    seed = derive_seed("study")
    rng = np.random.default_rng(seed)
    # The same splits as the floor's, so that only the damage differs.
    orders = [rng.permutation(len(real)) for _ in range(DRAWS)]
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
    """Return how far a distance is above the floor's mean, in half widths of its interval; damage shows above 1."""
    return (value - row.floor.value) / (row.floor.high - row.floor.value)


HEADER = (
    "network",
    "D",
    "distance",
    "damage",
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
    """Return a row of the table. Ratios are to the floor's mean; the kernel distance has none, as its floor is 0."""
    small, large = row.means[0], row.means[-1]
    ratios = ["", ""] if row.distance == "kernel" else [f"{v / row.floor.value:.2f}" for v in (small, large)]
    widths = [f"{in_widths(row, v):.2f}" for v in (small, large)]
    numbers = [f"{v:.4g}" for v in (row.floor.value, row.floor.low, row.floor.high, row.held_out)]
    start = [row.network, str(row.dimensions), row.distance, row.kind, f"{row.rank:.2f}"]
    return [*start, *ratios, *widths, f"{np.mean(row.detected):.2f}", *numbers]


def draw(rows: list[Row], counts: tuple[int, int], path: Path) -> None:
    """Plot for each kind of damage the mean distances (top) and the shares of detected sets (bottom) over the step."""
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
        axes[1][column].set(xlabel="step of damage", xlim=axes[0][column].get_xlim(), ylim=(-0.03, 1.03))
    axes[0][0].set_ylabel("mean distance above the floor,\nin half widths of its interval (gray)")
    axes[1][0].set_ylabel(f"share of draws ({counts[0]} cases against {counts[1]})\nabove the floor's interval")
    lines, labels = axes[1][0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=4, fontsize=8)
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png")


def main(
    work: Annotated[Path, typer.Option("-w", "--work", help="Workspace whose real cases are used.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the results.")],
    fid: Annotated[Path | None, typer.Option("--inception", help="File of the FID weights; adds Inception.")] = None,
    device: DeviceName = "auto",
) -> None:
    """Measure every network, write and print one table."""
    begun = time.perf_counter()
    workspace, place = Workspace(work), find_device(device)
    plan = workspace.plan()
    tumors = one_a_scan(real_tumors(plan, workspace.fingerprint(), workspace.splits()))
    windows = read_windows(plan, tumors)
    networks = [hand_made(), lite0(place)]
    networks += [inception(place, fid)] if fid else []
    features: dict[str, dict[tuple[str, int], np.ndarray]] = {network.name: {} for network in networks}
    for kind, step, images in damaged(windows):
        for network in networks:
            features[network.name][kind, step] = describe(network, windows, images)
    tests = sum(files.group == "test" for files in tumors)
    rows = [row for name, found in features.items() for row in measure(name, found, tests)]
    draw(rows, (tests, len(windows) - tests), out / "distances.png")
    with atomic(out / "table.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows([HEADER, *map(cells, rows)])
    write_origin(out)
    seconds = time.perf_counter() - begun
    counts = f"{tests} damaged cases against {len(windows) - tests} undamaged cases"
    console.table(f"{counts}, mean of {DRAWS} draws; {seconds:.0f} s", HEADER, map(cells, rows))
    print(origin_and_command())


if __name__ == "__main__":
    typer.run(main)
