"""SLURM by its commands `sbatch` and `squeue`; `sacct`, which many clusters do not have, is not needed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tumorgen_cli.system.errors import Fault, StateError

_SECONDS = 60  # that a command of SLURM may take


def has_slurm() -> bool:
    """Whether jobs can be submitted on this machine."""
    return shutil.which("sbatch") is not None


def submit_script(script: Path, options: Sequence[str] = ()) -> str:
    """Submit a script; `options` go before those in the script.

    Returns:
        The number of the job.

    Raises:
        StateError: SLURM refuses the script, or does not answer.
    """
    again = "then run the same command again; with --here it runs without SLURM"
    remedy = f"correct {script} or cluster.yaml, or wait until SLURM answers; {again}"
    return _call(("sbatch", "--parsable", *options, str(script)), "the number of a job", remedy).split(";")[0].strip()


def queued_tasks() -> dict[str, str]:
    """The tasks of this user in the queue.

    Returns:
        For each task, `JOB` or `JOB_TASK` of an array, why it waits, for example `Dependency`; empty if it does not.

    Raises:
        StateError: SLURM does not answer.
    """
    words = ("squeue", "--noheader", "--array", "--user", str(os.getuid()), "--format", "%i|%T|%r")
    text = _call(words, "the queue", "wait until SLURM answers, then run the same command again")
    rows = [line.strip().split("|", 2) for line in text.splitlines() if line.count("|") >= 2]
    return {task: reason if state == "PENDING" else "" for task, state, reason in rows}


def _call(words: Sequence[str], expected: str, remedy: str) -> str:
    """Run a command of SLURM and return what it printed.

    Raises:
        StateError: it fails.
    """
    try:
        ended = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False)
    except FileNotFoundError:
        found = "no such command"
    except subprocess.TimeoutExpired:
        found = f"no answer in {_SECONDS} s"
    else:
        if ended.returncode == 0:
            return ended.stdout
        found = " ".join(ended.stderr.split()) or f"exit code {ended.returncode}"
    raise StateError("SLURM cannot be used", [Fault(words[0], found, expected, remedy)])
