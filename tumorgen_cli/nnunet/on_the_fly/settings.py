"""The files that nnU-Net's trainer and the painter share: settings, job, progress and log."""

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
    """Settings of painting while nnU-Net trains; `tumorgen nnunet-setup` writes them to a file.

    Attributes:
        format: `provenance.PAIR_FORMAT`.
        work: folder of the workspace.
        method: name of the method.
        healthy: folder of healthy host scans, if tumors are painted into such.
        cases: "train" if the tumors of training cases are redrawn.
        roi: folder of masks of the regions to paint in.
        tumors: tumors of a pair; None for the plan's rule.
        anywhere: whether boxes are drawn anywhere in the regions or the body, whatever the plan says.
        trust_units: whether hosts that look like another unit are painted into.
        judge: folder of the judge; None for the one that `judge.find` chooses.
        keep: share of a mask that the judge must find.
        p_alone: whether what the judge marks beside the mask does not count.
        until_pass: number of draws of a pair until it passes the judge; None for no such test.
        mixup: share of the painted patches into which a box of another one is pasted (FreeTumor's mix-up).
        probability: probability that a training patch comes from the pool.
        pool: largest number of entries in the pool.
        around: share of the painted patches from around a tumor, the others are from elsewhere in the painted scan;
            None for as many patches with a tumor as nnU-Net cuts from real cases.
        share: largest share of its time that the painter is busy, once the pool has the entries that training waits
            for.
        device: device of the method.
        seed: seed of the painter.
        plan_hash: hash of the workspace's plan.
        weights: hashes of the method's weights, by name.
        learned_from: the cases that the method has learned from.
        hosts: names of the host scans.
        hosts_hash: hash of the names and sizes of the hosts' files.
        channels: names of the channels.
        labels: values of the labels, by name.
        tumor: values of the tumor label.
        aim: how training tumors are drawn in aimed pairs (`synthesis.aim.Aim`); None if no pair is aimed.
    """

    format: int
    work: str
    method: str
    healthy: str | None
    cases: Literal["train"] | None
    roi: str | None
    tumors: int | None
    anywhere: bool
    trust_units: bool
    judge: str | None
    keep: float
    p_alone: bool
    until_pass: int | None
    mixup: float
    probability: float
    around: float | None
    pool: int
    share: float
    device: Literal["auto", "cpu", "cuda"]
    seed: int
    plan_hash: str
    weights: dict[str, str]
    learned_from: tuple[str, ...]
    hosts: tuple[str, ...]
    hosts_hash: str
    channels: tuple[str, ...]
    labels: dict[str, int | tuple[int, ...]]
    tumor: tuple[int, ...]
    aim: dict[str, Any] | None

    @property
    def content_hash(self) -> str:
        """A hash that changes with every setting that changes an entry."""
        return hash_value(replace(self, probability=0.0, around=None, pool=0, share=0.0, device="auto"))


@dataclass(frozen=True)
class PainterJob:
    """Everything that the painter needs to know; `painter.json`.

    Attributes:
        pool_hash: changes with every setting that changes an entry.
        painting: what to paint.
        plans: nnU-Net's plans.
        dataset: content of nnU-Net's dataset.json.
        configuration: name of nnU-Net's configuration.
        shape: largest number of voxels of an entry, on nnU-Net's grid and in its order of axes; 0 for twice the tumor's
            extent.
        least: number of entries that the painter makes without a pause.
        parent: number of the process with which the painter ends.
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
    """What the painter has done since it was started; `progress.json`.

    `reason` is why the last pair was given up; `peak_memory_gib` is the largest amount of memory that the painter used.
    """

    painted: int
    given_up: int
    reason: str
    busy_seconds: float
    seconds: float
    peak_memory_gib: float


NO_PROGRESS = Progress(0, 0, "", 0.0, 0.0, 0.0)


def pool_of(folder: Path, painting: Painting) -> Pool:
    """Return the pool in a training's `tumorgen` folder."""
    return Pool(folder / "pool", painting.pool)
