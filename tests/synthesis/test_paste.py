"""The labels of a pair."""

import numpy as np
import pytest

from tumorgen_cli.geometry import Box, Grid
from tumorgen_cli.synthesis.paste import paste_labels
from tumorgen_cli.synthesis.scan import Scan

GRID = Grid((10, 10, 10), (1.0, 1.0, 1.0))


def scan_with(labels):
    image = np.zeros((1, *GRID.shape), np.float32)
    return Scan("h", (), image, (image.dtype,), GRID, np.array([[0.0, 1.0]]), labels, ("CT",))


@pytest.mark.parametrize(
    ("tumor", "highest", "expected"), [(1, 255, "u1"), (1, 299, "u2"), (300, 299, "u2"), (2, 70_000, "u4")]
)
@pytest.mark.parametrize("stored", ["i4", "f4"])
def test_labels_of_a_pair_do_not_wrap(tumor, highest, expected, stored):
    labels = np.linspace(0, highest, 1000).round().reshape(GRID.shape).astype(stored)
    labels[labels == tumor] = 0
    mask = np.zeros(GRID.shape, bool)
    mask[4:6, 4:6, 4:6] = True
    box = Box((3, 3, 3), (7, 7, 7))
    found = paste_labels(scan_with(labels), box, mask[box.slices], tumor)
    assert found.dtype == expected
    np.testing.assert_array_equal(found, np.where(mask, tumor, labels))


def test_a_host_without_labels_gets_the_tumor_alone():
    mask = np.zeros(GRID.shape, bool)
    mask[4:6, 3:7, 3:7] = True
    box = Box((3, 3, 3), (7, 7, 7))
    found = paste_labels(scan_with(None), box, mask[box.slices], 300)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, 300 * mask)
