"""Distances against the published formulas and closed forms; intervals against what drawing sets anew gives."""

import math

import numpy as np
import pytest
from scipy import linalg

from tumorgen_cli.metrics.slice_distances import (
    PLANES,
    Interval,
    cannot_tell,
    fit_projection,
    floor,
    frechet_distance,
    jackknife,
    kernel_distance,
    matched,
    over_planes,
    take_slice,
)


def pytorch_fid(a, b, eps):
    """pytorch-fid's calculate_frechet_distance, by the matrix square root; it takes eps = 1e-6 where the product is
    singular."""
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    more = eps * np.eye(len(cov_a))
    root = linalg.sqrtm((cov_a + more) @ (cov_b + more)).real
    return ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * np.trace(root)


def kernel_by_hand(a, b):
    """KID's definition, pair by pair."""

    def k(x, y):
        return (sum(p * q for p, q in zip(x, y, strict=True)) / len(x) + 1) ** 3

    n, m = len(a), len(b)
    same_a = sum(k(a[i], a[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    same_b = sum(k(b[i], b[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return same_a + same_b - 2 * sum(k(x, y) for x in a for y in b) / (n * m)


def test_agrees_with_pytorch_fid():
    rng = np.random.default_rng(1)
    mixing = rng.normal(size=(12, 12))
    a, b = rng.normal(size=(200, 12)) @ mixing, rng.normal(0.3, 1.4, size=(150, 12)) @ mixing[::-1]
    assert frechet_distance(a, b) == pytest.approx(pytorch_fid(a, b, 0), rel=1e-3)


@pytest.mark.parametrize(("n", "m", "d"), [(8, 32, 64), (30, 20, 64), (100, 20, 40), (2, 2, 5)])
def test_agrees_with_pytorch_fid_where_covariances_are_singular(n, m, d):
    rng = np.random.default_rng(n)
    mixing = rng.normal(size=(d, d))
    a, b = rng.normal(size=(n, d)) @ mixing, rng.normal(0.5, 1.3, size=(m, d)) @ mixing
    assert frechet_distance(a, b) == pytest.approx(pytorch_fid(a, b, 1e-6), rel=1e-3)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b))


def test_closed_forms():
    rng = np.random.default_rng(2)
    a = rng.normal(size=(30, 64))  # fewer rows than columns: the covariance is singular
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a[::-1] + 2) == pytest.approx(64 * 4)
    variance = ((a - a.mean(axis=0)) ** 2).sum() / 29
    assert frechet_distance(3 * (a - a.mean(axis=0)), a - a.mean(axis=0)) == pytest.approx(
        4 * variance
    )  # (3 - 1)² tr Σ


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_too_few_or_unlike(distance):
    assert math.isnan(distance(np.zeros((1, 3)), np.zeros((5, 3))))
    assert math.isnan(distance(np.zeros((5, 3)), np.zeros((0, 3))))
    with pytest.raises(ValueError, match="cannot be compared"):
        distance(np.zeros((4, 3)), np.zeros((4, 2)))


def test_kernel_distance_by_hand():
    # D = 1: k(0, 0) = k(0, y) = 1, k(1, 1) = 8, k(1, 2) = 27: same sets 1 and 27, across 1
    assert kernel_distance(np.zeros((2, 1)), np.array([[1.0], [2.0]])) == pytest.approx(1 + 27 - 2)
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(5, 7)), rng.normal(0.4, 1, size=(9, 7))
    assert kernel_distance(a, b) == pytest.approx(kernel_by_hand(a, b))
    assert kernel_distance(a.astype(np.float32), b) == pytest.approx(kernel_by_hand(a, b), rel=1e-5)


def test_kernel_distance_has_no_bias_and_frechet_has():
    rng = np.random.default_rng(4)
    found = {
        count: [(rng.normal(size=(count, 20)), rng.normal(size=(count, 20))) for _ in range(300)] for count in (5, 20)
    }
    kernel = {count: np.array([kernel_distance(a, b) for a, b in sets]) for count, sets in found.items()}
    for values in kernel.values():
        assert abs(values.mean()) < 3 * values.std() / math.sqrt(len(values))
        assert (values < 0).any()
    frechet = {count: np.mean([frechet_distance(a, b) for a, b in sets]) for count, sets in found.items()}
    assert frechet[5] > 1.5 * frechet[20] > 3


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_jackknife_covers_where_a_bootstrap_does_not(distance):
    """Sets drawn anew many times: 95 % intervals hold the expected distance at these counts; bootstrap draws overshoot
    it."""
    rng = np.random.default_rng(5)

    def draw():
        return rng.normal(size=(24, 30)), rng.normal(0.4, 1.2, size=(20, 30))

    expected = np.mean([distance(*draw()) for _ in range(400)])
    sets = [draw() for _ in range(60)]
    intervals = [jackknife(a, b, distance, None, None) for a, b in sets]
    covered = np.mean([interval.low <= expected <= interval.high for interval in intervals])
    assert 0.85 <= covered <= 1
    assert np.mean([interval.width for interval in intervals]) < 6 * np.std([interval.value for interval in intervals])
    a, b = sets[0]
    again = [distance(a[rng.integers(len(a), size=len(a))], b[rng.integers(len(b), size=len(b))]) for _ in range(100)]
    assert np.percentile(again, 2.5) > intervals[0].value


def test_jackknife_of_a_mean_is_students_interval():
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=(9, 1)), rng.normal(size=(12, 1))
    found = jackknife(a, b, lambda x, y: float(x.mean() - y.mean()), None, None)
    half = 2.306004 * math.sqrt(a.var(ddof=1) / 9 + b.var(ddof=1) / 12)  # t of 8 degrees of freedom
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half))
    assert found.counts == (9, 12)
    assert found.width == pytest.approx(2 * half)


def test_jackknife_keeps_groups_together():
    rng = np.random.default_rng(7)
    a, b = rng.normal(size=(6, 3)), rng.normal(size=(8, 3))
    alone = jackknife(a, b, kernel_distance, None, None)
    assert jackknife(a, b, kernel_distance, list("abcdef"), None) == alone
    twice = np.repeat(a, 2, axis=0)  # pairs that are copies: no new knowledge
    together = jackknife(twice, b, frechet_distance, [name for name in "abcdef" for _ in range(2)], None)
    assert together.width > 1.2 * jackknife(twice, b, frechet_distance, None, None).width
    assert math.isnan(jackknife(a, b, frechet_distance, ["host"] * 6, None).low)
    assert math.isfinite(jackknife(a, b, frechet_distance, ["host"] * 6, None).value)
    with pytest.raises(ValueError, match="5 groups for 6 rows"):
        jackknife(a, b, frechet_distance, list("abcde"), None)


def test_floor_is_what_perfect_cases_score():
    rng = np.random.default_rng(8)
    real = rng.normal(size=(40, 6))
    found = floor(real, (8, 32), frechet_distance, None, 200, 1)
    fresh = [frechet_distance(rng.normal(size=(8, 6)), rng.normal(size=(32, 6))) for _ in range(200)]
    assert found.value == pytest.approx(np.mean(fresh), rel=0.25)
    assert found.low < np.median(fresh) < found.high
    assert frechet_distance(rng.normal(1.5, 1, size=(8, 6)), real[:32]) > found.high
    halves = floor(real, (20, 20), frechet_distance, None, 200, 1)
    assert halves.value < found.value  # more cases on the smaller side: less bias
    assert halves == floor(real, (20, 20), frechet_distance, None, 200, 1)
    assert halves != floor(real, (20, 20), frechet_distance, None, 200, 2)
    kernel = floor(real, (20, 20), kernel_distance, None, 200, 1)
    assert kernel.low < 0 < kernel.high


def test_floor_splits_never_share_a_case():
    real = np.arange(10.0)[:, None]
    seen = []
    floor(real, (4, 6), lambda a, b: seen.append((set(a[:, 0]), set(b[:, 0]))) or 0.0, None, 20, 3)
    assert all(len(a) == 4 and len(b) == 6 and not a & b for a, b in seen)
    assert len({tuple(sorted(a)) for a, _ in seen}) > 10


def test_matched_takes_parts_of_both():
    rng = np.random.default_rng(9)
    a, b = rng.normal(1, 1, size=(40, 6)), rng.normal(size=(32, 6))
    whole = frechet_distance(a, b)
    few = matched(a, b, (8, 32), frechet_distance, None, None, 50, 1)
    assert few.value > whole  # fewer rows, more bias
    assert few.low < few.value < few.high
    assert matched(a, b, (40, 32), frechet_distance, None, None, 3, 1) == Interval(
        *[pytest.approx(whole)] * 3, (40, 32)
    )


def test_tumors_of_one_scan_do_not_stand_for_several():
    scans = [name for name in "abcdefgh" for _ in range(3)]
    real = np.array([[ord(name), turn] for name, turn in zip(scans, [0, 1, 2] * 8, strict=True)], float)
    seen: list[list[float]] = []
    floor(real, (3, 5), lambda a, b: seen.append([*a[:, 0], *b[:, 0]]) or 0.0, scans, 20, 3)
    assert all(sorted(drawn) == sorted(map(ord, "abcdefgh")) for drawn in seen)
    assert math.isnan(floor(real, (3, 6), frechet_distance, scans, 3, 3).value)
    turns: list[np.ndarray] = []
    matched(real, real[:4], (11, 2), lambda a, b: turns.append(a) or 0.0, scans, scans[:4], 20, 3)
    for drawn in turns:
        counts = np.unique(drawn[:, 0], return_counts=True)[1]
        assert len(np.unique(drawn, axis=0)) == 11
        assert counts.tolist().count(2) == 3  # all eight scans, three of them twice
    assert len({tuple(drawn[0]) for drawn in turns}) > 8


def test_too_few_cases_for_an_interval():
    few = np.zeros((5, 2))
    for found in (
        floor(few, (3, 3), frechet_distance, None, 5, 1),
        floor(few, (1, 3), frechet_distance, None, 5, 1),
        matched(few, few, (6, 2), frechet_distance, None, None, 5, 1),
        matched(few, few, (2, 6), frechet_distance, None, None, 5, 1),
    ):
        assert math.isnan(found.value)
        assert math.isnan(found.width)
        assert cannot_tell(found, 0.0, 100.0)


def test_when_two_sets_cannot_be_told_apart():
    real = Interval(1.0, 0.5, 2.0, (8, 32))
    assert cannot_tell(real, 3.0, 4.5)
    assert not cannot_tell(real, 3.0, 4.6)
    assert not cannot_tell(real, 4.6, 3.0)
    assert cannot_tell(real, 3.0, math.nan)


def test_planes_are_averaged_and_cases_stay_whole():
    rng = np.random.default_rng(10)
    a, b = rng.normal(size=(7, 3, 4)), rng.normal(1, 1, size=(9, 3, 4))
    expected = np.mean([kernel_distance(a[:, i], b[:, i]) for i in range(3)])
    assert over_planes(kernel_distance)(a, b) == pytest.approx(expected)
    assert jackknife(a, b, over_planes(kernel_distance), None, None).value == pytest.approx(expected)
    assert floor(np.concatenate([a, b]), (8, 8), over_planes(frechet_distance), None, 5, 1).low > 0


def test_projection_finds_the_axes_of_the_reference():
    rng = np.random.default_rng(11)
    turn = linalg.qr(rng.normal(size=(5, 5)))[0]
    reference = (rng.normal(size=(50, 5)) * (10, 5, 0, 0, 0)) @ turn + 3
    found = fit_projection(reference, 2)
    np.testing.assert_allclose(found(reference).mean(axis=0), 0, atol=1e-9)
    other = (rng.normal(size=(20, 5)) * (8, 6, 0, 0, 0)) @ turn + 4
    within = (other - other.mean(axis=0)) + reference.mean(axis=0)  # the same plane: nothing of a distance is lost
    assert frechet_distance(found(reference), found(within)) == pytest.approx(frechet_distance(reference, within))
    np.testing.assert_allclose(
        linalg.norm(found(other) - found(other[:1]), axis=1), linalg.norm(other - other[0], axis=1)
    )
    assert found(np.zeros((4, 3, 5))).shape == (4, 3, 2)
    for components in (0, 6):
        with pytest.raises(ValueError, match="components"):
            fit_projection(reference, components)
    with pytest.raises(ValueError, match="components"):
        fit_projection(reference[:3], 3)


def test_slices():
    volume = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    np.testing.assert_array_equal(take_slice(volume, "sagittal"), volume[2])
    np.testing.assert_array_equal(take_slice(volume, "coronal", (0.2, 3.4, 1.0)), volume[:, 3])
    np.testing.assert_array_equal(take_slice(volume, "axial", (0, 0, 99)), volume[..., 5])
    assert set(PLANES.values()) == {0, 1, 2}
