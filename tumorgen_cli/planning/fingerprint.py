"""The facts that planning needs, measured in one pass over a data set that also checks it.

Every file of imagesTr and labelsTr is read once. This module writes nothing; `plan` writes the fingerprint.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import ndimage

from tumorgen_cli.data import channels
from tumorgen_cli.data.body import body_levels, body_mask, body_stride, body_volume_ml
from tumorgen_cli.data.contents import Contents, hash_case
from tumorgen_cli.data.dataset import Dataset
from tumorgen_cli.data.integrity import CaseCheck, CaseVoxels, check_case, conclude_checks
from tumorgen_cli.data.surroundings import Surroundings, describe_shell
from tumorgen_cli.data.workers import map_cases
from tumorgen_cli.geometry import Box, Grid, Triple, as_triple, box_of_slices, shell_mm
from tumorgen_cli.system import files, json_records
from tumorgen_cli.system.console import Ticker
from tumorgen_cli.system.errors import DataError, Fault

FORMAT = 3  # of fingerprint.json; raise it where the facts are measured in another way
PERCENTILES = (0.05, 0.5, 5.0, 50.0, 95.0, 99.0, 99.5, 99.9, 99.95)
MIN_TUMOR_VOXELS = 8  # a 2x2x2 block; the box of a smaller component shows the grid rather than the tumor
_SAMPLES_PER_CASE = 50_000
_SAMPLES = 4_000_000  # per channel, over all cases
_SHELL_VOXELS = 8_000_000  # larger crops are subsampled before distances are computed; a mean does not need more
_CONNECTIVITY_26 = np.ones((3, 3, 3), bool)


@dataclass(frozen=True)
class Findings:
    """The fingerprint of a data set, and what the user should know although it is no fault.

    `tumor_free` lists the cases without a tumor voxel. `small_components` counts, by case, the tumor components that
    are too small to learn from. `contents` is the content of the files that were read. `padded` lists the cases with
    voxels that were not measured.
    """

    fingerprint: Fingerprint
    tumor_free: tuple[str, ...]
    small_components: dict[str, int]
    contents: Contents
    padded: tuple[str, ...] = ()

    @property
    def only_small(self) -> tuple[str, ...]:
        """The cases that have tumor components, but only small ones."""
        empty = {facts.case for facts in self.fingerprint.cases if not facts.tumors}
        return tuple(case for case in self.small_components if case in empty)

    @property
    def notes(self) -> tuple[str, ...]:
        """One line for each thing that the user should know."""
        notes = []
        if self.padded:
            notes.append(f"padding far below the measured intensities counts as air, in {_shortened(self.padded)}")
        if self.tumor_free:
            notes.append(f"cases without a tumor: {_shortened(self.tumor_free)}")
        if self.small_components:
            what = f"components of less than {MIN_TUMOR_VOXELS} voxels"
            count, where = sum(self.small_components.values()), _shortened(tuple(self.small_components))
            notes.append(f"{what}, left out: {count}, in {where}")
        if self.only_small:
            notes.append(f"cases with no larger component: {_shortened(self.only_small)}")
        return tuple(notes)


@dataclass(frozen=True)
class CaseReport:
    """The result of one pass over the files of a case: its check and, if it has no faults, its facts and samples.

    `foreground` holds sampled voxels of tumors, and `image` sampled voxels of the whole scan, (C, N) each. `padded`
    tells whether a channel has padding, which is filled before anything is measured.
    """

    check: CaseCheck
    contents: Contents = field(default_factory=dict)
    facts: CaseFacts | None = None
    small_components: int = 0
    foreground: np.ndarray | None = None
    image: np.ndarray | None = None
    padded: bool = False


def make_fingerprint(dataset: Dataset, workers: int | None = None, ticker: Ticker | None = None) -> Findings:
    """Check and measure a data set.

    Args:
        dataset: The data set.
        workers: Number of processes, as for `map_cases`.
        ticker: Reports progress.

    Raises:
        DataError: files have faults (all are listed), or no case has a tumor that is large enough.
    """
    samples = max(1000, min(_SAMPLES_PER_CASE, _SAMPLES // max(1, len(dataset.cases))))
    reports = list(map_cases(functools.partial(measure_case, samples=samples), dataset, workers, ticker))
    tumor_free = conclude_checks(dataset, [report.check for report in reports])
    cases = tuple(report.facts for report in reports if report.facts is not None)
    if not any(facts.tumors for facts in cases):
        found = f"no component of {dataset.tumor_name} has {MIN_TUMOR_VOXELS} voxels"
        remedy = "choose the right label with --tumor-label, or use scans of finer spacing"
        fault = Fault(str(dataset.path / "labelsTr"), found, "a tumor in one case at least", remedy)
        raise DataError(f"{dataset.name} has no tumor to learn from", [fault])
    contents = {name: content for report in reports for name, content in report.contents.items()}
    small = {report.check.case: report.small_components for report in reports if report.small_components}
    fingerprint = Fingerprint(
        dataset=dataset.name,
        path=str(dataset.path),
        content_hash=content_hash(dataset, contents),
        file_ending=dataset.file_ending,
        labels=dict(dataset.labels),
        tumor_name=dataset.tumor_name,
        tumor_label=dataset.tumor_label,
        channels=tuple(_channel_facts(name, i, reports) for i, name in enumerate(dataset.channel_names)),
        cases=cases,
        regions_class_order=dataset.class_order,
    )
    padded = tuple(report.check.case for report in reports if report.padded)
    return Findings(fingerprint, tumor_free, small, contents, padded)


def content_hash(dataset: Dataset, contents: Contents) -> str:
    """Compute the hash that `make_fingerprint` records.

    It depends on the names and the content of all files, on what dataset.json says of them, and on the format of the
    fingerprint.
    """
    hashes = {name: content.hash for name, content in contents.items()}
    regions = [dataset.class_order] if dataset.class_order else []
    return json_records.hash_value([FORMAT, dataset.channel_names, dataset.labels, dataset.cases, hashes, *regions])


def measure_case(dataset: Dataset, case: str, samples: int) -> CaseReport:
    """Check and measure a case. Each of its files is read once; at most `samples` voxels are kept for percentiles."""
    check, voxels = check_case(dataset, case)
    if voxels is None:
        return CaseReport(check)
    filled = tuple(map(channels.fill_padding, voxels.channels, dataset.channel_names))
    padded = any(new is not old for new, old in zip(filled, voxels.channels, strict=True))
    voxels = _in_units(replace(voxels, channels=filled), dataset.channel_names)
    body = _find_body(voxels)
    tumors, small = measure_tumors(voxels, body)
    levels, body_ml = _measure_body(voxels, body)
    rng = np.random.default_rng(files.derive_seed("fingerprint", case))
    return CaseReport(
        check=check,
        contents=hash_case(dataset, case),
        facts=CaseFacts(case, voxels.grid, tumors, levels, body_ml),
        small_components=small,
        foreground=_sample(voxels.channels, np.flatnonzero(voxels.tumor), samples, rng),
        image=_sample(voxels.channels, None, samples, rng),
        padded=padded,
    )


def _in_units(voxels: CaseVoxels, names: Sequence[str]) -> CaseVoxels:
    """Convert channels without a common scale to the scan's own unit, so that cases can be pooled."""
    converted = []
    for name, channel in zip(names, voxels.channels, strict=True):
        if channels.has_own_unit(name):
            low, high = channels.scan_unit(channel, voxels.tumor)
            converted.append((channel.astype(np.float32) - np.float32(low)) / np.float32((high - low) or 1))
        else:
            converted.append(channel)
    return replace(voxels, channels=tuple(converted))


def _find_body(voxels: CaseVoxels) -> np.ndarray:
    """Find the body with its tumors, of every `body_stride`-th voxel, bool."""
    thin = (slice(None, None, body_stride(voxels.grid.shape)),) * 3
    return body_mask(voxels.channels[0][thin].astype(np.float32), voxels.tumor[thin])


def _measure_body(voxels: CaseVoxels, whole: np.ndarray) -> tuple[tuple[tuple[float, ...], ...], float]:
    """Measure `CaseFacts.body` and `CaseFacts.body_ml`."""
    thin = (slice(None, None, body_stride(voxels.grid.shape)),) * 3
    body = whole & ~voxels.tumor[thin]
    levels = tuple(body_levels(channel[thin], body) for channel in voxels.channels) if body.any() else ()
    return levels, body_volume_ml(whole, voxels.grid)


def measure_tumors(voxels: CaseVoxels, body: np.ndarray | None = None) -> tuple[tuple[TumorFacts, ...], int]:
    """Measure the 26-connected tumor components, largest first; returns also how many were too small and left out.

    Args:
        voxels: The case.
        body: The body, of every `body_stride`-th voxel, bool. None: surroundings are not measured.
    """
    whole = ndimage.find_objects(voxels.tumor.view(np.uint8))
    if not whole:
        return (), 0
    corner = box_of_slices(whole[0]).start
    labeled, count = ndimage.label(voxels.tumor[whole[0]], _CONNECTIVITY_26)
    sizes = np.bincount(labeled.ravel(), minlength=count + 1)
    found = []
    for index, slices in enumerate(ndimage.find_objects(labeled), 1):
        if sizes[index] >= MIN_TUMOR_VOXELS:
            tight = box_of_slices(slices).shifted(corner)
            found.append(_measure_tumor(voxels, tight, labeled[slices] == index, body))
    tumors = sorted(found, key=lambda tumor: (-tumor.volume_ml, tumor.box.start))
    return tuple(tumors), count - len(tumors)


def _measure_tumor(voxels: CaseVoxels, box: Box, component: np.ndarray, body: np.ndarray | None) -> TumorFacts:
    grid = voxels.grid
    means = [float(channel[box.slices][component].mean(dtype=np.float64)) for channel in voxels.channels]
    shell = _find_shell(voxels, box, component)
    return TumorFacts(
        box=box,
        volume_ml=int(np.count_nonzero(component)) * grid.voxel_ml,
        extent_mm=as_triple(n * s for n, s in zip(box.shape, grid.spacing_mm, strict=True)),
        mean=tuple(means),
        contrast=tuple(mean - around for mean, around in zip(means, shell.means(voxels.channels), strict=True)),
        center=as_triple(c / n for c, n in zip(box.center, grid.shape, strict=True)),
        surroundings=None if body is None else _measure_surroundings(voxels, box, component, shell, body),
    )


@dataclass(frozen=True)
class _Shell:
    """The voxels around a tumor that belong to no tumor.

    `places` (N, 3) are voxels of the scan, or every n-th of them along each axis; `distance_mm` (N,) tells how far from
    the tumor they are, at most `reach_mm`.
    """

    places: np.ndarray
    distance_mm: np.ndarray
    reach_mm: float

    def means(self, channel_arrays: Sequence[np.ndarray]) -> list[float]:
        """The mean of each channel (X, Y, Z); NaN without a voxel."""
        if not len(self.places):
            return [math.nan] * len(channel_arrays)
        return [float(channel[tuple(self.places.T)].mean(dtype=np.float64)) for channel in channel_arrays]


def _find_shell(voxels: CaseVoxels, box: Box, component: np.ndarray) -> _Shell:
    spacing = voxels.grid.spacing_mm
    reach = shell_mm(int(np.count_nonzero(component)), spacing)
    crop = box.grown(as_triple(math.ceil(reach / s) for s in spacing), voxels.grid.shape)
    inside = np.zeros(crop.shape, bool)
    inside[box.shifted(as_triple(-s for s in crop.start)).slices] = component
    step = math.ceil((inside.size / _SHELL_VOXELS) ** (1 / 3))
    thinned = (slice(None, None, step),) * 3
    if not inside[thinned].any():
        thinned, step = (slice(None),) * 3, 1
    distance = ndimage.distance_transform_edt(~inside[thinned], sampling=[s * step for s in spacing])
    shell = (distance <= reach) & ~voxels.tumor[crop.slices][thinned]
    return _Shell(np.argwhere(shell) * step + crop.start, distance[shell], reach)


def _measure_surroundings(
    voxels: CaseVoxels, box: Box, component: np.ndarray, shell: _Shell, body: np.ndarray
) -> Surroundings | None:
    outer = shell.places[shell.distance_mm > shell.reach_mm / 2]
    if not len(outer):
        return None
    tumor = np.argwhere(component) + box.start
    rng = np.random.default_rng(files.derive_seed("surroundings", *box.start))
    stride = body_stride(voxels.grid.shape)
    spacing = voxels.grid.spacing_mm
    return describe_shell(voxels.channels, spacing, outer, tumor, shell.reach_mm, (body, stride), rng)


def _sample(
    channel_arrays: tuple[np.ndarray, ...], among: np.ndarray | None, samples: int, rng: np.random.Generator
) -> np.ndarray:
    """Take voxels (C, N) of every channel: those of `among` (flat indices; None: all), or `samples` of them."""
    total = channel_arrays[0].size if among is None else among.size
    picked = np.arange(total) if total <= samples else rng.integers(total, size=samples)
    places = picked if among is None else among[picked]
    return np.stack([channel.ravel()[places] for channel in channel_arrays]).astype(np.float32)


def _channel_facts(name: str, channel: int, reports: list[CaseReport]) -> ChannelFacts:
    foreground = np.concatenate([r.foreground[channel] for r in reports if r.foreground is not None])
    image = np.concatenate([r.image[channel] for r in reports if r.image is not None])
    return ChannelFacts(name, _percentiles(foreground), _percentiles(image))


def _percentiles(values: np.ndarray) -> dict[str, float]:
    return {f"{p:g}": float(v) for p, v in zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True)}


def _shortened(names: tuple[str, ...]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


@dataclass(frozen=True)
class TumorFacts:
    """One connected tumor component of a case, on the grid of the scan.

    Attributes:
        box: Tight box, in voxels.
        volume_ml: Volume in ml.
        extent_mm: Edges of the tight box in mm.
        mean: Mean intensity inside, per channel. Channels without a common scale are in the scan's own unit
            (`data.channels.scan_unit`).
        contrast: `mean` minus the mean of the shell around the component (`geometry.shell_mm`), without other tumors.
        center: Center of the box as a fraction of the scan's extent.
        surroundings: What is around the component; None if it fills the scan.
    """

    box: Box
    volume_ml: float
    extent_mm: Triple
    mean: tuple[float, ...]
    contrast: tuple[float, ...]
    center: Triple
    surroundings: Surroundings | None = None


@dataclass(frozen=True)
class CaseFacts:
    """The name, grid and tumors of one case.

    `body` holds, for each channel, the 5th, 50th and 95th percentile of the body without tumors, in the units of
    `TumorFacts`; it is empty if there is nothing but tumors. `body_ml` is the volume of the body with its tumors.
    """

    case: str
    grid: Grid
    tumors: tuple[TumorFacts, ...]
    body: tuple[tuple[float, ...], ...] = ()
    body_ml: float = 0.0


@dataclass(frozen=True)
class ChannelFacts:
    """Intensities of one channel, pooled over all cases, in the units of `TumorFacts`.

    `foreground` and `image` map percentiles ("0.05" to "99.95") to values, of tumors and of whole scans without
    padding. A minimum or maximum would follow a single dead or hot voxel.
    """

    name: str
    foreground: dict[str, float]
    image: dict[str, float]

    @property
    def low(self) -> float:
        """The lowest intensity, but for 0.05 % of the voxels."""
        return min(self.foreground["0.05"], self.image["0.05"])

    @property
    def high(self) -> float:
        """The highest intensity, but for 0.05 % of the voxels of tumors and of scans."""
        return max(self.foreground["99.95"], self.image["99.95"])


@dataclass(frozen=True)
class Fingerprint:
    """The facts about a data set that planning needs.

    `labels` maps names to values, and `tumor_label` is the value of the tumor; a region, and a tumor with several
    labels, have several. `regions_class_order` is that of dataset.json, for regions.
    """

    dataset: str
    path: str
    content_hash: str
    file_ending: str
    labels: dict[str, int | tuple[int, ...]]
    tumor_name: str
    tumor_label: int | tuple[int, ...]
    channels: tuple[ChannelFacts, ...]
    cases: tuple[CaseFacts, ...]
    regions_class_order: tuple[int, ...] = ()

    @property
    def tumors(self) -> tuple[TumorFacts, ...]:
        """The tumors of all cases."""
        return tuple(tumor for case in self.cases for tumor in case.tumors)

    def of(self, cases: Collection[str]) -> Fingerprint:
        """The fingerprint with only some cases; pooled intensities stay those of all cases."""
        return replace(self, cases=tuple(case for case in self.cases if case.case in cases))
