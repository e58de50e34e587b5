"""A trained segmentor's scores on one test scan: the rows from which every comparison of `downstream` is made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tumorgen_cli.metrics.lesions import FalsePositive, LesionScore
from tumorgen_cli.system.errors import DataError, Fault, StateError
from tumorgen_cli.system.json_records import from_plain

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


def read_rows(path: Path) -> list[ScanScore]:
    """Read the rows of an experiment, `scores.jsonl`.

    Raises:
        StateError: The file is missing or damaged.
        PlanError: A line is no row of this version.
    """
    remedy = "run the same `tumorgen downstream` again, which writes it from the finished trainings"
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        fault = Fault(str(path), str(error), "a line of JSON for each nnU-Net and test scan", remedy)
        raise StateError("Scores cannot be read", [fault]) from error
    return [from_plain(ScanScore, line, f"{path.name}, line {i}", remedy) for i, line in enumerate(lines, 1)]


def pool_folds(folds: Mapping[str, Sequence[ScanScore]]) -> list[ScanScore]:
    """Put the rows of the folds of a cross-validation together: each fold is a draw of the real cases.

    Draws of the real cases within a fold share its test patients. They are averaged, like paintings.

    Args:
        folds: The rows of each fold, by its name.

    Raises:
        DataError: A patient is tested in more than one fold.
    """
    tested: dict[str, list[str]] = {}
    for name, rows in folds.items():
        for patient in dict.fromkeys(row.patient for row in rows):
            tested.setdefault(patient, []).append(name)
    if twice := {patient: names for patient, names in tested.items() if len(names) > 1}:
        expected, remedy = "each patient in one", "plan each workspace with another --fold of the same folds"
        faults = [Fault(patient, f"tested in {', '.join(names)}", expected, remedy) for patient, names in twice.items()]
        raise DataError("These are no folds", faults)
    draws = {key: i for i, key in enumerate(sorted({(r.subset, r.painting) for rows in folds.values() for r in rows}))}
    return [
        replace(row, subset=number, painting=draws[row.subset, row.painting])
        for number, rows in enumerate(folds.values())
        for row in rows
    ]
