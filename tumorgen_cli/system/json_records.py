"""Strict conversion between JSON and frozen dataclasses; errors name the file and the field."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tumorgen_cli.system.errors import Fault, PlanError, StateError
from tumorgen_cli.system.files import write_text

T = TypeVar("T")


def write_json(path: Path, value: Any) -> None:
    """Write a record or plain value as indented JSON, atomically."""
    write_text(path, json.dumps(to_plain(value), indent=1) + "\n")


def read_plain(path: Path, remedy: str) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        remedy: What the user should do if the file is missing or damaged.

    Raises:
        StateError: the file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StateError("A file is missing", [Fault(str(path), "no such file", "a JSON file", remedy)]) from error
    except (json.JSONDecodeError, UnicodeDecodeError, NotADirectoryError, IsADirectoryError) as error:
        raise StateError("A file cannot be read", [Fault(str(path), str(error), "valid JSON", remedy)]) from error


def read_record(kind: type[T], path: Path, remedy: str) -> T:
    """Read a record of type `kind` from a JSON file.

    Args:
        kind: The type.
        path: The file.
        remedy: What the user should do about faults.

    Raises:
        StateError: the file is missing or not JSON.
        PlanError: the fields do not fit `kind`; all unknown, missing and wrong fields are listed.
    """
    return from_plain(kind, read_plain(path, remedy), where=path.name, remedy=remedy)


def to_plain(value: Any) -> Any:
    """Convert records, tuples, paths and NumPy values to plain JSON values."""
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
    """Convert plain JSON values to a record of type `kind`.

    Args:
        kind: The type.
        value: The plain value.
        where: Name of the value, for error messages.
        remedy: What the user should do about wrong fields.

    Raises:
        PlanError: the value does not fit. All unknown fields (with the nearest known name), missing fields and wrong
            types are listed.
    """
    faults: list[Fault] = []
    record = _parse(kind, value, where, remedy, faults)
    if faults:
        raise PlanError(f"{where or kind.__name__} does not fit", faults)
    return typing.cast(T, record)


def unknown_name_fault(where: str, name: str, known: Iterable[str]) -> Fault:
    """The fault for an unknown name; its remedy suggests the nearest known name."""
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
                faults.append(unknown_name_fault(where, str(name), fields))
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
        return tuple(
            _parse(a, v, f"{where}[{i}]", remedy, faults) for i, (a, v) in enumerate(zip(args, value, strict=True))
        )
    if origin is dict:
        if not isinstance(value, Mapping):
            return wrong("a mapping")
        return {str(k): _parse(args[1], v, f"{where}.{k}", remedy, faults) for k, v in value.items()}
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    return wrong(getattr(kind, "__name__", str(kind)))


def hash_value(value: Any) -> str:
    """The first 16 hex digits of the SHA-256 of a record's JSON with sorted keys."""
    return hashlib.sha256(json.dumps(to_plain(value), sort_keys=True).encode()).hexdigest()[:16]


def none_for_nan(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not have, by None."""
    return _map_leaves(value, lambda v: None if isinstance(v, float) and not math.isfinite(v) else v)


def nan_for_none(value: Any) -> Any:
    """Replace None by NaN."""
    return _map_leaves(value, lambda v: math.nan if v is None else v)


def _map_leaves(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """Apply a function to every leaf of nested dictionaries and lists."""
    if isinstance(value, dict):
        return {key: _map_leaves(part, leaf) for key, part in value.items()}
    if isinstance(value, list):
        return [_map_leaves(part, leaf) for part in value]
    return leaf(value)
