"""Worker processes that read many cases: how many fit into memory, and one result per case, in order.

Joblib is not used: its workers stay in memory after the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
from tumorgen_cli.system.processes import worker_pool

T = TypeVar("T")
_WORKER_BYTES = 400 << 20  # memory of a Python process with numpy, scipy and SimpleITK
_COPIES = 6  # most arrays of a channel's size that checking and measuring hold at the same time
_IN_PROCESS_BYTES = 64 << 20  # smaller data sets are read faster than workers start


def map_cases(
    task: Callable[[Dataset, str], T], dataset: Dataset, workers: int | None = None, ticker: Ticker | None = None
) -> Iterator[T]:
    """Call `task` for each case, in worker processes, and yield the results in the order of the cases.

    Args:
        task: A function defined in a module. Its results should be small, because they are sent between processes.
        dataset: The data set.
        workers: Number of processes; 0 runs in this process, None chooses by cores and memory.
        ticker: Reports progress.

    Yields:
        The result for each case.

    Raises:
        DeviceError: a worker was killed.
        RuntimeError: the task failed with an unexpected error; the message names the case.
    """
    count = choose_workers(dataset) if workers is None else min(workers, len(dataset.cases))
    if count == 0:
        yield from _report_progress((task(dataset, case) for case in dataset.cases), dataset, ticker)
        return
    alone = replace(dataset, cases=())  # the list of all cases is not sent with every case
    with worker_pool(count) as pool:
        try:
            yield from _report_progress(pool.map(task, [alone] * len(dataset.cases), dataset.cases), dataset, ticker)
        except BrokenProcessPool as error:
            remedy = "use --workers 1, or 0 to read in this process"
            fault = Fault(
                f"{count} worker processes",
                "one was killed, most often because memory ran out",
                "all to finish",
                remedy,
            )
            raise DeviceError("A worker process was killed", [fault]) from error


def _report_progress(results: Iterator[T], dataset: Dataset, ticker: Ticker | None) -> Iterator[T]:
    """Yield the results of all cases, report each, and name the case in unexpected errors."""
    for done, case in enumerate(dataset.cases, 1):
        try:
            result = next(results)
        except (TumorgenError, BrokenProcessPool, OSError, MemoryError):  # each is told with its own remedy
            raise
        except Exception as error:  # a bug: the traceback of a worker does not name the case
            raise RuntimeError(f"case {case}: {error!r}") from error
        if ticker is not None:
            ticker(done, case)
        yield result


def choose_workers(dataset: Dataset) -> int:
    """Choose the number of processes: one for each usable core, as many as fit into memory, 0 for small data sets."""
    sizes = {case: sum(p.stat().st_size for p in dataset.image_files(case) if p.exists()) for case in dataset.cases}
    if sum(sizes.values()) < _IN_PROCESS_BYTES:
        return 0
    largest = max(sizes, key=sizes.__getitem__)
    grids = [read_header(path, []) for path in dataset.image_files(largest) if path.exists()]
    voxels = max((int(np.prod(grid.shape)) for grid in grids if grid is not None), default=0)
    need = _WORKER_BYTES + voxels * 4 * (_COPIES + len(dataset.channel_names))
    return max(1, min(usable_cores(), len(dataset.cases), int(available_memory_gib() * 2**30) // 2 // need))


def choose_preprocessing_workers(grids: Sequence[Grid], channels: int) -> int:
    """Choose how many preprocessing workers fit into memory."""
    return max(1, min(usable_cores(), int(available_memory_gib() / preprocessing_memory_gib(grids, channels))))


def preprocessing_memory_gib(grids: Sequence[Grid], channels: int) -> float:
    """The memory of a machine, in GiB, that lets one preprocessing worker run.

    A worker needs 0.4 GiB and about 40 bytes for each voxel and channel of the largest scan. At most 60 percent of the
    memory is used.
    """
    largest = max((float(np.prod(grid.shape)) for grid in grids), default=1.0)
    return (0.4 + 40 * largest * channels / 2**30) / 0.6
