"""train."""

import json
import shutil
from types import SimpleNamespace

from support.command_line import call, told

from tumorgen_cli.pipeline import training_forecast
from tumorgen_cli.training import loggers


def test_a_stage_that_is_done_is_said_to_be(trained):
    result = call("train", "all", "-w", trained.root, "--device", "cpu", "--json")
    assert json.loads(result.stdout) == []
    assert told(result).count("already trained") == 3


def test_options_that_a_stage_does_not_have(workspace):
    judge = ("train", "judge", "-w", workspace.root)
    assert "--method" in told(call(*judge, "--method", "tumorgen", code=1))
    assert "--iterations" in told(call(*judge, "--iterations", 3, code=1))
    assert "--log" in told(call(*judge, "--log", "wandb", code=1))
    assert "--minutes" in told(call("train", "vae", "-w", workspace.root, "--minutes", 3, code=1))


def test_a_logger_that_is_missing_is_told_before_anything_is_done(workspace, phantoms, tmp_path, monkeypatch):
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    work = tmp_path / "work"
    for words in (
        ("train", "all", "-w", workspace.root, "--restart"),
        ("run", phantoms.dataset, "--healthy", phantoms.healthy, "-w", work),
    ):
        said = told(call(*words, "--log", "mlflow", code=1))
        assert "--log mlflow found: not installed" in said
        assert "pip install 'mlflow>=" in said
    assert not work.exists()
    assert not list(workspace.root.glob("runs/*/*.restart"))


def test_a_dry_run_tells_steps_time_and_disk(workspace, monkeypatch):
    monkeypatch.setattr(training_forecast, "MEASURED", 3)
    before = {*workspace.root.rglob("*")}
    arguments = ("train", "vae", "-w", workspace.root, "--device", "cpu", "--dry-run")
    (found,) = json.loads(call(*arguments, "--json").stdout)["stages"]
    assert (found["stage"], found["steps"]) == ("vae", 4)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    result = call(*arguments)
    assert "the disk is too full" in told(result)
    assert "next: the same command without --dry-run" in told(result)
    assert "1.0 MiB are free" in result.stdout
    assert {*workspace.root.rglob("*")} - before <= {workspace.root / "commands.jsonl"}
    assert "--dry-run" in told(call("train", "judge", "-w", workspace.root, "--dry-run", code=1))
