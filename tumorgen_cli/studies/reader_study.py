"""Real or synthetic? A blind study for readers as one HTML page.

Reads synthetic sets and the real cases of the plan's data set. Writes `reader_study.html`, which needs no other file
and does not reveal the truth, and `key.json`, which holds the truth and stays with the person who runs the study. The
axes of volumes in the page point to the patient's left, back and head (`figures.upright`).
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tumorgen_cli.data.volumes import resample
from tumorgen_cli.evaluation.cases import TumorCase, read_case, real_tumors
from tumorgen_cli.figures import display_style, upright, upright_grid
from tumorgen_cli.geometry import Shape, Triple, as_triple, describe_edges
from tumorgen_cli.pipeline.sets import finished_sets
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.planned_data import read_planned_dataset
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.intensity import scale, scan_limits
from tumorgen_cli.studies.reader_lesions import (
    PlacedLesion,
    StudyLesion,
    Truth,
    check_pool,
    pick_lesions,
    place_lesion,
    read_pool,
    study_grid,
)
from tumorgen_cli.synthesis.set_files import read_provenance
from tumorgen_cli.system import console
from tumorgen_cli.system.claims import refuse_other_files
from tumorgen_cli.system.errors import Fault, StateError
from tumorgen_cli.system.files import derive_seed, write_text
from tumorgen_cli.system.json_records import hash_value, read_record, write_json
from tumorgen_cli.system.locks import locked

if TYPE_CHECKING:
    from tumorgen_cli.system.console import Ticker


PAGE, KEY = "reader_study.html", "key.json"
MEGABYTES = 15.0  # size of the page that most mail servers accept


@dataclass(frozen=True)
class StudyOptions:
    """What a study shows.

    Attributes:
        pairs: Number of lesions of each kind.
        seed: Seed of the choice and the order.
        with_mask: Whether readers can show the outline of the lesion.
        megabytes: Largest size of the page; pictures are coarser where the page would be larger.
    """

    pairs: int
    seed: int
    with_mask: bool = False
    megabytes: float = MEGABYTES


@dataclass(frozen=True)
class KeyCase:
    """What a case of the page is.

    Attributes:
        id: Its number on the page.
        truth: Real or synthetic.
        origin: Folder name of the set, or held-out or training.
        case: Name of the pair or of the real tumor.
        host: The scan it lies in.
        lesion_ml: Volume of the lesion.
        host_spacing_mm: Voxel size of the scan.
        shifted: The lesion was too near the scan's edge to lie in the middle of the window.
        cut: The tight box of the lesion is larger than the window.
        shares_background: Cases of the page whose window overlaps this one in the same host.
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
    """The content of `key.json`.

    Attributes:
        study: The hash that page, answers and key share.
        seed: Seed of the choice and the order.
        plan_hash: Hash of the plan.
        sets: The synthetic sets.
        shape: Voxels of a picture (left, back, head).
        spacing_mm: Voxel size of a picture.
        with_mask: Whether readers can show the outline of the lesion.
        notes: What the person who runs the study should know.
        cases: Every case in the order of the page.
    """

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
    """What `make_study` wrote. `notes` name what readers might guess from, and what differs from the request."""

    page: str
    key: str
    study: str
    cases: int
    megabytes: float
    notes: tuple[str, ...]


def make_reader_study(
    workspace: Workspace, synthetic: Sequence[Path], pairs: int, out: Path | None, seed: int | None, with_mask: bool
) -> Study:
    """Write a page on which readers tell real from synthetic lesions, and its key.

    Args:
        workspace: The workspace.
        synthetic: The sets; none: every finished set of the workspace.
        pairs: Number of lesions of each kind.
        out: Where to write; None: `reader_study` of the workspace.
        seed: Seed of the choice and the order; None: the plan's.
        with_mask: Whether readers can show the outline of the lesion.
    """
    plan, folders = workspace.plan(), finished_sets(workspace, synthetic)
    read_planned_dataset(workspace, plan)
    real = real_tumors(plan, workspace.fingerprint(), workspace.splits())
    folder = out or workspace.root / "reader_study"
    with locked(folder, "reader-study"), console.progress("drawing", study_steps(real, folders, pairs)) as tick:
        options = StudyOptions(pairs, plan.seed if seed is None else seed, with_mask)
        return make_study(plan, real, folders, folder, options, tick)


def make_study(
    plan: Plan,
    real: Sequence[TumorCase],
    set_folders: Sequence[Path],
    out: Path,
    options: StudyOptions,
    ticker: Ticker,
) -> Study:
    """Write a page of synthetic and real lesions in random order, and its key.

    Every lesion is treated the same way. Its largest component (of a synthetic pair: of what was painted) lies in the
    middle of a window of one size, which is moved inside the scan where it would leave it. All pictures have one grid
    (linear interpolation) and the plan's clip window in 8 bits. The window is the plan's, or as large as the smallest
    scan allows, so that no picture is padded. The grid has the finest spacing of all scans, so that no detail of a real
    lesion is lost and no blur of a painted one is hidden. It is coarser only if the page would be too large.

    Synthetic lesions are taken from the sets in turn, first those whose background was not shown yet. Of the real ones,
    those without a repeated background come first, then held-out before training cases. Backgrounds that still repeat
    are named in the key.

    Args:
        plan: The plan of the workspace.
        real: The real tumors.
        set_folders: The synthetic sets.
        out: Where page and key are written.
        options: What the study shows.
        ticker: Counts up to `study_steps`.

    Raises:
        DataError: There are too few lesions of a kind.
        StateError: Files are missing, or `out` holds another study's key or other files.
    """
    refuse_other_files(out, KEY)
    pool = read_pool(plan, real, set_folders, ticker)
    check_pool(pool, options.pairs)
    spacing, shape = study_grid(plan, pool, 2 * options.pairs, options.megabytes)
    rng = np.random.default_rng(derive_seed(options.seed, "reader study"))
    placed = [place_lesion(lesion, shape, spacing) for lesion in (pool[i] for i in rng.permutation(len(pool)))]
    synthetic = pick_lesions([p for p in placed if p.lesion.truth == "synthetic"], options.pairs, ())
    picked = [*synthetic, *pick_lesions([p for p in placed if p.lesion.truth == "real"], options.pairs, synthetic)]
    shown = [picked[i] for i in rng.permutation(len(picked))]
    cases = []
    for number, place in enumerate(shown, 1):
        cases.append({"id": case_id(number), **_drawn(plan, place, shape, spacing, options.with_mask)})
        ticker(len(pool) + number, f"case {number}")
    study = hash_value([options.seed, shape, spacing, [place.lesion.truth for place in shown], cases])
    key = Key(
        study=study,
        seed=options.seed,
        plan_hash=plan.hash,
        sets=tuple(str(folder) for folder in set_folders),
        shape=shape,
        spacing_mm=spacing,
        with_mask=options.with_mask,
        notes=tuple(_notes(pool, shown, shape, spacing)),
        cases=tuple(_key_case(shown, i) for i in range(len(shown))),
    )
    _claim(out / KEY, key)
    page = _page(plan, study, shape, spacing, cases)
    write_json(out / KEY, key)  # first: the folder is then known as that of a study
    write_text(out / PAGE, page)
    return Study(str(out / PAGE), str(out / KEY), study, len(cases), round(len(page.encode()) / 1e6, 2), key.notes)


def study_steps(real: Sequence[TumorCase], set_folders: Sequence[Path], pairs: int) -> int:
    """Count the steps of `make_study`: every lesion that could be shown, and every one that is shown."""
    return sum(len(read_provenance(folder)) for folder in set_folders) + len(real) + 2 * pairs


def _drawn(plan: Plan, place: PlacedLesion, shape: Shape, spacing_mm: Triple, with_mask: bool) -> dict[str, Any]:
    """Return a case as the page holds it.

    It has the lesion's center in voxels of the window, the picture, and the mask if requested.

    Raises:
        StateError: Label and image differ in geometry.
    """
    lesion = place.lesion
    image, grid, tumor, others = read_case(plan, lesion.files)
    scan = upright_grid(grid)
    start = as_triple(a / h for a, h in zip(place.start_mm, scan.spacing_mm, strict=True))
    onto = scan.subgrid(start, spacing_mm, shape)
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
    """Pack (C, X, Y, Z) uint8 for the page.

    The result is base64 of deflate of differences along (c, z, y, x), x fastest; the script of the page undoes it.
    """
    flat = np.ascontiguousarray(volume.transpose(0, 3, 2, 1)).ravel()
    return base64.b64encode(zlib.compress(np.diff(flat, prepend=np.uint8(0)).tobytes(), 9)).decode("ascii")


def case_id(number: int) -> str:
    """Return the number of a case as it is shown."""
    return f"{number:03d}"


def _key_case(shown: Sequence[PlacedLesion], index: int) -> KeyCase:
    place = shown[index]
    lesion = place.lesion
    beside = tuple(case_id(i + 1) for i, other in enumerate(shown) if i != index and place.overlap(other) > 0)
    return KeyCase(
        case_id(index + 1),
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


def _notes(pool: Sequence[StudyLesion], shown: Sequence[PlacedLesion], shape: Shape, spacing_mm: Triple) -> list[str]:
    """List what the person who runs the study should know."""
    kinds: dict[Truth, list[PlacedLesion]] = {
        truth: [p for p in shown if p.lesion.truth == truth] for truth in ("synthetic", "real")
    }
    extent = describe_edges(n * s for n, s in zip(shape, spacing_mm, strict=True))
    spacing = describe_edges(spacing_mm, ".3g")
    origins = Counter(p.lesion.origin for p in kinds["real"])
    smallest = min(pool, key=lambda lesion: math.prod(lesion.grid.extent_mm))
    least = describe_edges(smallest.grid.extent_mm)
    window = f"window {extent} mm at {spacing} mm, which fits into every scan"
    notes = [
        f"real lesions: {origins['held-out']} of held-out cases, {origins['training']} of training cases",
        f"{window} (the smallest is {smallest.files.case}, {least} mm)",
    ]
    finest = np.min([lesion.grid.spacing_mm for lesion in pool], axis=0)
    if spacing_mm[0] > finest[0] * 1.001:
        notes.append(
            f"pictures are {spacing_mm[0] / finest[0]:.2g} times coarser than the finest scan, to keep the page small"
        )
    for name, text in (
        ("cut", "larger than the window along an axis"),
        ("shifted", "not in the window's middle, because they are near the scan's edge"),
    ):
        counts = {truth: sum(getattr(p, name) for p in places) for truth, places in kinds.items()}
        if any(counts.values()):
            notes.append(f"lesions {text}: {counts['synthetic']} synthetic, {counts['real']} real")
    repeated = sum(any(place.overlap(other) > 0 for other in shown if other is not place) for place in shown)
    if repeated:
        notes.append(
            f"{repeated} of {len(shown)} cases share background with another case, see the key; "
            "use more hosts or fewer pairs to avoid this"
        )
    own = {lesion.host for lesion in pool if lesion.truth == "real"}
    strange = [p for p in kinds["synthetic"] if p.lesion.host not in own]
    if strange:
        notes.append(
            f"{len(strange)} of {len(kinds['synthetic'])} synthetic lesions lie in scans that are not of the "
            "data set: readers may recognize them by anatomy or scanner; use pairs redrawn in the data set's own cases "
            "to avoid this"
        )
    return notes


def _claim(path: Path, key: Key) -> None:
    """Check that the key of another study is not overwritten: its readers' answers could not be scored any more."""
    if path.is_file():
        found = read_record(Key, path, "choose another folder with --out").study
        if found != key.study:
            fault = Fault(
                str(path),
                f"the key of study {found}",
                f"none, or that of {key.study}",
                "choose another folder with --out, or move this one away",
            )
            raise StateError("The folder holds another study", [fault])


def _page(plan: Plan, study: str, shape: Shape, spacing_mm: Triple, cases: Sequence[dict[str, Any]]) -> str:
    channels = []
    for channel in plan.channels:
        colormap, unit = display_style(channel.name)
        # limits in a scan's own unit differ from case to case and could tell the reader something
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
