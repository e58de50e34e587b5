"""Scans without their tumors."""

import numpy as np
import pytest

from tumorgen_cli.healing import fill_smoothly, heal
from tumorgen_cli.records import Box

SHAPE = (30, 28, 26)


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
    outside[box.slices] = False
    assert healed.dtype == kind
    np.testing.assert_array_equal(healed[:, outside], image[:, outside])
    inside = healed[0, 10:16, 10:16, 10:16].astype(float)
    assert inside.max() < 200
    assert inside.mean() == pytest.approx(100, abs=6)
    assert 3 < inside.std() < 20  # the host's noise, not a bare patch
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(healed, heal(image, tumors, box, (4.0, 4.0, 3.0), 4.0, 1))
    assert heal(image, tumors, Box((0, 0, 0), (5, 5, 5)), (4.0, 4.0, 3.0), 4.0, 1) is image  # nothing to take away
