"""Tumor statistics on balls whose numbers are known, and the distance between samples."""

import math

import numpy as np
import pytest

from tumorgen_cli.data.body import body_stride
from tumorgen_cli.data.integrity import CaseVoxels
from tumorgen_cli.data.surroundings import QUANTILES
from tumorgen_cli.geometry import Grid, shell_mm
from tumorgen_cli.metrics.statistics import describe_tumor, ks_distance
from tumorgen_cli.metrics.traits import shell, tumor_and_shell
from tumorgen_cli.planning.fingerprint import measure_tumors

SPACING = (2.0, 2.0, 4.0)


def depth_mm(shape=(40, 40, 24), center=(39.0, 39.0, 46.0)):
    axes = [np.arange(n) * s - c for n, s, c in zip(shape, SPACING, center, strict=True)]
    return np.sqrt(sum(a**2 for a in np.meshgrid(*axes, indexing="ij")))


@pytest.fixture
def ball():
    return depth_mm() <= 18


def test_a_flat_ball(ball):
    found = describe_tumor(np.where(ball, 6.0, 2.0), ball, SPACING, 0.0)
    assert found.volume_ml == pytest.approx(4 / 3 * math.pi * 1.8**3, rel=0.05)
    assert (found.mean, found.maximum, found.contrast, found.relative_contrast) == (6, 6, 4, 2)
    assert found.heterogeneity == 0
    assert found.core_ratio == 1
    assert 0.9 < found.sphericity <= 1


def test_shell_is_half_a_radius_in_millimeters(ball):
    _, inside, around = tumor_and_shell(np.where(ball, 6.0, 2.0)[None], ball, SPACING)
    assert inside.sum() == ball.sum()
    assert not (around & inside).any()
    whole = shell(ball, SPACING, shell_mm(np.count_nonzero(ball), SPACING))
    assert around.sum() == whole.sum()
    assert not whole[depth_mm() > 28].any()  # the radius is 18 mm
    assert whole[(depth_mm() > 18) & (depth_mm() < 24)].all()


def test_contrast_does_not_look_beyond_the_shell_nor_at_other_tumors(ball):
    image = np.where(ball, 6.0, 2.0)
    image[depth_mm() > 29] = 1000
    other = (depth_mm(center=(39.0, 39.0, 74.0)) <= 8) & ~ball
    image[other] = 50
    assert describe_tumor(image, ball, SPACING, 0.0).contrast < 4
    assert describe_tumor(image, ball, SPACING, 0.0, other).contrast == pytest.approx(4)


def test_necrosis_and_heterogeneity(ball):
    depth = depth_mm()
    dark = np.where(ball, np.where(depth < 13.5, 2.0, 8.0), 1.0)
    bright = np.where(ball, np.where(depth < 13.5, 8.0, 2.0), 1.0)
    assert describe_tumor(dark, ball, SPACING, 0.0).core_ratio == pytest.approx(0.25, abs=0.03)
    assert describe_tumor(bright, ball, SPACING, 0.0).core_ratio == pytest.approx(4, abs=0.4)
    halves = np.where(ball, 4.0, 1.0)
    halves[:20][ball[:20]] = 2.0
    found = describe_tumor(halves, ball, SPACING, 0.0)
    assert found.heterogeneity == pytest.approx(1 / 3, abs=0.01)  # values 2 and 4: spread 1 about 3


def test_ratios_are_of_what_is_above_nothing(ball):
    """A soft tissue of 60 HU is a third of the way up from fat, not a multiple of water: the same tumor, told in HU."""
    uptake = np.where(ball, np.where(depth_mm() < 13.5, 2.0, 8.0), 1.0)
    suv, hu = describe_tumor(uptake, ball, SPACING, 0.0), describe_tumor(20 * uptake - 100, ball, SPACING, -100.0)
    for field in ("relative_contrast", "heterogeneity", "core_ratio"):
        assert getattr(hu, field) == pytest.approx(getattr(suv, field))
    assert hu.mean == pytest.approx(20 * suv.mean - 100)
    assert hu.contrast == pytest.approx(20 * suv.contrast)


def test_longer_tumors_are_less_spherical(ball):
    rod = np.zeros_like(ball)
    rod[4:36, 18:22, 10:13] = True
    image = np.ones(ball.shape)
    assert (
        describe_tumor(image, rod, SPACING, 0.0).sphericity < 0.8 * describe_tumor(image, ball, SPACING, 0.0).sphericity
    )


def test_what_cannot_be_told_is_nan():
    image = np.zeros((6, 6, 6))
    mask = np.zeros((6, 6, 6), bool)
    assert describe_tumor(image, mask, SPACING, 0.0) is None
    mask[2, 3, 4] = True
    found = describe_tumor(image, mask, SPACING, 0.0)
    assert found.volume_ml == pytest.approx(0.016)
    assert math.isnan(found.core_ratio)
    assert math.isnan(found.heterogeneity)  # the mean is 0
    everywhere = describe_tumor(image + 1, np.ones((6, 6, 6), bool), SPACING, 0.0)
    assert math.isnan(everywhere.contrast)


def test_ks_distance():
    assert ks_distance([1, 2, 3, 4], [1, 2, 3, 4]) == 0
    assert ks_distance([1, 2], [3, 4]) == 1
    assert ks_distance([1, 2, 3, 4], [3, 4, 5, 6]) == 0.5
    assert ks_distance([1, 2, math.nan], [3, 4]) == 1
    assert math.isnan(ks_distance([math.nan], [3, 4]))


def test_surroundings_are_the_outer_half_of_the_shell(ball):
    """The shell reaches 9 mm from the surface of a ball of 18 mm; its inner half holds the tumor's blur."""
    depth = depth_mm()
    image = np.select([depth <= 18, depth <= 22, depth <= 29], [9.0, 6.0, 2.0], 50.0)
    assert describe_tumor(image, ball, SPACING, 0.0).surroundings == 2
    lung = np.where(depth_mm(center=(39.0, 39.0, 20.0)) < 30, -800.0, image)  # less than half of the shell
    assert describe_tumor(lung, ball, SPACING, 0.0).surroundings == pytest.approx(2, abs=0.5)


def test_surroundings_are_those_that_plans_know_of_training_tumors(ball):
    rng = np.random.default_rng(0)
    image = np.where(ball, 9.0, 1 + np.arange(40)[:, None, None] / 10 + 0.1 * rng.normal(size=ball.shape))
    other = depth_mm(center=(39.0, 39.0, 74.0)) <= 8
    image[other] = 50
    voxels = CaseVoxels((image,), ball | other, Grid(ball.shape, SPACING))
    (planned, _), _ = measure_tumors(voxels, np.ones(tuple(-(-n // body_stride(ball.shape)) for n in ball.shape), bool))
    found = describe_tumor(image, ball, SPACING, 0.0, other)
    assert found.surroundings == pytest.approx(planned.surroundings.levels[0][QUANTILES.index(0.5)], abs=0.15)
    everything = describe_tumor(image, np.ones(ball.shape, bool), SPACING, 0.0)
    assert math.isnan(everything.surroundings)
