"""Loggers: the rows of the log and nothing twice, the same run after a stop, errors before anything is trained."""

import re
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import get_args

import pytest
from support.stages import STEPS, item, make_stage

from tumorgen_cli.system.errors import StateError
from tumorgen_cli.system.json_records import read_plain, write_json
from tumorgen_cli.training import loggers, loop
from tumorgen_cli.training.checkpoints import read_log
from tumorgen_cli.training.loggers import TrainingLogger, check_logger
from tumorgen_cli.training.loop import train
from tumorgen_cli.training.watch import following

ROOT = Path(__file__).parents[2]
FACTS = {"data set": "Dataset001_Phantom", "stage": "vae"}


class FakeRuns:
    """What wandb and mlflow have got: the arguments of each opening, and rows by run."""

    def __init__(self):
        self.opened, self.rows, self.closed, self.facts = [], {}, [], []

    def open(self, key, **arguments):
        key = key or f"run{len(self.opened)}"
        self.opened.append({"key": key, **arguments})
        self.rows.setdefault(key, [])
        return key


@pytest.fixture
def runs():
    return FakeRuns()


@pytest.fixture
def wandb(monkeypatch, runs):
    def init(project, name, id, resume, dir, config):  # noqa: A002
        key = runs.open(id, project=project, name=name, folder=dir, resume=resume)
        runs.facts.append(config)
        log = lambda row, step: runs.rows[key].append((step, row))  # noqa: E731
        return SimpleNamespace(id=key, log=log, finish=lambda: runs.closed.append(key))

    module = ModuleType("wandb")
    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)


@pytest.fixture
def mlflow(monkeypatch, runs):
    def start_run(run_id, run_name):
        key = runs.open(run_id, name=run_name)
        return SimpleNamespace(info=SimpleNamespace(run_id=key))

    module = ModuleType("mlflow")
    module.experiments = []
    module.set_experiment = module.experiments.append
    module.start_run = start_run
    module.log_params = runs.facts.append
    module.log_metrics = lambda row, step: runs.rows[runs.opened[-1]["key"]].append((step, row))
    module.end_run = lambda: runs.closed.append(runs.opened[-1]["key"])
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return module


def trained(folder, name, killed_at=None):
    def items(number):
        if number == 2 * (killed_at or STEPS):
            raise RuntimeError("killed")
        return item(number)

    with following([TrainingLogger(name, "Phantom tumorgen vae", FACTS)]) as tell:
        train(make_stage(items), folder, "cpu", "fp32", tell=tell)


def check_rows(rows, folder):
    """Every row of the log is there once."""
    expected = [(int(row["step"]), {k: v for k, v in row.items() if k != "step"}) for row in read_log(folder)]
    assert [step for step, _ in expected] == [10, STEPS]
    assert rows == expected


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_stopped_training_goes_on_in_the_same_run_without_doubled_rows(name, tmp_path, runs, monkeypatch, request):
    request.getfixturevalue(name)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    with pytest.raises(RuntimeError, match="killed"):
        trained(tmp_path, name, killed_at=12)
    assert [step for step, _ in runs.rows["run0"]] == [10]
    assert runs.closed == ["run0"]
    trained(tmp_path, name)
    check_rows(runs.rows["run0"], tmp_path)
    assert list(runs.rows) == ["run0"]
    assert [each["key"] for each in runs.opened] == ["run0", "run0"]
    assert {each["name"] for each in runs.opened} == {"Phantom tumorgen vae"}
    assert runs.facts[0] == FACTS
    assert runs.closed == ["run0", "run0"]
    assert read_plain(tmp_path / loggers.RECORD, "") == {"logger": name, "run": "run0", "step": STEPS}


def test_wandb_resumes_by_id_in_the_project_of_the_user(tmp_path, wandb, runs, monkeypatch):
    trained(tmp_path / "one", "wandb")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    trained(tmp_path / "two", "wandb")
    assert [each["project"] for each in runs.opened] == ["tumorgen", "mine"]
    assert [each["folder"] for each in runs.opened] == [str(tmp_path / "one"), str(tmp_path / "two")]
    assert {each["resume"] for each in runs.opened} == {"allow"}


def test_mlflow_uses_the_experiment_of_the_user(tmp_path, mlflow, runs, monkeypatch):
    trained(tmp_path / "one", "mlflow")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    trained(tmp_path / "two", "mlflow")
    assert mlflow.experiments == ["tumorgen", "mine"]


def test_a_logger_that_is_added_later_gets_the_rows_before(tmp_path, wandb, runs):
    train(make_stage(), tmp_path, "cpu", "fp32")
    write_json(tmp_path / loggers.RECORD, {"logger": "mlflow", "run": "other", "step": 10})  # of another logger
    trained(tmp_path, "wandb")
    check_rows(runs.rows["run0"], tmp_path)


def test_a_logger_that_is_not_installed_is_told_with_the_remedy(monkeypatch):
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    check_logger(None)
    extras = re.findall(r'^(\w+) = \["(.*?)"\]', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    for name in get_args(loggers.LoggerName):
        with pytest.raises(StateError) as caught:
            check_logger(name)
        (fault,) = caught.value.faults
        assert (fault.where, fault.remedy) == (f"--log {name}", f"pip install '{dict(extras)[name]}'")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("tensorboard", "correct the folder, or train without --log"),
        ("wandb", "run `wandb login` or set WANDB_MODE=offline, or train without --log"),
        ("mlflow", "correct MLFLOW_TRACKING_URI, or train without --log"),
    ],
)
def test_a_logger_that_cannot_be_opened_stops_before_training(name, remedy, tmp_path, monkeypatch):
    def refuse(*_):
        raise ConnectionError("api_key not configured (no-tty)\nmore")

    monkeypatch.setitem(loggers._RUNS, name, refuse)
    with pytest.raises(StateError) as caught:
        trained(tmp_path, name, killed_at=0)
    (fault,) = caught.value.faults
    assert (fault.where, fault.found, fault.remedy) == (f"--log {name}", "api_key not configured (no-tty)", remedy)
    assert not (tmp_path / "last.pt").exists()


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="TensorBoard is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_every_row_once(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    with pytest.raises(RuntimeError, match="killed"):
        trained(tmp_path, "tensorboard", killed_at=12)
    trained(tmp_path, "tensorboard")
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    rows = read_log(tmp_path)
    assert set(found.Tags()["scalars"]) == set(rows[0]) - {"step"}
    assert [event.step for event in found.Scalars("fit")] == [10, STEPS]
    assert [event.value for event in found.Scalars("fit")] == pytest.approx([row["fit"] for row in rows])
