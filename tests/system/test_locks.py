"""Locks of folders: links and files of others are refused, and a holder is named."""

import errno
import os
import threading
import time
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


def test_a_look_at_a_lock_does_not_refuse_a_command(tmp_path: Path):
    import fcntl

    (tmp_path / ".lock").touch()
    with (tmp_path / ".lock").open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        threading.Thread(target=lambda: (time.sleep(0.03), fcntl.flock(stream, fcntl.LOCK_UN))).start()
        with locks.locked(tmp_path, "plan"):
            pass
