"""Lengths that follow from a tumor's size."""

import math

import pytest

from tumorgen_cli.geometry import Box, ball_radius_mm, shell_mm, widened


def test_the_ball_of_a_volume():
    """8 voxels of 1 × 2 × 4 mm are 64 mm³; a ball of 4/3 π mm³ has a radius of 1 mm."""
    assert ball_radius_mm(8, (1.0, 2.0, 4.0)) == pytest.approx((48 / math.pi) ** (1 / 3))
    assert ball_radius_mm(1, (4 / 3 * math.pi, 1.0, 1.0)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("ml", "spacing", "wanted"),
    [
        (337, (5.5, 5.5, 3.27), 21.6),  # a median sarcoma on PET: half of 43.2 mm
        (1.0726, (1.0, 1.0, 1.25), 3.175),  # a nodule of 12.7 mm
        (0.0141, (1.0, 1.0, 1.0), 2.0),  # a lesion of 3 mm: two voxels instead of 0.75 mm
        (0.0141, (0.5, 0.5, 4.0), 2.0),  # thick slices: two voxels of the same volume
    ],
)
def test_surroundings_are_half_a_radius_and_two_voxels_at_least(ml, spacing, wanted):
    assert shell_mm(round(1000 * ml / math.prod(spacing)), spacing) == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize(
    ("start", "stop", "wanted"),
    [((5,) * 3, (8,) * 3, ((5,) * 3, (9,) * 3)), ((0, 1, 15), (1, 5, 16), ((0, 1, 12), (4, 5, 16)))],
)
def test_a_box_is_widened_to_multiples_inside_the_volume(start, stop, wanted):
    assert widened(Box(start, stop), 4, (16, 16, 16)) == Box(*wanted)
