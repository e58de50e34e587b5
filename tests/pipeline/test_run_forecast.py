"""What `run` would do and cost: in a new workspace, and in one where the cases are preprocessed."""

from support.workspaces import TOY

from tumorgen_cli.pipeline import training_forecast
from tumorgen_cli.pipeline.run_forecast import forecast_run
from tumorgen_cli.planning.options import PlanOptions
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.synthesis.options import HostOptions, SetOptions

OPTIONS = PlanOptions(memory_gib=8.0, settings=TOY)


def forecast(workspace, phantoms):
    found = forecast_run(workspace, str(phantoms.dataset), HostOptions(phantoms.healthy), SetOptions(3), OPTIONS, "cpu")
    return {step.step: step for step in found.steps}


def test_a_new_workspace_is_not_made(phantoms, tmp_path):
    steps = forecast(Workspace(tmp_path / "new"), phantoms)
    assert [*steps] == ["plan", "preprocess", "train", "synthesize", "evaluate"]
    assert steps["preprocess"].what == "8 scans"  # the hosts, too, to learn from them
    assert steps["train"].what == "vae 4, flow 3, refiner 2 steps"
    assert steps["synthesize"].what == "3 pairs"
    assert all(steps[name].disk_bytes > 0 for name in ("preprocess", "train", "synthesize"))
    assert all(steps[name].seconds > 0 for name in ("preprocess", "train"))
    assert list(tmp_path.iterdir()) == []


def test_what_is_done_is_left_out(workspace, phantoms, monkeypatch):
    monkeypatch.setattr(training_forecast, "MEASURED", 3)
    before = {path: path.stat().st_mtime_ns for path in workspace.root.rglob("*")}
    steps = forecast(workspace, phantoms)
    assert steps["preprocess"].what == "2 scans"  # the hosts
    assert steps["train"].what == "vae 4, flow 3, refiner 2 steps"
    assert {path: path.stat().st_mtime_ns for path in workspace.root.rglob("*")} == before
