"""Fréchet radiomics distance and coverage, each beside real ones."""

import math

import numpy as np
import pytest

from tumorgen_cli.metrics.lesion_distances import coverage, lesion_distances


def test_coverage_counts_real_lesions_with_a_synthetic_one_near():
    """As prdc: a real lesion is covered if a synthetic one is nearer than its fifth real neighbor."""
    real = np.arange(12.0)[:, None]
    assert coverage(real, real) == 1
    assert coverage(np.array([[0.5]]), real) == pytest.approx(4 / 12)  # 0 to 3: nearer than 5, 4, 3, 3
    assert coverage(np.array([[99.0]]), real) == 0
    assert math.isnan(coverage(real, real[:5]))
    assert math.isnan(coverage(real[:0], real))
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(40, 7)), rng.normal(size=(50, 7)) * 1.2
    apart = np.linalg.norm(other[:, None] - other, axis=-1)
    radius = np.sort(apart, axis=1)[:, 5]
    near = (np.linalg.norm(other[:, None] - one, axis=-1) < radius[:, None]).any(axis=1)
    assert coverage(one, other) == near.mean()


def test_a_copied_mode_covers_little():
    """What collapses to one kind has a small coverage, although each of its lesions is like a real one."""
    rng = np.random.default_rng(1)
    real = np.concatenate([rng.normal(size=(60, 4)), 10 + rng.normal(size=(60, 4))])
    assert coverage(rng.normal(size=(120, 4)), real) < 0.55
    assert coverage(np.concatenate([rng.normal(size=(60, 4)), 10 + rng.normal(size=(60, 4))]), real) > 0.9


def groups_of(*parts):
    one, two, three = ([f"{side}{k}" for k in range(len(part))] for side, part in zip("abc", parts, strict=True))
    return one, two, three


def test_alike_lesions_are_at_the_floor_and_others_are_not():
    rng = np.random.default_rng(2)
    train, test = rng.normal(size=(60, 6)), rng.normal(size=(30, 6))
    scale, shift = np.array([1, 10, 100, 1, 1, 1e-3]), 5.0
    alike, other = rng.normal(size=(50, 6)), rng.normal(size=(50, 6)) + 3
    for synthetic, is_far in ((alike, False), (other, True)):
        rows = lesion_distances(
            *(part * scale + shift for part in (synthetic, train, test)), groups_of(synthetic, train, test)
        )
        frechet, covered = rows
        assert (frechet.measure, covered.measure) == ("frechet", "coverage")
        assert frechet.matched.counts == frechet.floor.counts == (30, 60)
        if is_far:
            assert frechet.matched.value > frechet.floor.high + 20  # 6 features, each 3 deviations away: 54
            assert frechet.whole.value == pytest.approx(6 * 3**2, rel=0.2)
            assert covered.matched.value < 0.2 < covered.floor.low
            assert not covered.unclear
        else:
            assert frechet.floor.low < frechet.matched.value < frechet.floor.high
            assert covered.floor.low < covered.matched.value < covered.floor.high


def test_undefined_and_constant_features_do_not_count():
    """A feature that no training tumor varies in has no scale; undefined values are as the mean."""
    rng = np.random.default_rng(3)
    train, test, synthetic = (rng.normal(size=(count, 3)) for count in (20, 10, 12))
    plain = lesion_distances(synthetic, train, test, groups_of(synthetic, train, test))
    wide = [
        np.column_stack([part, np.full(len(part), value)]) for part, value in ((synthetic, 9), (train, 2), (test, 2))
    ]
    assert lesion_distances(*wide, groups_of(*wide)) == plain
    undefined = [np.column_stack([part, np.full(len(part), math.nan)]) for part in (synthetic, train, test)]
    assert lesion_distances(*undefined, groups_of(*undefined)) == plain


def test_too_few_lesions_have_no_distance():
    train, none = np.random.default_rng(4).normal(size=(4, 3)), np.zeros((0, 3))
    assert lesion_distances(none, train, none, groups_of(none, train, none)) == ()
    frechet, covered = lesion_distances(train, train, none, groups_of(train, train, none))
    assert frechet.whole.value == pytest.approx(0, abs=1e-9)
    assert math.isnan(covered.whole.value)
    assert covered.unclear
