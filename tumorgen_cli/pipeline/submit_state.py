"""What was submitted, and how far it is: marks of finished tasks, numbers of SLURM's jobs, and the queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tumorgen_cli.pipeline.submit_records import Chain, Job
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system.files import file_version
from tumorgen_cli.system.json_records import read_written, write_json
from tumorgen_cli.system.slurm import has_slurm, queued_tasks

_FILE = "chain.json"
_TAIL_BYTES = 4096


@dataclass(frozen=True)
class JobState:
    """How far a job is: its tasks by their numbers.

    Attributes:
        job: The job.
        done: Finished tasks.
        queued: Why a task in the queue waits; empty for one that runs.
        stopped: The log of each task that was submitted, and neither is done nor in the queue.
        left: Tasks that were not submitted.
    """

    job: Job
    done: tuple[int, ...]
    queued: dict[int, str]
    stopped: dict[int, Path]
    left: tuple[int, ...]

    @property
    def is_done(self) -> bool:
        """Whether every task is finished."""
        return len(self.done) == self.job.tasks

    @property
    def detail(self) -> str:
        """The numbers of tasks, and how the first stopped one ended."""
        waiting = [reason for reason in self.queued.values() if reason]
        counts = {
            "done": len(self.done),
            "running": len(self.queued) - len(waiting),
            f"waiting ({', '.join(sorted({*waiting}))})": len(waiting),
            "stopped": len(self.stopped),
            "not submitted": len(self.left),
        }
        text = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        parts = [f"{text}, of {self.job.tasks} tasks" if self.job.tasks > 1 else text.removeprefix("1 ")]
        if self.stopped:
            log = next(iter(self.stopped.values()))
            parts.append(f"{log}: {last_line(log)}")
        return "; ".join(parts)


def submit_folder(workspace: Workspace) -> Path:
    """The folder of the scripts, the logs and the marks of finished tasks."""
    return workspace.root / "submit"


def read_chain(folder: Path) -> Chain | None:
    """Read what was written and submitted; None if nothing was.

    Raises:
        StateError: the file is damaged.
    """
    path = folder / _FILE
    if not path.is_file():
        return None
    remedy = f"delete {folder} once its jobs have ended, and run `tumorgen submit` with its options again"
    return read_written(Chain, path, remedy, "jobs of this version of tumorgen", "The jobs cannot be read")


def write_chain(folder: Path, chain: Chain) -> None:
    """Write what was written and submitted."""
    write_json(folder / _FILE, chain)


def script_file(folder: Path, job: Job) -> Path:
    """The script of a job."""
    return folder / f"{job.name}.sh"


def queue_of(chain: Chain) -> dict[str, str]:
    """The states of this user's tasks in the queue, if tasks of the chain were submitted; see `queued_tasks`.

    Raises:
        StateError: SLURM does not answer.
    """
    return queued_tasks() if chain.tasks and has_slurm() else {}


def job_states(folder: Path, chain: Chain, queue: Mapping[str, str]) -> list[JobState]:
    """How far each job is. The queue must have been read before: a task that leaves it has left its mark.

    A task is done if the jobs before it are, and its mark is as new as theirs and as its script.
    """
    states: list[JobState] = []
    ended: dict[str, int] = {}  # of finished jobs: the time of the newest mark
    for job in chain.jobs:
        ready = all(each in ended for each in job.after)
        least = max((ended.get(each, 0) for each in job.after), default=0)
        names = {int(number): name for number, name in chain.tasks.get(job.name, {}).items()}
        queued = {number: queue[name] for number, name in names.items() if name in queue}
        numbers = [number for number in range(1, job.tasks + 1) if number not in queued]
        done = tuple(number for number in numbers if ready and _mark_time(folder, job, number) >= least)
        rest = [number for number in numbers if number not in done]
        stopped = {number: _log(folder, job, names[number]) for number in rest if number in names}
        left = tuple(number for number in rest if number not in names)
        states.append(JobState(job, done, queued, stopped, left))
        if states[-1].is_done:
            ended[job.name] = max(_mark_time(folder, job, number) for number in done)
    return states


def last_line(log: Path) -> str:
    """The last line of a log."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            lines: Sequence[str] = stream.read().decode(errors="replace").split("\n")
    except OSError:
        return "no log"
    return next((line.strip() for line in reversed(lines) if line.strip()), "an empty log")


def _mark_time(folder: Path, job: Job, number: int) -> int:
    """When a task left the mark of its end, in ns; -1 if it has not since its script was written or edited."""
    times = [file_version(path) for path in (folder / "done" / f"{job.name}_{number}", script_file(folder, job))]
    mark, script = (-1 if each is None else each[2] for each in times)
    return mark if mark >= script else -1


def _log(folder: Path, job: Job, name: str) -> Path:
    """The log of a task by its name in the queue."""
    return folder / "logs" / f"{job.name}_{name}.log"
