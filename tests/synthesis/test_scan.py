"""A host scan in memory: its padding, and its tumors."""

from dataclasses import replace

import numpy as np

from tumorgen_cli.geometry import Box, Grid
from tumorgen_cli.synthesis.scan import Scan, remove_tumors_in_box

GRID = Grid((12, 10, 8), (1.0, 1.0, 1.0))


def make_scan(padding):
    """Noise between 100 and 200, with a block of padding; the second channel has none."""
    image = np.random.default_rng(0).uniform(100, 200, (2, *GRID.shape)).astype(np.float32)
    image[0, :6] = padding
    labels = np.zeros(GRID.shape, np.uint8)
    labels[10, 8, 6] = 1
    return Scan("h", (), image, (image.dtype,) * 2, GRID, np.array([[0.0, 1.0]] * 2), labels, ("MR", "T1"))


def test_what_was_padding_stays_filled_beside_what_is_painted(monkeypatch):
    scan = make_scan(-1000.0)
    assert scan.measured[0].min() >= 100
    after = scan.image.copy()
    after[0, 8:10, 4:6, 3:5] = 150.5
    fresh = replace(scan, image=after).measured
    monkeypatch.setattr("tumorgen_cli.synthesis.scan.fill_paddings", None)  # the whole scan is not looked over again
    after[0, 5, 4:6, 3:5] = (160.5, -1000.0)  # over padding, and left as it is
    box = Box((5, 4, 3), (10, 6, 5))
    painted = scan.painted(after, scan.labels, box)
    assert (painted.measured[0, 6:] == after[0, 6:]).all()
    assert (painted.measured[0, :5] == scan.measured[0, :5]).all()
    expected = np.where(after == scan.image, scan.measured, after)
    np.testing.assert_array_equal(painted.measured, expected)
    assert np.abs(painted.measured[0, 8:] - fresh[0, 8:]).max() < 1
    again = after.copy()
    again[0, 5, 4:6, 3:5] = (-1000.0, 170.5)  # a second tumor in the same place
    twice = painted.painted(again, scan.labels, box)
    np.testing.assert_array_equal(twice.measured, np.where(again == after, expected, again))


def test_without_padding_nothing_is_copied():
    scan = make_scan(150.0)
    assert scan.measured is scan.image
    after = scan.image + 1
    assert scan.painted(after, None, Box((0, 0, 0), GRID.shape)).measured is after


def test_a_box_without_a_tumor_leaves_the_scan(workspace):
    scan, plan = make_scan(150.0), workspace.plan()
    kept, changed = remove_tumors_in_box(scan, Box((0, 0, 0), (8, 8, 5)), plan, 0)
    assert kept is scan
    assert changed is None
    removed, changed = remove_tumors_in_box(scan, Box((8, 6, 4), (12, 10, 8)), plan, 0)
    assert changed is not None
    assert (removed.image != scan.image).any()
