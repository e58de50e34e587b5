"""Locks of folders: links and files of others are refused, and a holder is named."""

import contextlib
import errno
import fcntl
import os
from pathlib import Path

import pytest

from tumorgen_cli.system import locks
from tumorgen_cli.system.errors import StateError


@pytest.mark.parametrize("name", [".lock", ".lock_1_of_2", ".lock_turn"])
def test_a_lock_that_is_a_link_is_refused_and_its_target_is_kept(tmp_path, name):
    (tmp_path / "diary").write_text("dear diary")
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / name).symlink_to(tmp_path / "diary")
    block = locks.wait_for_turn(folder) if name == ".lock_turn" else locks.locked(folder, "plan", "1_of_2")
    with pytest.raises(StateError, match="delete the link"), block:
        pass
    assert (tmp_path / "diary").read_text() == "dear diary"


def test_a_lock_of_another_user_is_told(tmp_path, monkeypatch):
    def denied(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(StateError, match="change its permissions") as error, locks.locked(tmp_path, "plan"):
        pass
    assert error.value.faults[0].where == str(tmp_path / ".lock")


def test_a_workspace_that_is_a_file_is_told(tmp_path):
    (tmp_path / "work").write_text("x")
    with pytest.raises(StateError, match="move the file away"), locks.locked(tmp_path / "work", "plan"):
        pass
    with pytest.raises(StateError, match="move the file away"), locks.locked(tmp_path / "work" / "set", "plan"):
        pass


@pytest.mark.parametrize("part", [None, "1_of_2"])
def test_the_holder_is_named_while_it_holds(tmp_path, part):
    assert locks.lock_holder(tmp_path) is None
    with locks.locked(tmp_path, "train vae", part):
        assert locks.lock_holder(tmp_path) == f"tumorgen train vae, process {os.getpid()}"
    assert locks.lock_holder(tmp_path) is None
    assert (tmp_path / ".lock").is_file()  # the file stays, the lock does not


def test_a_look_at_a_lock_does_not_refuse_a_command(tmp_path: Path, monkeypatch):
    import fcntl

    (tmp_path / ".lock").touch()
    with (tmp_path / ".lock").open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        monkeypatch.setattr(locks.time, "sleep", lambda _: fcntl.flock(stream, fcntl.LOCK_UN))  # the look is over
        with locks.locked(tmp_path, "plan"):
            pass


def test_a_refused_command_leaves_no_folder(tmp_path):
    folder = tmp_path / "deep" / "work"
    with pytest.raises(ValueError, match="refused"), locks.locked(folder, "plan"):
        raise ValueError("refused")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="refused"), locks.locked(folder, "synthesize", "1_of_2"):
        raise ValueError("refused")
    assert list(tmp_path.iterdir()) == []


def fail_in(folder, part=None, write=False):
    """Take the lock of a folder and fail, after a file was written or before."""
    with locks.locked(folder, "plan", part):
        if write:
            (folder / "half.json").write_text("x")
        raise ValueError("refused")


def test_a_folder_with_files_or_from_before_is_kept(tmp_path):
    with pytest.raises(ValueError, match="refused"):
        fail_in(tmp_path / "new", write=True)
    assert (tmp_path / "new" / "half.json").is_file()
    (tmp_path / "old").mkdir()
    with pytest.raises(ValueError, match="refused"):
        fail_in(tmp_path / "old")
    assert list((tmp_path / "old").iterdir()) == []
    (tmp_path / "old" / ".lock").touch()  # of an earlier command, or of another program
    with pytest.raises(ValueError, match="refused"):
        fail_in(tmp_path / "old", "1_of_2")
    assert [path.name for path in (tmp_path / "old").iterdir()] == [".lock"]


def test_a_folder_in_which_another_part_works_is_kept(tmp_path):
    folder = tmp_path / "set"
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        first.enter_context(locks.locked(folder, "synthesize", "1_of_2"))
        second.enter_context(locks.locked(folder, "synthesize", "2_of_2"))
        with pytest.raises(ValueError, match="refused"):
            fail_in(folder, "3_of_3")
        assert (folder / ".lock_1_of_2").is_file()


def test_a_full_disk_names_the_lock(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StateError, match="free some space") as error, locks.locked(tmp_path / "work", "plan"):
        pass
    assert error.value.faults[0].where == str(tmp_path / "work" / ".lock")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def test_a_file_system_without_locks_is_told_and_nothing_is_left(tmp_path, monkeypatch, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / "there").mkdir()
    for folder in (tmp_path / "there", tmp_path / "new" / "folder"):
        with pytest.raises(StateError, match="A folder cannot be locked") as error, locks.locked(folder, "plan"):
            pass
        assert error.value.faults[0].found == f"no locks: {os.strerror(number)}"
    assert [*tmp_path.rglob("*")] == [tmp_path / "there"]
