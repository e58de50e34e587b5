"""Errors that the user can correct. Each lists all faults: where, what was found, what was expected, the remedy."""

from __future__ import annotations

import difflib
import errno
import os
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


def say_count(count: int, noun: str) -> str:
    """Say a count with its noun, for example "1 scan" or "2 training cases".

    Args:
        count: The count.
        noun: The noun in the singular, one whose plural ends in s; words may stand before it.
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


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
        return self.describe()

    def describe(self, most: int | None = None) -> str:
        """The message and the faults, numbered; only the first `most` faults, or all of them."""
        return "\n".join([self.message, *(f"  {i}. {fault}" for i, fault in enumerate(self.faults[:most], 1))])


class DataError(TumorgenError):
    """A data set, scan or mask cannot be used as it is."""


class NoPlaceError(DataError):
    """A host is fine, but no tumor came in it: there is no place for one, or no draw passed."""


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


#: remedy for a number that is out of its range, where one can do without it
IN_RANGE = "give a number in this range, or leave it out"
_AGAIN = "run the same command again; what was finished is kept"
_ELSEWHERE = "choose another folder with --work or --out"
_SPACE = ("No space left", "enough space for the file", f"free some space and {_AGAIN}")
_DENIED = ("Permission denied", "a file or folder that you may use", f"change its permissions, or {_ELSEWHERE}")
_IN_THE_WAY = ("A file is in the way", "a folder", f"move the file away, or {_ELSEWHERE}")
_TOO_MANY = (
    "Too many open files",
    "fewer files at a time",
    "raise the limit (`ulimit -n 4096`); plan and preprocess need fewer files with --workers 0",
)
_DISK = ("The disk cannot be used", "a disk that answers", f"check the disk or the network share, then {_AGAIN}")
_PLACE = ("A file or folder cannot be used", "one that can be used", f"correct the path or the machine, then {_AGAIN}")
#: by error number of the system: message, what was expected, remedy
_SYSTEM_ERRORS = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: (
        "A file is too large",
        "files of this size",
        "raise the limit (`ulimit -f unlimited`), or use another disk",
    ),
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EROFS: ("The file system is read-only", "a folder that can be written", _ELSEWHERE),
    errno.ENOENT: ("A file is missing", "a file or folder", "put it back, or correct the path"),
    errno.EEXIST: _IN_THE_WAY,
    errno.ENOTDIR: _IN_THE_WAY,
    errno.EISDIR: ("A folder is in the way", "a file", f"move the folder away, or {_ELSEWHERE}"),
    errno.ENAMETOOLONG: ("A name is too long", "at most 255 bytes", f"rename the file, or {_ELSEWHERE}"),
    errno.ELOOP: ("A link leads to itself", "a file or folder", "correct the link"),
    errno.EMFILE: _TOO_MANY,
    errno.ENFILE: _TOO_MANY,
    errno.EIO: _DISK,
    errno.ESTALE: _DISK,
}


def from_system_error(error: OSError, path: str | os.PathLike[str] | None = None) -> StateError | None:
    """Turn an error of the operating system into a `StateError` with a remedy that fits its number.

    Args:
        error: The error.
        path: The file or folder that was used. None: the one that the error names.

    Returns:
        The error to raise, or None for an error that names no path and is not about files: that is a bug.
    """
    place = error.filename if path is None else path
    known = _SYSTEM_ERRORS.get(error.errno or 0)
    if known is None and not isinstance(place, (str, bytes, os.PathLike)):
        return None
    where = os.fsdecode(place) if isinstance(place, (str, bytes, os.PathLike)) else "a file"
    message, expected, remedy = known or _PLACE
    return StateError(message, [Fault(where, error.strerror or str(error), expected, remedy)])
