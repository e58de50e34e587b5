"""Sub-labels of painted tumors: a rule that is learned from training tumors, or the commonest where none helps."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from tumorgen_cli.geometry import Box
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing import sublabels
from tumorgen_cli.preprocessing.cases import Case, Component
from tumorgen_cli.preprocessing.sublabels import choose_sublabels, read_sublabel_rule
from tumorgen_cli.system.errors import StateError
from tumorgen_cli.system.json_records import write_json

PLAN = SimpleNamespace(tumor_label=(1, 2, 4), channels=(SimpleNamespace(scheme="dataset", low=0.0, high=10.0),))
LIMITS = ((0.0, 10.0),)
SPACING = (2.0, 2.0, 3.0)


def ball(radius: float) -> np.ndarray:
    axes = np.indices((24, 24, 24)) - 11.5
    return np.sqrt((axes**2).sum(0)) < radius


def deep(mask: np.ndarray) -> np.ndarray:
    depth = ndimage.distance_transform_edt(mask, SPACING)
    return depth > depth.max() / 2


def case(name: str, mask: np.ndarray, parts: np.ndarray, seed: int, brightness=(1.0, 5.0, 5.0, 5.0, 5.0)) -> Case:
    """A case with one tumor, brighter where `brightness` of its sub-label is higher."""
    noise = np.random.default_rng(seed).normal(0, 0.4, mask.shape)
    image = (np.array(brightness)[parts] + noise)[None].astype(np.float32)
    found = ndimage.find_objects(mask.astype(int))[0]
    component = Component(1, Box(tuple(s.start for s in found), tuple(s.stop for s in found)), True)
    record = SimpleNamespace(case=name, shape=mask.shape, spacing_mm=SPACING, limits=LIMITS, components=(component,))
    return Case(record, image, mask.astype(np.uint8), parts.astype(np.uint8))


def test_a_core_is_learned_by_its_depth_and_brightness():
    cases = []
    for number in range(6):
        mask = ball(6 + 0.7 * number)
        parts = np.where(deep(mask), 4, 1) * mask
        cases.append(case(f"c{number}", mask, parts, number, (1.0, 6.0, 5.0, 5.0, 3.0)))
    rule = sublabels._fit(PLAN, cases, "hash")
    assert (rule.values, rule.whole, rule.tumors) == ((1, 4), False, 6)
    assert rule.right > 0.9 > rule.right_commonest
    assert "a learned rule (in cases not learned from, a learned rule gets" in str(rule)
    mask = ball(7.3)
    truth = np.where(deep(mask), 4, 1) * mask
    image = case("new", mask, truth, 9, (1.0, 6.0, 5.0, 5.0, 3.0)).image
    made = choose_sublabels(rule, image, mask, np.array(LIMITS), SPACING, PLAN)
    assert (made == truth)[mask].mean() > 0.9
    assert not made[~mask].any()
    assert made.dtype == np.uint8
    assert not choose_sublabels(rule, image, mask & False, np.array(LIMITS), SPACING, PLAN).any()


def test_tumors_of_one_sublabel_each_get_one():
    """A dark cyst beside bright tumors, as in KiTS."""
    cases = []
    for number in range(8):
        mask = ball(4 + number % 3)
        cases.append(case(f"c{number}", mask, mask * (4 if number % 4 == 0 else 2), number, (3.0, 5.0, 6.0, 5.0, 1.0)))
    rule = sublabels._fit(PLAN, cases, "hash")
    assert (rule.values, rule.whole, rule.commonest, rule.right) == ((2, 4), True, 2, 1.0)
    assert rule.right_commonest == pytest.approx(0.75)
    assert str(rule).endswith("; one a tumor")
    for value, brightness in ((4, 1.0), (2, 6.0)):
        mask = ball(5)
        image = np.where(mask, brightness, 3.0)[None] + np.random.default_rng(3).normal(0, 0.4, (1, 24, 24, 24))
        made = choose_sublabels(rule, image, mask, np.array(LIMITS), SPACING, PLAN)
        assert {*np.unique(made[mask])} == {value}


def test_what_no_rule_tells_gets_the_commonest():
    rng = np.random.default_rng(0)
    masks = [ball(5) for _ in range(6)]
    cases = [
        case(f"c{n}", mask, np.where(rng.random(mask.shape) < 0.8, 2, 1) * mask, n) for n, mask in enumerate(masks)
    ]
    rule = sublabels._fit(PLAN, cases, "hash")
    assert (rule.commonest, rule.weights) == (2, ())
    assert rule.right <= rule.right_commonest == pytest.approx(0.8, abs=0.03)
    made = choose_sublabels(rule, cases[0].image, masks[0], np.array(LIMITS), SPACING, PLAN)
    assert {*np.unique(made[masks[0]])} == {2}
    alone = sublabels._fit(PLAN, cases[:1], "hash")
    assert (alone.commonest, alone.right, alone.weights) == (2, None, ())
    assert "too few cases to check a rule" in str(alone)
    single = sublabels._fit(PLAN, [case("c", masks[0], masks[0] * 4, 0)], "hash")
    assert (single.values, single.commonest) == ((4,), 4)
    assert str(single) == "sub-labels, for methods that draw none: all 4, the only one in training tumors"


def test_a_rule_that_is_not_there_or_old_is_made_again(tmp_path):
    workspace = Workspace(tmp_path)
    with pytest.raises(StateError) as error:
        read_sublabel_rule(workspace)
    assert "run `tumorgen preprocess`" in error.value.faults[0].remedy
    cases = [case("c", ball(5), ball(5) * 4, 0)]
    rule = sublabels._fit(PLAN, cases, "hash")
    write_json(workspace.sublabels_file, {**vars(rule), "format": 0})
    with pytest.raises(StateError) as error:
        read_sublabel_rule(workspace)
    (fault,) = error.value.faults
    assert (fault.found, fault.remedy) == ("format 0", "run `tumorgen preprocess`")
    write_json(workspace.sublabels_file, rule)
    assert read_sublabel_rule(workspace) == rule
