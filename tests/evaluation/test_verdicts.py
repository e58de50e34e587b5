"""Sentences say no more than the intervals carry."""

import math

import pytest

from tumorgen_cli.evaluation.verdicts import ArmComparison, Primary, comparison_verdict, shown_briefly
from tumorgen_cli.metrics.inference import Estimate

NONE = (math.nan, math.nan)


def _compared(value, draws, patients, subsets=6, p_holm=math.nan, measure="dsc", exploratory=False):
    return ArmComparison(
        Primary("tumorgen", "empty", measure, 8),
        Estimate(value, *draws),
        Estimate(value, *patients),
        0.01,
        p_holm,
        0.02,
        subsets,
        40,
        exploratory,
    )


def _verdict(*values, **options):
    return comparison_verdict(_compared(*values, **options))


START = "tumorgen against empty, 8 real cases, DSC: "


@pytest.mark.parametrize(
    ("value", "draws", "patients", "words"),
    [
        (
            0.04,
            (0.01, 0.07),
            (0.02, 0.06),
            "better by 0.040, [0.010, 0.070] over draws of the real cases, [0.020, 0.060] over patients.",
        ),
        (
            -0.04,
            (-0.07, -0.01),
            (-0.06, -0.02),
            "worse by 0.040, [-0.070, -0.010] over draws of the real cases, [-0.060, -0.020] over patients.",
        ),
        (
            0.04,
            (0.01, 0.07),
            (-0.01, 0.09),
            (
                "better by 0.040, [0.010, 0.070] over draws of the real "
                "cases, on these test patients; not shown for others, [-0.010, 0.090] over patients."
            ),
        ),
        (
            0.04,
            (-0.01, 0.09),
            (0.02, 0.06),
            (
                "better by 0.040 with these draws of the real cases, "
                "[0.020, 0.060] over patients; not shown for others, [-0.010, 0.090]."
            ),
        ),
        (
            0.02,
            (-0.01, 0.05),
            (-0.02, 0.06),
            (
                "no difference is shown; over draws of the real cases a "
                "gain above 0.050 and a loss above 0.010 are excluded."
            ),
        ),
    ],
)
def test_verdicts_over_draws_and_patients(value, draws, patients, words):
    assert _verdict(value, draws, patients) == START + words


def test_one_draw_says_nothing_about_others():
    assert _verdict(0.04, NONE, (0.02, 0.06), 1) == (
        START
        + "better by 0.040 with one draw of the real cases ([0.020, 0.060] over patients); other draws may differ."
    )
    assert "in each of 3 draws of the real cases, which gives no interval" in _verdict(0.04, NONE, (0.02, 0.06), 3)


def test_an_exploratory_gain_must_withstand_holms_correction():
    gain = (0.04, (0.01, 0.07), (0.02, 0.06), 6)
    lost = _verdict(*gain, p_holm=0.12, exploratory=True)
    assert lost.startswith("Exploratory: ")
    assert lost.endswith("; not shown, because p is 0.120 after Holm's correction.")
    assert "not shown" not in _verdict(*gain, p_holm=0.01, exploratory=True)


def test_shares_are_in_points_of_percent():
    assert _verdict(0.12, (0.02, 0.22), (0.04, 0.2), measure="sensitivity under 10 mm") == (
        "tumorgen against empty, 8 real cases, lesions under 10 mm found: better by 12.0 points, [2.0, 22.0] "
        "over draws of the real cases, [4.0, 20.0] over patients."
    )


@pytest.mark.parametrize(
    ("value", "draws", "patients", "p_holm", "measure", "words"),
    [
        (0.04, (0.01, 0.07), (0.02, 0.06), math.nan, "dsc", "better"),
        (-0.04, (-0.07, -0.01), (-0.06, -0.02), 0.01, "dsc", "worse"),
        (0.04, (0.01, 0.07), (0.02, 0.06), 0.06, "dsc", "no"),
        (0.04, (0.01, 0.07), (-0.02, 0.06), 0.01, "dsc", "better on these patients"),
        (0.04, (-0.01, 0.07), (0.02, 0.06), math.nan, "dsc", "better with these draws"),
        (0.04, (-0.01, 0.07), (-0.02, 0.06), math.nan, "dsc", "no"),
        (300, (100, 500), NONE, 0.01, "plateau", "better"),
    ],
)
def test_few_words_follow_the_same_rules(value, draws, patients, p_holm, measure, words):
    assert shown_briefly(_compared(value, draws, patients, p_holm=p_holm, measure=measure)) == words
