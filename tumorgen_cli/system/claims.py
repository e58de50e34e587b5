"""A folder belongs to the command that began it: its record says which command, with which settings.

Every command that fills a folder of the user's choice claims it here first, so that none writes among other files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tumorgen_cli.system.errors import Fault, StateError
from tumorgen_cli.system.json_records import read_plain, to_plain, write_json

_ELSEWHERE = "choose another folder with --out, or move this one away; nothing in it was changed"


def refuse_other_files(folder: Path, record: str) -> None:
    """Refuse a folder that holds files, but not the record of what a command makes there.

    Hidden files do not count: locks, unfinished files, what file managers leave.

    Raises:
        StateError: it does.
    """
    if not folder.is_dir() or (folder / record).is_file():
        return
    if others := sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")):
        found = f"{len(others)} other files or folders, the first {others[0]}"
        raise StateError("The folder is not empty", [Fault(str(folder), found, "an empty or new folder", _ELSEWHERE)])


def claim_folder(folder: Path, record: str, identity: Mapping[str, Any], is_begun: Callable[[], bool]) -> None:
    """Make a folder the folder of a command, or check that it is already.

    The record of the same command with other settings is replaced if that command has made nothing yet.

    Args:
        folder: The folder; it may be missing or empty.
        record: Name of the file that identifies the content.
        identity: Content of that file; its `command` names the command.
        is_begun: Tells whether something was made by the record that is there.

    Raises:
        StateError: The folder holds what another command or other settings made, or other files.
    """
    check_claim(folder, record, identity, is_begun)
    path, wanted = folder / record, to_plain(identity)
    if not path.is_file() or read_plain(path, _ELSEWHERE) != wanted:
        write_json(path, wanted)


def check_claim(
    folder: Path, record: str, identity: Mapping[str, Any], is_begun: Callable[[], bool], whole: bool = True
) -> None:
    """Check that `claim_folder` would not refuse a folder; nothing is written.

    Args:
        folder: The folder.
        record: Name of the file that identifies the content.
        identity: Content of that file.
        is_begun: Tells whether something was made by the record that is there.
        whole: Whether `identity` has all fields. Otherwise only its fields are compared.

    Raises:
        StateError: The folder holds what another command or other settings made, or other files.
    """
    path, wanted = folder / record, to_plain(identity)
    refuse_other_files(folder, record)
    if not path.is_file():
        return
    found = read_plain(path, _ELSEWHERE)
    known = found if isinstance(found, dict) else {}
    if known.get("command") != wanted["command"]:
        was = f"a folder that `tumorgen {known['command']}` made" if "command" in known else f"another {record}"
        raise StateError(
            "The folder holds another set",
            [Fault(str(folder), was, f"a folder of `tumorgen {wanted['command']}`", _ELSEWHERE)],
        )
    fields = sorted(key for key in ({*known, *wanted} if whole else wanted) if known.get(key) != wanted.get(key))
    if fields and is_begun():
        fault = Fault(str(folder), f"made with other {', '.join(fields)}", "those of this command", _ELSEWHERE)
        raise StateError("The folder holds another set", [fault])
