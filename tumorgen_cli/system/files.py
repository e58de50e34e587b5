"""Strict JSON <-> dataclasses, atomic writes, links, hashes, the workspace lock. Reads and writes small files only."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import errno
import hashlib
import json
import math
import os
import secrets
import shutil
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tumorgen_cli.errors import Fault, PlanError, StateError

T = TypeVar("T")


# -- writing ---------------------------------------------------------------------------------------------------
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


def write_json(path: Path, value: Any) -> None:
    """Writes a record or plain value as indented JSON, atomically."""
    write_text(path, json.dumps(to_plain(value), indent=1) + "\n")


def read_plain(path: Path, remedy: str) -> Any:
    """The parsed JSON of `path`.

    Raises:
        StateError: missing or not JSON; `remedy` says what to do.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StateError("A file is missing", [Fault(str(path), "no such file", "a JSON file", remedy)]) from error
    except (json.JSONDecodeError, UnicodeDecodeError, NotADirectoryError, IsADirectoryError) as error:
        raise StateError("A file cannot be read", [Fault(str(path), str(error), "valid JSON", remedy)]) from error


def read_record(kind: type[T], path: Path, remedy: str) -> T:
    """The record of type `kind` in `path`; every unknown, missing or wrong field is reported at once.

    Raises:
        StateError: missing file or not JSON.
        PlanError: the fields do not fit `kind`.
    """
    return from_plain(kind, read_plain(path, remedy), where=path.name, remedy=remedy)


# -- records ---------------------------------------------------------------------------------------------------
def to_plain(value: Any) -> Any:
    """JSON-ready copy of records, tuples, paths and numpy scalars."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    return value


def from_plain(kind: type[T], value: Any, where: str = "", remedy: str = "correct the field") -> T:
    """A record of type `kind` from plain JSON values.

    Raises:
        PlanError: lists every unknown field (with the nearest name), missing field and wrong type.
    """
    faults: list[Fault] = []
    record = _parse(kind, value, where, remedy, faults)
    if faults:
        raise PlanError(f"{where or kind.__name__} does not fit", faults)
    return typing.cast(T, record)


def unknown_name(where: str, name: str, known: Iterable[str]) -> Fault:
    """The fault for a name nobody knows, with the nearest one that is known."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, 1)
    return Fault(
        f"{where}.{name}" if where else name,
        "an unknown name",
        f"one of {', '.join(names)}" if names else "no such field",
        f"did you mean {near[0]}?" if near else "remove it",
    )


def _parse(kind: Any, value: Any, where: str, remedy: str, faults: list[Fault]) -> Any:
    def wrong(expected: str) -> None:
        faults.append(Fault(where, f"{value!r}"[:200], expected, remedy))

    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _parse(next(a for a in args if a is not type(None)), value, where, remedy, faults)
    if origin is typing.Literal:
        if value not in args:
            wrong(f"one of {', '.join(map(str, args))}")
        return value
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            return wrong("a mapping of fields")
        hints = typing.get_type_hints(kind)
        fields = {f.name: f for f in dataclasses.fields(kind)}
        for name in value:
            if name not in fields:
                faults.append(unknown_name(where, str(name), fields))
        found = {}
        for name in fields:
            if name not in value:
                if fields[name].default is dataclasses.MISSING:
                    faults.append(Fault(f"{where}.{name}", "missing", f"a value ({hints[name]})", remedy))
            else:
                found[name] = _parse(hints[name], value[name], f"{where}.{name}", remedy, faults)
        return None if faults else kind(**found)  # type: ignore[operator]
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            return wrong(f"a list ({kind})")
        if args[-1:] == (...,):
            return tuple(_parse(args[0], v, f"{where}[{i}]", remedy, faults) for i, v in enumerate(value))
        if len(value) != len(args):
            return wrong(f"{len(args)} values")
        return tuple(_parse(a, v, f"{where}[{i}]", remedy, faults) for i, (a, v) in enumerate(zip(args, value, strict=True)))
    if origin is dict:
        if not isinstance(value, Mapping):
            return wrong("a mapping")
        return {str(k): _parse(args[1], v, f"{where}.{k}", remedy, faults) for k, v in value.items()}
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    return wrong(getattr(kind, "__name__", str(kind)))


# -- hashes ----------------------------------------------------------------------------------------------------
def hash_value(value: Any) -> str:
    """Short SHA-256 of a record's canonical JSON."""
    return hashlib.sha256(json.dumps(to_plain(value), sort_keys=True).encode()).hexdigest()[:16]


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


def none_for_nan(value: Any) -> Any:
    """JSON knows no nan: null stands for it in the files."""
    return _mapped(value, lambda v: None if isinstance(v, float) and not math.isfinite(v) else v)


def nan_for_none(value: Any) -> Any:
    return _mapped(value, lambda v: math.nan if v is None else v)


def _mapped(value: Any, leaf: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {key: _mapped(part, leaf) for key, part in value.items()}
    if isinstance(value, list):
        return [_mapped(part, leaf) for part in value]
    return leaf(value)


# -- the lock --------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def locked(folder: Path, command: str, part: str | None = None) -> Iterator[None]:
    """Holds `folder` for one command, or, beside its other parts, for a `part` of one; the lock goes with the process,
    however it ends.

    Raises:
        StateError: another command, or the same part, holds it (its name and process are told).
    """
    _make(folder)
    with _held(folder / ".lock", command, shared=part is not None):
        if part is None:
            yield
            return
        with _held(folder / f".lock_{part}", f"{command} {part}"):
            yield


@contextlib.contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """Lets one of the processes that share `folder` through at a time; the others wait. For what takes a moment."""
    import fcntl

    _make(folder)
    with (folder / ".lock_turn").open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError as error:
            raise _no_locks(folder, error) from error
        yield


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        found = "a file" if isinstance(error, (FileExistsError, NotADirectoryError)) else error.strerror
        fault = Fault(str(folder), str(found), "a folder that can be written", "choose another place")
        raise StateError("A folder cannot be made", [fault]) from error


def _no_locks(folder: Path, error: OSError) -> StateError:
    """The error where a file system cannot lock, as Lustre mounted without `flock`."""
    remedy = "work on another file system, or have this one mounted with locks"
    return StateError("A folder cannot be locked", [Fault(str(folder), f"no locks: {error.strerror}", "a file system with flock", remedy)])


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
