"""Calling the command line in this process, and reading what it said."""

from __future__ import annotations

from typer.testing import CliRunner

from tumorgen_cli.cli import main


def call(*arguments, code=0):
    result = CliRunner().invoke(main.app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def told(result):
    """What went to stderr, on one line."""
    return " ".join(result.stderr.split())
