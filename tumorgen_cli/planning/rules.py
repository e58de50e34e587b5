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
PAPER_CELLS = 32 * 32 * 16
CPU_VOXELS = 2**18
CPU_CELLS = 2**12
MEDIAN_CELLS = 5  # latent cells that a median tumor should be wide: its inside, its edge and its shape are then seen
SMALL_CELLS = 2  # those of the 5th percentile: with less, a tumor is a blurred part of one cell
CONTEXT_CELLS = 2  # that a window shows on each side of the largest usual tumor: the least that a flow needs
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


def cell_budget(device: str) -> int:
    """The number of latent cells that a training window may have; the flow's time grows with it.

    It is the paper's 32×32×16 on a GPU, and 2^12 on a CPU: as many as the largest windows of `voxel_budget` have with
    cells of 4 voxels. A flow on finer cells then takes no longer.
    """
    return PAPER_CELLS if device == "cuda" else CPU_CELLS


@dataclass(frozen=True)
class TumorSizes:
    """The 5th, 50th and 95th percentile of the extents of tumors, per axis, in mm."""

    small: Triple
    median: Triple
    large: Triple

    def widths(self, cell: Triple) -> tuple[float, float]:
        """How many cells with these edges in mm a median and a small tumor are wide, on their tightest axis."""
        median, small = (min(e / c for e, c in zip(each, cell, strict=True)) for each in (self.median, self.small))
        return median, small

    def fineness(self, cell: Triple) -> float:
        """How fine cells are for these tumors: 1 where a median tumor is 5 cells wide and a small one 2, or more."""
        median, small = self.widths(cell)
        return min(1.0, median / MEDIAN_CELLS, small / SMALL_CELLS)


def tumor_sizes(tumors: Sequence[TumorFacts]) -> TumorSizes:
    """The sizes of tumors."""
    return TumorSizes(*(extent_percentile_mm(tumors, percentile) for percentile in (5, 50, 95)))


@dataclass(frozen=True)
class WorkingGrid:
    """A working spacing, the extent of a window in mm, and the voxels per latent cell of the KL-VAE."""

    spacing: Triple
    window: Triple
    downsampling: int


@dataclass(frozen=True)
class CaseSizes:
    """The median voxel of the cases, and their median and largest extent per axis, all in mm."""

    voxel: Triple
    median: Triple
    largest: Triple


def choose_grid(
    sizes: TumorSizes, cases: CaseSizes, voxels: int, cells: int, downsamplings: Sequence[int] = (4, 2)
) -> WorkingGrid:
    """Choose the working grid whose latent cells fit the tumors.

    For each downsampling, the spacing is the finest one, from the median voxel on, at which the largest usual tumor
    with 2 cells on each side fits both budgets. The first downsampling is taken, MAISI's 4, unless a later one brings
    tumors closer to the widths that are wanted: 5 cells for the median, 2 for the 5th percentile. It must gain more in
    cells than it loses in voxels, because details of the picture are as fine as the voxels.

    Args:
        sizes: The sizes of the tumors.
        cases: The sizes of the cases.
        voxels: Number of voxels that a window may have.
        cells: Number of latent cells that a window may have.
        downsamplings: Voxels per latent cell that can be chosen, in order of preference.
    """
    best: WorkingGrid | None = None
    for downsampling in downsamplings:
        budget = min(voxels, cells * downsampling**3)
        spacing = _finest_spacing(sizes, cases, downsampling, budget)
        found = WorkingGrid(spacing, _window_mm(sizes, cases, spacing, downsampling, budget), downsampling)
        if best is None or _gain(sizes, best, found) > 1:
            best = found
    assert best is not None
    return best


def vae_downsampling(sizes: TumorSizes, spacing: Triple, window: Shape, cells: int) -> int:
    """Voxels per latent cell for a window: 2 where tumors are narrow with 4 and the window's cells fit their budget.

    For a window of `choose_grid` it is that function's choice.
    """
    narrow = sizes.fineness(as_triple(4 * s for s in spacing)) < 1
    return 2 if narrow and math.prod(window) <= cells * 2**3 else 4


def _gain(sizes: TumorSizes, before: WorkingGrid, after: WorkingGrid) -> float:
    """How many times wider tumors become in cells, as far as it is wanted, over how much coarser voxels become."""
    fineness = [sizes.fineness(as_triple(grid.downsampling * s for s in grid.spacing)) for grid in (before, after)]
    coarser = math.prod(after.spacing) / math.prod(before.spacing)
    return fineness[1] / fineness[0] / coarser ** (1 / 3)


def _finest_spacing(sizes: TumorSizes, cases: CaseSizes, downsampling: int, budget: int) -> Triple:
    """The median voxel if the window that is needed fits the budget; else it is made coarser, to a hundredth.

    Edges below some length get this length, so that an axis that is coarse already stays as it is.
    """
    edge, smallest = min(cases.voxel), SMALLEST_SIDE**3
    while True:
        spacing = as_triple(max(s, edge) for s in cases.voxel)
        needed = _with_context(sizes, cases, as_triple(CONTEXT_CELLS * downsampling * s for s in spacing))
        if math.prod(window_shape(needed, spacing)) <= max(budget, smallest):
            return spacing
        edge *= 1.01


def _with_context(sizes: TumorSizes, cases: CaseSizes, context: Triple) -> Triple:
    """The extent of the largest usual tumor with a context on each side, at most that of the largest case."""
    return as_triple(min(e + 2 * c, m) for e, c, m in zip(sizes.large, context, cases.largest, strict=True))


def _window_mm(sizes: TumorSizes, cases: CaseSizes, spacing: Triple, downsampling: int, budget: int) -> Triple:
    """The extent of a window: what is needed, and as much more of what is wanted as fits the budget.

    Wanted are 4 cells on each side of the largest usual tumor, or half of its width if that is more, within the median
    case: the surroundings in which a tumor is drawn are then about as large as the tumor, whatever its size.
    """
    least = as_triple(CONTEXT_CELLS * downsampling * s for s in spacing)
    needed = _with_context(sizes, cases, least)
    wanted = _with_context(sizes, cases, as_triple(max(2 * c, e / 2) for c, e in zip(least, sizes.large, strict=True)))
    wanted = as_triple(max(n, min(w, m)) for n, w, m in zip(needed, wanted, cases.median, strict=True))
    shares = (as_triple(n + k / 32 * (w - n) for n, w in zip(needed, wanted, strict=True)) for k in range(32, -1, -1))
    return next((seen for seen in shares if math.prod(window_shape(seen, spacing)) <= budget), needed)


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


def surface_tolerance_mm(spacing: Triple) -> float:
    """Tolerance of the normalized surface Dice: the largest edge of the median voxel, rounded to 0.1 mm.

    Annotations are not finer than a voxel.
    """
    return round(max(spacing), 1)


def smallest_volume_ml(tumors: Sequence[TumorFacts]) -> float:
    """Half of the smallest training tumor, in ml, to three digits; a smaller drawn tumor counts as an empty draw."""
    return float(f"{min(tumor.volume_ml for tumor in tumors) / 2:.3g}")


def least_change(contrasts: Sequence[float]) -> float:
    """Half of the contrast that 95 % of training tumors exceed, to three digits, negative if they are darker.

    Args:
        contrasts: contrast of each training tumor in the main channel (`TumorFacts.contrast`).

    Returns:
        0 if not even 95 % are brighter, or darker, than the tissue around them, or no contrast is known.
    """
    known = [contrast for contrast in contrasts if math.isfinite(contrast)]  # a tumor that fills its scan has none
    if not known:
        return 0.0
    faint, bright = np.quantile(known, (0.05, 0.95))
    least = faint if faint > 0 else min(bright, 0.0)
    return float(f"{least / 2:.3g}")


def largest_patch(window: Shape) -> Shape:
    """The largest patch of an autoencoder: the window, with sides of at least 48, so that it learns several sizes."""
    return as_triple(max(n, SMALLEST_SIDE + SIDE_MULTIPLE) for n in window)


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
