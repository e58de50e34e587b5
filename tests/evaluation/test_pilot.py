"""What a pilot says: room for a gain, and the difference that a design detects, on simulated arms."""

import math

import numpy as np
import pytest
from support.scan_rows import lesion, row

from tumorgen_cli.evaluation.pilot import plan_comparison, room_for_gain
from tumorgen_cli.metrics.inference import detectable_difference


def _real(level, cases, seed=0, scans=40):
    random = np.random.default_rng(seed)
    return [
        row(f"s{i}", cases=cases, seed=k, lesions=[lesion(8, 0.9, level + random.normal(0, 0.1))])
        for i in range(scans)
        for k in range(2)
    ]


def test_there_is_room_where_many_cases_are_clearly_better():
    found = room_for_gain([*_real(0.4, 8), *_real(0.5, 32, 1)])
    assert found.found
    assert found.gains["lesion_dsc"].value == pytest.approx(0.1, abs=0.05)
    assert found.gains["lesion_dsc"].low > 0
    assert found.verdict.startswith("32 real cases are better than 8: lesion DSC 0.")


@pytest.mark.parametrize(("many", "scans"), [(0.42, 40), (0.5, 2)])
def test_there_is_no_room_where_the_gain_is_small_or_the_patients_are_few(many, scans):
    found = room_for_gain([*_real(0.4, 8, 0, scans), *_real(many, 32, 1, scans)])
    assert not found.found
    assert "not clearly better than 8 by 0.050 in lesion DSC or 10.0 points in lesions found" in found.verdict


def test_found_lesions_alone_are_room():
    few = [row(f"s{i}", lesions=[lesion(8, 0.9 if i % 2 else None)]) for i in range(40)]
    many = [row(f"s{i}", cases=32, lesions=[lesion(8, 0.9, 0.25)]) for i in range(40)]
    found = room_for_gain([*few, *many])
    assert found.found
    assert found.gains["sensitivity"].value == pytest.approx(0.5)
    assert found.gains["lesion_dsc"].value == pytest.approx(0)


def test_without_many_cases_there_is_no_room():
    assert not room_for_gain(_real(0.4, 8)).found


def _pilot(arms, subsets, seeds, of_draw=0.06, of_arm=0.03, of_seed=0.02):
    random, rows = np.random.default_rng(0), []
    for subset in range(subsets):
        draw = random.normal(0, of_draw)
        for arm in arms:
            own = draw + random.normal(0, of_arm)
            rows += [row("s", arm, subset, k, 0.5 + own + random.normal(0, of_seed)) for k in range(seeds)]
    return rows


@pytest.mark.parametrize("seeds", [1, 4])
def test_the_spread_of_pairs_leaves_out_what_a_draw_does_to_both_arms(seeds, few_resamples):
    """Both arms have their own part (0.03) and seeds (0.02, averaged over those of the design)."""
    found = plan_comparison(_pilot(["real", "empty"], 300, 2), "dsc", 8, subsets=6, seeds=seeds)
    truth = math.sqrt(2 * (0.03**2 + 0.02**2 / seeds))
    assert found.spread == pytest.approx(truth, rel=0.08)
    assert found.difference == pytest.approx(detectable_difference(found.spread, 6))
    assert found.difference < found.cautious < 1.1 * found.difference


def test_one_arm_is_taken_to_share_nothing_with_another():
    found = plan_comparison(_pilot(["real"], 300, 2), "dsc", 8, subsets=6, seeds=2)
    truth = math.sqrt(2 * (0.06**2 + 0.03**2 + 0.02**2 / 2))
    assert found.spread == pytest.approx(truth, rel=0.08)
    assert "as if two arms shared nothing" in found.verdict


def test_a_pilot_of_few_draws_is_cautious():
    found = plan_comparison(_pilot(["real", "empty"], 3, 1), "dsc", 8, subsets=6)
    assert found.cautious == pytest.approx(found.difference * math.sqrt(2 / 0.446287), rel=1e-4)  # chi2.ppf(0.2, 2)
    assert found.verdict.startswith("6 draws of 8 real cases find a true difference of 0.")


def test_one_draw_says_nothing():
    found = plan_comparison(_pilot(["real", "empty"], 1, 3), "dsc", 8, subsets=6)
    assert math.isnan(found.difference)
    assert "fewer than two draws" in found.verdict
