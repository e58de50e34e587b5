"""What the user sees: tables, notes, progress with the time left, the next command.

Results go to stdout, everything else to stderr. Names come from files of others: control characters in them are shown
as escapes and never reach the terminal (`_visible`), and text that the terminal cannot show is shown as escapes, too.

How much is shown depends on the `Level`. A command's log file gets all of it at every level.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
import time
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from tumorgen_cli.system.command_log import CommandLog
from tumorgen_cli.system.errors import PlanError, TumorgenError
from tumorgen_cli.system.json_records import none_for_nan, to_plain

T = TypeVar("T")
_MOST_FAULTS = 10  # of an error that are printed; all of them are written to a file
_PIPE_WIDTH = 160  # of tables, in characters, where there is no terminal and COLUMNS is not set
_PLAIN_SECONDS, _LOG_SECONDS, _NOTEBOOK_SECONDS = 10.0, 60.0, 0.5  # between two lines of progress
_err = Console(stderr=True, highlight=False, emoji=False)


class Level(IntEnum):
    """How much a command shows: from warnings, errors, results and the next command alone, up to details."""

    QUIET = 0
    NORMAL = 1
    VERBOSE = 2


class _Session:
    """What the running command shows, and its log file."""

    level = Level.NORMAL
    log: CommandLog | None = None


_now = _Session()


class Ticker(Protocol):
    """A callback that reports progress."""

    def __call__(self, done: int, note: str = "") -> None:
        """Report that `done` items are finished; `note` names the latest one."""


def accept_any_text() -> None:
    """Let stdout and stderr show characters that they cannot encode as escapes, instead of failing.

    Without UTF-8, Python's stdout raises an error for such characters, and for names of files in another encoding.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not every replacement of a stream has it
            stream.reconfigure(errors="backslashreplace")


def _visible(text: str) -> str:
    """The text with escapes for control characters other than line breaks and tabs."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf") else ascii(c)[1:-1] for c in text)


def _plain(text: str) -> str:
    """The text as rich markup that prints it as it is, with escapes for control characters."""
    return escape(_visible(text))


@contextlib.contextmanager
def session(level: Level, log: CommandLog | None = None) -> Iterator[None]:
    """Show as much as `level` says in the block, and write all of it to a log file."""
    before = _now.level, _now.log
    _now.level, _now.log = level, log
    try:
        yield
    finally:
        _now.level, _now.log = before


def _log(text: str, news: bool = True) -> None:
    """Write text to the log file of the command, if it has one."""
    if _now.log is not None:
        _now.log.write(_visible(text), news)


def detail(text: str) -> None:
    """Print a line that only the level VERBOSE shows."""
    _log(text, news=False)
    if _now.level >= Level.VERBOSE:
        _err.print(f"[dim]{_plain(text)}[/]")


def note(text: str) -> None:
    """Print a line, unless the level is QUIET."""
    _log(text)
    if _now.level >= Level.NORMAL:
        _err.print(_plain(text))


def warn(text: str) -> None:
    """Print a warning."""
    _log(f"warning: {text}")
    _err.print(f"[yellow]warning:[/] {_plain(text)}")


@contextlib.contextmanager
def hush() -> Iterator[None]:
    """Print no notes and no warnings inside."""
    before, _err.quiet = _err.quiet, True
    try:
        yield
    finally:
        _err.quiet = before


def headline(text: str) -> None:
    """Print a heading with an empty line above it, unless the level is QUIET."""
    _log(text)
    if _now.level >= Level.NORMAL:
        _err.print(f"\n[bold]{_plain(text)}[/]")


def next_command(command: str) -> None:
    """Print the command to run next; every command ends with this line."""
    _log(f"next: {command}", news=False)
    _err.print(f"[green]next:[/] {_plain(command)}", soft_wrap=True)


def show_error(error: TumorgenError) -> None:
    """Print an error: its first ten faults, and the file with all of them where there are more."""
    _log(f"error: {error}", news=not isinstance(error, PlanError))  # wrong options alone are worth no file
    rest = len(error.faults) - _MOST_FAULTS
    file = _write_faults(error) if rest > 0 else None
    text = error.describe(None if file is None else _MOST_FAULTS)
    _err.print(f"[red bold]error:[/] {_plain(text)}", soft_wrap=True)
    if file is not None:
        _err.print(_plain(f"  and {rest} more; all {len(error.faults)} are in {file}"), soft_wrap=True)


def _write_faults(error: TumorgenError) -> Path | None:
    """Write an error in full to a new file in the folder for temporary files; None if that is impossible."""
    try:
        number, name = tempfile.mkstemp(prefix="tumorgen_error_", suffix=".txt")
        with os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(f"{error}\n")
    except OSError:
        return None
    return Path(name)


def _sheet(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A table as rich draws it; the text of wide cells wraps."""
    sheet = Table(title=_plain(title), title_justify="left", show_lines=False)
    for column in columns:
        sheet.add_column(_plain(column), overflow="fold")
    for row in rows:
        sheet.add_row(*(_plain(str(cell)) for cell in row))
    return sheet


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table on stdout, as wide as the terminal or as COLUMNS says; the text of wide cells wraps."""
    sheet = _sheet(title, columns, rows)
    fixed = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal()
    Console(highlight=False, emoji=False, width=None if fixed else _PIPE_WIDTH).print(sheet)
    if _now.log is not None:
        text = io.StringIO()
        Console(file=text, highlight=False, emoji=False, width=_PIPE_WIDTH, color_system=None).print(sheet)
        _log(text.getvalue())


@contextlib.contextmanager
def live_table(title: str, columns: Sequence[str]) -> Iterator[Callable[[Sequence[Sequence[Any]]], None]]:
    """A table on stdout that changes in place; without a terminal, it is printed again whenever it has changed.

    A table that is taller than the terminal cannot be replaced: a line tells how many rows are left out. At the end all
    rows are shown.

    Yields:
        The function that shows rows.
    """
    screen = Console(highlight=False, emoji=False)
    shown: Sequence[Sequence[Any]] | None = None
    if _can_redraw(screen):

        def draw(rows: Sequence[Sequence[Any]]) -> None:
            nonlocal shown
            shown = rows
            live.update(_fitting(screen, title, columns, rows), refresh=True)

        with Live(console=screen, auto_refresh=False) as live:
            try:
                yield draw
            finally:
                if shown is not None:
                    live.update(_sheet(title, columns, shown))
        return

    def show(rows: Sequence[Sequence[Any]]) -> None:
        nonlocal shown
        if rows != shown:
            table(title, columns, rows)
            sys.stdout.flush()
        shown = rows

    yield show


def _fitting(screen: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> RenderableType:
    """A table with the first rows, as many as the terminal has room for, and a line that counts the others."""

    def lines(count: int) -> int:
        return len(screen.render_lines(_sheet(title, columns, rows[:count])))

    if lines(len(rows)) <= screen.height:
        return _sheet(title, columns, rows)
    count = max(0, bisect_right(range(len(rows)), screen.height - 1, key=lines) - 1)
    more = f"{len(rows) - count} more rows do not fit into this terminal"
    return Group(_sheet(title, columns, rows[:count]), Text(more, no_wrap=True))


def print_json(value: Any) -> None:
    """Print a record or plain value as JSON on stdout; NaN and infinity become null."""
    text = json.dumps(none_for_nan(to_plain(value)), indent=1)
    _log(text)
    sys.stdout.write(text + "\n")


def _can_redraw(screen: Console) -> bool:
    """Whether lines can be drawn again in place: a terminal, and not a log in which colors are forced."""
    return screen.is_terminal and screen.file.isatty() and not screen.is_dumb_terminal


@contextlib.contextmanager
def progress(title: str, total: int, start: int = 0, quiet: bool = False) -> Iterator[Ticker]:
    """Show a progress bar with the count, the elapsed time and the time left.

    In a notebook, one line is updated in place. Without a terminal, plain lines are printed instead, at most one every
    ten seconds. The log file gets at most one line a minute. At the level QUIET only the log file gets lines.

    Args:
        title: Text in front of the bar.
        total: Number of items.
        start: Number of items that were finished before; they do not count for the time left.
        quiet: Tell nothing, also not the log file.

    Yields:
        The callback that reports progress.
    """
    if quiet:
        yield _report_nothing
        return
    logged = _PlainTicker(title, total, start, _log, _LOG_SECONDS)
    with _shown_progress(title, total, start) as shown:

        def tick(done: int, note: str = "") -> None:
            shown(done, note)
            logged(done, note)

        yield tick


@contextlib.contextmanager
def _shown_progress(title: str, total: int, start: int) -> Iterator[Ticker]:
    """Progress as a terminal, a notebook or a plain log can show it."""
    if _now.level < Level.NORMAL:
        yield _report_nothing
    elif _err.is_jupyter:
        yield _PlainTicker(title, total, start, _NotebookLine(), _NOTEBOOK_SECONDS)
    elif not _can_redraw(_err):
        yield _PlainTicker(title, total, start, _print_line, _PLAIN_SECONDS)
    else:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, console=_err) as bar:
            task = bar.add_task(_visible(title), total=total, completed=start, note="")
            yield lambda done, note="": bar.update(task, completed=done, note=_visible(note))


def _report_nothing(done: int, note: str = "") -> None:
    """A `Ticker` that prints nothing."""


def _print_line(line: str) -> None:
    _err.print(_plain(line), soft_wrap=True)


class _NotebookLine:
    """A line below a notebook's cell that is replaced by the next one. It needs no widgets."""

    def __init__(self) -> None:
        self._shown: Any = None

    def __call__(self, line: str) -> None:
        from IPython.display import display

        content = {"text/plain": _visible(line)}
        if self._shown is None:
            self._shown = display(content, raw=True, display_id=True)
        else:
            self._shown.update(content, raw=True)


class _PlainTicker:
    """Progress as lines, with a least time between two of them.

    Args:
        title: Text in front.
        total: Number of items.
        start: Number of items that were finished before.
        emit: Shows a line.
        seconds: Least time between two lines. The last item has a line in any case.
    """

    def __init__(self, title: str, total: int, start: int, emit: Callable[[str], None], seconds: float) -> None:
        self.title, self.total, self.start, self.emit, self.seconds = title, total, start, emit, seconds
        self.begun = self.printed = time.monotonic()

    def __call__(self, done: int, note: str = "") -> None:
        now = time.monotonic()
        if done < self.total and now - self.printed < self.seconds:
            return
        self.printed = now
        spent = now - self.begun
        left = spent / max(1, done - self.start) * (self.total - done)
        self.emit(f"{self.title} {done}/{self.total}  {clock(spent)} spent, {clock(left)} left  {note}")


def clock(seconds: float) -> str:
    """Format seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def rough_time(seconds: float) -> str:
    """Format an estimate in seconds, minutes or hours."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """Format a number of bytes in MiB or GiB."""
    if count >= 2**30:
        return f"{count / 2**30:.1f} GiB"
    return f"{count / 2**20:.{0 if count >= 10 * 2**20 else 1}f} MiB"
