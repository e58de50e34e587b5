"""Real or synthetic? A blind study as one HTML page, and the scores of those who took it.

`make_study` reads synthetic sets and the real cases of the plan's dataset; it writes `reader_study.html`, which needs nothing
beside it and tells nothing, and `key.json`, which holds the truth and stays with whoever runs the study. `score_study` reads
the answers that the page exports, and the key; it writes nothing.

Volumes in the page have their axes pointing to the patient's left, back and head (`previews.upright`).
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tumorgen_cli.data.volumes import resample
from tumorgen_cli.evaluation.cases import TumorCase, read_case, read_tumor, synthetic_cases
from tumorgen_cli.figures import display_style, upright, upright_grid
from tumorgen_cli.geometry import Box, Grid, Shape, Triple, tight_box
from tumorgen_cli.pipeline.sets import finished_sets
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.intensity import scale, scan_limits
from tumorgen_cli.synthesis.set_files import read_provenance
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import DataError, Fault, PlanError, StateError
from tumorgen_cli.system.files import derive_seed, hash_file, write_text
from tumorgen_cli.system.json_records import from_plain, hash_value, read_plain, read_record, write_json
from tumorgen_cli.system.locks import locked

if TYPE_CHECKING:
    from tumorgen_cli.system.console import Ticker


def make_reader_study(
    workspace: Workspace, synthetic: Sequence[Path], pairs: int, out: Path | None, seed: int | None, with_mask: bool
) -> Study:
    """A page on which readers tell real from synthetic lesions, and its key."""
    from tumorgen_cli.evaluation.cases import real_tumors
    from tumorgen_cli.studies.reader_study import make_study, study_steps

    plan, folders = workspace.plan(), finished_sets(workspace, synthetic)
    real = real_tumors(plan, workspace.fingerprint(), workspace.splits())
    folder = out or workspace.root / "reader_study"
    with locked(folder, "reader-study"), console.progress("drawing", study_steps(real, folders, pairs)) as tick:
        return make_study(plan, real, folders, folder, pairs, plan.seed if seed is None else seed, tick, with_mask)


Truth = Literal["real", "synthetic"]
PAGE, KEY = "reader_study.html", "key.json"
MEGABYTES = 15.0  # of the page: what mail still takes
CONFIDENCES = (1, 2, 3, 4, 5)  # guessed ... certain
SCORE_COLUMNS = ("reader", "answered", "skipped", "sensitivity", "specificity", "accuracy", "AUC", "seconds a case")
SCORE_NOTE = (
    "Positives are the real lesions, as in DiffTumor's Table 1: sensitivity is the share of real ones called real, specificity the "
    "share of synthetic ones called synthetic (low where they pass for real). 95 % Wilson intervals; skipped cases count in none. "
    "Accuracy and AUC of 0.5 are a coin's. Pooled intervals take answers as independent, though readers see the same cases."
)


@dataclass(frozen=True)
class KeyCase:
    """What a case of the page is. `origin`: the set's folder name, or held-out or training.

    `shifted`: the lesion was too near the scan's edge to lie in the window's middle. `cut`: its tight box is larger than the
    window. `shares_background`: cases of the page whose window overlaps this one in the same host.
    """

    id: str
    truth: Truth
    origin: str
    case: str
    host: str
    lesion_ml: float
    host_spacing_mm: Triple
    shifted: bool
    cut: bool
    shares_background: tuple[str, ...]


@dataclass(frozen=True)
class Key:
    """`key.json`. `study` is the hash that page, answers and key share; shape and spacing are the page's, (left, back, head)."""

    study: str
    seed: int
    plan_hash: str
    sets: tuple[str, ...]
    shape: Shape
    spacing_mm: Triple
    with_mask: bool
    notes: tuple[str, ...]
    cases: tuple[KeyCase, ...]


@dataclass(frozen=True)
class Study:
    """What `make_study` wrote. `notes` say what the reader might guess from, and what was not as asked."""

    page: str
    key: str
    study: str
    cases: int
    megabytes: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """A reader's word on a case: None where it was skipped or never opened. `seconds`: how long it was in view."""

    case: str
    answer: Truth | None
    confidence: int | None
    comment: str
    seconds: float


@dataclass(frozen=True)
class Answers:
    """The file that the page exports."""

    study: str
    reader: str
    exported: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Proportion:
    """`count` of `total` with its 95 % Wilson interval; nan where `total` is 0."""

    count: int
    total: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ReaderScores:
    """One reader's scores, or all readers' answers together. Positives are the real lesions; see `SCORE_NOTE`."""

    reader: str
    answered: int
    skipped: int
    sensitivity: Proportion
    specificity: Proportion
    accuracy: Proportion
    auc: float
    seconds: float


@dataclass(frozen=True)
class StudyScores:
    """The scores of a study. `pooled` takes every answer of every reader as one."""

    study: str
    cases: int
    readers: tuple[ReaderScores, ...]
    pooled: ReaderScores


def make_study(
    plan: Plan,
    real: Sequence[TumorCase],
    set_folders: Sequence[Path],
    out: Path,
    pairs: int,
    seed: int,
    ticker: Ticker,
    with_mask: bool = False,
    megabytes: float = MEGABYTES,
) -> Study:
    """Writes a page of `pairs` synthetic and `pairs` lesions of `real` in a seeded order, and its key. `ticker` counts up to `study_steps`.

    Every lesion is treated alike: its largest component (of a synthetic pair: of what was painted) lies in the middle of
    a window of the study's one size, moved inside the scan where it would leave it; linear interpolation onto the study's
    one grid; the plan's clip window in 8 bits. The window is the plan's, or as large as the smallest of all scans holds, so
    that no picture is padded. The grid has the finest spacing of any scan, so that no detail of a real lesion is lost nor a
    blur of a painted one hidden; coarser only if the page would be larger than `megabytes`.

    Synthetic lesions are taken from the sets in turn, those whose background was not shown yet first. Real ones: no repeated
    background first, then held-out before training cases. What repeats nonetheless is in the key.

    Raises:
        DataError: too few lesions of a kind. StateError: files missing, or `out` holds another study's key.
    """
    pool = _read_pool(plan, real, set_folders, ticker)
    _check_pool(pool, pairs)
    spacing, shape = _study_grid(plan, pool, 2 * pairs, megabytes)
    rng = np.random.default_rng(derive_seed(seed, "reader study"))
    placed = [_place(lesion, shape, spacing) for lesion in (pool[i] for i in rng.permutation(len(pool)))]
    synthetic = _pick([p for p in placed if p.lesion.truth == "synthetic"], pairs, ())
    picked = [*synthetic, *_pick([p for p in placed if p.lesion.truth == "real"], pairs, synthetic)]
    shown = [picked[i] for i in rng.permutation(len(picked))]
    cases = []
    for number, place in enumerate(shown, 1):
        cases.append({"id": _id(number), **_drawn(plan, place, shape, spacing, with_mask)})
        ticker(len(pool) + number, f"case {number}")
    study = hash_value([seed, shape, spacing, [place.lesion.truth for place in shown], cases])
    key = Key(
        study,
        seed,
        plan.hash,
        tuple(str(folder) for folder in set_folders),
        shape,
        spacing,
        with_mask,
        tuple(_notes(plan, pool, shown, shape, spacing)),
        tuple(_key_case(shown, i, shape, spacing) for i in range(len(shown))),
    )
    _claim(out / KEY, key)
    page = _page(plan, study, shape, spacing, cases)
    write_text(out / PAGE, page)
    write_json(out / KEY, key)
    return Study(str(out / PAGE), str(out / KEY), study, len(cases), round(len(page.encode()) / 1e6, 2), key.notes)


def study_steps(real: Sequence[TumorCase], set_folders: Sequence[Path], pairs: int) -> int:
    """How many steps `make_study` takes: every lesion that could be shown, and every one that is."""
    return sum(len(read_provenance(folder)) for folder in set_folders) + len(real) + 2 * pairs


@dataclass(frozen=True)
class _Lesion:
    """A lesion that may be shown: where it lies in its scan, both along the patient's axes."""

    files: TumorCase
    origin: str
    grid: Grid
    box: Box
    volume_ml: float
    limit_mm: Triple  # the plan's window along the patient's axes

    @property
    def truth(self) -> Truth:
        return "synthetic" if self.files.group == "synthetic" else "real"

    @property
    def host(self) -> str:
        return self.files.host


@dataclass(frozen=True)
class _Placed:
    """A lesion and the start of its window, in mm from the scan's outer corner."""

    lesion: _Lesion
    start_mm: Triple
    extent_mm: Triple
    shifted: bool

    def overlap(self, other: _Placed) -> float:
        """The share of the window that the other shows too; 0 in different hosts."""
        if self.lesion.host != other.lesion.host:
            return 0.0
        common = [
            max(0.0, e - abs(a - b)) / e for a, b, e in zip(self.start_mm, other.start_mm, self.extent_mm, strict=True)
        ]
        return math.prod(common)

    @property
    def cut(self) -> bool:
        box = self.lesion.box
        return any(n * s > e for n, s, e in zip(box.shape, self.lesion.grid.spacing_mm, self.extent_mm, strict=True))


def _read_pool(plan: Plan, real: Sequence[TumorCase], set_folders: Sequence[Path], ticker: Ticker) -> list[_Lesion]:
    """Every lesion of the sets and every real one; pairs without a tumor are left out."""
    work = [(files, folder.name) for folder in set_folders for files in synthetic_cases(plan, folder)]
    work += [(files, {"test": "held-out", "train": "training"}[files.group]) for files in real]
    pool: list[_Lesion] = []
    seen = set()  # a filtered set holds pairs of the set it was made from
    for number, (files, origin) in enumerate(work, 1):
        known = (files.group, files.case, hash_file(files.images[0]))
        lesion = None if known in seen else _find_lesion(plan, files, origin)
        seen.add(known)
        if lesion is not None:
            pool.append(lesion)
        ticker(number, files.case)
    return pool


def _find_lesion(plan: Plan, files: TumorCase, origin: str) -> _Lesion | None:
    """A real tumor, or of what was painted in a pair the largest component; None without a tumor."""
    mask, _, grid = read_tumor(plan, files)
    largest = _largest(upright(mask, grid.direction))
    if largest is None:
        return None
    box, voxels = largest
    window = upright_grid(replace(grid, shape=plan.window.shape, spacing_mm=plan.window.spacing_mm))
    return _Lesion(files, origin, upright_grid(grid), box, round(voxels * grid.voxel_ml, 4), window.extent_mm)


def _largest(mask: np.ndarray) -> tuple[Box, int] | None:
    """Tight box and voxel count of the largest connected component."""
    from scipy import ndimage

    tight = tight_box(mask)
    if tight is None:
        return None
    numbered, _ = ndimage.label(mask[tight.slices], np.ones((3, 3, 3)))
    sizes = np.bincount(numbered.ravel())[1:]
    number = int(sizes.argmax())
    where = ndimage.find_objects(numbered)[number]
    found = Box(tuple(s.start for s in where), tuple(s.stop for s in where))
    return found.shifted(tight.start), int(sizes[number])


def _check_pool(pool: Sequence[_Lesion], pairs: int) -> None:
    counts = Counter(lesion.truth for lesion in pool)
    remedies = {
        "synthetic": "run `tumorgen synthesize` for more pairs, or ask for fewer",
        "real": "ask for fewer pairs",
    }
    faults = [
        Fault(f"{truth} lesions", str(counts[truth]), f"{pairs}, each a tumor of its own", remedy)  # type: ignore[index]
        for truth, remedy in remedies.items()
        if counts[truth] < pairs  # type: ignore[index]
    ]
    if pairs < 1:
        faults = [Fault("pairs", str(pairs), "1 or more", "ask for some")]
    if faults:
        raise DataError("The study cannot be filled", faults)


def _study_grid(plan: Plan, pool: Sequence[_Lesion], cases: int, megabytes: float) -> tuple[Triple, Shape]:
    """Spacing and shape of every picture of the study; both follow from the pool, so that they tell nothing of who was picked."""
    spacing = np.min([lesion.grid.spacing_mm for lesion in pool], axis=0)
    # voxel centres of the window lie between voxel centres of the scan: nothing is extrapolated
    held = [np.array(lesion.grid.extent_mm) - np.array(lesion.grid.spacing_mm) + spacing for lesion in pool]
    extent = np.minimum(np.min(held, axis=0), np.min([lesion.limit_mm for lesion in pool], axis=0))
    # base64 makes 4 characters of 3 bytes and deflate takes a quarter of noisy 8-bit scans: about a byte of page per voxel
    voxels = float(np.prod(extent / spacing)) * len(plan.channels) * cases
    spacing = spacing * max(1.0, voxels / (megabytes * 1e6)) ** (1 / 3)
    shape = np.maximum(1, np.floor(extent / spacing + 1e-6)).astype(int)
    return tuple(float(s) for s in spacing), tuple(int(n) for n in shape)  # type: ignore[return-value]


def _place(lesion: _Lesion, shape: Shape, spacing_mm: Triple) -> _Placed:
    start_mm, extent_mm, shifted = [], [], False
    for middle, n, h, size, s in zip(
        lesion.box.center, lesion.grid.shape, lesion.grid.spacing_mm, shape, spacing_mm, strict=True
    ):
        extent, edge = size * s, (h - s) / 2
        wanted = (
            round(middle - extent / 2 / h) * h
        )  # whole voxels: where the scan has the study's spacing, none is interpolated
        start = min(max(wanted, edge), n * h - edge - extent)
        shifted |= abs(start - wanted) > h / 2 + 1e-6
        start_mm.append(start)
        extent_mm.append(extent)
    return _Placed(lesion, tuple(start_mm), tuple(extent_mm), shifted)  # type: ignore[arg-type]


def _pick(candidates: Sequence[_Placed], pairs: int, taken: Sequence[_Placed]) -> list[_Placed]:
    """`pairs` of the candidates, one after the other: sets in turn, least repeated background, held-out first, then in order."""
    rest, chosen = list(candidates), list[_Placed]()
    while len(chosen) < pairs:
        turns = Counter(place.lesion.origin for place in chosen)

        def rank(place: _Placed, chosen: list[_Placed] = chosen, turns: Counter[str] = turns) -> tuple[float, ...]:
            repeated = round(sum(place.overlap(other) for other in (*taken, *chosen)), 3)
            if place.lesion.truth == "synthetic":
                return turns[place.lesion.origin], repeated, place.shifted
            return repeated, place.lesion.origin != "held-out", place.shifted

        best = min(range(len(rest)), key=lambda i: rank(rest[i]))
        chosen.append(rest.pop(best))
    return chosen


def _drawn(plan: Plan, place: _Placed, shape: Shape, spacing_mm: Triple, with_mask: bool) -> dict[str, Any]:
    """A case as the page holds it: the lesion's centre in the window's voxels, the picture, the mask if it is to be shown.

    Raises:
        StateError: label and image differ in geometry.
    """
    lesion = place.lesion
    image, grid, tumor, others = read_case(plan, lesion.files)
    scan = upright_grid(grid)
    onto = scan.subgrid(tuple(a / h for a, h in zip(place.start_mm, scan.spacing_mm, strict=True)), spacing_mm, shape)  # type: ignore[arg-type]
    limits = scan_limits(image, plan.channels, tumor | others)
    channels = np.stack(
        [resample(np.ascontiguousarray(upright(channel, grid.direction)), scan, onto, "linear") for channel in image]
    )
    unit = (scale(channels, plan.channels, limits) + 1) / 2
    center = [
        round((middle * h - start) / s - 0.5, 2)
        for middle, h, start, s in zip(lesion.box.center, scan.spacing_mm, place.start_mm, spacing_mm, strict=True)
    ]
    drawn: dict[str, Any] = {"center": center, "image": _packed(np.rint(255 * unit).astype(np.uint8))}
    if with_mask:
        mask = resample(np.ascontiguousarray(upright(tumor.astype(np.uint8), grid.direction)), scan, onto, "nearest")
        drawn["mask"] = _packed(mask[None].astype(np.uint8))
    return drawn


def _packed(volume: np.ndarray) -> str:
    """(C, X, Y, Z) uint8 as base64 of deflate of differences along (c, z, y, x), x fastest; the page undoes it."""
    flat = np.ascontiguousarray(volume.transpose(0, 3, 2, 1)).ravel()
    return base64.b64encode(zlib.compress(np.diff(flat, prepend=np.uint8(0)).tobytes(), 9)).decode("ascii")


def _id(number: int) -> str:
    return f"{number:03d}"


def _key_case(shown: Sequence[_Placed], index: int, shape: Shape, spacing_mm: Triple) -> KeyCase:
    place = shown[index]
    lesion = place.lesion
    beside = tuple(_id(i + 1) for i, other in enumerate(shown) if i != index and place.overlap(other) > 0)
    return KeyCase(
        _id(index + 1),
        lesion.truth,
        lesion.origin,
        lesion.files.case,
        lesion.host,
        lesion.volume_ml,
        lesion.grid.spacing_mm,
        place.shifted,
        place.cut,
        beside,
    )


def _notes(
    plan: Plan, pool: Sequence[_Lesion], shown: Sequence[_Placed], shape: Shape, spacing_mm: Triple
) -> list[str]:
    """What whoever runs the study should know."""
    kinds: dict[Truth, list[_Placed]] = {
        truth: [p for p in shown if p.lesion.truth == truth] for truth in ("synthetic", "real")
    }
    extent = "×".join(f"{n * s:.0f}" for n, s in zip(shape, spacing_mm, strict=True))
    smallest = min(pool, key=lambda lesion: math.prod(lesion.grid.extent_mm))
    notes = [
        f"real lesions: {sum(p.lesion.origin == 'held-out' for p in kinds['real'])} of held-out cases, "
        f"{sum(p.lesion.origin == 'training' for p in kinds['real'])} of training cases",
        f"window {extent} mm at {'×'.join(f'{s:.3g}' for s in spacing_mm)} mm, held whole by every scan (the smallest is "
        f"{smallest.files.case}, {'×'.join(f'{e:.0f}' for e in smallest.grid.extent_mm)} mm)",
    ]
    finest = np.min([lesion.grid.spacing_mm for lesion in pool], axis=0)
    if spacing_mm[0] > finest[0] * 1.001:
        notes.append(
            f"pictures are {spacing_mm[0] / finest[0]:.2g} times coarser than the finest scan, to keep the page small"
        )
    for name, text in (
        ("cut", "larger than the window along an axis"),
        ("shifted", "out of the window's middle, near the scan's edge"),
    ):
        counts = {truth: sum(getattr(p, name) for p in places) for truth, places in kinds.items()}
        if any(counts.values()):
            notes.append(f"lesions {text}: {counts['synthetic']} synthetic, {counts['real']} real")
    repeated = sum(any(place.overlap(other) > 0 for other in shown if other is not place) for place in shown)
    if repeated:
        notes.append(
            f"{repeated} of {len(shown)} cases share background with another, which more hosts or fewer pairs would avoid; see the key"
        )
    own = {lesion.host for lesion in pool if lesion.truth == "real"}
    strange = [p for p in kinds["synthetic"] if p.lesion.host not in own]
    if strange:
        notes.append(
            f"{len(strange)} of {len(kinds['synthetic'])} synthetic lesions lie in scans that are none of the data set's: a reader may tell them by "
            "anatomy or scanner; pairs redrawn in the data set's own cases do not have that flaw"
        )
    return notes


def _claim(path: Path, key: Key) -> None:
    """Sees that no other study's key is lost: its readers' answers could never be scored."""
    if path.is_file():
        found = read_plain(path, "choose another folder").get("study")
        if found != key.study:
            fault = Fault(
                str(path),
                f"the key of study {found}",
                f"none, or that of {key.study}",
                "choose another folder, or delete it",
            )
            raise StateError("The folder holds another study", [fault])


def score_study(answer_files: Sequence[Path], key_file: Path) -> StudyScores:
    """The scores of every reader, and of all answers pooled. A case that a file lacks counts as skipped.

    AUC: how often a real lesion was rated more real than a synthetic one, ties half; ratings run from "synthetic, certain"
    over "synthetic, guessed" and "real, guessed" to "real, certain".

    Raises:
        StateError: no key. DataError: every fault of every file: no JSON, wrong fields, another study, unknown or repeated
        cases, an answer without confidence, a reader twice.
    """
    key = read_record(Key, key_file, "give the key.json that was written with the page")
    faults: list[Fault] = []
    if not answer_files:
        faults.append(Fault("answers", "no file", "one of each reader", "give the files that readers exported"))
    read = [(path, found) for path in answer_files if (found := _read_answers(path, faults)) is not None]
    truths = {case.id: case.truth for case in key.cases}
    for path, answers in read:
        faults += _answer_faults(path, answers, key.study, truths)
    faults += _repeated_readers(read)
    if faults:
        raise DataError("The answers cannot be scored", faults)
    readers = tuple(_score(answers.reader, [answers], truths) for _, answers in read)
    return StudyScores(key.study, len(key.cases), readers, _score("all", [answers for _, answers in read], truths))


def score_rows(scores: StudyScores) -> list[tuple[str, ...]]:
    """The scores as rows under `SCORE_COLUMNS`; the last, where there are several readers, is pooled."""
    shown = (*scores.readers, scores.pooled) if len(scores.readers) > 1 else scores.readers
    return [
        (
            s.reader,
            str(s.answered),
            str(s.skipped),
            _interval(s.sensitivity),
            _interval(s.specificity),
            _interval(s.accuracy),
            _number(s.auc, 3),
            _number(s.seconds, 1),
        )
        for s in shown
    ]


def wilson(count: int, total: int) -> Proportion:
    """A share with its 95 % Wilson score interval.

    Source: Wilson, J. Am. Stat. Assoc. 22 (1927) 209.
    """
    if not total:
        return Proportion(0, 0, math.nan, math.nan, math.nan)
    z, p = 1.959963984540054, count / total
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return Proportion(count, total, p, max(0.0, middle - half), min(1.0, middle + half))


def rating_auc(positives: Sequence[float], negatives: Sequence[float]) -> float:
    """The share of pairs in which the positive is rated higher, ties half; nan where a side is empty."""
    if not positives or not negatives:
        return math.nan
    gaps = np.sign(np.subtract.outer(np.asarray(positives, float), np.asarray(negatives, float)))
    return float((gaps.mean() + 1) / 2)


def _read_answers(path: Path, faults: list[Fault]) -> Answers | None:
    remedy = "export it from the page again"
    try:
        return from_plain(Answers, read_plain(path, remedy), str(path), remedy)
    except (StateError, PlanError) as error:
        faults += error.faults
        return None


def _answer_faults(path: Path, answers: Answers, study: str, truths: dict[str, Truth]) -> list[Fault]:
    if answers.study != study:  # whatever else is wrong with it follows from that
        return [
            Fault(
                str(path),
                f"answers to study {answers.study}",
                f"study {study}",
                "give its own key, or leave the file out",
            )
        ]
    faults = []
    if not answers.reader.strip():
        faults.append(Fault(f"{path}: reader", "no name", "the reader's name", "write it into the file"))
    for case, count in Counter(answer.case for answer in answers.answers).items():
        if case not in truths:
            faults.append(
                Fault(
                    f"{path}: case {case}",
                    "an unknown case",
                    f"one of 001 to {_id(len(truths))}",
                    "export it from the page again",
                )
            )
        if count > 1:
            faults.append(Fault(f"{path}: case {case}", f"{count} answers", "one", "keep the one that holds"))
    for answer in answers.answers:
        where = f"{path}: case {answer.case}"
        if answer.answer is not None and answer.confidence not in CONFIDENCES:
            faults.append(
                Fault(where, f"confidence {answer.confidence}", "1 to 5", "ask the reader, or set the answer to null")
            )
        if not (math.isfinite(answer.seconds) and answer.seconds >= 0):
            faults.append(Fault(where, f"{answer.seconds} seconds", "a time", "export it from the page again"))
    return faults


def _repeated_readers(read: Sequence[tuple[Path, Answers]]) -> list[Fault]:
    paths: dict[str, list[Path]] = {}
    for path, answers in read:
        paths.setdefault(answers.reader.strip().casefold(), []).append(path)
    return [
        Fault(
            ", ".join(map(str, found)),
            f"{len(found)} files of reader {name}",
            "one file per reader",
            "leave the older out, or rename a namesake",
        )
        for name, found in paths.items()
        if name and len(found) > 1
    ]


def _score(reader: str, files: Sequence[Answers], truths: dict[str, Truth]) -> ReaderScores:
    given = [answer for answers in files for answer in answers.answers if answer.answer is not None]
    right: dict[Truth, int] = {"real": 0, "synthetic": 0}
    ratings: dict[Truth, list[float]] = {"real": [], "synthetic": []}
    for answer in given:
        truth = truths[answer.case]
        right[truth] += answer.answer == truth
        ratings[truth].append((answer.confidence or 0) * (1 if answer.answer == "real" else -1))
    return ReaderScores(
        reader=reader,
        answered=len(given),
        skipped=len(truths) * len(files) - len(given),
        sensitivity=wilson(right["real"], len(ratings["real"])),
        specificity=wilson(right["synthetic"], len(ratings["synthetic"])),
        accuracy=wilson(right["real"] + right["synthetic"], len(given)),
        auc=rating_auc(ratings["real"], ratings["synthetic"]),
        seconds=float(np.median([answer.seconds for answer in given])) if given else math.nan,
    )


def _interval(p: Proportion) -> str:
    return f"{p.value:.3f} [{p.low:.3f}, {p.high:.3f}] ({p.count} of {p.total})" if p.total else "undefined (0 of 0)"


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "undefined"


def _page(plan: Plan, study: str, shape: Shape, spacing_mm: Triple, cases: Sequence[dict[str, Any]]) -> str:
    channels = []
    for channel in plan.channels:
        colormap, unit = display_style(channel.name)
        # limits in a scan's own unit differ from case to case and are no business of the reader's
        low, high, unit = (channel.low, channel.high, unit) if channel.scheme == "dataset" else (0.0, 100.0, "%")
        channels.append(
            {
                "name": channel.name,
                "low": low,
                "high": high,
                "power": channel.power,
                "unit": unit,
                "dark": colormap == "gray_r",
            }
        )
    content = {"study": study, "shape": shape, "spacing": spacing_mm, "channels": channels, "cases": cases}
    text = json.dumps(content).replace("<", "\\u003c")
    page = (resources.files("tumorgen_cli.studies") / "reader_study.html").read_text(encoding="utf-8")
    return page.replace("{content}", text)
