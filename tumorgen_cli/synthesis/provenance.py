"""The record of a synthetic pair: one line of `provenance.jsonl`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tumorgen_cli.geometry import Box

PAIR_FORMAT = (
    5  # to be raised when the same seed, plan and weights give another pair, or a field of a set's files changes
)


@dataclass(frozen=True)
class Provenance:
    """How one synthetic pair was made; one line of `provenance.jsonl`.

    Outside `box`, and outside `removal_box` if an old tumor was removed, the image is the host's voxel for voxel.

    Attributes:
        case: name of the pair.
        method: name of the method.
        host: name of the host.
        host_file: names of the host's files.
        host_hash: hash of the host's files.
        host_voxels: hash of the voxels of the first file (`volumes.hash_voxels`).
        seed: seed of the pair.
        attempt: number of the draw that passed.
        requested_box: the box as it was drawn or given; the same for every method.
        box: `requested_box`, or wider, if the method draws masks in cells (`Method.cell`).
        plan_hash: hash of the plan.
        weights: hashes of the method's weights, by name.
        volume_ml: volume of the tumor.
        padded: whether the window extends beyond the scan.
        seconds: times, by name.
        rejected: rejected draws, by reason.
        drawn: what the method drew at random.
        removal_box: box of the voxels that changed when an old tumor was removed; None if there was none.
        files: hashes of the pair's files: its images by channel, then its label; empty for a pair that is not written.
        inside: share of the tumor in the region to paint in or, without one, in the body.
        suspected_ml: volume of suspected lesions that a judge marks in the unpainted host; None if it was not asked.
    """

    case: str
    method: str
    host: str
    host_file: tuple[str, ...]
    host_hash: str
    host_voxels: str
    seed: int
    attempt: int
    requested_box: Box
    box: Box
    plan_hash: str
    weights: dict[str, str]
    volume_ml: float
    padded: bool
    seconds: dict[str, float]
    rejected: dict[str, int]
    drawn: dict[str, Any]
    removal_box: Box | None = None
    inside: float = 1.0
    files: tuple[str, ...] = ()
    suspected_ml: float | None = None
