"""Calling the command line in this process, and reading what it said."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

import typer
from typer.testing import CliRunner

from tumorgen_cli.cli import main

_HINT = re.compile(r"(?:next|then|finished): tumorgen (.*)$")  # the command at the end of a line
_OF_ANOTHER_PLACE = ("run", "reader-study", "install")  # hints that name no workspace, or a new one


def call(*arguments, code=0):
    """Run a command; the command that it says is next must exist, and name the same workspace."""
    words = [str(a) for a in arguments]
    result = CliRunner().invoke(main.app, words)
    assert code is None or result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    for hint in filter(None, map(_HINT.search, result.stderr.splitlines())):
        following = shlex.split(hint[1])
        check_words(following)
        if "-w" in words and following[0] not in _OF_ANOTHER_PLACE:
            assert following[following.index("-w") + 1] == words[words.index("-w") + 1], hint[0]
    return result


def check_words(words: Sequence[str]) -> None:
    """See that a printed command exists and knows its options."""
    command, rest = typer.main.get_command(main.app), [*words]
    while hasattr(command, "commands") and rest:
        assert rest[0] in command.commands, words
        command = command.commands[rest.pop(0)]
    known = {"--help"} | {option for parameter in command.params for option in parameter.opts}
    assert {word for word in rest if word.startswith("-") and word != "-"} <= known, words


def told(result):
    """What went to stderr, on one line."""
    return " ".join(result.stderr.split())
