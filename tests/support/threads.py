"""Threads that take the place of worker processes."""

from __future__ import annotations

import multiprocessing.pool


class Threads:
    """Stand in for a multiprocessing context: threads start at once, the processes of nnU-Net's check take seconds."""

    Pool = staticmethod(multiprocessing.pool.ThreadPool)
