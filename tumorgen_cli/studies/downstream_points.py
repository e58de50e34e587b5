"""The draws of real cases of `downstream`: checked before any training, then trained and scored one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from tumorgen_cli.data.dataset import Dataset
from tumorgen_cli.data.hosts import describe_matches
from tumorgen_cli.data.patients import Patients, group_cases, match_held_out, patient_of
from tumorgen_cli.data.splits import HOLD_OUT, Splits
from tumorgen_cli.evaluation.design import Design, attained_share, find_arm
from tumorgen_cli.evaluation.gains import Failure, TrainedNnunet
from tumorgen_cli.methods.open import check_preprocessed
from tumorgen_cli.nnunet.job import NetworkSize, TrainingOptions, check_data, training_data
from tumorgen_cli.planning.planned_data import read_planned_dataset
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.studies.downstream_checks import check_design
from tumorgen_cli.studies.downstream_runs import Machine, forget_stale_scores, train_and_score
from tumorgen_cli.studies.downstream_sources import StudySetup, learned_sources
from tumorgen_cli.studies.downstream_tasks import Point, list_tasks
from tumorgen_cli.synthesis.host_checks import check_sources
from tumorgen_cli.synthesis.options import HostOptions, refuse_host_options
from tumorgen_cli.synthesis.sources import unlabeled_hosts, unlabeled_hosts_fault
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName, find_device
from tumorgen_cli.system.errors import DataError, Fault, PlanError, TumorgenError, one_line, say_count
from tumorgen_cli.system.files import derive_seed

_FAR_SHARE = 0.05  # a larger difference from the requested share of real cases gives a warning


def set_up_study(
    workspace: Workspace, design: Design, hosts: HostOptions, device: DeviceName
) -> tuple[StudySetup, list[Point]]:
    """Check everything that can be checked before any training, and list the draws of the real cases.

    Raises:
        PlanError: See `check_design`; or no case is held out, the fractions leave no case to learn from, or there are
            fewer healthy scans than asked for.
        DataError: Hosts or cases cannot be used, or held-out cases are among the hosts.
    """
    plan, splits = workspace.plan(), workspace.splits()
    check_preprocessed(workspace, plan, splits)
    refuse_host_options(hosts, "healthy", "cases", "roi", "tumors", "anywhere", "trust_units")
    check_design(design, hosts)
    counts = case_counts(len(splits.train), design.fractions)
    if too_many := [arm for arm in design.arms if (find_arm(arm).learned or 0) > len(splits.train)]:
        expected = f"at most the {say_count(len(splits.train), 'training case')}"
        raise PlanError("There are not so many cases", [Fault("--arms", ", ".join(too_many), expected, "name fewer")])
    setup = StudySetup(workspace, plan, splits, design, hosts, device)
    dataset = _checked_dataset(setup)
    return setup, list_points(dataset, splits, counts, design, plan.seed)


def find_machine(device: DeviceName, jobs: int | None, size: NetworkSize | None) -> Machine:
    """Return where nnU-Nets train.

    Args:
        device: Where networks run.
        jobs: Number of nnU-Nets that train at the same time; None: one per GPU, or one.
        size: Size of nnU-Net on a CPU; None: nnU-Net's own.
    """
    kind: Literal["cpu", "cuda"] = "cuda" if find_device(device).type == "cuda" else "cpu"
    return Machine(kind, jobs, size)


def measure_points(
    setup: StudySetup, machine: Machine, points: Sequence[Point]
) -> Iterator[tuple[Point, list[TrainedNnunet], list[Failure]]]:
    """Train and score every arm at one draw of the real cases after the other.

    Yields:
        The draw, all trainings so far, and all failures so far.
    """
    finished: list[TrainedNnunet] = []
    failures: list[Failure] = []
    forget_stale_scores(setup.results, points[0].data, setup.plan.tolerance_mm)
    for point in points:
        console.headline(point.title)
        runs, failed = _measure_point(setup, point, machine)
        finished += runs
        failures += failed
        yield point, finished, failures


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
            f"--real-share {design.real_share:g} is not possible with {say_count(design.ratio, 'pair')} per real case: "
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
    known = match_held_out({source.name: source.files[0] for source in sources}, dataset, splits.test, splits.patients)
    if known:
        found = f"{say_count(len(known), 'held-out case')} ({describe_matches(known)}), from which nnU-Net would learn"
        faults.append(Fault(str(healthy), found, "other scans", "take them out of the folder"))
    if unlabeled := unlabeled_hosts(plan, sources):
        faults.append(unlabeled_hosts_fault(str(healthy), unlabeled))
    if faults:
        raise DataError("The hosts cannot be used", faults)


def _measure_point(setup: StudySetup, point: Point, machine: Machine) -> tuple[list[TrainedNnunet], list[Failure]]:
    """Train and score every arm at one draw of the real cases; return the trainings and what failed."""
    lost: dict[str, str] = {}
    design = setup.design
    options = TrainingOptions(
        design.minutes,
        0,
        machine.kind,
        setup.plan.precision,
        machine.size,
        initial=None if design.pretrained is None else Path(design.pretrained),
        segmentor=design.segmentor,
    )
    try:
        sources = learned_sources(setup, point, lost, options)
        tasks = list_tasks(setup.results, setup.design, point, sources, options, setup.unpainted)
        runs, failed = train_and_score(setup.results, setup.plan, setup.design, point, tasks, machine)
    except TumorgenError as error:  # other draws continue
        runs, failed, lost = [], [], dict.fromkeys(setup.design.arms, one_line(error)) | lost
        console.warn(f"{point.title}: {one_line(error)}")
    subset = f"subset {point.subset}: " if point.subset else ""
    return runs, [*(Failure(arm, point.cases, subset + reason) for arm, reason in lost.items()), *failed]


def list_points(dataset: Dataset, splits: Splits, counts: Sequence[int], design: Design, seed: int) -> list[Point]:
    """List the draws of the real cases: all draws of the smallest number first.

    Raises:
        PlanError: No case to learn from is left beside those held aside.
    """
    points = []
    for count in counts:
        for subset in range(design.subsets):
            order = nested_order(splits.train, derive_seed(seed, "subset", subset) if subset else seed, splits.patients)
            aside = cases_aside(order[:count], design.aside, splits.patients)
            kept = tuple(sorted({*order[:count]} - aside))
            if not kept:
                fault = Fault(
                    "--aside", f"{design.aside:g} of {count} cases", "cases to learn from", "raise --fractions"
                )
                raise PlanError("No case is left to learn from", [fault])
            data = training_data(dataset, Splits(kept, splits.test))
            apart = training_data(dataset, Splits(tuple(sorted(aside)), ()))
            points.append(Point(count, subset, data, apart.train, splits.patients, tuple(order)))
    return points


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
            f"shares of the {say_count(cases, 'training case')}, above 0, at most 1",
            "for example --fractions 0.25,0.5,1",
        )
        raise PlanError("The fractions cannot be used", [fault])
    return sorted({round(f * cases) for f in fractions})


def nested_order(cases: Sequence[str], seed: int, patients: Patients | None = None) -> list[str]:
    """Return the cases in a random order; those of a patient follow each other.

    The first n are the n real cases, so that fewer cases are always part of more.
    """
    groups = group_cases(sorted(cases), patients or {})
    names = sorted(groups)
    order = np.random.default_rng(seed).permutation(len(names))
    return [case for i in order for case in groups[names[i]]]


def cases_aside(cases: Sequence[str], share: float, patients: Patients) -> set[str]:
    """Choose the last cases of a draw to be held aside, at least one; all cases of a patient if one of them is."""
    if not share:
        return set()
    chosen = {patient_of(case, patients) for case in cases[-max(1, round(share * len(cases))) :]}
    return {case for case in cases if patient_of(case, patients) in chosen}
