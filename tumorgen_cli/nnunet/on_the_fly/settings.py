"""The files that nnU-Net's trainer and the painter share: settings, job, progress, log."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tumorgen_cli.nnunet.on_the_fly.pool import Pool
from tumorgen_cli.system.json_records import hash_value

VARIABLE = "TUMORGEN_PAINTING"
FOLDER, JOB, LOG, PROGRESS = "tumorgen", "painter.json", "painter.log", "progress.json"
SETUP = "run `tumorgen nnunet-setup` and add its two lines to the job script"


@dataclass(frozen=True)
class Painting:
    """What is painted while nnU-Net trains: into which hosts, by which method, how often, at what cost; a file of `nnunet_setup`.

    Attributes:
        format: `records.PAIR_FORMAT`.
        probability: of a training patch to come from the pool.
        pool: most entries at a time.
        share: of its time that the painter is busy at most, once the pool has what training waits for.
        mixup: share of the painted patches into which a box of another is pasted (FreeTumor's mix-up).
        until_pass: draws of a pair until the judge finds the share `keep` of its mask; None for no such test.
        learnt_from: cases that the method has seen. hosts: names of the scans that are painted into; `hosts_hash`: of their files' sizes.
    """

    format: int
    work: str
    method: str
    healthy: str | None
    cases: Literal["train"] | None
    roi: str | None
    judge: str | None
    keep: float
    until_pass: int | None
    mixup: float
    probability: float
    pool: int
    share: float
    device: Literal["auto", "cpu", "cuda"]
    seed: int
    plan_hash: str
    weights: dict[str, str]
    learnt_from: tuple[str, ...]
    hosts: tuple[str, ...]
    hosts_hash: str
    channels: tuple[str, ...]
    labels: dict[str, int]

    @property
    def content_hash(self) -> str:
        """Changes with whatever changes an entry."""
        return hash_value(replace(self, probability=0.0, pool=0, share=0.0, device="auto"))


@dataclass(frozen=True)
class PainterJob:
    """What the painter is told; `painter.json`.

    `shape`: voxels of an entry at most, on nnU-Net's grid and in its order of axes; 0 for twice the tumor's extent.
    `least`: entries that it makes without a rest. `parent`: the process that it ends with.
    """

    pool_hash: str
    painting: Painting
    plans: dict[str, Any]
    dataset: dict[str, Any]
    configuration: str
    shape: tuple[int, ...]
    least: int
    parent: int


@dataclass(frozen=True)
class Progress:
    """What the painter has done since it was started, the last reason to give a pair up, and the most memory it held; `progress.json`."""

    painted: int
    given_up: int
    reason: str
    busy_seconds: float
    seconds: float
    peak_memory_gib: float


_NOTHING_YET = Progress(0, 0, "", 0.0, 0.0, 0.0)


def pool_of(folder: Path, painting: Painting) -> Pool:
    """The pool of a training's `tumorgen` folder."""
    return Pool(folder / "pool", painting.pool)
