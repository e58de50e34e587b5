"""Each number that leaves is the mean of three cases or more."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

import tumorgen_cli
from tumorgen_cli.data.surroundings import Surroundings
from tumorgen_cli.geometry import Box, Grid
from tumorgen_cli.methods.latent.condition import PATIENT_BUFFERS
from tumorgen_cli.planning.fingerprint import CaseFacts, Fingerprint, TumorFacts
from tumorgen_cli.sharing.membership import membership_test
from tumorgen_cli.sharing.pooling import group_similar, pool_buffers, pool_fingerprint, pool_values
from tumorgen_cli.system.errors import DataError


def test_groups_have_three_patients():
    """Rows that are alike come together, one patient is no group, and what is left joins the nearest."""
    values = np.array([1.0, 1.1, 1.2, 9.0, 9.1, 9.2, 1.3])[:, None]
    groups = group_similar(values, ["a", "b", "c", "a", "b", "c", "a"])
    assert sorted(group.tolist() for group in groups) == [[0, 1, 2, 6], [3, 4, 5]]
    alone = group_similar(values, ["a", "a", "c", "b", "b", "b", "c"])
    assert [group.tolist() for group in alone] == [[0, 1, 2, 3, 4, 5, 6]]
    assert [group.tolist() for group in group_similar(values[:2], ["a", "b"])] == [[0, 1]]
    rng = np.random.default_rng(1)
    rows, patients = rng.normal(size=(200, 6)), [str(k) for k in rng.integers(0, 40, 200)]
    found = group_similar(rows, patients)
    assert sorted(np.concatenate(found).tolist()) == [*range(200)]
    assert all(len({patients[k] for k in group}) >= 3 for group in found)
    within = np.mean([np.square(rows[group] - rows[group].mean(0)).sum(1).mean() for group in found])
    assert within < 0.7 * np.square(rows - rows.mean(0)).sum(1).mean()


#: buffers that are saved with weights and hold statistics of all tumors together: the spread of latents, a codebook
OF_ALL = {"mean", "std", "codes", "used", "total"}


def test_every_saved_buffer_is_pooled_or_of_all_tumors():
    """A new buffer that holds values of single tumors has to be pooled before weights are given away."""
    folder = Path(tumorgen_cli.__file__).parent
    lines = [
        line for path in folder.rglob("*.py") for line in path.read_text().splitlines() if "register_buffer(" in line
    ]
    saved = {name for line in lines if "persistent=False" not in line for name in re.findall(r'buffer\("(\w+)"', line)}
    assert len(lines) >= 9
    assert saved == {*PATIENT_BUFFERS, *OF_ALL}


def test_undefined_values_do_not_count():
    values = np.array([[1.0, math.nan], [3.0, math.nan], [math.nan, math.nan], [5.0, 7.0]])
    pooled = pool_values(values, [np.array([0, 1, 2]), np.array([3])])
    assert np.array_equal(pooled, [[2, math.nan], [2, math.nan], [2, math.nan], [5, 7]], equal_nan=True)


def test_buffers_are_pooled_in_their_rows():
    """Unused rows stay 0, the smallest tumors come first; sizes and characters have groups of their own."""
    volumes = np.array([40.0, 10.0, 20.0, 30.0, 600.0, 500.0, 0.0])
    extents = volumes[:, None] * np.ones(3)
    characters = np.array([9.0, 1.0, 8.0, 2.0, 7.0, 3.0, 0.0])[:, None] * [1.0, -1.0]
    held = {"condition.characters": characters, "condition.extents_mm": extents, "condition.volumes_mm3": volumes}
    pooled = pool_buffers(held, list("abcdef"))
    large, small = pytest.approx(1140 / 3), pytest.approx(20)
    assert pooled["condition.volumes_mm3"].tolist() == [small] * 3 + [large] * 3 + [0]
    assert pooled["condition.extents_mm"][:, 0].tolist() == [small] * 3 + [large] * 3 + [0]
    assert pooled["condition.characters"][:, 0].tolist() == [2, 8, 2, 8, 8, 2, 0]
    with pytest.raises(AssertionError, match="other tumors"):
        pool_buffers(held, list("abc"))


def test_the_facts_of_cases_are_pooled():
    cases = []
    for number, name in enumerate("abcd"):
        around = Surroundings(4.0 + number, ((0.0, 1.0, 2.0, 3.0, 4.0 + number),), (0.5,), 1.0, 1.0)
        tumors = tuple(
            TumorFacts(
                Box((1, 2, 3), (4, 5, 6)), v, (v, v, v), (v,), (math.nan if v == 1 else v,), (0.1, 0.2, 0.3), around
            )
            for v in (1.0 + number, 10.0 + number)
        )
        grid = Grid((10 + number, 10, 10), (1.0, 1.0, 2.0), (5.0, 6.0, 7.0), (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0))
        cases.append(CaseFacts(name, grid, tumors, ((1.0 + number, 2.0, 3.0),), 100.0 + number))
    whole = Fingerprint("Dataset001_Any", "/home/me", "hash", ".nii.gz", {}, "tumor", 1, (), tuple(cases))
    pooled = pool_fingerprint(whole, ["a", "b", "c"], {})
    assert pooled.path == ""
    assert [case.case for case in pooled.cases] == [f"unnamed-training-case-000{n}" for n in (1, 2, 3)]
    assert {case.body_ml for case in pooled.cases} == {101.0}
    assert {case.body for case in pooled.cases} == {((2.0, 2.0, 3.0),)}
    assert {case.grid for case in pooled.cases} == {Grid((11, 10, 10), (1.0, 1.0, 2.0))}
    assert sorted(tumor.volume_ml for tumor in pooled.tumors) == [2, 2, 2, 11, 11, 11]
    assert {tumor.contrast for tumor in pooled.tumors} == {(2.5,), (11.0,)}
    assert {tumor.center for tumor in pooled.tumors} == {(0.5, 0.5, 0.5)}
    assert {tumor.surroundings for tumor in pooled.tumors} == {
        Surroundings(5.0, ((0.0, 1.0, 2.0, 3.0, 5.0),), (0.5,), 1.0, 1.0)
    }
    remedy = "train on more cases; what is learned from one or two patients is theirs"
    with pytest.raises(DataError, match=remedy):
        pool_fingerprint(whole, ["a", "b"], {})
    with pytest.raises(DataError, match=remedy):
        pool_fingerprint(whole, ["a", "b", "c"], {"a": "p1", "b": "p1", "c": "p2"})


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
