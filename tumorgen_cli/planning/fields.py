"""The fields of a plan that a preset or `--set` can set: their names and types, and the check of what is given."""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from tumorgen_cli.planning.plan import ChannelPlan, Plan
from tumorgen_cli.system.errors import Fault, PlanError, did_you_mean, gather_faults
from tumorgen_cli.system.json_records import from_plain

_SET = ("main_channel", "window", "paste", "device", "precision", "memory_gib", "seed", "tolerance_mm")
_FIXED = ("name", "scheme")  # of a channel: the fingerprint is measured by them
_MOST_NAMES = 8


def plan_fields(channels: int, sections: Mapping[str, type]) -> dict[str, Any]:
    """Return the type of every field that can be set, with its range, by the field's name.

    Args:
        channels: How many channels the data set has.
        sections: The type of each method's section, by the method's name.
    """
    kinds = typing.get_type_hints(Plan, include_extras=True)
    fields: dict[str, Any] = {}
    for number in range(channels):
        fields.update(
            (f"channels.{number}.{field}", kind) for field, kind in _leaves(ChannelPlan) if field not in _FIXED
        )
    for name in _SET:
        fields.update(_leaves(kinds[name], name))
    for method, kind in sections.items():
        fields.update(_leaves(kind, f"methods.{method}"))
    return fields


def _leaves(kind: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The fields below a record, with dots between the names, and their types."""
    if not dataclasses.is_dataclass(kind):
        yield name, kind
        return
    for inner, each in typing.get_type_hints(kind, include_extras=True).items():
        yield from _leaves(each, f"{name}.{inner}" if name else inner)


def check_overrides(overrides: Mapping[str, tuple[Any, str]], fields: Mapping[str, Any]) -> None:
    """Check the values of a preset and of `--set` before anything is measured.

    Args:
        overrides: Value and source by field, from `presets.read_overrides`.
        fields: The known fields, from `plan_fields`.

    Raises:
        PlanError: fields are unknown or fixed, or values have a wrong type or are out of range; all are listed.
    """
    faults: list[Fault] = []
    for field, (value, source) in overrides.items():
        where = source if source == f"--{field}" else f"{source} {field}"
        if field in fields:
            remedy = "give such a value, or leave the field to the rule"
            gather_faults(faults, functools.partial(from_plain, fields[field], value, where, remedy))
        else:
            faults.append(_unknown_field_fault(where, field, value, fields))
    if faults:
        raise PlanError("The plan cannot be made with these settings", faults)


def _unknown_field_fault(where: str, field: str, value: Any, fields: Mapping[str, Any]) -> Fault:
    top, _, last = field.partition(".")
    number, _, last = last.partition(".")
    if top == "channels" and last in _FIXED and f"{top}.{number}.low" in fields:
        remedy = "name the channel in dataset.json for what it holds, for example noNorm"
        return Fault(where, str(value), "what follows from the channel's name in dataset.json", remedy)
    below = sorted(name for name in fields if name.startswith(f"{field}."))
    if below:
        shown = ", ".join(below[:_MOST_NAMES]) + (" …" if below[_MOST_NAMES:] else "")
        return Fault(where, f"{value!r}"[:200], "a field below it", f"set one of {shown}")
    remedy = did_you_mean(field, fields) or "`tumorgen plan --show` lists the fields of a plan"
    return Fault(where, "an unknown field", "a field of the plan", remedy)
