"""The errors a user is told about: each lists every fault with place, found, expected, remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Fault:
    """One thing wrong: where (file, case or field), what was found, what was expected, what to do."""

    where: str
    found: str
    expected: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}\n    found:    {self.found}\n    expected: {self.expected}\n    remedy:   {self.remedy}"


def abbreviate_list(names: Sequence[str], most: int = 5) -> str:
    """The first names of many, with commas between, and whether there are more."""
    return ", ".join(names[:most]) + (" …" if len(names) > most else "")


def describe_counts(counts: Mapping[str, int]) -> str:
    """How many for each reason, with commas between; empty without any."""
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())


class TumorgenError(Exception):
    """Base of all errors that are the user's to mend; commands print them without a traceback."""

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
    """A file of the workspace is missing, stale, locked, or belongs to something else."""


class DeviceError(TumorgenError):
    """The device asked for is missing or too small."""


def gather_faults(faults: list[Fault], read: Callable[[], T]) -> T | None:
    """What `read` returns; where it fails, nothing, and the faults go to `faults`."""
    try:
        return read()
    except TumorgenError as error:
        faults += error.faults
        return None


def one_line(error: TumorgenError) -> str:
    """An error in one line, its remedies with it."""
    return ". ".join(
        [error.message, *(f"{f.where}: {f.found}, expected {f.expected}; {f.remedy}" for f in error.faults)]
    )
