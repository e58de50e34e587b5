"""Checks of what `downstream` is to compare, before the first training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import get_args

from tumorgen_cli.evaluation.design import ArmRecipe, Design, find_arm
from tumorgen_cli.evaluation.scan_scores import EMPTY, REAL
from tumorgen_cli.nnunet.segmentors import Segmentor
from tumorgen_cli.synthesis.options import HostOptions, host_faults
from tumorgen_cli.system.errors import IN_RANGE, Fault, PlanError, gather_faults
from tumorgen_cli.system.json_records import unknown_name_fault


def check_design(design: Design, hosts: HostOptions) -> None:
    """Check that a design can be carried out.

    Raises:
        PlanError: arms that are unknown, repeated or have nothing to paint into, or numbers out of their range; all
            are listed.
    """
    faults: list[Fault] = []
    found = [gather_faults(faults, partial(find_arm, arm)) for arm in dict.fromkeys(design.arms)]
    known = [arm for arm in found if arm is not None]
    if REAL not in design.arms:
        faults.append(Fault("--arms", "no real", "the arm that gains are measured against", "add real to --arms"))
    if repeated := sorted({arm for arm in design.arms if design.arms.count(arm) > 1}):
        faults.append(Fault("--arms", f"{', '.join(repeated)} more than once", "every arm once", "leave it out"))
    if any(arm.source != REAL for arm in known):
        faults += host_faults(hosts, both=True)
    if hosts.healthy is None and hosts.cases is not None:
        faults += _healthy_faults(design, known)
    if hosts.cases not in (None, "train"):
        expected = "training cases: nnU-Net is scored on the held-out ones"
        faults.append(Fault(f"--cases {hosts.cases}", "held-out cases", expected, "give --cases train"))
    if design.segmentor not in get_args(Segmentor):
        faults.append(unknown_name_fault("--segmentor", design.segmentor, get_args(Segmentor)))
    if design.pretrained is not None and not Path(design.pretrained).is_file():
        expected = "one of nnU-Net's checkpoints, such as checkpoint_final.pth"
        faults.append(Fault(f"--pretrained {design.pretrained}", "no such file", expected, "name another file"))
    ranges = (
        ("--seeds", design.seeds, design.seeds >= 1, "1 or more"),
        ("--minutes", design.minutes, 0 < design.minutes < math.inf, "above 0"),
        ("--ratio", design.ratio, design.ratio >= 1, "1 or more"),
        ("--subsets", design.subsets, design.subsets >= 1, "1 or more"),
        ("--paintings", design.paintings, design.paintings >= 1, "1 or more"),
        ("--hosts", design.hosts, design.hosts and all(n is None or n >= 1 for n in design.hosts), "1 or more, or all"),
        ("--aside", design.aside, 0 <= design.aside < 1, "0 or more, below 1"),
        ("--times", design.times, 0 < design.times < math.inf, "above 0"),
        ("--unpainted", design.unpainted, design.unpainted is None or 0 <= design.unpainted < 1, "0 or more, below 1"),
        ("--real-share", design.real_share, 0 < design.real_share < 1, "above 0 and below 1"),
    )
    faults += [Fault(option, str(value), expected, IN_RANGE) for option, value, fits, expected in ranges if not fits]
    if faults:
        raise PlanError("The experiment cannot be made", faults)


def _healthy_faults(design: Design, arms: Sequence[ArmRecipe]) -> list[Fault]:
    """Return the faults of what needs healthy scans, where only tumors of cases are redrawn."""
    given = {
        f"--arms {EMPTY}": EMPTY in {arm.source for arm in arms},
        "an aimed arm": any(arm.aimed for arm in arms),
        "--hosts": design.hosts != (None,),
        "--unpainted": bool(design.unpainted),
    }
    expected, remedy = "--healthy beside it", "leave it out, or give --healthy DIR"
    return [Fault(name, "given without healthy scans", expected, remedy) for name, value in given.items() if value]
