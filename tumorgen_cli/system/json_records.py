"""Strict conversion between JSON and frozen dataclasses; errors name the file and the field."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tumorgen_cli.system.errors import Fault, PlanError, StateError, did_you_mean, gather_faults
from tumorgen_cli.system.files import write_text

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")
_LENGTHS = ("min_length", "max_length")
_TYPE_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
_BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most", "multiple_of": "in steps of"}
_UNKNOWN = "unexpected_keyword_argument"  # pydantic's name for unknown fields of dataclasses


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
    except (
        ValueError,
        RecursionError,
        NotADirectoryError,
        IsADirectoryError,
    ) as error:
        raise StateError("A file cannot be read", [Fault(str(path), str(error), "valid JSON", remedy)]) from error


def read_fields(path: Path, remedy: str, /, **kinds: Any) -> dict[str, Any]:
    """Read a JSON object, of which only some fields are used.

    Args:
        path: The file.
        remedy: What the user should do if the file is missing or damaged.
        **kinds: The types of the fields that must be there.

    Returns:
        All fields of the object; those of `kinds` have their types.

    Raises:
        StateError: the file is missing, no JSON object, or lacks one of the fields.
    """
    plain = read_plain(path, remedy)
    if not isinstance(plain, dict):
        raise StateError("A file cannot be read", [Fault(str(path), f"{plain!r}"[:200], "a JSON object", remedy)])
    faults = [
        Fault(f"{path}: {name}", "missing", describe_type(kind), remedy)
        for name, kind in kinds.items()
        if name not in plain
    ]
    found = {}
    for name, kind in kinds.items():
        if name in plain:
            found[name] = gather_faults(faults, functools.partial(_read_field, kind, plain[name], path, name, remedy))
    if faults:
        raise StateError("A file cannot be read", faults)
    return plain | found


def _read_field(kind: type[T], value: Any, path: Path, name: str, remedy: str) -> T:
    return from_plain(kind, value, f"{path}: {name}", remedy)


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


def read_written(kind: type[T], path: Path, remedy: str, what: str, message: str) -> T:
    """Read a record that tumorgen has written itself: other fields mean that the file is damaged.

    Args:
        kind: The type.
        path: The file.
        remedy: What the user should do about a file that is missing or damaged.
        what: What the file should hold, for the error.
        message: Heading of the error.

    Raises:
        StateError: the file is missing, not JSON, or its fields do not fit `kind`.
    """
    try:
        return read_record(kind, path, remedy)
    except PlanError as error:
        found = "; ".join(f"{fault.where}: {fault.found}" for fault in error.faults)
        raise StateError(message, [Fault(str(path), found, what, remedy)]) from error


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
    from pydantic import ValidationError  # imported late, so that the command line starts quickly

    try:
        # JSON rather than Python values: only there does strict validation accept lists for tuples
        text = json.dumps(value, default=str)
        record: T = _adapter(typing.cast("Any", kind)).validate_json(text, strict=True, extra="forbid")
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
        inner = {problem["loc"][:end] for problem in problems for end in range(len(problem["loc"]))}
        problems = [problem for problem in problems if problem["loc"] not in inner]  # a bad item makes a list too short
        problems.sort(key=lambda problem: problem["type"] != _UNKNOWN)  # unknown names first
        faults = (_make_fault(kind, value, problem["type"], problem["loc"], where, remedy) for problem in problems)
        raise PlanError(f"{where or kind.__name__} does not fit", dict.fromkeys(faults)) from None
    return record


def unknown_name_fault(where: str, name: str, known: Iterable[str]) -> Fault:
    """The fault for an unknown name; its remedy suggests the nearest known name."""
    names = sorted(known)
    return Fault(
        f"{where}.{name}" if where else name,
        "an unknown name",
        f"one of {', '.join(names)}" if names else "no such field",
        did_you_mean(name, names) or "choose one of these, or leave it out",
    )


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """The validator of a type; building it takes longer than using it."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _make_fault(kind: Any, value: Any, problem: str, location: tuple[int | str, ...], where: str, remedy: str) -> Fault:
    """Describe a problem that pydantic found in a value of type `kind`.

    Args:
        kind: The type of the whole value.
        value: The whole value.
        problem: Pydantic's name of the problem.
        location: The field names and indices that lead to the problem.
        where: Name of the whole value.
        remedy: What the user should do.
    """
    location = _without_branch(kind, location)
    *parents, last = location or ("",)
    for part in parents:
        kind, value, where = _part_type(kind, part), value[part], _part_name(where, part)
    whole, kind = kind, _without_none(kind)
    if problem == _UNKNOWN:
        return unknown_name_fault(where, str(last), typing.get_type_hints(kind))
    if problem == "missing" and dataclasses.is_dataclass(kind):
        return Fault(_part_name(where, last), "missing", describe_type(_part_type(kind, last)), remedy)
    if location and problem != "missing":  # else a list is too short
        whole, value, where = _part_type(kind, last), value[last], _part_name(where, last)
    return Fault(where, f"{value!r}"[:200], describe_type(whole), remedy)


def _without_branch(kind: Any, location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """The location up to a value of several types: pydantic adds the name of each type that the value does not have."""
    for end, part in enumerate(location):
        if len(_types(kind)) > 1:
            return location[:end]
        if dataclasses.is_dataclass(_without_none(kind)) and part not in typing.get_type_hints(_without_none(kind)):
            break  # an unknown name
        kind = _part_type(kind, part)
    return location


def _part_name(where: str, part: int | str) -> str:
    return f"{where}[{part}]" if isinstance(part, int) else f"{where}.{part}"


def _part_type(kind: Any, part: int | str) -> Any:
    """The type of a field of a record, of an item of a tuple, or of a value of a dictionary."""
    kind = _without_none(kind)
    if dataclasses.is_dataclass(kind):
        return typing.get_type_hints(kind, include_extras=True)[str(part)]
    args = typing.get_args(kind)
    return args[0 if args[-1:] == (...,) else part] if isinstance(part, int) else args[1]


def _without_none(kind: Any) -> Any:
    """The type without its range and None: `int` for `Annotated[int | None, Ge(1)]`."""
    if typing.get_origin(kind) is typing.Annotated:
        return _without_none(typing.get_args(kind)[0])
    return _without_none(_types(kind)[0]) if _is_union(kind) else kind


def _types(kind: Any) -> list[Any]:
    """The types that a value may have, with their ranges and without None."""
    if typing.get_origin(kind) is typing.Annotated:
        inner = typing.get_args(kind)[0]
        return _types(inner) if _is_union(inner) else [kind]
    return [each for each in typing.get_args(kind) if each is not type(None)] if _is_union(kind) else [kind]


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType)


def describe_type(kind: Any) -> str:
    """Describe the values that a type accepts: "a whole number from 1 to 8", "3 values, each a number above 0"."""
    if len(_types(kind)) > 1:
        return " or ".join(describe_type(each) for each in _types(kind))
    marks = getattr(kind, "__metadata__", ())
    kind = _without_none(kind)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return f"{'one of ' * (len(args) > 1)}{', '.join(map(str, args))}"
    if origin is tuple:
        count = _describe_length(marks) if args[-1] is ... else f"{len(args)} values"
        items = list(dict.fromkeys(describe_type(each) for each in args if each is not ...))
        each = f", each {items[0]}" if len(items) == 1 else f": {', '.join(items)}"
        return "; ".join([count + each, *_remarks(marks)])
    if origin is dict or dataclasses.is_dataclass(kind):
        return "a mapping of fields" if dataclasses.is_dataclass(kind) else "a mapping"
    name = _TYPE_WORDS.get(kind) or getattr(kind, "__name__", str(kind))
    return ", ".join([f"{name} {_describe_bounds(marks)}".rstrip(), *_remarks(marks)])


def _describe_bounds(marks: Sequence[Any]) -> str:
    """Describe the range of a number: "from 0 to 1", "above 0, at most 1", "from 32 to 64 in steps of 16"."""
    bounds = {sign: f"{getattr(mark, sign):,}" for sign in _BOUNDS for mark in marks if hasattr(mark, sign)}
    words = []
    if {"ge", "le"} <= bounds.keys():
        words.append(f"from {bounds.pop('ge')} to {bounds.pop('le')}")
    words += [f"{_BOUNDS[sign]} {bound}" for sign, bound in bounds.items()]
    return ", ".join(words).replace(", in", " in")


def _describe_length(marks: Sequence[Any]) -> str:
    """Describe how many values a list may have."""
    least, most = (next((getattr(m, name) for m in marks if hasattr(m, name)), None) for name in _LENGTHS)
    return "a list" if least is None or most is None else f"{least} to {most} values"


def _remarks(marks: Sequence[Any]) -> list[str]:
    return [mark.documentation for mark in marks if hasattr(mark, "documentation")]


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
