"""What reaches the terminal: text of others cannot steer it, long errors are cut, tables obey the width."""

import io
import re
from pathlib import Path

import pytest

from tumorgen_cli.system import console
from tumorgen_cli.system.errors import DataError, Fault

EVIL = "case\x1b[2J\x1b]0;title\x07\x9b31m\u202e[red]x[/] :warning: [/none]"
SHOWN = r"case\x1b[2J\x1b]0;title\x07\x9b31m\u202e[red]x[/] :warning: [/none]"


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
    stream = io.StringIO()
    monkeypatch.setattr(console, "_err", console.Console(file=stream, force_terminal=True, width=300))
    with console.progress("[/b]", 1) as tick:
        tick(1, EVIL)
    assert SHOWN in stream.getvalue()
    assert "[/b]" in stream.getvalue()


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
