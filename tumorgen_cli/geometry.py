"""The frozen records that cross boundaries between rooms. No torch, no I/O.

Axes: arrays are (C, X, Y, Z) or (X, Y, Z); x, y, z are SimpleITK's index axes. Intensities are in the scan's own
units (SUV, HU, ...) wherever a record carries an image.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

Triple = tuple[float, float, float]
Shape = tuple[int, int, int]

SHELL_MM = 20.0  # what counts as a tumor's surroundings
PAIR_FORMAT = 3  # raise it when the same seed, plan and weights come to another pair


@dataclass(frozen=True)
class Grid:
    """The geometry of a volume: voxel counts, spacing and origin in mm (x, y, z), direction cosines row by row."""

    shape: Shape
    spacing_mm: Triple
    origin_mm: Triple = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    @property
    def extent_mm(self) -> Triple:
        """Edge lengths of the whole volume in mm."""
        return tuple(n * s for n, s in zip(self.shape, self.spacing_mm, strict=True))  # type: ignore[return-value]

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(np.prod(self.spacing_mm)) / 1000.0

    def subgrid(self, start: tuple[float, float, float], spacing_mm: Triple, shape: Shape) -> Grid:
        """The grid of `shape` and `spacing_mm` whose first voxel's outer corner is at voxel corner `start`.

        `start` is in this grid's voxels, counted from its outer corner, and may be fractional or outside.
        """
        offset = [s * a - a / 2 + b / 2 for s, a, b in zip(start, self.spacing_mm, spacing_mm, strict=True)]
        direction = np.array(self.direction).reshape(3, 3)
        origin = np.array(self.origin_mm) + direction @ np.array(offset)
        return Grid(shape, spacing_mm, tuple(float(o) for o in origin), self.direction)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Box:
    """A half-open box of voxels: start <= index < stop per axis."""

    start: Shape
    stop: Shape

    @property
    def shape(self) -> Shape:
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))  # type: ignore[return-value]

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))  # type: ignore[return-value]

    @property
    def center(self) -> Triple:
        """Centre in voxels counted from the outer corner of voxel 0."""
        return tuple((a + b) / 2 for a, b in zip(self.start, self.stop, strict=True))  # type: ignore[return-value]

    def common(self, other: Box) -> Box:
        """What lies in both boxes."""
        start = tuple(max(a, b) for a, b in zip(self.start, other.start, strict=True))
        return Box(start, tuple(max(a, min(b, c)) for a, b, c in zip(start, self.stop, other.stop, strict=True)))  # type: ignore[arg-type]

    def hull(self, other: Box) -> Box:
        """The smallest box that holds both."""
        start = tuple(min(a, b) for a, b in zip(self.start, other.start, strict=True))
        return Box(start, tuple(max(a, b) for a, b in zip(self.stop, other.stop, strict=True)))  # type: ignore[arg-type]

    def holds(self, other: Box) -> bool:
        """Whether all of `other` lies in this box."""
        return all(a <= c and d <= b for a, b, c, d in zip(self.start, self.stop, other.start, other.stop, strict=True))

    def grown(self, margin: int | Shape, shape: Shape) -> Box:
        """This box with `margin` voxels more on every side, clipped to a volume of `shape`."""
        m = (margin,) * 3 if isinstance(margin, int) else margin
        start = tuple(max(0, a - k) for a, k in zip(self.start, m, strict=True))
        stop = tuple(min(n, b + k) for b, k, n in zip(self.stop, m, shape, strict=True))
        return Box(start, stop)  # type: ignore[arg-type]

    def shifted(self, by: Shape) -> Box:
        start = tuple(a + k for a, k in zip(self.start, by, strict=True))
        stop = tuple(b + k for b, k in zip(self.stop, by, strict=True))
        return Box(start, stop)  # type: ignore[arg-type]


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


@dataclass(frozen=True)
class Request:
    """A window of a host scan on the working grid, the box to paint in and, within it, the one for the tumor.

    `image`: (C, X, Y, Z) float32, the scan's own units. `box`, `place`: voxels of the window; between the two the picture fades into
    the host, and a mask is cut off; a drawn place is of whole cells (`Method.cell`) as far as the box goes. `limits`: (C, 2), the whole scan's clip
    limits (`windows.scan_limits`). `case`: the case whose tumor is redrawn, if it is one of the data set's.
    """

    image: np.ndarray
    box: Box
    place: Box
    limits: np.ndarray
    spacing_mm: Triple
    case: str | None = None


@dataclass(frozen=True)
class Synthetic:
    """What a method made of a request: image (C, X, Y, Z) in the scan's units, mask (X, Y, Z) in [0, 1].

    `drawn` holds whatever the method drew at random and wants to have on record. `kept` (X, Y, Z) in [0, 1]: how much of the
    host is in the image; None: all or nothing of its detail stays, as the method says (`keeps_background`).
    """

    image: np.ndarray
    mask: np.ndarray
    drawn: Mapping[str, Any] = field(default_factory=dict)
    kept: np.ndarray | None = None


@dataclass(frozen=True)
class Shard:
    """Part `number` (from 1) of `count` parts of a set's pairs; which pairs does not depend on how many there are in all."""

    number: int
    count: int

    @property
    def name(self) -> str:
        return f"{self.number}_of_{self.count}"

    def owns(self, index: int) -> bool:
        return index % self.count == self.number - 1


@dataclass(frozen=True)
class Provenance:
    """How one synthetic pair came to be; one line of `provenance.jsonl`.

    Outside `box`, and `healed` where an old tumor was taken away, the image is the host's voxel for voxel. `asked`: the box as it was drawn
    or given, the same for every method; `box` is that or, around whole cells of the method's (`Method.cell`), wider. `host_hash` is of the
    host's files, `host_voxels` of the voxels in the first (`volumes.hash_voxels`).
    """

    case: str
    method: str
    host: str
    host_file: tuple[str, ...]
    host_hash: str
    host_voxels: str
    seed: int
    attempt: int
    asked: Box
    box: Box
    plan_hash: str
    weights: dict[str, str]
    volume_ml: float
    padded: bool
    seconds: dict[str, float]
    rejected: dict[str, int]
    drawn: dict[str, Any]
    healed: Box | None = None
