"""A folder that several processes fill together: whose it is, what is done, and the putting together.

What is done has a line in a log, a file of JSON lines that name their case (`provenance.jsonl`). A shard writes its lines into a
log of its own (`provenance_2_of_8.jsonl`), the one that finishes last puts all of them together, and then nothing tells the
folder from one that a single process filled. Until then `shards.json` says what was divided, and into how many shards.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tumorgen_cli.system.errors import Fault, StateError
from tumorgen_cli.system.files import write_text
from tumorgen_cli.system.json_records import read_plain, write_json
from tumorgen_cli.system.locks import wait_for_turn


@dataclass(frozen=True)
class Shard:
    """Part `number` (from 1) of `count` parts of a set's pairs; which pairs does not depend on how many there are in all."""

    number: int
    count: int

    @property
    def name(self) -> str:
        return f"{self.number}_of_{self.count}"

    def owns(self, index: int) -> bool:
        return index % self.count == self.number - 1


_DIVISION = "shards.json"
_REMEDY = (
    "give every shard the same numbers; the command without --shard, once, takes any and puts together what is there"
)


def turn(folder: Path, shard: Shard | None) -> contextlib.AbstractContextManager[None]:
    """For the moments in which one of several shards may look at the whole folder; without a shard it is ours alone."""
    return contextlib.nullcontext() if shard is None else wait_for_turn(folder)


def claim(
    folder: Path,
    identity: dict[str, Any],
    alone: bool = True,
    name: str = "set.json",
    logs: tuple[str, ...] = ("provenance", "given_up"),
) -> None:
    """Makes `folder` this set's, or sees that it is. `alone`: no other process may be at work there, which else a division says. What a
    command that failed before the first line of its `logs` has left does not count.

    Raises:
        StateError: the folder holds another set, or files of something else.
    """
    path = folder / name
    if path.is_file():
        found = read_plain(path, "choose another --out")
        begun = any(log.stat().st_size for kind in logs for log in logs_of(folder, kind))
        if found != identity and not begun and (alone or shards_under_way(folder) is None):
            write_json(path, identity)
        elif found != identity:
            fields = sorted(k for k in {*found, *identity} if found.get(k) != identity.get(k))
            found, remedy = f"made with other {', '.join(fields)}", "choose another --out, or delete the folder"
            raise StateError(
                "The folder holds another set", [Fault(str(folder), found, "those of this command", remedy)]
            )
        return
    if folder.is_dir() and any(not p.name.startswith(".lock") for p in folder.iterdir()):
        remedy = "choose another --out; nothing there was touched"
        raise StateError(
            "The folder is not empty", [Fault(str(folder), "files of something else", "an empty or new folder", remedy)]
        )
    write_json(path, identity)


def divide(folder: Path, pairs: int, shard: Shard | None) -> None:
    """Begins a shard, of so many pairs in all, beside those that are under way.

    Raises:
        StateError: they are of another number of pairs or shards, so that one could put together what others are still at.
    """
    if shard is None or divided_so(folder, pairs, shard):
        return
    found = _division(folder)
    if found is not None:
        told = f"{found['pairs']} pairs in {found['shards']} shards are under way"
        raise StateError(
            "The shards do not belong together",
            [Fault(str(folder), told, f"{pairs} pairs in {shard.count} shards", _REMEDY)],
        )
    write_json(folder / _DIVISION, {"pairs": pairs, "shards": shard.count})


def divided_so(folder: Path, pairs: int, shard: Shard | None) -> bool:
    """Whether the folder is this process's to put together: it is alone there, or what is under way is its division."""
    return shard is None or _division(folder) == {"pairs": pairs, "shards": shard.count}


def shards_under_way(folder: Path) -> Path | None:
    """The file that says so, of a folder that shards have begun and not finished."""
    path = folder / _DIVISION
    return path if path.is_file() else None


def division_faults(folder: Path) -> list[Fault]:
    """The fault of a set that shards are still at work on."""
    path = shards_under_way(folder)
    return (
        [Fault(str(path), "shards under way", "a set that is put together", "let them finish, or run them again")]
        if path
        else []
    )


def end_division(folder: Path) -> None:
    """All is put together, or nothing is kept."""
    (folder / _DIVISION).unlink(missing_ok=True)


def _division(folder: Path) -> dict[str, int] | None:
    path = shards_under_way(folder)
    return None if path is None else read_plain(path, "delete it and run every shard again")


def open_log(folder: Path, name: str, shard: Shard | None) -> Path:
    """The log for this process's own lines, made if it is not there; the line that a kill cut off is dropped."""
    own = folder / (f"{name}.jsonl" if shard is None else f"{name}_{shard.name}.jsonl")
    for path in (folder / f"{name}.jsonl", own):
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if whole_lines(text) != text or not path.is_file():
            write_text(path, whole_lines(text))
    return own


def logs_of(folder: Path, name: str) -> list[Path]:
    """The log of the whole folder, then those of its shards, which are gone once all are done."""
    return [path for path in (folder / f"{name}.jsonl", *sorted(folder.glob(f"{name}_*_of_*.jsonl"))) if path.is_file()]


def read_logs(folder: Path, name: str) -> dict[Path, str]:
    """The texts of all logs of that name; outside a turn, too, where one may go because all are put together: then they are listed anew."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            return {log: log.read_text(encoding="utf-8") for log in logs_of(folder, name)}


def read_log(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    """The lines of all logs of that name by case, but for one that is still being written."""
    found: dict[str, dict[str, Any]] = {}
    for record in (
        json.loads(line) for text in read_logs(folder, name).values() for line in whole_lines(text).splitlines()
    ):
        found.setdefault(record["case"], record)
    return found


def drop_lines(folder: Path, name: str, drop: Callable[[Mapping[str, Any]], bool]) -> None:
    """Takes the lines out that `drop` says, which no other process may be the one to write."""
    for log in logs_of(folder, name):
        lines = whole_lines(log.read_text(encoding="utf-8")).splitlines(keepends=True)
        kept = [line for line in lines if not drop(json.loads(line))]
        if kept != lines:
            write_text(log, "".join(kept))


def whole_lines(text: str) -> str:
    return text[: text.rfind("\n") + 1]


def gather(folder: Path, name: str, order: Mapping[str, int]) -> None:
    """Puts the lines of all shards into the one log, in the order of the cases, and removes the shards' logs."""
    parts = [log for log in logs_of(folder, name) if log.stem != name]
    if not parts:
        return
    lines = read_log(folder, name)
    cases = sorted(lines, key=lambda case: order.get(case, -1))  # cases of a larger whole than this come first
    write_text(folder / f"{name}.jsonl", "".join(json.dumps(lines[case]) + "\n" for case in cases))
    for log in parts:
        log.unlink()
