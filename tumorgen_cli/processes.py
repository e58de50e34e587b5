"""Child processes that do not outlive their parent."""

from __future__ import annotations

import os
import signal
import threading


def end_with_parent() -> None:
    """Ends this process group, workers and all, when the parent is gone: nothing is ever written to stdin, it only closes."""

    def watch() -> None:
        os.read(0, 1)
        os.killpg(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
