"""Painted tumors beside the real tumors that they replace, on the same host in the same box. No files are read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tumorgen_cli.metrics.overlap import Verdict
from tumorgen_cli.metrics.summary import Summary, summarize

_SIZES, _CONTRASTS = ("small", "medium", "large"), ("low", "medium", "high")
FEW_PAIRS, FEW_HOSTS = 5, 3  # a stratum with fewer is marked: its mean is that of one or two patients


@dataclass(frozen=True)
class Redraw:
    """A painted tumor and the real tumors of its host that lay in its box.

    Attributes:
        host: The host.
        volume_ml: Volume of the painted tumor.
        replaced_ml: Volume of the real tumors together.
        contrast: Contrast of the largest of them.
        verdict: The judge on the pair.
        replaced: The judge on the real tumors, in the same box; both are undefined without a judge and where the host
            is no held-out case.
    """

    host: str
    volume_ml: float
    replaced_ml: float
    contrast: float
    verdict: Verdict
    replaced: Verdict


@dataclass(frozen=True)
class Stratum:
    """Painted minus real, for real tumors of a size and a contrast; bounds are the training tumors' tertiles.

    Attributes:
        size: Small, medium or large; empty: any.
        contrast: Low, medium or high, of either sign; empty: any.
        dice: Difference of the Dice.
        surface_dice: Difference of the surface Dice.
        hosts: Number of hosts.
    """

    size: str
    contrast: str
    dice: Summary
    surface_dice: Summary
    hosts: int

    @property
    def few(self) -> bool:
        """Whether too few pairs or hosts are in it to conclude from."""
        return self.dice.count < FEW_PAIRS or self.hosts < FEW_HOSTS


@dataclass(frozen=True)
class Redrawn:
    """All redrawn tumors of a set: their volume over that of the replaced ones, and the judge's paired differences.

    The first of `strata` holds all of them; those without a judged pair are left out.
    """

    volume: Summary
    strata: tuple[Stratum, ...]


def summarize_redrawn(redraws: Sequence[Redraw], volumes: np.ndarray, contrasts: np.ndarray) -> Redrawn:
    """Summarize redrawn tumors; intervals are over hosts.

    Args:
        redraws: The redrawn tumors.
        volumes: Volumes of the training tumors (N,).
        contrasts: Contrasts of the training tumors (N,).
    """
    ratios = np.array([each.volume_ml / each.replaced_ml for each in redraws])
    volume = summarize(ratios, "redrawn volume", [each.host for each in redraws])
    judged = [each for each in redraws if math.isfinite(each.verdict.dice - each.replaced.dice)]
    if not judged:
        return Redrawn(volume, ())
    size = _tertiles(volumes, np.array([each.replaced_ml for each in judged]))
    contrast = _tertiles(np.abs(contrasts), np.abs([each.contrast for each in judged]))
    found = [_stratum(judged, "", "")]
    for i, large in enumerate(_SIZES):
        for j, strong in enumerate(_CONTRASTS):
            part = [each for each, a, b in zip(judged, size, contrast, strict=True) if (a, b) == (i, j)]
            found += [_stratum(part, large, strong)] if part else []
    return Redrawn(volume, tuple(found))


def _tertiles(training: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Number the tertile of the training values (0 to 2) in which each value lies; all are in the first without any."""
    known = training[np.isfinite(training)]
    return np.searchsorted(np.quantile(known, (1 / 3, 2 / 3)), values, "right") if len(known) else np.zeros(len(values))


def _stratum(part: Sequence[Redraw], size: str, contrast: str) -> Stratum:
    hosts = [each.host for each in part]
    dice, surface = (
        summarize(
            np.array([getattr(each.verdict, field) - getattr(each.replaced, field) for each in part]),
            f"redrawn {field} {size} {contrast}",
            hosts,
        )
        for field in ("dice", "surface_dice")
    )
    return Stratum(size, contrast, dice, surface, len(set(hosts)))
