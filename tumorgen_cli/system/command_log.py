"""The log file of a command: versions, the command line, and all that was printed, with the time of each line.

Every command writes a file of its own into `logs/` of its workspace, so that commands that run at the same time, also
on several machines, never mix their lines. Nothing is created before there is something to tell and a planned
workspace to tell it in; a workspace that cannot be written has no logs.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
import shlex
import sys
import traceback
from pathlib import Path
from typing import TextIO

import tumorgen_cli

LOGS = "logs"  # the folder in a workspace
_LIBRARIES = ("torch", "monai", "accelerate", "nnunetv2", "SimpleITK", "numpy")


def describe_versions() -> str:
    """The versions of tumorgen, Python and the libraries that results depend on, without importing them."""
    parts = [f"tumorgen {tumorgen_cli.__version__}", f"Python {platform.python_version()}"]
    for name in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            parts.append(f"{name} {importlib.metadata.version(name)}")
    return ", ".join(parts)


def describe_call() -> str:
    """The command line of this process, as it can be typed again."""
    return shlex.join(["tumorgen", *sys.argv[1:]])


class CommandLog:
    """A log file that is created with its first line.

    Args:
        root: The workspace. The file is created as soon as that is planned; until then, lines are kept.
        command: Name of the command, for the name of the file.
    """

    def __init__(self, root: Path, command: str) -> None:
        self._root, self._command, self._begun = root, command, datetime.datetime.now().astimezone()
        self._kept: list[str] = []
        self._has_news = False
        self._stream: TextIO | None = None
        self._closed = False

    def write(self, text: str, news: bool = True) -> None:
        """Write lines of text with the time.

        Args:
            text: The lines.
            news: Whether they are worth a file. Lines that are not wait for such a line, and are dropped without one.
        """
        if self._closed or not text.strip():
            return
        now = datetime.datetime.now().astimezone()
        lines = [f"{now:%Y-%m-%d %H:%M:%S}  {line}".rstrip() + "\n" for line in text.strip("\n").splitlines()]
        self._kept += lines
        self._has_news |= news
        if self._stream is None and self._has_news:
            self._open()
        if self._stream is not None:
            try:
                self._stream.writelines(self._kept)
                self._stream.flush()
            except OSError:  # a full disk: the command itself tells
                self._closed = True
            self._kept.clear()

    def finish(self, error: BaseException | None, cost: str) -> None:
        """Write how the command ended, with the traceback of a bug, and close the file.

        Args:
            error: The exception that ended the command. None: it succeeded.
            cost: Time and memory, in words.
        """
        code = 0 if error is None else _exit_code(error)
        if error is not None and code is None:
            self.write("".join(traceback.format_exception(error)))
        end = "ended by a bug" if code is None else f"ended with exit code {code}"
        self.write(f"{end} after {cost}", news=False)
        self._closed = True
        if self._stream is not None:
            with contextlib.suppress(OSError):
                self._stream.close()

    def _open(self) -> None:
        """Create the file if the workspace is planned; a workspace that cannot be written keeps no log."""
        folder, name = self._root / LOGS, f"{self._begun:%Y-%m-%d_%H-%M-%S}_{self._command}"
        try:
            if not (self._root / "plan.json").is_file() or (self._root / "model.json").is_file():
                return
            folder.mkdir(exist_ok=True)
            self._stream = _create(folder, name)
            self._stream.write(self._heading())
        except OSError:
            self._closed = True

    def _heading(self) -> str:
        """What the file begins with."""
        parts = {
            "command": describe_call(),
            "folder": os.getcwd(),  # noqa: PTH109  (a text)
            "versions": describe_versions(),
            "machine": f"{platform.node()}, {platform.platform()}, process {os.getpid()}",
            "begun": f"{self._begun:%Y-%m-%d %H:%M:%S %z}",
        }
        rank = f", process {os.environ['RANK']} of {os.environ['WORLD_SIZE']}" if _is_one_of_several() else ""
        return "".join(f"# {name}: {text}\n" for name, text in parts.items()).rstrip("\n") + f"{rank}\n\n"


def _exit_code(error: BaseException) -> int | None:
    """The exit code of what ends a command on purpose; None for a bug."""
    if isinstance(error, BrokenPipeError):
        return 1  # the reader of what is printed has ended
    code = error.code if isinstance(error, SystemExit) else getattr(error, "exit_code", None)
    return code if isinstance(code, int) else None


def _is_one_of_several() -> bool:
    """Whether torchrun or accelerate has started this process beside others."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def _create(folder: Path, name: str) -> TextIO:
    """Create a new file; others of the same second and name get a number."""
    number = 1
    while True:
        ending = "" if number == 1 else f"_{number}"
        try:
            return (folder / f"{name}{ending}.log").open("x", encoding="utf-8", errors="backslashreplace")
        except FileExistsError:
            if not folder.is_dir():
                raise
            number += 1
