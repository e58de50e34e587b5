"""Threads in the place of worker processes."""

from __future__ import annotations

import multiprocessing


class Threads:
    """nnU-Net's check starts processes, which take seconds; threads see the same files."""

    Pool = staticmethod(multiprocessing.pool.ThreadPool)
