"""nnunet-setup: settings, folds and two lines for the job script; everything that does not fit is told before."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.command_line import call, told

from tumorgen_cli.data import splits as splits_module
from tumorgen_cli.data.splits import Splits
from tumorgen_cli.judge import model
from tumorgen_cli.judge.find import bundled_judge
from tumorgen_cli.judge.results_files import read_judge_record
from tumorgen_cli.nnunet.on_the_fly import trainer as trainer_module
from tumorgen_cli.nnunet.on_the_fly.settings import Painting
from tumorgen_cli.pipeline.nnunet_setup import job_folders, job_lines
from tumorgen_cli.synthesis.painter import load_painting
from tumorgen_cli.system.json_records import write_json


def test_two_lines_for_the_job_script(unpainted, phantoms, monkeypatch):
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    monkeypatch.setenv("nnUNet_raw", "/raw")
    monkeypatch.setenv("nnUNet_results", "/results")
    words = ("nnunet-setup", "-w", unpainted.root, "--healthy", phantoms.healthy, "--method", "copypaste")
    made = call(*words, "--probability", 0.25)
    lines = made.stdout.splitlines()
    folder = Path(trainer_module.__file__).parent / "nnunet_trainers"
    (file,) = (unpainted.root / "nnunet").glob("tumorgen_copypaste_*.json")
    assert lines == [f"export nnUNet_extTrainer={folder}", f"export TUMORGEN_PAINTING={file}"]
    # nnU-Net imports every module there
    assert [path.name for path in folder.glob("[!_]*.py")] == ["nnUNetTrainerTumorGen.py"]
    assert "-tr nnUNetTrainerTumorGen" in told(made)
    assert "nnUNetv2_plan_and_preprocess" in told(made)
    assert f"`export nnUNet_preprocessed={unpainted.root / 'nnunet' / 'nnUNet_preprocessed'}`" in told(
        made
    )  # which alone is not set
    found = trainer_module.read_record(Painting, file, "")
    assert (found.probability, found.pool, found.method) == (0.25, 32, "copypaste")
    assert found.hosts == ("Healthy_000", "Healthy_001")
    assert found.learned_from == unpainted.splits().train
    assert set(found.weights) == {"donors"}
    splits = json.loads((file.parent / "splits_final.json").read_text())
    assert splits == [{"train": list(unpainted.splits().train), "val": list(unpainted.splits().test)}]
    assert "nnUNetv2_train DATASET 3d_fullres 0" in told(made)
    call(*words, "--probability", 0.5)
    assert trainer_module.read_record(Painting, file, "") == found  # a job that waits keeps its own
    monkeypatch.setenv("nnUNet_extTrainer", "/elsewhere")
    assert job_lines(file)[0] == f"export nnUNet_extTrainer={folder}{os.pathsep}$nnUNet_extTrainer"
    monkeypatch.setenv("nnUNet_extTrainer", str(folder))
    assert job_lines(file)[0] == lines[0]


@pytest.mark.parametrize("options", [(), ("--anywhere",)])
def test_where_tumors_lie_is_passed_on(unpainted, phantoms, options):
    words = ("nnunet-setup", "-w", unpainted.root, "--healthy", phantoms.healthy, "--method", "copypaste", "--seed", 5)
    file = Path(json.loads(call(*words, *options, "--json").stdout)["file"])
    painting = trainer_module.read_record(Painting, file, "")
    assert (painting.anywhere, load_painting(painting).inputs.anywhere) == (bool(options), bool(options))


def test_the_folder_of_raw_data_sets_is_one_that_holds_some(unpainted, phantoms, monkeypatch):
    """The planned data set's, unless the user named one or merged into the workspace."""
    monkeypatch.delenv("nnUNet_raw", raising=False)
    made = call("nnunet-setup", "-w", unpainted.root, "--healthy", phantoms.healthy, "--method", "copypaste")
    assert f"export nnUNet_raw={phantoms.dataset.parent}" in told(made)
    merged = unpainted.root / "nnunet" / "nnUNet_raw"
    (merged / "Dataset601_Merged").mkdir(parents=True)
    assert job_folders(unpainted)["nnUNet_raw"] == merged
    monkeypatch.setenv("nnUNet_raw", "/raw")
    assert job_folders(unpainted)["nnUNet_raw"] == Path("/raw")


def test_the_folds_are_the_data_sets_and_the_workspaces_has_its_number(unpainted, phantoms, monkeypatch):
    """One file for the workspaces of all folds, in which each trains its own."""
    train, test = unpainted.splits().train, unpainted.splits().test
    other, own = Splits(tuple({*train, *test} - {train[0]}), (train[0],)), Splits(train[::-1], test)
    monkeypatch.setattr(splits_module, "read_folds", lambda _: (Path("splits_final.json"), [other, own]))
    made = call("nnunet-setup", "-w", unpainted.root, "--healthy", phantoms.healthy, "--method", "copypaste")
    assert "nnUNetv2_train DATASET 3d_fullres 1" in told(made)
    written = json.loads((unpainted.root / "nnunet" / "splits_final.json").read_text())
    assert [fold["val"] for fold in written] == [[train[0]], list(test)]


def test_everything_that_is_missing_is_told_at_once(workspace, tmp_path):
    arguments = (
        "-w",
        workspace.root,
        "--healthy",
        tmp_path,
        "--until-pass",
        2,
        "--judge",
        tmp_path / "none",
        "--device",
        "cpu",
    )
    text = told(call("nnunet-setup", *arguments, code=1))
    assert "1. " in text
    assert "3. " in text
    for part in ("tumorgen train", "no scans", "results folder"):
        assert part in text, part
    assert not [*(workspace.root / "nnunet").glob("tumorgen*.json")]


def test_a_held_out_host_by_another_name_is_told(workspace, phantoms, tmp_path):
    case = workspace.splits().test[0]
    shutil.copy(phantoms.dataset / "imagesTr" / f"{case}_0000.nii.gz", tmp_path / "Somebody_0000.nii.gz")
    arguments = ("-w", workspace.root, "--healthy", tmp_path, "--method", "copypaste", "--device", "cpu")
    assert f"Somebody, which is {case}" in " ".join(told(call("nnunet-setup", *arguments, code=1)).split())


def test_a_judge_that_knows_held_out_cases_is_told(unpainted, phantoms, tmp_path, monkeypatch):
    record = read_judge_record(bundled_judge())
    record = replace(record, dataset="Dataset777_Other", cases=unpainted.splits().test)
    write_json(tmp_path / "judge.json", record)
    monkeypatch.setattr(model, "Judge", lambda *_: SimpleNamespace(folder=tmp_path))
    arguments = (
        "--healthy",
        phantoms.healthy,
        "--method",
        "copypaste",
        "--until-pass",
        2,
        "--judge",
        tmp_path,
        "--device",
        "cpu",
    )
    made = call("nnunet-setup", "-w", unpainted.root, *arguments)
    assert f"case of Dataset777_Other with the same names as held-out cases ({unpainted.splits().test[0]}" in " ".join(
        told(made).split()
    )


def test_options_that_do_not_fit_are_told_together(workspace, tmp_path):
    text = told(call("nnunet-setup", "-w", workspace.root, "--judge", tmp_path, code=1))
    assert "--healthy and --cases" in text
    assert "--until-pass" in text
