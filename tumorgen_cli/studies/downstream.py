"""Do pairs help? nnU-Nets trained with and without them, equal in everything else, and scored on real held-out cases.

For every draw of real cases, the methods learn from these cases only (in a workspace of its own below `downstream/`
where they are not all cases) and paint. nnU-Nets then learn from the real cases and from what each arm adds, with the
plan that nnU-Net makes of the real cases. Writes `downstream/` of the workspace: `nnunet/real_N/` (what nnU-Net
prepared, and `runs/NAME_seedK/` with scores and predictions), scores.jsonl, downstream.json, .csv and .html. A finished
run is not made again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from tumorgen_cli.data.dataset import Dataset
from tumorgen_cli.data.hosts import describe_matches, match_cases
from tumorgen_cli.data.splits import HOLD_OUT, Splits
from tumorgen_cli.evaluation.design import Design, attained_share
from tumorgen_cli.evaluation.gains import Downstream, Failure, TrainedNnunet, summarize_arms
from tumorgen_cli.evaluation.reports import downstream
from tumorgen_cli.methods.open import check_preprocessed
from tumorgen_cli.nnunet.job import CPU_SIZE, NetworkSize, TrainingOptions, check_data, training_data
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.planned_data import read_planned_dataset
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.studies.downstream_checks import check_design
from tumorgen_cli.studies.downstream_pictures import draw_patients
from tumorgen_cli.studies.downstream_runs import Machine, forget_stale_scores, measured_schedule, train_and_score
from tumorgen_cli.studies.downstream_sources import StudySetup, learned_sources
from tumorgen_cli.studies.downstream_tables import gains_csv
from tumorgen_cli.studies.downstream_tasks import Point, list_tasks
from tumorgen_cli.synthesis.host_checks import check_sources
from tumorgen_cli.synthesis.options import HostOptions, refuse_host_options
from tumorgen_cli.synthesis.sources import unlabeled_hosts, unlabeled_hosts_fault
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName, find_device
from tumorgen_cli.system.errors import DataError, Fault, PlanError, StateError, TumorgenError, one_line
from tumorgen_cli.system.files import derive_seed, write_text
from tumorgen_cli.system.json_records import none_for_nan, to_plain, write_json
from tumorgen_cli.system.locks import locked

SCORES_FILE = "scores.jsonl"
_FAR_SHARE = 0.05  # a larger difference from the requested share of real cases gives a warning


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
    plan, splits = workspace.plan(), workspace.splits()
    check_preprocessed(workspace, plan, splits)
    refuse_host_options(hosts, "healthy", "cases", "roi", "tumors", "anywhere", "trust_units")
    check_design(design, hosts)
    counts = case_counts(len(splits.train), design.fractions)
    setup = StudySetup(workspace, plan, splits, design, hosts, device)
    dataset = _checked_dataset(setup)
    kind: Literal["cpu", "cuda"] = "cuda" if find_device(device).type == "cuda" else "cpu"
    machine, root = Machine(kind, jobs, size), setup.root
    finished: list[TrainedNnunet] = []
    failures: list[Failure] = []
    result = None
    with locked(root, "downstream"):
        forget_stale_scores(root, training_data(dataset, splits), plan.tolerance_mm)
        for point in list_points(dataset, splits, counts, design.subsets, plan.seed):
            console.headline(point.title)
            runs, failed = _measure_point(setup, point, machine)
            finished += runs
            failures += failed
            if finished:
                result = _result(setup, machine, finished, failures)
                _write(root, plan, result, point)  # after every draw, so that results so far can be read
    if result is None:
        faults = [
            Fault(
                f"{each.arm}, {each.cases} real cases",
                each.reason,
                "a training",
                "correct it and run the command again",
            )
            for each in failures
        ]
        raise StateError("No training was made", faults)
    return DownstreamReport(result, str(root / "downstream.html"), str(root / "downstream.csv"))


def _checked_dataset(setup: StudySetup) -> Dataset:
    """Read the data set, and check everything that can be checked before any training.

    Raises:
        PlanError: No case is held out, or there are fewer healthy scans than asked for.
        DataError: Hosts or cases cannot be used.
    """
    design, splits = setup.design, setup.splits
    if not splits.test:
        fault = Fault(
            "splits.json",
            "no case held out",
            "one or more: a gain is measured on held-out cases",
            f"add cases, or {HOLD_OUT}",
        )
        raise PlanError("Gains cannot be measured", [fault])
    dataset = read_planned_dataset(setup.workspace, setup.plan)
    check_data(training_data(dataset, splits))
    if setup.hosts.healthy is not None:
        _check_hosts(setup, dataset, setup.hosts.healthy)
    attained = attained_share(design, setup.unpainted)
    if abs(attained - design.real_share) > _FAR_SHARE:
        console.warn(
            f"--real-share {design.real_share:g} is not possible with {design.ratio} pairs per real case: "
            f"whole repeats of the real cases give {attained:.0%}"
        )
    return dataset


def _check_hosts(setup: StudySetup, dataset: Dataset, healthy: Path) -> None:
    """Check the hosts.

    Raises:
        PlanError: There are fewer than asked for.
        DataError: Hosts cannot be used, are far coarser than the training cases, lack the data set's other labels, or
            are held-out cases (also under another name): nnU-Net would learn from its test cases.
    """
    plan, splits, sources, faults = setup.plan, setup.splits, setup.healthy, []
    check_sources(sources, None, plan, setup.workspace.fingerprint().of(splits.train).cases, tell=False)
    if too_many := [count for count in setup.design.hosts if count is not None and count > len(sources)]:
        expected = f"at most {len(sources)}, the scans of {healthy}"
        fault = Fault("--hosts", ", ".join(map(str, too_many)), expected, "ask for fewer, or for all")
        raise PlanError("There are not so many healthy scans", [fault])
    known = match_cases({source.name: source.files[0] for source in sources}, dataset, splits.test)
    if known:
        found = f"{len(known)} held-out cases ({describe_matches(known)}), from which nnU-Net would learn"
        faults.append(Fault(str(healthy), found, "other scans", "take them out of the folder"))
    if unlabeled := unlabeled_hosts(plan, sources):
        faults.append(unlabeled_hosts_fault(str(healthy), unlabeled))
    if faults:
        raise DataError("The hosts cannot be used", faults)


def _measure_point(setup: StudySetup, point: Point, machine: Machine) -> tuple[list[TrainedNnunet], list[Failure]]:
    """Train and score every arm at one draw of the real cases; return the trainings and what failed."""
    lost: dict[str, str] = {}
    options = TrainingOptions(setup.design.minutes, 0, machine.kind, setup.plan.precision, machine.size)
    try:
        sources = learned_sources(setup, point, lost)
        tasks = list_tasks(setup.root, setup.design, point, sources, options, setup.unpainted)
        runs, failed = train_and_score(setup.root, setup.plan, setup.design, point, tasks, machine)
    except TumorgenError as error:  # other draws continue
        runs, failed, lost = [], [], dict.fromkeys(setup.design.arms, one_line(error)) | lost
        console.warn(f"{point.title}: {one_line(error)}")
    subset = f"subset {point.subset}: " if point.subset else ""
    return runs, [*(Failure(arm, point.cases, subset + reason) for arm, reason in lost.items()), *failed]


def list_points(dataset: Dataset, splits: Splits, counts: Sequence[int], subsets: int, seed: int) -> list[Point]:
    """List the draws of the real cases: all draws of the smallest number first."""
    orders = [nested_order(splits.train, derive_seed(seed, "subset", i) if i else seed) for i in range(subsets)]
    return [
        Point(count, subset, training_data(dataset, Splits(tuple(sorted(order[:count])), splits.test)))
        for count in counts
        for subset, order in enumerate(orders)
    ]


def case_counts(cases: int, fractions: Sequence[float]) -> list[int]:
    """Return the number of real cases of each fraction, ascending.

    Raises:
        PlanError: A fraction is no case, or more than all.
    """
    wrong = [f for f in fractions if not 0 < f <= 1 or round(f * cases) < 1]
    if wrong or not fractions:
        found = ", ".join(f"{f:g}" for f in wrong) or "none"
        fault = Fault(
            "--fractions",
            found,
            f"shares of the {cases} training cases, above 0, at most 1",
            "for example --fractions 0.25,0.5,1",
        )
        raise PlanError("The fractions cannot be used", [fault])
    return sorted({round(f * cases) for f in fractions})


def nested_order(cases: Sequence[str], seed: int) -> list[str]:
    """Return the cases in a random order.

    The first n are the n real cases, so that fewer cases are always part of more.
    """
    names = sorted(cases)
    return [names[i] for i in np.random.default_rng(seed).permutation(len(names))]


def _result(
    setup: StudySetup, machine: Machine, runs: Sequence[TrainedNnunet], failures: Sequence[Failure]
) -> Downstream:
    """Summarize the trainings so far.

    Raises:
        StateError: No training has measured the schedule.
    """
    plan, design, hosts = setup.plan, setup.design, setup.hosts
    kinds = [] if hosts.healthy is None else [f"scans of {hosts.healthy.resolve().name}"]
    kinds += [] if hosts.cases is None else [f"{hosts.cases} cases"]
    schedule = measured_schedule(setup.root, design.minutes, machine.kind)
    if schedule is None:
        fault = Fault(str(setup.root), "no schedule of a training", "one", "run the command again")
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
        arms=tuple(summarize_arms(runs)),
        runs=tuple(runs),
        failures=tuple(failures),
        weak=tuple(setup.weak),
    )


def _write(root: Path, plan: Plan, result: Downstream, point: Point) -> None:
    """Write the rows, the tables and the page."""
    rows = [json.dumps(none_for_nan(to_plain(scan))) for run in result.runs for scan in run.scans]
    write_text(root / SCORES_FILE, "".join(f"{row}\n" for row in rows))
    short = replace(result, runs=tuple(replace(run, scans=()) for run in result.runs))
    write_json(root / "downstream.json", none_for_nan(to_plain(short)))
    write_text(root / "downstream.csv", gains_csv(result.arms))
    write_text(root / "downstream.html", downstream.draw_page(result, draw_patients(root, plan, result, point)))
