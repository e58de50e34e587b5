"""What a judge is shown of a scan, and what counts of its answer."""

import math

import numpy as np
import pytest

from tumorgen_cli.geometry import Box, Grid
from tumorgen_cli.judge.predictions import Predictions
from tumorgen_cli.judge.verdict import (
    BESIDE,
    NO_MASK,
    NOT_FOUND,
    PassRule,
    check_pair,
    group_boxes,
    judge_pair,
    judged_region,
    margin_mm,
    predict_around,
)

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
    assert wide.stop[2] - wide.start[2] == 168  # the box with a quarter of its ball's radius, 7.3 mm, on either side


def test_only_what_lies_by_the_box_counts_and_old_tumors_do_not():
    tumor, others, predicted = (np.zeros(GRID.shape, bool) for _ in range(3))
    tumor[12:16, 12:16, 92:96] = True
    predicted[12:16, 12:16, 92:96] = predicted[:, :, :80] = True  # the rest of it beyond the margin
    others[17:19, 12:16, 92:96] = predicted[17:19, 12:16, 92:96] = True
    found = judge_pair(tumor, others, predicted, [BOX], GRID, 2.0)
    assert (found.dice, found.surface_dice, found.proportion, found.spurious) == (1, 1, 1, 0)
    nothing = judge_pair(tumor, others, np.zeros_like(tumor), [BOX], GRID, 2.0)
    assert (nothing.dice, nothing.proportion, nothing.missed) == (0, 0, 1)
    empty = judge_pair(np.zeros_like(tumor), others, np.zeros_like(tumor), [BOX], GRID, 2.0)
    assert math.isnan(empty.dice)
    generous = predicted.copy()
    generous[17:20, 11:17, 91:97] = True  # the old tumor, drawn a voxel larger: an answer to it, not to the new one
    assert judge_pair(tumor, others, generous, [BOX], GRID, 2.0) == found
    generous[16, 12:16, 92:96] = True  # and one that reaches from the one to the other is too large
    assert judge_pair(tumor, others, generous, [BOX], GRID, 2.0).dice < 1
    assert predicted[5, 5, 60]  # inputs are not touched
    with pytest.raises(AttributeError):
        found.dice = 0.5


def never():
    pytest.fail("the host was looked at")


def block(*spans):
    found = np.zeros(GRID.shape, bool)
    found[tuple(slice(*span) for span in spans)] = True
    return found


MASK = block((12, 16), (12, 16), (92, 96))  # 64 voxels
NOTHING = np.zeros(GRID.shape, bool)
RULE = PassRule()


def check(predicted, before=never, others=NOTHING, rule=RULE, mask=MASK):
    return check_pair(mask, others, predicted, before, ([BOX], GRID), rule)


def test_what_is_found_passes_without_a_look_at_the_host():
    exact = check(MASK)
    assert (exact.proportion, exact.beside, exact.reason) == (1, 0, None)
    half = check(MASK | block((16, 18), (12, 16), (92, 96)))  # half as much beside it is still enough
    assert (half.beside, half.reason) == (0.5, None)
    assert check(block((12, 14), (12, 16), (92, 96))).reason == NOT_FOUND
    assert check(block((12, 14), (12, 16), (92, 96)), rule=PassRule(0.5)).reason is None
    assert check(MASK, mask=NOTHING).reason == NO_MASK


def test_a_picture_that_is_marked_all_over_does_not_pass():
    all_over = check(np.ones(GRID.shape, bool), lambda: NOTHING)
    assert all_over.proportion == 1
    assert all_over.beside > 10
    assert all_over.reason == BESIDE
    alone = check(np.ones(GRID.shape, bool), rule=PassRule(0.7, None))  # FreeTumor's test does not see it
    assert alone.reason is None


def test_marks_count_within_the_margin_of_the_box_only():
    """The box of 8 ml begins at 90; a quarter of the radius of its ball is 3.1 mm, which touches two voxels."""
    assert margin_mm(BOX, GRID.spacing_mm) == pytest.approx(3.1, abs=0.01)
    far = MASK | block((0, 40), (0, 30), (0, 88))
    assert check(far).reason is None
    assert check(far | block((0, 40), (0, 30), (0, 89)), lambda: NOTHING).reason == BESIDE


def test_what_was_marked_before_is_not_new():
    old = block((17, 19), (10, 20), (90, 100))
    seen = check(MASK | old, lambda: old)
    assert (seen.beside, seen.reason) == (0, None)
    larger = block((17, 20), (10, 20), (90, 100))  # the old lesion, drawn a voxel larger: an answer to it
    assert check(MASK | larger, lambda: old).reason is None
    assert check(MASK | larger, lambda: NOTHING).reason == BESIDE
    bridge = MASK | block((16, 19), (10, 20), (90, 100))  # connected with the new one: what is new of it counts
    assert check(bridge, lambda: old).beside == pytest.approx(100 / 64)
    assert check(MASK | old, others=old).reason is None  # an annotated tumor needs no look at the host


def test_a_host_that_is_marked_where_the_tumor_is_painted_hides_nothing():
    """Marks of the host inside the mask are the mask's; those beside it do not make marks of the pair old."""
    before = MASK | block((0, 2), (0, 2), (0, 2))
    assert check(np.ones(GRID.shape, bool), lambda: before).reason == BESIDE


def test_boxes_far_apart_are_seen_in_parts_of_their_own():
    """Each part counts around its own boxes: seen whole, a long scan is another scan to the judge."""
    near, beside, far = BOX, Box((25, 5, 95), (30, 9, 104)), Box((10, 10, 180), (20, 20, 190))
    assert group_boxes(GRID, [near, far, beside], (100.0,) * 3) == [[near, beside], [far]]
    assert group_boxes(GRID, [near, far, beside], (1000.0,) * 3) == [[near, far, beside]]
    shown = []

    class Marks(Counts):
        hash, tumor_labels = "marks", (1,)

        def tumor(self, image, grid):
            shown.append(grid.shape)
            return super().tumor(image, grid)

    predictions = Predictions(Marks())
    image = np.zeros((1, *GRID.shape), np.float32)
    found = predictions.around("a", "content", GRID, [near, far], lambda: image)
    assert shown == [(40, 30, 50)] * 2
    assert found[:, :, 85:105].any()
    assert found[:, :, 175:195].any()
    assert not found[:, :, 110:170].any()


def test_a_pair_of_several_tumors_passes_as_a_whole():
    """P is that of all masks together; what is marked beside them counts once, around every box."""
    second = Box((10, 10, 140), (20, 20, 150))
    tumor, others, predicted = (np.zeros(GRID.shape, bool) for _ in range(3))
    tumor[12:18, 12:18, 92:98] = tumor[12:14, 12:18, 142:148] = True
    predicted[12:18, 12:18, 92:98] = True  # the first is found, the second, a third as large, is not
    seen = ([BOX, second], GRID)
    found = check_pair(tumor, others, predicted, lambda: others, seen, PassRule(0.7))
    assert (found.reason, found.proportion, found.beside) == (None, 0.75, 0)
    assert check_pair(tumor, others, predicted, lambda: others, seen, PassRule(0.8)).reason == NOT_FOUND
    between = predicted.copy()
    between[:, :, 110:130] = True  # farther than 10 mm from both boxes
    assert check_pair(tumor, others, between, lambda: others, seen, PassRule(0.7)) == found
    beside = predicted.copy()
    beside[15:20, 12:20, 140:146] = True
    found = check_pair(tumor, others, beside, lambda: others, seen, PassRule(0.7))
    assert (found.reason, found.beside) == (BESIDE, pytest.approx(5 * 8 * 6 / 288))
    verdict = judge_pair(tumor, others, predicted, [BOX, second], GRID, 2.0)
    assert verdict.proportion == 0.75
    assert verdict.dice == pytest.approx(2 * 216 / (288 + 216))
