"""Two threads beside the painting: one reads the next host, the other one writes the last pair.

Both mostly unpack, pack and copy voxels, during which Python runs other threads, and wait for the disk. Memory holds
one host ahead and one pair behind at most: the next host is read when the last pair of the host before is written.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

Host = TypeVar("Host")
Result = TypeVar("Result")


class Background(Generic[Host, Result]):
    """Reads hosts in order, one ahead, and writes pairs in order, one behind; a context.

    What a thread raises is raised by the call that asks for its result. At the end of the context, the pair that is
    being written is written whole, also after an error.

    Attributes:
        beside: whether there are threads; without them, hosts are read and pairs are written when they are asked for.
    """

    def __init__(self, reads: Iterable[Callable[[], Host]], beside: bool = True) -> None:
        """Prepare; the first host is read when the context begins.

        Args:
            reads: read one host each.
            beside: see the class.
        """
        self.beside = beside
        self._reads = iter(reads)
        self._reader, self._writer = (ThreadPoolExecutor(1, name) for name in ("reader", "writer"))
        self._ahead: Future[Host] | None = None
        self._behind: Future[Result] | None = None
        self._closed = False

    def __enter__(self) -> Background[Host, Result]:
        if self.beside:
            self._read_ahead()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._closed = True
        for pool in (self._writer, self._reader):
            pool.shutdown()

    def next_host(self) -> Host:
        """Wait for the next host, and have the one after it read; what reading raises is raised here."""
        if not self.beside:
            return next(self._reads)()
        assert self._ahead is not None  # as many are asked for as there are
        ahead = self._ahead
        try:
            return ahead.result()
        finally:
            self._read_ahead()

    def write(self, task: Callable[[], Result]) -> None:
        """Have a pair written; the one before must be finished."""
        assert self._behind is None
        if self.beside:
            self._behind = self._writer.submit(task)
        else:
            self._behind = Future()
            self._behind.set_result(task())

    def finish(self) -> Result | None:
        """Wait until the last pair is written, and return what its task gives; what it raises is raised here.

        Returns:
            None if there was nothing to write.
        """
        behind, self._behind = self._behind, None
        return None if behind is None else behind.result()

    def _read_ahead(self) -> None:
        read, behind = next(self._reads, None), self._behind
        self._ahead = None if read is None else self._reader.submit(self._read, read, behind)

    def _read(self, read: Callable[[], Host], behind: Future[Result] | None) -> Host:
        """Read a host when the pair is written that keeps the one before the last in memory."""
        concurrent.futures.wait([] if behind is None else [behind])
        if self._closed:
            raise concurrent.futures.CancelledError
        return read()
