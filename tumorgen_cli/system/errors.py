"""Errors that the user can correct. Each lists all faults: where, what was found, what was expected, the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
_ALIKE = 0.6  # difflib's ratio from which on a known name is suggested
_AS_ALIKE = 0.05  # names that are nearly as like as the nearest one are suggested with it


@dataclass(frozen=True)
class Fault:
    """One fault: where (file, case or field), what was found, what was expected, and how to correct it."""

    where: str
    found: str
    expected: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}\n    found:    {self.found}\n    expected: {self.expected}\n    remedy:   {self.remedy}"


def abbreviate_list(names: Sequence[str], most: int = 5) -> str:
    """Join at most `most` names with commas; an ellipsis stands for the others."""
    return ", ".join(names[:most]) + (" …" if len(names) > most else "")


def did_you_mean(name: str, known: Iterable[str], most: int = 3) -> str:
    """Ask for the known names that are nearest to an unknown one: "did you mean window.alpha?", the nearest first.

    Case is ignored. A name without dots also matches the last part of dotted names: `steps` finds
    `methods.tumorgen.sampling.steps`.

    Args:
        name: The unknown name.
        known: The known names.
        most: How many names to suggest at most.

    Returns:
        The question, or an empty string if no known name is like it.
    """
    wanted = name.strip().lower()
    likeness = {}
    for each in known:
        spellings = (each, each.rpartition(".")[2]) if "." not in wanted else (each,)
        likeness[each] = max(difflib.SequenceMatcher(None, wanted, text.lower()).ratio() for text in spellings)
    best = max(likeness.values(), default=0.0)
    if best < _ALIKE:
        return ""
    near = sorted((each for each in likeness if likeness[each] > best - _AS_ALIKE), key=lambda each: -likeness[each])
    *others, last = near[:most]
    return f"did you mean {', '.join(others)} or {last}?" if others else f"did you mean {last}?"


def describe_counts(counts: Mapping[str, int]) -> str:
    """Describe counts by reason, for example "2 too small, 1 empty"; an empty string for no counts."""
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())


class TumorgenError(Exception):
    """Base of all errors that the user can correct. Commands print them without a traceback."""

    def __init__(self, message: str, faults: Iterable[Fault] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.faults = tuple(faults)

    def __str__(self) -> str:
        return "\n".join([self.message, *(f"  {i}. {fault}" for i, fault in enumerate(self.faults, 1))])


class DataError(TumorgenError):
    """A data set, scan or mask cannot be used as it is."""


class PlanError(TumorgenError):
    """A plan, preset or option is wrong or does not fit the data."""


class StateError(TumorgenError):
    """A file of the workspace is missing, outdated, locked, or belongs to something else."""


class DeviceError(TumorgenError):
    """The requested device is missing, or its memory is too small."""


def gather_faults(faults: list[Fault], read: Callable[[], T]) -> T | None:
    """Return what `read` returns. If it raises a `TumorgenError`, add its faults to `faults` and return None."""
    try:
        return read()
    except TumorgenError as error:
        faults += error.faults
        return None


def one_line(error: TumorgenError) -> str:
    """Describe an error with all its faults and remedies in one line."""
    return ". ".join(
        [error.message, *(f"{f.where}: {f.found}, expected {f.expected}; {f.remedy}" for f in error.faults)]
    )
