"""How processes end: a stop that cleans up, worker processes that never outlive their parent."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, TypeVar

_POLL_SECONDS = 0.2
_SAME_STOP_SECONDS = 2.0
_STOPS = (signal.SIGINT, signal.SIGTERM)
_ASK_SECONDS = 0.5  # between two requests to a worker to end: time to remove its temporary files
_MOST_REQUESTS = 20  # a worker that does not end after so many is killed
_task_runs = threading.Event()  # in a worker: whether it is at work
T = TypeVar("T")


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM; otherwise the same as Ctrl-C."""


def exit_code(stop: KeyboardInterrupt) -> int:
    """The exit code of a command that was stopped: 143 after SIGTERM, 130 after Ctrl-C."""
    return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)


@contextlib.contextmanager
def stop_cleanly() -> Iterator[None]:
    """Turn SIGTERM into `Terminated` in the block, so that temporary files are removed and child processes end.

    SLURM, for example, sends SIGTERM before the time limit.
    """
    with _handler(signal.SIGTERM, _raise_terminated):
        yield


@contextlib.contextmanager
def stop_later() -> Iterator[list[KeyboardInterrupt]]:
    """Note SIGTERM or Ctrl-C in the block instead of stopping at once; a second Ctrl-C stops at once.

    torchrun passes on what its process group has got already: what comes within two seconds counts as one.

    Yields:
        A list that is empty until then. It holds the exception that the block should raise when its state is saved.
    """
    noted: list[KeyboardInterrupt] = []
    first = math.inf

    def note(number: int, _: Any) -> None:
        nonlocal first
        if not noted:
            first = time.monotonic()
            noted.append(Terminated() if number == signal.SIGTERM else KeyboardInterrupt())
        elif number == signal.SIGINT and time.monotonic() - first > _SAME_STOP_SECONDS:
            raise KeyboardInterrupt

    with _handler(signal.SIGTERM, note), _handler(signal.SIGINT, note):
        yield noted


@contextlib.contextmanager
def worker_pool(count: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of `count` worker processes, which end with this process, in whatever way it ends.

    Ctrl-C does not reach the workers. If this process is stopped, it asks them to end, and they remove their temporary
    files. Tasks that have not begun when the block ends are not run.

    Raises:
        Terminated: a worker was asked to end by SIGTERM.
    """
    pool = _Pool(count, _Spawn())
    try:
        yield pool
    except (KeyboardInterrupt, SystemExit) as stop:  # a task that was stopped raises SystemExit
        workers = list((pool._processes or {}).values())  # noqa: SLF001  (no public way before Python 3.14)
        pool.shutdown(wait=False, cancel_futures=True)
        _end(workers)
        if isinstance(stop, SystemExit):
            raise Terminated from None
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def ignore_stops(_: int = 0) -> None:
    """Set up a loader process of torch, which its parent ends: a stop of the whole process group does not reach it."""
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)


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


class _Worker(SpawnProcess):
    """A worker process. Stops are blocked until it has set up their handlers: before, they would print tracebacks."""

    def run(self) -> None:
        """Set up the process and work: SIGTERM ends a task, Ctrl-C is left to the parent."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, _end_task)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
        threading.Thread(target=_follow_parent, daemon=True).start()
        super().run()


class _Spawn(SpawnContext):
    """Starts every worker as a new interpreter."""

    Process = _Worker


class _Pool(ProcessPoolExecutor):
    """A pool whose tasks can be ended without ending their workers, which would print tracebacks."""

    def submit(self, task: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Hand a task to the next free worker, which may have to be started.

        A stop of this process waits until a new worker has all it needs and the pool knows it.
        """
        resource_tracker.ensure_running()  # its first start would unblock the signals
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
        try:
            return super().submit(_run_task, task, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run_task(task: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Run a task; while it runs, SIGTERM ends it."""
    _task_runs.set()
    try:
        return task(*args, **kwargs)
    finally:
        _task_runs.clear()


@contextlib.contextmanager
def _handler(number: int, action: Any) -> Iterator[None]:
    """Handle a signal by `action` in the block; nothing changes outside the main thread, which alone may do so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, action)
    try:
        yield
    finally:
        signal.signal(number, before)


def _raise_terminated(*_: Any) -> None:
    raise Terminated


def _end_task(number: int, _: Any) -> None:
    if _task_runs.is_set():
        raise SystemExit(128 + number)


def _follow_parent() -> None:
    """Wait until the parent has ended, then end the task and this process."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    for _ in range(_MOST_REQUESTS):
        if not _task_runs.is_set():
            break
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_ASK_SECONDS)
    os._exit(1)


def _end(processes: list[Any]) -> None:
    """Ask processes to end until they have, and kill those that do not; a worker may begin another task in between."""
    for _ in range(_MOST_REQUESTS):
        alive = [process for process in processes if process.is_alive()]
        if not alive:
            return
        for process in alive:
            process.terminate()
        for process in alive:
            process.join(_ASK_SECONDS)
    for process in processes:
        process.kill()
