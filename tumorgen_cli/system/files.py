"""Atomic writes, hashes and links of files, and seeds. `data.volumes` writes scans."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from tumorgen_cli.system.errors import from_system_error


@contextlib.contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    """Turn errors of the system while `path` is written into a `StateError`: a full disk, a protected folder.

    Errors that name a file of another folder, which the block reads, are left as they are.
    """
    try:
        yield
    except OSError as error:
        other = isinstance(error.filename, str) and Path(error.filename).parent != path.parent
        raise (None if other else from_system_error(error, path)) or error from error


def file_name(text: str) -> str:
    """A text as one file name: what is neither letter, digit, `_`, `.`, `+` nor `-` becomes `-`."""
    return re.sub(r"[^\w.+-]", "-", text)


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary file beside `path`. It replaces `path` if the block succeeds and is removed otherwise.

    Yields:
        The path of the temporary file, with the same file ending.

    Raises:
        StateError: no space left, or the folder cannot be written.
    """
    endings = "".join(path.suffixes[-2:])  # SimpleITK chooses its writer by the ending
    # process numbers are unique on one machine only, and folders may be shared between machines
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp{endings}")
    with _write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def append_line(path: Path, text: str) -> None:
    """Append a line to a text file.

    Raises:
        StateError: no space left, or the file cannot be written.
    """
    with _write_errors(path), path.open("a", encoding="utf-8") as stream:
        stream.write(text + "\n")


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`, or a copy where links are impossible.

    A target with the same content is left as it is.
    """
    source = source.resolve()  # a hard link to a relative symbolic link would point to another place from here
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
    """Write a text file atomically, in UTF-8."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def hash_file(path: Path) -> str:
    """The first 16 hex digits of the SHA-256 of a file's content."""
    return hash_files((path,))


def hash_files(paths: Iterable[Path]) -> str:
    """The first 16 hex digits of the SHA-256 of the content of files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()[:16]


def derive_seed(*parts: int | str) -> int:
    """Derive a 63-bit seed that depends on all parts and on nothing else."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
