"""A trained segmentor's scores on one test scan: the rows from which every comparison of `downstream` is made."""

from __future__ import annotations

from dataclasses import dataclass

from tumorgen_cli.metrics.lesions import FalsePositive, LesionScore

REAL = "real"  # the arm of real cases alone
EMPTY = "empty"  # the arm of real cases and the same healthy scans with empty masks


@dataclass(frozen=True)
class ScanScore:
    """One trained segmentor on one test scan.

    Attributes:
        arm: The arm: REAL, EMPTY, a method ...
        cases: Number of annotated real cases; None means all.
        hosts: Number of healthy scans the arm learned from or painted into; None if it uses none, or all.
        subset: Which draw of the annotated cases.
        painting: Which painting of that draw; 0 for arms that paint nothing.
        seed: Which training on that painting.
        scan: Name of the test scan.
        patient: Name of its patient; the scan's own name where no patients are known.
        healthy: Whether the scan has no lesion.
        dsc: Dice of the whole scan; None without lesion.
        nsd: Surface Dice of the whole scan; None without lesion.
        iterations: Iterations of the training.
        plateau_iterations: Iterations after which it reached the plateau of the real arm; None if it did not.
        lesions: Every real lesion of the scan.
        false_positives: Predicted components that match no lesion.
    """

    arm: str
    cases: int | None
    hosts: int | None
    subset: int
    painting: int
    seed: int
    scan: str
    patient: str
    healthy: bool
    dsc: float | None
    nsd: float | None
    iterations: int
    plateau_iterations: int | None
    lesions: tuple[LesionScore, ...]
    false_positives: tuple[FalsePositive, ...]
