"""The command line as a whole: help, exit codes, streams."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.command_line import call, told
from typer.testing import CliRunner

from tumorgen_cli import __version__
from tumorgen_cli.cli import main
from tumorgen_cli.pipeline import status
from tumorgen_cli.system.errors import TumorgenError


def test_version():
    assert call("--version").stdout.strip() == f"tumorgen {__version__}"


def test_no_arguments_show_the_help():
    result = CliRunner().invoke(main.app, [])
    assert "synthesize" in result.output


def test_an_interrupt_is_130(monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(status, "workspace_status", stop)
    assert "goes on from there" in told(call("status", code=130))


def test_a_bug_keeps_its_traceback(monkeypatch):
    def bug(*_, **__):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(status, "workspace_status", bug)
    result = CliRunner().invoke(main.app, ["status"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_markup_in_names_is_not_eaten(monkeypatch):
    def refuse(*_, **__):
        raise TumorgenError("see [bold]/data/[1]/x[/bold]")

    monkeypatch.setattr(status, "workspace_status", refuse)
    assert "[bold]/data/[1]/x[/bold]" in told(call("status", code=1))


def test_as_a_process():
    """The real thing: exit code, streams, no traceback."""
    environment = {**os.environ, "PYTHONPATH": str(Path(main.__file__).parents[2])}
    command = [sys.executable, "-m", "tumorgen_cli.cli", "presets", "demo-quik"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
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
    program = "from tumorgen_cli.cli import app; app(prog_name='tumorgen')"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    assert run.stdout.split() == ["low-contrast", "necrotic", "heterogeneous"]
