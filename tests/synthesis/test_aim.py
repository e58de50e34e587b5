"""What pairs are aimed at: strata that a segmentor misses are drawn more often, the others less, half as before."""

import numpy as np
import pytest

from tumorgen_cli.data.surroundings import QUANTILES, Surroundings
from tumorgen_cli.geometry import Box
from tumorgen_cli.metrics.traits import KINDS
from tumorgen_cli.planning.fingerprint import TumorFacts
from tumorgen_cli.synthesis.aim import (
    ENOUGH,
    Followed,
    ScoredTumor,
    SegmentorScores,
    is_aimed,
    make_aim,
    predict_errors,
    sort_tumors,
)

ALL = Followed(tuple(KINDS), True)
NONE = Followed((), False)


def tumor(volume_ml=1.0, contrast=1.0, level=1.0, texture=0.0):
    around = Surroundings(4.0, ((level,) * len(QUANTILES),), (texture,), 1.0, 1.0)
    return TumorFacts(Box((0, 0, 0), (4, 4, 4)), volume_ml, (8.0, 8.0, 8.0), (5.0,), (contrast,), (0.5,) * 3, around)


def aim_at(facts, scored, followed=ALL):
    """The aim of a data set in which each case has one tumor."""
    cases = {f"case{number:03d}": (each,) for number, each in enumerate(facts)}
    scores = SegmentorScores(
        {case: (score,) for case, score in zip(cases, scored, strict=True)}, "nnU-Net", "h", ("x",)
    )
    return make_aim(scores, cases, 0, followed)


def many(count=60, seed=0):
    rng = np.random.default_rng(seed)
    facts = [tumor(*rng.uniform(1, 9, 2), *rng.uniform(0, 1, 2)) for _ in range(count)]
    return facts, rng


def rows(aim):
    return {(row.trait, row.name): row for row in aim.summary.strata}


def test_small_tumors_that_are_missed_are_drawn_more_often():
    facts, rng = many()
    scored = [ScoredTumor(0.2 if each.volume_ml < 3.5 else 0.9, *rng.uniform(0, 1, 2)) for each in facts]
    aim = aim_at(facts, scored)
    found = rows(aim)
    assert aim.summary.aimed
    assert found["size", "small"].factor > 1.7 > 0.7 > found["size", "large"].factor
    assert found["size", "small"].tumors == 20
    assert found["size", "small"].dice < 0.4
    assert all(0.6 < row.factor < 1.4 for (trait, _), row in found.items() if trait != "size")  # small ones by chance
    assert aim.weights.mean() == pytest.approx(1, abs=0.001)
    small = [each.weight for each in aim.tumors if each.strata["size"] == "small"]
    assert sum(small) / len(aim.tumors) == pytest.approx(found["size", "small"].factor / 3, abs=0.01)


def test_errors_belong_to_the_trait_that_explains_them():
    """Half of the small tumors are of low contrast, which alone is missed: contrast is aimed at, size is not."""
    rng = np.random.default_rng(1)
    facts = [
        tumor(rng.uniform(1, 9), 0.5 if rng.random() < 0.5 and size < 30 else 5 + rng.random()) for size in range(90)
    ]
    scored = [ScoredTumor(0.1 if each.contrast[0] < 1 else 0.9, *rng.uniform(0, 1, 2)) for each in facts]
    found = rows(aim_at(facts, scored))
    assert found["contrast", "low"].factor > 1.3
    assert all(abs(row.factor - 1) < 0.35 for (trait, _), row in found.items() if trait == "size")


def test_without_a_pattern_nothing_is_aimed_at():
    aimed = 0
    for seed in range(20):
        facts, rng = many(40, seed)
        aim = aim_at(facts, [ScoredTumor(*rng.uniform(0, 1, 3)) for _ in facts])
        aimed += aim.summary.aimed
        assert aim.weights.max() < 1.6
        assert aim.summary.aimed or set(aim.weights) == {1.0}
    assert aimed <= 6


def test_a_perfect_segmentor_leaves_nothing_to_aim_at():
    facts, _ = many()
    aim = aim_at(facts, [ScoredTumor(1.0, 0.5, 0.5)] * len(facts))
    assert not aim.summary.aimed
    assert set(aim.weights) == {1.0}


def test_kinds_and_places_are_learned_from_enough_tumors_alone():
    facts, rng = many(ENOUGH)
    scored = [ScoredTumor(0.5, *rng.uniform(0, 1, 2)) for _ in facts]
    every = {"size", "contrast", "core", "texture", "surroundings", "surroundings' texture"}
    assert set(sort_tumors(facts, scored, 0, ALL)) == every
    assert set(sort_tumors(facts[1:], scored[1:], 0, ALL)) == {"size", "contrast"}
    # what painting does not follow is not learned from
    assert set(sort_tumors(facts, scored, 0, NONE)) == {"size"}
    assert set(sort_tumors(facts, scored, 0, Followed((), True))) == {"size", "surroundings", "surroundings' texture"}


def test_few_tumors_shrink_the_effects():
    def factor(count):
        facts = [tumor(1 + number % 3) for number in range(count)]
        scored = [ScoredTumor(0.1 if each.volume_ml == 1 else 0.9) for each in facts]
        return rows(aim_at(facts, scored, NONE))["size", "small"].factor

    assert 1 < factor(9) < factor(18) < factor(27) < factor(60)
    assert factor(9) < 1.3 < 1.9 < factor(60)


def test_the_kind_is_asked_for_if_the_method_knows_it():
    facts, rng = many(60)
    scored = [ScoredTumor(0.1 if each.contrast[0] < 3.5 else 0.9, *rng.uniform(0, 1, 2)) for each in facts]
    aim = aim_at(facts, scored)
    assert {each.kind for each in aim.tumors if each.strata["contrast"] == "low"} == {"low-contrast"}
    assert {each.kind for each in aim.tumors if set(each.strata.values()) <= {"medium", "other"}} <= {None}
    (first, *_) = (each for each in aim.tumors if each.kind == "low-contrast")
    assert first.record == {"like": first.case, **first.strata, "kind": "low-contrast"}
    assert {each.kind for each in aim_at(facts, scored, NONE).tumors} == {None}


def test_undefined_traits_belong_to_no_stratum():
    facts, _ = many(60)
    scored = [ScoredTumor(0.5, None if number % 2 else 0.3 + 0.01 * number, None) for number in range(60)]
    strata = sort_tumors(facts, scored, 0, ALL)
    assert "core" not in strata  # undefined in all
    assert strata["texture"].count("") == 30
    assert strata["texture"].count("heterogeneous") == 6
    assert all("texture" not in each.strata for each in aim_at(facts, scored).tumors[1::2])
    (constant,) = {tuple(map(len, sort_tumors([tumor()] * 9, scored[:9], 0, NONE).values()))}
    assert constant == ()  # one size: nothing tells them apart


def test_one_case_cannot_tell():
    """Tumors of one patient are alike: cases are left out, not tumors."""
    errors = np.array([1.0, 1.0, 0.0, 0.0])
    columns = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], float)
    expected, effects = predict_errors(errors, ["a"] * 4, columns)
    assert expected.tolist() == [0.5] * 4
    assert effects.tolist() == [0, 0]


def test_half_of_the_pairs_of_each_host_are_aimed():
    for hosts in (1, 2, 3, 5):
        table = np.array([[is_aimed(place, turn) for place in range(hosts)] for turn in range(6)])
        assert (table.sum(axis=0) == 3).all()
        assert all(abs(turn.sum() - hosts / 2) <= 0.5 for turn in table)
