"""Printed commands name the workspace and the method where these are not the defaults, and suit the shell."""

from pathlib import Path

import pytest

from tumorgen_cli.pipeline.hints import DEFAULT_WORK, command_line, complete_remedies
from tumorgen_cli.system.errors import Fault, StateError


@pytest.mark.parametrize(
    ("work", "method", "line"),
    [
        (DEFAULT_WORK, None, "tumorgen train flow"),
        ("tumorgen_work", "tumorgen", "tumorgen train flow"),
        (Path("other"), None, "tumorgen train flow -w other"),
        ("my $work", "difftumor", "tumorgen train flow --method difftumor -w 'my $work'"),
    ],
)
def test_defaults_are_not_repeated(work, method, line):
    assert command_line("train flow", work, method) == line


@pytest.mark.parametrize(
    ("remedy", "completed"),
    [
        ("run `tumorgen preprocess`", "run `tumorgen preprocess -w other`"),
        ("`tumorgen train vae --restart` (or `tumorgen plan X`)", None),
        ("run `tumorgen preprocess --work mine`", "run `tumorgen preprocess --work mine`"),
        ("see `tumorgen presets`", "see `tumorgen presets`"),
        ("raise the limit (`ulimit -n`)", "raise the limit (`ulimit -n`)"),
        ("run tumorgen", "run tumorgen"),
    ],
)
def test_commands_in_remedies_get_the_workspace(remedy, completed):
    completed = completed or "`tumorgen train vae --restart -w other` (or `tumorgen plan X -w other`)"
    error = StateError("Stale", [Fault("a", "b", "c", remedy)])
    assert complete_remedies(error, "other").faults[0].remedy == completed
    error = StateError("Stale", [Fault("a", "b", "c", remedy)])
    assert complete_remedies(error, DEFAULT_WORK).faults[0].remedy == remedy
