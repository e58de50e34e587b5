"""An aimed arm: nnU-Nets of folds of the real cases, by whose errors half of its pairs are painted."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from support.segmentors import LABELS, PLANS

from tumorgen_cli.data.splits import Splits
from tumorgen_cli.evaluation.design import Design
from tumorgen_cli.nnunet.job import NetworkSize, Schedule, TrainingOptions, training_data
from tumorgen_cli.nnunet.runner import results_folder
from tumorgen_cli.planning.planned_data import read_planned_dataset
from tumorgen_cli.studies import cross_fitting, downstream_sources
from tumorgen_cli.studies.downstream import measure_gains
from tumorgen_cli.studies.downstream_forecast import forecast_gains
from tumorgen_cli.synthesis import aim_segmentor
from tumorgen_cli.synthesis.aim_segmentor import score_segmentor
from tumorgen_cli.synthesis.options import HostOptions
from tumorgen_cli.synthesis.set_files import read_aim, read_provenance
from tumorgen_cli.system.errors import DataError, PlanError
from tumorgen_cli.system.json_records import write_json

OPTIONS = TrainingOptions(5.0, 0, "cpu", "fp32")


@pytest.fixture
def trained(monkeypatch):
    """Folds that are trained at once; returns the names of their cases and the length of each training."""
    found = []

    def run_job(data, folder, job, title):
        found.append((set(job.train), job.schedule))
        results = results_folder(folder)
        content = {"channel_names": {"0": "PET"}, "labels": LABELS, "file_ending": ".nii.gz"}
        write_json(results / "plans.json", PLANS)
        write_json(results / "dataset.json", content)
        write_json(results / "fold_all" / "schedule.json", job.schedule or Schedule(4, 50, 0.1))
        (results / "fold_all" / "checkpoint_final.pth").write_bytes(str(sorted(job.train)).encode())

    monkeypatch.setattr(cross_fitting, "run_job", run_job)
    return found


def fit(workspace, folder, cases=None, patients=None, schedule=None):
    dataset, splits = read_planned_dataset(workspace, workspace.plan()), workspace.splits()
    data = training_data(dataset, Splits(cases or splits.train, splits.test))
    return cross_fitting.cross_fit(folder, folder / "prepared", data, OPTIONS, patients or {}, schedule)


def test_each_case_is_left_out_of_one_fold_and_all_are_as_long(workspace, trained, tmp_path):
    names = set(workspace.splits().train)
    made = fit(workspace, tmp_path)
    assert len(trained) == len(names) == 5
    assert sorted(tuple(names - learned) for learned, _ in trained) == sorted((name,) for name in names)
    assert [length for _, length in trained] == [None, *[Schedule(4, 50, 0.1)] * 4]
    written = json.loads((made / "splits_final.json").read_text())
    assert [set(fold["train"]) for fold in written] == [learned for learned, _ in trained]
    for number, fold in enumerate(written):
        text = (made / f"fold_{number}" / "checkpoint_final.pth").read_text()
        assert text == str(sorted(fold["train"]))


def test_finished_folds_are_not_trained_again(workspace, trained, tmp_path):
    made = fit(workspace, tmp_path)
    (made / "fold_3" / "checkpoint_final.pth").unlink()
    assert fit(workspace, tmp_path) == made
    assert len(trained) == 6
    assert trained[-1] == trained[3]
    for training in made.glob("training_*"):
        shutil.rmtree(training)
    assert fit(workspace, tmp_path, schedule=Schedule(4, 50, 0.1)) == made  # what only training needs may be deleted
    assert len(trained) == 6
    two = workspace.splits().train[:2]
    other = fit(workspace, tmp_path, two, schedule=Schedule(2, 9, 0.1))
    assert other != made
    assert [(len(learned), length) for learned, length in trained[6:]] == [(1, Schedule(2, 9, 0.1))] * 2


def test_patients_are_left_out_as_a_whole(workspace, trained, tmp_path):
    names = workspace.splits().train
    fit(workspace, tmp_path, patients=dict.fromkeys(names[:3], "p"))
    assert sorted(len({*names} - learned) for learned, _ in trained) == [1, 1, 3]
    with pytest.raises(DataError, match="patient"):
        fit(workspace, tmp_path, patients=dict.fromkeys(names, "p"))


class Blind:
    """A fold that finds nothing."""

    def __init__(self, folder):
        assert (folder / "checkpoint_final.pth").is_file()

    def predict(self, image, grid):
        return np.zeros(grid.shape, np.uint8)


def test_pairs_can_be_aimed_by_it(copy, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(aim_segmentor, "_load_fold", lambda _plan, _device, fold: Blind(fold))
    scores = score_segmentor(copy, copy.plan(), fit(copy, tmp_path), "cpu")
    assert {score.dice for found in scores.tumors.values() for score in found} == {0.0}
    assert scores.learned_from == tuple(sorted(copy.splits().train))


@pytest.mark.slow
def test_real_folds_score_the_cases_that_they_have_not_seen(copy, tmp_path):
    dataset, splits = read_planned_dataset(copy, copy.plan()), copy.splits()
    data = training_data(dataset, Splits(splits.train, splits.test))
    options = TrainingOptions(0.02, 0, "cpu", "fp32", NetworkSize(16**3, 3, 4, 8))
    pairs = {name: str(number % 2) for number, name in enumerate(splits.train)}  # two patients, so two folds
    made = cross_fitting.cross_fit(tmp_path, tmp_path / "prepared", data, options, pairs, None)
    assert sorted(path.name for path in made.glob("fold_*")) == ["fold_0", "fold_1"]
    scores = score_segmentor(copy, copy.plan(), made, "cpu")
    assert set(scores.tumors) == {*splits.train}
    assert all(0 <= score.dice <= 1 for found in scores.tumors.values() for score in found)


def test_an_aimed_arm_learns_from_its_own_cases_alone(copy, nnunets, phantoms, trained, monkeypatch):
    monkeypatch.setattr(aim_segmentor, "_load_fold", lambda _plan, _device, fold: Blind(fold))
    design = Design(("real", "copypaste", "copypaste-aimed"), (0.6,), 1, 0.02, 1, 0.5)
    made = measure_gains(copy, design, HostOptions(phantoms.healthy), "cpu")
    assert made.result.failures == ()
    real = set().union(*(learned for learned, _ in trained))
    assert len(trained) == len(real) == 3  # a fold for each of the drawn cases
    sets = {path.name: path for path in (copy.root / "downstream").glob("real_*/synthetic/*")}
    plain, aimed = (next(path for name, path in sets.items() if name.endswith("aimed") == wish) for wish in (0, 1))
    assert read_aim(plain) is None
    assert read_aim(aimed).cases == 3
    assert len(read_provenance(aimed)) == 3
    jobs = dict(nnunets)
    pairs = {name for name in jobs["copypaste-aimed_seed0"].train if name.startswith("copypaste")}
    assert {name.split("_Healthy_")[0] for name in pairs} == {aimed.name}


def test_the_folds_are_told_beforehand(copy, nnunets, phantoms):
    design = Design(("real", "copypaste", "copypaste-live-aimed"), (0.6, 1.0), 1, 30, 1, 0.5)
    hosts = HostOptions(phantoms.healthy)
    steps = {step.what: step for step in forecast_gains(copy, design, hosts, "cpu").steps}
    told = steps["nnU-Nets of folds, to aim by"]
    assert (told.count, told.hours) == (3 + 5, 4.0)
    plain = forecast_gains(copy, replace(design, arms=("real", "copypaste")), hosts, "cpu")
    assert "to aim by" not in " ".join(step.what for step in plain.steps)


def test_an_aimed_arm_needs_healthy_scans(copy):
    design = Design(("real", "copypaste-aimed"), (1.0,), 1, 0.02, 1, 0.5)
    with pytest.raises(PlanError, match="an aimed arm") as error:
        measure_gains(copy, design, HostOptions(cases="train"), "cpu")
    (fault,) = [fault for fault in error.value.faults if fault.where == "an aimed arm"]
    assert fault.remedy == "leave it out, or give --healthy DIR"


def test_aimed_and_unaimed_tumors_of_cases_are_alike(copy, monkeypatch, phantoms):
    """What is painted into cases is never aimed: their tumors are redrawn."""
    asked = []
    monkeypatch.setattr(downstream_sources, "synthesize_pairs", lambda *rest, **_: asked.append(rest[3]))
    monkeypatch.setattr(downstream_sources, "synthetic_cases", lambda *_: [])
    hosts = HostOptions(phantoms.healthy, cases="train", aim=phantoms.healthy, anywhere=True, tumors=2)
    downstream_sources._pairs(copy, "copypaste", 4, hosts, (None, ""), "cpu")
    assert asked == [replace(hosts, cases=None), HostOptions(cases="train", tumors=2)]
