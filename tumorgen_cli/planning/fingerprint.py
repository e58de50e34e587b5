"""The facts planning needs, measured in one pass over a dataset that also checks it.

Reads every file of imagesTr and labelsTr once. Writes nothing: `plan` keeps the record.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from tumorgen_cli.data import channels
from tumorgen_cli.data import channels as channels_module
from tumorgen_cli.data.dataset import Dataset
from tumorgen_cli.data.integrity import CaseCheck, CaseVoxels, check_case, conclude_checks
from tumorgen_cli.data.workers import map_cases
from tumorgen_cli.geometry import SHELL_MM, Box, Grid, Triple
from tumorgen_cli.system import files, json_records
from tumorgen_cli.system.console import Ticker
from tumorgen_cli.system.errors import DataError, Fault

PERCENTILES = (0.5, 5.0, 50.0, 95.0, 99.0, 99.5, 99.9, 99.95)
MIN_TUMOR_VOXELS = 8  # a 2x2x2 block; the box of anything smaller says more about the grid than about the tumor
MIN_TUMOR_ML = 0.03  # a sphere of 4 mm: on fine grids, what a brush leaves behind
_SAMPLES_PER_CASE = 50_000
_SAMPLES = 4_000_000  # per channel, over all cases
_SHELL_VOXELS = 8_000_000  # a larger crop is thinned before distances are taken: its mean needs no more
_TOUCHING = np.ones((3, 3, 3), bool)  # 26-connectivity: voxels that share a corner belong together


@dataclass(frozen=True)
class Findings:
    """A dataset's fingerprint, and what is no fault but should be told.

    `tumor_free`: cases without a tumor voxel. `crumbs`: components too small to learn from, counted by case.
    `only_crumbs`: cases that hold nothing else.
    """

    fingerprint: Fingerprint
    tumor_free: tuple[str, ...]
    crumbs: dict[str, int]

    @property
    def only_crumbs(self) -> tuple[str, ...]:
        bare = {facts.case for facts in self.fingerprint.cases if not facts.tumors}
        return tuple(case for case in self.crumbs if case in bare)

    @property
    def notes(self) -> tuple[str, ...]:
        """One line for each thing to tell."""
        notes = []
        if self.tumor_free:
            notes.append(f"cases without a tumor: {_shortened(self.tumor_free)}")
        if self.crumbs:
            what = f"components of less than {MIN_TUMOR_VOXELS} voxels or {MIN_TUMOR_ML} ml"
            notes.append(f"{what}, left out: {sum(self.crumbs.values())}, in {_shortened(tuple(self.crumbs))}")
        if self.only_crumbs:
            notes.append(f"cases with no larger component: {_shortened(self.only_crumbs)}")
        return tuple(notes)


@dataclass(frozen=True)
class CaseReport:
    """What one pass over a case's files gives: its check, and where it is sound, its facts and samples.

    `foreground` and `image` hold sampled voxels (C, N); `ranges` the minimum and maximum per channel.
    """

    check: CaseCheck
    label_hash: str = ""
    facts: CaseFacts | None = None
    crumbs: int = 0
    foreground: np.ndarray | None = None
    image: np.ndarray | None = None
    ranges: tuple[tuple[float, float], ...] = ()


def make_fingerprint(dataset: Dataset, workers: int | None = None, ticker: Ticker | None = None) -> Findings:
    """The fingerprint of a dataset, checked on the way. `workers` as for `dataset.each_case`.

    Raises:
        DataError: every fault of every file, or no tumor large enough in any case.
    """
    samples = max(1000, min(_SAMPLES_PER_CASE, _SAMPLES // max(1, len(dataset.cases))))
    reports = list(map_cases(functools.partial(measure_case, samples=samples), dataset, workers, ticker))
    tumor_free = conclude_checks(dataset, [report.check for report in reports])
    cases = tuple(report.facts for report in reports if report.facts is not None)
    if not any(facts.tumors for facts in cases):
        found = f"no component of {dataset.tumor_name} has {MIN_TUMOR_VOXELS} voxels and {MIN_TUMOR_ML} ml"
        remedy = "choose the right label with --tumor-label, or use scans of finer spacing"
        fault = Fault(str(dataset.path / "labelsTr"), found, "a tumor in one case at least", remedy)
        raise DataError(f"{dataset.name} has no tumor to learn from", [fault])
    crumbs = {report.check.case: report.crumbs for report in reports if report.crumbs}
    fingerprint = Fingerprint(
        dataset=dataset.name,
        path=str(dataset.path),
        content_hash=_content_hash(dataset, [report.label_hash for report in reports]),
        file_ending=dataset.file_ending,
        labels=dict(dataset.labels),
        tumor_name=dataset.tumor_name,
        tumor_label=dataset.tumor_label,
        channels=tuple(_channel_facts(name, i, reports) for i, name in enumerate(dataset.channel_names)),
        cases=cases,
    )
    return Findings(fingerprint, tumor_free, crumbs)


def content_hash(dataset: Dataset) -> str:
    """The hash that `make_fingerprint` records: names and sizes of all files, what the label files hold, and scans' own units.

    An image replaced by one of exactly the same size goes unnoticed; that keeps the hash quick to take again. Missing
    files do not stop it: they make another hash.
    """
    labels = [dataset.label_file(case) for case in dataset.cases]
    return _content_hash(dataset, [files.hash_file(path) if path.exists() else "" for path in labels])


def _content_hash(dataset: Dataset, label_hashes: list[str]) -> str:
    images = [path for case in dataset.cases for path in dataset.image_files(case)]
    sizes = [(path.name, path.stat().st_size if path.exists() else None) for path in images]
    units = [channels.SCAN_UNIT_PERCENTILES for name in dataset.channel_names if channels.has_own_unit(name)]
    return json_records.hash_value([dataset.channel_names, dataset.labels, dataset.cases, sizes, label_hashes, *units])


def measure_case(dataset: Dataset, case: str, samples: int) -> CaseReport:
    """Checks and measures a case, reading each of its files once."""
    check, voxels = check_case(dataset, case)
    if voxels is None:
        return CaseReport(check)
    voxels = _in_units(voxels, dataset.channel_names)
    tumors, crumbs = measure_tumors(voxels)
    rng = np.random.default_rng(files.derive_seed("fingerprint", case))
    return CaseReport(
        check=check,
        label_hash=files.hash_file(dataset.label_file(case)),
        facts=CaseFacts(case, voxels.grid, tumors),
        crumbs=crumbs,
        foreground=_draw(voxels.channels, np.flatnonzero(voxels.tumor), samples, rng),
        image=_draw(voxels.channels, None, samples, rng),
        ranges=tuple((float(channel.min()), float(channel.max())) for channel in voxels.channels),
    )


def _in_units(voxels: CaseVoxels, names: Sequence[str]) -> CaseVoxels:
    """A case with the channels that have no unit in the scan's own, so that cases can be pooled."""
    channels = []
    for name, channel in zip(names, voxels.channels, strict=True):
        if channels_module.has_own_unit(name):
            low, high = channels_module.scan_unit(channel, voxels.tumor)
            channel = (channel.astype(np.float32) - np.float32(low)) / np.float32((high - low) or 1)
        channels.append(channel)
    return replace(voxels, channels=tuple(channels))


def measure_tumors(voxels: CaseVoxels) -> tuple[tuple[TumorFacts, ...], int]:
    """Facts of each tumor component (26-connected), largest first, and the number of crumbs left out."""
    whole = ndimage.find_objects(voxels.tumor.view(np.uint8))
    if not whole:
        return (), 0
    corner = tuple(s.start for s in whole[0])
    labelled, count = ndimage.label(voxels.tumor[whole[0]], _TOUCHING)
    sizes = np.bincount(labelled.ravel(), minlength=count + 1)
    smallest = max(MIN_TUMOR_VOXELS, math.ceil(MIN_TUMOR_ML / voxels.grid.voxel_ml))
    found = []
    for index, slices in enumerate(ndimage.find_objects(labelled), 1):
        if sizes[index] >= smallest:
            tight = Box(tuple(s.start for s in slices), tuple(s.stop for s in slices)).shifted(corner)
            found.append(_measure_tumor(voxels, tight, labelled[slices] == index))
    tumors = sorted(found, key=lambda tumor: (-tumor.volume_ml, tumor.box.start))
    return tuple(tumors), count - len(tumors)


def _measure_tumor(voxels: CaseVoxels, box: Box, component: np.ndarray) -> TumorFacts:
    grid = voxels.grid
    means, peaks = [], []
    for channel in voxels.channels:
        inside = channel[box.slices][component]
        means.append(float(inside.mean(dtype=np.float64)))
        peaks.append(float(inside.max()))
    around = _shell_means(voxels, box, component)
    return TumorFacts(
        box=box,
        volume_ml=int(np.count_nonzero(component)) * grid.voxel_ml,
        extent_mm=_triple([n * s for n, s in zip(box.shape, grid.spacing_mm, strict=True)]),
        mean=tuple(means),
        maximum=tuple(peaks),
        contrast=tuple(mean - shell for mean, shell in zip(means, around, strict=True)),
        center=_triple([c / n for c, n in zip(box.center, grid.shape, strict=True)]),
    )


def _shell_means(voxels: CaseVoxels, box: Box, component: np.ndarray) -> list[float]:
    """Mean per channel within 2 cm around a component, other tumor voxels left out; nan where nothing is left."""
    spacing = voxels.grid.spacing_mm
    margin = tuple(math.ceil(SHELL_MM / s) for s in spacing)
    crop = box.grown(margin, voxels.grid.shape)  # type: ignore[arg-type]
    inside = np.zeros(crop.shape, bool)
    inside[box.shifted(tuple(-s for s in crop.start)).slices] = component  # type: ignore[arg-type]
    step = math.ceil((inside.size / _SHELL_VOXELS) ** (1 / 3))
    thinned = (slice(None, None, step),) * 3
    if not inside[thinned].any():
        thinned, step = (slice(None),) * 3, 1
    distance = ndimage.distance_transform_edt(~inside[thinned], sampling=[s * step for s in spacing])
    shell = (distance <= SHELL_MM) & ~voxels.tumor[crop.slices][thinned]
    if not shell.any():
        return [math.nan] * len(voxels.channels)
    return [float(channel[crop.slices][thinned][shell].mean(dtype=np.float64)) for channel in voxels.channels]


def _draw(
    channels: tuple[np.ndarray, ...], among: np.ndarray | None, samples: int, rng: np.random.Generator
) -> np.ndarray:
    """Voxels (C, N) at the same places in every channel: all of `among` (flat indices) or so many at random."""
    total = channels[0].size if among is None else among.size
    picked = np.arange(total) if total <= samples else rng.integers(total, size=samples)
    places = picked if among is None else among[picked]
    return np.stack([channel.ravel()[places] for channel in channels]).astype(np.float32)


def _channel_facts(name: str, channel: int, reports: list[CaseReport]) -> ChannelFacts:
    foreground = np.concatenate([r.foreground[channel] for r in reports if r.foreground is not None])
    image = np.concatenate([r.image[channel] for r in reports if r.image is not None])
    lowest = min(r.ranges[channel][0] for r in reports if r.ranges)
    highest = max(r.ranges[channel][1] for r in reports if r.ranges)
    return ChannelFacts(name, _percentiles(foreground), _percentiles(image), lowest, highest)


def _percentiles(values: np.ndarray) -> dict[str, float]:
    return {f"{p:g}": float(v) for p, v in zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True)}


def _shortened(names: tuple[str, ...]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _triple(values: list[float]) -> Triple:
    x, y, z = values
    return x, y, z


@dataclass(frozen=True)
class TumorFacts:
    """One connected tumor component of a case, on the scan's own grid.

    `mean` and `contrast` are per channel: mean intensity inside, and that minus the mean of the 2 cm shell around
    (other tumor voxels left out), where a channel has no unit in the scan's own (`rules.scan_unit`). `extent_mm` are the edges of the
    tight box. `center` is the box centre as a fraction of the scan's extent.
    """

    box: Box
    volume_ml: float
    extent_mm: Triple
    mean: tuple[float, ...]
    maximum: tuple[float, ...]
    contrast: tuple[float, ...]
    center: Triple


@dataclass(frozen=True)
class CaseFacts:
    """What the fingerprint knows of one case."""

    case: str
    grid: Grid
    tumors: tuple[TumorFacts, ...]


@dataclass(frozen=True)
class ChannelFacts:
    """Pooled intensities of one channel, as in `TumorFacts`. `foreground` and `image` map percentiles ("0.5" ... "99.95") to values."""

    name: str
    foreground: dict[str, float]
    image: dict[str, float]
    minimum: float
    maximum: float


@dataclass(frozen=True)
class Fingerprint:
    """The facts planning needs, and nothing else of the data set. `labels` maps names to values."""

    dataset: str
    path: str
    content_hash: str
    file_ending: str
    labels: dict[str, int]
    tumor_name: str
    tumor_label: int
    channels: tuple[ChannelFacts, ...]
    cases: tuple[CaseFacts, ...]

    @property
    def tumors(self) -> tuple[TumorFacts, ...]:
        return tuple(tumor for case in self.cases for tumor in case.tumors)

    def of(self, cases: Collection[str]) -> Fingerprint:
        """The same of some cases alone; what was pooled over all stays pooled."""
        return replace(self, cases=tuple(case for case in self.cases if case.case in cases))
