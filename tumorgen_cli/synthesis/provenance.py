"""How a synthetic pair came to be: one record per pair, one line of `provenance.jsonl`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tumorgen_cli.geometry import Box

PAIR_FORMAT = 3  # raise it when the same seed, plan and weights come to another pair


@dataclass(frozen=True)
class Provenance:
    """How one synthetic pair came to be; one line of `provenance.jsonl`.

    Outside `box`, and `healed` where an old tumor was taken away, the image is the host's voxel for voxel. `asked`: the box as it was drawn
    or given, the same for every method; `box` is that or, around whole cells of the method's (`Method.cell`), wider. `host_hash` is of the
    host's files, `host_voxels` of the voxels in the first (`volumes.hash_voxels`).
    """

    case: str
    method: str
    host: str
    host_file: tuple[str, ...]
    host_hash: str
    host_voxels: str
    seed: int
    attempt: int
    asked: Box
    box: Box
    plan_hash: str
    weights: dict[str, str]
    volume_ml: float
    padded: bool
    seconds: dict[str, float]
    rejected: dict[str, int]
    drawn: dict[str, Any]
    healed: Box | None = None


NOT_FOUND = "P below the threshold"
