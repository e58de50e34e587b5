"""Measures one case of a set: agreement, tumor statistics, lesion features, slices. Results are cached per case."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tumorgen_cli.data.volumes import read_volume, resample, write_volume
from tumorgen_cli.evaluation.cases import TumorCase, Volumes, _image_of, read_case, read_tumor
from tumorgen_cli.evaluation.scores import PLACES
from tumorgen_cli.figures import upright, upright_grid
from tumorgen_cli.geometry import Box, Grid, tight_box
from tumorgen_cli.judge.verdict import MARGIN_MM, judge_pair, predict_around
from tumorgen_cli.metrics import slice_distances
from tumorgen_cli.metrics.novelty import lesion
from tumorgen_cli.metrics.overlap import Verdict
from tumorgen_cli.metrics.radiomics import describe_lesion, feature_scales
from tumorgen_cli.metrics.slice_distances import PLANES
from tumorgen_cli.metrics.statistics import TumorStatistics, describe_tumor
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.preprocessing.intensity import scale, scan_limits, to_comparable_units
from tumorgen_cli.system.files import atomic
from tumorgen_cli.system.json_records import from_plain, hash_value, nan_for_none, none_for_nan, to_plain

if TYPE_CHECKING:
    from tumorgen_cli.judge.model import Judge
    from tumorgen_cli.metrics.feature_networks import Network


_MEASURES = 4  # raise it when what `_measure` returns changes


@dataclass(frozen=True)
class Measured:
    """What is kept of a tumor in `path`: statistics (None where nothing was painted), slices in [0, 1] by plane (place, C, H, W), the
    reader test's features (F,), the patch and facts of novelty (empty without a tumor)."""

    path: Path
    statistics: TumorStatistics | None
    slices: dict[str, np.ndarray]
    lesion: np.ndarray
    patch: np.ndarray
    facts: tuple[float, ...]


def cache_of(out: Path) -> Path:
    """Where what was measured and predicted lies, beside the evaluations of all sets of a workspace."""
    return out.parent / ".cache"


def measure_case(plan: Plan, files: TumorCase, cache: Path, volumes: Volumes | None = None) -> Measured:
    """What is measured of a case, from `cache`/measured if nothing it was made from has changed."""
    volumes = volumes or Volumes(files)
    content = [*volumes.image_hashes, volumes.label_hash]
    key = hash_value([_MEASURES, content, files.box, plan.channels, plan.main_channel, plan.window, plan.tumor_label])
    path = cache / "measured" / f"{files.case}.{key}.npz"
    if not path.is_file():
        found = _measure(plan, files, volumes, path)
        told = json.dumps(none_for_nan({"statistics": to_plain(found.statistics), "facts": list(found.facts)}))
        with atomic(path) as temporary:
            np.savez_compressed(temporary, told=np.array(told), lesion=found.lesion, patch=found.patch, **found.slices)
    with np.load(path) as kept:
        told = json.loads(str(kept["told"]))
        statistics = told["statistics"] and from_plain(TumorStatistics, nan_for_none(told["statistics"]), path.name)
        slices = {plane: kept[plane] for plane in PLANES if plane in kept}
        return Measured(path, statistics, slices, kept["lesion"], kept["patch"], tuple(nan_for_none(told["facts"])))


def _measure(plan: Plan, files: TumorCase, volumes: Volumes, path: Path) -> Measured:
    image, grid, tumor, others = read_case(plan, files, volumes)
    painted = np.zeros(grid.shape, bool)
    painted[files.box.slices] = True
    # however a scan is stored, its planes are the patient's
    image, tumor, others, painted = (upright(part, grid.direction) for part in (image, tumor, others, painted))
    grid = upright_grid(grid)
    box = tight_box(tumor) or tight_box(painted)
    assert box is not None
    limits = scan_limits(image, plan.channels, tumor | others)
    slices = slices_of(plan, image, grid, box, limits)
    image, zero = to_comparable_units(image, plan.channels, limits)
    main = plan.main_channel
    statistics = describe_tumor(image[main], tumor, grid.spacing_mm, float(zero[main]), others)
    one = lesion(files.case, files.host, image, tumor, grid.spacing_mm, statistics) if statistics else None
    if one is None:
        return Measured(path, None, _rounded(slices), np.empty(0), np.empty(0), ())
    features = describe_lesion(image, tumor, grid.spacing_mm, zero, feature_scales(plan.window.spacing_mm), others)
    return Measured(path, statistics, _rounded(slices), np.asarray(features), one.patch.astype(np.float32), one.facts)


def slices_of(plan: Plan, image: np.ndarray, grid: Grid, box: Box, limits: np.ndarray) -> dict[str, np.ndarray]:
    """By plane (place, C, H, W) in [0, 1]: through the middle of the scan, as the paper's protocol has it, and of a box."""
    seen: dict[str, tuple[np.ndarray, tuple[float, ...]]] = {
        "middle": window_around(plan, image, grid, Box((0, 0, 0), grid.shape), limits),
        "tumor": window_around(plan, image, grid, box, limits),
    }
    return {
        plane: np.stack(
            [[slice_distances.slices(channel, plane, seen[place][1]) for channel in seen[place][0]] for place in PLACES]
        )
        for plane in PLANES
    }


def _rounded(slices: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {plane: part.astype(np.float32) for plane, part in slices.items()}


def _slice_features(found: Measured, network: Network) -> np.ndarray:
    """Features (place, plane, D) of a case's slices, those of all channels side by side; kept beside what was measured."""
    path = found.path.with_suffix(f".{network.hash}.npy")
    if not path.is_file():
        rows = []
        for plane in PLANES:
            part = found.slices[plane]  # (place, C, H, W)
            rows.append(network.features(part.reshape(-1, *part.shape[2:])).reshape(len(part), -1))
        with atomic(path) as temporary, temporary.open("wb") as stream:
            np.save(stream, np.stack(rows, axis=1).astype(np.float32))
    return np.asarray(np.load(path))


def window_around(
    plan: Plan, image: np.ndarray, grid: Grid, box: Box, limits: np.ndarray
) -> tuple[np.ndarray, tuple[float, ...]]:
    """The plan's window (C, *plan.window.shape), scaled to [0, 1] by the scan's clip limits, that shows `box`, and the box's centre in its voxels.

    The window is centred on the box and kept inside the scan where the scan is larger than it, as in training.
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
    start_voxels = tuple(a / s for a, s in zip(start_mm, grid.spacing_mm, strict=True))
    onto = grid.subgrid(start_voxels, plan.window.spacing_mm, plan.window.shape)  # type: ignore[arg-type]
    channels = np.stack([resample(channel, grid, onto, "linear") for channel in image])
    return (scale(channels, plan.channels, limits) + 1) / 2, tuple(center)


def verdict_of(plan: Plan, files: TumorCase, cache: Path, judge: Judge, volumes: Volumes | None = None) -> Verdict:
    """The judge's verdict on a tumor, around its mask and the box that was asked for; see `evaluate_set`. Its prediction is kept under
    `cache`/predictions, by the hash of the images, the box and the labels that count."""
    volumes = volumes or Volumes(files)
    tumor, others, grid = read_tumor(plan, files, volumes)
    key = hash_value([volumes.image_hashes, files.box, judge.tumor_labels, MARGIN_MM])
    path = cache / "predictions" / judge.hash / f"{files.case}.{key}.nii.gz"
    if path.is_file():
        predicted = read_volume(path)[0].astype(bool)
    else:
        image, grid = _image_of(files, volumes)
        predicted = predict_around(judge, image, grid, files.box)
        write_volume(path, predicted.astype(np.uint8), grid)
    around = files.asked.hull(tight_box(tumor) or files.asked)
    return judge_pair(tumor, others, predicted, around, grid, plan.tolerance_mm)
