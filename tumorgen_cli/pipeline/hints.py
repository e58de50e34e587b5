"""Commands to type, as they are printed: with the workspace and the method, where these are not the defaults."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

from tumorgen_cli.synthesis.options import QualityOptions
from tumorgen_cli.system.errors import TumorgenError

#: the folder of a workspace, and the method, where none is given
DEFAULT_WORK = Path("tumorgen_work")
DEFAULT_METHOD = "tumorgen"
_COMMANDS = re.compile(r"`tumorgen (?!presets|demo|reader-study score|export|install|models)([^`]+)`")


def command_line(words: str, work: Path | str, method: str | None = None) -> str:
    """A `tumorgen` command for the shell.

    Args:
        words: The command with its own options, for example `train flow`. Placeholders are in capitals.
        work: The workspace.
        method: The method, for commands that take one. None: left to the command.
    """
    named = "" if method in (None, DEFAULT_METHOD) else f" --method {method}"
    placed = "" if Path(work) == DEFAULT_WORK else f" -w {quote(work)}"
    return f"tumorgen {words}{named}{placed}"


def filter_options(keep: float, p_alone: bool, no_copies: bool) -> str:
    """The options of `filter` that are not as they are by default, each after a blank."""
    chosen = {
        f" --keep {keep:g}": keep != QualityOptions().keep,
        " --p-alone": p_alone,
        " --no-copies": no_copies,
    }
    return "".join(option for option, is_given in chosen.items() if is_given)


def quote(path: Path | str) -> str:
    """A path for the shell, with quotes where it needs them."""
    return shlex.quote(str(path))


def complete_remedies(error: TumorgenError, work: Path | str) -> TumorgenError:
    """The same error; commands in backquotes in its remedies get the workspace, unless they name one."""

    def complete(found: re.Match[str]) -> str:
        words = found[1]
        return found[0] if re.search(r"(^| )(-w|--work)\b", words) else f"`{command_line(words, work)}`"

    error.faults = tuple(replace(fault, remedy=_COMMANDS.sub(complete, fault.remedy)) for fault in error.faults)
    return error
