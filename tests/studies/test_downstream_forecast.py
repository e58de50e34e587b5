"""What `downstream` costs, told beforehand: trainings, hours and disk."""

import dataclasses

import pytest
from support.command_line import call, told

from tumorgen_cli.evaluation.design import Design, Variant, find_arm
from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.pipeline.training_forecast import StageMeasure
from tumorgen_cli.studies import downstream_forecast
from tumorgen_cli.studies.downstream import measure_gains
from tumorgen_cli.studies.downstream_forecast import forecast_gains, relative_length
from tumorgen_cli.synthesis.options import HostOptions
from tumorgen_cli.system.errors import PlanError

DESIGN = Design(("real", "empty", "copypaste"), (0.4, 1.0), 2, 30, 4, 0.5, subsets=3)


@pytest.mark.parametrize(
    ("arm", "times", "length"),
    [
        ("real", 3.0, 1.0),  # the others are a multiple of it
        ("empty", 3.0, 3.0),
        ("copypaste-pretrained", 1.0, 2.0),
        ("copypaste-longer", 1.0, 2.0),  # half of what it draws is real
        ("empty-longer", 2.0, 4.0),
        ("real-longer", 2.0, 4.0),  # as many iterations as the others
    ],
)
def test_lengths_are_multiples_of_the_real_arms(arm, times, length):
    design = dataclasses.replace(DESIGN, times=times)
    assert relative_length(design, Variant(find_arm(arm)), 0.5) == pytest.approx(length)


def test_trainings_hours_and_disk_are_told_and_nothing_is_written(copy, nnunets, phantoms, monkeypatch):
    def measure_stages(method, wanted):
        return {stage: StageMeasure(36.0, 1000) for stage in wanted}

    monkeypatch.setattr(downstream_forecast, "measure_stages", measure_stages)
    design = dataclasses.replace(DESIGN, arms=(*DESIGN.arms, "tumorgen"))
    hosts = HostOptions(phantoms.healthy)
    found = forecast_gains(copy, design, hosts, "cpu")
    steps = {step.what: step for step in found.steps}
    assert not (copy.root / "downstream").exists()
    method = find_method("tumorgen")(copy.plan(), copy)
    seconds = 36 * sum(map(method.planned_iterations, method.stages))
    learned = steps["trainings of tumorgen"]
    assert (learned.count, learned.disk_bytes) == (6, 6 * len(method.stages) * 1000)
    assert learned.hours == pytest.approx(6 * seconds / 3600, abs=0.01)
    assert (steps["nnU-Nets"].count, steps["nnU-Nets"].hours) == (4 * 2 * 3 * 2, 24.0)  # arms, counts, draws, seeds
    few, every = 2, 5
    assert steps["pairs to paint"].count == 2 * 4 * 3 * (few + every)
    assert steps["pairs to paint"].hours is None
    assert steps["cases that nnU-Net prepares"].count == 3 * ((few + every) * (1 + 2 * 4) + 2 * 2)
    assert found.scans == 1
    assert found.disk_bytes == sum(step.disk_bytes for step in found.steps) > 0
    assert forecast_gains(copy, design, hosts, "cpu", jobs=2).hours == pytest.approx(found.hours - 12)


def test_what_is_trained_is_not_counted_again(copy, nnunets, phantoms, monkeypatch):
    monkeypatch.setattr(downstream_forecast, "is_trained", lambda folder: (folder / "run.json").is_file())
    design = dataclasses.replace(DESIGN, arms=("real", "empty"), fractions=(1.0,), subsets=1)
    measure_gains(copy, design, HostOptions(phantoms.healthy), "cpu")
    more = dataclasses.replace(design, seeds=3)
    (prepared, trained) = forecast_gains(copy, more, HostOptions(phantoms.healthy), "cpu").steps
    assert (prepared.what, trained.count, trained.hours) == ("cases that nnU-Net prepares", 2, 1.0)


def test_the_command_tells_and_stops(copy, nnunets, phantoms):
    words = ("downstream", "-w", copy.root, "--healthy", phantoms.healthy, "--arms", "real,empty", "--device", "cpu")
    result = call(*words, "--seeds", 1, "--fractions", 1, "--minutes", 90, "--dry-run")
    assert "nnU-Nets" in result.stdout
    assert "3.0 h and" in told(result)
    assert "same command without --dry-run" in told(result)
    assert not nnunets


def test_a_segmentor_and_weights_that_are_none_are_told(copy, nnunets, tmp_path):
    wrong = dataclasses.replace(DESIGN, arms=("real",), segmentor="swin", pretrained=str(tmp_path / "none.pth"))
    with pytest.raises(PlanError) as caught:
        forecast_gains(copy, wrong, HostOptions(), "cpu")
    segmentor, weights = caught.value.faults
    assert segmentor.remedy == "did you mean swinunetr?"
    assert weights.remedy == "name another file"
    (tmp_path / "other.pth").touch()
    right = dataclasses.replace(wrong, segmentor="swinunetr", pretrained=str(tmp_path / "other.pth"), fractions=(1.0,))
    made = measure_gains(copy, dataclasses.replace(right, subsets=1, seeds=1), HostOptions(), "cpu")
    (_, job) = nnunets[0]
    assert (job.segmentor, job.initial) == ("swinunetr", str(tmp_path / "other.pth"))
    assert made.page == str(copy.root / "downstream" / "swinunetr_from_other" / "downstream.html")
