"""What methods learn from scans without labels is part of their hashes, recorded, and known by its voxels."""

import json
import shutil

import numpy as np
import pytest

from tumorgen_cli.data.volumes import read_volume, write_volume
from tumorgen_cli.methods.base import HEALTHY
from tumorgen_cli.methods.open import check_held_out
from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.pipeline import preprocess
from tumorgen_cli.pipeline import train as training
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.cases import HealthyScan, read_case_record
from tumorgen_cli.preprocessing.healthy import unlabeled_records
from tumorgen_cli.system.errors import DataError, StateError
from tumorgen_cli.system.json_records import to_plain, write_json

LEARNING = [("tumorgen", "vae"), ("difftumor", "vqgan"), ("freetumor", "gan")]


@pytest.fixture
def own(workspace, phantoms, tmp_path):
    """A planned workspace, and a folder of healthy scans that is not learned from yet."""
    shutil.copytree(workspace.root, tmp_path / "work")
    shutil.copytree(phantoms.healthy, tmp_path / "scans")
    return Workspace(tmp_path / "work")


def method_of(workspace, name="tumorgen"):
    return find_method(name)(workspace.plan(), workspace)


def hash_of(workspace, name, stage, monkeypatch):
    method = method_of(workspace, name)
    monkeypatch.setattr(type(method), "weights_hash", lambda *_: "earlier weights")
    return method.inputs_hash(stage)


@pytest.mark.parametrize(("name", "stage"), LEARNING)
def test_the_hash_of_a_stage_changes_when_a_healthy_scan_changes(own, tmp_path, name, stage, monkeypatch):
    hashes = [hash_of(own, name, stage, monkeypatch)]
    preprocess.preprocess_healthy(own, tmp_path / "scans", 0)
    hashes.append(hash_of(own, name, stage, monkeypatch))
    path = next((tmp_path / "scans").glob("*.nii.gz"))
    image, grid = read_volume(path)
    write_volume(path, (image * 2).astype(np.float32), grid)
    preprocess.preprocess_healthy(own, tmp_path / "scans", 0)
    hashes.append(hash_of(own, name, stage, monkeypatch))
    assert len(set(hashes)) == 3
    write_volume(path, image, grid)
    preprocess.preprocess_healthy(own, tmp_path / "scans", 0)
    assert hash_of(own, name, stage, monkeypatch) == hashes[1]
    shutil.rmtree(own.unlabeled)
    assert hash_of(own, name, stage, monkeypatch) == hashes[0]


def test_a_stage_without_a_share_does_not_depend_on_them(own, tmp_path):
    plan = json.loads(own.plan_file.read_text())
    for share in (0.0, 0.5):
        plan["methods"]["tumorgen"]["vae"]["healthy_share"] = share
        own.plan_file.write_text(json.dumps(plan))
        shutil.rmtree(own.unlabeled, ignore_errors=True)
        before = method_of(own).inputs_hash("vae")
        preprocess.preprocess_healthy(own, tmp_path / "scans", 0)
        assert (method_of(own).inputs_hash("vae") == before) == (share == 0)


def test_the_scans_that_a_training_learns_from_are_recorded_and_carried_on(own, tmp_path):
    preprocess.preprocess_healthy(own, tmp_path / "scans", 0)
    method = method_of(own)
    assert method.learned_from_healthy() == ()
    training._note_healthy(method, "vae", method.folder("vae"), None)
    learned = tuple(HealthyScan(record.case, record.scan) for record in unlabeled_records(own))
    assert method.learned_from_healthy() == learned
    assert [scan.name for scan in learned] == ["Healthy_000", "Healthy_001"]
    shutil.rmtree(own.unlabeled)  # to save space: the weights have learned from them all the same
    assert method.learned_from_healthy() == learned
    weights = method.folder("vae") / "weights.safetensors"
    training._note_healthy(method, "flow", method.folder("flow"), weights)  # given weights have learned, too
    training._note_healthy(method, "vae", method.folder("vae"), None)
    assert not (method.folder("vae") / HEALTHY).is_file()
    assert method.learned_from_healthy() == learned
    (method.folder("flow") / HEALTHY).write_text('[{"name": 3}]')
    with pytest.raises(StateError, match="A file is damaged"):
        method.learned_from_healthy()


def test_a_held_out_case_among_them_is_known_by_its_voxels(own):
    """Whatever its name is; nothing is scored on it."""
    method, (held_out, *_) = method_of(own), own.splits().test
    check_held_out(method)
    scan = HealthyScan("Somebody", read_case_record(own.cases / held_out).scan)
    write_json(method.folder("vae") / HEALTHY, to_plain((scan,)))
    assert method.learned_from() == (*own.splits().train, held_out)
    with pytest.raises(StateError, match=f"1 held-out case .{held_out}."):
        check_held_out(method)


@pytest.mark.parametrize(("name", "stage"), LEARNING[:2])
def test_no_stage_is_trained_on_a_case_of_the_data_set(own, name, stage):
    """One that became a case after it was preprocessed as a healthy scan."""
    held_out = own.splits().test[0]
    shutil.copytree(own.cases / held_out, own.unlabeled / held_out)
    with pytest.raises(DataError, match="Labeled cases are among the healthy scans"):
        method_of(own, name).stage(stage, 1)
