"""The cost of a training, before it is started."""

import pytest

from tumorgen_cli.pipeline import train as stages
from tumorgen_cli.pipeline import training_forecast
from tumorgen_cli.system.json_records import write_json


@pytest.fixture
def own(workspace, tmp_path):
    import shutil

    from tumorgen_cli.planning.workspace import Workspace

    shutil.copytree(workspace.root, tmp_path / "work")
    return Workspace(tmp_path / "work")


def test_the_forecast_has_steps_time_and_disk_and_writes_nothing(own, monkeypatch):
    monkeypatch.setattr(training_forecast, "MEASURED", 3)
    before = {path: path.stat().st_mtime_ns for path in own.root.rglob("*")}
    found = training_forecast.forecast_training(own, "tumorgen", "all", device="cpu")
    assert {path: path.stat().st_mtime_ns for path in own.root.rglob("*")} == before
    assert [(each.stage, each.steps) for each in found.stages] == [("vae", 4), ("flow", 3), ("refiner", 2)]
    assert all(each.seconds > 0 for each in found.stages)
    stages.train_stages(own, "tumorgen", "vae", device="cpu")
    (run,) = (own.root / "runs").rglob("run.json")
    files = sum(path.stat().st_size for path in run.parent.iterdir() if path.is_file())
    expected = files + (run.parent / "last.pt").stat().st_size  # while a checkpoint is replaced, there are two
    assert found.stages[0].disk_bytes == pytest.approx(expected, rel=0.05)


def test_what_is_trained_costs_nothing(own):
    stages.train_stages(own, "tumorgen", "vae", device="cpu")
    (done,) = training_forecast.forecast_training(own, "tumorgen", "vae", device="cpu").stages
    assert (done.stage, done.steps, done.seconds, done.disk_bytes) == ("vae", 0, 0.0, 0)
    folder = own.run("tumorgen", "vae")
    write_json(folder / "progress.json", {"inputs_hash": "", "step": 5, "iterations": 9, "seconds": 1.0})
    method = training_forecast.open_method(own, "tumorgen", "cpu")
    assert training_forecast._steps_left(method, "vae", 9, False) == 4
    assert training_forecast._steps_left(method, "vae", 9, True) == 9
