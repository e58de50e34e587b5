"""What `downstream` concludes: the comparison that was named before training, and whether a gain could be seen at all.

Writes `primary.json` of the study's folder before the first training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tumorgen_cli.evaluation.design import Design, find_arm
from tumorgen_cli.evaluation.gains import TrainedNnunet
from tumorgen_cli.evaluation.measures import MEASURES
from tumorgen_cli.evaluation.pilot import Room, room_for_gain
from tumorgen_cli.evaluation.recovery import Recovered, recovered_shares
from tumorgen_cli.evaluation.scan_scores import EMPTY, REAL, ScanScore
from tumorgen_cli.evaluation.trials import Analysis, analyze
from tumorgen_cli.evaluation.verdicts import Primary
from tumorgen_cli.methods.registry import METHODS
from tumorgen_cli.metrics.inference import LEVEL
from tumorgen_cli.system.errors import Fault, PlanError, say_count
from tumorgen_cli.system.json_records import (
    from_plain,
    nan_for_none,
    read_plain,
    read_record,
    unknown_name_fault,
    write_json,
)

PILOT, _PRIMARY = "pilot.json", "primary.json"
_PLATEAU = 0.99  # of the real arm's best score: the last hundredth takes as long as all before
_MANY = 4  # times the fewest real cases: the room for a gain is measured between the two
_LEAST_MANY = 2  # times the fewest, below which nothing is measured


@dataclass(frozen=True)
class PilotLength:
    """What a pilot found at a length of training.

    Attributes:
        minutes: The length, as `--minutes` names it.
        iterations: Its iterations.
        few: The smaller number of real cases.
        many: The larger one.
        subsets: Number of draws of the real cases.
        seeds: Number of trainings on each.
        room: Whether the number of real cases matters.
        detectable: A sentence that says which difference the design detects.
    """

    minutes: float
    iterations: int
    few: int
    many: int
    subsets: int
    seeds: int
    room: Room
    detectable: str


@dataclass(frozen=True)
class Conclusions:
    """What is concluded from the trainings so far.

    Attributes:
        analysis: The arms, and the comparisons.
        recovered: What each arm makes up for.
        sentences: What is concluded, the most important first.
    """

    analysis: Analysis
    recovered: tuple[Recovered, ...]
    sentences: tuple[str, ...]


def compared_counts(counts: Sequence[int], all_cases: int) -> tuple[int, int]:
    """Return the numbers of real cases between which the room for a gain is measured.

    Raises:
        PlanError: There are not enough cases for two numbers.
    """
    few = min(counts)
    if all_cases < _LEAST_MANY * few:
        found = f"{few} of {all_cases} training cases as the smallest number"
        expected = f"at most {all_cases // _LEAST_MANY}: the room for a gain is that of more real cases"
        raise PlanError("There is no room", [Fault("--fractions", found, expected, "add a smaller fraction")])
    return few, min(_MANY * few, all_cases)


def name_primary(root: Path, design: Design, counts: Sequence[int]) -> Primary | None:
    """Name the primary comparison, and record it; the one that is recorded stays.

    Args:
        root: The study's folder.
        design: What is compared.
        counts: The numbers of real cases.

    Returns:
        The comparison; None where no arm paints.

    Raises:
        PlanError: There is no such arm or measure, or another comparison was named before the trainings.
    """
    arm, measure = design.primary, design.measure
    painting = [name for name in design.arms if find_arm(name).paints]
    faults = [unknown_name_fault("--primary", arm, painting)] if arm is not None and arm not in painting else []
    if measure is not None and measure not in MEASURES:
        faults.append(unknown_name_fault("--measure", measure, MEASURES))
    if faults:
        raise PlanError("The primary comparison cannot be named", faults)
    path = root / _PRIMARY
    kept = read_record(Primary, path, "delete it") if path.is_file() else None
    if kept is not None:
        if (arm or kept.arm, measure or kept.measure) != (kept.arm, kept.measure):
            found = f"{kept.arm} by {kept.measure}, named before training"
            remedy = f"leave --primary and --measure out, or delete {path} and say that it was named later"
            fault = Fault(str(path), found, f"{arm or kept.arm} by {measure or kept.measure}", remedy)
            raise PlanError("Another primary comparison was named", [fault])
        return kept
    if not painting:
        return None
    own = arm or next((name for name in METHODS if name in painting), painting[0])
    against = EMPTY if EMPTY in design.arms else REAL
    hosts = None if None in design.hosts else max(count for count in design.hosts if count is not None)
    primary = Primary(own, against, measure or "sensitivity", min(counts), hosts)
    write_json(path, primary)
    return primary


def describe_primary(primary: Primary) -> str:
    """Describe the primary comparison."""
    hosts = "" if primary.hosts is None else f", {say_count(primary.hosts, 'host')}"
    return (
        f"{primary.arm} against {primary.against}, {primary.cases} real cases{hosts}, {MEASURES[primary.measure].title}"
    )


def read_pilot(root: Path) -> list[PilotLength]:
    """Read what the pilot found; nothing if there was none."""
    path = root / PILOT
    if not path.is_file():
        return []
    return from_plain(list[PilotLength], nan_for_none(read_plain(path, "delete it")), str(path), "delete it")


def rows_of(runs: Sequence[TrainedNnunet]) -> list[ScanScore]:
    """Return the rows of trainings, with the iterations after which each reached the plateau of the real arm.

    The plateau is `_PLATEAU` of the best Dice on the cases held aside, averaged over the real arm's seeds at the same
    draw of the real cases. Without cases held aside it is not known.
    """
    best: dict[tuple[int, int], list[float]] = {}
    for run in runs:
        if run.arm == REAL and run.curve:
            best.setdefault((run.cases, run.subset), []).append(max(run.curve))
    rows = []
    for run in runs:
        plateau = float(np.mean(best.get((run.cases, run.subset), math.nan))) * _PLATEAU
        epoch = next((i for i, value in enumerate(run.curve, 1) if value >= plateau), None)
        reached = None if epoch is None else epoch * run.iterations // len(run.curve)
        rows += [replace(scan, plateau_iterations=reached) for scan in run.scans]
    return rows


def find_room(root: Path, design: Design, rows: Sequence[ScanScore], counts: Sequence[int]) -> tuple[bool, str]:
    """Say whether the number of real cases matters at this length: by the experiment's own real arms, or by the pilot.

    Returns:
        Whether it does, and a sentence.
    """
    few = min(counts)
    real = sorted({row.cases for row in rows if row.arm == REAL and row.cases is not None})
    many = [count for count in real if count >= _LEAST_MANY * few]
    if few in real and many:
        room = room_for_gain(rows, few, min(many, key=lambda count: abs(count - _MANY * few)))
        return room.found, room.verdict
    for length in read_pilot(root):
        if (length.minutes, length.few) == (design.minutes, few):
            return length.room.found, f"pilot: {length.room.verdict}"
    return False, (
        f"whether more than {few} real cases would be better at this length is not known; "
        "add a fraction of four times as many, or run --pilot"
    )


def conclude(
    root: Path,
    design: Design,
    rows: Sequence[ScanScore],
    primary: Primary | None,
    cases: tuple[Sequence[int], int],
) -> Conclusions:
    """Conclude from the rows of the trainings so far.

    Args:
        root: The study's folder.
        design: What was compared.
        rows: The rows.
        primary: The comparison that was named before training.
        cases: The numbers of real cases, and that of all of them.
    """
    counts, all_cases = cases
    found, verdict = find_room(root, design, rows, counts)
    analysis = analyze(rows, primary, "" if found else verdict)
    sentences = [verdict[:1].upper() + verdict[1:] + "."]
    if analysis.primary is not None:  # which says why, where there is no room
        done = analysis.primary.subsets
        interim = f"Interim, {done} of {design.subsets} draws: " if found and done < design.subsets else ""
        sentences = [interim + analysis.primary.verdict, *(sentences if found else [])]
    shown = [each.verdict for each in analysis.exploratory if each.p_holm < 1 - LEVEL]
    recovered = recovered_shares(rows, all_cases) if found else []
    return Conclusions(analysis, tuple(recovered), (*sentences, *shown))
