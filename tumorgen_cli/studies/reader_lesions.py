"""The lesions of a reader study: reading the ones that can be shown, the grid of the pictures, placing and choosing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from tumorgen_cli.evaluation.cases import TumorCase, read_tumor, split_tumors, synthetic_cases
from tumorgen_cli.figures import upright, upright_grid
from tumorgen_cli.geometry import Box, Grid, Shape, Triple, as_triple, tight_box
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.system.errors import IN_RANGE, DataError, Fault
from tumorgen_cli.system.files import hash_file

if TYPE_CHECKING:
    from tumorgen_cli.system.console import Ticker


Truth = Literal["real", "synthetic"]


@dataclass(frozen=True)
class StudyLesion:
    """A lesion that may be shown, and where it lies in its scan, both along the patient's axes."""

    files: TumorCase
    origin: str
    grid: Grid
    box: Box
    volume_ml: float
    limit_mm: Triple  # the plan's window along the patient's axes

    @property
    def truth(self) -> Truth:
        """Whether it is real or synthetic."""
        return "synthetic" if self.files.group == "synthetic" else "real"

    @property
    def host(self) -> str:
        """The scan it lies in."""
        return self.files.host


@dataclass(frozen=True)
class PlacedLesion:
    """A lesion and the start of its window, in mm from the scan's outer corner."""

    lesion: StudyLesion
    start_mm: Triple
    extent_mm: Triple
    shifted: bool

    def overlap(self, other: PlacedLesion) -> float:
        """Return the share of the window that the other window shows too; 0 in different hosts."""
        if self.lesion.host != other.lesion.host:
            return 0.0
        common = [
            max(0.0, e - abs(a - b)) / e for a, b, e in zip(self.start_mm, other.start_mm, self.extent_mm, strict=True)
        ]
        return math.prod(common)

    @property
    def cut(self) -> bool:
        """Whether the lesion's tight box is larger than the window."""
        box = self.lesion.box
        return any(n * s > e for n, s, e in zip(box.shape, self.lesion.grid.spacing_mm, self.extent_mm, strict=True))


def read_pool(plan: Plan, real: Sequence[TumorCase], set_folders: Sequence[Path], ticker: Ticker) -> list[StudyLesion]:
    """Read every lesion of the sets and every real one; pairs without a tumor are left out."""
    work = [(files, folder.name) for folder in set_folders for files in split_tumors(synthetic_cases(plan, folder))]
    work += [(files, {"test": "held-out", "train": "training"}[files.group]) for files in real]
    pool: list[StudyLesion] = []
    seen = set()  # a filtered set holds pairs of the set it was made from
    for number, (files, origin) in enumerate(work, 1):
        known = (files.group, files.case, hash_file(files.images[0]))
        lesion = None if known in seen else _find_lesion(plan, files, origin)
        seen.add(known)
        if lesion is not None:
            pool.append(lesion)
        ticker(number, files.case)
    return pool


def _find_lesion(plan: Plan, files: TumorCase, origin: str) -> StudyLesion | None:
    """Find a real tumor, or the largest component of what was painted in a box; None without a tumor."""
    mask, _, grid = read_tumor(plan, files)
    largest = _largest(upright(mask, grid.direction))
    if largest is None:
        return None
    box, voxels = largest
    window = upright_grid(replace(grid, shape=plan.window.shape, spacing_mm=plan.window.spacing_mm))
    return StudyLesion(files, origin, upright_grid(grid), box, round(voxels * grid.voxel_ml, 4), window.extent_mm)


def _largest(mask: np.ndarray) -> tuple[Box, int] | None:
    """Return the tight box and the voxel count of the largest connected component."""
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


def check_pool(pool: Sequence[StudyLesion], pairs: int) -> None:
    """Check that there are enough lesions.

    Raises:
        DataError: There are too few lesions of a kind.
    """
    counts = Counter(lesion.truth for lesion in pool)
    remedies: dict[Truth, str] = {
        "synthetic": "make more pairs with `tumorgen synthesize`, or choose fewer",
        "real": "choose fewer pairs",
    }
    faults = [
        Fault(f"{truth} lesions", str(counts[truth]), f"{pairs}, each a tumor of its own", remedy)
        for truth, remedy in remedies.items()
        if counts[truth] < pairs
    ]
    if pairs < 1:
        faults = [Fault("pairs", str(pairs), "1 or more", IN_RANGE)]
    if faults:
        raise DataError("There are too few lesions for the study", faults)


def study_grid(plan: Plan, pool: Sequence[StudyLesion], cases: int, megabytes: float) -> tuple[Triple, Shape]:
    """Choose the spacing and the shape of every picture of the study.

    Both depend on all lesions that could be shown, so that they do not reveal which ones were chosen.
    """
    spacing = np.min([lesion.grid.spacing_mm for lesion in pool], axis=0)
    # voxel centers of the window lie between voxel centers of the scan: nothing is extrapolated
    held = [np.array(lesion.grid.extent_mm) - np.array(lesion.grid.spacing_mm) + spacing for lesion in pool]
    extent = np.minimum(np.min(held, axis=0), np.min([lesion.limit_mm for lesion in pool], axis=0))
    # base64 makes 4 characters of 3 bytes, and deflate removes a quarter of noisy 8-bit scans: about a byte per voxel
    voxels = float(np.prod(extent / spacing)) * len(plan.channels) * cases
    spacing = spacing * max(1.0, voxels / (megabytes * 1e6)) ** (1 / 3)
    shape = np.maximum(1, np.floor(extent / spacing + 1e-6)).astype(int)
    return as_triple(float(s) for s in spacing), as_triple(int(n) for n in shape)


def place_lesion(lesion: StudyLesion, shape: Shape, spacing_mm: Triple) -> PlacedLesion:
    """Place the window of a lesion in its scan."""
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
    return PlacedLesion(lesion, as_triple(start_mm), as_triple(extent_mm), shifted)


def pick_lesions(candidates: Sequence[PlacedLesion], pairs: int, taken: Sequence[PlacedLesion]) -> list[PlacedLesion]:
    """Choose lesions one after the other.

    The order is: sets in turn, least repeated background, held-out before training cases, then the given order.
    """
    rest, chosen = list(candidates), list[PlacedLesion]()
    while len(chosen) < pairs:
        turns = Counter(place.lesion.origin for place in chosen)

        def rank(
            place: PlacedLesion, chosen: list[PlacedLesion] = chosen, turns: Counter[str] = turns
        ) -> tuple[float, ...]:
            repeated = round(sum(place.overlap(other) for other in (*taken, *chosen)), 3)
            if place.lesion.truth == "synthetic":
                return turns[place.lesion.origin], repeated, place.shifted
            return repeated, place.lesion.origin != "held-out", place.shifted

        best = min(range(len(rest)), key=lambda i: rank(rest[i]))
        chosen.append(rest.pop(best))
    return chosen
