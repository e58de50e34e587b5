"""All stages in order: what `run` learns from its hosts."""

import json
import shutil

import pytest

from tumorgen_cli.pipeline import run
from tumorgen_cli.pipeline.preprocess import learns_from_hosts
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.healthy import unlabeled_records
from tumorgen_cli.synthesis.options import HostOptions, SetOptions


@pytest.fixture
def own(workspace, tmp_path):
    shutil.copytree(workspace.root, tmp_path / "work")
    return Workspace(tmp_path / "work")


def run_to_training(workspace, phantoms, monkeypatch):
    """The names of the scans without labels that are there when the training begins."""
    found = []

    class Reached(Exception):
        pass

    def train(*_, **__):
        found.extend(record.case for record in unlabeled_records(workspace))
        raise Reached

    monkeypatch.setattr(run, "plan_dataset", lambda *_: None)
    monkeypatch.setattr(run, "train_stages", train)
    with pytest.raises(Reached):
        run.run_all(workspace, str(phantoms.dataset), HostOptions(phantoms.healthy), SetOptions(2), device="cpu")
    return found


def test_hosts_are_preprocessed_before_the_training(own, phantoms, monkeypatch):
    assert run_to_training(own, phantoms, monkeypatch) == ["Healthy_000", "Healthy_001"]
    assert run_to_training(own, phantoms, monkeypatch) == ["Healthy_000", "Healthy_001"]


def test_a_training_that_has_begun_does_not_begin_again_for_other_hosts(own, phantoms, monkeypatch):
    assert learns_from_hosts(own)
    folder = own.run("tumorgen", "vae")
    folder.mkdir(parents=True)
    (folder / "last.pt").touch()
    assert not learns_from_hosts(own)
    assert run_to_training(own, phantoms, monkeypatch) == []


def test_without_a_share_for_them_hosts_are_not_preprocessed(own, phantoms, monkeypatch):
    plan = json.loads(own.plan_file.read_text())
    for stage in ("vae", "flow"):
        plan["methods"]["tumorgen"][stage]["healthy_share"] = 0
    own.plan_file.write_text(json.dumps(plan))
    assert run_to_training(own, phantoms, monkeypatch) == []
