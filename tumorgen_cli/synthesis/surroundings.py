"""Which places of a host look like the surroundings of training tumors.

A place is described as the shell of a training tumor is (`data.surroundings`): by cells around an ellipsoid of the
tumor's extent. A box has more room than its tumor needs, and the tumor may lie anywhere in it. So the ellipsoid is
looked at in several random positions within the box, and the place is taken where all of them are as they should be.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tumorgen_cli.data.surroundings import (
    CELLS,
    FLAT,
    QUANTILES,
    Surroundings,
    cell_mm,
    describe_cells,
    is_in,
    read_cells,
    usual_variation,
)
from tumorgen_cli.geometry import Triple
from tumorgen_cli.planning.fingerprint import TumorFacts
from tumorgen_cli.planning.plan import ChannelPlan
from tumorgen_cli.preprocessing.intensity import channel_units
from tumorgen_cli.synthesis.scan import Scan

PLACES = 200  # that are compared in a scan, for each tumor
_POSITIONS = 8  # of the tumor in each place
_IQR = 1.349  # of a normal distribution, in standard deviations
_ENOUGH = 3  # tumors that tell how far they are from each other
_FAR = 95  # percentile of the distance of a tumor to the next: a place beyond is unlike


@dataclass(frozen=True)
class KnownSurroundings:
    """The surroundings of training tumors, as numbers that can be compared.

    Attributes:
        features: of each tumor (N, F), in units of `scale`.
        scale: of each feature (F,): what tumors differ by, and the error of measuring it by `CELLS` cells.
        limit: how far tumors are from the next one, with the error of measuring a place; places that are farther from
            every tumor are unlike. It is infinite if there are too few tumors to know.
        in_body: share of a tumor that lies in the body, in nearly all tumors.
    """

    features: np.ndarray
    scale: np.ndarray
    limit: float
    in_body: float

    @classmethod
    @functools.lru_cache(maxsize=4)
    def of(cls, found: tuple[Surroundings, ...]) -> KnownSurroundings:
        """Compare the surroundings of one or more tumors."""
        from scipy.spatial import KDTree

        features = np.array([each.features for each in found])
        low, high = np.percentile(features, (25, 75), axis=0)
        errors = _errors(found)
        scale = np.hypot((high - low) / _IQR, errors)
        features, limit = features / scale, np.inf
        if len(found) >= _ENOUGH:
            distinct = np.unique(features, axis=0)  # of a model, several tumors have the mean of their group
            compared = distinct if len(distinct) >= _ENOUGH else features
            apart = np.percentile(KDTree(compared).query(compared, k=2)[0][:, 1], _FAR)
            limit = float(np.hypot(apart, np.linalg.norm(errors / scale)))
        in_body = float(np.percentile([each.tumor_in_body for each in found], 100 - _FAR))
        return cls(features, scale, limit, in_body)

    def choose(self, places: np.ndarray, number: int) -> tuple[int, float]:
        """Choose the place that is most like the surroundings of a tumor, in the mean of its positions.

        Args:
            places: features of the places in each position (P, S, F).
            number: the tumor.

        Returns:
            The place, and its mean distance to the next tumor over the limit: above 1 it is unlike.
        """
        from scipy.spatial.distance import cdist

        places = places / self.scale
        chosen = int(np.square(places - self.features[number]).sum(axis=2).mean(axis=1).argmin())
        return chosen, float(cdist(places[chosen], self.features).min(axis=1).mean() / self.limit)


def _errors(found: Sequence[Surroundings]) -> np.ndarray:
    """The standard error of each feature (F,), if it is measured by `CELLS` cells."""
    levels = np.array([each.levels for each in found])  # (N, C, Q)
    low, high = (QUANTILES.index(share) for share in (0.25, 0.75))
    within = np.median(levels[..., high] - levels[..., low], axis=0) / _IQR  # (C,)
    share = 0.5 / CELLS**0.5
    others = np.full(levels.shape[1] + 1, share)  # texture and body
    # where shells are flat and alike, a difference that nobody sees would count as a large one
    alike = np.maximum(FLAT * np.abs(levels).max(axis=(0, 2)), 1e-6)
    return np.concatenate([np.repeat(np.maximum(within / CELLS**0.5, alike), len(QUANTILES)), others])


class HostPlaces:
    """Describes places of one host."""

    def __init__(self, scan: Scan, channels: Sequence[ChannelPlan], body: np.ndarray, stride: int) -> None:
        """Keep what places are described by.

        Args:
            scan: the host.
            channels: the plan's channels.
            body: the body of every `stride`-th voxel, bool.
            stride: see `body`.
        """
        self.scan, self.body, self.stride = scan, body, stride
        self.units = channel_units(channels, scan.limits)
        self._known: dict[float, np.ndarray] = {}

    def describe(self, centers: np.ndarray, tumor: TumorFacts, room_mm: Triple, rng: np.random.Generator) -> np.ndarray:
        """Describe the surroundings of a tumor at each of some places.

        Args:
            centers: centers of the places (P, 3) in the scan's voxels.
            tumor: the tumor, with its surroundings.
            room_mm: extent of the place in which it lies anywhere.
            rng: draws the cells.

        Returns:
            The features of each place, in several positions of the tumor (P, S, F).
        """
        assert tumor.surroundings is not None
        reach_mm, extent_mm = tumor.surroundings.reach_mm, tumor.extent_mm
        spacing = np.array(self.scan.grid.spacing_mm)
        directions = rng.standard_normal((_POSITIONS, CELLS, 3))
        directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
        depth = rng.uniform(reach_mm / 2, reach_mm, (_POSITIONS, CELLS, 1))
        shift = rng.uniform(-0.5, 0.5, (_POSITIONS, 1, 3)) * np.maximum(np.array(room_mm) - extent_mm, 0)
        offsets = directions * (np.array(extent_mm) / 2 + depth) + shift
        points = centers[:, None, None, :] + offsets / spacing
        edges = cell_mm(reach_mm) / spacing
        return describe_cells(self._read(points, edges), is_in(self.body, self.stride, points), self._usual(reach_mm))

    def _read(self, points: np.ndarray, edges: np.ndarray) -> np.ndarray:
        zero, width = self.units.T.reshape(2, -1, *(1,) * points.ndim)
        return (read_cells(self.scan.measured, points, edges) - zero) / width

    def _usual(self, reach_mm: float) -> np.ndarray:
        """The usual variation in cells of this reach; kept by the host, since a cache of all would keep all hosts."""
        if reach_mm not in self._known:
            edges = cell_mm(reach_mm) / np.array(self.scan.grid.spacing_mm)
            found = usual_variation(self.scan.measured, self.body, self.stride, edges, np.random.default_rng(0))
            self._known[reach_mm] = found / self.units[:, 1]
        return self._known[reach_mm]
