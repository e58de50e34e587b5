"""Each number that leaves is the mean of three cases or more."""

import math

import numpy as np
import pytest

from tumorgen_cli.data.surroundings import Surroundings
from tumorgen_cli.geometry import Box, Grid
from tumorgen_cli.planning.fingerprint import CaseFacts, Fingerprint, TumorFacts
from tumorgen_cli.sharing.membership import membership_test
from tumorgen_cli.sharing.pooling import group_neighbors, pool_buffers, pool_fingerprint, pool_values
from tumorgen_cli.system.errors import DataError


def test_groups_have_three_cases():
    """One case with many tumors is no group."""
    order = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    groups = group_neighbors(order, ["a", "a", "a", "b", "c", "a", "b", "c"])
    assert [group.tolist() for group in groups] == [[0, 1, 2, 3, 4], [5, 6, 7]]
    rest = group_neighbors(order, ["a", "b", "c", "a", "b", "c", "a", "b"])
    assert [group.tolist() for group in rest] == [[0, 1, 2], [3, 4, 5, 6, 7]]  # what is left joins the last group
    assert [group.tolist() for group in group_neighbors(-order[:2], ["a", "b"])] == [[0, 1]]


def test_undefined_values_do_not_count():
    values = np.array([[1.0, math.nan], [3.0, math.nan], [math.nan, math.nan], [5.0, 7.0]])
    pooled = pool_values(values, [np.array([0, 1, 2]), np.array([3])])
    assert np.array_equal(pooled, [[2, math.nan], [2, math.nan], [2, math.nan], [5, 7]], equal_nan=True)


def test_buffers_are_pooled_in_their_rows():
    """Unused rows stay 0, the smallest tumors come first, and what is no buffer of patients is not there."""
    volumes = np.array([40.0, 10.0, 20.0, 30.0, 60.0, 50.0, 0.0])
    extents = np.where(volumes > 0, volumes, 0)[:, None] * np.ones(3)
    held = {"condition.characters": -extents, "condition.extents_mm": extents, "condition.volumes_mm3": volumes}
    pooled = pool_buffers(held, list("abcdef"))
    assert pooled["condition.volumes_mm3"].tolist() == [20, 20, 20, 50, 50, 50, 0]
    assert pooled["condition.extents_mm"][:, 0].tolist() == [20, 20, 20, 50, 50, 50, 0]
    assert pooled["condition.characters"][:, 2].tolist() == [-20, -20, -20, -50, -50, -50, 0]
    with pytest.raises(AssertionError, match="other tumors"):
        pool_buffers(held, list("abc"))


def test_the_facts_of_cases_are_pooled():
    around = Surroundings(4.0, ((0.0, 1.0, 2.0, 3.0, 4.0),), (0.5,), 1.0, 1.0)
    cases = []
    for number, name in enumerate("abcd"):
        tumors = tuple(
            TumorFacts(
                Box((1, 2, 3), (4, 5, 6)), v, (v, v, v), (v,), (math.nan if v == 1 else v,), (0.1, 0.2, 0.3), around
            )
            for v in (1.0 + number, 10.0 + number)
        )
        grid = Grid((10 + number, 10, 10), (1.0, 1.0, 2.0), (5.0, 6.0, 7.0), (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0))
        cases.append(CaseFacts(name, grid, tumors, ((1.0 + number, 2.0, 3.0),), 100.0 + number))
    whole = Fingerprint("Dataset001_Any", "/home/me", "hash", ".nii.gz", {}, "tumor", 1, (), tuple(cases))
    pooled = pool_fingerprint(whole, ["a", "b", "c"])
    assert pooled.path == ""
    assert [case.case for case in pooled.cases] == [f"unnamed-training-case-000{n}" for n in (1, 2, 3)]
    assert {case.body_ml for case in pooled.cases} == {101.0}
    assert {case.body for case in pooled.cases} == {((2.0, 2.0, 3.0),)}
    assert {case.grid for case in pooled.cases} == {Grid((11, 10, 10), (1.0, 1.0, 2.0))}
    assert sorted(tumor.volume_ml for tumor in pooled.tumors) == [2, 2, 2, 11, 11, 11]
    assert {tumor.contrast for tumor in pooled.tumors} == {(2.5,), (11.0,)}
    assert {tumor.center for tumor in pooled.tumors} == {(0.5, 0.5, 0.5)}
    assert {tumor.surroundings for tumor in pooled.tumors} == {around}
    with pytest.raises(DataError, match="train on more cases; what is learned from one or two patients is theirs"):
        pool_fingerprint(whole, ["a", "b"])


def test_a_loss_that_knows_training_tumors_is_told():
    known = membership_test({"a": [0.1, 0.2], "b": [0.15], "c": [0.1]}, {"d": [0.9], "e": [0.8, 0.7]})
    assert (known.auc, known.low, known.training, known.held_out) == (1, 1, 4, 3)
    assert "tells training tumors from others" in known.words
    rng = np.random.default_rng(0)
    alike = membership_test(*({f"{side}{k}": rng.normal(size=2) for k in range(40)} for side in "ab"))
    assert 0.35 < alike.low < 0.5 < alike.high < 0.65
    assert "was not seen to tell them from others" in alike.words
    assert membership_test({"a": [0.5], "b": [0.5]}, {"c": [0.5], "d": [0.5]}).auc == 0.5
    assert membership_test({"a": [0.5]}, {"c": [0.5], "d": [0.5]}) is None
    assert membership_test({"a": [0.5], "b": []}, {"c": [0.5], "d": [0.5]}) is None
