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
        self.active, self.broken = None, False

    def add(self, step, row):
        if self.broken:
            raise ConnectionError("the network is down")
        self.rows[self.active].append((step, row))

    def close(self):
        if self.active is not None:
            self.closed.append(self.active)
        self.active = None

    def open(self, key, **arguments):
        key = key or f"run{len(self.opened)}"
        self.opened.append({"key": key, **arguments})
        self.rows.setdefault(key, [])
        self.active = key
        return key


@pytest.fixture
def runs():
    return FakeRuns()


@pytest.fixture
def wandb(monkeypatch, runs):
    def init(project, name, id, resume, dir, config, settings):  # noqa: A002
        key = runs.active  # the real one, too, returns a run that was not finished
        if key is None:
            key = runs.open(id, project=project, name=name, folder=dir, resume=resume, settings=settings)
        runs.facts.append(config)
        return SimpleNamespace(id=key, log=lambda row, step: runs.add(step, row), finish=runs.close)

    module = ModuleType("wandb")
    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)


@pytest.fixture
def mlflow(monkeypatch, runs):
    def start_run(run_id, run_name, tags):
        if runs.active is not None:
            raise RuntimeError(f"Run with UUID {runs.active} is already active")
        key = runs.open(run_id, name=run_name, tags=tags)
        return SimpleNamespace(info=SimpleNamespace(run_id=key))

    module = ModuleType("mlflow")
    module.experiments = []
    module.set_experiment = module.experiments.append
    module.start_run = start_run
    module.log_params = runs.facts.append
    module.log_metrics = lambda row, step: runs.add(step, row)
    module.end_run = lambda: (print("View run at: http://store"), runs.close())
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


def test_wandb_gets_no_console_no_paths_no_code_and_no_host(tmp_path, wandb, runs):
    trained(tmp_path, "wandb")
    (opened,) = runs.opened
    off = {"console": "off", "save_code": False, "x_save_requirements": False}
    on = ("disable_git", "disable_code", "disable_job_creation")
    meta = ("x_disable_meta", "x_disable_stats", "x_disable_machine_info")
    named = dict.fromkeys(("program", "program_abspath", "program_relpath"), "tumorgen")
    assert opened["settings"] == {**off, **dict.fromkeys((*on, *meta), True), **named, "host": "not sent"}


def test_mlflow_gets_no_user_no_path_and_no_commit(tmp_path, mlflow, runs):
    trained(tmp_path, "mlflow")
    (opened,) = runs.opened
    tags = ("user", "source.name", "source.git.commit", "source.git.branch", "source.git.repoURL")
    assert opened["tags"] == {f"mlflow.{tag}": "not sent" for tag in tags}


def test_what_a_logger_prints_is_not_among_the_results(tmp_path, mlflow, capsys):
    trained(tmp_path, "mlflow")
    out, err = capsys.readouterr()
    assert "View run" not in out
    assert "View run at: http://store" in err


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_stage_after_a_logger_failed_has_a_run_of_its_own(name, tmp_path, runs, request, capsys):
    request.getfixturevalue(name)
    runs.broken = True
    trained(tmp_path / "one", name)
    assert "the network is down" in capsys.readouterr().err
    assert (tmp_path / "one" / "run.json").is_file()
    assert runs.closed == ["run0"]
    runs.broken = False
    trained(tmp_path / "two", name)
    assert (list(runs.rows), runs.closed) == (["run0", "run1"], ["run0", "run1"])
    assert [step for step, _ in runs.rows["run1"]] == [10, STEPS]


def test_a_run_whose_closing_fails_does_not_hide_the_error(tmp_path, mlflow, runs, capsys):
    runs.broken = True
    close = mlflow.end_run

    def end_run():
        close()
        raise ConnectionError("not ended")

    mlflow.end_run = end_run
    trained(tmp_path, "mlflow")
    said = capsys.readouterr().err
    assert "the network is down" in said
    assert "not ended" not in said


def test_a_run_that_is_half_opened_is_closed(tmp_path, mlflow, runs):
    def refuse(facts):
        raise ConnectionError("no parameters")

    mlflow.log_params = refuse
    with pytest.raises(StateError):
        trained(tmp_path, "mlflow")
    assert runs.closed == ["run0"]


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


def test_a_mere_folder_of_the_name_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(StateError):
        check_logger("wandb")
    (tmp_path / "wandb" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path_importer_cache", {})
    check_logger("wandb")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("tensorboard", "make {folder}/tensorboard a folder that you can write in, or train without --log"),
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
    assert (fault.where, fault.found, fault.remedy) == (
        f"--log {name}",
        "api_key not configured (no-tty)",
        remedy.format(folder=tmp_path),
    )
    assert not (tmp_path / "last.pt").exists()


needs_tensorboard = pytest.mark.skipif(find_spec("tensorboard") is None, reason="TensorBoard is not installed")


@needs_tensorboard
def test_the_remedy_for_the_folder_of_tensorboard_works(tmp_path):
    (tmp_path / "tensorboard").touch()
    with pytest.raises(StateError) as caught:
        trained(tmp_path, "tensorboard")
    assert f"make {tmp_path}/tensorboard a folder" in caught.value.faults[0].remedy
    (tmp_path / "tensorboard").unlink()
    (tmp_path / "tensorboard").mkdir()
    trained(tmp_path, "tensorboard")
    assert list((tmp_path / "tensorboard").iterdir())


def read_events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return found


def test_tensorboard_writes_rows_before_they_count_as_sent(tmp_path, monkeypatch):
    done = []

    class Writer:
        def __init__(self, folder):
            self.left = []

        def add_text(self, tag, text):
            pass

        def add_scalar(self, name, value, step):
            self.left.append(step)

        def flush(self):
            done.extend(self.left)
            self.left.clear()

        def close(self):
            """As after a kill."""

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    trained(tmp_path, "tensorboard")
    assert {*done} == {int(row["step"]) for row in read_log(tmp_path)}
    assert max(done) == read_plain(tmp_path / loggers.RECORD, "")["step"]


@needs_tensorboard
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_every_row_once(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    with pytest.raises(RuntimeError, match="killed"):
        trained(tmp_path, "tensorboard", killed_at=12)
    trained(tmp_path, "tensorboard")
    found = read_events(tmp_path)
    rows = read_log(tmp_path)
    assert set(found.Tags()["scalars"]) == set(rows[0]) - {"step"}
    assert [event.step for event in found.Scalars("fit")] == [10, STEPS]
    assert [event.value for event in found.Scalars("fit")] == pytest.approx([row["fit"] for row in rows])
