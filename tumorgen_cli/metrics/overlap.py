"""How well two masks agree. Masks are (X, Y, Z), anything non-zero is inside.

Dice and surface Dice are nan where both masks are empty (nothing was asked, nothing answered) and 0 where one is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from tumorgen_cli.geometry import Triple, tight_box


@dataclass(frozen=True)
class Verdict:
    """A mask against what was found: Dice, surface Dice, P (the share of the mask that was found; FreeTumor's filter),
    lesions in the mask, those of which no voxel was found, and found lesions that touch none of them."""

    dice: float
    surface_dice: float
    proportion: float
    lesions: int
    missed: int
    spurious: int


UNJUDGED = Verdict(math.nan, math.nan, math.nan, 0, 0, 0)


def verdict(mask: np.ndarray, found: np.ndarray, spacing_mm: Triple, tolerance_mm: float) -> Verdict:
    """All measures of a mask and of what was found in the same volume."""
    mask, found = _pair(mask, found)
    box = tight_box(mask | found)
    if box is not None:  # what lies around both changes nothing and costs time
        mask, found = mask[box.slices], found[box.slices]
    return Verdict(
        dice(mask, found),
        surface_dice(mask, found, spacing_mm, tolerance_mm),
        proportion(mask, found),
        *lesion_counts(mask, found),
    )


def proportion(mask: np.ndarray, found: np.ndarray) -> float:
    """P = |found ∩ mask| / |mask|; nan where the mask is empty.

    Source: Wu et al., FreeTumor, the quality test of synthetic tumors.
    """
    mask, found = _pair(mask, found)
    size = np.count_nonzero(mask)
    return float(np.count_nonzero(mask & found) / size) if size else math.nan


def lesion_counts(mask: np.ndarray, found: np.ndarray) -> tuple[int, int, int]:
    """(lesions in the mask, lesions missed, spurious lesions): components that touch by face, edge or corner; one voxel
    in common is a hit."""
    mask, found = _pair(mask, found)
    lesions, count = ndimage.label(mask, np.ones((3, 3, 3)))
    answers, answered = ndimage.label(found, np.ones((3, 3, 3)))
    hit = mask & found
    return count, count - len(np.unique(lesions[hit])), answered - len(np.unique(answers[hit]))


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """2 |a ∩ b| / (|a| + |b|) in voxels.

    Raises:
        ValueError: shapes differ.
    """
    a, b = _pair(a, b)
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return float(2 * np.count_nonzero(a & b) / total) if total else math.nan


def surface_dice(a: np.ndarray, b: np.ndarray, spacing_mm: Triple, tolerance_mm: float) -> float:
    """Share of both surfaces' area that lies within `tolerance_mm` of the other surface (NSD).

    Surface elements sit between 2×2×2 voxels and are weighted by their area in mm²; distances are Euclidean between
    element centres. A mask that reaches the volume's edge ends there.

    Raises:
        ValueError: shapes differ.

    Source: Nikolov et al. 2018 (arXiv 1809.04430), as in DeepMind's surface-distance; surfaces by MONAI.
    """
    import torch
    from monai.metrics.utils import get_mask_edges

    a, b = _pair(a, b)
    box = tight_box(a | b)
    if box is None:
        return math.nan
    if not a.any() or not b.any():
        return 0.0
    # one voxel of background on every side, outside the volume too, or a surface at its edge would go missing
    one, other = (torch.from_numpy(np.pad(mask[box.slices], 1)) for mask in (a, b))
    edges, other_edges, areas, other_areas = (
        part.numpy() for part in get_mask_edges(one, other, crop=False, spacing=spacing_mm)
    )
    places, other_places = (np.argwhere(edge) * np.array(spacing_mm) for edge in (edges, other_edges))
    within, total = 0.0, 0.0
    for here, there, area in ((places, other_places, areas[edges]), (other_places, places, other_areas[other_edges])):
        # what is farther than the tolerance need not be known any closer: the tree stops looking there
        distance, _ = KDTree(there).query(here, distance_upper_bound=tolerance_mm + 1e-6)
        within += float(area[distance <= tolerance_mm].sum())
        total += float(area.sum())
    return within / total


def _pair(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if a.shape != b.shape:
        raise ValueError(f"masks of shapes {a.shape} and {b.shape} cannot be compared")
    return a.astype(bool, copy=False), b.astype(bool, copy=False)
