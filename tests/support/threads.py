"""Threads that take the place of worker processes."""

from __future__ import annotations

import multiprocessing.pool


class Threads:
    """Stands in for a multiprocessing context: nnU-Net's check starts processes, which takes seconds; threads do not."""

    Pool = staticmethod(multiprocessing.pool.ThreadPool)
