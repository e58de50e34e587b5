"""What the user sees: tables, notes, progress with time left, the next command. Output goes to stderr, results to stdout."""

from __future__ import annotations

import contextlib
import json
import sys
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
    """Told how many are done, and of which."""

    def __call__(self, done: int, note: str = "") -> None: ...


def note(text: str) -> None:
    """A plain line."""
    _err.print(escape(text))


def warn(text: str) -> None:
    _err.print(f"[yellow]warning:[/] {escape(text)}")


def headline(text: str) -> None:
    _err.print(f"\n[bold]{escape(text)}[/]")


def next_command(command: str) -> None:
    """The line every command ends with."""
    _err.print(f"[green]next:[/] {escape(command)}", soft_wrap=True)


def show_error(error: TumorgenError) -> None:
    _err.print(f"[red bold]error:[/] {escape(str(error))}", soft_wrap=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table on stdout; wide cells fold."""
    sheet = Table(title=title, title_justify="left", show_lines=False)
    for column in columns:
        sheet.add_column(column, overflow="fold")
    for row in rows:
        sheet.add_row(*(escape(str(cell)) for cell in row))
    _out.print(sheet)


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(none_for_nan(to_plain(value)), indent=1) + "\n")


@contextlib.contextmanager
def progress(title: str, total: int, start: int = 0, quiet: bool = False) -> Iterator[Ticker]:
    """A bar with count, time spent and time left; plain lines now and then where there is no terminal."""
    if quiet:
        yield lambda done, note="": None
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


class _PlainTicker:
    """Progress for logs: a line at most every ten seconds."""

    def __init__(self, title: str, total: int, start: int) -> None:
        import time

        self.clock, self.title, self.total, self.start = time.monotonic, title, total, start
        self.begun = self.said = time.monotonic()

    def __call__(self, done: int, note: str = "") -> None:
        now = self.clock()
        if done < self.total and now - self.said < 10:
            return
        self.said = now
        spent = now - self.begun
        left = spent / max(1, done - self.start) * (self.total - done)
        _err.print(
            escape(f"{self.title} {done}/{self.total}  {clock(spent)} spent, {clock(left)} left  {note}"),
            soft_wrap=True,
        )


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
