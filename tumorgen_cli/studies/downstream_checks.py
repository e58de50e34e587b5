"""Checks of what `downstream` is to compare, before the first training."""

from __future__ import annotations

import math
from functools import partial

from tumorgen_cli.evaluation.gains import LIVE, REAL, Design
from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.synthesis.options import HostOptions, host_faults
from tumorgen_cli.system.errors import IN_RANGE, Fault, PlanError, gather_faults


def check_design(design: Design, hosts: HostOptions) -> None:
    """Check that a design can be carried out.

    Raises:
        PlanError: arms that are unknown, repeated or have nothing to paint into, or numbers out of their range; all
            are listed.
    """
    faults: list[Fault] = []
    for arm in design.arms:
        if arm != REAL:
            gather_faults(faults, partial(find_method, arm.removesuffix(LIVE)))
    if REAL not in design.arms:
        faults.append(Fault("--arms", "no real", "the arm that gains are measured against", "add real to --arms"))
    if repeated := sorted({arm for arm in design.arms if design.arms.count(arm) > 1}):
        faults.append(Fault("--arms", f"{', '.join(repeated)} more than once", "every arm once", "leave it out"))
    if {*design.arms} - {REAL}:
        faults += host_faults(hosts, both=True)
    if hosts.cases not in (None, "train"):
        expected = "training cases: nnU-Net is scored on the held-out ones"
        faults.append(Fault(f"--cases {hosts.cases}", "held-out cases", expected, "give --cases train"))
    ranges = (
        ("--seeds", design.seeds, design.seeds >= 1, "1 or more"),
        ("--minutes", design.minutes, 0 < design.minutes < math.inf, "above 0"),
        ("--ratio", design.ratio, design.ratio >= 1, "1 or more"),
        ("--real-share", design.real_share, 0 < design.real_share < 1, "above 0 and below 1"),
    )
    faults += [Fault(option, str(value), expected, IN_RANGE) for option, value, fits, expected in ranges if not fits]
    if faults:
        raise PlanError("The experiment cannot be made", faults)
