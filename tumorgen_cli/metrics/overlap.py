"""How well two masks agree. Masks are (X, Y, Z); every voxel that is not zero is inside.

Dice and surface Dice are nan where both masks are empty, and 0 where exactly one of them is empty.
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
    """A mask compared with what was found in its image.

    Attributes:
        dice: Dice of the mask and what was found.
        surface_dice: Surface Dice of the two.
        proportion: P, the share of the mask that was found (FreeTumor's filter).
        lesions: Number of lesions in the mask.
        missed: Number of lesions of the mask of which no voxel was found.
        spurious: Number of found lesions that touch no lesion of the mask.
    """

    dice: float
    surface_dice: float
    proportion: float
    lesions: int
    missed: int
    spurious: int


#: the verdict of a case that no judge has seen
UNJUDGED = Verdict(math.nan, math.nan, math.nan, 0, 0, 0)


def compare_masks(mask: np.ndarray, found: np.ndarray, spacing_mm: Triple, tolerance_mm: float) -> Verdict:
    """Compute all measures of a mask and of what was found in the same volume.

    Args:
        mask: The mask (X, Y, Z).
        found: What was found (X, Y, Z).
        spacing_mm: Voxel size along each axis.
        tolerance_mm: Tolerance of the surface Dice.

    Raises:
        ValueError: The shapes differ.
    """
    mask, found = _pair(mask, found)
    box = tight_box(mask | found)
    if box is not None:  # voxels outside both masks change nothing and cost time
        mask, found = mask[box.slices], found[box.slices]
    return Verdict(
        dice(mask, found),
        surface_dice(mask, found, spacing_mm, tolerance_mm),
        proportion(mask, found),
        *lesion_counts(mask, found),
    )


def proportion(mask: np.ndarray, found: np.ndarray) -> float:
    """Compute P = |found ∩ mask| / |mask|; nan where the mask is empty.

    Raises:
        ValueError: The shapes differ.

    Source: Wu et al., FreeTumor, the quality test of synthetic tumors.
    """
    mask, found = _pair(mask, found)
    size = np.count_nonzero(mask)
    return float(np.count_nonzero(mask & found) / size) if size else math.nan


def lesion_counts(mask: np.ndarray, found: np.ndarray) -> tuple[int, int, int]:
    """Count the lesions of the mask, the missed lesions and the spurious lesions, in this order.

    A lesion is a connected component; voxels are connected by face, edge or corner. One voxel in common is a hit.

    Raises:
        ValueError: The shapes differ.
    """
    mask, found = _pair(mask, found)
    lesions, count = ndimage.label(mask, np.ones((3, 3, 3)))
    components, components_count = ndimage.label(found, np.ones((3, 3, 3)))
    hit = mask & found
    return count, count - len(np.unique(lesions[hit])), components_count - len(np.unique(components[hit]))


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Compute 2 |a ∩ b| / (|a| + |b|) in voxels; nan where both are empty.

    Raises:
        ValueError: The shapes differ.
    """
    a, b = _pair(a, b)
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return float(2 * np.count_nonzero(a & b) / total) if total else math.nan


def surface_dice(a: np.ndarray, b: np.ndarray, spacing_mm: Triple, tolerance_mm: float) -> float:
    """Compute the share of both surfaces' area that lies within a tolerance of the other surface (NSD).

    Surface elements lie between 2×2×2 voxels and are weighted by their area in mm²; distances are Euclidean between the
    centers of elements. A mask that reaches the edge of the volume has a surface there.

    Args:
        a: A mask (X, Y, Z).
        b: The other mask (X, Y, Z).
        spacing_mm: Voxel size along each axis.
        tolerance_mm: Largest distance that counts as agreement.

    Returns:
        A number from 0 to 1; nan where both masks are empty, 0 where one is.

    Raises:
        ValueError: The shapes differ.

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
    # one voxel of background on every side, also outside the volume: without it a surface at the edge would be missing
    one, other = (torch.from_numpy(np.pad(mask[box.slices], 1)) for mask in (a, b))
    edges, other_edges, areas, other_areas = (
        part.numpy() for part in get_mask_edges(one, other, crop=False, spacing=spacing_mm)
    )
    places, other_places = (np.argwhere(edge) * np.array(spacing_mm) for edge in (edges, other_edges))
    within, total = 0.0, 0.0
    for here, there, area in ((places, other_places, areas[edges]), (other_places, places, other_areas[other_edges])):
        # distances beyond the tolerance are not needed: the tree stops its search there
        distance, _ = KDTree(there).query(here, distance_upper_bound=tolerance_mm + 1e-6)
        within += float(area[distance <= tolerance_mm].sum())
        total += float(area.sum())
    return within / total


def _pair(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if a.shape != b.shape:
        raise ValueError(f"masks of shapes {a.shape} and {b.shape} cannot be compared")
    return a.astype(bool, copy=False), b.astype(bool, copy=False)
