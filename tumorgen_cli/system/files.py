"""Files: atomic writes, hashes, links. Small files only; volumes are written by `data.volumes`."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from tumorgen_cli.system.errors import Fault, StateError


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turns what a full disk or a closed folder raises into a user's error."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "free some space and run the same command again; what was finished is kept"
            raise StateError("No space left", [Fault(str(path), str(error), "room for the file", remedy)]) from error
        if error.errno in (errno.EACCES, errno.EROFS):
            remedy = "choose another folder with --work or --out"
            raise StateError("Cannot write", [Fault(str(path), str(error), "a writable folder", remedy)]) from error
        raise


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary sibling of `path` that replaces it when the block ends well and vanishes when it does not.

    Raises:
        StateError: no space left, or the folder cannot be written.
    """
    endings = "".join(path.suffixes[-2:])  # SimpleITK picks its writer by the ending
    # a process's number is its own on one machine alone
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp{endings}")
    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def append_line(path: Path, text: str) -> None:
    """Adds a line to a text file.

    Raises:
        StateError: no space left, or the file cannot be written.
    """
    with _told(path), path.open("a", encoding="utf-8") as stream:
        stream.write(text + "\n")


def link_or_copy(source: Path, target: Path) -> None:
    """Makes `target` a hard link to `source` where the disk allows, else a copy; one of the same content is left alone."""
    source = source.resolve()  # a hard link to a symbolic one is a symbolic one, which points elsewhere from here
    if target.is_file() and (target.samefile(source) or hash_file(target) == hash_file(source)):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without hard links
        with atomic(target) as temporary:
            shutil.copyfile(source, temporary)


def write_text(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def hash_file(path: Path) -> str:
    """Short SHA-256 of a file's content."""
    return hash_files((path,))


def hash_files(paths: Iterable[Path]) -> str:
    """Short SHA-256 of the content of files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()[:16]


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part and on nothing else."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
