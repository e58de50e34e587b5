"""Who follows a training: told where it is at the beginning, after each checkpoint and at the end.

What a follower reads, `log.csv` and `previews/`, is as of the last checkpoint. A training that was resumed therefore
shows nothing twice, and nothing that was lost.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tumorgen_cli.system import console
from tumorgen_cli.system.errors import TumorgenError, one_line


@dataclass(frozen=True)
class Moment:
    """Where a training is.

    Attributes:
        stage: Name of the stage.
        title: Name of the stage in messages.
        folder: Its folder, with the log and the previews.
        step: Finished steps.
        iterations: All steps.
        seconds: Wall-clock time of the finished steps, over all interruptions.
        state: `running`; at the end `finished` or, after an error or a request to stop, `stopped`.
    """

    stage: str
    title: str
    folder: Path
    step: int
    iterations: int
    seconds: float
    state: Literal["running", "stopped", "finished"] = "running"


Watcher = Callable[[Moment], None]


@contextlib.contextmanager
def following(watchers: Sequence[Watcher]) -> Iterator[Watcher]:
    """Give the function that tells all watchers; the block's end is told, too.

    An error of a watcher at the first moment is raised, before anything is trained. One that fails later is left out,
    with a warning: the training is worth more. A watcher closes what it holds open before it raises.

    Yields:
        The function to call at each moment.
    """
    left, last = [*watchers], None

    def tell(moment: Moment) -> None:
        nonlocal last
        first, last = last is None, moment
        for watcher in [*left]:
            try:
                watcher(moment)
            except Exception as error:  # a logger raises whatever its network makes it run into
                left.remove(watcher)
                if first:
                    raise
                said = one_line(error) if isinstance(error, TumorgenError) else f"{type(error).__name__}: {error}"
                console.warn(f"{moment.title}: the training continues without this logger or page: {said[:300]}")

    try:
        yield tell
    except BaseException:
        if last is not None:
            tell(replace(last, state="stopped"))
        raise
    if last is not None:
        tell(replace(last, step=max(last.step, last.iterations), state="finished"))
