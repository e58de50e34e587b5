"""A command's log file: what is in it, when it is created, and what never stops a command."""

import re
from pathlib import Path

import pytest
import typer

from tumorgen_cli.system import console
from tumorgen_cli.system.command_log import CommandLog
from tumorgen_cli.system.errors import DataError, Fault, PlanError


@pytest.fixture
def root(tmp_path):
    """A planned workspace."""
    (tmp_path / "plan.json").touch()
    return tmp_path


@pytest.fixture
def begin():
    """Begins a log, which is closed after the test."""
    begun = []

    def make(root, command):
        begun.append(CommandLog(root, command))
        return begun[-1]

    yield make
    for log in begun:
        log.finish(None, "")


def logs(root):
    return sorted((root / "logs").glob("*")) if (root / "logs").is_dir() else []


def lines(root):
    """What was told, without times, in the only log."""
    (path,) = logs(root)
    _, _, told = path.read_text(encoding="utf-8").partition("\n\n")
    found = [re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  (.*)\n", line) for line in told.splitlines(keepends=True)]
    assert all(found), told
    return [line[1] for line in found]


def test_all_that_is_told_is_in_the_log_at_every_level(begin, root, capsys):
    log = begin(root, "train")
    with console.session(console.Level.QUIET, log):
        console.detail("a detail")
        console.headline("1/5 plan")
        console.warn("case\x1b[2J\nis odd")
        with console.progress("vae", 2) as tick:
            tick(1)
            tick(2, "0.5")
        console.table("Scores", ("name",), [("dice",)])
        console.print_json({"a": 1})
        console.show_error(DataError("Wrong", [Fault("scan", "x", "y", "z")]))
        console.next_command("tumorgen status")
    log.finish(None, "0:01, with a peak memory of 1.00 GiB")
    told = lines(root)
    assert told[:5] == [
        "a detail",
        "1/5 plan",
        r"warning: case\x1b[2J",
        "is odd",
        "vae 2/2  0:00 spent, 0:00 left  0.5",
    ]
    assert told[5] == "Scores"
    assert any("dice" in line for line in told)
    assert told[-10:-6] == ["{", ' "a": 1', "}", "error: Wrong"]
    assert told[-2:] == ["next: tumorgen status", "ended with exit code 0 after 0:01, with a peak memory of 1.00 GiB"]
    heading = logs(root)[0].read_text().partition("\n\n")[0]
    assert [line.split(":")[0] for line in heading.splitlines()] == [
        "# command",
        "# folder",
        "# versions",
        "# machine",
        "# begun",
    ]
    assert re.search(r"versions: tumorgen \S+, Python 3\.\d+\.\d+, torch \d", heading)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_train\.log", logs(root)[0].name)
    console.note("told after the end")
    assert "told after" not in logs(root)[0].read_text()


def test_nothing_is_created_without_news_or_without_a_planned_workspace(begin, tmp_path):
    new = tmp_path / "new"
    log = begin(new, "plan")
    log.write("checking")
    assert not new.exists()
    new.mkdir()
    log.write("still checking")
    assert not logs(new)
    (new / "plan.json").touch()
    log.write("planned")
    assert lines(new) == ["checking", "still checking", "planned"]

    (model := tmp_path / "model").mkdir()
    for name in ("plan.json", "model.json"):
        (model / name).touch()
    begin(model, "synthesize").write("a model is only read")
    assert not logs(model)


def test_wrong_options_alone_leave_no_log_and_other_errors_do(begin, root):
    log = begin(root, "train")
    with console.session(console.Level.NORMAL, log):
        console.show_error(PlanError("Options that do not apply"))
    log.finish(typer.Exit(1), "0:00")
    assert not logs(root)
    log = begin(root, "train")
    with console.session(console.Level.NORMAL, log):
        console.show_error(DataError("The data set has changed"))
    log.finish(typer.Exit(1), "0:00")
    assert lines(root) == ["error: The data set has changed", "ended with exit code 1 after 0:00"]


def test_a_bug_leaves_its_traceback(begin, root):
    log = begin(root, "train")
    log.finish(ZeroDivisionError("a bug"), "0:00")
    assert lines(root)[-2:] == ["ZeroDivisionError: a bug", "ended by a bug after 0:00"]


@pytest.mark.parametrize(("stop", "code"), [(typer.Exit(130), 130), (SystemExit(130), 130), (BrokenPipeError(), 1)])
def test_a_stop_is_no_bug(begin, root, stop, code):
    log = begin(root, "train")
    log.write("trains")
    log.finish(stop, "0:00")
    assert lines(root) == ["trains", f"ended with exit code {code} after 0:00"]


@pytest.mark.parametrize("name", ["w" * 300, "other/w"])
def test_a_workspace_that_cannot_be_looked_at_has_no_log(begin, root, name, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    if name == "other/w":  # a folder of another user
        monkeypatch.setattr(Path, "is_file", refuse)
    log = begin(root / name, "train")
    log.write("error: no such workspace")
    log.finish(typer.Exit(1), "0:00")
    assert not logs(root)


def test_commands_of_one_second_have_logs_of_their_own(begin, root):
    first, second = (begin(root, "train") for _ in range(2))
    second._begun = first._begun
    first.write("one")
    second.write("two")
    assert [path.read_text().split()[-1] for path in logs(root)] == ["one", "two"]
    assert logs(root)[1].stem == f"{logs(root)[0].stem}_2"


def test_a_workspace_that_cannot_be_written_has_no_log(begin, root):
    (root / "logs").touch()  # a file is in the way
    log = begin(root, "train")
    log.write("one")
    log.write("two")
    log.finish(None, "0:00")
    assert (root / "logs").read_bytes() == b""


def test_a_name_in_another_encoding_is_written_as_an_escape(begin, root):
    begin(root, "train").write("scan\udce9")
    assert lines(root) == [r"scan\udce9"]
