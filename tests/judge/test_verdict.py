"""What a judge is shown of a scan, and what counts of its answer."""

import math

import numpy as np
import pytest

from tumorgen_cli.geometry import Box, Grid
from tumorgen_cli.judge.verdict import judge_pair, judged_region, predict_around

GRID = Grid((40, 30, 200), (2.0, 2.0, 2.0))
BOX = Box((10, 10, 90), (20, 20, 100))


class Counts:
    """A judge that marks all it is shown, and remembers the shape."""

    usual_extent_mm = (100.0, 100.0, 100.0)

    def tumor(self, image, grid):
        self.shown = grid
        return np.ones(image.shape[1:], bool)


def test_a_long_scan_is_cut_to_what_the_judge_knows():
    judge = Counts()
    predicted = predict_around(judge, np.zeros((1, *GRID.shape), np.float32), GRID, BOX)
    assert judge.shown.shape == (40, 30, 50)  # the short axes whole, the long one as long as the usual scan
    assert np.flatnonzero(predicted.any(axis=(0, 1)))[[0, -1]].tolist() == [70, 119]
    at_the_end = judged_region(GRID, Box((10, 10, 195), (20, 20, 200)), judge.usual_extent_mm)
    assert (at_the_end.start[2], at_the_end.stop[2]) == (150, 200)
    wide = judged_region(GRID, Box((0, 0, 20), (9, 9, 180)), judge.usual_extent_mm)
    assert wide.stop[2] - wide.start[2] == 170  # the box with 10 mm on either side


def test_only_what_lies_by_the_box_counts_and_old_tumors_do_not():
    tumor, others, predicted = (np.zeros(GRID.shape, bool) for _ in range(3))
    tumor[12:16, 12:16, 92:96] = True
    predicted[12:16, 12:16, 92:96] = predicted[:, :, :80] = True  # the rest of it beyond 10 mm
    others[17:19, 12:16, 92:96] = predicted[17:19, 12:16, 92:96] = True
    found = judge_pair(tumor, others, predicted, BOX, GRID, 2.0)
    assert (found.dice, found.surface_dice, found.proportion, found.spurious) == (1, 1, 1, 0)
    nothing = judge_pair(tumor, others, np.zeros_like(tumor), BOX, GRID, 2.0)
    assert (nothing.dice, nothing.proportion, nothing.missed) == (0, 0, 1)
    empty = judge_pair(np.zeros_like(tumor), others, np.zeros_like(tumor), BOX, GRID, 2.0)
    assert math.isnan(empty.dice)
    generous = predicted.copy()
    generous[17:20, 11:17, 91:97] = True  # the old tumor, drawn a voxel larger: an answer to it, not to the new one
    assert judge_pair(tumor, others, generous, BOX, GRID, 2.0) == found
    generous[16, 12:16, 92:96] = True  # and one that reaches from the one to the other is too large
    assert judge_pair(tumor, others, generous, BOX, GRID, 2.0).dice < 1
    assert predicted[5, 5, 60]  # inputs are not touched
    with pytest.raises(AttributeError):
        found.dice = 0.5
