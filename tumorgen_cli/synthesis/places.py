"""Where in a scan tumors are painted: in the user's box, around an existing tumor, or in the body or a region."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tumorgen_cli.data.body import body_mask, body_stride
from tumorgen_cli.data.checks import fractions
from tumorgen_cli.data.labels import mask_of, values_of
from tumorgen_cli.data.volumes import read_volume
from tumorgen_cli.geometry import Box, Shape, Triple, as_triple
from tumorgen_cli.planning.fingerprint import TumorFacts
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.synthesis.paste import fade_mm, tumor_place
from tumorgen_cli.synthesis.scan import Scan
from tumorgen_cli.synthesis.sources import Source
from tumorgen_cli.synthesis.surroundings import PLACES, HostPlaces, KnownSurroundings
from tumorgen_cli.synthesis.window import Window, lay_window, redraw_box
from tumorgen_cli.system.errors import DataError, Fault, NoPlaceError
from tumorgen_cli.tumors.boxes import LEAST_SHARE, Places, box_at, draw_size_mm

INSIDE_REGION, INSIDE_BODY = 0.95, 0.98  # least share of a mask in its region; without a region, in the body
OUTSIDE_REGION, OUTSIDE_BODY = "outside the region", "outside the body"  # the reasons to reject a draw
MARK_REGION = "mark with 1 where tumors may be"
#: training tumors that are drawn for a box, until a host has a place that looks like the surroundings of one
_TUMORS = 8
_DEEP = 0.95  # share of the box that should lie inside once a mask has not: the next places are drawn deeper


def region_faults(where: str, region: np.ndarray) -> list[Fault]:
    """Find values of a region that are no whole numbers: probabilities, or a mask that was interpolated.

    They are mostly above 0 in the whole scan, so "where it is not 0" says nothing.
    """
    values = fractions(region)
    if not values.size:
        return []
    found = f"{values.size} voxels that are no whole numbers, {values.min():g} to {values.max():g}"
    remedy = "cut probabilities at 0.5, resample masks by nearest neighbor, and save whole numbers"
    return [Fault(where, found, "a mask: 0 where no tumor may be", remedy)]


@dataclass(frozen=True)
class DrawnBox:
    """A box in the scan's voxels.

    Attributes:
        box: the box.
        unlike: how much its surroundings differ from those of training tumors: above 1, more than training tumors' from
            each other. None if they were not compared.
        like: number of the training tumor of whose size it was drawn; None for the user's box and a redrawn tumor's.
    """

    box: Box
    unlike: float | None = None
    like: int | None = None


class Placing:
    """Boxes for one scan, and whether a tumor lies where it may.

    A box is the user's; or the box of a tumor that is redrawn, with BA-PMG's offsets; or a box of a training tumor's
    size in the body or region, where the surroundings look like that tumor's (`surroundings`). Boxes that are drawn get
    an additional edge, so that the tumor's place in them (`paste.tumor_place`) is of that size.

    Without a region, tumors lie in the body as far as training tumors do: in crops of a chest, the body that is found
    by its intensities may have no lungs.

    Attributes:
        region: mask of the region to paint in (X, Y, Z) bool; None for the body.
        stride: step along each axis from one voxel of `allowed` to the next.
        known: the surroundings of training tumors; None to draw places anywhere in the region or body.
        outside: the reason to reject a tumor that does not lie where it may.
        least: the least share of a tumor that must lie there.
    """

    def __init__(
        self,
        scan: Scan,
        source: Source,
        plan: Plan,
        tumors: Sequence[TumorFacts],
        box: Box | None,
        region: np.ndarray | None = None,
        anywhere: bool = False,
    ) -> None:
        """Find where tumors may lie.

        Args:
            scan: the host scan.
            source: the files of the same scan.
            plan: the plan.
            tumors: the training tumors, whose sizes are drawn.
            box: the user's box in the scan's voxels, if there is one.
            region: mask (X, Y, Z) bool of the region to paint in, instead of the source's `roi`.
            anywhere: draw places anywhere in the region or body, whatever the plan says.

        Raises:
            DataError: the region of interest is empty, or no mask.
        """
        self.scan, self.source, self.plan, self.user_box = scan, source, plan, box
        compared = not anywhere and plan.paste.places != "anywhere"
        surrounded = [number for number, tumor in enumerate(tumors) if compared and tumor.surroundings]
        self._numbers = surrounded or range(len(tumors))
        self.tumors = [tumors[number] for number in self._numbers]
        self.known = KnownSurroundings.of(tuple(t.surroundings for t in self.tumors)) if surrounded else None
        self.region = self._read_roi() if region is None else region
        self.stride = body_stride(scan.grid.shape)
        in_body = INSIDE_BODY if self.known is None else min(INSIDE_BODY, self.known.in_body)
        self.outside, self.least = (OUTSIDE_BODY, in_body) if self.region is None else (OUTSIDE_REGION, INSIDE_REGION)

    @functools.cached_property
    def allowed(self) -> np.ndarray:
        """Where the centers of boxes may lie, of every `stride`-th voxel, bool: in the region, or in the body.

        They may lie everywhere if training tumors lie outside the body.
        """
        if self.region is not None:
            return self.region[(slice(None, None, self.stride),) * 3]
        return self.body if self.least >= LEAST_SHARE else np.ones_like(self.body)

    @functools.cached_property
    def _places(self) -> Places:
        return Places(self.allowed)

    @functools.cached_property
    def _host(self) -> HostPlaces:
        return HostPlaces(self.scan, self.plan.channels, self.body, self.stride)

    @functools.cached_property
    def body(self) -> np.ndarray:
        """The body, of every `stride`-th voxel, bool; annotated tumors belong to it."""
        thin = (slice(None, None, self.stride),) * 3
        labels = self.scan.labels
        tumors = None if labels is None else mask_of(labels[thin], self.plan.tumor_label)
        return body_mask(self.scan.measured[(0, *thin)].astype(np.float32), tumors)

    def _read_roi(self) -> np.ndarray | None:
        if self.source.roi is None:
            return None
        roi, _ = read_volume(self.source.roi)
        if faults := region_faults(str(self.source.roi), roi):
            raise DataError("A region is no mask", faults)
        roi = roi != 0 if self.source.region is None else mask_of(roi, self.source.region)
        if not roi.any():
            values = "+".join(map(str, values_of(self.source.region or ())))
            found = f"no voxel of label {values}" if values else "no voxel set"
            remedy = f"{MARK_REGION}, or leave this host out"
            raise DataError("A region is empty", [Fault(str(self.source.roi), found, "a region to paint in", remedy)])
        return roi

    def window(
        self,
        rng: np.random.Generator,
        turn: int,
        cell: int,
        deep: bool = False,
        taken: Sequence[Box] = (),
        extent_mm: Triple | None = None,
        weights: np.ndarray | None = None,
    ) -> Window:
        """Draw a box and lay a window around it.

        Args:
            rng: draws the box.
            turn: how often the scan has been painted into before; its tumors are redrawn in turn.
            cell: side of the method's mask cells in working voxels. The tumor's place has whole cells, unless the box
                is the user's.
            deep: draw a box that lies inside the region or body nearly as a whole, where there is room for it.
            taken: boxes of other tumors. Where there is room, the box is drawn beside them; cells, or the offsets of a
                redrawn tumor, may still widen it into them.
            extent_mm: the extent of the tumor that the box is for, if the method sets it.
            weights: how often each training tumor is drawn, relative to the others (N,); None: all alike.

        Raises:
            DataError: there is no place for a box, or the box is too large.
        """
        drawn = self.draw(rng, turn, _DEEP if deep else LEAST_SHARE, taken, extent_mm, weights)
        window = lay_window(self.scan, drawn.box, self.plan, cell if self.user_box is None else 1)
        return replace(window, unlike=drawn.unlike, like=drawn.like)

    def draw(
        self,
        rng: np.random.Generator,
        turn: int,
        least_share: float = LEAST_SHARE,
        taken: Sequence[Box] = (),
        extent_mm: Triple | None = None,
        weights: np.ndarray | None = None,
    ) -> DrawnBox:
        """Draw a box in the scan's voxels; see `window`. `least_share` of it should lie in the region or body."""
        if self.user_box is not None:
            return DrawnBox(self.user_box)
        if self.source.redraw:
            tumor = self.source.redraw[turn % len(self.source.redraw)]
            return DrawnBox(redraw_box(tumor, self.scan.grid, self.plan, rng.uniform(0, 1, 3), rng.uniform(0, 1, 3)))
        weights = None if weights is None else weights[list(self._numbers)]
        best: DrawnBox | None = None
        for _ in range(1 if self.known is None else _TUMORS):
            found = self._draw_once(rng, least_share, taken, extent_mm, weights)
            if best is None or (found.unlike or 0) < (best.unlike or 0):
                best = found
            if (best.unlike or 0) <= 1:
                break
        assert best is not None
        return best

    def _draw_once(
        self,
        rng: np.random.Generator,
        least_share: float,
        taken: Sequence[Box],
        extent_mm: Triple | None,
        weights: np.ndarray | None,
    ) -> DrawnBox:
        """Draw a training tumor and a place for a box of its size; infinitely unlike if none is free."""
        grid, window = self.scan.grid, self.plan.window
        place_mm, number = draw_size_mm(self.tumors, window.alpha, window.extent_mm, rng, extent_mm, weights)
        size_mm = [e + fade_mm(e, self.plan.paste.feather_mm) for e in place_mm]
        # In a host smaller than the box, the box is as large as the host; the window is then padded, and counted.
        size = as_triple(
            max(1, min(round(e / s), n) // self.stride)
            for e, s, n in zip(size_mm, grid.spacing_mm, grid.shape, strict=True)
        )
        starts, shares = self._places.draw(size, rng, PLACES)
        if not len(starts):
            fault = Fault(self.scan.name, "no place for a box", "a body or region of interest", "give --roi or --box")
            raise NoPlaceError("A host has no place for a tumor", [fault])
        starts = starts[shares >= min(least_share, shares.max())]
        free = self._are_free(starts, size, taken)
        starts = starts[free] if free.any() else starts[:1]
        chosen, unlike = 0, None if free.any() else math.inf
        if self.known is not None and free.any():
            tumor = self.tumors[number]
            centers = (starts + np.array(size) / 2) * self.stride
            features = self._host.describe(centers, tumor, place_mm, rng)
            chosen, unlike = self.known.choose(features, number)
        coarse = box_at(starts[chosen], size)
        box = Box(
            as_triple(a * self.stride for a in coarse.start),
            as_triple(min(b * self.stride, n) for b, n in zip(coarse.stop, grid.shape, strict=True)),
        )
        return DrawnBox(box, unlike, self._numbers[number])

    def _are_free(self, starts: np.ndarray, size: Shape, taken: Sequence[Box]) -> np.ndarray:
        """Whether boxes of `size` at `starts` (N, 3), in strides, overlap none of the taken boxes; (N,) bool."""
        if not taken:
            return np.ones(len(starts), bool)
        low, high = (np.array([getattr(box, end) for box in taken]) for end in ("start", "stop"))
        begins = starts[:, None] * self.stride
        ends = begins + np.array(size) * self.stride
        return np.asarray(~((begins < high) & (low < ends)).all(axis=2).any(axis=1))

    def holds(self, share_inside: float) -> bool:
        """Whether enough of a tumor lies where it may. In the user's own box, tumors are kept wherever they are."""
        return self.user_box is not None or share_inside >= self.least

    def has_room(self, box: Box, smallest_ml: float) -> bool:
        """Whether the smallest tumor could pass `holds` in a box of the scan's voxels."""
        place = tumor_place(box, self.scan.grid, self.plan.paste.feather_mm)
        room_ml = float(self._inside(place).sum()) * self.scan.grid.voxel_ml
        return self.holds(1.0 if room_ml > 0 and room_ml >= self.least * smallest_ml else 0.0)

    def share_inside(self, mask: np.ndarray, box: Box) -> float:
        """The share of a mask that lies in the region or, without one, in the body; 0 if it is empty.

        Args:
            mask: the mask in the box (X, Y, Z) bool.
            box: the box, in the scan's voxels.
        """
        return float(self._inside(box)[mask].mean()) if mask.any() else 0.0

    def change_beyond_body(self, before: np.ndarray, after: np.ndarray, mask: np.ndarray, box: Box) -> float | None:
        """The share of what painting changed that lies outside the body, beyond the skin.

        None if nothing changed, or if less than half of the tumor lies in the body as it is found: in crops of a chest,
        lungs may not belong to it.

        Args:
            before: a channel of the scan in the box (X, Y, Z), before painting.
            after: the same after painting.
            mask: the mask of the tumor in the box (X, Y, Z) bool.
            box: the box that may have changed, in the scan's voxels.
        """
        body = self._in_body(box)
        change = np.abs(np.subtract(after, before, dtype=np.float64))
        total = float(change.sum())
        known = total > 0 and mask.any() and body[mask].mean() >= 0.5
        return float(change[~body].sum()) / total if known else None

    def _inside(self, box: Box) -> np.ndarray:
        """The region or, without one, the body in a box of the scan's voxels, (X, Y, Z) bool."""
        return self._in_body(box) if self.region is None else self.region[box.slices]

    def _in_body(self, box: Box) -> np.ndarray:
        """The body in a box of the scan's voxels, (X, Y, Z) bool."""
        coarse = (np.arange(a, b) // self.stride for a, b in zip(box.start, box.stop, strict=True))
        return np.asarray(self.body[np.ix_(*coarse)])
