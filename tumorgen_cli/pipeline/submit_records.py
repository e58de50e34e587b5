"""The records of a chain of jobs: what it makes, its jobs, and what of them was submitted. Imports no torch."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tumorgen_cli.synthesis.options import HostOptions, QualityOptions

CHAIN_FORMAT = 1
#: the stages of a chain in their order, and those that run where none are named
STAGES = ("preprocess", "train", "judge", "synthesize", "filter", "merge", "downstream")
DEFAULT_STAGES = ("preprocess", "train", "synthesize", "filter")


@dataclass(frozen=True)
class ChainOptions:
    """What a chain makes.

    Attributes:
        stages: The stages, of `STAGES`.
        hosts: What is painted into.
        method: The method that paints.
        pairs: How many pairs the whole set has.
        out: Folder of the set. None: in the workspace, as `synthesize` names it.
        shards: The parts of the set, each a task.
        quality: When `filter` keeps a pair.
        merged: Name of the merged data set; only with the stage `merge`.
        seed: Seed of the pairs. None: the plan's.
    """

    stages: tuple[str, ...] = DEFAULT_STAGES
    hosts: HostOptions = HostOptions()
    method: str = "tumorgen"
    pairs: int = 20
    out: Path | None = None
    shards: int = 8
    quality: QualityOptions = QualityOptions()
    merged: str | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Needs:
    """What a task may take of a machine.

    Attributes:
        cores: CPU cores.
        memory_gib: Memory in GiB.
        seconds: Expected time; None if it is unknown.
        gpu: Whether it needs a GPU.
    """

    cores: int
    memory_gib: float
    seconds: float | None
    gpu: bool = False


@dataclass(frozen=True)
class Job:
    """A job of the chain: a script that runs once, or once for each of several tasks.

    Attributes:
        name: The stage; also the name of the script.
        what: What it does, a sentence.
        words: The command.
        after: Jobs that must have succeeded before.
        needs: What a task may take of a machine.
        tasks: How many tasks it has.
    """

    name: str
    what: str
    words: tuple[str, ...]
    after: tuple[str, ...]
    needs: Needs
    tasks: int = 1

    @property
    def command(self) -> str:
        """The command for the shell; a task of several makes its part of the set."""
        return shlex.join(self.words) + (f' --shard "$task/{self.tasks}"' if self.tasks > 1 else "")


@dataclass(frozen=True)
class Chain:
    """The content of `chain.json`.

    Attributes:
        format: `CHAIN_FORMAT`.
        options: What the chain makes.
        cluster: The file of the cluster. None: the one beside the scripts.
        request: A hash of the options, the plan and the cluster that the scripts were written for.
        jobs: The jobs in their order.
        written: For each job, the hash of its script as it was written.
        tasks: For each job, the name of each of its tasks in SLURM's queue, by number; only of submitted tasks.
    """

    format: int
    options: ChainOptions
    cluster: Path | None
    request: str
    jobs: tuple[Job, ...]
    written: dict[str, str]
    tasks: dict[str, dict[str, str]] = field(default_factory=dict)

    def with_tasks(self, job: str, names: Mapping[int, str]) -> Chain:
        """The same chain, in which tasks of a job are submitted."""
        known = {**self.tasks.get(job, {}), **{str(number): name for number, name in names.items()}}
        return replace(self, tasks={**self.tasks, job: known})
