"""Lesions matched with predicted components, by hand."""

import math

import numpy as np
import pytest

from tumorgen_cli.metrics.lesions import FalsePositive, LesionScore, score_lesions

SPACING = (1.0, 1.0, 1.0)


def _volume(*boxes):
    mask = np.zeros((30, 30, 30), bool)
    for box in boxes:
        mask[tuple(slice(*ends) for ends in box)] = True
    return mask


def _mm(voxels, size=1.0):
    return round(2 * (3 * voxels * size / (4 * math.pi)) ** (1 / 3), 2)


def test_a_found_a_grazed_and_a_missed_lesion():
    """The grazed one shares 1 voxel of 64 with a component of 64: it is touched, the component matches nothing."""
    found, grazed, missed = ((2, 6),) * 3, ((10, 14),) * 3, ((20, 24),) * 3
    truth = _volume(found, grazed, missed)
    prediction = _volume(((2, 4), (2, 6), (2, 6)), ((13, 17),) * 3, ((26, 28),) * 3)
    probability = np.where(prediction, 0.6, 0.1)
    probability[2:4, 2:6, 2:6] = 0.9
    lesions, spurious = score_lesions(prediction, probability, truth, (1.0, 1.0, 2.0))
    assert lesions == (
        LesionScore(_mm(64, 2), True, True, pytest.approx(0.9), pytest.approx(2 * 32 / (64 + 32), abs=1e-4)),
        LesionScore(_mm(64, 2), False, True, None, pytest.approx(2 / 128, abs=1e-4)),
        LesionScore(_mm(64, 2), False, False, None, 0.0),
    )
    assert spurious == (FalsePositive(_mm(64, 2), pytest.approx(0.6)), FalsePositive(_mm(8, 2), pytest.approx(0.6)))


def test_a_lesion_found_in_pieces_is_found_by_all_of_them():
    """Every piece alone has a Dice below 0.1; together they are half of it. None of them is a false positive."""
    truth = _volume(((0, 29), (0, 10), (0, 10)))
    prediction = _volume(*(((start, start + 1), (0, 10), (0, 10)) for start in range(0, 28, 2)))
    assert 2 * 100 / (2900 + 100) < 0.1
    lesions, spurious = score_lesions(prediction, prediction * 0.7, truth, SPACING)
    assert [(lesion.found, lesion.score) for lesion in lesions] == [(True, pytest.approx(0.7))]
    assert lesions[0].dsc == pytest.approx(2 * 1400 / (2900 + 1400), abs=1e-4)
    assert spurious == ()


def test_a_large_component_that_grazes_a_lesion_does_not_undo_its_hit():
    """A component of 12 of its 32 voxels finds it; beside it a large one shares one voxel, which alone is no hit."""
    truth = _volume(((2, 10), (2, 4), (2, 4)))
    small, large = ((2, 5), (2, 4), (2, 4)), ((9, 30), (3, 30), (3, 30))
    (lesion,), spurious = score_lesions(_volume(small, large), _volume(small) * 0.8, truth, SPACING)
    assert (lesion.found, lesion.score, spurious) == (True, pytest.approx(0.8), ())
    assert lesion.dsc == pytest.approx(2 * 13 / (32 + 12 + 21 * 27 * 27), abs=1e-4)
    (lesion,), spurious = score_lesions(_volume(large), _volume(large) * 0.8, truth, SPACING)
    assert (lesion.found, lesion.touched, len(spurious)) == (False, True, 1)


def test_two_lesions_under_one_component_are_both_found():
    truth = _volume(((2, 6), (2, 6), (2, 6)), ((8, 12), (2, 6), (2, 6)))
    prediction = _volume(((2, 12), (2, 6), (2, 6)))
    lesions, spurious = score_lesions(prediction, prediction * 0.8, truth, SPACING)
    assert [lesion.found for lesion in lesions] == [True, True]
    assert [lesion.dsc for lesion in lesions] == [pytest.approx(2 * 64 / (64 + 160), abs=1e-4)] * 2
    assert spurious == ()


def test_nothing_there_and_nothing_found():
    nothing = np.zeros((4, 4, 4), bool)
    assert score_lesions(nothing, nothing * 0.0, nothing, SPACING) == ((), ())


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="shapes"):
        score_lesions(np.zeros((2, 2, 2)), np.zeros((2, 2, 3)), np.zeros((2, 2, 2)), SPACING)
