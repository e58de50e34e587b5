"""What the user decides about a model that is given away. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ExportOptions:
    """What is said of a model, and what of patients may go with it.

    Attributes:
        name: its name among installed models; None: that of the file.
        purpose: what it is for, a sentence; None: it is written from the plan.
        license: under which license it is given; None: it is not stated.
        donor_masks: give the masks of training tumors too, which some methods draw from.
        case_names: name the training cases, so that others can see which cases of a public data set not to test on.
    """

    name: str | None = None
    purpose: str | None = None
    license: str | None = None
    donor_masks: bool = False
    case_names: bool = False
