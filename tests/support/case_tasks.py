"""Tasks for worker processes, which import them by module name; test modules cannot be imported that way."""

import os
import signal

from tumorgen_cli.data.dataset import Dataset


def name_case(dataset: Dataset, case: str) -> str:
    return f"{case} {os.getpid()}"


def fail_at_b(dataset: Dataset, case: str) -> str:
    if case == "b":
        raise ZeroDivisionError("a bug in the child")
    return case


def kill_worker(dataset: Dataset, case: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
