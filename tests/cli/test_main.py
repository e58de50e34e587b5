"""The command line as a whole: help, exit codes, streams."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from support.command_line import call, told
from typer.testing import CliRunner

from tumorgen_cli import __version__
from tumorgen_cli.cli import commands, main
from tumorgen_cli.pipeline import status
from tumorgen_cli.system.errors import TumorgenError


def test_version():
    assert call("--version").stdout.strip() == f"tumorgen {__version__}"


def test_no_arguments_show_the_help():
    result = CliRunner().invoke(main.app, [])
    assert "synthesize" in result.output


@pytest.mark.parametrize(
    ("option", "given", "hint"),
    [("--method", "copypast", "copypaste"), ("--device", "CPU0", "cpu"), ("--kind", "zzz", "")],
)
def test_a_misspelled_choice_gets_the_nearest_one(option, given, hint):
    said = " ".join(told(call("synthesize", option, given, code=2)).replace("│", "").split())
    assert f"'{given}' is not one of '" in said
    assert "Value error" not in said
    assert (f"Did you mean {hint}?" in said) == bool(hint)


def leaves(command, name="tumorgen"):
    """Every command below a group, by its full name."""
    inner = getattr(command, "commands", None)
    if inner is None:
        return {name: command}
    return {key: each for word, part in inner.items() for key, each in leaves(part, f"{name} {word}").items()}


def test_every_command_can_be_quiet_or_verbose():
    found = leaves(typer.main.get_command(main.app))
    assert len(found) > 15
    for name, each in found.items():
        options = {option for parameter in each.params for option in parameter.opts}
        assert {"-v", "--verbose", "-q", "--quiet"} <= options, name
    assert "cannot be given with --quiet" in told(call("status", "-v", "-q", code=2))


def test_what_a_command_shows_and_what_its_log_has(workspace, tmp_path):
    work = tmp_path / "work"
    shutil.copytree(workspace.root, work, ignore=shutil.ignore_patterns("logs"))
    words = ("preprocess", "-w", work, "--workers", 0)
    for number, (option, shown, hidden) in enumerate(
        [
            ((), ["0 cases written", "next: tumorgen train all"], ["it took", "numpy"]),
            (("-q",), ["next: tumorgen train all"], ["0 cases written", "it took"]),
            (("-v",), ["torch", "0 cases written", "next: tumorgen train all", "it took 0:0"], []),
        ],
        1,
    ):
        said = told(call(*words, *option))
        assert all(text in said for text in shown), said
        assert not any(text in said for text in hidden), said
        logs = sorted((work / "logs").glob("*_preprocess*.log"))
        assert len(logs) == number
        assert all("0 cases written" in path.read_text() for path in logs), "also at -q"
        assert all("ended with exit code 0 after 0:0" in path.read_text() for path in logs)


def test_a_command_that_only_looks_or_is_wrong_leaves_no_log(workspace, tmp_path):
    work = tmp_path / "work"
    shutil.copytree(workspace.root, work, ignore=shutil.ignore_patterns("logs"))
    call("status", "-w", work)
    call("train", "--help")
    call("train", "vae", "-w", work, "--minutes", 3, code=1)
    call("train", "-w", work, code=2)
    call("train", "vae", "-w", tmp_path / "none", code=1)
    assert not (work / "logs").exists()
    assert not (tmp_path / "none").exists()


def test_the_log_of_a_user_error_has_its_traceback(workspace, tmp_path, monkeypatch):
    work = tmp_path / "work"
    shutil.copytree(workspace.root, work, ignore=shutil.ignore_patterns("logs"))

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tumorgen_cli.api.preprocess", fail)
    said = told(call("preprocess", "-w", work, code=1))
    assert "Traceback" not in said
    (path,) = (work / "logs").iterdir()
    text = path.read_text()
    assert "  Traceback (most recent call last):" in text
    assert "error: No space left" in text
    assert "ended with exit code 1 after 0:0" in text


def test_an_interrupt_is_130(monkeypatch, tmp_path):
    """What goes on from where it was is told of commands that do something."""

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(status, "workspace_status", stop)
    assert "goes on from there" not in told(call("status", code=130))
    monkeypatch.setattr("tumorgen_cli.pipeline.plan.plan_dataset", stop)
    assert "goes on from there" in told(call("plan", "x", "-w", tmp_path, code=130))
    assert "goes on from there" not in told(call("plan", "x", "-w", tmp_path, "--dry-run", code=130))


def test_a_bug_keeps_its_traceback(monkeypatch):
    def bug(*_, **__):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(status, "workspace_status", bug)
    result = CliRunner().invoke(main.app, ["status"])
    assert isinstance(result.exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "free some space"),
        (PermissionError(errno.EACCES, "Permission denied", "/data/x"), "1. /data/x found: Permission denied"),
        (OSError(errno.EIO, "Input/output error", "/data/x"), "check the disk"),
        (MemoryError("Unable to allocate 9 GiB"), "expected: enough memory"),
        (UnicodeEncodeError("utf-8", "scan\udce9", 4, 5, "surrogates not allowed"), "rename the file"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else value,
)
def test_an_error_of_the_machine_has_no_traceback(error, said, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(status, "workspace_status", fail)
    assert said in told(call("status", code=1))


@pytest.mark.parametrize(
    "error", [OSError("no number"), UnicodeEncodeError("ascii", "ä", 0, 1, "ordinal not in range(128)")]
)
def test_other_errors_of_these_kinds_are_bugs(error, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(status, "workspace_status", fail)
    assert CliRunner().invoke(main.app, ["status"]).exception is error


def test_a_workspace_that_is_a_file_is_told(tmp_path):
    (tmp_path / "work").write_text("x")
    for command in ("status", "preprocess", "evaluate"):
        assert "found: a file" in told(call(command, "-w", tmp_path / "work", code=1))


def test_a_cost_that_cannot_be_recorded_does_not_fail_the_command(tmp_path):
    (tmp_path / "work" / "commands.jsonl").mkdir(parents=True)
    (tmp_path / "work" / "plan.json").touch()
    commands._record_cost("plan", {"work": tmp_path / "work"}, 1.0)


def test_a_terminal_that_knows_ascii_only(tmp_path):
    """What it cannot show becomes an escape, on stdout as on stderr."""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    words = [sys.executable, "-m", "tumorgen_cli.cli", "status", "-w", "Größe"]
    done = subprocess.run(
        words, capture_output=True, env=environment, cwd=tmp_path, timeout=300, check=False, encoding="ascii"
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert r"Gr\xf6\xdfe" in done.stdout
    assert r"tumorgen plan DATASET -w 'Gr\xf6\xdfe'" in done.stderr


def test_markup_in_names_is_not_eaten(monkeypatch):
    def refuse(*_, **__):
        raise TumorgenError("see [bold]/data/[1]/x[/bold]")

    monkeypatch.setattr(status, "workspace_status", refuse)
    assert "[bold]/data/[1]/x[/bold]" in told(call("status", code=1))


def test_as_a_process():
    """The real thing: exit code, streams, no traceback."""
    environment = {**os.environ, "PYTHONPATH": str(Path(main.__file__).parents[2])}
    command = [sys.executable, "-m", "tumorgen_cli.cli", "presets", "demo-quik"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "error:" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command", ["plan", "train", "synthesize", "filter", "merge", "evaluate", "compare", "nnunet-setup", "run"]
)
def test_help_has_a_short_name(command):
    assert call(command, "-h").stdout == call(command, "--help").stdout


def test_completion_of_a_choice():
    environment = {
        **os.environ,
        "_TUMORGEN_COMPLETE": "complete_bash",
        "COMP_WORDS": "tumorgen synthesize --kind ",
        "COMP_CWORD": "3",
    }
    program = "from tumorgen_cli.cli.main import app; app(prog_name='tumorgen')"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    assert run.stdout.split() == ["low-contrast", "necrotic", "heterogeneous"]
