"""The verdict names the gravest fault and its remedy, and none where intervals tell nothing apart."""

from dataclasses import replace

import numpy as np
import pytest
from support.scores import make_scores

from tumorgen_cli.evaluation.reports.one_set import Losses
from tumorgen_cli.evaluation.reports.verdict import judge_set
from tumorgen_cli.metrics.summary import summarize

NOTHING = Losses({}, {}, {}, ())


def told(scores, painted=(0.7, 0.75, 0.8), real=(0.7, 0.8, 0.9)):
    """Scores with an agreement of painted and of real tumors, without copies."""
    measures = tuple(
        replace(m, synthetic=summarize(np.array(painted), "x"), real=summarize(np.array(real), "y"))
        for m in scores.agreement.measures
    )
    agreement = replace(scores.agreement, measures=measures)
    return replace(scores, agreement=agreement, novelty=replace(scores.novelty, singled_out=0.0))


@pytest.fixture(scope="module")
def scores():
    return told(make_scores([0.7, 0.75, 0.8]))


def test_a_set_without_a_fault_is_fit(scores):
    verdict = judge_set(scores, NOTHING)
    assert verdict.grade == "good"
    assert verdict.first == (
        "Fit to train on: image and mask agree as well as in real tumors (DSC 0.75, real 0.8), "
        "and no tumor is a copy of a training tumor."
    )
    assert "`tumorgen downstream`" in verdict.second


def test_worse_agreement_than_real_is_to_be_fixed_first(scores):
    verdict = judge_set(told(scores, painted=(0.3, 0.4, 0.5)), NOTHING)
    assert verdict.grade == "bad"
    assert verdict.first == "Fix this first: image and mask agree less than in real tumors (DSC 0.4, real 0.8)."
    assert "`tumorgen filter`" in verdict.second


def test_worse_agreement_within_the_intervals_is_no_fault(scores):
    assert judge_set(told(scores, painted=(0.4, 0.6, 0.9)), NOTHING).grade == "good"


def test_copies_come_before_weak_weights(scores):
    losses = replace(NOTHING, shortfalls=("flow was trained for 1 of 9 planned steps",))
    verdict = judge_set(scores, losses)
    assert verdict.first == "Fix this first: the weights that painted this set are weak."
    assert verdict.second == "The reason: flow was trained for 1 of 9 planned steps."
    copied = replace(scores, novelty=replace(scores.novelty, singled_out=2.0))
    verdict = judge_set(copied, losses)
    assert verdict.first == "Fix this first: 2 of 3 tumors are copies of training tumors (1 more below)."
    assert judge_set(copied, NOTHING).grade == "bad"
    on_purpose = judge_set(copied, replace(NOTHING, copied=True))
    assert on_purpose.grade == "good"
    assert "cop" not in on_purpose.first


def test_what_a_classifier_sees_is_a_caution(scores):
    seen = replace(scores, reader=replace(scores.reader, auc=0.9, low=0.8, high=0.97))
    verdict = judge_set(seen, NOTHING)
    assert verdict.grade == "care"
    assert verdict.first.endswith("but a classifier tells them from real ones (AUC 0.9, chance 0.5).")
    unsure = replace(scores, reader=replace(scores.reader, auc=0.6, low=0.4, high=0.8))
    assert judge_set(unsure, NOTHING).grade == "good"


def test_without_a_judge_the_contour_tells(scores):
    nothing = told(make_scores([float("nan")] * 3, judge=""))
    assert "DSC with the half-contrast contour" in judge_set(nothing, NOTHING).first
    none = summarize(np.array([np.nan]), "x")
    unmeasured = replace(nothing, comparisons=tuple(replace(c, synthetic=none) for c in nothing.comparisons))
    verdict = judge_set(unmeasured, NOTHING)
    assert verdict.grade == "unknown"
    assert "it does not know such scans" in verdict.second


def test_it_is_two_sentences(scores):
    for losses in (NOTHING, replace(NOTHING, shortfalls=("vae has PSNR 18 dB, below 20; train it longer",))):
        verdict = judge_set(scores, losses)
        assert all(text.endswith((".", "it.")) and ". " not in text for text in (verdict.first, verdict.second))
