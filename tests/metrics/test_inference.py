"""Intervals, tests and components against statsmodels' values and against simulations whose truth is known."""

import math

import numpy as np
import pytest
from scipy import stats

from tumorgen_cli.metrics.inference import (
    bootstrap_interval,
    cases_worth,
    detectable_difference,
    draw_weights,
    holm,
    nested_components,
    ratio_t_interval,
    t_interval,
    t_test,
    upper_spread,
)


def test_t_interval_and_test_are_scipys():
    values = [0.02, 0.05, -0.01, 0.04, 0.03, math.nan]
    found, known = t_interval(values), stats.ttest_1samp(values[:5], 0)
    expected = known.confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert found.value == pytest.approx(0.026)
    assert t_test(values) == pytest.approx(known.pvalue)


@pytest.mark.parametrize("values", [[], [0.1], [0.1, 0.1, 0.1]])
def test_without_two_different_values_there_is_no_interval(values):
    assert math.isnan(t_interval(values).low)
    assert math.isnan(t_test(values))


@pytest.mark.parametrize(
    ("p_values", "expected"),  # statsmodels.stats.multitest.multipletests(method="holm")
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.2, 0.9, 0.001, 0.02, 0.02], [0.4, 0.9, 0.005, 0.08, 0.08]),
    ],
)
def test_holm_is_statsmodels(p_values, expected):
    assert holm(p_values) == pytest.approx(expected)
    assert holm([math.nan, *p_values])[1:] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("units", "power", "expected"),  # statsmodels.stats.power.TTestPower().solve_power(nobs=units, alpha=0.05)
    [(3, 0.8, 3.2640), (6, 0.8, 1.4345), (10, 0.8, 0.9960), (6, 0.9, 1.6704)],
)
def test_detectable_difference_is_statsmodels(units, power, expected):
    assert detectable_difference(0.5, units, power) == pytest.approx(0.5 * expected, abs=1e-4)
    assert detectable_difference(0.5, 1) == math.inf


def test_components_of_a_balanced_experiment_are_those_of_restricted_maximum_likelihood():
    """Six subsets, three paintings, four seeds; statsmodels' MixedLM(reml=True): 0.08164, 0.02379, 0.02272."""
    values = """554 534 537 541 557 545 628 566 606 599 591 604 541 518 522 553 535 542 556 584 516 541 503 515
    572 584 514 591 491 530 538 515 521 520 549 536 541 526 557 557 490 510 455 519 494 528 507 542
    365 374 307 341 376 420 364 395 375 346 339 312 639 646 630 611 561 604 548 565 596 603 566 557"""
    rows = [(i // 12, i // 4 % 3, int(value) / 1000) for i, value in enumerate(values.split())]
    found = nested_components(rows)
    assert found.subset == pytest.approx(0.08164, abs=2e-5)
    assert found.painting == pytest.approx(0.02379, abs=2e-5)
    assert found.seed == pytest.approx(0.02272, abs=2e-5)


def test_components_of_unequal_numbers_are_right_on_average():
    """True variances 4, 1 and 0.25; the mean of 500 estimates has a standard error of about 0.15, 0.05 and 0.01."""
    random, found = np.random.default_rng(0), []
    for _ in range(500):
        rows = []
        for subset in range(5):
            of_subset = random.normal(0, 2)
            for painting in range(1 + subset % 3):
                of_painting = of_subset + random.normal(0, 1)
                rows += [
                    (subset, painting, of_painting + random.normal(0, 0.5)) for _ in range(1 + (subset + painting) % 2)
                ]
        own = nested_components(rows)
        found.append((own.subset**2, own.painting**2, own.seed**2))
    assert np.mean(found, axis=0) == pytest.approx([4, 1, 0.25], abs=0.5)


def test_what_an_experiment_cannot_tell_is_nan():
    """One painting and one seed each: the spread over subsets holds everything."""
    found = nested_components([(subset, 0, value) for subset, value in enumerate((0.1, 0.2, 0.4))])
    assert found.subset == pytest.approx(np.std((0.1, 0.2, 0.4), ddof=1))
    assert math.isnan(found.painting)
    assert math.isnan(found.seed)
    assert all(math.isnan(each) for each in (nested_components([(0, 0, 0.5)]).subset, nested_components([]).subset))


@pytest.mark.parametrize("patients", [5, 8, 20])
def test_a_bootstrap_over_few_patients_covers_the_truth(patients):
    """About 95 % of intervals hold the true mean; plain percentiles hold it in 84 % for five patients."""
    random = np.random.default_rng(0)
    weights, held, trials = draw_weights([str(i) for i in range(patients)], "test"), 0, 400
    for _ in range(trials):
        values = random.normal(0, 1, patients)
        found = bootstrap_interval(values.mean(), weights @ values / patients, patients)
        held += found.low <= 0 <= found.high
    assert held / trials == pytest.approx(0.945, abs=0.03)


@pytest.mark.parametrize(("patients", "known"), [(1, False), (4, False), (5, True)])
def test_four_patients_have_no_bootstrap_interval(patients, known):
    values = np.arange(patients) / 10
    found = bootstrap_interval(0.2, draw_weights(list("abcde"[:patients]), "test") @ values / patients, patients)
    assert math.isfinite(found.low) == known


def test_the_upper_spread_holds_the_truth_in_four_of_five_pilots():
    random = np.random.default_rng(0)
    spreads = np.std(random.normal(0, 1, (4000, 4)), axis=1, ddof=1)
    assert np.mean([upper_spread(spread, 3) >= 1 for spread in spreads]) == pytest.approx(0.8, abs=0.02)


def test_cases_worth_the_same():
    """The first curve rises by 0.1 with every doubling; the dip of the second one becomes a level of 0.55."""
    curve = {8: 0.4, 16: 0.5, 32: 0.6}
    assert cases_worth(curve, 0.55) == pytest.approx(16 * math.sqrt(2))
    assert cases_worth(curve, 0.5) == pytest.approx(16)
    assert cases_worth(curve, 0.7) == math.inf
    assert cases_worth(curve, 0.3) == 0
    assert cases_worth({8: 0.4, 16: 0.6, 32: 0.5, 64: 0.7}, 0.6) == pytest.approx(32 * 2 ** (1 / 3))


def test_a_ratio_over_few_units_covers_the_truth():
    """Six draws, whose numerator (0.05) and denominator (0.2) share what the draw does."""
    random, held = np.random.default_rng(0), 0
    for _ in range(500):
        draw, own = random.normal(0, 0.03, (2, 6))
        found = ratio_t_interval(0.05 + own + draw / 4, 0.2 + draw)
        held += found.low <= 0.25 <= found.high
    assert held / 500 == pytest.approx(0.95, abs=0.03)
    assert ratio_t_interval([0.1, 0.3], [1.0, 1.0]).value == pytest.approx(0.2)
    assert ratio_t_interval([0.1, 0.3], [1.0, 1.0]).low == pytest.approx(t_interval([0.1, 0.3]).low)
    assert math.isnan(ratio_t_interval([0.1], [1.0]).low)
