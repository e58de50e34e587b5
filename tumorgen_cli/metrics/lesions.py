"""What a segmentor finds of each real lesion, and what it finds where there is none. Masks in, two lists out.

Lesions and predictions are divided into components; voxels are connected by face, edge or corner.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from tumorgen_cli.geometry import Triple, tight_box

HIT_DICE = 0.1  # a lesion is found from this Dice on, as in DiffTumor's and nnDetection's tables (there IoU 0.1)


@dataclass(frozen=True)
class LesionScore:
    """A real lesion, and what was found of it.

    Attributes:
        mm: Diameter in mm of the ball of its volume.
        found: Whether what touches it has a Dice of at least `HIT_DICE` with it.
        touched: Whether at least one of its voxels was found.
        score: Of a found lesion, the largest mean probability of the predicted components that touch it; else None.
        dsc: Dice of the lesion and all predicted components that touch it; 0 if none does.
    """

    mm: float
    found: bool
    touched: bool
    score: float | None
    dsc: float


@dataclass(frozen=True)
class FalsePositive:
    """A predicted component that touches no found lesion.

    Attributes:
        mm: Diameter in mm of the ball of its volume.
        score: Its mean probability.
    """

    mm: float
    score: float


def score_lesions(
    prediction: np.ndarray, probability: np.ndarray, truth: np.ndarray, spacing_mm: Triple
) -> tuple[tuple[LesionScore, ...], tuple[FalsePositive, ...]]:
    """Match the components of a prediction with the real lesions.

    Args:
        prediction: The predicted mask (X, Y, Z).
        probability: Probability of a tumor, the softmax (X, Y, Z), 0 to 1.
        truth: The real mask (X, Y, Z).
        spacing_mm: Voxel size along each axis.

    Returns:
        Every real lesion, and the false positives.

    Raises:
        ValueError: The shapes differ.
    """
    if not prediction.shape == probability.shape == truth.shape:
        raise ValueError(f"shapes {prediction.shape}, {probability.shape} and {truth.shape} cannot be compared")
    prediction, truth = prediction.astype(bool, copy=False), truth.astype(bool, copy=False)
    box = tight_box(prediction | truth)
    if box is None:
        return (), ()
    prediction, probability, truth = prediction[box.slices], probability[box.slices], truth[box.slices]
    connected = np.ones((3, 3, 3))
    lesions, lesion_count = ndimage.label(truth, connected)
    parts, part_count = ndimage.label(prediction, connected)
    lesion_sizes = np.bincount(lesions.ravel(), minlength=lesion_count + 1)
    part_sizes = np.bincount(parts.ravel(), minlength=part_count + 1)
    scores = np.bincount(parts.ravel(), probability.ravel(), part_count + 1) / np.maximum(part_sizes, 1)
    both = truth & prediction
    pairs, shared = np.unique(np.stack([lesions[both], parts[both]]), axis=1, return_counts=True)

    found_lesions, explained = [], np.zeros(part_count + 1, bool)
    for lesion in range(1, lesion_count + 1):
        own = pairs[0] == lesion
        touching, overlap, size = pairs[1, own], shared[own], lesion_sizes[lesion]
        together = float(2 * overlap.sum() / (size + part_sizes[touching].sum()))
        # a lesion found in pieces counts by all of them, a lesion that a large component grazes by its best one
        best = max([together, *(2 * overlap / (size + part_sizes[touching]))])
        found = best >= HIT_DICE
        explained[touching] |= found
        score = float(scores[touching].max()) if found else None
        found_lesions.append(LesionScore(_mm(size, spacing_mm), found, len(touching) > 0, score, round(together, 4)))
    spurious = [
        FalsePositive(_mm(part_sizes[part], spacing_mm), float(scores[part]))
        for part in range(1, part_count + 1)
        if not explained[part]
    ]
    return tuple(found_lesions), tuple(spurious)


def _mm(voxels: int, spacing_mm: Triple) -> float:
    """Return the diameter in mm of the ball of so many voxels."""
    return round(2 * (0.75 * float(voxels) * math.prod(spacing_mm) / math.pi) ** (1 / 3), 2)
