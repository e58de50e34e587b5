"""Remedies for what a machine lacks work when they are followed: memory, locks, open files, finite numbers."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import resource
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from support.command_line import call, check_words, told
from support.workspaces import TOY

from tumorgen_cli.methods.syntumor import SynTumor
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.training import loop

REMEDY = re.compile(r"remedy:\s+(.*)")
COMMAND = re.compile(r"`tumorgen ([^`]*)`")


@pytest.fixture
def work(workspace, tmp_path):
    """A copy of the planned and preprocessed workspace."""
    shutil.copytree(workspace.root, tmp_path / "work")
    return tmp_path / "work"


def settings(*others):
    """Settings of small networks as options of `plan`."""
    return [part for setting in (*TOY, *others) for part in ("--set", setting)]


def train(work, *more, code=0):
    return call("train", "vae", "-w", work, "--device", "cpu", *more, code=code)


def paint(phantoms, *more, code=0):
    hosts = ("--healthy", phantoms.healthy, "-n", 1, "--method", "syntumor", "--box", "10,10,10,24,24,22")
    return call("synthesize", *hosts, "--device", "cpu", *more, code=code)


def remedy_of(result):
    (found,) = REMEDY.findall(result.stderr)
    return found


def command_of(result, **placeholders):
    """The command that a remedy names; placeholders are replaced."""
    words = shlex.split(COMMAND.findall(remedy_of(result))[0])
    check_words(words)
    return [placeholders.get(word, word) for word in words]


@contextlib.contextmanager
def limit(which, most):
    """Lower a limit of this process for a while, as `ulimit` does."""
    soft, hard = resource.getrlimit(which)
    resource.setrlimit(which, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(which, (soft, hard))


def full(*_):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def test_a_training_step_without_memory_on_the_gpu(work, phantoms, monkeypatch):
    """The commands that the remedy names lead to a trained stage; such plans are smaller by tests of the rules."""
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_step", full)
        refused = train(work, "--iterations", 1, code=1)
    assert "The GPU's memory does not suffice" in told(refused)
    assert "use --device cpu" in remedy_of(refused)
    assert remedy_of(refused).endswith("and run the following commands again")
    call(*command_of(refused, DATASET=phantoms.dataset, GIB=2), "--device", "cpu", "--workers", 0, *settings())
    assert Workspace(work).plan().memory_gib == 2
    call("preprocess", "-w", work, "--workers", 0)
    train(work, "--iterations", 1)


def test_painting_without_memory_on_the_gpu_goes_on_by_the_cpu(work, phantoms, monkeypatch, tmp_path):
    options = ("-w", work, "--out", tmp_path / "set")
    with monkeypatch.context() as patch:
        patch.setattr(SynTumor, "synthesize", full)
        refused = paint(phantoms, *options, code=1)
    assert "The GPU's memory does not suffice" in told(refused)
    assert "use --device cpu" in remedy_of(refused)
    paint(phantoms, *options)  # with --device cpu
    assert (tmp_path / "set" / "dataset.json").is_file()


def test_a_step_without_memory_of_the_machine_is_told(work, monkeypatch):
    """torch has no error of its own for that, and the limit of the shell (`ulimit -v`) is one cause."""
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    with monkeypatch.context() as patch, limit(resource.RLIMIT_AS, in_use + 2**31):
        patch.setattr(loop, "_step", lambda *_: torch.empty(2**36, dtype=torch.uint8))
        refused = train(work, code=1)
    assert "error: The memory does not suffice" in told(refused)
    assert "can't allocate memory" in told(refused)
    assert remedy_of(refused).startswith("stop other programs, or plan for less memory (")
    assert remedy_of(refused).endswith("plan and preprocess also need less with --workers 0")
    assert command_of(refused)[:3] == ["plan", "DATASET", "--memory"]
    train(work, "--iterations", 1)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def test_a_file_system_without_locks(work, phantoms, monkeypatch, tmp_path, number):
    real = fcntl.flock

    def flock(file, operation):
        if "no_locks" in str(Path(f"/proc/self/fd/{file.fileno()}").readlink()):
            raise OSError(number, os.strerror(number))
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    shutil.copytree(work, tmp_path / "no_locks" / "work")
    refused = call("preprocess", "-w", tmp_path / "no_locks" / "work", "--workers", 0, code=1)
    assert f"no locks: {os.strerror(number)}" in told(refused)
    assert "work on another file system (--work, --out)" in remedy_of(refused)
    call("status", "-w", tmp_path / "no_locks" / "work")
    call("preprocess", "-w", work, "--workers", 0)
    refused = paint(phantoms, "-w", work, "--out", tmp_path / "no_locks" / "set", code=1)
    assert "(--work, --out)" in remedy_of(refused)
    assert not (tmp_path / "no_locks" / "set").exists()
    paint(phantoms, "-w", work, "--out", tmp_path / "set")


def test_too_many_open_files(work):
    shutil.rmtree(Workspace(work).cases)
    call("status", "-w", work)  # modules are loaded
    in_use = {int(path.name) for path in Path("/proc/self/fd").iterdir()}
    free = [number for number in range(200) if number not in in_use]
    with limit(resource.RLIMIT_NOFILE, free[5]):  # five files: enough for one process, not for the pipes of workers
        refused = call("preprocess", "-w", work, "--workers", 2, code=1)
        assert "error: Too many open files" in told(refused)
        assert remedy_of(refused).startswith("raise the limit (`ulimit -n 4096`); plan and preprocess need fewer files")
        call("preprocess", "-w", work, "--workers", 0)
    shutil.rmtree(Workspace(work).cases)
    call("preprocess", "-w", work, "--workers", 2)


def test_a_loss_that_is_not_finite(work, phantoms, monkeypatch):
    """The same command goes on; if it fails again, so does a plan with a lower learning rate."""
    planned = Workspace(work).plan().methods["tumorgen"]["vae"]["learning_rate"]
    real, broken = loop._step, []

    def step(stage, *rest):
        logs = real(stage, *rest)
        bad = broken[0](stage) if broken else False
        return {key: value * float("nan") for key, value in logs.items()} if bad else logs

    monkeypatch.setattr(loop, "_step", step)
    broken[:] = [lambda _: True]
    refused = train(work, code=1)
    assert "A loss is not finite" in told(refused)
    assert "run the command again: it continues from the last checkpoint" in remedy_of(refused)
    broken.clear()
    train(work)
    assert (work / "runs/tumorgen/vae/run.json").is_file()
    broken[:] = [lambda stage: stage.objectives[0].learning_rate >= planned]
    refused = train(work, "--restart", code=1)
    field = re.findall(r"--set (methods\S+)=RATE", remedy_of(refused))[0]
    assert "--set precision=fp32" in remedy_of(refused)
    call("plan", phantoms.dataset, "-w", work, "--device", "cpu", "--memory", 8, "--workers", 0,
         *settings(f"{field}={planned / 10}"))  # fmt: skip
    call(*command_of(refused), "--device", "cpu")
    assert Workspace(work).plan().methods["tumorgen"]["vae"]["learning_rate"] == planned / 10
