"""Scans without their tumors."""

from pathlib import Path

import numpy as np
import pytest

from tumorgen_cli.healing import fill_smoothly, without_tumors
from tumorgen_cli.hosts import Scan
from tumorgen_cli.records import Box, Grid

GRID = Grid((30, 28, 26), (4.0, 4.0, 3.0))


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
    image = (100 + 10 * rng.standard_normal(GRID.shape)).astype(kind)
    labels = np.zeros(GRID.shape, np.uint8)
    labels[10:16, 10:16, 10:16] = 2
    labels[24:27, 24:27, 20:23] = 2
    image[labels == 2] = 900
    scan = Scan("s", (Path("s"),), image[None], GRID, np.array([[0, 1000]], np.float32), labels)
    box = Box((8, 8, 8), (18, 18, 18))
    healed = without_tumors(scan, box, 2, 4.0, 1)
    outside = np.ones(GRID.shape, bool)
    outside[box.slices] = False
    assert healed.image.dtype == kind
    np.testing.assert_array_equal(healed.image[0][outside], image[outside])
    inside = healed.image[0][10:16, 10:16, 10:16].astype(float)
    assert inside.max() < 200
    assert inside.mean() == pytest.approx(100, abs=6)
    assert 3 < inside.std() < 20  # the host's noise, not a bare patch
    assert image[12, 12, 12] == 900  # the scan itself is left alone
    again = without_tumors(scan, box, 2, 4.0, 1)
    np.testing.assert_array_equal(healed.image, again.image)


def test_nothing_to_take_away():
    image = np.ones((1, *GRID.shape), np.float32)
    for labels in (None, np.zeros(GRID.shape, np.uint8)):
        scan = Scan("s", (Path("s"),), image, GRID, np.array([[0, 1]], np.float32), labels)
        assert without_tumors(scan, Box((2, 2, 2), (9, 9, 9)), 1, 4.0, 0) is scan
