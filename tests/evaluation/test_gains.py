"""Gains of nnU-Nets: scores of a patient by hand, strata, pairing per patient; nothing is trained here."""

import csv
import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from tumorgen_cli.evaluation.gains import (
    Design,
    Downstream,
    LesionOutcome,
    PatientScore,
    TrainedNnunet,
    score_patient,
    size_strata,
    summarize_arms,
)
from tumorgen_cli.evaluation.reports import downstream
from tumorgen_cli.nnunet.job import Schedule
from tumorgen_cli.studies.downstream_tables import gain_rows, gains_csv, undertrained_notes


def test_a_patient_by_hand():
    """One of two lesions is found, with 8 of its 16 voxels; one answer touches nothing."""
    truth, found = np.zeros((2, 12, 12, 12), bool)
    truth[2:6, 2:4, 2:4] = True
    truth[9, 9, 9] = True
    found[2:4, 2:4, 2:4] = True
    found[10, 2, 2] = True
    score = score_patient("a", found, truth, (2.0, 2.0, 3.0), 2.0)
    assert score.dice == pytest.approx(2 * 8 / (17 + 9), abs=1e-4)
    assert score.false_positives == (pytest.approx(2 * (3 * 12 / (4 * math.pi)) ** (1 / 3), abs=0.01),)
    assert [lesion.found for lesion in score.lesions] == [True, False]
    assert score.lesions[1].diameter_mm == pytest.approx(
        2 * (3 * 12 / (4 * math.pi)) ** (1 / 3), abs=0.01
    )  # a ball of 12 mm³


def test_nothing_to_find_has_no_score_but_false_positives():
    nothing, found = np.zeros((2, 4, 4, 4), bool)
    found[0, 0, 0] = found[2, 2, 2] = True
    assert score_patient("a", nothing, nothing, (1.0, 1.0, 1.0), 1.0) == PatientScore("a", None, None, (), ())
    assert score_patient("a", found, nothing, (1.0, 1.0, 1.0), 1.0) == PatientScore("a", None, None, (), (1.24, 1.24))


@pytest.mark.parametrize(
    ("diameters", "names"),
    [
        ((12.0, 30.0, 40.0), ["under 20 mm", "20 mm and more"]),
        ((30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0), ["under 50 mm", "50 to 70 mm", "over 70 mm"]),
        ((30.0, 40.0), ["any"]),
    ],
)
def test_strata(diameters, names):
    strata = size_strata(diameters)
    assert [name for name, _, _ in strata] == names
    for value in diameters:
        assert sum(low <= value < high for _, low, high in strata) == 1


def run(arm, seed, dices, cases=8, found=True, spurious=0, iterations=1000):
    patients = tuple(
        PatientScore(f"p{i}", value, value, (LesionOutcome(10.0 + 20 * i, found),), (5.0,) * spurious)
        for i, value in enumerate(dices)
    )
    return TrainedNnunet(arm, cases, seed, 0 if arm == "real" else 32, 0.5, iterations, 1.0, "0", patients)


def test_gains_are_paired_by_patient_and_seed():
    """Patients gain 0.1, 0.2, 0.3, 0.4 with each shared seed; a third seed that only the arm has does not count."""
    base = np.array([0.2, 0.4, 0.5, 0.3])
    gain = np.array([0.1, 0.2, 0.3, 0.4])
    real = [run("real", seed, base + 0.01 * seed) for seed in range(2)]
    own = [run("copypaste", seed, base + gain + 0.01 * seed) for seed in range(2)] + [run("copypaste", 2, base * 0)]
    arms = {arm.arm: arm for arm in summarize_arms([*real, *own])}
    assert arms["real"].dice.gain is None
    assert arms["real"].dice.over_patients.mean == pytest.approx(0.355)
    made = arms["copypaste"].dice
    assert made.gain.mean == pytest.approx(0.25)
    assert (made.better, made.worse) == (4, 0)
    assert made.p == pytest.approx(stats.wilcoxon(gain).pvalue)
    assert 0.1 < made.gain.low < 0.25 < made.gain.high < 0.4
    assert made.over_patients.count == 4  # a patient counts once, whatever the seeds
    assert arms["copypaste"].seeds == 3
    assert arms["real"].spread_over_seeds == pytest.approx(0.01 / math.sqrt(2))


def test_fewer_false_positives_are_better():
    arms = summarize_arms(
        [run("real", 0, [0.5, 0.6, 0.7], spurious=4), run("syntumor", 0, [0.5, 0.6, 0.7], spurious=1)]
    )
    measure = arms[1].false_positives
    assert measure.gain.mean == 3
    assert (measure.better, measure.worse) == (3, 0)


def test_a_gain_is_of_the_seeds_that_both_have():
    """An arm of three seeds beside two of real cases: its mean is of three, its gain of two, and the page says so."""
    runs = [run("real", seed, [0.5, 0.6]) for seed in (0, 1)] + [
        run("syntumor", seed, [0.5 + seed / 10, 0.6]) for seed in range(3)
    ]
    real, own = summarize_arms(runs)
    assert (own.dice.seeds, own.seeds) == (2, 3)
    assert own.dice.over_patients.mean == pytest.approx(0.6)
    assert own.dice.gain.mean == pytest.approx(0.025)
    assert "of 2 shared seeds" in str(downstream._measures([real, own]))
    assert "shared" not in str(downstream._measures([real, summarize_arms(runs[:4])[1]]))


def test_equal_gains_are_ties():
    """1 - 2/3 is not 2/3 - 1/3 in floats, nor are means of the same numbers in another order equal: ranks must not tell
    them apart."""
    third, two, whole = ((LesionOutcome(30.0, True),) * n + (LesionOutcome(30.0, False),) * (3 - n) for n in (1, 2, 3))

    def of(arm, found):
        patients = tuple(PatientScore(f"p{i:02}", 0.5, 0.5, lesions, ()) for i, lesions in enumerate(found))
        return TrainedNnunet(arm, 8, 0, 0, 1.0, 1000, 1.0, "0", patients)

    before = [two, third, two, third, two, third, two, third, whole, two, whole, two]
    after = [whole, two, whole, two, whole, two, whole, two, two, third, two, third]
    measure = summarize_arms([of("real", before), of("syntumor", after)])[1].sensitivity
    assert (measure.better, measure.worse) == (8, 4)
    assert measure.p == pytest.approx(
        sum(math.comb(12, k) for k in range(8, 13)) / 2**11
    )  # all ranks alike: a sign test
    dices = [0.1, 0.2, 0.3]
    runs = [
        run(arm, seed, [value])
        for arm, own in (("real", dices), ("syntumor", dices[::-1]))
        for seed, value in enumerate(own)
    ]
    measure = summarize_arms(runs)[1].dice
    assert (measure.better, measure.worse) == (0, 0)


def test_patients_without_a_gain_do_not_count_in_the_test():
    measure = summarize_arms([run("real", 0, [0.5] * 5), run("syntumor", 0, [0.5, 0.6, 0.6, 0.6, 0.6])])[1].dice
    assert measure.p == 0.125
    measure = summarize_arms([run("real", 0, [0.5] * 5), run("syntumor", 0, [0.5, 0.5, 0.5, 0.5, 0.6])])[1].dice
    assert (measure.p, measure.better) == (1.0, 1)


def test_what_is_undefined_is_left_out():
    real, own = run("real", 0, [0.5, 0.6, 0.7]), run("copypaste", 0, [0.6, 0.7, 0.8])
    nothing = dataclasses.replace(own.patients[0], dice=None, surface_dice=None)
    arms = summarize_arms([real, dataclasses.replace(own, patients=(nothing, *own.patients[1:]))])
    assert arms[1].dice.over_patients.count == 2
    assert arms[1].dice.gain.mean == pytest.approx(0.1)
    assert arms[1].dice.gain.undefined == 1


def test_sizes_count_lesions_once():
    """Diameters 10, 30, 50 mm: one lesion under 2 cm, two above; two seeds do not make them more."""
    runs = [run("real", 0, [0.1, 0.5, 0.7]), run("real", 1, [0.3, 0.5, 0.7], found=False)]
    small, large = summarize_arms(runs)[0].by_size
    assert (small.name, small.lesions, small.patients, large.lesions, large.patients) == ("under 20 mm", 1, 1, 2, 2)
    assert (small.sensitivity.over_patients.mean, large.sensitivity.over_patients.mean) == (0.5, 0.5)
    assert (small.sensitivity.over_patients.count, large.sensitivity.over_patients.count) == (1, 2)
    assert small.dice.over_patients.mean == pytest.approx(0.2)
    assert large.dice.over_patients.mean == pytest.approx(0.6)
    own = [run("syntumor", seed, [0.5, 0.6, 0.9], spurious=2) for seed in range(2)]
    small, large = summarize_arms([*runs, *own])[1].by_size
    assert (small.false_positives.gain.mean, large.false_positives.gain.mean) == (
        -2,
        0,
    )  # of their own size, in every patient
    assert large.sensitivity.gain.mean == 0.5
    assert small.dice.gain.mean == pytest.approx(0.3)
    assert large.dice.gain.mean == pytest.approx(0.15)


def test_cases_count_apart():
    runs = [
        run("real", 0, [0.5, 0.5], cases=8),
        run("copypaste", 0, [0.6, 0.6], cases=8),
        run("real", 0, [0.7, 0.7], cases=16),
    ]
    assert [(arm.arm, arm.cases) for arm in summarize_arms(runs)] == [("real", 8), ("copypaste", 8), ("real", 16)]
    assert summarize_arms([runs[1]])[0].dice.gain is None  # nothing to compare with


def test_nothing_is_concluded_from_nnunets_that_have_not_learned():
    """Of a few iterations, or if no arm finds more than a few voxels; an arm that pairs rescue is a finding."""
    few = [run(arm, 0, [0.5, 0.6, 0.7], iterations=7) for arm in ("real", "copypaste")]
    blind = [run(arm, 0, [0.01, 0.02, 0.03], cases=4, found=True) for arm in ("real", "copypaste")]
    rescued = [run("real", 0, [0.01, 0.02, 0.03], cases=16), run("copypaste", 0, [0.5, 0.6, 0.7], cases=16)]
    arms = {(arm.arm, arm.cases): arm for arm in summarize_arms([*few, *blind, *rescued])}
    assert arms["copypaste", 8].undertrained == "trained for 7 iterations, fewer than 500"
    assert arms["copypaste", 4].undertrained == "the best arm has a mean DSC of 0.02, less than 0.1"
    for cases in (4, 8):
        own = arms["copypaste", cases]
        parts = [own, *own.by_size]
        assert all(part.dice.gain is None and part.sensitivity.gain is None for part in parts)
        assert math.isnan(own.sensitivity.p)
    assert arms["copypaste", 16].undertrained == arms["real", 16].undertrained == ""
    assert arms["copypaste", 16].dice.gain.mean == pytest.approx(0.58)


def test_tables_and_page_say_that_nothing_is_concluded():
    arms = summarize_arms([run(arm, 0, [0.5, 0.6, 0.7], iterations=7) for arm in ("real", "copypaste")])
    (real, own) = gain_rows(arms)
    assert real[3:] == own[3:] == ("undertrained", "–", "–", "–", "–")  # no "found 1.000"
    (note,) = undertrained_notes(arms)
    assert note.startswith("8 real cases: no conclusion")
    lines = list(csv.DictReader(gains_csv(arms).splitlines()))
    assert {line["undertrained"] for line in lines} == {"trained for 7 iterations, fewer than 500"}
    assert {line["gain"] for line in lines} == {""}
    design = Design(("real", "copypaste"), (1.0,), 1, 0.01, 4, 0.5)
    result = Downstream("D", "0", ("p0",), "x", design, Schedule(1, 7, 1.0), "cpu", 2.0, tuple(arms), ())
    page = downstream.draw_page(result, [])
    assert page.count("No conclusion: these nnU-Nets are undertrained") == 1
    trained = [run(arm, 0, [0.5, 0.6, 0.7]) for arm in ("real", "copypaste")]
    assert undertrained_notes(summarize_arms(trained)) == []
    assert gain_rows(summarize_arms(trained))[1][3] == "0.000 [0.000, 0.000]"
