"""Are synthetic lesions new? Distance to the nearest training lesion, near-copies, duplicates, and diversity.

A lesion becomes a patch at its own scale. The distance of two patches ignores mirroring and small shifts. Arrays in,
frozen records out; no files.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from tumorgen_cli.geometry import Shape, Triple
from tumorgen_cli.metrics.statistics import TumorStatistics

SIDE = 20  # points of a patch along each edge
REACH = 4.6  # a patch's edge in radii of gyration: a ball fills 0.56 of it, a long rod 0.75
SHIFT = 2  # points by which patches are shifted against each other at most
TYPICAL = 5.0  # percentile of the real distances below which a lesion counts as close
#: weight of the mask in the correlation of two patches; the rest is the image inside. On 32 PET lesions this value
#: flagged every noisy, rescaled, rotated copy in another host; with the surroundings included 59 % of them were
#: flagged, with the mask alone 94 %
MASK_SHARE = 0.5
_CANDIDATES = 24  # pairs of (lesion, mirroring) with the best correlation, which are then shifted
_CHUNK = 192  # pairs that are shifted at once; limits memory
_MIRRORINGS = tuple(axes for count in range(4) for axes in itertools.combinations((0, 1, 2), count))
#: facts of `Lesion` -> title
FACTS = {
    "volume_ml": "volume",
    "sphericity": "sphericity",
    "mean": "mean intensity",
    "contrast": "contrast",
    "heterogeneity": "heterogeneity (CV inside)",
    "place_x": "place along x, fraction of the scan",
    "place_y": "place along y, fraction of the scan",
    "place_z": "place along z, fraction of the scan",
}


@dataclass(frozen=True)
class Lesion:
    """A lesion to compare.

    Attributes:
        case: Name of its case.
        group: Its patient or host.
        patch: (C + 1, SIDE, SIDE, SIDE), see `lesion_patch`.
        facts: Numbers in the order of `FACTS`.
    """

    case: str
    group: str
    patch: np.ndarray
    facts: tuple[float, ...]


@dataclass(frozen=True)
class Near:
    """A lesion and the lesion nearest to it among others.

    A copy is far closer to one lesion than to any other; a smooth, typical lesion is about as close to several.

    Attributes:
        case: The lesion.
        nearest: The lesion nearest to it.
        distance: Their distance: 0 the same, 1 nothing in common.
        second: The distance to the second nearest.
    """

    case: str
    nearest: str
    distance: float
    second: float

    @property
    def ratio(self) -> float:
        """Distance to the nearest over that to the second nearest: near 0 for a copy, about 1 for a typical lesion."""
        return _ratio(self.distance, self.second)


@dataclass(frozen=True)
class Spread:
    """Minimum and quartiles of `count` distances; nan where there is none."""

    count: int
    minimum: float
    quartile_1: float
    median: float
    quartile_3: float


@dataclass(frozen=True)
class Diversity:
    """The spread of one fact among the synthetic lesions over that among the real: 1 alike, below 1 less varied.

    Attributes:
        fact: Name of the fact.
        title: Its title in a table.
        quartiles: Ratio of interquartile ranges.
        deviations: Ratio of standard deviations. Both are nan where the real lesions do not vary or a side has fewer
            than two lesions.
    """

    fact: str
    title: str
    quartiles: float
    deviations: float


@dataclass(frozen=True)
class Novelty:
    """How new a set's lesions are, and how different from each other.

    Attributes:
        synthetic: Distances of the synthetic lesions to the nearest training lesion.
        held_out: The same of the held-out real lesions.
        left_out: Distances of each training lesion to the nearest training lesion of another patient.
        threshold: The smallest of the latter two kinds of distances. A synthetic lesion below it is a near-copy: it is
            closer to a training lesion than any two real patients' lesions are to each other.
        near_copies: Number of near-copies; nan without real distances.
        singled_out: Number of near-copies that have a smaller `Near.ratio` than any real lesion. Smooth lesions are
            closer to all other lesions than real ones are; only this number separates a copy from a typical lesion.
        least_ratio: The smallest `Near.ratio` of a real lesion; nan if none has one.
        close_share: Share of synthetic lesions below the 5th percentile of the real distances: 0.05 where they are as
            far from the training lesions as real ones are.
        reason: Why a number is nan; empty otherwise.
        pairs: Every synthetic lesion with its nearest training lesion, nearest first.
        held_out_pairs: The same of the held-out lesions, to show what the distance of two patients looks like.
        left_out_pairs: The same of the training lesions.
        duplicates: Pairs of synthetic lesions closer than `threshold`, nearest first.
        duplicated: Number of lesions in such pairs.
        synthetic_mean: Mean distance between two synthetic lesions, without shifts.
        real_mean: Mean distance between two training lesions of different patients, without shifts.
        diversity: The spread of each fact, synthetic over real.
    """

    synthetic: Spread
    held_out: Spread
    left_out: Spread
    threshold: float
    near_copies: float
    singled_out: float
    least_ratio: float
    close_share: float
    reason: str
    pairs: tuple[Near, ...]
    held_out_pairs: tuple[Near, ...]
    left_out_pairs: tuple[Near, ...]
    duplicates: tuple[Near, ...]
    duplicated: int
    synthetic_mean: float
    real_mean: float
    diversity: tuple[Diversity, ...]

    @property
    def copied(self) -> tuple[str, ...]:
        """The synthetic lesions that are singled out."""
        return tuple(pair.case for pair in self.pairs if _is_copy(pair, self.threshold, self.least_ratio))


def make_lesion(
    case: str, group: str, image: np.ndarray, mask: np.ndarray, spacing_mm: Triple, statistics: TumorStatistics
) -> Lesion | None:
    """Make a lesion with its patch and facts; None where the mask is empty.

    Args:
        case: Name of its case.
        group: Its patient or host.
        image: The scan (C, X, Y, Z).
        mask: The lesion (X, Y, Z).
        spacing_mm: Voxel size along each axis.
        statistics: The lesion's statistics in the main channel.
    """
    patch = lesion_patch(image, mask, spacing_mm)
    if patch is None:
        return None
    own = statistics
    place = [float(axis.mean() + 0.5) / n for axis, n in zip(np.nonzero(mask), mask.shape, strict=True)]
    return Lesion(
        case, group, patch, (own.volume_ml, own.sphericity, own.mean, own.contrast, own.heterogeneity, *place)
    )


def lesion_patch(image: np.ndarray, mask: np.ndarray, spacing_mm: Triple) -> np.ndarray | None:
    """Resample a lesion to its own scale: (C + 1, SIDE, SIDE, SIDE) float32 of norm 1; None where the mask is empty.

    The first C channels are the image inside the lesion, the last is the mask. The cube is centered on the mask's
    center of mass and its edge is `REACH` radii of gyration: a few voxels more or less hardly change it, while they
    would change a tight box. The image is each channel minus its mean inside, and zero outside: a copy in another host
    has other surroundings, and the level and unit of the uptake must not count. Image and mask are scaled so that the
    product of two patches is the mean of their two correlations. A channel that is constant inside is zero: it
    correlates with nothing.

    Args:
        image: The scan (C, X, Y, Z).
        mask: The lesion (X, Y, Z).
        spacing_mm: Voxel size along each axis.
    """
    inside = mask.astype(bool, copy=False)
    points = np.argwhere(inside)
    if not len(points):
        return None
    step = np.array(spacing_mm)
    center = points.mean(axis=0)
    # a voxel is a box, not a point: a lesion of one voxel has a size too
    radius = math.sqrt(float((((points - center) * step) ** 2).sum(axis=1).mean() + (step**2).sum() / 12))
    pitch = REACH * radius / SIDE
    axes = [c + (np.arange(SIDE) - (SIDE - 1) / 2) * pitch / s for c, s in zip(center, step, strict=True)]
    blur = [0.5 * math.sqrt(max(0.0, pitch**2 - s**2)) / s for s in step]
    region = tuple(
        slice(max(0, math.floor(a[0] - 4 * b) - 1), max(1, math.ceil(a[-1] + 4 * b) + 2))
        for a, b in zip(axes, blur, strict=True)
    )
    at = np.meshgrid(*[a - part.start for a, part in zip(axes, region, strict=True)], indexing="ij")

    def sample(array: np.ndarray, mode: str) -> np.ndarray:
        part = ndimage.gaussian_filter(array[region].astype(np.float32), blur, mode=mode)
        return np.asarray(ndimage.map_coordinates(part, at, order=1, mode=mode))

    share = sample(inside, "constant")
    images = []
    for channel in image:
        values = sample(channel, "nearest").astype(np.float64)
        values -= (values * share).sum() / share.sum()
        images.append(
            share * values if values.std() > 1e-6 * max(1.0, float(np.abs(channel).max())) else np.zeros_like(values)
        )
    shape = share - share.mean()
    scaled = [math.sqrt((1 - MASK_SHARE) / len(image)) * _unit(part) for part in images]
    return np.stack([*scaled, math.sqrt(MASK_SHARE) * _unit(shape)]).astype(np.float32)


def _unit(array: np.ndarray) -> np.ndarray:
    norm = float(np.linalg.norm(array))
    return array / norm if norm > 0 else array


def distances(patches: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Compute distances (N, M) between patches (N, C + 1, S, S, S) and (M, ...).

    A distance is 1 minus the best correlation over eight mirrorings.
    """
    best = np.full((len(patches), len(others)), -np.inf, np.float32)
    for axes in _MIRRORINGS:
        np.maximum(best, _products(patches, others, axes), out=best)
    return 1 - best


def find_nearest(
    patches: np.ndarray, others: np.ndarray, excluded: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the nearest of the others for each patch.

    Distance is 1 minus the best correlation over eight mirrorings and shifts of up to `SHIFT` points along each axis.
    Patches are centered, so only the 24 best pairs of (other, mirroring) without a shift are shifted. Shifts are
    circular; what wraps around is the empty rim of a patch.

    Args:
        patches: (N, C + 1, S, S, S).
        others: (M, C + 1, S, S, S).
        excluded: (N, M), pairs that are not compared.

    Returns:
        Indices of the nearest (N,), distances (N,), and the distances of the second nearest (N,). Where nothing is left
        to compare with, the index is -1 and the distance nan.
    """
    found, closest, second = np.full(len(patches), -1), np.full(len(patches), math.nan), np.full(len(patches), math.nan)
    if not len(patches) or not len(others):
        return found, closest, second
    # (N, 8 M): mirroring after mirroring
    correlations = np.concatenate([_products(patches, others, axes) for axes in _MIRRORINGS], axis=1)
    if excluded is not None:
        correlations[np.tile(excluded, len(_MIRRORINGS))] = -np.inf
    count = min(_CANDIDATES, correlations.shape[1])
    candidates = np.argpartition(-correlations, count - 1, axis=1)[:, :count]
    rows, places = np.repeat(np.arange(len(patches)), count), candidates.ravel()
    allowed = np.isfinite(correlations[rows, places])
    rows, places = rows[allowed], places[allowed]
    best = np.full((len(patches), len(others)), -np.inf)
    for start in range(0, len(rows), _CHUNK):
        row, (mirroring, other) = rows[start : start + _CHUNK], np.divmod(places[start : start + _CHUNK], len(others))
        np.maximum.at(best, (row, other), _shifted(patches[row], others[other], mirroring))
    for row, values in enumerate(best):
        order = np.argsort(-values, kind="stable")[:2]
        known = [max(1 - float(v), 0.0) for v in values[order] if np.isfinite(v)]
        if known:
            found[row], closest[row] = order[0], known[0]
        if len(known) > 1:
            second[row] = known[1]
    return found, closest, second


def _products(patches: np.ndarray, others: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    mirrored = np.flip(others, tuple(axis - 3 for axis in axes))
    return np.asarray(patches.reshape(len(patches), -1) @ mirrored.reshape(len(others), -1).T)


def _shifted(patches: np.ndarray, others: np.ndarray, mirroring: np.ndarray) -> np.ndarray:
    """Compute the best correlation of each pair (K,) over all shifts.

    `mirroring` (K,) numbers the mirroring of the other patch.
    """
    turned = np.stack(
        [np.flip(other, tuple(axis - 3 for axis in _MIRRORINGS[m])) for other, m in zip(others, mirroring, strict=True)]
    )
    axes, size = (-3, -2, -1), patches.shape[-3:]
    spectrum = (fft.rfftn(patches, axes=axes) * np.conj(fft.rfftn(turned, axes=axes))).sum(axis=1)
    correlation = fft.irfftn(spectrum, s=size, axes=axes)
    reach = np.arange(-SHIFT, SHIFT + 1)
    near = correlation[(slice(None), *np.ix_(reach, reach, reach))]
    return np.asarray(near.reshape(len(patches), -1).max(axis=1))


def measure_novelty(synthetic: Sequence[Lesion], train: Sequence[Lesion], held_out: Sequence[Lesion]) -> Novelty:
    """Measure how new the synthetic lesions are beside the training lesions, and how varied; see `Novelty`.

    A held-out lesion of a training patient is compared with the other patients' training lesions only.
    """
    ours, theirs, unseen = (_patches(lesions) for lesions in (synthetic, train, held_out))
    pairs, unseen_pairs, left_out_pairs = (
        _pairs(lesions, train, find_nearest(patches, theirs, excluded))
        for lesions, patches, excluded in (
            (synthetic, ours, None),
            (held_out, unseen, _same(held_out, train)),
            (train, theirs, _same(train, train)),
        )
    )
    real = np.array([pair.distance for pair in (*unseen_pairs, *left_out_pairs)])
    real_ratios = np.array([pair.ratio for pair in (*unseen_pairs, *left_out_pairs)])
    threshold = float(real.min()) if len(real) else math.nan
    least_ratio = float(np.nanmin(real_ratios)) if np.isfinite(real_ratios).any() else math.nan
    known = bool(len(real)) and bool(pairs)
    reason = "" if len(real) else "fewer than two real patients' lesions to compare with"
    if not len(synthetic):
        reason = "no synthetic lesion"
    copies = [pair for pair in pairs if pair.distance < threshold]
    duplicates = _duplicates(synthetic, ours, threshold)
    return Novelty(
        synthetic=_spread(pairs),
        held_out=_spread(unseen_pairs),
        left_out=_spread(left_out_pairs),
        threshold=threshold,
        near_copies=float(len(copies)) if known else math.nan,
        singled_out=float(sum(_is_copy(pair, threshold, least_ratio) for pair in pairs))
        if known and math.isfinite(least_ratio)
        else math.nan,
        least_ratio=least_ratio,
        close_share=float(np.mean([pair.distance < np.percentile(real, TYPICAL) for pair in pairs]))
        if known
        else math.nan,
        reason=reason,
        pairs=pairs,
        held_out_pairs=unseen_pairs,
        left_out_pairs=left_out_pairs,
        duplicates=duplicates,
        duplicated=len({case for pair in duplicates for case in (pair.case, pair.nearest)}),
        synthetic_mean=_mean_distance(ours, np.eye(len(ours), dtype=bool)),
        real_mean=_mean_distance(theirs, _same(train, train)),
        diversity=compare_diversity(synthetic, [*train, *held_out]),
    )


def _is_copy(pair: Near, threshold: float, least_ratio: float) -> bool:
    """Whether a lesion is closer to one training lesion, and to it alone, than any real one is."""
    return pair.distance < threshold and pair.ratio < least_ratio


def compare_diversity(synthetic: Sequence[Lesion], real: Sequence[Lesion]) -> tuple[Diversity, ...]:
    """Compare the spread of every fact of `FACTS`, synthetic over real.

    Places are comparable only between scans that show the same part of the body.
    """
    rows = []
    for i, (fact, title) in enumerate(FACTS.items()):
        ours, theirs = (np.array([one.facts[i] for one in lesions], float) for lesions in (synthetic, real))
        ours, theirs = ours[np.isfinite(ours)], theirs[np.isfinite(theirs)]
        if min(len(ours), len(theirs)) < 2:
            rows.append(Diversity(fact, title, math.nan, math.nan))
            continue
        (a, b), (c, d) = np.percentile(ours, (25, 75)), np.percentile(theirs, (25, 75))
        rows.append(Diversity(fact, title, _ratio(b - a, d - c), _ratio(ours.std(), theirs.std())))
    return tuple(rows)


def _duplicates(synthetic: Sequence[Lesion], patches: np.ndarray, threshold: float) -> tuple[Near, ...]:
    """List pairs of synthetic lesions below the threshold, nearest first, each pair once."""
    found: dict[frozenset[str], Near] = {}
    for pair in _pairs(synthetic, synthetic, find_nearest(patches, patches, np.eye(len(patches), dtype=bool))):
        if pair.distance < threshold:
            found.setdefault(frozenset((pair.case, pair.nearest)), pair)
    return tuple(found.values())


def _pairs(
    lesions: Sequence[Lesion], others: Sequence[Lesion], found: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> tuple[Near, ...]:
    """Pair every lesion with the nearest one, nearest first; lesions without a nearest one are left out."""
    pairs = [
        Near(one.case, others[j].case, float(a), float(b))
        for one, j, a, b in zip(lesions, *found, strict=True)
        if j >= 0
    ]
    return tuple(sorted(pairs, key=lambda pair: (pair.distance, pair.case)))


def _patches(lesions: Sequence[Lesion]) -> np.ndarray:
    shape: Shape = (SIDE, SIDE, SIDE)
    return np.stack([one.patch for one in lesions]) if lesions else np.zeros((0, 2, *shape), np.float32)


def _same(lesions: Sequence[Lesion], others: Sequence[Lesion]) -> np.ndarray:
    """Tell where two lesions are of one patient (N, M)."""
    return np.array([[one.group == other.group for other in others] for one in lesions], bool).reshape(
        len(lesions), len(others)
    )


def _mean_distance(patches: np.ndarray, excluded: np.ndarray) -> float:
    return float(distances(patches, patches)[~excluded].mean()) if len(patches) and not excluded.all() else math.nan


def _spread(pairs: Sequence[Near]) -> Spread:
    if not pairs:
        return Spread(0, *[math.nan] * 4)
    quartiles = np.percentile([pair.distance for pair in pairs], (0, 25, 50, 75))
    return Spread(len(pairs), *(float(v) for v in quartiles))


def _ratio(top: float, bottom: float) -> float:
    return float(top / bottom) if bottom > 0 else math.nan
