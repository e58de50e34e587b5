"""Tasks for worker processes, which import them by module name; test modules cannot be imported that way."""

import os
import signal
import time
from pathlib import Path

from tumorgen_cli.data.dataset import Dataset
from tumorgen_cli.system.files import atomic


def name_case(dataset: Dataset, case: str) -> str:
    return f"{case} {os.getpid()}"


def fail_at_b(dataset: Dataset, case: str) -> str:
    if case == "b":
        raise ZeroDivisionError("a bug in the child")
    return case


def kill_worker(dataset: Dataset, case: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hold_file(path: str) -> None:
    """Hold the temporary file of an atomic write for a minute."""
    with atomic(Path(path)) as temporary:
        temporary.write_text("begun")
        time.sleep(60)
