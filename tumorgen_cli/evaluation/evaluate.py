"""A synthetic set -> its scores, beside the real data's: do mask and picture agree, do the tumors look like real ones, are
they new.

Reads the set (an nnU-Net raw dataset with provenance.jsonl) and the real tumors of the plan's dataset. Writes, as it goes,
predictions/ and measured/ into .cache/ beside the evaluations of all sets, then cases.csv and, last, scores.json into the
set's own. What lies in the cache is named by the hash of all it was made from, so that a rerun goes on where the last one
stopped and nothing stale is taken.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tumorgen_cli.errors import Fault, PlanError, StateError, reason_words
from tumorgen_cli.files import (
    atomic,
    from_plain,
    hash_file,
    hash_files,
    hash_value,
    nan_for_none,
    none_for_nan,
    read_plain,
    to_plain,
    write_json,
    write_text,
)
from tumorgen_cli.judging import MARGIN_MM, judge_pair, predict_around
from tumorgen_cli.metrics import frechet
from tumorgen_cli.metrics.agreement import UNJUDGED, Verdict
from tumorgen_cli.metrics.frechet import PLANES
from tumorgen_cli.metrics.novelty import Lesion, lesion, novelty
from tumorgen_cli.metrics.reader_test import ReaderTest, describe_lesion, feature_scales, lesion_features, reader_test
from tumorgen_cli.metrics.scores import (
    PLACES,
    UNDEFINED_STATISTICS,
    VERDICT,
    CaseScores,
    Group,
    Scores,
    Summary,
    agree,
    compare,
    hard_shares,
    plane_distances,
    summarize,
)
from tumorgen_cli.metrics.tumors import TumorStatistics, describe_tumor
from tumorgen_cli.plan import Plan
from tumorgen_cli.previews import axial_strip, display_of, display_range, upright, upright_grid
from tumorgen_cli.records import Box, Fingerprint, Grid
from tumorgen_cli.sets import count_rejected, read_judges, read_left_out, read_provenance
from tumorgen_cli.shards import division_faults, read_log
from tumorgen_cli.volumes import read_image, read_volume, resample, same_geometry, write_volume
from tumorgen_cli.windows import comparable, scale, scan_limits, spanning_component, tight_box
from tumorgen_cli.workspace import Splits

if TYPE_CHECKING:
    from tumorgen_cli.console import Ticker
    from tumorgen_cli.judge import Judge
    from tumorgen_cli.metrics.features import Network

_MEASURES = 4  # raise it when what `_measure` returns changes
_AROUND = (5, 5, 5)  # voxels around a tumor that a picture should show without clipping: a tumor may be darker than they are
_SYNTHESIZE = "run `tumorgen synthesize` again"


@dataclass(frozen=True)
class CaseFiles:
    """One tumor, and where its scan lies. `host`: what it was painted into, of a real tumor the case it lies in. In voxels, `box`: where
    the scan may have changed, `asked`: the box as it was drawn or given (`Provenance`); of a real tumor both are its tight one."""

    group: Group
    case: str
    host: str
    images: tuple[Path, ...]
    label: Path
    box: Box
    asked: Box


class Volumes:
    """The scan and the labels of a case, read and hashed once, when first asked for: a scan may hold many tumors."""

    def __init__(self, files: CaseFiles) -> None:
        self.images, self.label = files.images, files.label

    @cached_property
    def image_hashes(self) -> list[str]:
        return [hash_file(path) for path in self.images]

    @cached_property
    def label_hash(self) -> str:
        return hash_file(self.label)

    @cached_property
    def labels(self) -> tuple[np.ndarray, Grid]:
        return read_volume(self.label)

    @cached_property
    def image(self) -> tuple[np.ndarray, Grid]:
        return read_image(self.images)


def evaluate_set(
    plan: Plan, real: Sequence[CaseFiles], set_folder: Path, out: Path, judge: Judge | None, network: Network, seed: int, ticker: Ticker
) -> Scores:
    """The scores of a set beside those of `real_tumors`, written to `out`. `seed` divides the reader test's folds; `ticker` counts up to
    `evaluation_steps`.

    A pair holds one painted tumor, and is held against real tumors one by one, however many a case has. Agreement is counted within the
    pair: the generated mask against the judge's tumor voxels inside mask and asked box grown by 10 mm, other tumors left out. For real
    test cases, the ceiling, the box is the tumor's tight one. `network` gives the features of the slices.

    Raises:
        StateError: the set is unfinished, or files are missing; all of them are named.
    """
    work, cache = [*synthetic_cases(plan, set_folder), *real], cache_of(out)
    scored: dict[Group, list[CaseScores]] = {"synthetic": [], "train": [], "test": []}
    measured: dict[Group, list[Measured]] = {"synthetic": [], "train": [], "test": []}
    features: dict[Group, list[np.ndarray]] = {"synthetic": [], "train": [], "test": []}
    volumes = Volumes(work[0])
    for number, files in enumerate(work, 1):
        if volumes.images != files.images:
            volumes = Volumes(files)
        found = measure_case(plan, files, cache, volumes)
        scored[files.group].append(_score_case(plan, files, found, cache, judge, volumes))
        measured[files.group].append(found)
        features[files.group].append(_slice_features(found, network))
        ticker(number, files.case)
    pairs, train, test = (tuple(cases) for cases in scored.values())
    main = plan.main_channel
    scores = Scores(
        name=set_folder.name,
        set_hash=hash_file(set_folder / "provenance.jsonl"),
        plan_hash=plan.hash,
        channel=plan.channels[main].name,
        judge=str(judge.folder) if judge else "",
        judge_hash=judge.hash if judge else "",
        features=network.name,
        is_fid=network.is_fid,
        tolerance_mm=plan.tolerance_mm,
        agreement=agree(pairs, test, train),
        comparisons=compare(pairs, train),
        redrawn_volume=_redrawn_volume(set_folder, real, (*pairs, *train, *test)),
        shares=hard_shares(pairs, train),
        planes=plane_distances(*map(np.array, features.values()), *([case.host for case in cases] for cases in (pairs, train, test))),
        reader=_reader_test(plan, pairs, (*train, *test), measured, seed),
        novelty=novelty(*(_lesions(scored[group], measured[group]) for group in ("synthetic", "train", "test"))),
        cases=(*pairs, *train, *test),
    )
    write_text(out / "cases.csv", cases_table(scores))
    write_json(out / "scores.json", none_for_nan(to_plain(scores)))
    return scores


def _redrawn_volume(set_folder: Path, real: Sequence[CaseFiles], scores: Sequence[CaseScores]) -> Summary:
    """The volume of each pair's tumor over that of its host's own tumors in its box; pairs that replace none are left out."""
    volume, hash_host = {case.case: case.statistics.volume_ml for case in scores}, functools.cache(hash_files)
    ratios, hosts = [], []
    for pair in read_provenance(set_folder):
        old = [files for files in real if files.host == pair.host and pair.asked.holds(files.box)]
        if old and hash_host(old[0].images) == pair.host_hash:  # else it is another scan of a case's name
            ratios.append(volume[pair.case] / sum(volume[files.case] for files in old))
            hosts.append(pair.host)
    return summarize(np.array(ratios), "redrawn volume", hosts)


def write_page(plan: Plan, real: Sequence[CaseFiles], set_folder: Path, out: Path, scores: Scores, others: Sequence[Scores]) -> Path:
    """The set's report.html, with the pictures it shows; `others` are sets to compare with."""
    from tumorgen_cli.report import Losses, Pictures, Strip, nearest_pairs, shown_pairs, write_report

    files = {each.case: each for each in (*synthetic_cases(plan, set_folder), *real)}
    slices = {}
    for case in {case for near in nearest_pairs(scores) for case in (near.case, near.nearest)}:
        found = measure_case(plan, files[case], cache_of(out))
        slices[case] = found.slices["axial"][PLACES.index("tumor"), plan.main_channel]
    strips = {}
    colormap, _ = display_of(scores.channel)
    for pair in shown_pairs(scores).values():
        image, grid, tumor, beside = read_case(plan, files[pair.case])
        if tumor.any():
            box = tight_box(tumor)
            assert box is not None
            channel = image[plan.main_channel]
            limits = scan_limits(image, plan.channels, tumor | beside)[plan.main_channel]
            shown = display_range(limits, (channel,), box.grown(_AROUND, grid.shape))
            strips[pair.case] = Strip(*axial_strip(channel, tumor, grid.spacing_mm, shown, grid.direction, colormap=colormap))
    path = out / "report.html"
    provenance, given_up = read_provenance(set_folder), read_log(set_folder, "given_up")
    losses = Losses(
        {case: line.get("reason") or reason_words(line["rejected"]) for case, line in given_up.items()},
        read_left_out(set_folder), count_rejected(provenance, given_up), tuple(read_judges(set_folder)),
    )  # fmt: skip
    write_report(path, scores, others, provenance, losses, Pictures(set_folder / "previews", strips, slices))
    return path


def evaluation_steps(set_folder: Path, real: Sequence[CaseFiles]) -> int:
    """How many tumors `evaluate_set` goes through."""
    return len(read_provenance(set_folder)) + len(real)


def read_scores(path: Path) -> Scores:
    """The scores in a scores.json.

    Raises:
        StateError: missing, or from another version.
    """
    remedy = "run `tumorgen evaluate` again"
    try:
        return from_plain(Scores, nan_for_none(read_plain(path, remedy)), where=path.name, remedy=remedy)
    except PlanError as error:
        raise StateError("The scores are of another version", error.faults) from error


def cases_table(scores: Scores) -> str:
    """All cases as CSV: group, case, host, agreement, the reader test's suspicion of a pair, the main channel's statistics."""
    names = [field.name for field in fields(TumorStatistics)]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["group", "case", "host", *VERDICT, "suspicion", *names])
    painted = [case.case for case in scores.of("synthetic") if case.statistics.volume_ml > 0]
    suspicion = dict(zip(painted, scores.reader.suspicion, strict=True))
    for case in scores.cases:
        suspected = suspicion.get(case.case, math.nan) if case.group == "synthetic" else math.nan
        numbers = [*(getattr(case.verdict, name) for name in VERDICT), suspected, *(getattr(case.statistics, name) for name in names)]
        table.writerow([case.group, case.case, case.host, *(f"{v:.6g}" for v in numbers)])
    return text.getvalue()


# -- which cases -------------------------------------------------------------------------------------------------
def synthetic_cases(plan: Plan, set_folder: Path) -> tuple[CaseFiles, ...]:
    """The pairs of a set by its provenance.

    Raises:
        StateError: no dataset.json, no pair, files missing, images without provenance, or shards still at work.
    """
    ending = read_plain(set_folder / "dataset.json", _SYNTHESIZE).get("file_ending", ".nii.gz")
    found = tuple(
        CaseFiles("synthetic", line.case, line.host, *_paths(set_folder, line.case, len(plan.channels), ending), line.box, line.asked)
        for line in read_provenance(set_folder)
    )
    faults = _missing(found, _SYNTHESIZE)
    faults += division_faults(set_folder)
    known = {files.case for files in found}
    for path in sorted((set_folder / "imagesTr").glob(f"*_0000{ending}")):
        if path.name[: -len(f"_0000{ending}")] not in known:
            faults.append(
                Fault(str(path), "no line in provenance.jsonl", "a line for every pair", "remove it, or synthesize again")
            )
    if not found:
        faults.append(Fault(str(set_folder), "no pair", "one pair at least", _SYNTHESIZE))
    if faults:
        raise StateError("The synthetic set is not whole", faults)
    return found


def real_tumors(plan: Plan, fingerprint: Fingerprint, splits: Splits) -> tuple[CaseFiles, ...]:
    """The tumors of the training and the test cases of the plan's dataset, named by their case, with a number where it has several.

    Raises:
        StateError: files missing.
    """
    folder, tumors = Path(plan.dataset_path), {facts.case: facts.tumors for facts in fingerprint.cases}
    groups: dict[Group, tuple[str, ...]] = {"train": splits.train, "test": splits.test}
    found = tuple(
        CaseFiles(
            group, case if len(tumors[case]) == 1 else f"{case}_tumor{number}", case,
            *_paths(folder, case, len(plan.channels), plan.file_ending), tumor.box, tumor.box,
        )
        for group, cases in groups.items()
        for case in cases
        for number, tumor in enumerate(tumors[case], 1)
    )  # fmt: skip
    faults = _missing(found, "put the dataset back, or run `tumorgen plan DATASET` where it is now")
    if faults:
        raise StateError("The real cases are not there", faults)
    return found


def _paths(folder: Path, case: str, channels: int, ending: str) -> tuple[tuple[Path, ...], Path]:
    images = tuple(folder / "imagesTr" / f"{case}_{channel:04d}{ending}" for channel in range(channels))
    return images, folder / "labelsTr" / f"{case}{ending}"


def _missing(cases: Sequence[CaseFiles], remedy: str) -> list[Fault]:
    paths = [path for files in cases for path in (*files.images, files.label)]
    return [Fault(str(path), "no such file", "a file of the case", remedy) for path in paths if not path.is_file()]


# -- one case ----------------------------------------------------------------------------------------------------
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


def read_case(plan: Plan, files: CaseFiles, volumes: Volumes | None = None) -> tuple[np.ndarray, Grid, np.ndarray, np.ndarray]:
    """image (C, X, Y, Z), grid, the tumor that counts, other tumor voxels (both (X, Y, Z) bool).

    Raises:
        StateError: the label does not lie on the image.
    """
    volumes = volumes or Volumes(files)
    tumor, others, _ = read_tumor(plan, files, volumes)
    return *_image_of(files, volumes), tumor, others


def _image_of(files: CaseFiles, volumes: Volumes) -> tuple[np.ndarray, Grid]:
    (image, grid), (_, label_grid) = volumes.image, volumes.labels
    if not same_geometry(grid, label_grid):
        remedy = _SYNTHESIZE if files.group == "synthetic" else "correct the label, then plan again"
        fault = Fault(str(files.label), f"a grid of {label_grid.shape}", f"the image's of {grid.shape}", remedy)
        raise StateError("A label does not lie on its image", [fault])
    return image, grid


def read_tumor(plan: Plan, files: CaseFiles, volumes: Volumes | None = None) -> tuple[np.ndarray, np.ndarray, Grid]:
    """The tumor that counts, of a pair what lies in the painted box, and all other tumor voxels (X, Y, Z) bool; their grid.

    Raises:
        StateError: a tumor is no longer where the set's provenance, or the plan's fingerprint, has it.
    """
    labels, grid = (volumes or Volumes(files)).labels
    tumor = labels == plan.tumor_label
    own = np.zeros_like(tumor)
    inside = tumor[files.box.slices]
    part = inside if files.group == "synthetic" else spanning_component(inside)
    if part is None or part.shape != files.box.shape:
        where = f"one that fills the box {files.box.start} to {files.box.stop}"
        remedy = _SYNTHESIZE if files.group == "synthetic" else "run `tumorgen plan DATASET` again"
        raise StateError("A tumor is not where it was", [Fault(str(files.label), "no such tumor: the label has changed", where, remedy)])
    own[files.box.slices] = part
    return own, tumor & ~own, grid


def cache_of(out: Path) -> Path:
    """Where what was measured and predicted lies, beside the evaluations of all sets of a workspace."""
    return out.parent / ".cache"


def measure_case(plan: Plan, files: CaseFiles, cache: Path, volumes: Volumes | None = None) -> Measured:
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


def _score_case(plan: Plan, files: CaseFiles, found: Measured, cache: Path, judge: Judge | None, volumes: Volumes) -> CaseScores:
    verdict = verdict_of(plan, files, cache, judge, volumes) if judge is not None and files.group != "train" else UNJUDGED
    statistics = found.statistics or UNDEFINED_STATISTICS
    return CaseScores(files.group, files.case, files.host, statistics, verdict)


def _measure(plan: Plan, files: CaseFiles, volumes: Volumes, path: Path) -> Measured:
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
    image, zero = comparable(image, plan.channels, limits)
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
    return {plane: np.stack([[frechet.slices(channel, plane, seen[place][1]) for channel in seen[place][0]] for place in PLACES]) for plane in PLANES}


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


def _reader_test(plan: Plan, pairs: Sequence[CaseScores], real: Sequence[CaseScores], measured: dict[Group, list[Measured]], seed: int) -> ReaderTest:
    """A tumor's group is its scan: redrawn in a real case, synthetic and real ones belong together."""
    rows = [[m.lesion for m in found if m.statistics is not None] for found in (measured["synthetic"], [*measured["train"], *measured["test"]])]
    groups = [[case.host for case in cases if case.statistics.volume_ml > 0] for cases in (pairs, real)]
    features = lesion_features([channel.name for channel in plan.channels])
    ours, theirs = (np.array(part).reshape(-1, len(features)) for part in rows)
    return reader_test(ours, theirs, *groups, features, seed)


def _lesions(cases: Sequence[CaseScores], measured: Sequence[Measured]) -> list[Lesion]:
    return [
        Lesion(case.case, case.host, found.patch, found.facts)
        for case, found in zip(cases, measured, strict=True)
        if found.statistics is not None
    ]


def window_around(plan: Plan, image: np.ndarray, grid: Grid, box: Box, limits: np.ndarray) -> tuple[np.ndarray, tuple[float, ...]]:
    """The plan's window (C, *plan.window.shape), scaled to [0, 1] by the scan's clip limits, that shows `box`, and the box's centre in its voxels.

    The window is centred on the box and kept inside the scan where the scan is larger than it, as in training.
    """
    start_mm, center = [], []
    for extent, window, middle, spacing, step in zip(
        grid.extent_mm, plan.window.extent_mm, box.center, grid.spacing_mm, plan.window.spacing_mm, strict=True
    ):
        start = float(np.clip(middle * spacing - window / 2, 0, extent - window)) if extent >= window else (extent - window) / 2
        start_mm.append(start)
        center.append((middle * spacing - start) / step - 0.5)
    start_voxels = tuple(a / s for a, s in zip(start_mm, grid.spacing_mm, strict=True))
    onto = grid.subgrid(start_voxels, plan.window.spacing_mm, plan.window.shape)  # type: ignore[arg-type]
    channels = np.stack([resample(channel, grid, onto, "linear") for channel in image])
    return (scale(channels, plan.channels, limits) + 1) / 2, tuple(center)


def verdict_of(plan: Plan, files: CaseFiles, cache: Path, judge: Judge, volumes: Volumes | None = None) -> Verdict:
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
