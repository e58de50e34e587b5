"""Logs of JSON lines, one line per case, which several processes write together.

Each process writes to its own log: `provenance.jsonl`, or `provenance_2_of_8.jsonl` for a shard. `merge_logs` puts the
lines of all shards into the one log when all are finished. A line counts when it ends in a line break: a killed process
may leave part of a line.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tumorgen_cli.system.errors import Fault, StateError
from tumorgen_cli.system.files import write_text


def open_log(folder: Path, name: str, part: str | None = None) -> Path:
    """Return this process's own log; it is created if it does not exist, and an unfinished last line is removed.

    Args:
        folder: folder of the logs.
        name: name of the log.
        part: name of the shard, if the process makes one.
    """
    whole = folder / f"{name}.jsonl"
    own = whole if part is None else folder / f"{name}_{part}.jsonl"
    for path in (whole, own):
        text = read_text(path) if path.is_file() else ""
        if complete_lines(text) != text or not path.is_file():
            write_text(path, complete_lines(text))
    return own


def list_logs(folder: Path, name: str) -> list[Path]:
    """Return the log of the whole folder, then those of its shards, which are deleted when all are finished."""
    return [path for path in (folder / f"{name}.jsonl", *sorted(folder.glob(f"{name}_*_of_*.jsonl"))) if path.is_file()]


def read_logs(folder: Path, name: str) -> dict[Path, str]:
    """Return the texts of all logs of a name.

    If a log disappears meanwhile, because another process merges them, they are listed again.

    Raises:
        StateError: a log is no text.
    """
    while True:
        with contextlib.suppress(FileNotFoundError):
            return {log: read_text(log) for log in list_logs(folder, name)}


def read_text(log: Path) -> str:
    """Read the text of a log.

    Raises:
        StateError: it is no text in UTF-8.
    """
    try:
        return log.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        remedy = "put back the file as it was written, or delete its folder and run the command again"
        raise StateError("A log cannot be read", [Fault(str(log), str(error), "text in UTF-8", remedy)]) from error


def read_log(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    """Return the complete lines of all logs of a name, by case.

    Raises:
        StateError: lines are no records of cases.
    """
    found: dict[str, dict[str, Any]] = {}
    for log, text in read_logs(folder, name).items():
        for _, record in _parse_lines(log, text):
            found.setdefault(record["case"], record)
    return found


def _parse_lines(log: Path, text: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the complete lines of a log, each with its record.

    Raises:
        StateError: lines are no records of cases; all are listed.
    """
    found, faults = [], []
    remedy = f"delete these lines of {log.name} and run the same command again"
    for number, line in enumerate(complete_lines(text).splitlines(keepends=True), 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            faults.append(Fault(f"{log} line {number}", str(error), "a JSON object", remedy))
            continue
        if isinstance(record, dict) and isinstance(record.get("case"), str):
            found.append((line, record))
        else:
            faults.append(Fault(f"{log} line {number}", line.strip()[:200], "a JSON object with a case", remedy))
    if faults:
        raise StateError("A log cannot be read", faults)
    return found


def drop_lines(folder: Path, name: str, drop: Callable[[Mapping[str, Any]], bool]) -> None:
    """Remove the lines for which `drop` returns true; no other process may write these at the same time."""
    for log in list_logs(folder, name):
        lines = _parse_lines(log, read_text(log))
        kept = [line for line, record in lines if not drop(record)]
        if len(kept) < len(lines):
            write_text(log, "".join(kept))


def merge_logs(folder: Path, name: str, order: Mapping[str, int]) -> None:
    """Put the lines of all shards into the one log, in the order of the cases, and delete the shards' logs.

    Args:
        folder: folder of the logs.
        name: name of the log.
        order: position by case; unknown cases come first.
    """
    parts = [log for log in list_logs(folder, name) if log.stem != name]
    if not parts:
        return
    lines = read_log(folder, name)
    cases = sorted(lines, key=lambda case: order.get(case, -1))
    write_text(folder / f"{name}.jsonl", "".join(json.dumps(lines[case]) + "\n" for case in cases))
    for log in parts:
        log.unlink()


def complete_lines(text: str) -> str:
    """Return a text without an unfinished last line."""
    return text[: text.rfind("\n") + 1]
