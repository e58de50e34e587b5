"""Worker processes for passes over many cases: how many fit into memory, and one result per case in order."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import TypeVar

import numpy as np

from tumorgen_cli.data.checks import read_header
from tumorgen_cli.data.dataset import Dataset
from tumorgen_cli.geometry import Grid
from tumorgen_cli.system.console import Ticker
from tumorgen_cli.system.devices import available_memory_gib, usable_cores
from tumorgen_cli.system.errors import DeviceError, Fault, TumorgenError

T = TypeVar("T")
_WORKER_BYTES = 400 << 20  # a Python process with numpy, scipy and SimpleITK
_COPIES = 6  # arrays of a channel's size that checking and measuring hold at once, at worst
_IN_PROCESS_BYTES = 64 << 20  # smaller data sets are read faster than workers start


def map_cases(
    task: Callable[[Dataset, str], T], dataset: Dataset, workers: int | None = None, ticker: Ticker | None = None
) -> Iterator[T]:
    """What `task` makes of each case, in order. `workers` processes, 0 for none, by cores and memory if not given.

    `task` is a module's function and its results are small: they are all that crosses between processes.

    Raises:
        DeviceError: a worker was killed.
    """
    count = choose_workers(dataset) if workers is None else min(workers, len(dataset.cases))
    if count == 0:
        yield from _told((task(dataset, case) for case in dataset.cases), dataset, ticker)
        return
    alone = replace(dataset, cases=())  # the list of cases need not travel with every case
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
        try:
            yield from _told(pool.map(task, [alone] * len(dataset.cases), dataset.cases), dataset, ticker)
        except BrokenProcessPool as error:
            remedy = "give fewer: --workers 1, or 0 to read in this process"
            fault = Fault(
                f"{count} worker processes", "one was killed, most often for want of memory", "all to finish", remedy
            )
            raise DeviceError("A worker process was killed", [fault]) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _told(results: Iterator[T], dataset: Dataset, ticker: Ticker | None) -> Iterator[T]:
    for done, case in enumerate(dataset.cases, 1):
        try:
            result = next(results)
        except (TumorgenError, BrokenProcessPool):
            raise
        except Exception as error:  # a bug: a worker's traceback does not say which case it was at
            raise RuntimeError(f"case {case}: {error!r}") from error
        if ticker is not None:
            ticker(done, case)
        yield result


def choose_workers(dataset: Dataset) -> int:
    """Processes worth having: one per core this process may use, as many as memory holds, 0 for small datasets."""
    sizes = {case: sum(p.stat().st_size for p in dataset.image_files(case) if p.exists()) for case in dataset.cases}
    if sum(sizes.values()) < _IN_PROCESS_BYTES:
        return 0
    largest = max(sizes, key=sizes.__getitem__)
    grids = [read_header(path, []) for path in dataset.image_files(largest) if path.exists()]
    voxels = max((int(np.prod(grid.shape)) for grid in grids if grid is not None), default=0)
    need = _WORKER_BYTES + voxels * 4 * (_COPIES + len(dataset.channel_names))
    return max(1, min(usable_cores(), len(dataset.cases), int(available_memory_gib() * 2**30) // 2 // need))


def choose_preprocessing_workers(grids: Sequence[Grid], channels: int) -> int:
    """Processes that fit the memory: the largest scan needs about 40 bytes a voxel and channel, and each process 0.4 GiB."""
    largest = max((float(np.prod(grid.shape)) for grid in grids), default=1.0)
    need = 0.4 + 40 * largest * channels / 2**30
    return max(1, min(usable_cores(), int(0.6 * available_memory_gib() / need)))
