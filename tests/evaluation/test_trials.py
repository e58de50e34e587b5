"""Comparisons over draws of the real cases: measures by hand, and intervals against simulations with a known truth."""

import math

import numpy as np
import pytest
from support.scan_rows import lesion, row

from tumorgen_cli.evaluation.trials import analyze, compare, lesion_dsc, sensitivity_at_fp, variance_components
from tumorgen_cli.evaluation.verdicts import Primary
from tumorgen_cli.metrics import inference


def test_sensitivity_is_read_where_one_false_positive_a_scan_is_left():
    """Of five false positives in three scans, the fourth (0.6) is one too many: components must score more than it."""
    rows = [
        row("a", lesions=[lesion(8, 0.7), lesion(30, 0.55)], spurious=[0.95, 0.9]),
        row("b", lesions=[lesion(8, None), lesion(12, 0.6)], spurious=[0.8, 0.6]),
        row("c", dsc=None, spurious=[0.5]),
    ]
    assert sensitivity_at_fp(rows) == pytest.approx(1 / 4)
    assert sensitivity_at_fp(rows, 2.0) == pytest.approx(3 / 4)
    assert sensitivity_at_fp(rows, 0.0) == 0
    assert sensitivity_at_fp(rows, size_class="under 10 mm") == pytest.approx(1 / 2)
    assert sensitivity_at_fp(rows, 2.0, "20 to 50 mm") == 1
    assert math.isnan(sensitivity_at_fp(rows, size_class="50 mm and more"))


def test_sensitivity_and_lesion_dsc_are_means_over_trainings():
    rows = [
        row("a", seed=0, lesions=[lesion(8, 0.9, 0.6), lesion(8, None)]),
        row("a", seed=1, lesions=[lesion(8, 0.9, 0.4), lesion(8, 0.9, 0.8)]),
    ]
    assert sensitivity_at_fp(rows) == pytest.approx(0.75)
    assert lesion_dsc(rows) == pytest.approx((0.3 + 0.6) / 2)


def _experiment(random, gain, subsets=5, seeds=2, scans=6):
    """Arms whose DSC differs by `gain`, by what a draw does to each of them, and by seed."""
    rows, of_scan = [], random.normal(0, 0.1, scans)
    for subset in range(subsets):
        of_subset = random.normal(0, 0.05)
        for arm, shift in (("empty", 0.0), ("tumorgen", gain)):
            of_arm = of_subset + random.normal(0, 0.03)
            for seed in range(seeds):
                level = 0.5 + shift + of_arm + random.normal(0, 0.02)
                rows += [row(f"s{i}", arm, subset, seed, level + x) for i, x in enumerate(of_scan)]
    return rows


PRIMARY = Primary("tumorgen", "empty", "dsc", 8)


def test_the_interval_over_draws_holds_the_true_gain(few_resamples):
    """In about 95 of 100 experiments. Trainings as units, 10 instead of 5, would hold it in about 88."""
    random, held, trained = np.random.default_rng(0), 0, 0
    for _ in range(100):
        rows = _experiment(random, 0.04)
        found = compare(rows, PRIMARY).over_subsets
        held += found.low <= 0.04 <= found.high
        levels = {(r.arm, r.subset, r.seed): r.dsc for r in rows if r.scan == "s0"}
        naive = inference.t_interval(
            [levels["tumorgen", s, k] - levels["empty", s, k] for s in range(5) for k in range(2)]
        )
        trained += naive.low <= 0.04 <= naive.high
    assert held / 100 == pytest.approx(0.95, abs=0.04)
    assert trained < held


def test_a_comparison_by_hand():
    """Differences of the subsets: 0.1, 0.2 and 0.3. False positives are better where they are fewer."""
    rows = [row("a", "empty", s, dsc=0.4, spurious=[0.9] * 3) for s in range(3)]
    rows += [
        row("a", "tumorgen", s, k, 0.4 + 0.1 * (s + 1) + 0.02 * k, spurious=[0.9]) for s in range(3) for k in (-1, 1)
    ]
    found = compare(rows, PRIMARY)
    half = 4.302653 * 0.1 / math.sqrt(3)  # t of two degrees of freedom
    assert found.over_subsets.value == pytest.approx(0.2)
    assert (found.over_subsets.low, found.over_subsets.high) == (pytest.approx(0.2 - half), pytest.approx(0.2 + half))
    assert (found.spread, found.subsets, found.patients) == (pytest.approx(0.1), 3, 1)
    assert found.p == pytest.approx(0.0742, abs=1e-4)
    assert compare(rows, Primary("tumorgen", "empty", "false_positives", 8)).over_subsets.value == 2


def test_only_draws_of_both_arms_are_compared():
    rows = [row("a", "empty", s, dsc=0.4) for s in (0, 1)] + [row("a", "tumorgen", s, dsc=0.5) for s in (1, 2)]
    assert compare(rows, PRIMARY).subsets == 1
    assert compare(rows, Primary("copypaste", "empty", "dsc", 8)).verdict.endswith(
        "not compared, because no draw of the real cases has this measure of both."
    )


def test_the_same_number_of_hosts_is_compared_if_there_is_one():
    rows = [
        row("a", "real", 0, dsc=0.3),
        row("a", "empty", 0, dsc=0.4, hosts=10),
        row("a", "empty", 0, dsc=0.6, hosts=50),
    ]
    rows += [row("a", "tumorgen", 0, dsc=0.7, hosts=50)]
    assert compare(rows, Primary("tumorgen", "empty", "dsc", 8, 50)).over_subsets.value == pytest.approx(0.1)
    assert compare(rows, Primary("tumorgen", "real", "dsc", 8, 50)).over_subsets.value == pytest.approx(0.4)


def test_scans_of_a_patient_are_drawn_together():
    """Three of six patients gain, in all of their five scans: with 30 scans as units the interval would be narrower."""

    def rows(patient):
        return [
            row(f"s{i}", arm, 0, dsc=0.4 + gain * (i < 15), patient=patient(i))
            for arm, gain in (("empty", 0.0), ("tumorgen", 0.2))
            for i in range(30)
        ]

    grouped, alone = (compare(rows(name), PRIMARY).over_patients for name in (lambda i: str(i // 5), str))
    assert grouped.high - grouped.low == pytest.approx(0.2, abs=0.03)  # 6 values, standard error 0.045, t 2.57
    assert alone.high - alone.low == pytest.approx(0.075, abs=0.015)  # 30 values, standard error 0.0186, t 2.05
    assert grouped.value == alone.value == pytest.approx(0.1)


def test_components_of_an_arm(few_resamples):
    random, rows = np.random.default_rng(1), []
    for subset in range(60):
        of_subset = random.normal(0, 0.06)
        for painting in range(3):
            of_painting = of_subset + random.normal(0, 0.03)
            rows += [
                row("a", "tumorgen", subset, seed, 0.5 + of_painting + random.normal(0, 0.02), painting=painting)
                for seed in range(2)
            ]
    found = variance_components(rows, "dsc")
    assert (found.subset, found.painting, found.seed) == (
        pytest.approx(0.06, abs=0.012),
        pytest.approx(0.03, abs=0.006),
        pytest.approx(0.02, abs=0.003),
    )


def test_holm_counts_every_comparison_but_the_primary_one(few_resamples):
    rows = [
        row(f"s{i}", arm, s, dsc=0.4 + gain + 0.01 * ((s * 7 + i + len(arm)) % 5))
        for arm, gain in (("real", 0), ("empty", 0.01), ("tumorgen", 0.1))
        for s in range(4)
        for i in range(3)
    ]
    found = analyze(rows, PRIMARY)
    assert (found.primary.what, found.primary.exploratory) == (PRIMARY, False)
    assert math.isnan(found.primary.p_holm)
    assert PRIMARY not in [each.what for each in found.exploratory]
    expected = {(arm, against) for arm, against in (("empty", "real"), ("tumorgen", "real"), ("tumorgen", "empty"))}
    assert {(each.what.arm, each.what.against) for each in found.exploratory} == expected
    known = [each.p for each in found.exploratory if math.isfinite(each.p)]
    assert min(each.p_holm for each in found.exploratory if math.isfinite(each.p)) == pytest.approx(
        min(known) * len(known)
    )
    assert all(each.verdict.startswith("Exploratory: ") for each in found.exploratory)
    assert [arm.arm for arm in found.arms] == ["real", "empty", "tumorgen"]
    assert found.arms[2].measures["dsc"].over_subsets.value == pytest.approx(np.mean([r.dsc for r in rows[24:]]))


@pytest.mark.parametrize(
    ("change", "no_room", "reason"),
    [
        ({"iterations": 100}, "", "trained for 100 iterations, fewer than 500"),
        ({"dsc": 0.05}, "", "the best arm has a mean DSC of 0.05, less than 0.1"),
        ({}, "32 real cases are not clearly better", "32 real cases are not clearly better"),
    ],
)
def test_nothing_is_concluded_without_training_or_room(change, no_room, reason):
    rows = [row("a", arm, s, **({"dsc": 0.5 + s / 50} | change)) for arm in ("empty", "tumorgen") for s in range(3)]
    found = analyze(rows, PRIMARY, no_room)
    assert found.primary.verdict == f"No conclusion: {reason}."
    assert found.exploratory == ()
    assert found.silent == (f"8 real cases: no conclusion, {reason}",)


def test_iterations_to_the_plateau_count_fully_where_it_is_not_reached():
    rows = [row("a", "empty", s, plateau_iterations=600 + s) for s in range(2)]
    rows += [row("a", "tumorgen", s, plateau_iterations=(300, None)[s]) for s in range(2)]
    found = compare(rows, Primary("tumorgen", "empty", "plateau", 8))
    assert found.over_subsets.value == pytest.approx((300 + (601 - 1000)) / 2)
    assert math.isnan(found.over_patients.low)
