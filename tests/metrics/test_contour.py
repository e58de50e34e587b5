"""Masks beside the contour that the picture shows."""

import numpy as np
import pytest

from tumorgen_cli.metrics.contour import contour_dice

SPACING = (1.0, 1.0, 1.0)


def cube(low=8, high=12, last=None):
    mask = np.zeros((20, 20, 20), bool)
    mask[low:high, low:high, low : last or high] = True
    return mask


def scan(shown, level, background=1.0, noise=0.0):
    return np.where(shown, level, background) + noise * np.random.default_rng(0).standard_normal(shown.shape)


@pytest.mark.parametrize("level", [5.0, -3.0])
def test_a_mask_that_is_what_is_seen_and_one_that_is_not(level):
    """64 voxels of 96 that are seen: 2 × 64 / 160. 64 of which 48 are seen: 2 × 48 / 112. Bright or dark."""
    assert contour_dice(scan(cube(), level), cube(), SPACING) == 1
    assert contour_dice(scan(cube(last=14), level), cube(), SPACING) == pytest.approx(0.8)
    assert contour_dice(scan(cube(last=11), level), cube(), SPACING) == pytest.approx(96 / 112)


def test_intensities_may_be_in_any_unit():
    image = scan(cube(last=14), 5.0, noise=0.3)
    assert contour_dice(1000 * image - 500, cube(), SPACING) == contour_dice(image, cube(), SPACING)


def test_a_core_of_another_level_belongs_to_its_tumor():
    image = scan(cube(6, 14), 5.0)
    image[9:11, 9:11, 9:11] = 1.0
    assert contour_dice(image, cube(6, 14), SPACING) == 1


def test_what_does_not_touch_the_mask_and_what_is_excluded_do_not_count():
    image, beside = scan(cube(), 5.0), np.zeros((20, 20, 20), bool)
    beside[13, 8:12, 8:12] = True  # a voxel of background lies between
    image[beside] = 5.0
    assert contour_dice(image, cube(), SPACING) == 1
    image[12, 8:12, 8:12] = 5.0
    neighbor = np.zeros((20, 20, 20), bool)
    neighbor[12:14] = True
    assert contour_dice(image, cube(), SPACING) == pytest.approx(2 * 64 / (64 + 64 + 32))
    assert contour_dice(image, cube(), SPACING, neighbor) == 1


def test_it_is_undefined_without_a_mask_or_surroundings_or_with_too_little_contrast():
    assert np.isnan(contour_dice(scan(cube(), 5.0), cube() & False, SPACING))
    assert np.isnan(contour_dice(scan(cube(), 5.0), cube() | True, SPACING))
    assert np.isnan(contour_dice(scan(cube(), 1.0), cube(), SPACING))
    assert np.isnan(contour_dice(scan(cube(), 1.15, noise=0.1), cube(), SPACING))
    assert np.isfinite(contour_dice(scan(cube(), 1.3, noise=0.1), cube(), SPACING))
