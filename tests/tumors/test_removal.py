"""Scans without their tumors."""

import numpy as np
import pytest
from scipy import ndimage

from tumorgen_cli.geometry import Box
from tumorgen_cli.planning.plan import PastePlan
from tumorgen_cli.tumors.removal import extend_to_uptake, fill_harmonic, remove_tumors

SHAPE = (30, 28, 26)


def inside(box):
    where = np.zeros(SHAPE, bool)
    where[box.slices] = True
    return where


def test_a_hole_in_a_ramp_is_filled_by_the_ramp():
    """A linear image is harmonic, whatever the spacing."""
    x, y, z = np.meshgrid(*map(np.arange, (12, 11, 10)), indexing="ij")
    ramp = (3 * x - 2 * y + 0.5 * z).astype(np.float32)
    hole = np.zeros(ramp.shape, bool)
    hole[3:8, 2:9, 4:7] = True
    damaged = np.where(hole, 1e6, ramp).astype(np.float32)
    np.testing.assert_allclose(fill_harmonic(damaged, hole, (1.0, 2.0, 5.0)), ramp, atol=0.01)
    np.testing.assert_array_equal(fill_harmonic(damaged, np.zeros_like(hole), (1.0, 1.0, 1.0)), damaged)
    assert not fill_harmonic(damaged, np.ones_like(hole), (1.0, 1.0, 1.0)).any()


def paste_plan(margin_mm, seen_in=(0,)):
    return PastePlan(6.0, 3, 0.05, 0.0, margin_mm, seen_in, "data", "surroundings")


@pytest.mark.parametrize("seen_in", [(), (0,)])
@pytest.mark.parametrize("kind", [np.float32, np.int16])
def test_only_the_boxs_tumor_goes(kind, seen_in):
    rng = np.random.default_rng(0)
    image = (100 + 10 * rng.standard_normal((1, *SHAPE))).astype(kind)
    tumors = np.zeros(SHAPE, bool)
    tumors[10:16, 10:16, 10:16] = True
    tumors[24:27, 24:27, 20:23] = True
    image[0][tumors] = 900
    before, box, spacing, paste = image.copy(), Box((8, 8, 8), (18, 18, 18)), (4.0, 4.0, 3.0), paste_plan(4.0, seen_in)
    healed, changed = remove_tumors(image, tumors, box, spacing, paste, 1)
    assert healed.dtype == kind
    assert changed == Box((9, 9, 9), (17, 17, 17))  # 4 mm around it, in whole voxels
    np.testing.assert_array_equal(healed[:, ~inside(changed)], image[:, ~inside(changed)])
    gone = healed[0, 10:16, 10:16, 10:16].astype(float)
    assert gone.max() < 200
    assert gone.mean() == pytest.approx(100, abs=6)
    assert 3 < gone.std() < 20  # the host's noise, not a bare patch
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(healed, remove_tumors(image, tumors, box, spacing, paste, 1)[0])
    nothing, none = remove_tumors(image, tumors, Box((0, 0, 0), (5, 5, 5)), spacing, paste, 1)
    assert nothing is image
    assert none is None


def test_an_organ_beside_it_makes_no_noise():
    """Its edge is no noise of the host, and what fills the hole is as quiet as without it."""
    image = (100 + 10 * np.random.default_rng(0).standard_normal((1, *SHAPE))).astype(np.float32)
    tumors = np.zeros(SHAPE, bool)
    tumors[10:16, 10:16, 10:16] = True
    image[0][tumors] = 900
    beside = image.copy()
    beside[0, 20:24, 8:20, 8:20] += 600
    quiet, loud = (
        remove_tumors(each, tumors, Box((8, 8, 8), (18, 18, 18)), (4.0, 4.0, 3.0), paste_plan(4.0, ()), 1)[0]
        for each in (image, beside)
    )
    assert loud[0][tumors].std() < 1.5 * quiet[0][tumors].std()


def hot_spot(outlined=6, level=8.0, organ=None, noise=0.1):
    """Background 1, a tumor ball of 12 mm outlined to `outlined` mm, and an organ 4 mm from it; voxels of 2 mm."""
    shape = (64, 48, 48)
    radius = 2.0 * np.linalg.norm(np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")) - 22.0, axis=0)
    image = 1 + noise * np.random.default_rng(0).standard_normal(shape)
    image[radius <= 12] = level
    if organ is not None:
        image[30:36, 18:27, 18:27] = organ
    return image[None].astype(np.float32), radius <= outlined, radius


SPACING = (2.0, 2.0, 2.0)
NONE = np.zeros((64, 48, 48), bool)


def test_a_tumor_is_taken_away_as_far_as_it_is_seen_not_as_it_is_outlined():
    image, outlined, radius = hot_spot(outlined=9)
    np.testing.assert_array_equal(extend_to_uptake(image, outlined, NONE, SPACING, 2.0), radius <= 12)
    box = Box((18, 18, 18), (27, 27, 27))  # no larger than the outline
    healed, changed = remove_tumors(image, outlined, box, SPACING, paste_plan(2.0), 0)
    assert healed.max() < 2
    assert changed == Box((15, 15, 15), (30, 30, 30))
    np.testing.assert_array_equal(healed[0][radius > 15], image[0][radius > 15])
    outline, _ = remove_tumors(image, outlined, box, SPACING, paste_plan(2.0, ()), 0)
    assert outline[0][(radius > 11) & (radius <= 12)].min() == 8  # in other channels than PET's the outline is believed


def test_organs_stay_hotter_or_labeled_and_what_is_too_large():
    image, outlined, _ = hot_spot(outlined=9, organ=20.0)
    seen = extend_to_uptake(image, outlined, NONE, SPACING, 2.0)
    assert not seen[29:].any()  # nor its blur
    assert seen.sum() > 1.5 * outlined.sum()
    labeled = NONE.copy()
    labeled[26:36, 18:27, 18:27] = True
    box = Box((18, 18, 18), (27, 27, 27))
    healed, _ = remove_tumors(image, outlined, box, SPACING, paste_plan(2.0), 0, np.where(labeled, 2, outlined))
    np.testing.assert_array_equal(healed[0, 30:36, 18:27, 18:27], image[0, 30:36, 18:27, 18:27])
    image, outlined, _ = hot_spot(outlined=6)
    np.testing.assert_array_equal(
        extend_to_uptake(image, outlined, NONE, SPACING, 2.0), outlined
    )  # eight times as much is no tumor's rim


def test_the_channel_in_which_a_tumor_stands_out_and_one_that_does_not():
    image, outlined, radius = hot_spot(outlined=9)
    flat = np.random.default_rng(1).standard_normal(image.shape).astype(np.float32)
    np.testing.assert_array_equal(
        extend_to_uptake(np.concatenate([flat, image]), outlined, NONE, SPACING, 2.0), radius <= 12
    )
    np.testing.assert_array_equal(extend_to_uptake(flat, outlined, NONE, SPACING, 2.0), outlined)
    np.testing.assert_array_equal(extend_to_uptake(-image, outlined, NONE, SPACING, 2.0), outlined)  # a cold one
    everything = ~NONE
    np.testing.assert_array_equal(
        extend_to_uptake(image, everything, NONE, SPACING, 2.0), everything
    )  # no background to tell it from


def test_air_around_a_limb_does_not_hide_a_tumor():
    image, outlined, radius = hot_spot(outlined=9, level=3.5)
    image[0][radius > 30] = 0.02
    np.testing.assert_array_equal(extend_to_uptake(image, outlined, NONE, SPACING, 2.0), radius <= 12)


def test_a_faint_tumor_does_not_hide_a_hot_one_in_the_same_box():
    image, first, radius = hot_spot(outlined=9, level=12.0)
    tumors = first.copy()
    image[0, 44:60, 10:34, 10:34] = 3.0
    tumors[44:60, 10:34, 10:34] = True
    healed, _ = remove_tumors(image, tumors, Box((10, 10, 10), (60, 40, 40)), SPACING, paste_plan(2.0), 0)
    assert healed[0][radius <= 12].max() < 3


def test_noise_is_that_of_what_lies_around_not_of_what_lies_far():
    image, outlined, radius = hot_spot(outlined=9, noise=0.1)
    image[0][radius > 45] += 3 * np.random.default_rng(2).standard_normal(int((radius > 45).sum())).astype(np.float32)
    healed, _ = remove_tumors(image, outlined, Box((18, 18, 18), (27, 27, 27)), SPACING, paste_plan(2.0), 0)
    assert healed[0][radius <= 10].std() < 0.3


@pytest.mark.parametrize("blur", [0.0, 0.7])
def test_what_is_filled_is_as_noisy_as_what_lies_around(blur):
    """White noise and noise of neighbors that go together: the variance in the hole is that of the scan."""
    noise = np.random.default_rng(0).standard_normal((48, 48, 48))
    noise = ndimage.gaussian_filter(noise, blur) if blur else noise
    image = (100 + 10 * noise / noise.std())[None].astype(np.float32)
    radius = np.linalg.norm(np.stack(np.meshgrid(*[np.arange(48)] * 3, indexing="ij")) - 23.5, axis=0)
    healed, _ = remove_tumors(image, radius <= 8, Box((15, 15, 15), (33, 33, 33)), (1.0, 1.0, 1.0), paste_plan(1.5), 0)
    inside, ring = healed[0][radius <= 7], healed[0][(radius > 8) & (radius <= 9.5)]
    for filled in (inside, ring):  # a ring at the edge would be seen too
        assert filled.mean() == pytest.approx(100, abs=2)
        assert 7.5 < filled.std() < 13


@pytest.mark.parametrize(
    ("spacing", "diameter"), [((1.0, 1.0, 1.25), 6.0), ((1.0, 1.0, 1.0), 3.0), ((0.7, 0.7, 5.0), 10.0)]
)
def test_removal_of_a_small_tumor_changes_little_around_it(spacing, diameter):
    """A nodule of 6 mm in lung, a lesion of 3 mm, thick slices: one or two voxels beyond its rim, nothing farther."""
    shape = (40, 40, 24)
    axes = [(np.arange(n) - n // 2) * s for n, s in zip(shape, spacing, strict=True)]
    radius = np.sqrt(sum(a**2 for a in np.meshgrid(*axes, indexing="ij")))
    image = (-800 + 30 * np.random.default_rng(0).standard_normal(shape))[None].astype(np.float32)
    tumor = radius <= diameter / 2
    image[0][tumor] = 0
    margin = 1.5 * np.prod(spacing) ** (1 / 3)
    healed, changed = remove_tumors(image, tumor, Box((0, 0, 0), shape), spacing, paste_plan(margin, ()), 0)
    assert healed[0][tumor].max() < -600
    edges = [b - a for a, b in zip(changed.start, changed.stop, strict=True)]
    own = [np.ptp(where) + 1 for where in np.nonzero(tumor)]
    margins = [2 * max(1, int(margin / s)) for s in spacing]
    assert edges == [n + m for n, m in zip(own, margins, strict=True)]
    far = radius > diameter / 2 + np.sqrt(3) * max(margin, *spacing)
    np.testing.assert_array_equal(healed[0][far], image[0][far])


def test_a_fill_is_not_below_what_lies_around():
    image = np.random.default_rng(0).gamma(0.5, 1.0, (1, *SHAPE)).astype(np.float32)
    tumor = inside(Box((10, 10, 10), (18, 18, 18)))
    image[0][tumor] = 20
    healed, changed = remove_tumors(image, tumor, Box((8, 8, 8), (20, 20, 20)), (4.0, 4.0, 3.0), paste_plan(4.0, ()), 0)
    assert healed[0][inside(changed)].min() >= 0
