"""Planning arithmetic: facts in, numbers out, no I/O and no torch. Each function's docstring is its reason.

The paper gives 200×200×100 → 128×128×64 for its lung crops and no λ, α, learning rate or iteration count (TumorGen,
section 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tumorgen_cli.data.channels import has_own_unit, is_ct, is_pet
from tumorgen_cli.geometry import Shape, Triple
from tumorgen_cli.planning.fingerprint import ChannelFacts, Fingerprint, TumorFacts

PAPER_VOXELS = 128 * 128 * 64
PAPER_MEMORY_GIB = 24.0
PAPER_CELL_ML = 3.0
CPU_VOXELS = 2**18
CONTEXT_MM = 25.0
LARGEST_RESIZE = 2.0
SIDE_MULTIPLE = 16  # 4x by the VAE, twice 2x by the flow's U-Net
SMALLEST_SIDE = 32


@dataclass(frozen=True)
class Scaling:
    """Clip window and power of a channel: y = 2 ((clip(x, low, high) - low) / (high - low)) ** power - 1.

    `scheme` is `dataset` (low and high are intensities) or `own` (they count in each scan's own unit, see `scan_unit`).
    """

    scheme: str
    low: float
    high: float
    power: float
    rule: str


def channel_scaling(facts: ChannelFacts) -> Scaling:
    """Clip and scale by the channel's name, as nnU-Net chooses its normalisation by name."""
    name = facts.name
    if is_ct(name):
        low, high = min(facts.foreground["0.5"], facts.image["5"]), facts.foreground["99.5"]
        return Scaling(
            "dataset", low, max(high, low + 1), 1.0, "CT: foreground 0.5th (or image 5th) to 99.5th percentile, linear"
        )
    if is_pet(name):
        high = max(facts.foreground["99.95"], facts.image["99.9"])
        return Scaling(
            "dataset", min(0.0, facts.minimum), high, 0.5, "PET: 0 to the foreground's 99.95th percentile, square root"
        )
    if not has_own_unit(name):
        return Scaling(
            "dataset", facts.minimum, facts.maximum, 1.0, "no normalisation in nnU-Net: the data's range, linear"
        )
    rule = "MR and others: each scan's lowest (0) to its 99.9th percentile (1) outside tumors, or to the tumors' 99.5th, linear"
    return Scaling("own", 0.0, max(1.0, facts.foreground["99.5"]), 1.0, rule)


def main_channel(channels: Sequence[ChannelFacts], tumors: Sequence[TumorFacts]) -> int:
    """The channel in which the median tumor stands out most from its surroundings, against what lies between the 5th and the 95th
    percentile of all scans: where there are CT and PET, PET."""
    spread = [max(facts.image["95"] - facts.image["5"], 1e-6) for facts in channels]
    contrast = np.median([np.nan_to_num(np.abs(tumor.contrast)) for tumor in tumors], axis=0)
    return int(np.argmax(contrast / spread))


def median_spacing(fingerprint: Fingerprint) -> Triple:
    """The median spacing per axis: the detail most scans have."""
    return _triple(np.median([case.grid.spacing_mm for case in fingerprint.cases], axis=0))


def extent_percentile_mm(tumors: Sequence[TumorFacts], percentile: float) -> Triple:
    """Tight extents of the tumors in mm, per axis, at a percentile (95: the largest usual tumor)."""
    return _triple(np.percentile([tumor.extent_mm for tumor in tumors], percentile, axis=0))


def voxel_budget(device: str, memory_gib: float) -> int:
    """Voxels of a training window: the paper's 128×128×64 from 24 GiB up, less in proportion; on CPU time limits, not memory."""
    largest = PAPER_VOXELS if device == "cuda" else CPU_VOXELS
    return int(largest * min(1.0, memory_gib / (PAPER_MEMORY_GIB if device == "cuda" else 8.0)))


def window_mm(
    tumor_mm: Triple, case_mm: Triple, largest_case_mm: Triple, spacing: Triple, budget: int
) -> tuple[Triple, str]:
    """What a window must show: the whole median case where a resize by at most 2 makes it fit, since anatomy is the
    best context; else the largest usual tumor with 25 mm around it. Never more than the largest case."""
    room = [e + 2 * CONTEXT_MM for e in tumor_mm]
    voxels = math.prod(c / s for c, s in zip(case_mm, spacing, strict=True))
    whole = (voxels / budget) ** (1 / 3) <= LARGEST_RESIZE
    want = [max(r, c) if whole else r for r, c in zip(room, case_mm, strict=True)]
    reason = "the whole case, and the largest usual tumor with 25 mm" if whole else "the largest usual tumor with 25 mm"
    return _triple([min(w, m) for w, m in zip(want, largest_case_mm, strict=True)]), reason


def resize_factor(window: Triple, spacing: Triple, budget: int) -> float:
    """The least uniform coarsening (1 or more) at which the window, sides rounded up to 16, fits the voxel budget."""
    sides = [w / s for w, s in zip(window, spacing, strict=True)]
    edges = {1.0, *(n / (SIDE_MULTIPLE * k) for n in sides for k in range(1, math.ceil(n / SIDE_MULTIPLE) + 1))}
    for factor in sorted(edge for edge in edges if edge >= 1.0):
        if math.prod(window_shape(window, _triple([s * factor for s in spacing]))) <= budget:
            return factor
    return max(edges)


def window_shape(window: Triple, spacing: Triple) -> Shape:
    """Voxels per side, rounded up to a multiple of 16, at least 32 (a rest below half a voxel does not count)."""
    sides = (w / s for w, s in zip(window, spacing, strict=True))
    return tuple(max(SMALLEST_SIDE, SIDE_MULTIPLE * math.ceil((n - 0.5) / SIDE_MULTIPLE)) for n in sides)  # type: ignore[return-value]


def box_alpha(window: Triple, median_tumor_mm: Triple) -> float:
    """α of the box offsets: half of the room a median tumor leaves on its tightest axis, within 0.05 to 0.2, so that
    boxes vary by as much as places can be drawn by hand and seldom reach the window's edge."""
    room = min((w - e) / (2 * w) for w, e in zip(window, median_tumor_mm, strict=True))
    return round(min(0.2, max(0.05, room / 2)), 3)


def latent_channels(spacing: Triple) -> tuple[float, int]:
    """(volume of a latent cell in ml, latent channels): 4, doubled for each doubling of the cell over the paper's.

    Source: TumorGen, section 3.1: 4 channels; its lung crops of 2.04 × 2.04 × 3 mm, resized by 1.5625, have cells of 3 ml.
    """
    cell = math.prod(4 * s for s in spacing) / 1000
    doublings = round(math.log2(max(cell / PAPER_CELL_ML, 1.0)))
    return round(cell, 2), 4 * 2 ** min(doublings, 2)


def spacing_for_small_tumors(median_tumor_mm: Triple, spacing: Triple) -> Triple | None:
    """A finer working spacing where the median tumor is less than 1.5 latent cells wide on some axis, else None.

    On the latent grid such a tumor's area average never reaches a half: its mask comes out empty. The finer spacing gives
    it two cells.
    """
    if all(e >= 1.5 * 4 * s for e, s in zip(median_tumor_mm, spacing, strict=True)):
        return None
    return _triple([min(s, e / 8) for e, s in zip(median_tumor_mm, spacing, strict=True)])


def small_tumor_grid(
    median_tumor_mm: Triple, tumor_mm: Triple, window: Triple, largest_case_mm: Triple, spacing: Triple, budget: int
) -> tuple[Triple, Triple] | None:
    """(working spacing, window in mm) where tumors are small against latent cells: a finer grid, and of the wanted window
    as much as fits then, 25 mm around the largest usual tumor at least. None where tumors are not small, or where the
    budget leaves no finer grid."""
    finer = spacing_for_small_tumors(median_tumor_mm, spacing)
    if finer is None:
        return None
    room = [min(e + 2 * CONTEXT_MM, m) for e, m in zip(tumor_mm, largest_case_mm, strict=True)]
    factor = resize_factor(_triple(room), finer, budget)
    working = _triple([s * factor for s in finer])
    if any(w > s for w, s in zip(working, spacing, strict=True)):
        return None
    shares = [
        _triple([r + k / 32 * max(0.0, w - r) for r, w in zip(room, window, strict=True)]) for k in range(32, -1, -1)
    ]
    fitting = (seen for seen in shares if math.prod(window_shape(seen, working)) <= budget)
    window_seen = next(fitting, None)
    return None if window_seen is None else (working, window_seen)


def surface_tolerance_mm(spacing: Triple) -> float:
    """NSD tolerance: the median spacing's largest edge rounded to 0.1 mm; finer than a voxel nobody annotates."""
    return round(max(spacing), 1)


def smallest_volume_ml(tumors: Sequence[TumorFacts]) -> float:
    """Half of the smallest training tumor: what is smaller counts as an empty draw."""
    return round(min(tumor.volume_ml for tumor in tumors) / 2, 4)


def patches_per_step(patch: Shape) -> int:
    """Patches of an autoencoder's step on a GPU: as many as hold the voxels of the paper's window together, 4 at most."""
    return max(1, min(4, PAPER_VOXELS // math.prod(patch)))


def encoded_copies(tumors: int) -> int:
    """Augmented windows to encode per tumor: about 640 in all, 4 to 32 of each."""
    return int(np.clip(640 // tumors, 4, 32))


def flow_steps(tumors: int, most: int) -> int:
    """Training steps of a flow: 125 a tumor, 1000 to `most`."""
    return int(np.clip(125 * tumors, 1000, most))


def _triple(values: Sequence[float] | np.ndarray) -> Triple:
    x, y, z = (float(v) for v in values)
    return x, y, z
