"""Child processes that do not outlive their parent."""

from __future__ import annotations

import os
import signal
import threading
import time

_POLL_SECONDS = 0.2


def exit_when_stdin_closes() -> None:
    """Ends this process group, workers and all, when the parent is gone: nothing is ever written to stdin, it only closes."""

    def watch() -> None:
        os.read(0, 1)
        os.killpg(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def exit_with_parent(parent: int) -> None:
    """Ends this process group when its parent, known by number, is gone. For a parent whose other children would keep a pipe open."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        os.killpg(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
