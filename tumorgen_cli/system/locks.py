"""Locks of folders: only one process writes a stage at a time, and processes on several nodes take turns."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from tumorgen_cli.system.errors import Fault, StateError, from_system_error

_IN_USE = (errno.EWOULDBLOCK, errno.EACCES)  # what flock says of a lock that another process holds
_TRIES, _PAUSE_SECONDS = 5, 0.02  # `lock_holder` of another process takes a lock for a moment


@contextlib.contextmanager
def locked(folder: Path, command: str, part: str | None = None) -> Iterator[None]:
    """Lock a folder for one command, or for one part of a command that other processes run at the same time.

    The lock is released when the block or the process ends, in whatever way. If the block fails, the lock's files and
    folders that were made here are removed again, unless the block has written there.

    Args:
        folder: The folder, which is made if it is missing.
        command: Name of the command, for the error message of others.
        part: Name of the part. Different parts may hold the folder at the same time.

    Raises:
        StateError: another command or the same part holds the lock; the message names it and its process. Or the
            folder cannot be made or written, or its lock is a link.
    """
    made, locks = _make_folder(folder), set(folder.glob(".lock*"))
    try:
        with _held(folder / ".lock", command, shared=part is not None) as stream:
            try:
                with contextlib.nullcontext() if part is None else _held(folder / f".lock_{part}", f"{command} {part}"):
                    yield
            except BaseException:
                _remove_unused(folder, made, locks, stream)
                raise
    except _NoLocksError:
        _remove_unused(folder, made, locks, None)
        raise


@contextlib.contextmanager
def wait_for_turn(folder: Path) -> Iterator[None]:
    """Let one of the processes that share a folder run the block at a time; the others wait. For short blocks only.

    Raises:
        StateError: the file system has no locks.
    """
    import fcntl

    _make_folder(folder)
    with _open_lock(folder / ".lock_turn") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError as error:
            raise _no_locks(folder, error) from error
        yield


def lock_holder(folder: Path) -> str | None:
    """Who holds the lock of a folder, for example "tumorgen train vae, process 4711"; None if it is free."""
    import fcntl

    try:
        with (folder / ".lock").open(encoding="utf-8", errors="replace") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released when the file is closed
            except OSError as error:
                return _read_holder(stream) if error.errno in _IN_USE else None
    except OSError:  # no lock, or one that this user may not read
        pass
    return None


def _make_folder(folder: Path) -> list[Path]:
    """Make a folder and those above it; returns the ones that were not there, the deepest first."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        cause = from_system_error(error, folder)
        raise StateError("A folder cannot be made", cause.faults if cause else ()) from error
    return missing


class _NoLocksError(StateError):
    """The file system has no locks."""


def _remove_unused(folder: Path, made: list[Path], kept: set[Path], stream: TextIO | None) -> None:
    """Remove the locks of a folder, and the folders that were made for them, if nobody else uses them.

    Args:
        folder: The folder.
        made: The folders that were made, the deepest first.
        kept: The locks that were there before.
        stream: The lock of the folder, which is held; None where there are no locks.
    """
    import fcntl

    with contextlib.suppress(OSError):
        if stream is not None:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails where another part works
        for file in {*folder.glob(".lock*")} - kept:
            file.unlink()
        for each in made:
            each.rmdir()  # fails where something was written


def _no_locks(folder: Path, error: OSError) -> StateError:
    """The error for a file system without locks, for example Lustre mounted without `flock`."""
    remedy = "work on another file system (--work, --out), or have this one mounted with locks"
    return _NoLocksError(
        "A folder cannot be locked",
        [Fault(str(folder), f"no locks: {error.strerror}", "a file system with flock", remedy)],
    )


def _open_lock(path: Path) -> TextIO:
    """Open the file of a lock for reading and writing; it is made if it is missing.

    Raises:
        StateError: the file is a link, which may lead to any file of the user, or it cannot be written.
    """
    try:
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if path.is_symlink():
            fault = Fault(str(path), f"a link to {path.readlink()}", "a file of its own", "delete the link")
            raise StateError("A folder cannot be locked", [fault]) from error
        raise from_system_error(error, path) or error from error
    return os.fdopen(number, "r+", encoding="utf-8", errors="replace")


def _read_holder(stream: TextIO) -> str:
    """Who holds a lock, by the text in its file."""
    stream.seek(0)
    return stream.read().strip() or "another command"


def _write_holder(path: Path, stream: TextIO, command: str) -> None:
    """Write who holds a lock.

    Raises:
        StateError: the disk is full or broken.
    """
    try:
        os.ftruncate(stream.fileno(), 0)
        os.write(stream.fileno(), f"tumorgen {command}, process {os.getpid()}".encode())
    except OSError as error:
        raise from_system_error(error, path) or error from error


@contextlib.contextmanager
def _held(path: Path, command: str, shared: bool = False) -> Iterator[TextIO]:
    import fcntl

    for _ in range(_TRIES):
        with _open_lock(path) as stream:
            try:
                fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in _IN_USE:
                    raise _no_locks(path.parent, error) from error
                holder = _read_holder(stream)
            else:
                if path.exists() and os.path.samestat(os.fstat(stream.fileno()), path.stat()):
                    _write_holder(path, stream, command)
                    yield stream
                    return
                holder = "another command"  # which has failed and removed its lock
        time.sleep(_PAUSE_SECONDS)
    remedy = "wait for it, stop it, or work in another folder with --work"
    fault = Fault(str(path.parent), f"in use by {holder}", "one command at a time", remedy)
    raise StateError("The folder is in use", [fault])
