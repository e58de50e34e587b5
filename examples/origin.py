"""Where a figure comes from: the date, the commit, the command and the machine.

Every script of this folder that makes figures prints this or writes it beside them. It is a module for the other
scripts. Run alone, it prints the sentence for this machine.

    python examples/origin.py
"""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import torch
import typer

from tumorgen_cli.system.devices import usable_cores
from tumorgen_cli.system.files import write_text


def origin() -> str:
    """Return the date (UTC), the commit and the machine in two sentences.

    The text says whether tracked files differ from the commit, and whether there is a commit at all.
    """
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{datetime.now(timezone.utc):%d %B %Y}, {_commit()}. {usable_cores()} cores of {_cpu()}, {gpu}; "
        f"Python {platform.python_version()}, torch {torch.__version__}."
    )


def command() -> str:
    """Return the command that started this process, quoted for a shell, with the script's path in the project."""
    script = Path(sys.argv[0]).resolve()
    root = Path(__file__).resolve().parents[1]
    name = script.relative_to(root) if script.is_relative_to(root) else Path(script.name)
    return shlex.join(["python", name.as_posix(), *sys.argv[1:]])


def origin_and_command() -> str:
    """Return both, the command on a line of its own."""
    return f"{origin()}\n$ {command()}"


def write_origin(folder: Path) -> None:
    """Write both into `origin.txt` in the folder of the figures."""
    write_text(folder / "origin.txt", origin_and_command() + "\n")


def _commit() -> str:
    """Return the commit of the project's checkout; outside a checkout "unknown commit"."""
    here = Path(__file__).resolve().parent
    try:
        head = _git(here, "rev-parse", "--short", "HEAD")
        changed = _git(here, "status", "--porcelain", "--untracked-files=no")
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "unknown commit"
    return f"commit {head}{', with uncommitted changes' if changed else ''}"


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def _cpu() -> str:
    """Return the model of the CPU: Linux's own name for it, else what Python knows."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def main() -> None:
    """Print where a figure made now would come from."""
    print(origin())


if __name__ == "__main__":
    typer.run(main)
