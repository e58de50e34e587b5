"""What every command has around its work: -v and -q, errors without tracebacks, exit codes, its log file and cost."""

from __future__ import annotations

import functools
import inspect
import json
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import typer

from tumorgen_cli.cli.options import Quiet, Verbose
from tumorgen_cli.pipeline.hints import DEFAULT_WORK, complete_remedies
from tumorgen_cli.system import console
from tumorgen_cli.system.command_log import CommandLog, describe_call, describe_versions
from tumorgen_cli.system.devices import from_memory_error
from tumorgen_cli.system.errors import Fault, StateError, TumorgenError, from_system_error
from tumorgen_cli.system.processes import exit_code, stop_cleanly


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command: an error that the user can correct has no traceback and exit code 1, a stop has 130 or 143.

    Errors of the operating system, such as a full disk or a folder of another user, are such errors. Time and peak
    memory of each command go to `commands.jsonl` of the workspace, what it tells to a file in `logs/` there. Every
    command gets the options `-v` and `-q`.
    """

    @functools.wraps(function)
    def run(*args: Any, verbose: bool = False, quiet: bool = False, **kwargs: Any) -> None:
        if verbose and quiet:
            raise typer.BadParameter("cannot be given with --quiet", param_hint="--verbose")
        level = console.Level.VERBOSE if verbose else console.Level.QUIET if quiet else console.Level.NORMAL
        with _told(level, _new_log(function.__name__, kwargs)):
            _run(function.__name__, functools.partial(function, *args, **kwargs), kwargs)

    whole = inspect.signature(function, eval_str=True)
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for name, annotation in _SHARED.items()
    ]
    # typer asks `inspect`, which finds it here
    vars(run)["__signature__"] = whole.replace(parameters=[*whole.parameters.values(), *shared])
    run.__annotations__ = {**function.__annotations__, **_SHARED}
    return run


_SHARED: dict[str, Any] = {"verbose": Verbose, "quiet": Quiet}  # options of every command


def _run(name: str, call: Callable[[], None], options: Mapping[str, object]) -> None:
    """Call a command and record its cost; turn errors that the user can correct, and stops, into exit codes."""
    start = time.monotonic()
    try:
        with stop_cleanly():
            call()
        _record_cost(name, options, time.monotonic() - start)
    except TumorgenError as error:
        _fail(error, options)
    except BrokenPipeError:
        raise  # the reader of stdout has ended; click ends the command quietly
    except OSError as error:
        known = from_system_error(error)
        if known is None:
            raise
        _fail(known, options)
    except (MemoryError, RuntimeError) as error:
        no_memory = from_memory_error(error, name)
        if no_memory is None:
            raise
        _fail(no_memory, options)
    except UnicodeEncodeError as error:
        if error.reason != "surrogates not allowed":
            raise
        fault = Fault(error.object, "a name in another encoding", "a name in UTF-8", "rename the file")
        _fail(StateError("A file name cannot be written", [fault]), options)
    except KeyboardInterrupt as stop:
        if not _only_looks(name, options):
            console.warn("stopped; finished work is kept, and the same command goes on from there")
        raise typer.Exit(exit_code(stop)) from None


def _new_log(name: str, options: Mapping[str, object]) -> CommandLog | None:
    """The log file of a command; None for one that only looks, or that has no workspace."""
    if "work" not in options or _only_looks(name, options):
        return None
    return CommandLog(_workspace(options), name)


def _only_looks(name: str, options: Mapping[str, object]) -> bool:
    """Whether a command changes nothing."""
    return name == "status" or bool(options.get("dry_run"))


@contextmanager
def _told(level: console.Level, log: CommandLog | None) -> Iterator[None]:
    """Show what a command tells, and write it to its log file; details are versions first, time and memory last."""
    from tumorgen_cli.system.devices import peak_memory_gib

    start, ended = time.monotonic(), None
    with console.session(level):
        if level >= console.Level.VERBOSE:
            console.detail(f"{describe_call()}\n{describe_versions()}")
        try:
            with console.session(level, log):
                yield
        except BaseException as error:
            ended = error
            raise
        finally:
            cost = f"{console.clock(time.monotonic() - start)}, with a peak memory of {peak_memory_gib():.2f} GiB"
            console.detail(f"it took {cost}")
            if log is not None:
                log.finish(ended, cost)


def planned_command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command that needs a planned workspace or, with --model, an installed model.

    Without a workspace, it says so before anything else.
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
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
    console.detail(traceback.format_exc())
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
