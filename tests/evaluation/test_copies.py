"""Pairs with a copy of a training tumor, which a filter may reject."""

import math
from dataclasses import replace

import pytest
from support.sets import SPLITS, Threshold
from support.workspaces import tumors_of

from tumorgen_cli.evaluation.evaluate import ScoringJudge, evaluate_set
from tumorgen_cli.evaluation.filter import COPY, copied_pairs, filter_set
from tumorgen_cli.judge.predictions import Predictions
from tumorgen_cli.judge.verdict import PassRule
from tumorgen_cli.metrics.feature_networks import hand_made
from tumorgen_cli.metrics.novelty import Near
from tumorgen_cli.synthesis.set_files import read_provenance
from tumorgen_cli.system.errors import StateError
from tumorgen_cli.system.json_records import none_for_nan, to_plain, write_json

NEAR = (Near("a", "t1", 0.1, 0.5), Near("b", "t2", 0.1, 0.11), Near("c", "t1", 0.4, 0.9))


@pytest.fixture
def evaluation(plan, synthetic, tmp_path):
    """The folder of the set's evaluation: `a` is a copy, `b` is near two tumors, `c` is far from all."""
    out = tmp_path / "evaluation" / "toy"
    scoring = ScoringJudge(None, reason="none")
    scores = evaluate_set(plan, tumors_of(plan, SPLITS), synthetic, out, scoring, hand_made(), 0, lambda *_: None)
    write(out, scores)
    return out, scores


def write(out, scores, **changes):
    novelty = replace(scores.novelty, pairs=NEAR, threshold=0.2, singled_out=1.0, least_ratio=0.7)
    write_json(out / "scores.json", none_for_nan(to_plain(replace(scores, novelty=replace(novelty, **changes)))))


def kept(plan, synthetic, out, copies):
    found = filter_set(
        plan,
        synthetic,
        out,
        Predictions(Threshold(), out / "cache"),
        PassRule(0.05, None),
        lambda *_: None,
        copies=copies,
    )
    return found.reasons, [record.case for record in read_provenance(out)]


def test_only_what_is_singled_out_is_rejected(plan, synthetic, evaluation, tmp_path):
    copies = copied_pairs(synthetic, evaluation[0])
    assert copies == {"a"}
    _, every = kept(plan, synthetic, tmp_path / "all", None)
    reasons, new = kept(plan, synthetic, tmp_path / "new", copies)
    assert reasons[COPY] == 1
    assert [case for case in every if case != "a"] == new
    with pytest.raises(StateError, match="another set"):
        kept(plan, synthetic, tmp_path / "all", copies)


def test_copies_are_known_only_from_the_evaluation_of_these_pairs(synthetic, evaluation, tmp_path):
    out, scores = evaluation
    write_json(out / "scores.json", none_for_nan(to_plain(replace(scores, set_hash="other"))))
    for folder, found in ((tmp_path / "none", "no such file"), (out, "the evaluation of other pairs")):
        with pytest.raises(StateError, match="which pairs are copies") as error:
            copied_pairs(synthetic, folder)
        (fault,) = error.value.faults
        assert fault.found == found
        assert fault.remedy == f"run `tumorgen evaluate {synthetic}` first"
    write(out, scores)  # as the evaluation does
    assert copied_pairs(synthetic, out) == {"a"}


def test_without_real_patients_to_compare_with_no_copy_is_known(synthetic, evaluation):
    write(*evaluation, singled_out=math.nan, reason="fewer than two patients")
    with pytest.raises(StateError) as error:
        copied_pairs(synthetic, evaluation[0])
    (fault,) = error.value.faults
    assert (fault.found, fault.remedy) == ("fewer than two patients", "filter without --no-copies")
