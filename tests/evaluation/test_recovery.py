"""Recovered shares and the cases worth the same, on simulated arms with a known truth."""

import math

import numpy as np
import pytest
from support.scan_rows import row

from tumorgen_cli.evaluation.recovery import recovered_shares

LEVELS = {("real", 8): 0.4, ("real", 32): 0.5, ("real", None): 0.6, ("tumorgen", 8): 0.45}


def _rows(random, levels=LEVELS, scans=40, noise=0.05):
    """Scans are as hard for every arm, and every arm differs a little on each scan."""
    hard = random.normal(0, 0.1, scans)
    return [
        row(f"s{i}", arm, dsc=level + hard[i] + random.normal(0, noise), cases=cases)
        for (arm, cases), level in levels.items()
        for i in range(scans)
    ]


def test_a_quarter_of_the_way_is_recovered():
    (found,) = recovered_shares(_rows(np.random.default_rng(0), noise=1e-6), 200)
    assert (found.arm, found.cases, found.reason) == ("tumorgen", 8, "")
    assert found.share.value == pytest.approx(0.25, abs=1e-4)
    assert found.worth.value == pytest.approx(16, abs=0.1)  # half of the way from 8 to 32, in doublings


def test_the_ratio_interval_holds_the_truth(few_resamples):
    random, held, known = np.random.default_rng(0), 0, 0
    for _ in range(100):
        (found,) = recovered_shares(_rows(random, scans=25, noise=0.1), 200)
        if not found.reason:
            known += 1
            held += found.share.low <= 0.25 <= found.share.high
    assert known > 95
    assert held / known == pytest.approx(0.95, abs=0.05)


def test_there_is_no_share_where_all_cases_are_not_surely_better():
    levels = LEVELS | {("real", None): 0.43, ("real", 32): 0.42}
    (found,) = recovered_shares(_rows(np.random.default_rng(0), levels), 200)
    assert math.isnan(found.share.value)
    assert found.reason.startswith("DSC of 200 real cases is not surely 0.02 above that of 8: lower bound ")
    assert found.worth.value == math.inf


def test_a_way_that_differs_between_draws_is_not_sure():
    """Over test patients the way is clear; over two draws of the 8 cases it is 0.1 or 0.3."""
    levels = {("real", 0): 0.5, ("real", 1): 0.3, ("tumorgen", 0): 0.52, ("tumorgen", 1): 0.32}
    rows = [row(f"s{i}", arm, subset, dsc=dsc) for (arm, subset), dsc in levels.items() for i in range(10)]
    rows += [row(f"s{i}", dsc=0.6, cases=None) for i in range(10)]
    (found,) = recovered_shares(rows, 200)
    assert found.reason
    rows = [each for each in rows if each.subset == 0]
    (found,) = recovered_shares(rows, 200)
    assert found.share.value == pytest.approx(0.2)
    assert math.isnan(found.over_subsets.low)


def test_without_all_cases_there_are_only_cases_worth_the_same():
    levels = {each: level for each, level in LEVELS.items() if each[1] is not None}
    (found,) = recovered_shares(_rows(np.random.default_rng(0), levels, noise=1e-6), 200)
    assert found.reason == "no real arm with all cases"
    assert found.worth.value == pytest.approx(16, abs=0.1)


def test_a_share_has_an_interval_over_draws():
    """Gains of 0.02, 0.05 and 0.08 on a way of 0.2: shares of 0.1, 0.25 and 0.4."""
    rows = [row(f"s{i}", "real", draw, dsc=0.4) for draw in range(3) for i in range(10)]
    rows += [row(f"s{i}", "tumorgen", draw, dsc=0.42 + 0.03 * draw) for draw in range(3) for i in range(10)]
    rows += [row(f"s{i}", dsc=0.6, cases=None) for i in range(10)]
    (found,) = recovered_shares(rows, 200)
    half = 4.302653 * 0.15 / math.sqrt(3)
    assert found.over_subsets.value == pytest.approx(0.25)
    assert found.share.value == pytest.approx(0.25)
    assert (found.over_subsets.low, found.over_subsets.high) == (pytest.approx(0.25 - half), pytest.approx(0.25 + half))
