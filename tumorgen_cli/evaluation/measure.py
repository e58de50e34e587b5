"""Measures one case of a set: statistics, lesion features, slices, and the judge's verdict.

Results are cached per case, in files named by a hash of everything they depend on. A file that was cut or changed is
made again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tumorgen_cli.data.channels import fill_paddings
from tumorgen_cli.data.volumes import resample
from tumorgen_cli.evaluation.cases import TumorCase, Volumes, read_case, read_scan, read_tumor
from tumorgen_cli.evaluation.scores import PLACES
from tumorgen_cli.figures import upright, upright_grid
from tumorgen_cli.geometry import Box, Grid, as_triple, tight_box
from tumorgen_cli.judge.verdict import judge_pair
from tumorgen_cli.metrics import slice_distances
from tumorgen_cli.metrics.novelty import make_lesion
from tumorgen_cli.metrics.overlap import Verdict
from tumorgen_cli.metrics.radiomics import describe_lesion, feature_scales
from tumorgen_cli.metrics.slice_distances import PLANES
from tumorgen_cli.metrics.statistics import TumorStatistics, describe_tumor
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.preprocessing.intensity import scale, scan_limits, to_comparable_units
from tumorgen_cli.system.arrays import read_arrays, write_arrays
from tumorgen_cli.system.json_records import from_plain, hash_value, nan_for_none, none_for_nan, to_plain

if TYPE_CHECKING:
    from tumorgen_cli.judge.predictions import Predictions
    from tumorgen_cli.metrics.feature_networks import Network


_LONGEST_NAME = 100  # of a case, in a file's name, of which file systems allow 255 bytes
_MEASURES = 8  # raise it when the result of `_measure` changes


@dataclass(frozen=True)
class Measured:
    """What is measured of a tumor, as it is kept in a file.

    Attributes:
        path: The file.
        statistics: Statistics in the main channel; None where the pair has no tumor.
        slices: By plane, slices in [0, 1] (place, C, H, W).
        lesion: Features (F,) for the reader test; empty without a tumor.
        patch: The patch for novelty; empty without a tumor.
        facts: The facts for novelty; empty without a tumor.
    """

    path: Path
    statistics: TumorStatistics | None
    slices: dict[str, np.ndarray]
    lesion: np.ndarray
    patch: np.ndarray
    facts: tuple[float, ...]


def cache_folder(out: Path) -> Path:
    """Return where measurements and predictions are kept, beside the evaluations of all sets of a workspace."""
    return out.parent / ".cache"


def measure_case(plan: Plan, files: TumorCase, cache: Path, volumes: Volumes | None = None) -> Measured:
    """Measure a case, or read the result from `cache`/measured if nothing it depends on has changed."""
    volumes = volumes or Volumes(files)
    content = [volumes.image_hash, volumes.label_hash]
    key = hash_value([_MEASURES, content, files.boxes, plan.channels, plan.main_channel, plan.window, plan.tumor_label])
    path = cache / "measured" / f"{files.case[:_LONGEST_NAME]}.{key}.npz"
    kept = read_arrays(path)
    if kept is None:
        found = _measure(plan, files, volumes, path)
        record = json.dumps(none_for_nan({"statistics": to_plain(found.statistics), "facts": list(found.facts)}))
        kept = {"record": np.array(record), "lesion": found.lesion, "patch": found.patch} | found.slices
        write_arrays(path, kept)
    record = json.loads(str(kept["record"]))
    known = record["statistics"]  # None for a pair without a tumor
    statistics = known and from_plain(TumorStatistics, nan_for_none(known), path.name, f"delete {path}")
    slices = {plane: kept[plane] for plane in PLANES if plane in kept}
    return Measured(path, statistics, slices, kept["lesion"], kept["patch"], tuple(nan_for_none(record["facts"])))


def _measure(plan: Plan, files: TumorCase, volumes: Volumes, path: Path) -> Measured:
    image, grid, tumor, others = read_case(plan, files, volumes)
    image = fill_paddings(image, [channel.name for channel in plan.channels])
    painted = np.zeros(grid.shape, bool)
    for painted_box in files.boxes:
        painted[painted_box.slices] = True
    # planes are the patient's, whatever the orientation in the file
    image, tumor, others, painted = (upright(part, grid.direction) for part in (image, tumor, others, painted))
    grid = upright_grid(grid)
    box = tight_box(tumor) or tight_box(painted)
    assert box is not None
    limits = scan_limits(image, plan.channels, tumor | others)
    slices = slices_of(plan, image, grid, box, limits)
    image, zero = to_comparable_units(image, plan.channels, limits)
    main = plan.main_channel
    statistics = describe_tumor(image[main], tumor, grid.spacing_mm, float(zero[main]), others)
    one = make_lesion(files.case, files.host, image, tumor, grid.spacing_mm, statistics) if statistics else None
    if one is None:
        return Measured(path, None, _rounded(slices), np.empty(0), np.empty(0), ())
    features = describe_lesion(image, tumor, grid.spacing_mm, zero, feature_scales(plan.window.spacing_mm), others)
    return Measured(path, statistics, _rounded(slices), np.asarray(features), one.patch.astype(np.float32), one.facts)


def slices_of(plan: Plan, image: np.ndarray, grid: Grid, box: Box, limits: np.ndarray) -> dict[str, np.ndarray]:
    """Take slices in [0, 1] of every plane, (place, C, H, W) by plane.

    They go through the middle of the scan, as in the paper's protocol, and through the center of a box.
    """
    windows: dict[str, tuple[np.ndarray, tuple[float, ...]]] = {
        "middle": window_around(plan, image, grid, Box((0, 0, 0), grid.shape), limits),
        "tumor": window_around(plan, image, grid, box, limits),
    }
    return {
        plane: np.stack(
            [
                [slice_distances.take_slice(channel, plane, windows[place][1]) for channel in windows[place][0]]
                for place in PLACES
            ]
        )
        for plane in PLANES
    }


def _rounded(slices: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {plane: part.astype(np.float32) for plane, part in slices.items()}


def slice_features(found: Measured, network: Network) -> np.ndarray:
    """Compute features (place, plane, D) of a case's slices, with all channels side by side.

    They are kept in a file beside the measurements.
    """
    path = found.path.with_suffix(f".{network.hash}.npz")
    kept = read_arrays(path)
    if kept is None:
        rows = []
        for plane in PLANES:
            part = found.slices[plane]  # (place, C, H, W)
            rows.append(network.features(part.reshape(-1, *part.shape[2:])).reshape(len(part), -1))
        kept = {"features": np.stack(rows, axis=1).astype(np.float32)}
        write_arrays(path, kept)
    return kept["features"]


def window_around(
    plan: Plan, image: np.ndarray, grid: Grid, box: Box, limits: np.ndarray
) -> tuple[np.ndarray, tuple[float, ...]]:
    """Cut the plan's window that shows a box, scaled to [0, 1] by the scan's clip limits.

    The window is centered on the box and moved inside the scan where the scan is larger than it, as in training.

    Args:
        plan: The plan.
        image: The scan (C, X, Y, Z).
        grid: Its grid.
        box: The box in voxels.
        limits: The scan's clip limits by channel, from `preprocessing.intensity.scan_limits`.

    Returns:
        The window (C, *plan.window.shape), and the center of the box in its voxels.
    """
    start_mm, center = [], []
    for extent, window, middle, spacing, step in zip(
        grid.extent_mm, plan.window.extent_mm, box.center, grid.spacing_mm, plan.window.spacing_mm, strict=True
    ):
        start = (
            float(np.clip(middle * spacing - window / 2, 0, extent - window))
            if extent >= window
            else (extent - window) / 2
        )
        start_mm.append(start)
        center.append((middle * spacing - start) / step - 0.5)
    start_voxels = as_triple(a / s for a, s in zip(start_mm, grid.spacing_mm, strict=True))
    onto = grid.subgrid(start_voxels, plan.window.spacing_mm, plan.window.shape)
    channels = np.stack([resample(channel, grid, onto, "linear") for channel in image])
    return (scale(channels, plan.channels, limits) + 1) / 2, tuple(center)


@dataclass(frozen=True)
class Judged:
    """A pair or a real tumor as a judge sees it.

    Attributes:
        tumor: The tumor of the case (X, Y, Z) bool.
        others: Other tumor voxels (X, Y, Z) bool.
        predicted: What the judge marks (X, Y, Z) bool.
        grid: The grid of the scan.
    """

    tumor: np.ndarray
    others: np.ndarray
    predicted: np.ndarray
    grid: Grid


def judge_case(plan: Plan, files: TumorCase, predictions: Predictions, volumes: Volumes | None = None) -> Judged:
    """Read a case and the judge's prediction of it."""
    volumes = volumes or Volumes(files)
    tumor, others, grid = read_tumor(plan, files, volumes)
    predicted = predictions.around(
        files.scan, volumes.image_hash, grid, files.boxes, lambda: read_scan(files, volumes)[0]
    )
    return Judged(tumor, others, predicted, grid)


def verdict_of(plan: Plan, files: TumorCase, judged: Judged) -> Verdict:
    """Compare what a judge marks with a case's tumors, inside their masks and requested boxes grown by a margin."""
    around = []
    for box, requested in zip(files.boxes, files.requested_boxes, strict=True):
        tight = tight_box(judged.tumor[box.slices])
        around.append(requested if tight is None else requested.hull(tight.shifted(box.start)))
    return judge_pair(judged.tumor, judged.others, judged.predicted, around, judged.grid, plan.tolerance_mm)
