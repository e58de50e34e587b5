"""Commands that are stopped, as real processes: Ctrl-C, SIGTERM, SIGKILL."""

import shutil
import signal
import subprocess
import sys

import pytest
import torch
from support.command_line import call, told
from support.stops import members, start, stop, wait_until

from tumorgen_cli.planning.workspace import Workspace

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}
_POOL = 4  # the command, Python's resource tracker, two workers


def tumorgen(*arguments):
    return start(["-m", "tumorgen_cli.cli", *map(str, arguments)])


def check_stopped(process, number):
    code, said = stop(process, number)
    assert code == CODES[number]
    assert "Traceback" not in said
    assert number == signal.SIGKILL or "the same command goes on from there" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_every_command_is_stopped_cleanly(workspace, monkeypatch, number):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("tumorgen_cli.api.preprocess", lambda *_, **__: signal.raise_signal(number))
    assert "the same command goes on from there" in told(call("preprocess", "-w", workspace.root, code=CODES[number]))
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_stop_during_the_imports_is_quiet():
    """A command is stopped at the moment when it imports typer."""
    code = """
import signal, sys
class Stop:
    def find_spec(self, name, *_):
        if name == "typer":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Stop())
from tumorgen_cli.cli.__main__ import start
start()
"""
    stopped = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (stopped.returncode, stopped.stderr) == (-signal.SIGINT, "")


@pytest.mark.slow
@pytest.mark.parametrize("number", CODES)
def test_plan_leaves_no_worker(tmp_path, phantoms, number):
    process = tumorgen("plan", phantoms.dataset, "-w", tmp_path / "work", "--workers", "2", "--device", "cpu")
    wait_until(lambda: len(members(process.pid)) == _POOL)
    check_stopped(process, number)


@pytest.mark.slow
@pytest.mark.parametrize("number", CODES)
def test_preprocess_leaves_no_worker(tmp_path, workspace, number):
    shutil.copytree(workspace.root, tmp_path / "work")
    shutil.rmtree(tmp_path / "work" / "cases")
    process = tumorgen("preprocess", "-w", tmp_path / "work", "--workers", "2")
    wait_until(lambda: len(members(process.pid)) == _POOL)
    check_stopped(process, number)
    if number != signal.SIGKILL:
        assert list((tmp_path / "work" / "cases").rglob(".*.tmp*")) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_train_saves_and_goes_on(tmp_path, workspace, number):
    shutil.copytree(workspace.root, tmp_path / "work")
    train = ("train", "vae", "-w", tmp_path / "work", "--device", "cpu", "--iterations", "100000")
    folder, seen = Workspace(tmp_path / "work").run("tumorgen", "vae"), []
    for _ in range(2):
        (folder / "progress.json").unlink(missing_ok=True)
        process = tumorgen(*train)
        wait_until((folder / "progress.json").is_file)
        check_stopped(process, number)
        seen.append(torch.load(folder / "last.pt", weights_only=True)["step"])
    assert 0 < seen[0] < seen[1]
