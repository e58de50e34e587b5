"""The ranges of plan fields, as types: they are stated beside each field, and checked when a plan is made and read.

Every range has two ends, so that NaN, infinity and slips of the keyboard are refused. Imports no torch and no pydantic.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen, MultipleOf, Predicate, doc


def is_odd(value: int) -> bool:
    """Whether a number is odd: the side of a window that has a center."""
    return value % 2 == 1


def is_refiner_width(value: int) -> bool:
    """Whether a width, its double and its fourfold can be normalized in 8 groups, or in one group per channel."""
    return value in (1, 2, 4) or value % 8 == 0


def is_ordered(values: Sequence[float]) -> bool:
    """Whether no number is above the next one."""
    return all(low <= high for low, high in itertools.pairwise(values))


def share_groups(widths: Sequence[int]) -> bool:
    """Whether the least width, or 32 if all are above, divides every width: it is the number of normalized groups."""
    return all(width % min(32, *widths) == 0 for width in widths)


_GROUPS = doc("each a multiple of the least one, or of 32 if all are above")
_ORDERED = doc("the lower one first")

# -- numbers that count ---------------------------------------------------------------------------------------------
Iterations = Annotated[int, Ge(1), Le(100_000_000)]
Batch = Annotated[int, Ge(1), Le(4096)]
Steps = Annotated[int, Ge(1), Le(100_000)]
Copies = Annotated[int, Ge(1), Le(10_000)]
Draws = Annotated[int, Ge(1), Le(1000)]
Codes = Annotated[int, Ge(2), Le(10_000_000)]
#: of a pair; "data": as many as the training cases have
TumorCount = Literal["data"] | Annotated[int, Ge(1), Le(1000)]
LatentCells = Annotated[int, Ge(1), Le(64)]
ContextCells = Annotated[int, Ge(0), Le(64)]
CellsAcross = Annotated[
    tuple[Annotated[int, Ge(4), Le(64)], Annotated[int, Ge(4), Le(64)]], Predicate(is_ordered), _ORDERED
]
OddSide = Annotated[int, Ge(1), Le(63), Predicate(is_odd), doc("odd")]
Seed = Annotated[int, Ge(0), Le(2**32 - 1)]
ChannelIndex = Annotated[int, Ge(0), Le(999)]
LabelValue = Annotated[int, Ge(0), Le(2**31 - 1)]

# -- networks -------------------------------------------------------------------------------------------------------
Width = Annotated[int, Ge(1), Le(8192)]
Blocks = Annotated[int, Ge(1), Le(32)]
#: an autoencoder halves its grid between levels; a latent cell is 2 voxels wide with two levels, 4 with three
VaeWidths = Annotated[tuple[Width, ...], MinLen(2), MaxLen(3), Predicate(share_groups), _GROUPS]
VaeBlocks = Annotated[tuple[Blocks, ...], MinLen(2), MaxLen(3)]
#: sides of latent windows are multiples of 4, which can be halved twice
LatentWidths = Annotated[tuple[Width, ...], MinLen(1), MaxLen(3), Predicate(share_groups), _GROUPS]
#: normalized in groups of 8; the network fills up the sides of its windows
PlaneWidths = Annotated[tuple[Annotated[Width, MultipleOf(8)], ...], MinLen(1), MaxLen(4)]
#: sides of patches are multiples of 16, which can be halved four times
PatchWidths = Annotated[tuple[Width, ...], MinLen(2), MaxLen(5)]
RefinerWidth = Annotated[Width, Predicate(is_refiner_width), doc("1, 2, 4 or a multiple of 8")]
Heads = tuple[Annotated[int, Ge(1), Le(256)], Annotated[int, Ge(1), Le(1024)]]

# -- numbers without a unit -----------------------------------------------------------------------------------------
Share = Annotated[float, Ge(0), Le(1)]
ShareBelowOne = Annotated[float, Ge(0), Lt(1)]
LearningRate = Annotated[float, Gt(0), Le(1)]
Weight = Annotated[float, Ge(0), Le(1_000_000)]
Factor = Annotated[float, Ge(0), Le(1000)]
FactorRange = Annotated[tuple[Factor, Factor], Predicate(is_ordered), _ORDERED]
Cells = Annotated[float, Gt(0), Le(64)]
Power = Annotated[float, Gt(0), Le(10)]
Sigma = Annotated[float, Gt(0), Le(100)]
BoxMargin = Annotated[float, Ge(0), Le(0.5)]

# -- measures -------------------------------------------------------------------------------------------------------
Intensity = Annotated[float, Ge(-1_000_000_000), Le(1_000_000_000)]
TissueBounds = Annotated[tuple[Intensity, Intensity, Intensity, Intensity], Predicate(is_ordered), doc("rising")]
IntensityRange = Annotated[tuple[Intensity, Intensity], Predicate(is_ordered), _ORDERED]
ShareRange = Annotated[tuple[Share, Share], Predicate(is_ordered), _ORDERED]
Decibels = Annotated[float, Ge(0), Le(200)]
Degrees = Annotated[float, Ge(0), Le(180)]
Gibibytes = Annotated[float, Gt(0), Le(1_000_000)]
Milliliters = Annotated[float, Ge(0), Le(100_000)]
Millimeters = Annotated[float, Ge(0), Le(1000)]
MillimetersAboveZero = Annotated[float, Gt(0), Le(1000)]
MillimeterRange = Annotated[tuple[Millimeters, Millimeters], Predicate(is_ordered), _ORDERED]
MillimeterRangeAboveZero = Annotated[tuple[MillimetersAboveZero, MillimetersAboveZero], Predicate(is_ordered), _ORDERED]
Radii = Annotated[tuple[MillimetersAboveZero, ...], MinLen(1), MaxLen(100)]
VoxelEdge = Annotated[float, Gt(0), Le(100)]
Spacing = tuple[VoxelEdge, VoxelEdge, VoxelEdge]
#: critics and deep networks reduce 16 voxels to one, which cannot be normalized
Side = Annotated[int, Ge(32), Le(4096), MultipleOf(16)]
Sides = tuple[Side, Side, Side]
