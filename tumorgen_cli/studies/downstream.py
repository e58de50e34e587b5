"""Do pairs help? nnU-Nets trained with and without them, equal in everything else, and scored on real held-out cases.

For every draw of real cases, the methods learn from these cases only (in a workspace of its own below `downstream/`
where they are not all cases) and paint. nnU-Nets then learn from the real cases and from what each arm adds, with the
plan that nnU-Net makes of the real cases. Writes `downstream/` of the workspace: `nnunet/real_N/` (what nnU-Net
prepared, and `runs/NAME_seedK/` with scores and predictions), primary.json, scores.jsonl, and
downstream.json, .csv and .html. A finished run is not made again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tumorgen_cli.evaluation.design import Design
from tumorgen_cli.evaluation.gains import Downstream, Failure, TrainedNnunet
from tumorgen_cli.evaluation.reports import downstream
from tumorgen_cli.evaluation.scan_scores import ScanScore
from tumorgen_cli.nnunet.job import CPU_SIZE, NetworkSize
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.studies.downstream_pictures import draw_patients
from tumorgen_cli.studies.downstream_points import find_machine, measure_points, set_up_study
from tumorgen_cli.studies.downstream_runs import Machine, measured_schedule
from tumorgen_cli.studies.downstream_sources import StudySetup
from tumorgen_cli.studies.downstream_tables import gains_csv
from tumorgen_cli.studies.downstream_tasks import Point
from tumorgen_cli.studies.downstream_verdicts import Conclusions, conclude, describe_primary, name_primary, rows_of
from tumorgen_cli.synthesis.options import HostOptions
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName
from tumorgen_cli.system.errors import Fault, StateError
from tumorgen_cli.system.files import write_text
from tumorgen_cli.system.json_records import none_for_nan, to_plain, write_json
from tumorgen_cli.system.locks import locked

SCORES_FILE = "scores.jsonl"


@dataclass(frozen=True)
class DownstreamReport:
    """The result, and the page and table it was written to."""

    result: Downstream
    page: str
    table: str


def measure_gains(
    workspace: Workspace,
    design: Design,
    hosts: HostOptions,
    device: DeviceName = "auto",
    jobs: int | None = None,
    size: NetworkSize | None = CPU_SIZE,
) -> DownstreamReport:
    """Measure what nnU-Nets gain from pairs.

    Methods that are not trained are trained, they paint, the nnU-Nets are trained and scored; tables and the page are
    written. Where an arm, a training or a whole number of cases fails with an error that the user can correct, it has a
    row with that error and the others continue; the same command tries it again.

    Args:
        workspace: The workspace, planned and preprocessed.
        design: What is compared.
        hosts: Scans (`healthy`), training cases (`cases`), or both: then each gets half of the pairs.
        device: Where networks run.
        jobs: Number of nnU-Nets that train at the same time; None: one per GPU, or one.
        size: Size of nnU-Net on a CPU; None: nnU-Net's own.

    Raises:
        PlanError: See `check_design`; or no case is held out, or the fractions leave no case to learn from.
        DataError: Hosts or cases cannot be used, or held-out cases are among the hosts.
        StateError: No training was made.
    """
    setup, points = set_up_study(workspace, design, hosts, device)
    machine, root = find_machine(device, jobs, size), setup.results
    counts = sorted({point.cases for point in points})
    failures: list[Failure] = []
    result = None
    with locked(root, "downstream"):
        primary = name_primary(root, design, counts)
        if primary is not None:
            console.note(f"the primary comparison, named before training: {describe_primary(primary)}")
        for point, finished, failures in measure_points(setup, machine, points):
            if finished:  # after every draw, so that results so far can be read
                rows = rows_of(finished)
                found = conclude(root, design, rows, primary, (counts, len(setup.splits.train)))
                result = _result(setup, machine, finished, failures, found)
                _write(setup, result, rows, point)
    if result is None:
        raise no_training(failures)
    return DownstreamReport(result, str(root / "downstream.html"), str(root / "downstream.csv"))


def no_training(failures: Sequence[Failure]) -> StateError:
    """Return the error of a study in which no training was made."""
    faults = [
        Fault(f"{each.arm}, {each.cases} real cases", each.reason, "a training", "correct it and run the command again")
        for each in failures
    ]
    return StateError("No training was made", faults)


def _result(
    setup: StudySetup,
    machine: Machine,
    runs: Sequence[TrainedNnunet],
    failures: Sequence[Failure],
    found: Conclusions,
) -> Downstream:
    """Summarize the trainings so far.

    Raises:
        StateError: No training has measured the schedule.
    """
    plan, design, hosts = setup.plan, setup.design, setup.hosts
    kinds = [] if hosts.healthy is None else [f"scans of {hosts.healthy.resolve().name}"]
    kinds += [] if hosts.cases is None else [f"{hosts.cases} cases"]
    schedule = measured_schedule(setup.results, design.minutes, machine.kind)
    if schedule is None:
        fault = Fault(str(setup.results), "no schedule of a training", "one", "run the command again")
        raise StateError("No training was made", [fault])
    return Downstream(
        dataset=plan.dataset,
        plan=plan.hash,
        held_out=setup.splits.test,
        hosts=" and ".join(kinds),
        design=design,
        schedule=schedule,
        device=machine.kind,
        tolerance_mm=plan.tolerance_mm,
        analysis=found.analysis,
        runs=tuple(runs),
        recovered=found.recovered,
        failures=tuple(failures),
        weak=tuple(setup.weak),
        conclusions=found.sentences,
    )


def _write(setup: StudySetup, result: Downstream, rows: Sequence[ScanScore], point: Point) -> None:
    """Write the rows, the tables and the page, with pictures of the draw that was trained last."""
    root, plan = setup.results, setup.plan
    lines = [json.dumps(none_for_nan(to_plain(row))) for row in rows]
    write_text(root / SCORES_FILE, "".join(f"{line}\n" for line in lines))
    short = replace(result, runs=tuple(replace(run, scans=()) for run in result.runs))
    write_json(root / "downstream.json", none_for_nan(to_plain(short)))
    write_text(root / "downstream.csv", gains_csv(result.analysis))
    write_text(root / "downstream.html", downstream.draw_page(result, draw_patients(root, plan, result, point)))
