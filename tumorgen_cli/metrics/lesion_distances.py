"""Do synthetic lesions have the radiomics of real ones? A Fréchet distance, and how much of the real ones they cover.

Features are those of `radiomics.describe_lesion`, in standard deviations of the training tumors. Both numbers depend on
how many lesions are compared, so each stands beside a floor: the same number between real lesions, at equal counts.
Recall by nearest neighbors is left out on purpose: it rises as synthetic lesions spread beyond the real ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tumorgen_cli.metrics.slice_distances import (
    Distance,
    Interval,
    cannot_tell,
    equal_counts,
    floor,
    frechet_distance,
    jackknife,
    matched,
)
from tumorgen_cli.system.files import derive_seed

NEIGHBORS = 5  # as published
_DRAWS = 50
Measure = Literal["frechet", "coverage"]


@dataclass(frozen=True)
class LesionDistance:
    """A comparison of the radiomics of synthetic lesions with those of training tumors.

    Attributes:
        measure: `frechet`: the Fréchet radiomics distance, 0 alike. `coverage`: the share of real lesions that have a
            synthetic one near, 1 all.
        whole: Of the whole set.
        matched: Of parts of the set with as many lesions as there are held-out ones, to compare with `floor`.
        floor: Of as many real lesions.
        unclear: The sample is too small to distinguish `matched` from `floor`.
    """

    measure: Measure
    whole: Interval
    matched: Interval
    floor: Interval
    unclear: bool


def coverage(a: np.ndarray, b: np.ndarray) -> float:
    """Compute the share of rows of `b` that have a row of `a` nearer than their fifth neighbor in `b`.

    Args:
        a: Features of synthetic lesions (N, F).
        b: Features of real lesions (M, F).

    Returns:
        The share; nan where `b` has no fifth neighbor, or `a` no row.

    Source: Naeem et al., Reliable Fidelity and Diversity Metrics, ICML 2020 (arXiv 2002.09797), equation 9, with k = 5;
    the same number as that of their package prdc.
    """
    from scipy.spatial.distance import cdist

    if len(b) <= NEIGHBORS or not len(a):
        return math.nan
    radius = np.partition(cdist(b, b), NEIGHBORS, axis=1)[:, NEIGHBORS]  # a row is its own neighbor 0
    return float((cdist(b, a).min(axis=1) < radius).mean())


_MEASURES: dict[Measure, Distance] = {"frechet": frechet_distance, "coverage": coverage}


def lesion_distances(
    synthetic: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    groups: tuple[Sequence[str], Sequence[str], Sequence[str]],
) -> tuple[LesionDistance, ...]:
    """Compare the radiomics of synthetic lesions with those of training tumors; beside them, real with real ones.

    Features that are the same in all training tumors are left out. Undefined ones count as the training tumors' mean.

    Args:
        synthetic: Features of the synthetic lesions (N, F).
        train: Features of the training tumors.
        test: Features of the held-out tumors.
        groups: The host or patient of each row of the three.

    Returns:
        A row for each measure; empty with fewer than two synthetic lesions or training tumors.

    Source: Konz et al., Fréchet Radiomic Distance (arXiv 2412.01496): features standardized by the real ones, then the
    Fréchet distance. Deviations: our features of lesions instead of pyradiomics' of images, and no logarithm.
    """
    if min(len(synthetic), len(train)) < 2:
        return ()
    ours, known, unseen = _standardized(train, synthetic, train, test)
    hosts, names, unseen_names = groups
    counts = equal_counts(len(set(names)), len(set(unseen_names)), len(ours))
    real = np.concatenate([known, unseen])
    own = [each if len(set(each)) >= 3 else None for each in (hosts, names)]
    rows = []
    for measure, distance in _MEASURES.items():
        seed = derive_seed("radiomics", measure)
        at_count = matched(ours, known, counts, distance, hosts, names, _DRAWS, seed)
        between = floor(real, counts, distance, [*names, *unseen_names], _DRAWS, seed)
        unclear = cannot_tell(between, at_count.value, between.value)
        rows.append(LesionDistance(measure, jackknife(ours, known, distance, *own), at_count, between, unclear))
    return tuple(rows)


def _standardized(reference: np.ndarray, *parts: np.ndarray) -> list[np.ndarray]:
    """Features in standard deviations of those of `reference` from their mean, without those that do not vary in it."""
    known = np.isfinite(reference)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, reference, 0).sum(0) / count
    spread = np.sqrt(np.where(known, np.square(np.where(known, reference, 0) - mean), 0).sum(0) / count)
    varies = spread > 1e-9 * np.maximum(np.abs(mean), 1e-9)
    return [
        np.where(np.isfinite(part), (part - mean) / np.where(varies, spread, 1), 0)[:, varies]
        for part in (each.reshape(-1, reference.shape[1]) for each in parts)
    ]
