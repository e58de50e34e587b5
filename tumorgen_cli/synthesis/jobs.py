"""Which pairs a set has: the host and the seed of each, whether it is aimed, and which shard makes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tumorgen_cli.geometry import Triple
from tumorgen_cli.synthesis.aim import is_aimed
from tumorgen_cli.synthesis.shards import Shard
from tumorgen_cli.synthesis.sources import Source
from tumorgen_cli.system.files import derive_seed


@dataclass(frozen=True)
class PairJob:
    """What one pair is.

    Attributes:
        index: number of the pair in its set.
        source: the host scan.
        case: name of the pair.
        seed: seed of the pair.
        turn: how many pairs of the set are painted into this scan before; the scan's tumors are redrawn in turn.
        extent_mm: extent of the tumor, if the method sets it.
        aimed: whether its tumors are drawn by the aim.
    """

    index: int
    source: Source
    case: str
    seed: int
    turn: int
    extent_mm: Triple | None = None
    aimed: bool = False


def make_jobs(sources: Sequence[Source], pairs: int, seed: int, aim: bool = False) -> list[PairJob]:
    """Distribute pairs over the sources in turn, then sort them by source, so that each scan is read once.

    With `aim`, half of them are aimed (`synthesis.aim`).
    """
    jobs = []
    for index in range(pairs):
        turn, which = divmod(index, len(sources))
        source = sources[which]
        own, aimed = derive_seed(seed, source.name, index), aim and is_aimed(which, turn)
        jobs.append(PairJob(index, source, f"{source.name}_s{index:04d}", own, turn, aimed=aimed))
    return sorted(jobs, key=lambda job: (job.index % len(sources), job.index))


def own_jobs(jobs: Sequence[PairJob], shard: Shard | None) -> list[PairJob]:
    """Return the jobs of a shard, or all jobs without a shard."""
    return [job for job in jobs if shard is None or shard.owns(job.index)]
