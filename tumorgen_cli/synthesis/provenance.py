"""The record of a synthetic pair: one line of `provenance.jsonl`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from tumorgen_cli.geometry import Box

#: to be raised when the same seed, plan and weights give another pair, or a field of a set's files changes
PAIR_FORMAT = 7


@dataclass(frozen=True)
class PaintedTumor:
    """How one tumor of a pair was painted. Boxes are in the host's voxels.

    Attributes:
        requested_box: the box as it was drawn or given; the same for every method.
        box: `requested_box`, or wider, if the method draws masks in cells (`Method.cell`).
        place: the part of `box` in which the mask may lie.
        padded: whether the window extends beyond the scan.
        volume_ml: volume of the tumor.
        inside: share of the tumor in the region to paint in or, without one, in the body.
        attempt: number of the draw that passed.
        rejected: the draws before it, by the reason why they were rejected.
        seconds: time of the method, in all draws.
        drawn: what the method drew at random.
        removal_box: box of the voxels that changed when an old tumor was removed; None if there was none.
        unlike: distance of the place's surroundings in the host to those of the most similar training tumor, over that
            between training tumors: above 1 the place is unlike theirs. None if places were not compared.
        aimed_at: in an aimed pair, the strata of the training tumor that was drawn, by trait, and its case as `like`
            (`synthesis.aim`); else None.
    """

    requested_box: Box
    box: Box
    place: Box
    padded: bool
    volume_ml: float
    inside: float
    attempt: int
    rejected: dict[str, int]
    seconds: float
    drawn: dict[str, Any]
    removal_box: Box | None = None
    unlike: float | None = None
    aimed_at: dict[str, str] | None = None


@dataclass(frozen=True)
class Provenance:
    """How one synthetic pair was made; one line of `provenance.jsonl`.

    Outside the boxes of its tumors, and outside the boxes where old tumors were removed, the image is the host's voxel
    for voxel (`changed`).

    Attributes:
        case: name of the pair.
        method: name of the method.
        host: name of the host.
        host_file: names of the host's files.
        host_hash: hash of the host's files.
        host_voxels: hash of the voxels of the first file (`volumes.hash_voxels`).
        seed: seed of the pair.
        plan_hash: hash of the plan.
        weights: hashes of the method's weights, by name.
        seconds: times, by name.
        tumors: the tumors, in the order in which they were painted.
        left_out: of each tumor that was asked for and did not pass, the rejected draws by reason.
        files: hashes of the pair's files: its images by channel, then its label; empty for a pair that is not written.
        writer: library and version that packed these files (`volumes.writer_of`): another one may write other bits for
            the same voxels.
        suspected_ml: volume of suspected lesions that a judge marks in the unpainted host; None if it was not asked.
        mixed_up_with: of a patch that nnU-Net trains on, number of the pair of which it holds a box.
        unlike: how the host's intensities differ from the training cases', if they do (`host_checks`).
    """

    case: str
    method: str
    host: str
    host_file: tuple[str, ...]
    host_hash: str
    host_voxels: str
    seed: int
    plan_hash: str
    weights: dict[str, str]
    seconds: dict[str, float]
    tumors: tuple[PaintedTumor, ...]
    left_out: tuple[dict[str, int], ...] = ()
    files: tuple[str, ...] = ()
    writer: str = ""
    suspected_ml: float | None = None
    mixed_up_with: int | None = None
    unlike: tuple[str, ...] = ()

    @property
    def boxes(self) -> tuple[Box, ...]:
        """The boxes of the tumors."""
        return tuple(tumor.box for tumor in self.tumors)

    @property
    def changed(self) -> tuple[Box, ...]:
        """The boxes outside which the image is the host's."""
        return (*self.boxes, *(tumor.removal_box for tumor in self.tumors if tumor.removal_box is not None))

    @property
    def volume_ml(self) -> float:
        """The volume of all tumors of the pair."""
        return round(sum(tumor.volume_ml for tumor in self.tumors), 4)

    @property
    def padded(self) -> bool:
        """Whether the window of a tumor extends beyond the scan."""
        return any(tumor.padded for tumor in self.tumors)

    @property
    def rejected(self) -> dict[str, int]:
        """The rejected draws of all tumors, also of those that were left out, by reason."""
        counts: Counter[str] = Counter()
        for rejected in (*(tumor.rejected for tumor in self.tumors), *self.left_out):
            counts.update(rejected)
        return dict(counts)
