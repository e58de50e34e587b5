"""Stopping real processes, and what is left of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_TESTS = Path(__file__).parents[1]


def start(arguments: Sequence[str]) -> subprocess.Popen[str]:
    """A Python process in a group of its own, as a shell starts a command."""
    path = os.pathsep.join([str(_TESTS.parent), str(_TESTS)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def wait_until(found: Callable[[], object], seconds: float = 300.0) -> None:
    """Wait until something is true; an assertion fails after `seconds`."""
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


def members(group: int) -> list[int]:
    """The living processes of a group, from /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = path.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                found.append(int(path.parent.name))
    return found


def stop(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str]:
    """Send a signal, Ctrl-C to the whole group as a terminal does, and return the exit code and stderr.

    An assertion fails if a process of the group is left.
    """
    try:
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, said = process.communicate(timeout=300)
        wait_until(lambda: not members(process.pid), 120.0)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, said
