"""The pilot of `downstream`: real cases alone, trained longer and longer until the number of real cases matters.

Without that, no gain of pairs could be seen. Writes `pilot.json` of the study's folder after every length. The
trainings are the real arm's of the study and are not made again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from tumorgen_cli.evaluation.design import Design
from tumorgen_cli.evaluation.pilot import plan_comparison, room_for_gain
from tumorgen_cli.evaluation.scan_scores import REAL
from tumorgen_cli.nnunet.job import CPU_SIZE, NetworkSize
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.studies.downstream import no_training
from tumorgen_cli.studies.downstream_points import case_counts, find_machine, measure_points, set_up_study
from tumorgen_cli.studies.downstream_runs import Machine, list_devices, measured_schedule
from tumorgen_cli.studies.downstream_sources import STUDY
from tumorgen_cli.studies.downstream_verdicts import PILOT, PilotLength, compared_counts, read_pilot, rows_of
from tumorgen_cli.synthesis.options import HostOptions
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName
from tumorgen_cli.system.errors import IN_RANGE, Fault, PlanError
from tumorgen_cli.system.json_records import none_for_nan, to_plain, write_json
from tumorgen_cli.system.locks import locked

DOUBLINGS = 4  # of the first length, where no longest one is given


@dataclass(frozen=True)
class PilotReport:
    """What the pilot found at every length, the shortest first, and the file it was written to."""

    lengths: tuple[PilotLength, ...]
    file: str

    @property
    def found(self) -> PilotLength | None:
        """The shortest length at which the number of real cases matters; None if there is none."""
        return next((length for length in self.lengths if length.room.found), None)


def run_pilot(
    workspace: Workspace,
    design: Design,
    longest: float | None = None,
    device: DeviceName = "auto",
    jobs: int | None = None,
    size: NetworkSize | None = CPU_SIZE,
) -> PilotReport:
    """Find the length of training at which the number of real cases matters.

    The real arm is trained with the smallest number of cases of the design and with four times as many (or all), for
    `design.minutes`, then twice as long and so on, until there is room for a gain.

    Args:
        workspace: The workspace, planned and preprocessed.
        design: The design of the experiment; its arms are not trained.
        longest: Longest length in minutes. None: the first one, doubled `DOUBLINGS` times.
        device: Where networks run.
        jobs: Number of nnU-Nets that train at the same time; None: one per GPU, or one.
        size: Size of nnU-Net on a CPU; None: nnU-Net's own.

    Raises:
        PlanError: The longest length is shorter than the first, or there are too few cases.
        StateError: No training was made.
    """
    longest = design.minutes * 2**DOUBLINGS if longest is None else longest
    if longest < design.minutes:
        fault = Fault("--longest", f"{longest:g}", f"at least the first length, {design.minutes:g}", IN_RANGE)
        raise PlanError("The pilot cannot be made", [fault])
    all_cases = len(workspace.splits().train)
    few, many = compared_counts(case_counts(all_cases, design.fractions), all_cases)
    own = replace(design, arms=(REAL,), fractions=(few / all_cases, many / all_cases), hosts=(None,), times=1.0)
    machine, root = find_machine(device, jobs, size), workspace.root / STUDY / design.folder
    lengths_left = list_lengths(design.minutes, longest)
    trainings = 2 * design.subsets * design.seeds
    hours = trainings * sum(lengths_left) / 60 / len(list_devices(machine.kind, machine.jobs))
    named = ", ".join(f"{minutes:g}" for minutes in lengths_left)
    console.note(f"at most {trainings} nnU-Nets of {named} minutes each: {console.rough_time(3600 * hours)}")
    with locked(root, "downstream"):
        for minutes in lengths_left:
            console.headline(f"pilot: {minutes:g} minutes")
            length = _measure_length(workspace, replace(own, minutes=minutes), (few, many), machine, device)
            others = [each for each in read_pilot(root) if (each.minutes, each.few) != (minutes, few)]
            lengths = sorted([*others, length], key=lambda each: each.minutes)
            write_json(root / PILOT, none_for_nan(to_plain(lengths)))
            (console.note if length.room.found else console.warn)(f"{minutes:g} minutes: {length.room.verdict}")
            if length.room.found:
                break
    return PilotReport(tuple(each for each in lengths if each.few == few), str(root / PILOT))


def list_lengths(first: float, longest: float) -> list[float]:
    """List the lengths in minutes that the pilot may try: each twice the one before."""
    return [first * 2**i for i in range(int(math.log2(longest / first) + 1e-6) + 1)]


def _measure_length(
    workspace: Workspace, design: Design, counts: tuple[int, int], machine: Machine, device: DeviceName
) -> PilotLength:
    """Train the real arm for one length.

    Raises:
        StateError: No training was made.
    """
    setup, points = set_up_study(workspace, design, HostOptions(), device)
    *_, (_, finished, failures) = measure_points(setup, machine, points)
    rows = rows_of(finished)
    schedule = measured_schedule(setup.results, design.minutes, machine.kind)
    if not rows or schedule is None:
        raise no_training(failures)
    few, many = counts
    detectable = plan_comparison(rows, design.measure or "sensitivity", few, design.subsets, seeds=design.seeds)
    return PilotLength(
        minutes=design.minutes,
        iterations=schedule.epochs * schedule.iterations,
        few=few,
        many=many,
        subsets=design.subsets,
        seeds=design.seeds,
        room=room_for_gain(rows, few, many),
        detectable=detectable.verdict,
    )
