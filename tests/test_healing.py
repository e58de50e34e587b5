"""Scans without their tumors."""

import numpy as np
import pytest

from tumorgen_cli.healing import fill_smoothly, heal, seen_tumor
from tumorgen_cli.records import Box

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
    np.testing.assert_allclose(fill_smoothly(damaged, hole, (1.0, 2.0, 5.0)), ramp, atol=0.01)
    np.testing.assert_array_equal(fill_smoothly(damaged, np.zeros_like(hole), (1.0, 1.0, 1.0)), damaged)
    assert not fill_smoothly(damaged, np.ones_like(hole), (1.0, 1.0, 1.0)).any()


@pytest.mark.parametrize("kind", [np.float32, np.int16])
def test_only_the_boxs_tumor_goes(kind):
    rng = np.random.default_rng(0)
    image = (100 + 10 * rng.standard_normal((1, *SHAPE))).astype(kind)
    tumors = np.zeros(SHAPE, bool)
    tumors[10:16, 10:16, 10:16] = True
    tumors[24:27, 24:27, 20:23] = True
    image[0][tumors] = 900
    before, box = image.copy(), Box((8, 8, 8), (18, 18, 18))
    healed = heal(image, tumors, box, (4.0, 4.0, 3.0), 4.0, 1)
    outside = np.ones(SHAPE, bool)
    outside[box.grown((6, 6, 8), SHAPE).slices] = False  # 20 mm in which a tumor may be seen, 4 mm around it
    assert outside.any()
    assert healed.dtype == kind
    np.testing.assert_array_equal(healed[:, outside | tumors & ~inside(box)], image[:, outside | tumors & ~inside(box)])
    gone = healed[0, 10:16, 10:16, 10:16].astype(float)
    assert gone.max() < 200
    assert gone.mean() == pytest.approx(100, abs=6)
    assert 3 < gone.std() < 20  # the host's noise, not a bare patch
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(healed, heal(image, tumors, box, (4.0, 4.0, 3.0), 4.0, 1))
    assert heal(image, tumors, Box((0, 0, 0), (5, 5, 5)), (4.0, 4.0, 3.0), 4.0, 1) is image  # nothing to take away


def hot_spot(outlined=6, level=8.0, organ=30.0, noise=0.1):
    """Background 1, a tumor ball of 12 mm that is outlined to `outlined` mm, and, touching it, a far hotter organ; spacing 2 mm."""
    shape = (48, 48, 48)
    radius = 2.0 * np.linalg.norm(np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")) - 22.0, axis=0)
    image = 1 + noise * np.random.default_rng(0).standard_normal(shape)
    image[radius <= 12] = level
    image[29:34, 18:27, 18:27] = organ
    return image[None].astype(np.float32), radius <= outlined, radius


def test_a_tumor_is_taken_away_as_far_as_it_is_seen_not_as_it_is_outlined():
    image, outlined, radius = hot_spot()
    seen = seen_tumor(image, outlined, np.zeros_like(outlined), (2.0, 2.0, 2.0))
    np.testing.assert_array_equal(seen, (radius <= 12) & (image[0] < 20))
    box = Box((19, 19, 19), (26, 26, 26))  # no larger than the outline
    image, outlined, radius = hot_spot(organ=1.0)
    healed = heal(image, outlined, box, (2.0, 2.0, 2.0), 2.0, 0)
    assert healed.max() < 2
    np.testing.assert_array_equal(healed[0][radius > 15], image[0][radius > 15])


def test_a_tumor_in_the_channel_in_which_it_stands_out_and_a_cold_one():
    image, outlined, radius = hot_spot(organ=1.0)
    flat = np.random.default_rng(1).standard_normal(image.shape).astype(np.float32)
    for both in (np.concatenate([flat, image]), np.concatenate([-image, flat])):
        np.testing.assert_array_equal(seen_tumor(both, outlined, np.zeros_like(outlined), (2.0, 2.0, 2.0)), radius <= 12)


def test_one_that_hardly_stands_out_is_its_outline_and_other_tumors_are_not_it():
    image, outlined, radius = hot_spot(level=2.0, organ=1.0, noise=1.0)
    none = np.zeros_like(outlined)
    np.testing.assert_array_equal(seen_tumor(image, outlined, none, (2.0, 2.0, 2.0)), outlined)
    image, outlined, radius = hot_spot(organ=1.0)
    others = (radius > 8) & (radius <= 12)
    assert not (seen_tumor(image, outlined, others, (2.0, 2.0, 2.0)) & others).any()
    everything = np.ones_like(outlined)
    np.testing.assert_array_equal(seen_tumor(image, everything, none, (2.0, 2.0, 2.0)), everything)  # no background to tell it from
