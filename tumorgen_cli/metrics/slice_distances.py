"""How far one set of cases is from another in a network's features: distances, their intervals, and the real floor.

Arrays in, numbers out. Fréchet distances grow as sets get smaller, so only distances at equal counts may be compared:
`floor` and `matched` give these. The networks are in `feature_networks`; a distance may be called FID in the features
of one of them only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = [
    "PLANES",
    "Distance",
    "Interval",
    "Projection",
    "cannot_tell",
    "equal_counts",
    "fit_projection",
    "floor",
    "frechet_distance",
    "jackknife",
    "kernel_distance",
    "matched",
    "over_planes",
    "take_slice",
]
#: features of two sets (the first axis is the case) -> their distance
Distance = Callable[[np.ndarray, np.ndarray], float]
PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}
_COVERAGE = 0.95


@dataclass(frozen=True)
class Interval:
    """A distance and its 95 % interval; `counts` are the numbers of cases in the two sets that were compared."""

    value: float
    low: float
    high: float
    counts: tuple[int, int]

    @property
    def width(self) -> float:
        """Width of the interval, in the distance's units."""
        return self.high - self.low


def take_slice(volume: np.ndarray, plane: str, center: Sequence[float] | None = None) -> np.ndarray:
    """Return the 2D slice of a volume (X, Y, Z) in a plane.

    Args:
        volume: The volume (X, Y, Z).
        plane: A key of `PLANES`.
        center: Voxel through which the slice goes; None: the middle of the volume.
    """
    axis = PLANES[plane]
    index = volume.shape[axis] // 2 if center is None else int(np.clip(round(center[axis]), 0, volume.shape[axis] - 1))
    return np.asarray(np.take(volume, index, axis))


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Compute |μa - μb|² + tr(Σa + Σb - 2 (Σa Σb)^½) of features (N, D) and (M, D).

    With centered features A and B over √(N - 1), tr (Σa Σb)^½ is the sum of the singular values of A Bᵀ. That is exact,
    never complex, and also correct for singular covariances (N < D), where a matrix square root is not.

    Returns:
        The squared distance; nan where a set has fewer than two rows.

    Raises:
        ValueError: D differs.

    Source: Heusel et al. 2017 (arXiv 1706.08500), equation 6; pytorch-fid's definition.
    """
    _check(a, b)
    if min(len(a), len(b)) < 2:
        return math.nan
    (mean_a, root_a), (mean_b, root_b) = _moments(a), _moments(b)
    shared = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    distance = ((mean_a - mean_b) ** 2).sum() + (root_a**2).sum() + (root_b**2).sum() - 2 * shared
    return max(0.0, float(distance))


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Compute the unbiased MMD² of features (N, D) and (M, D) under the kernel (x·y / D + 1)³.

    Its expectation does not depend on N and M and is 0 for equal distributions, so a value may be below 0.

    Returns:
        The estimate; nan where a set has fewer than two rows.

    Raises:
        ValueError: D differs.

    Source: Bińkowski et al. 2018 (arXiv 1801.01401), KID; Gretton et al. 2012, equation 3. Deviation: one estimate from
    all rows, not the mean over blocks, which only saves memory on sets of tens of thousands.
    """
    _check(a, b)
    n, m = len(a), len(b)
    if min(n, m) < 2:
        return math.nan
    a, b = a.astype(np.float64, copy=False), b.astype(np.float64, copy=False)
    within_a, within_b, across = (_kernel(x, y) for x, y in ((a, a), (b, b), (a, b)))
    same = [(k.sum() - np.trace(k)) / (count * (count - 1)) for k, count in ((within_a, n), (within_b, m))]
    return float(sum(same) - 2 * across.mean())


def over_planes(distance: Distance) -> Distance:
    """Return `distance` as a mean over planes, of features (N, plane, D) and (M, plane, D).

    The slices of a case stay together.
    """

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([distance(a[:, i], b[:, i]) for i in range(a.shape[1])]))

    return mean


def equal_counts(trained: int, held_out: int, most: int) -> tuple[int, int]:
    """How many rows of a set, and how many training rows, are compared, so that real rows can be compared alike.

    As many as there are held-out groups or, with fewer than two, half of the training groups, or as the set has.

    Args:
        trained: Groups of training rows.
        held_out: Groups of held-out rows.
        most: Rows, or groups of rows, of the set.
    """
    counts = (held_out, trained) if held_out >= 2 else (trained // 2, trained // 2)
    return min(counts[0], most), counts[1]


def jackknife(
    a: np.ndarray,
    b: np.ndarray,
    distance: Distance,
    groups_a: Sequence[Hashable] | None,
    groups_b: Sequence[Hashable] | None,
) -> Interval:
    """Compute the distance of two sets, with the 95 % interval that other cases would give.

    Each group of either set is left out in turn; the spread of the results gives the standard error (Student's t with
    the smaller set's degrees of freedom). The interval is that of the distance at these counts: it is centered on the
    biased estimate, so compare it at equal counts only.

    A bootstrap would be wrong here. A set drawn with replacement holds only 63 % of its cases, some of them twice, so
    each draw is in effect a smaller set. A Fréchet distance, whose upward bias grows as the set shrinks, comes out
    larger in nearly every draw than the estimate itself, and the kernel distance compares equal rows. Leaving out one
    case changes the count by one.

    Args:
        a: Features of one set; the first axis is the case.
        b: Features of the other set.
        distance: The distance to compute.
        groups_a: The group of each row of `a`: rows of one group, such as the pairs painted into one host, are left out
            together. None: every row is a group.
        groups_b: The same for `b`.

    Returns:
        The distance with its interval; the bounds are nan where a set has fewer than three groups.

    Source: Efron and Stein 1981 (the jackknife's variance, which is at worst too large); Chong and Forsyth 2020
    (arXiv 1911.07023), the bias of FID.
    """
    value, counts = distance(a, b), (len(a), len(b))
    members = [_members(part, groups) for part, groups in ((a, groups_a), (b, groups_b))]
    fewest = min(map(len, members))
    if fewest < 3:
        return Interval(value, math.nan, math.nan, counts)
    left_out = [
        np.array([distance(np.delete(a, rows, axis=0), b) for rows in members[0]]),
        np.array([distance(a, np.delete(b, rows, axis=0)) for rows in members[1]]),
    ]
    variance = sum((len(found) - 1) * found.var() for found in left_out)
    half = _student(fewest - 1) * math.sqrt(variance)
    return Interval(value, value - half, value + half, counts)


def matched(
    a: np.ndarray,
    b: np.ndarray,
    counts: tuple[int, int],
    distance: Distance,
    groups_a: Sequence[Hashable] | None,
    groups_b: Sequence[Hashable] | None,
    draws: int,
    seed: int,
) -> Interval:
    """Compute the mean distance of random parts of both sets, at given counts.

    Parts are drawn without replacement, so that every draw is a set such as another study could have. A draw holds as
    many groups as possible, so that rows that are alike do not count several times. The interval holds 95 % of the
    draws and says how far single sets of that size differ. It closes where `counts` approaches the sets' own counts;
    for those, use `jackknife`.

    Args:
        a: Features of one set; the first axis is the case.
        b: Features of the other set.
        counts: Rows of `a` and of `b` in a draw.
        distance: The distance to compute.
        groups_a: The group of each row of `a`, see `jackknife`.
        groups_b: The same for `b`.
        draws: Number of draws.
        seed: Seed of the draws.

    Returns:
        The mean and its interval; nan where a set has fewer rows than requested, or a count is below two.
    """
    if min(counts) < 2 or len(a) < counts[0] or len(b) < counts[1]:
        return Interval(math.nan, math.nan, math.nan, counts)
    rng = np.random.default_rng(seed)
    sets = [
        (part, _members(part, groups), count)
        for part, groups, count in zip((a, b), (groups_a, groups_b), counts, strict=True)
    ]
    found = [distance(*(part[_spread(members, rng)[:count]] for part, members, count in sets)) for _ in range(draws)]
    return _of_draws(found, counts)


def floor(
    real: np.ndarray,
    counts: tuple[int, int],
    distance: Distance,
    groups: Sequence[Hashable] | None,
    draws: int,
    seed: int,
) -> Interval:
    """Compute the distance of real cases from other real cases: over random splits of `real` into two sets.

    A synthetic set of `counts[0]` cases against `counts[1]` real cases is compared with this floor. The interval holds
    95 % of what perfect cases would score: it is the exact permutation distribution under "no difference", of which the
    distance of the held-out cases is a single draw. Each row of a draw is of another group: of the tumors of one scan a
    draw holds one, because tumors of the same scan on both sides would make the distance too small.

    Args:
        real: Features of all real cases; the first axis is the case.
        counts: Rows in each part. Halves of N groups: (N // 2, N // 2). Held-out against training: their two counts,
            with both in `real`.
        distance: The distance to compute.
        groups: The group of each row, see `jackknife`.
        draws: Number of splits.
        seed: Seed of the splits.

    Returns:
        The mean and its interval; nan where there are fewer than sum(counts) groups.
    """
    members = _members(real, groups)
    if min(counts) < 2 or len(members) < sum(counts):
        return Interval(math.nan, math.nan, math.nan, counts)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        order = _spread(members, rng)[: sum(counts)]
        found.append(distance(real[order[: counts[0]]], real[order[counts[0] :]]))
    return _of_draws(found, counts)


def _spread(members: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Return all rows of all groups in random order.

    First comes one row of each group, then a second of each group that has one, and so on.
    """
    mixed = [rng.permutation(rows) for rows in members]
    turns = [[rows[turn] for rows in mixed if turn < len(rows)] for turn in range(max(map(len, mixed)))]
    return np.concatenate([rng.permutation(turn) for turn in turns])


def cannot_tell(floor: Interval, first: float, second: float) -> bool:
    """Tell whether the sample is too small to distinguish two sets by their distances, both at the floor's counts.

    The rule: the distances differ by no more than the width of the floor's 95 % interval, that is by no more than the
    choice of real cases changes them. The rule is strict on purpose: with the same real cases the difference varies
    less. True where any number is nan.
    """
    return not abs(first - second) > floor.width


@dataclass(frozen=True)
class Projection:
    """Principal axes of reference features: `mean` (D,), and `axes` (D, K) with columns of unit length."""

    mean: np.ndarray
    axes: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Project features (..., D) to coordinates (..., K)."""
        return np.asarray((features - self.mean) @ self.axes)


def fit_projection(reference: np.ndarray, components: int) -> Projection:
    """Fit the first principal axes of reference features (N, D).

    Args:
        reference: The features (N, D); the axes are fitted to nothing else.
        components: Number of axes, from 1 to min(N - 1, D).

    Raises:
        ValueError: The reference does not have that many components.
    """
    if not 1 <= components <= min(len(reference) - 1, reference.shape[1]):
        raise ValueError(f"{components} components of features of shape {reference.shape}")
    mean = reference.mean(axis=0)
    _, _, axes = np.linalg.svd(reference - mean, full_matrices=False)
    return Projection(mean, axes[:components].T)


def _check(a: np.ndarray, b: np.ndarray) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"features of shapes {a.shape} and {b.shape} cannot be compared")


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray((x @ y.T / x.shape[1] + 1) ** 3)


def _members(part: np.ndarray, groups: Sequence[Hashable] | None) -> list[np.ndarray]:
    """List the rows of each group.

    Raises:
        ValueError: The number of groups is not the number of rows.
    """
    if groups is None:
        return [np.array([row]) for row in range(len(part))]
    if len(groups) != len(part):
        raise ValueError(f"{len(groups)} groups for {len(part)} rows")
    rows: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group, []).append(row)
    return [np.array(found) for found in rows.values()]


def _student(freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + _COVERAGE) / 2, freedom))


def _of_draws(found: Sequence[float], counts: tuple[int, int]) -> Interval:
    tail = 50 * (1 - _COVERAGE)
    low, high = np.percentile(found, (tail, 100 - tail))
    return Interval(float(np.mean(found)), float(low), float(high), counts)


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and a root R (min(N, D), D) of the covariance: Rᵀ R = Σ."""
    features = features.astype(np.float64, copy=False)
    mean = features.mean(axis=0)
    root = (features - mean) / math.sqrt(len(features) - 1)
    return mean, np.asarray(np.linalg.qr(root, mode="r")) if len(root) > root.shape[1] else root
