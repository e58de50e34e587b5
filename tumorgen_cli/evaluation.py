"""A synthetic set -> its scores: agreement with a judge, tumor statistics, Fréchet distances, beside the real data's.

Reads the set (an nnU-Net raw dataset with provenance.jsonl) and the real cases of the plan's dataset. Writes, into the
evaluation's folder, predictions/ and measured/ as it goes, then cases.csv, report.html and, last, scores.json. What was
measured of real cases lies beside it in .reference/, for all sets. Every intermediate file is named by the hash of all it
was made from, so that a rerun goes on where the last one stopped and nothing stale is taken.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tumorgen_cli.errors import Fault, PlanError, StateError
from tumorgen_cli.files import (
    from_plain,
    hash_file,
    hash_value,
    read_plain,
    to_plain,
    write_json,
    write_text,
)
from tumorgen_cli.metrics import frechet
from tumorgen_cli.metrics.agreement import dice, surface_dice
from tumorgen_cli.metrics.scores import (
    PLACES,
    Agreement,
    CaseScores,
    Group,
    Scores,
    compare,
    hard_shares,
    plane_distances,
    summarize,
    undefined_statistics,
    values_of,
)
from tumorgen_cli.metrics.tumors import TumorStatistics, describe_tumor
from tumorgen_cli.plan import Plan
from tumorgen_cli.records import Box, Grid
from tumorgen_cli.synthesis import read_provenance
from tumorgen_cli.volumes import read_image, read_volume, resample, same_geometry, write_volume
from tumorgen_cli.windows import scale, scan_limits, tight_box
from tumorgen_cli.workspace import Splits

if TYPE_CHECKING:
    from tumorgen_cli.console import Ticker
    from tumorgen_cli.judge import Judge

MARGIN_MM = 10.0  # a prediction counts within the painted box and this far around it
_MEASURES = 1  # raise it when what `_measure` returns changes
_SYNTHESIZE = "run `tumorgen synthesize` again"


@dataclass(frozen=True)
class CaseFiles:
    """Where a case lies. `box` (host voxels) is where it was painted; None for a real case."""

    group: Group
    case: str
    host: str
    images: tuple[Path, ...]
    label: Path
    box: Box | None


def evaluate_set(plan: Plan, splits: Splits, set_folder: Path, out: Path, judge: Judge | None, ticker: Ticker) -> Scores:
    """The scores of a set, written to `out`. `ticker` counts up to `evaluation_steps`.

    Agreement is counted within the pair: the generated mask against the judge's tumor voxels inside the painted box grown
    by 10 mm, tumors that were there before left out. For real test cases, the ceiling, the box is the tumor's tight one.
    Tumor statistics are of all that was painted in a pair, and of the whole tumor mask of a real case.

    Raises:
        StateError: the set is unfinished, or files are missing; all of them are named.
    """
    from tumorgen_cli.report import write_report

    work = [*synthetic_cases(plan, set_folder), *real_cases(plan, splits)]
    scored: list[CaseScores] = []
    features: dict[Group, list[np.ndarray]] = {"synthetic": [], "train": [], "test": []}
    for number, files in enumerate(work, 1):
        result, row = _score_case(plan, files, out if files.box else out.parent / ".reference", judge)
        if result is not None:
            scored.append(result)
            features[files.group].append(row)
        ticker(number, files.case)
    pairs, train, test = (tuple(case for case in scored if case.group == group) for group in features)
    scores = Scores(
        name=set_folder.name,
        set_hash=hash_file(set_folder / "provenance.jsonl"),
        plan_hash=plan.hash,
        channel=plan.channels[0].name,
        judge=str(judge.folder) if judge else "",
        judge_hash=judge.hash if judge else "",
        features=frechet.filters.__name__,
        tolerance_mm=plan.tolerance_mm,
        agreement=_agreement(pairs, test),
        comparisons=compare(pairs, train),
        shares=hard_shares(pairs, train),
        planes=plane_distances(*(np.array(rows) for rows in features.values())),
        cases=(*pairs, *train, *test),
    )
    write_text(out / "cases.csv", cases_table(scores))
    write_report(out / "report.html", scores, read_provenance(set_folder), set_folder / "previews")
    write_json(out / "scores.json", _none_for_nan(to_plain(scores)))
    return scores


def evaluation_steps(set_folder: Path, splits: Splits) -> int:
    """How many cases `evaluate_set` goes through."""
    return len(read_provenance(set_folder)) + len(splits.train) + len(splits.test)


def read_scores(path: Path) -> Scores:
    """The scores in a scores.json.

    Raises:
        StateError: missing, or from another version.
    """
    remedy = "run `tumorgen evaluate` again"
    try:
        return from_plain(Scores, _nan_for_none(read_plain(path, remedy)), where=path.name, remedy=remedy)
    except PlanError as error:
        raise StateError("The scores are of another version", error.faults) from error


def cases_table(scores: Scores) -> str:
    """All cases as CSV: group, case, host, agreement, the first channel's statistics."""
    names = [f.name for f in fields(TumorStatistics) if f.type == "float"]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["group", "case", "host", "dice", "surface_dice", *names])
    for case in scores.cases:
        numbers = [case.dice, case.surface_dice, *(getattr(case.statistics, name) for name in names)]
        table.writerow([case.group, case.case, case.host, *(f"{v:.6g}" for v in numbers)])
    return text.getvalue()


# -- which cases -------------------------------------------------------------------------------------------------
def synthetic_cases(plan: Plan, set_folder: Path) -> tuple[CaseFiles, ...]:
    """The pairs of a set by its provenance.

    Raises:
        StateError: no dataset.json, no pair, files missing, or images without provenance.
    """
    ending = read_plain(set_folder / "dataset.json", _SYNTHESIZE).get("file_ending", ".nii.gz")
    found = tuple(
        CaseFiles("synthetic", line.case, line.host, *_paths(set_folder, line.case, len(plan.channels), ending), line.box)
        for line in read_provenance(set_folder)
    )
    faults = _missing(found, _SYNTHESIZE)
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


def real_cases(plan: Plan, splits: Splits) -> tuple[CaseFiles, ...]:
    """The training and the test cases of the plan's dataset.

    Raises:
        StateError: files missing.
    """
    folder, groups = Path(plan.dataset_path), {"train": splits.train, "test": splits.test}
    found = tuple(
        CaseFiles(group, case, "", *_paths(folder, case, len(plan.channels), plan.file_ending), None)  # type: ignore[arg-type]
        for group, cases in groups.items()
        for case in cases
    )
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
class _Measured:
    """What is kept of a case: statistics (None without a tumor) and features (place, plane, D)."""

    statistics: TumorStatistics | None
    features: tuple[tuple[tuple[float, ...], ...], ...]


class _Scan:
    """A case's arrays, read when they are needed first: a rerun needs none."""

    def __init__(self, plan: Plan, files: CaseFiles) -> None:
        self.plan, self.files = plan, files
        self._read: tuple[np.ndarray, Grid, np.ndarray, np.ndarray] | None = None

    @property
    def arrays(self) -> tuple[np.ndarray, Grid, np.ndarray, np.ndarray]:
        """image (C, X, Y, Z), grid, the tumor that counts, other tumor voxels (both (X, Y, Z) bool)."""
        if self._read is None:
            image, grid = read_image(self.files.images)
            labels, label_grid = read_volume(self.files.label)
            if not same_geometry(grid, label_grid):
                fault = Fault(str(self.files.label), f"a grid of {label_grid.shape}", f"the image's of {grid.shape}", _SYNTHESIZE)
                raise StateError("A label does not lie on its image", [fault])
            tumor = labels == self.plan.tumor_label
            inside = np.zeros_like(tumor)
            inside[self.files.box.slices if self.files.box else ...] = True
            self._read = image, grid, tumor & inside, tumor & ~inside
        return self._read


def _score_case(plan: Plan, files: CaseFiles, folder: Path, judge: Judge | None) -> tuple[CaseScores | None, np.ndarray]:
    """Scores and features (place, plane, D) of a case; None for a real one without a tumor."""
    scan = _Scan(plan, files)
    content = [hash_file(path) for path in (*files.images, files.label)]
    key = hash_value([_MEASURES, content, files.box, plan.channels, plan.window, plan.tumor_label, frechet.filters.__name__])
    path = folder / "measured" / f"{files.case}.{key}.json"
    if not path.is_file():
        write_json(path, _none_for_nan(to_plain(_measure(scan))))
    kept = read_plain(path, "remove it")
    statistics = kept["statistics"] and from_plain(TumorStatistics, _nan_for_none(kept["statistics"]), path.name)
    features = np.array(kept["features"])
    if statistics is None and files.box is None:
        return None, features
    agreement = (math.nan, math.nan)
    if judge is not None and files.group != "train":
        agreement = _agree(scan, folder / "predictions" / judge.hash / f"{files.case}.{hash_value([content[:-1], files.box])}.nii.gz", judge)
    statistics = statistics or undefined_statistics(len(files.images))
    return CaseScores(files.group, files.case, files.host, statistics, *agreement), features


def _measure(scan: _Scan) -> _Measured:
    image, grid, tumor, others = scan.arrays
    statistics = describe_tumor(image, tumor, grid.spacing_mm, others)
    box = tight_box(tumor) or scan.files.box
    if box is None:
        return _Measured(None, ())
    window, center = window_around(scan.plan, image, grid, box)
    rows = []
    for place in PLACES:
        at = center if place == "tumor" else None
        rows.append(tuple(_features(window, plane, at) for plane in frechet.PLANES))
    return _Measured(statistics, tuple(rows))


def window_around(plan: Plan, image: np.ndarray, grid: Grid, box: Box) -> tuple[np.ndarray, tuple[float, ...]]:
    """The plan's window (C, *plan.window.shape), scaled to [0, 1], that shows `box`, and the box's centre in its voxels.

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
    limits = scan_limits(image, plan.channels)
    channels = np.stack([resample(channel, grid, onto, "linear") for channel in image])
    return (scale(channels, plan.channels, limits) + 1) / 2, tuple(center)


def _features(window: np.ndarray, plane: str, center: Sequence[float] | None) -> tuple[float, ...]:
    """The features of one slice, those of all channels side by side."""
    shown = np.stack([frechet.slices(channel, plane, center) for channel in window])
    return tuple(float(v) for v in frechet.filters(shown).ravel())


def _agree(scan: _Scan, path: Path, judge: Judge) -> tuple[float, float]:
    """Dice and surface Dice between the case's tumor and the judge's, within the box; see `evaluate_set`."""
    image, grid, tumor, others = scan.arrays
    box = scan.files.box or tight_box(tumor)
    if box is None:
        return math.nan, math.nan
    if path.is_file():
        predicted = read_volume(path)[0].astype(bool)
    else:
        shown = judged_region(grid, box, judge.usual_extent_mm)
        predicted = np.zeros(grid.shape, bool)
        part = grid.subgrid(shown.start, grid.spacing_mm, shown.shape)
        predicted[shown.slices] = judge.tumor(np.ascontiguousarray(image[(slice(None), *shown.slices)]), part)
        write_volume(path, predicted.astype(np.uint8), grid)
    margin = tuple(math.ceil(MARGIN_MM / s) for s in grid.spacing_mm)
    near = box.grown(margin, grid.shape).slices  # type: ignore[arg-type]
    found = predicted[near] & ~others[near]
    return dice(tumor[near], found), surface_dice(tumor[near], found, grid.spacing_mm, scan.plan.tolerance_mm)


def judged_region(grid: Grid, box: Box, usual_mm: Sequence[float]) -> Box:
    """What a judge is shown: the whole scan, but along an axis that is 1.5 times as long as the scans it was trained on,
    or more, that usual length around the box (never less than the box with its margin). nnU-Net scales intensities by
    what it sees, so a judge of crops is lost in a whole body.
    """
    start, stop = [], []
    for a, b, n, spacing, usual in zip(box.start, box.stop, grid.shape, grid.spacing_mm, usual_mm, strict=True):
        if n * spacing < 1.5 * usual:
            low, high = 0, n
        else:
            length = min(n, max(round(usual / spacing), b - a + 2 * math.ceil(MARGIN_MM / spacing)))
            low = min(max(0, (a + b - length) // 2), n - length)
            high = low + length
        start.append(low)
        stop.append(high)
    return Box(tuple(start), tuple(stop))  # type: ignore[arg-type]


# -- all cases ---------------------------------------------------------------------------------------------------
def _agreement(pairs: Sequence[CaseScores], test: Sequence[CaseScores]) -> Agreement:
    parts = [
        summarize(values_of(cases, field), f"{what}{field}")
        for what, cases in (("", pairs), ("real ", test))
        for field in ("dice", "surface_dice")
    ]
    return Agreement(*parts)


# -- nan in JSON -------------------------------------------------------------------------------------------------
def _none_for_nan(value: Any) -> Any:
    """JSON knows no nan: null stands for it in the files."""
    return _mapped(value, lambda v: None if isinstance(v, float) and not math.isfinite(v) else v)


def _nan_for_none(value: Any) -> Any:
    return _mapped(value, lambda v: math.nan if v is None else v)


def _mapped(value: Any, leaf: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {key: _mapped(part, leaf) for key, part in value.items()}
    if isinstance(value, list):
        return [_mapped(part, leaf) for part in value]
    return leaf(value)
