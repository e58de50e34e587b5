"""Which phantoms are drawn. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tumorgen_cli.system.errors import IN_RANGE, Fault, PlanError

Modality = Literal["pet", "ct"]
CROPS_MM = (60.0, 200.0)  # the largest nodule has room to lie anywhere; a larger cube costs more than a whole scan


@dataclass(frozen=True)
class PhantomOptions:
    """Which phantoms are drawn, and how many.

    Attributes:
        modality: FDG-PET of the trunk with tumors, or chest CT with nodules.
        cases: How many scans with tumors. None: as many as the demo needs.
        healthy: How many scans of other patients, without tumors. None: as many as the demo needs.
        crop_mm: Edge of cubes that lie at random around a tumor or, without tumors, around a place for one. None: whole
            scans.
    """

    modality: Modality = "pet"
    cases: int | None = None
    healthy: int | None = None
    crop_mm: float | None = None


def check_phantoms(options: PhantomOptions) -> None:
    """Check numbers and sizes.

    Raises:
        PlanError: no case, fewer than no healthy scans, or cubes that are too small or too large.
    """
    faults = [
        Fault(f"--{name}", str(value), f"{least} or more", IN_RANGE)
        for name, value, least in (("cases", options.cases, 1), ("healthy", options.healthy, 0))
        if value is not None and value < least
    ]
    low, high = CROPS_MM
    if options.crop_mm is not None and not low <= options.crop_mm <= high:
        expected = f"an edge of {low:g} to {high:g} mm"
        faults.append(Fault("--crop", f"{options.crop_mm:g}", expected, IN_RANGE))
    if faults:
        raise PlanError("No such phantoms", faults)
