"""Dice and surface Dice on masks drawn by hand."""

import math

import numpy as np
import pytest

from tumorgen_cli.metrics.overlap import compare_masks, dice, lesion_counts, proportion, surface_dice

EMPTY = np.zeros((8, 9, 10), bool)


def block(start, size, shape=(40, 40, 40)):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = True
    return mask


def test_dice_counts_voxels():
    a, b = block((5, 5, 5), (4, 4, 4)), block((7, 5, 5), (4, 4, 4))
    assert dice(a, b) == 0.5  # half of each is shared
    assert dice(a, a) == 1
    assert dice(a, block((20, 20, 20), (4, 4, 4))) == 0
    assert dice(a.astype(np.float32), b.astype(np.uint8)) == 0.5


@pytest.mark.parametrize("measure", [dice, lambda a, b: surface_dice(a, b, (1, 1, 1), 1)])
def test_empty_masks(measure):
    full = ~EMPTY
    assert math.isnan(measure(EMPTY, EMPTY))
    assert measure(EMPTY, full) == 0
    assert measure(full, EMPTY) == 0
    with pytest.raises(ValueError, match="cannot be compared"):
        measure(EMPTY, full[1:])


def test_surface_dice_of_equal_masks_is_one_even_at_the_edge():
    assert surface_dice(~EMPTY, ~EMPTY, (2, 2, 3), 0.0) == 1
    half = EMPTY.copy()
    half[:4] = True
    assert 0 < surface_dice(~EMPTY, half, (1, 1, 1), 0.5) < 1


def test_surface_dice_of_a_shifted_block():
    """A block of n³ voxels moved by s > τ.

    Of each block's surface of 6 n², these parts are beyond the tolerance: the face that sticks out, strips of s - τ on
    four sides, and of the face inside the other block everything further than τ from its sides.
    """
    n, shift, tolerance = 20, 3, 1.5
    a, b = block((8, 8, 8), (n, n, n)), block((8 + shift, 8, 8), (n, n, n))
    off = n**2 + 4 * n * (shift - tolerance) + (n - 2 * tolerance) ** 2
    assert surface_dice(a, b, (1, 1, 1), tolerance) == pytest.approx(1 - off / (6 * n * n), abs=0.005)
    assert surface_dice(a, b, (1, 1, 1), shift) == 1
    assert surface_dice(a, b, (1, 1, 1), shift - 0.1) < 0.75


def test_surface_dice_knows_millimetres_and_axes():
    a = block((8, 8, 8), (10, 10, 10))
    along_x, along_z = block((9, 8, 8), (10, 10, 10)), block((8, 8, 9), (10, 10, 10))
    spacing = (1.0, 1.0, 5.0)
    assert surface_dice(a, along_x, spacing, 2.0) == 1  # 1 mm off
    assert surface_dice(a, along_z, spacing, 2.0) < 0.98  # 5 mm off: the two small faces are wrong
    assert surface_dice(a, along_z, spacing, 5.0) == 1


def test_surface_dice_does_not_depend_on_the_volume_around():
    a, b = block((8, 8, 8), (6, 7, 9)), block((9, 8, 9), (6, 7, 8))
    tight = tuple(slice(8, 18) for _ in range(3))
    assert surface_dice(a, b, (1, 2, 3), 1.0) == pytest.approx(surface_dice(a[tight], b[tight], (1, 2, 3), 1.0))
    assert surface_dice(a, b, (1, 2, 3), 1.0) == pytest.approx(surface_dice(b, a, (1, 2, 3), 1.0))


def test_proportion_is_of_the_mask():
    mask, found = EMPTY.copy(), EMPTY.copy()
    mask[:4, :2, :2], found[:, :2, :2] = True, True
    assert proportion(mask, found) == 1
    assert proportion(found, mask) == pytest.approx(4 / EMPTY.shape[0])
    assert math.isnan(proportion(EMPTY, found))


def test_lesions_are_hit_by_a_voxel_and_missed_without():
    mask, found = np.zeros((20, 8, 8), bool), np.zeros((20, 8, 8), bool)
    mask[1:3, 1:3, 1:3] = mask[8:10, 1:3, 1:3] = mask[10, 3, 3] = True  # the last touches the second by a corner
    found[2:6, 2, 2] = found[15, 5, 5] = found[17, 5, 5] = True
    assert lesion_counts(mask, found) == (2, 1, 2)
    assert lesion_counts(np.zeros_like(mask), found) == (0, 0, 3)
    judged = compare_masks(mask, mask, (1, 1, 1), 1.0)
    assert (judged.dice, judged.surface_dice, judged.proportion, judged.missed, judged.spurious) == (1, 1, 1, 0, 0)


def published(which):
    """DeepMind's surface-distance test cases: masks, spacing, Dice and surface Dice at 1 mm, as they state them."""
    a, b = np.zeros((128, 128, 128), bool), np.zeros((128, 128, 128), bool)
    if which == "pixels":
        a[50, 60, 70] = b[50, 60, 72] = True
        return a, b, (3.0, 2.0, 1.0), 0.0, 0.5
    if which == "halves":
        a, b = a[:100, :100, :100], b[:100, :100, :100]
        a[:50], b[:51] = True, True
        return a, b, (2.0, 1.0, 1.0), 0.990, 0.836
    a[50, 60, 70] = True
    return a, b, (3.0, 2.0, 1.0), 0.0, 0.0


@pytest.mark.parametrize("which", ["pixels", "halves", "empty prediction"])
def test_deepminds_published_values(which):
    a, b, spacing, expected, surface = published(which)
    for one, other in ((a, b), (b, a)):
        assert dice(one, other) == pytest.approx(expected, abs=5e-4)
        assert surface_dice(one, other, spacing, 1.0) == pytest.approx(surface, abs=5e-4)


@pytest.mark.parametrize("seed", range(4))
def test_monais_values_on_whole_volumes(seed):
    import torch
    from monai.metrics import DiceMetric
    from monai.metrics.surface_dice import compute_surface_dice
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    a, b = (ndimage.gaussian_filter(rng.normal(size=(40, 36, 30)), 3) > 0.06 for _ in range(2))
    spacing = (3.0, 2.0, 4.0)
    one, other = (torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (np.pad(a, 1), np.pad(b, 1)))
    nsd = float(compute_surface_dice(one, other, [3.0], include_background=True, spacing=spacing, use_subvoxels=True))
    assert surface_dice(a, b, spacing, 3.0) == pytest.approx(nsd, abs=5e-4)
    assert dice(a, b) == pytest.approx(float(DiceMetric()(one, other)), abs=5e-4)
