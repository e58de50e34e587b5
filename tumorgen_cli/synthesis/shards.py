"""Shards: several processes make one set together, each a part of its pairs.

While they work, `shards.json` says how many pairs were divided into how many shards, and each shard has its own logs
(`synthesis.logs`). The shard that finishes last merges the logs. The folder is then the same as one that a single
process made.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tumorgen_cli.synthesis.logs import list_logs
from tumorgen_cli.system.claims import check_claim, claim_folder
from tumorgen_cli.system.errors import Fault, StateError, say_count
from tumorgen_cli.system.json_records import read_record, write_json
from tumorgen_cli.system.locks import wait_for_turn

SETTINGS = "set.json"  # which command made a set, with which settings
LOGS = ("provenance", "given_up", "judged")  # of any command that makes a set
_DIVISION = "shards.json"
_REMEDY = (
    "give every shard the same numbers; or run the command once without --shard, which finishes the set from any shards"
)


@dataclass(frozen=True)
class _Division:
    """What `shards.json` says: how many pairs are divided into how many shards."""

    pairs: int
    shards: int


@dataclass(frozen=True)
class Shard:
    """Part `number` (from 1) of `count` parts of a set's pairs; the number of pairs does not change which are whose."""

    number: int
    count: int

    @property
    def name(self) -> str:
        """The shard's name in file names."""
        return f"{self.number}_of_{self.count}"

    def owns(self, index: int) -> bool:
        """Tell whether the shard makes the pair of this number."""
        return index % self.count == self.number - 1


def take_turn(folder: Path, shard: Shard | None) -> contextlib.AbstractContextManager[None]:
    """Return a context in which no other shard reads or writes the whole folder; without a shard there is no other."""
    return contextlib.nullcontext() if shard is None else wait_for_turn(folder)


def claim_set(folder: Path, identity: Mapping[str, Any], shard: Shard | None) -> None:
    """Make `folder` the folder of this set, or check that it is; see `system.claims`.

    Args:
        folder: folder of the set.
        identity: settings that identify the set.
        shard: the part of this process; other processes may then work there.

    Raises:
        StateError: the folder holds another set, or other files.
    """
    claim_folder(folder, SETTINGS, identity, lambda: _is_begun(folder, shard))


def check_set(folder: Path, identity: Mapping[str, Any], shard: Shard | None, whole: bool = True) -> None:
    """Check that `claim_set` would not refuse the folder; without `whole`, by those settings that are known so far.

    Raises:
        StateError: the folder holds another set, or other files.
    """
    check_claim(folder, SETTINGS, identity, lambda: _is_begun(folder, shard), whole)


def _is_begun(folder: Path, shard: Shard | None) -> bool:
    has_lines = any(log.stat().st_size for name in LOGS for log in list_logs(folder, name))
    shared = shard is not None and find_unfinished_shards(folder) is not None
    return has_lines or shared or (folder / "dataset.json").is_file()


def begin_shard(folder: Path, pairs: int, shard: Shard | None) -> None:
    """Record the division of a set of `pairs` pairs, or check that it is the recorded one.

    Raises:
        StateError: shards of another division are unfinished; one set could then be merged while others still work.
    """
    if shard is None or may_finish(folder, pairs, shard):
        return
    division = _read_division(folder)
    if division is not None:
        found = f"{say_count(division.pairs, 'pair')} in {division.shards} shards are unfinished"
        fault = Fault(str(folder), found, f"{say_count(pairs, 'pair')} in {say_count(shard.count, 'shard')}", _REMEDY)
        raise StateError("The shards do not belong together", [fault])
    write_json(folder / _DIVISION, _Division(pairs, shard.count))


def may_finish(folder: Path, pairs: int, shard: Shard | None) -> bool:
    """Tell whether this process may merge the folder: it is alone, or the recorded division is its own."""
    return shard is None or _read_division(folder) == _Division(pairs, shard.count)


def find_unfinished_shards(folder: Path) -> Path | None:
    """Return the file that records a division if shards have begun and not finished; else None."""
    path = folder / _DIVISION
    return path if path.is_file() else None


def unfinished_shard_faults(folder: Path) -> list[Fault]:
    """Return the fault of a set with unfinished shards."""
    path = find_unfinished_shards(folder)
    if path is None:
        return []
    return [Fault(str(path), "unfinished shards", "a finished set", "let them finish, or run them again")]


def remove_division(folder: Path) -> None:
    """Remove the record of a division when its shards are merged, or nothing is kept."""
    (folder / _DIVISION).unlink(missing_ok=True)


def _read_division(folder: Path) -> _Division | None:
    path = find_unfinished_shards(folder)
    return None if path is None else read_record(_Division, path, f"delete {path} and run every shard again")
