"""Names that come from files and become parts of paths: none may lead out of its folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tumorgen_cli.system.errors import Fault, StateError


def is_safe_name(name: str) -> bool:
    """Tell whether a text is one name of a file: `folder / name` then lies in `folder`."""
    return name not in ("", ".", "..") and not {"/", "\\", "\0"} & set(name)


def name_faults(where: str, names: Iterable[str], remedy: str) -> list[Fault]:
    """Return the fault of each name that is no name of a file.

    Args:
        where: The file, and the field, that holds the names.
        names: The names.
        remedy: What the user should do.
    """
    unsafe = sorted({name for name in names if not is_safe_name(name)})
    return [
        Fault(where, repr(name)[:200], "a name without slashes, which stays in its folder", remedy) for name in unsafe
    ]


def check_names(where: str, names: Iterable[str], remedy: str) -> None:
    """Check that names read from a file stay in their folder.

    Raises:
        StateError: some do not; all are listed.
    """
    if faults := name_faults(where, names, remedy):
        raise StateError("Names lead out of their folder", faults)


def inside(folder: Path, name: str, where: str, remedy: str) -> Path:
    """Return `folder / name` for a name read from a file.

    Raises:
        StateError: the name leads out of the folder.
    """
    check_names(where, [name], remedy)
    return folder / name
