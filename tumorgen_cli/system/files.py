"""Atomic and verified writes, hashes of files, and seeds. `data.volumes` writes scans."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import io
import itertools
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tumorgen_cli.system.errors import Fault, StateError, from_system_error

#: what the folders of unfinished files begin with; nnU-Net lists the files of a folder, not of folders in it
UNFINISHED = ".unfinished-"
_LONGEST_ENDING = 16  # characters; what follows the last dot of a longer name is no ending
_ABANDONED_SECONDS = 24 * 3600.0


@contextlib.contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    """Turn errors of the system while `path` is written into a `StateError`: a full disk, a protected folder.

    Errors that name a file of another place, which the block reads, are left as they are. Of two names, as those of a
    copy, the second is the one that is written.
    """
    try:
        yield
    except OSError as error:
        name = error.filename2 or error.filename
        place = Path(name).parent if isinstance(name, (str, os.PathLike)) else path.parent
        other = place != path.parent and not place.name.startswith(UNFINISHED)
        raise (None if other else from_system_error(error, path)) or error from error


def file_name(text: str) -> str:
    """A text as one file name: what is neither letter, digit, `_`, `.`, `+` nor `-` becomes `-`."""
    return re.sub(r"[^\w.+-]", "-", text)


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Give a hidden folder for unfinished files, which is removed at the end.

    Such folders that killed processes have left beside it are removed, too.

    Yields:
        The folder, in `parent`.
    """
    parent.mkdir(parents=True, exist_ok=True)
    _remove_unfinished(parent)
    folder = parent / f"{UNFINISHED}{_machine()}-{os.getpid()}-{secrets.token_hex(4)}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary file. It replaces `path` if the block succeeds, and is removed otherwise.

    It lies in a hidden folder of its own beside `path`. Such folders that killed processes have left are removed.

    Yields:
        The path of the temporary file, with the same file ending.

    Raises:
        StateError: no space left, or the folder cannot be written.
    """
    ending = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix  # writers are chosen by the ending
    with _write_errors(path), scratch_folder(path.parent) as folder:
        temporary = folder / f"file{ending if len(ending) <= _LONGEST_ENDING else ''}"
        yield temporary
        if temporary.lstat().st_nlink == 1 and not temporary.is_symlink():  # a file of our own, not the user's
            temporary.chmod(folder.stat().st_mode & 0o666)  # the umask's; some writers keep files to their user
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())  # a full network disk may say so only now
        temporary.replace(path)


@functools.cache  # once per folder and process
def _remove_unfinished(folder: Path) -> None:
    """Remove the unfinished files of processes that have ended.

    A process of this machine has ended if there is none of its number; one of another machine (folders may be shared),
    if its file is a day old.
    """
    for left in folder.glob(f"{UNFINISHED}*-*-*"):
        machine, process, _ = left.name.removeprefix(UNFINISHED).split("-", 2)
        with contextlib.suppress(OSError, ValueError):
            ended = machine == _machine() and not _is_running(int(process))
            if ended or time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(left, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


@functools.cache
def _machine() -> str:
    """A name for all processes that see each other's numbers: a machine, or a container on it."""
    numbers = Path("/proc/self/ns/pid")
    name = f"{platform.node()}:{numbers.stat().st_ino if numbers.exists() else 0}"
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def write_parts(path: Path, parts: Iterable[bytes | memoryview]) -> str:
    """Write a file atomically, part by part; it is read again before it takes its name.

    Returns:
        The hash of the file (`hash_file`).

    Raises:
        StateError: what is on disk is not the parts: no space left, a limit on file sizes, a broken disk.
    """
    with atomic(path) as temporary:
        digest = hashlib.sha256()
        with temporary.open("wb") as stream:
            for part in parts:
                digest.update(part)
                stream.write(part)
        expected = digest.hexdigest()[:16]
        if hash_file(temporary) != expected:
            raise OSError(errno.EIO, "what is on disk is not what was written", str(path))
    return expected


def write_bytes(path: Path, content: bytes | memoryview) -> str:
    """Write a file by `write_parts`; return its hash."""
    return write_parts(path, (content,))


def write_stream(path: Path, write: Callable[[io.BytesIO], object]) -> str:
    """Write a file that a library makes, by `write_bytes`.

    The library writes to memory. On a full disk, libraries raise errors of their own, or write less than they should.

    Args:
        path: The file.
        write: Writes the content to a stream.

    Returns:
        The hash of the file (`hash_file`).

    Raises:
        StateError: as `write_bytes`.
    """
    stream = io.BytesIO()
    write(stream)
    return write_bytes(path, stream.getbuffer())


def free_bytes(path: Path) -> int:
    """The free space where a file or folder is, or would be made."""
    path = path.absolute()
    return shutil.disk_usage(next(each for each in (path, *path.parents) if each.is_dir())).free


def append_line(path: Path, text: str) -> None:
    """Append a line to a text file.

    Raises:
        StateError: no space left, or the file cannot be written.
    """
    with _write_errors(path), path.open("a", encoding="utf-8") as stream:
        stream.write(text + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically and verified, in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def hash_file(path: Path) -> str:
    """The first 16 hex digits of the SHA-256 of a file's content."""
    return hash_files((path,))


def hash_once(*paths: Path) -> str:
    """`hash_files`, computed once in a process as long as the files are the same (`file_version`)."""
    return _hash_version(paths, tuple(map(file_version, paths)))


def file_version(path: Path) -> tuple[int, int, int] | None:
    """What tells a file from one that has replaced it: inode, size and time in ns; None if there is no file.

    A folder has the size of its files and the time of the newest.
    """
    try:
        stat = path.stat()
        if not path.is_dir():
            return stat.st_ino, stat.st_size, stat.st_mtime_ns
        inner = [each.stat() for each in _files_of(path)]
    except FileNotFoundError:
        return None
    size, newest = sum(each.st_size for each in inner), max((each.st_mtime_ns for each in inner), default=0)
    return stat.st_ino, size, max(newest, stat.st_mtime_ns)


def file_size(path: Path) -> int:
    """Bytes of a file, or of the files of a folder; 0 if there is none."""
    version = file_version(path)
    return 0 if version is None else version[1]


def _files_of(path: Path) -> list[Path]:
    """The files that are hashed for a path: itself, or, of a folder, its files by name, without hidden ones."""
    if not path.is_dir():
        return [path]
    return [each for each in sorted(path.iterdir()) if each.is_file() and not each.name.startswith(".")]


@functools.lru_cache(maxsize=1 << 16)
def _hash_version(paths: tuple[Path, ...], _versions: tuple[tuple[int, int, int] | None, ...]) -> str:
    return hash_files(paths)


def hash_files(paths: Iterable[Path]) -> str:
    """The first 16 hex digits of the SHA-256 of the content of files, one after the other.

    A folder, such as one of a DICOM series, counts as its files.
    """
    digest = hashlib.sha256()
    for path in itertools.chain.from_iterable(map(_files_of, paths)):
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()[:16]


def check_hash(path: Path, expected: str, remedy: str) -> None:
    """Check that a file is still the one whose hash was recorded.

    Args:
        path: The file.
        expected: Its SHA-256, or the first 16 hex digits, as `hash_file` returns them.
        remedy: What the user should do if it is not.

    Raises:
        StateError: the file is missing, or its content has changed.
    """
    if not path.is_file():
        raise StateError("A file is missing", [Fault(str(path), "no such file", f"the one of hash {expected}", remedy)])
    if (found := hash_file(path)) != expected[:16]:
        fault = Fault(str(path), f"other content than was recorded (hash {found})", f"hash {expected[:16]}", remedy)
        raise StateError("A file is damaged or was replaced", [fault])


def derive_seed(*parts: int | str) -> int:
    """Derive a 63-bit seed that depends on all parts and on nothing else."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
