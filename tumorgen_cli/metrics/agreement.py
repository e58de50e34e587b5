"""How well two masks agree: Dice and surface Dice. Masks are (X, Y, Z), anything non-zero is inside.

Both are nan where both masks are empty (nothing was asked, nothing answered) and 0 where one is.
"""

from __future__ import annotations

import math
import warnings

import numpy as np

from tumorgen_cli.records import Triple
from tumorgen_cli.windows import tight_box


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

    Source: Nikolov et al. 2018 (arXiv 1809.04430), as in DeepMind's surface-distance; computed by MONAI.
    """
    import torch
    from monai.metrics.surface_dice import compute_surface_dice

    a, b = _pair(a, b)
    box = tight_box(a | b)
    if box is None:
        return math.nan
    if not a.any() or not b.any():
        return 0.0
    # one voxel of background on every side, outside the volume too, or a surface at its edge would go missing
    one, other = (torch.from_numpy(np.pad(mask[box.slices], 1)[None, None]) for mask in (a, b))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        score = compute_surface_dice(one, other, [tolerance_mm], include_background=True, spacing=spacing_mm, use_subvoxels=True)
    return float(score)


def _pair(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if a.shape != b.shape:
        raise ValueError(f"masks of shapes {a.shape} and {b.shape} cannot be compared")
    return a.astype(bool, copy=False), b.astype(bool, copy=False)
