"""Do pairs help? nnU-Nets trained with and without them, equal in everything else, and scored on real held-out cases.

For every number of real cases, the methods learn from these cases only (in a workspace of its own below `downstream/`
where they are not all cases) and paint. One nnU-Net per arm and seed then learns from the real cases and the arm's
pairs, with the plan that nnU-Net makes of the real cases. Writes `downstream/` of the workspace: `nnunet/real_N/` (what
nnU-Net prepared, and `runs/ARM_seedK/` with scores and predictions), downstream.json, .csv and .html. A finished run is
not made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from tumorgen_cli.data.dataset import Dataset
from tumorgen_cli.data.hosts import describe_matches, match_cases
from tumorgen_cli.data.splits import HOLD_OUT, Splits
from tumorgen_cli.data.volumes import read_image, read_volume
from tumorgen_cli.evaluation.cases import synthetic_cases
from tumorgen_cli.evaluation.gains import (
    LIVE,
    REAL,
    Design,
    Downstream,
    Failure,
    TrainedNnunet,
    summarize_arms,
)
from tumorgen_cli.evaluation.reports import downstream
from tumorgen_cli.figures import View, display_range, display_style, draw_box_slices, pick_evenly
from tumorgen_cli.geometry import tight_box
from tumorgen_cli.methods.open import check_held_out, check_preprocessed, open_method
from tumorgen_cli.methods.shortfalls import find_shortfalls
from tumorgen_cli.nnunet.job import CPU_SIZE, NetworkSize, TrainingCase, TrainingData, check_data, training_data
from tumorgen_cli.pipeline.nnunet_setup import set_up_nnunet
from tumorgen_cli.pipeline.synthesize import synthesize_pairs
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.planned_data import read_planned_dataset
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.intensity import scan_limits
from tumorgen_cli.studies.downstream_checks import check_design
from tumorgen_cli.studies.downstream_runs import (
    PREDICTIONS,
    ArmSources,
    Machine,
    attained_share,
    forget_stale_scores,
    measured_schedule,
    run_folder,
    train_and_score,
)
from tumorgen_cli.studies.downstream_tables import gains_csv
from tumorgen_cli.studies.subsets import subset_workspace
from tumorgen_cli.studies.training_length import TrainingLength, train_within
from tumorgen_cli.synthesis.host_checks import check_sources
from tumorgen_cli.synthesis.options import HostOptions, OnTheFlyOptions, SetOptions, refuse_host_options
from tumorgen_cli.synthesis.sources import healthy_sources, unlabeled_hosts, unlabeled_hosts_fault
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName, find_device
from tumorgen_cli.system.errors import DataError, Fault, PlanError, StateError, TumorgenError, one_line
from tumorgen_cli.system.files import write_text
from tumorgen_cli.system.json_records import none_for_nan, to_plain, write_json
from tumorgen_cli.system.locks import locked

_PICTURED = 4  # held-out patients on the page
_FAR_SHARE = 0.05  # a larger difference from the requested share of real cases gives a warning


@dataclass(frozen=True)
class DownstreamReport:
    """The result, and the page and table it was written to."""

    result: Downstream
    page: str
    table: str


@dataclass(frozen=True)
class _Experiment:
    """What stays the same for every number of real cases; `weak` collects what is too weak about methods' weights."""

    workspace: Workspace
    plan: Plan
    splits: Splits
    design: Design
    hosts: HostOptions
    device: DeviceName
    machine: Machine
    weak: list[str] = field(default_factory=list)

    @property
    def root(self) -> Path:
        """The folder of the experiment."""
        return self.workspace.root / "downstream"


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
    refuse_host_options(hosts, "healthy", "cases", "tumors", "anywhere", "trust_units")
    check_design(design, hosts)
    counts = case_counts(len(splits.train), design.fractions)
    dataset = _checked_dataset(workspace, plan, splits, design, hosts)
    kind: Literal["cpu", "cuda"] = "cuda" if find_device(device).type == "cuda" else "cpu"
    experiment = _Experiment(workspace, plan, splits, design, hosts, device, Machine(kind, jobs, size))
    root, order = experiment.root, nested_order(splits.train, plan.seed)
    finished: list[TrainedNnunet] = []
    failures: list[Failure] = []
    result = None
    with locked(root, "downstream"):
        forget_stale_scores(root, training_data(dataset, splits), plan.tolerance_mm)
        for count in counts:
            console.headline(f"{count} real cases")
            data = training_data(dataset, Splits(tuple(sorted(order[:count])), splits.test))
            runs, failed = _measure_count(experiment, data)
            finished += runs
            failures += failed
            if finished:
                result = _result(experiment, finished, failures)
                _write(root, plan, result, data)  # after every count, so that results so far can be read
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


def _checked_dataset(workspace: Workspace, plan: Plan, splits: Splits, design: Design, hosts: HostOptions) -> Dataset:
    """Read the data set, and check everything that can be checked before any training.

    Raises:
        PlanError: No case is held out.
        DataError: Hosts or cases cannot be used.
    """
    if not splits.test:
        fault = Fault(
            "splits.json",
            "no case held out",
            "one or more: a gain is measured on held-out cases",
            f"add cases, or {HOLD_OUT}",
        )
        raise PlanError("Gains cannot be measured", [fault])
    dataset = read_planned_dataset(workspace, plan)
    check_data(training_data(dataset, splits))
    if hosts.healthy is not None:
        _check_hosts(workspace, dataset, hosts.healthy)
    if abs(attained_share(design) - design.real_share) > _FAR_SHARE:
        console.warn(
            f"--real-share {design.real_share:g} is not possible with {design.ratio} pairs per real case: "
            f"whole repeats of the real cases give {attained_share(design):.0%}"
        )
    return dataset


def _measure_count(experiment: _Experiment, data: TrainingData) -> tuple[list[TrainedNnunet], list[Failure]]:
    """Train and score every arm at one number of real cases; return the trainings and what failed."""
    count, design = len(data.train), experiment.design
    lost: dict[str, str] = {}
    try:
        sources = _arm_sources(experiment, data, lost)
        runs, failed = train_and_score(experiment.root, experiment.plan, design, data, sources, experiment.machine)
    except TumorgenError as error:  # other numbers of cases continue
        runs, failed, lost = [], [], dict.fromkeys(design.arms, one_line(error)) | lost
        console.warn(f"{count} real cases: {one_line(error)}")
    return runs, [*(Failure(arm, count, reason) for arm, reason in lost.items()), *failed]


def _arm_sources(experiment: _Experiment, data: TrainingData, lost: dict[str, str]) -> ArmSources:
    """Prepare what each arm learns from; arms for which this fails are added to `lost`, with the reason."""
    workspace, design, hosts, device = experiment.workspace, experiment.design, experiment.hosts, experiment.device
    count, inner = len(data.train), experiment.workspace
    pairs: dict[str, list[TrainingCase]] = {}
    paintings: dict[str, Path] = {}
    try:
        if count < len(experiment.splits.train):
            cases = [*(case.name for case in data.train), *experiment.splits.test]
            inner = subset_workspace(workspace, cases, experiment.root / f"real_{count}", device)
    except TumorgenError as error:  # the real arm needs no method and continues
        lost |= dict.fromkeys((arm for arm in design.arms if arm != REAL), one_line(error))
        console.warn(f"{count} real cases: {one_line(error)}")
    for arm in [arm for arm in design.arms if arm not in lost]:
        try:
            if arm.endswith(LIVE):
                place = experiment.root / "live" / f"{arm}_{count}"
                paintings[arm] = _painting(inner, arm.removesuffix(LIVE), place, design, hosts, device)
            elif arm != REAL:
                pairs[arm] = _pairs(inner, arm, design.ratio * count, hosts, device)
            if arm != REAL:
                method = open_method(inner, arm.removesuffix(LIVE), device)
                experiment.weak.extend(f"{arm} with {count} real cases: {text}" for text in find_shortfalls(method))
        except TumorgenError as error:  # the other arms continue
            lost[arm] = one_line(error)
            console.warn(f"{arm} with {count} real cases: {lost[arm]}")
    return ArmSources(pairs, paintings)


def _check_hosts(workspace: Workspace, dataset: Dataset, healthy: Path) -> None:
    """Check the hosts.

    Raises:
        DataError: Hosts cannot be used, are far coarser than the training cases, lack the data set's other labels, or
            are held-out cases (also under another name): nnU-Net would learn from its test cases.
    """
    plan, splits = workspace.plan(), workspace.splits()
    sources, faults = healthy_sources(plan, healthy, None), []
    check_sources(sources, None, plan, workspace.fingerprint().of(splits.train).cases, tell=False)
    known = match_cases({source.name: source.files[0] for source in sources}, dataset, splits.test)
    if known:
        found = f"{len(known)} held-out cases ({describe_matches(known)}), from which nnU-Net would learn"
        faults.append(Fault(str(healthy), found, "other scans", "take them out of the folder"))
    if unlabeled := unlabeled_hosts(plan, sources):
        faults.append(unlabeled_hosts_fault(str(healthy), unlabeled))
    if faults:
        raise DataError("The hosts cannot be used", faults)


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


def _pairs(workspace: Workspace, arm: str, count: int, hosts: HostOptions, device: DeviceName) -> list[TrainingCase]:
    """Train the method of an arm, paint its pairs and return them."""
    _learn(workspace, arm, device)
    found: list[TrainingCase] = []
    kinds = [] if hosts.healthy is None else [(hosts.healthy.resolve().name, replace(hosts, cases=None))]
    kinds += (
        []
        if hosts.cases is None
        else [(f"{hosts.cases}_cases", replace(hosts, healthy=None, anywhere=False, trust_units=False))]
    )
    suffix = "" if hosts.tumors is None else f"_tumors{hosts.tumors}"
    suffix += "_anywhere" if hosts.anywhere else ""
    for number, (place, kind) in enumerate(kinds):
        share = count // len(kinds) + (number < count % len(kinds))
        folder = workspace.synthetic(f"{arm}_{place}_n{share}{suffix}")
        synthesize_pairs(workspace, arm, SetOptions(share, folder), kind, device=device)
        found += [
            TrainingCase(f"{folder.name}_{pair.case}", pair.images, pair.label)
            for pair in synthetic_cases(workspace.plan(), folder)
        ]
    return found


def _painting(
    workspace: Workspace,
    method: str,
    folder: Path,
    design: Design,
    hosts: HostOptions,
    device: DeviceName,
) -> Path:
    """Write the file with the settings with which an arm paints during training.

    It paints at the rate at which the other arms see pairs.
    """
    _learn(workspace, method, device)
    patches = OnTheFlyOptions(round(1 - attained_share(design), 4))
    made = set_up_nnunet(workspace, method, hosts, patches, device=device, folder=folder)
    return Path(made.file)


def _learn(workspace: Workspace, method: str, device: DeviceName) -> None:
    """Train the stages of a method that are not trained.

    Raises:
        StateError: The method has learned from held-out cases.
    """
    train_within(workspace, method, TrainingLength(), device)
    check_held_out(open_method(workspace, method, device))


def _result(experiment: _Experiment, runs: Sequence[TrainedNnunet], failures: Sequence[Failure]) -> Downstream:
    """Summarize the trainings so far.

    Raises:
        StateError: No training has measured the schedule.
    """
    plan, design, hosts = experiment.plan, experiment.design, experiment.hosts
    kinds = [] if hosts.healthy is None else [f"scans of {hosts.healthy.resolve().name}"]
    kinds += [] if hosts.cases is None else [f"{hosts.cases} cases"]
    schedule = measured_schedule(experiment.root, design.minutes, experiment.machine.kind)
    if schedule is None:
        fault = Fault(str(experiment.root), "no schedule of a training", "one", "run the command again")
        raise StateError("No training was made", [fault])
    return Downstream(
        dataset=plan.dataset,
        plan=plan.hash,
        held_out=experiment.splits.test,
        hosts=" and ".join(kinds),
        design=design,
        schedule=schedule,
        device=experiment.machine.kind,
        tolerance_mm=plan.tolerance_mm,
        arms=tuple(summarize_arms(runs)),
        runs=tuple(runs),
        failures=tuple(failures),
        weak=tuple(experiment.weak),
    )


def _write(root: Path, plan: Plan, result: Downstream, data: TrainingData) -> None:
    """Write the tables and the page."""
    write_json(root / "downstream.json", none_for_nan(to_plain(result)))
    write_text(root / "downstream.csv", gains_csv(result.arms))
    write_text(root / "downstream.html", downstream.draw_page(result, _pictures(root, plan, result, data)))


def _pictures(root: Path, plan: Plan, result: Downstream, data: TrainingData) -> list[downstream.Patient]:
    """Draw held-out patients at the largest number of real cases, with the result of every arm's first seed.

    They are ordered from the worst to the best of the real arm (else of the first arm).
    """
    count = max(run.cases for run in result.runs)
    runs: dict[str, TrainedNnunet] = {}
    for run in result.runs:
        if run.cases == count:
            runs.setdefault(run.arm, run)
    first = runs.get(REAL, next(iter(runs.values())))
    ranked = [patient.case for patient in sorted(first.patients, key=lambda patient: patient.dice or 0.0)]
    files, patients = {case.name: case for case in data.test}, []
    for name in pick_evenly(ranked, _PICTURED):
        case = files[name]
        image, grid = read_image(case.images)
        masks = {"truth": read_volume(case.label)[0] == data.labels[data.tumor_name]}
        for arm, run in runs.items():
            value = next(patient.dice for patient in run.patients if patient.case == name)
            where = run_folder(root, count, arm, run.seed) / PREDICTIONS / f"{name}{data.file_ending}"
            masks[f"{arm}, DSC {'–' if value is None else f'{value:.2f}'}"] = read_volume(where)[0] > 0
        box = tight_box(masks["truth"])
        if box is None:
            continue
        channel = image[plan.main_channel]
        display = display_range(scan_limits(image, plan.channels, masks["truth"])[plan.main_channel], (channel,), box)
        painted = [(channel, mask) for mask in masks.values()]
        shown = display_style(plan.channels[plan.main_channel].name)[0]
        _, *pictures = draw_box_slices(channel, painted, box, View(grid.spacing_mm, display, grid.direction, shown))
        patients.append(downstream.Patient(name, count, dict(zip(masks, pictures, strict=True))))
    return patients
