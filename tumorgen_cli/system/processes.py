"""Child processes end when their parent ends."""

from __future__ import annotations

import os
import signal
import threading
import time

_POLL_SECONDS = 0.2


def exit_when_stdin_closes() -> None:
    """Watch stdin and kill this process group, including workers, when it closes.

    The parent holds the other end of the pipe and writes nothing to it. The pipe closes when the parent ends.
    """

    def watch() -> None:
        os.read(0, 1)
        os.killpg(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def exit_with_parent(parent: int) -> None:
    """Kill this process group when its parent process is gone.

    Use this instead of `exit_when_stdin_closes` where other children of the parent would keep the pipe open.

    Args:
        parent: Process number of the parent.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        os.killpg(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
