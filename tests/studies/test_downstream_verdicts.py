"""What `downstream` may conclude: a comparison named before training, and only where a gain had room."""

import dataclasses
import json
from pathlib import Path

import pytest
from support.command_line import call, told

from tumorgen_cli.evaluation.design import Design
from tumorgen_cli.evaluation.gains import TrainedNnunet
from tumorgen_cli.evaluation.pilot import Room
from tumorgen_cli.evaluation.scan_scores import ScanScore
from tumorgen_cli.metrics.inference import UNKNOWN
from tumorgen_cli.metrics.lesions import LesionScore
from tumorgen_cli.studies import downstream_pilot
from tumorgen_cli.studies.downstream import measure_gains
from tumorgen_cli.studies.downstream_pilot import list_lengths, run_pilot
from tumorgen_cli.studies.downstream_verdicts import (
    compared_counts,
    conclude,
    find_room,
    name_primary,
    read_pilot,
    rows_of,
)
from tumorgen_cli.synthesis.options import HostOptions
from tumorgen_cli.system.errors import PlanError

DESIGN = Design(("real", "empty", "copypaste", "tumorgen"), (0.25, 1.0), 1, 30, 4, 0.5)


def rows(arm, cases, value, subsets=3, iterations=2000):
    """Twelve patients with a lesion each, outlined alike by every training."""
    return [
        ScanScore(
            arm,
            cases,
            None,
            subset,
            0,
            0,
            f"p{i}",
            f"p{i}",
            False,
            value,
            value,
            iterations,
            None,
            (LesionScore(8.0, True, True, 0.9, value + 0.001 * i + 0.002 * subset),),
            (),
        )
        for subset in range(subsets)
        for i in range(12)
    ]


def test_the_primary_comparison_is_named_once(tmp_path):
    """The first method of the registry against real cases and empty hosts, with the fewest cases."""
    primary = name_primary(tmp_path, DESIGN, [8, 32])
    assert dataclasses.astuple(primary) == ("tumorgen", "empty", "sensitivity", 8, None)
    assert json.loads((tmp_path / "primary.json").read_text())["arm"] == "tumorgen"
    later = dataclasses.replace(DESIGN, arms=("real", "copypaste"))
    assert name_primary(tmp_path, later, [32]) == primary  # what was named before stays
    with pytest.raises(PlanError, match="Another primary comparison was named") as caught:
        name_primary(tmp_path, dataclasses.replace(DESIGN, primary="copypaste"), [8])
    path = tmp_path / "primary.json"
    assert caught.value.faults[0].remedy == (
        f"leave --primary and --measure out, or delete {path} and say that it was named later"
    )
    path.unlink()
    other = dataclasses.replace(DESIGN, primary="copypaste", measure="lesion_dsc", hosts=(10, 50))
    assert dataclasses.astuple(name_primary(tmp_path, other, [8])) == ("copypaste", "empty", "lesion_dsc", 8, 50)


def test_names_that_are_no_arm_or_measure_are_told(tmp_path):
    wrong = dataclasses.replace(DESIGN, primary="empty", measure="dice")
    with pytest.raises(PlanError) as caught:
        name_primary(tmp_path, wrong, [8])
    assert [fault.where for fault in caught.value.faults] == ["--primary.empty", "--measure.dice"]
    assert name_primary(tmp_path, dataclasses.replace(DESIGN, arms=("real", "empty")), [8]) is None
    assert not (tmp_path / "primary.json").exists()


def test_room_is_measured_by_the_experiments_own_real_arms_or_by_the_pilot(tmp_path):
    few, many = rows("real", 8, 0.5), rows("real", 32, 0.6)
    found, said = find_room(tmp_path, DESIGN, few + many, [8, 32])
    assert found
    assert said.startswith("32 real cases are better than 8")
    found, said = find_room(tmp_path, DESIGN, few + rows("real", 32, 0.51), [8, 32])
    assert not found
    found, said = find_room(tmp_path, DESIGN, few, [8])
    assert (found, said[:12]) == (False, "whether more")
    room = Room(True, {"lesion_dsc": UNKNOWN}, "32 real cases are better than 8: DSC")
    length = downstream_pilot.PilotLength(30, 2000, 8, 32, 3, 1, room, "")
    downstream_pilot.write_json(
        tmp_path / "pilot.json", downstream_pilot.none_for_nan(downstream_pilot.to_plain([length]))
    )
    assert read_pilot(tmp_path)[0].room.found
    assert find_room(tmp_path, DESIGN, few, [8]) == (True, "pilot: 32 real cases are better than 8: DSC")
    assert not find_room(tmp_path, dataclasses.replace(DESIGN, minutes=60), few, [8])[0]  # another length


def test_without_room_nothing_is_concluded(tmp_path):
    """The same rows, with and without a difference between 8 and 32 real cases."""
    primary = name_primary(tmp_path, dataclasses.replace(DESIGN, measure="lesion_dsc"), [8, 32])
    arms = rows("real", 8, 0.5) + rows("empty", 8, 0.5) + rows("tumorgen", 8, 0.58)
    found = conclude(tmp_path, DESIGN, arms + rows("real", 32, 0.6), primary, ([8, 32], 32))
    assert "better by 0.080" in found.sentences[0]
    assert found.recovered
    silent = conclude(tmp_path, DESIGN, arms + rows("real", 32, 0.51), primary, ([8, 32], 32))
    assert silent.sentences[0].startswith("No conclusion: 32 real cases are not clearly better than 8")
    assert (silent.analysis.exploratory, silent.recovered) == ((), ())


def test_the_plateau_is_the_real_arms(tmp_path):
    """99 % of the best score on the cases held aside, at the same draw of the real cases."""

    def run(arm, subset, curve):
        own = tuple(rows(arm, 8, 0.5, subsets=1))
        return TrainedNnunet(arm, 8, 0, 0, 1.0, 400, 1.0, "", own, subset=subset, curve=curve)

    runs = [
        run("real", 0, (0.2, 0.5, 0.6, 0.59)),
        run("tumorgen", 0, (0.5, 0.595, 0.7, 0.7)),
        run("empty", 0, (0.1, 0.2, 0.3, 0.5)),
        run("real", 1, (0.1, 0.1, 0.1, 0.2)),
        run("tumorgen", 1, (0.3, 0.3, 0.3, 0.3)),
        run("empty", 1, ()),
    ]
    reached = [row.plateau_iterations for row in rows_of(runs)[::12]]  # twelve patients each
    found = {(run.arm, run.subset): value for run, value in zip(runs, reached, strict=True)}
    assert found == {
        ("real", 0): 300,
        ("tumorgen", 0): 200,
        ("empty", 0): None,
        ("real", 1): 400,
        ("tumorgen", 1): 100,
        ("empty", 1): None,
    }


@pytest.mark.parametrize(("counts", "cases", "compared"), [([8, 32], 200, (8, 32)), ([8], 20, (8, 20))])
def test_room_is_that_of_four_times_as_many_cases(counts, cases, compared):
    assert compared_counts(counts, cases) == compared


def test_the_pilot_goes_on_until_the_number_of_cases_matters(copy, nnunets, phantoms, monkeypatch):
    """It doubles the length; what it trained is the real arm's, and is not made again."""

    def room(found_rows, few, many):
        found = max(row.iterations for row in found_rows) > 25  # the second length of the made-up nnU-Nets
        return Room(found, {"lesion_dsc": UNKNOWN}, f"{many} against {few}")

    monkeypatch.setattr(downstream_pilot, "room_for_gain", room)
    design = dataclasses.replace(DESIGN, fractions=(0.4,), minutes=0.02, subsets=2)
    report = run_pilot(copy, design, device="cpu")
    assert [(each.minutes, each.room.found) for each in report.lengths] == [(0.02, False), (0.04, True)]
    assert report.found == report.lengths[1]
    few, many = report.found.few, report.found.many
    assert (few, many) == (2, 5)
    assert len(nnunets) == 8  # two lengths, numbers of cases and draws
    assert all(name == "real_seed0" for name, _ in nnunets)
    run_pilot(copy, design, device="cpu")
    assert len(nnunets) == 8
    own = dataclasses.replace(design, arms=("real", "empty"), minutes=0.04)
    result = measure_gains(copy, own, HostOptions(phantoms.healthy), "cpu").result
    assert [name for name, _ in nnunets[8:]] == ["empty_seed0"] * 2
    assert result.conclusions == (f"Pilot: {many} against {few}.",)


def test_lengths_of_the_pilot():
    assert list_lengths(15, 240) == [15, 30, 60, 120, 240]
    assert list_lengths(15, 100) == [15, 30, 60]
    assert list_lengths(15, 15) == [15]


def test_a_pilot_without_room_for_two_numbers_or_lengths_is_refused(copy, nnunets):
    with pytest.raises(PlanError, match="add a smaller fraction"):
        run_pilot(copy, dataclasses.replace(DESIGN, fractions=(1.0,)), device="cpu")
    with pytest.raises(PlanError, match="at least the first length, 30"):
        run_pilot(copy, DESIGN, 10.0, "cpu")
    assert not nnunets


def test_the_pilot_needs_no_hosts(copy, nnunets):
    arguments = ("downstream", "--pilot", "--fractions", "0.4", "--seeds", 1, "--minutes", 0.02, "--longest", 0.02)
    result = call(*arguments, "-w", copy.root, "--device", "cpu")
    assert "no room for a gain at these lengths" in told(result)
    assert "at most 2 nnU-Nets of 0.02 minutes each: 2 s" in told(result)
    assert Path(copy.root / "downstream" / "pilot.json").is_file()
