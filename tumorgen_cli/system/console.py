"""What the user sees: tables, notes, progress with the time left, the next command.

Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from tumorgen_cli.system.errors import TumorgenError
from tumorgen_cli.system.json_records import none_for_nan, to_plain

T = TypeVar("T")
_err = Console(stderr=True, highlight=False)
_out = Console(highlight=False, width=None if sys.stdout.isatty() else 160)


class Ticker(Protocol):
    """A callback that reports progress."""

    def __call__(self, done: int, note: str = "") -> None:
        """Report that `done` items are finished; `note` names the latest one."""


def note(text: str) -> None:
    """Print a line."""
    _err.print(escape(text))


def warn(text: str) -> None:
    """Print a warning."""
    _err.print(f"[yellow]warning:[/] {escape(text)}")


def headline(text: str) -> None:
    """Print a heading with an empty line above it."""
    _err.print(f"\n[bold]{escape(text)}[/]")


def next_command(command: str) -> None:
    """Print the command to run next; every command ends with this line."""
    _err.print(f"[green]next:[/] {escape(command)}", soft_wrap=True)


def show_error(error: TumorgenError) -> None:
    """Print an error with all its faults."""
    _err.print(f"[red bold]error:[/] {escape(str(error))}", soft_wrap=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table on stdout; the text of wide cells wraps."""
    sheet = Table(title=title, title_justify="left", show_lines=False)
    for column in columns:
        sheet.add_column(column, overflow="fold")
    for row in rows:
        sheet.add_row(*(escape(str(cell)) for cell in row))
    _out.print(sheet)


def print_json(value: Any) -> None:
    """Print a record or plain value as JSON on stdout; NaN and infinity become null."""
    sys.stdout.write(json.dumps(none_for_nan(to_plain(value)), indent=1) + "\n")


@contextlib.contextmanager
def progress(title: str, total: int, start: int = 0, quiet: bool = False) -> Iterator[Ticker]:
    """Show a progress bar with the count, the elapsed time and the time left.

    Without a terminal, plain lines are printed instead, at most one every ten seconds. `quiet` prints nothing.

    Args:
        title: Text in front of the bar.
        total: Number of items.
        start: Number of items that were finished before; they do not count for the time left.
        quiet: Print nothing.

    Yields:
        The callback that reports progress.
    """
    if quiet:
        yield _report_nothing
        return
    if not _err.is_terminal:
        yield _PlainTicker(title, total, start)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=_err) as bar:
        task = bar.add_task(title, total=total, completed=start, note="")
        yield lambda done, note="": bar.update(task, completed=done, note=note)


def _report_nothing(done: int, note: str = "") -> None:
    """A `Ticker` that prints nothing."""


class _PlainTicker:
    """Progress for logs: at most one line every ten seconds."""

    def __init__(self, title: str, total: int, start: int) -> None:
        self.title, self.total, self.start = title, total, start
        self.begun = self.printed = time.monotonic()

    def __call__(self, done: int, note: str = "") -> None:
        now = time.monotonic()
        if done < self.total and now - self.printed < 10:
            return
        self.printed = now
        spent = now - self.begun
        left = spent / max(1, done - self.start) * (self.total - done)
        _err.print(
            escape(f"{self.title} {done}/{self.total}  {clock(spent)} spent, {clock(left)} left  {note}"),
            soft_wrap=True,
        )


def clock(seconds: float) -> str:
    """Format seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
