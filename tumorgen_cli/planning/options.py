"""Options of planning that travel together. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PlanOptions:
    """What a user decides about a plan; the rules decide the rest.

    Attributes:
        tumor_label: Name or value of the tumor label, or of several with commas between, which then are sub-labels of
            the tumor. None: the label that is found by its name, or the only one.
        memory_gib: Memory to plan for, in GiB. None: what the device has.
        preset: Name of a preset that comes with tumorgen, or path of a YAML file.
        settings: Plan fields, each as `field.name=value`.
        seed: Seed of every random draw. None: the default of the plan.
        fold: Fold that is held out: of `splits_final.json` (None: 0), or, without that file, of nnU-Net's five folds
            (None: every fifth case).
        groups: CSV file (case, patient): scans of one patient are never on both sides of a split. None: `patients.csv`
            of the data set, else the patients of the earlier plan.
    """

    tumor_label: str | None = None
    memory_gib: float | None = None
    preset: str | None = None
    settings: Sequence[str] = ()
    seed: int | None = None
    fold: int | None = None
    groups: Path | None = None
