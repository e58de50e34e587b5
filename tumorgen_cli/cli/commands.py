"""What every command does around its work: errors without tracebacks, exit codes, and the record of its cost."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn, ParamSpec

import typer

from tumorgen_cli.pipeline.hints import DEFAULT_WORK, complete_remedies
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import from_memory_error
from tumorgen_cli.system.errors import Fault, StateError, TumorgenError, from_system_error
from tumorgen_cli.system.processes import exit_code, stop_cleanly

P = ParamSpec("P")


def command(function: Callable[P, None]) -> Callable[P, None]:
    """Make a command: an error that the user can correct has no traceback and exit code 1, a stop has 130 or 143.

    Errors of the operating system, such as a full disk or a folder of another user, are such errors. Time and peak
    memory of each command go to `commands.jsonl` of the workspace.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        start = time.monotonic()
        try:
            with stop_cleanly():
                function(*args, **kwargs)
            _record_cost(function.__name__, kwargs, time.monotonic() - start)
        except TumorgenError as error:
            _fail(error, kwargs)
        except BrokenPipeError:
            raise  # the reader of stdout has ended; click ends the command quietly
        except OSError as error:
            known = from_system_error(error)
            if known is None:
                raise
            _fail(known, kwargs)
        except (MemoryError, RuntimeError) as error:
            no_memory = from_memory_error(error, function.__name__)
            if no_memory is None:
                raise
            _fail(no_memory, kwargs)
        except UnicodeEncodeError as error:
            if error.reason != "surrogates not allowed":
                raise
            fault = Fault(error.object, "a name in another encoding", "a name in UTF-8", "rename the file")
            _fail(StateError("A file name cannot be written", [fault]), kwargs)
        except KeyboardInterrupt as stop:
            console.warn("stopped; finished work is kept, and the same command goes on from there")
            raise typer.Exit(exit_code(stop)) from None

    return run


def planned_command(function: Callable[P, None]) -> Callable[P, None]:
    """Make a command that needs a planned workspace or, with --model, an installed model.

    Without a workspace, it says so before anything else.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        from tumorgen_cli.planning.workspace import check_planned

        if kwargs.get("model") is None:
            check_planned(_workspace(kwargs))
        function(*args, **kwargs)

    return command(run)


def _workspace(options: Mapping[str, object]) -> Path:
    """The workspace of a command; the default one where the command has none."""
    work = options.get("work")
    return work if isinstance(work, Path) else DEFAULT_WORK


def _fail(error: TumorgenError, options: Mapping[str, object]) -> NoReturn:
    """Show an error, with the workspace in the commands of its remedies, and end the command."""
    console.show_error(complete_remedies(error, _workspace(options)))
    raise typer.Exit(1) from None


def _record_cost(name: str, options: Mapping[str, object], seconds: float) -> None:
    """Append a line with the time and peak memory of a command, for benchmarks."""
    from tumorgen_cli.system.devices import peak_memory_gib
    from tumorgen_cli.system.files import append_line

    root = _workspace(options)
    if "work" not in options or not root.is_dir() or name == "status":
        return
    line = {
        "command": name,
        "stage": options.get("stage"),
        "seconds": round(seconds, 1),
        "peak_memory_gib": round(peak_memory_gib(), 2),
    }
    try:
        append_line(root / "commands.jsonl", json.dumps(line))
    except StateError as error:  # the command itself has succeeded
        console.warn(f"the time of this command is not recorded: {error.faults[0].found}")
