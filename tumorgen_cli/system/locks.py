"""Locks of folders: only one process writes a stage at a time, and processes on several nodes take turns."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from tumorgen_cli.system.errors import Fault, StateError


@contextlib.contextmanager
def locked(folder: Path, command: str, part: str | None = None) -> Iterator[None]:
    """Lock a folder for one command, or for one part of a command that other processes run at the same time.

    The lock is released when the block or the process ends, in whatever way.

    Args:
        folder: The folder, which is made if it is missing.
        command: Name of the command, for the error message of others.
        part: Name of the part. Different parts may hold the folder at the same time.

    Raises:
        StateError: another command or the same part holds the lock; the message names it and its process.
    """
    _make_folder(folder)
    with _held(folder / ".lock", command, shared=part is not None):
        if part is None:
            yield
            return
        with _held(folder / f".lock_{part}", f"{command} {part}"):
            yield


@contextlib.contextmanager
def wait_for_turn(folder: Path) -> Iterator[None]:
    """Let one of the processes that share a folder run the block at a time; the others wait. For short blocks only.

    Raises:
        StateError: the file system has no locks.
    """
    import fcntl

    _make_folder(folder)
    with (folder / ".lock_turn").open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError as error:
            raise _no_locks(folder, error) from error
        yield


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        found = "a file" if isinstance(error, (FileExistsError, NotADirectoryError)) else error.strerror
        fault = Fault(str(folder), str(found), "a folder that can be written", "choose another place")
        raise StateError("A folder cannot be made", [fault]) from error


def _no_locks(folder: Path, error: OSError) -> StateError:
    """The error for a file system without locks, for example Lustre mounted without `flock`."""
    remedy = "work on another file system, or have this one mounted with locks"
    return StateError(
        "A folder cannot be locked",
        [Fault(str(folder), f"no locks: {error.strerror}", "a file system with flock", remedy)],
    )


@contextlib.contextmanager
def _held(path: Path, command: str, shared: bool = False) -> Iterator[None]:
    import fcntl

    with path.open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise _no_locks(path.parent, error) from error
            stream.seek(0)
            holder = stream.read().strip() or "another command"
            remedy = "wait for it, stop it, or work in another folder with --work"
            fault = Fault(str(path.parent), f"in use by {holder}", "one command at a time", remedy)
            raise StateError("The folder is in use", [fault]) from error
        stream.truncate(0)
        stream.write(f"tumorgen {command}, process {os.getpid()}")
        stream.flush()
        yield
