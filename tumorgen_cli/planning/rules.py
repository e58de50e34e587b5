"""The rules of planning: pure functions from facts to numbers, without file access or torch.

Each docstring gives the reason for its rule.

Source:
    TumorGen, section 3.1: lung crops of 200×200×100 voxels are resized to 128×128×64. The paper gives no λ, α, learning
    rate or number of iterations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tumorgen_cli.data.channels import has_own_unit, is_ct, is_pet
from tumorgen_cli.geometry import Shape, Triple, as_triple
from tumorgen_cli.planning.fingerprint import ChannelFacts, Fingerprint, TumorFacts

PAPER_VOXELS = 128 * 128 * 64
PAPER_MEMORY_GIB = 24.0
PAPER_CELL_ML = 3.0
CPU_VOXELS = 2**18
CONTEXT_MM = 25.0
LARGEST_RESIZE = 2.0
SIDE_MULTIPLE = 16  # autoencoders downsample by at most 4, and the networks on latents halve their grid twice
SMALLEST_SIDE = 32


@dataclass(frozen=True)
class Scaling:
    """Intensity scaling of a channel: y = 2 ((clip(x, low, high) - low) / (high - low)) ** power - 1.

    With the scheme `dataset`, `low` and `high` are intensities. With `own`, they are in each scan's own unit (see
    `data.channels.scan_unit`).
    """

    scheme: str
    low: float
    high: float
    power: float
    rule: str


def channel_scaling(facts: ChannelFacts) -> Scaling:
    """Choose the scaling by the channel's name, as nnU-Net chooses its normalization by name."""
    name = facts.name
    if is_ct(name):
        low, high = min(facts.foreground["0.5"], facts.image["5"]), facts.foreground["99.5"]
        return Scaling(
            "dataset", low, max(high, low + 1), 1.0, "CT: foreground 0.5th (or image 5th) to 99.5th percentile, linear"
        )
    if is_pet(name):
        high = max(facts.foreground["99.95"], facts.image["99.9"])
        return Scaling(
            "dataset",
            min(0.0, facts.image["0.5"]),
            high,
            0.5,
            "PET: 0 (or image 0.5th percentile) to foreground 99.95th (or image 99.9th), square root",
        )
    if not has_own_unit(name):
        return Scaling(
            "dataset", facts.low, facts.high, 1.0, "no normalization in nnU-Net: 0.05th to 99.95th percentile, linear"
        )
    rule = "MR and others: each scan's 0.1st percentile (0) to its 99.9th (1) or the tumors' 99.5th, linear"
    return Scaling("own", 0.0, max(1.0, facts.foreground["99.5"]), 1.0, rule)


def main_channel(channels: Sequence[ChannelFacts], tumors: Sequence[TumorFacts]) -> int:
    """Choose the channel in which the median tumor has the highest contrast to its surroundings.

    Contrast is relative to the range from the 5th to the 95th percentile of all scans. With CT and PET, this is PET.
    """
    spread = [max(facts.image["95"] - facts.image["5"], 1e-6) for facts in channels]
    contrast = np.median([np.nan_to_num(np.abs(tumor.contrast)) for tumor in tumors], axis=0)
    return int(np.argmax(contrast / spread))


def median_spacing(fingerprint: Fingerprint) -> Triple:
    """The median spacing per axis, in mm: the resolution that most scans have."""
    return _floats(np.median([case.grid.spacing_mm for case in fingerprint.cases], axis=0))


def extent_percentile_mm(tumors: Sequence[TumorFacts], percentile: float) -> Triple:
    """A percentile of the extents of tumors, per axis, in mm. The 95th stands for the largest usual tumor."""
    return _floats(np.percentile([tumor.extent_mm for tumor in tumors], percentile, axis=0))


def voxel_budget(device: str, memory_gib: float) -> int:
    """The number of voxels that a training window may have.

    On a GPU with 24 GiB or more it is the paper's 128×128×64; with less memory it is smaller in proportion. On a CPU,
    time is the limit: 2^18 voxels from 8 GiB, less in proportion.
    """
    largest = PAPER_VOXELS if device == "cuda" else CPU_VOXELS
    return int(largest * min(1.0, memory_gib / (PAPER_MEMORY_GIB if device == "cuda" else 8.0)))


def window_mm(
    tumor_mm: Triple, case_mm: Triple, largest_case_mm: Triple, spacing: Triple, budget: int
) -> tuple[Triple, str]:
    """Choose the extent of a window in mm, and the reason as a text.

    A window shows the whole median case if a resize by at most 2 makes it fit, because anatomy is the best context.
    Otherwise it shows the largest usual tumor with 25 mm around it. It is never larger than the largest case.

    Args:
        tumor_mm: Extent of the largest usual tumor.
        case_mm: Median extent of the cases.
        largest_case_mm: Largest extent of the cases, per axis.
        spacing: Median spacing in mm.
        budget: Number of voxels that a window may have.
    """
    needed = [e + 2 * CONTEXT_MM for e in tumor_mm]
    voxels = math.prod(c / s for c, s in zip(case_mm, spacing, strict=True))
    whole = (voxels / budget) ** (1 / 3) <= LARGEST_RESIZE
    want = [max(r, c) if whole else r for r, c in zip(needed, case_mm, strict=True)]
    reason = "the whole case, and the largest usual tumor with 25 mm" if whole else "the largest usual tumor with 25 mm"
    return as_triple(min(w, m) for w, m in zip(want, largest_case_mm, strict=True)), reason


def resize_factor(window: Triple, spacing: Triple, budget: int) -> float:
    """The smallest factor on the spacing, 1 or more, with which the window fits the voxel budget.

    The sides of the window are rounded up to multiples of 16 voxels.
    """
    sides = [w / s for w, s in zip(window, spacing, strict=True)]
    edges = {1.0, *(n / (SIDE_MULTIPLE * k) for n in sides for k in range(1, math.ceil(n / SIDE_MULTIPLE) + 1))}
    for factor in sorted(edge for edge in edges if edge >= 1.0):
        if math.prod(window_shape(window, as_triple(s * factor for s in spacing))) <= budget:
            return factor
    return max(edges)


def window_shape(window: Triple, spacing: Triple) -> Shape:
    """The voxels per side of a window in mm: rounded up to a multiple of 16, at least 32.

    A remainder of less than half a voxel is ignored.
    """
    sides = (w / s for w, s in zip(window, spacing, strict=True))
    return as_triple(max(SMALLEST_SIDE, SIDE_MULTIPLE * math.ceil((n - 0.5) / SIDE_MULTIPLE)) for n in sides)


def box_alpha(window: Triple, median_tumor_mm: Triple) -> float:
    """The factor α of the box offsets, from 0.05 to 0.2.

    It is half of the free margin around a median tumor, relative to the window, on the axis with the least margin.
    Boxes then vary as much as boxes that are drawn by hand, and seldom reach the edge of the window.

    Args:
        window: Extent of the window in mm.
        median_tumor_mm: Extent of the median tumor in mm.
    """
    margin = min((w - e) / (2 * w) for w, e in zip(window, median_tumor_mm, strict=True))
    return round(min(0.2, max(0.05, margin / 2)), 3)


def latent_channels(spacing: Triple, downsampling: int) -> tuple[float, int]:
    """The volume of a latent cell in ml, and the number of latent channels.

    There are 4 channels, and twice as many for each doubling of the cell's volume over the paper's, at most 16.

    Source:
        TumorGen, section 3.1: 4 channels. Its lung crops of 2.04 × 2.04 × 3 mm voxels, resized by 1.5625, have latent
        cells of 3 ml.
    """
    cell = math.prod(downsampling * s for s in spacing) / 1000
    doublings = round(math.log2(max(cell / PAPER_CELL_ML, 1.0)))
    return round(cell, 2), 4 * 2 ** min(doublings, 2)


def spacing_for_small_tumors(median_tumor_mm: Triple, spacing: Triple) -> Triple | None:
    """A finer working spacing if the median tumor is narrower than 1.5 latent cells on some axis, else None.

    On the latent grid, the mask of such a tumor is an average that never reaches 0.5, so the drawn mask would be empty.
    With the finer spacing, the tumor is two cells wide.
    """
    if all(e >= 1.5 * 4 * s for e, s in zip(median_tumor_mm, spacing, strict=True)):
        return None
    return as_triple(min(s, e / 8) for e, s in zip(median_tumor_mm, spacing, strict=True))


def small_tumor_grid(
    median_tumor_mm: Triple, tumor_mm: Triple, window: Triple, largest_case_mm: Triple, spacing: Triple, budget: int
) -> tuple[Triple, Triple] | None:
    """Choose a finer working spacing and a window for tumors that are small compared to latent cells.

    The window is as much of the wanted window as fits with the finer spacing, and at least the largest usual tumor with
    25 mm around it.

    Args:
        median_tumor_mm: Extent of the median tumor.
        tumor_mm: Extent of the largest usual tumor.
        window: The wanted extent of the window in mm.
        largest_case_mm: Largest extent of the cases, per axis.
        spacing: Working spacing without this rule, in mm.
        budget: Number of voxels that a window may have.

    Returns:
        Spacing and window in mm; None if tumors are not small, or if no finer spacing fits the budget.
    """
    finer = spacing_for_small_tumors(median_tumor_mm, spacing)
    if finer is None:
        return None
    needed = [min(e + 2 * CONTEXT_MM, m) for e, m in zip(tumor_mm, largest_case_mm, strict=True)]
    factor = resize_factor(as_triple(needed), finer, budget)
    working = as_triple(s * factor for s in finer)
    if any(w > s for w, s in zip(working, spacing, strict=True)):
        return None
    shares = (
        as_triple(r + k / 32 * max(0.0, w - r) for r, w in zip(needed, window, strict=True)) for k in range(32, -1, -1)
    )
    fitting = (seen for seen in shares if math.prod(window_shape(seen, working)) <= budget)
    window_seen = next(fitting, None)
    return None if window_seen is None else (working, window_seen)


def surface_tolerance_mm(spacing: Triple) -> float:
    """Tolerance of the normalized surface Dice: the largest edge of the median voxel, rounded to 0.1 mm.

    Annotations are not finer than a voxel.
    """
    return round(max(spacing), 1)


def smallest_volume_ml(tumors: Sequence[TumorFacts]) -> float:
    """Half of the smallest training tumor, in ml; a smaller drawn tumor counts as an empty draw."""
    return round(min(tumor.volume_ml for tumor in tumors) / 2, 4)


def patches_per_step(patch: Shape) -> int:
    """Patches per training step of an autoencoder on a GPU, 1 to 4: together as many voxels as the paper's window."""
    return max(1, min(4, PAPER_VOXELS // math.prod(patch)))


def encoded_copies(tumors: int) -> int:
    """Augmented windows to encode for each tumor: 4 to 32, about 640 in total."""
    return int(np.clip(640 // tumors, 4, 32))


def flow_steps(tumors: int, most: int) -> int:
    """Training steps of a flow: 125 for each tumor, from 1000 to `most`."""
    return int(np.clip(125 * tumors, 1000, most))


def _floats(values: Iterable[float]) -> Triple:
    return as_triple(float(v) for v in values)
