"""What reaches the terminal: text of others cannot steer it, long errors are cut, tables obey the width."""

import io
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tumorgen_cli.system import console
from tumorgen_cli.system.errors import DataError, Fault

EVIL = "case\x1b[2J\x1b]0;title\x07\x9b31m\u202e[red]x[/] :warning: [/none]"
SHOWN = r"case\x1b[2J\x1b]0;title\x07\x9b31m\u202e[red]x[/] :warning: [/none]"


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    """The clock of the console, which stands still."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(console.time, "monotonic", lambda: self.now)


def test_control_characters_of_names_are_shown_not_sent(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    console.note(EVIL)
    console.warn(EVIL)
    console.headline(EVIL)
    console.next_command(EVIL)
    console.show_error(DataError(EVIL, [Fault(EVIL, EVIL, EVIL, EVIL)]))
    console.table(EVIL, (EVIL,), [(EVIL,)])
    with console.progress(EVIL, 1) as tick:
        tick(1, EVIL)
    out, err = capsys.readouterr()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", out + err)
    assert (out.count(SHOWN), err.count(SHOWN)) == (3, 11)


def test_a_bar_in_a_terminal_shows_names_as_they_are(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    monkeypatch.setattr(console, "_err", console.Console(file=stream, force_terminal=True, width=300))
    with console.progress("[/b]", 1) as tick:
        tick(1, EVIL)
    assert SHOWN in stream.getvalue()
    assert "[/b]" in stream.getvalue()


@pytest.mark.parametrize("kind", ["a pipe", "a pipe with forced colors", "a dumb terminal"])
def test_a_plain_log_gets_whole_lines_without_control_codes(monkeypatch, kind):
    monkeypatch.setenv("TERM", "dumb" if kind == "a dumb terminal" else "xterm")
    if kind == "a pipe with forced colors":
        monkeypatch.setenv("FORCE_COLOR", "1")
    stream, clock = Terminal() if kind == "a dumb terminal" else io.StringIO(), Clock(monkeypatch)
    monkeypatch.setattr(console, "_err", console.Console(file=stream, highlight=False, emoji=False))
    with console.progress("scans", 5, 1) as tick:
        for done in range(2, 6):
            clock.now += 6.0
            tick(done, "x")
    assert stream.getvalue() == "scans 3/5  0:12 spent, 0:12 left  x\nscans 5/5  0:24 spent, 0:00 left  x\n"


def test_a_notebook_has_one_line_that_is_replaced(monkeypatch):
    shown = []

    class Shown:
        def update(self, content, raw):
            shown[-1] = content["text/plain"]

    def display(content, raw, display_id):
        assert (raw, display_id) == (True, True)
        shown.append(content["text/plain"])
        return Shown()

    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    clock = Clock(monkeypatch)
    monkeypatch.setattr(console, "_err", console.Console(file=io.StringIO(), force_jupyter=True))
    with console.progress("scans", 3) as tick:
        for done in (1, 2, 3):
            clock.now += 0.3
            tick(done, "\x1b[2J")
            assert len(shown) == (done > 1), "at most two lines a second"
    assert shown == [r"scans 3/3  0:00 spent, 0:00 left  \x1b[2J"]


def test_levels_hide_notes_or_show_details(capsys):
    def told(level):
        with console.session(level):
            for tell in (console.detail, console.note, console.headline, console.warn, console.next_command):
                tell(tell.__name__)
            console.show_error(DataError("wrong"))
            with console.progress("bar", 1) as tick:
                tick(1)
        return capsys.readouterr().err.split()

    important = ["warning:", "warn", "next:", "next_command", "error:", "wrong"]
    assert told(console.Level.QUIET) == important
    bar = ["bar", "1/1", "0:00", "spent,", "0:00", "left"]
    assert told(console.Level.NORMAL) == ["note", "headline", *important, *bar]
    assert told(console.Level.VERBOSE) == ["detail", "note", "headline", *important, *bar]


def test_a_live_table_is_printed_again_only_where_it_has_changed(capsys):
    with console.live_table("title", ("step",)) as show:
        for rows in ([("one",)], [("one",)], [("two",)]):
            show(rows)
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert (out.count("title"), out.count("one"), out.count("two")) == (2, 1, 1)


def test_a_live_table_changes_in_place_in_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    monkeypatch.setattr("sys.stdout", stream)
    with console.live_table("title", ("step",)) as show:
        show([("one",)])
        show([("two",)])
    assert re.search(r"one.*\x1b\[\d*A.*two", stream.getvalue(), re.DOTALL), "the cursor goes up in between"


def test_a_live_table_tells_how_many_rows_have_no_room_and_shows_all_at_the_end(monkeypatch):
    for name, value in {"TERM": "xterm", "LINES": "12", "COLUMNS": "80"}.items():
        monkeypatch.setenv(name, value)
    stream = Terminal()
    monkeypatch.setattr("sys.stdout", stream)
    rows = [(f"row{number}",) for number in range(9)]
    with console.live_table("title", ("step",)) as show:
        show(rows[:7])
        assert "do not fit" not in stream.getvalue()
        begun = stream.tell()
        show(rows)
        seen = stream.getvalue()[begun:]
        assert re.findall(r"row\d", seen) == [f"row{number}" for number in range(6)]
        assert "3 more rows do not fit into this terminal" in seen
        assert "..." not in seen
        begun = stream.tell()
    assert re.findall(r"row\d", stream.getvalue()[begun:]) == [f"row{number}" for number in range(9)]


def test_a_live_table_fits_a_terminal_of_a_few_lines(monkeypatch):
    for name, value in {"TERM": "xterm", "LINES": "3", "COLUMNS": "80"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout", Terminal())
    with console.live_table("title", ("step",)) as show:
        show([("one",)])


def test_of_many_faults_ten_are_shown_and_a_file_has_all(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    faults = [Fault(f"scan_{i}", "no mask", "a mask", "draw one") for i in range(41)]
    console.show_error(DataError("Masks are missing", faults))
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 + 10 * 4 + 1
    assert "and 31 more; all 41 are in" in said
    (file,) = tmp_path.iterdir()
    assert str(file) in said
    assert file.read_text() == f"{DataError('Masks are missing', faults)}\n"
    console.show_error(DataError("Masks are missing", faults[:10]))
    assert "more" not in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [file]


def test_where_no_file_can_be_written_all_faults_are_shown(capsys, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    console.show_error(DataError("Masks", [Fault(f"scan_{i}", "a", "b", "c") for i in range(12)]))
    assert "scan_11" in capsys.readouterr().err


@pytest.mark.parametrize(("columns", "widest"), [("80", 80), ("50", 50), (None, 160)])
def test_a_table_is_as_wide_as_columns_says(capsys, monkeypatch, columns, widest):
    if columns is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", columns)
    console.table("a title", ("a", "b"), [("x" * 200, "y" * 200)])
    assert max(map(len, capsys.readouterr().out.splitlines())) == widest


def test_text_that_a_stream_cannot_encode_becomes_escapes(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr("sys.stdout", stream)
    console.accept_any_text()
    console.table("α – β", ("Größe",), [(Path("scan\udce9"),)])
    stream.flush()
    shown = stream.buffer.getvalue().decode("ascii")
    assert r"\u03b1 \u2013 \u03b2" in shown
    assert r"scan\udce9" in shown


@pytest.mark.parametrize(
    ("seconds", "count", "text"),
    [
        (0.2, 2**18, "1 s, 0.2 MiB"),
        (99.0, 10 * 2**20, "99 s, 10 MiB"),
        (600.0, 1023 * 2**20, "10 min, 1023 MiB"),
        (9000.0, 2**31, "2.5 h, 2.0 GiB"),
    ],
)
def test_estimates_have_readable_units(seconds, count, text):
    assert f"{console.rough_time(seconds)}, {console.size(count)}" == text
