"""Do pairs help? nnU-Nets trained with and without them, alike in everything else, and scored on real held-out cases.

For every number of real cases: the methods learn from these cases alone (a workspace of its own below `downstream/` where they
are not all), paint, and one nnU-Net per arm and seed learns from the real cases and the arm's pairs, by the plan that nnU-Net
makes of the real cases. Writes `downstream/` of the workspace: `nnunet/real_N/` (what nnU-Net prepared, and `runs/ARM_seedK/` with
scores and predictions), downstream.json, .csv and .html. A run that is finished is never made again.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tumorgen_cli.data.dataset import Dataset
from tumorgen_cli.data.hosts import describe_matches, match_cases
from tumorgen_cli.data.splits import Splits
from tumorgen_cli.data.volumes import read_image, read_volume
from tumorgen_cli.evaluation.cases import synthetic_cases
from tumorgen_cli.evaluation.gains import (
    LIVE,
    MEASURES,
    REAL,
    Arm,
    Design,
    Downstream,
    Failure,
    TrainedNnunet,
    summarize_arms,
)
from tumorgen_cli.evaluation.reports import downstream
from tumorgen_cli.figures import View, display_range, display_style, draw_box_slices, pick_evenly
from tumorgen_cli.geometry import tight_box
from tumorgen_cli.methods.open import check_preprocessed, open_method
from tumorgen_cli.nnunet.job import CPU_SIZE, NetworkSize, TrainingCase, TrainingData, check_data, training_data
from tumorgen_cli.pipeline.nnunet_setup import set_up_nnunet
from tumorgen_cli.pipeline.synthesize import synthesize_pairs
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.intensity import scan_limits
from tumorgen_cli.studies.downstream_runs import (
    PREDICTIONS,
    attained_share,
    forget_stale_scores,
    measured_schedule,
    run_folder,
    train_and_score,
)
from tumorgen_cli.studies.subsets import subset_workspace
from tumorgen_cli.studies.training_length import TrainingLength, train_within
from tumorgen_cli.synthesis.options import HostOptions, OnTheFlyOptions, SetOptions
from tumorgen_cli.synthesis.sources import healthy_sources, read_planned_dataset, unlabeled_hosts, unlabeled_hosts_fault
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName, find_device
from tumorgen_cli.system.errors import DataError, Fault, PlanError, StateError, TumorgenError, abbreviate_list, one_line
from tumorgen_cli.system.files import write_text
from tumorgen_cli.system.json_records import none_for_nan, to_plain, write_json
from tumorgen_cli.system.locks import locked

_PICTURED = 4  # held-out patients on the page
_FAR_SHARE = 0.05  # of what is drawn: a real share further from what was asked for is told


@dataclass(frozen=True)
class DownstreamReport:
    """The comparison, and where it was written."""

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
    """Trains what is not trained, paints, trains the nnU-Nets, scores them and writes tables and the page.

    What fails with an error a user is told, be it an arm, a training or all of a number of cases, is a row that says so; the others go
    on, and the same command tries it again.

    Args:
        hosts: scans (`healthy`), training cases (`cases`), or both: then each gets half of the pairs.
        jobs: nnU-Nets at a time; None for one per GPU, or one.

    Raises:
        PlanError: no case is held out, or the fractions leave none to learn from. DataError: hosts or cases that cannot be used, held-out
        cases among the hosts. StateError: no training was made.
    """
    plan, splits = workspace.plan(), workspace.splits()
    check_preprocessed(workspace, plan, splits)
    counts = case_counts(len(splits.train), design.fractions)
    if not splits.test:
        fault = Fault(
            "splits.json",
            "no case held out",
            "one or more: nothing else shows a gain",
            "plan with splits_final.json, or more cases",
        )
        raise PlanError("Gains cannot be measured", [fault])
    dataset = read_planned_dataset(plan)
    check_data(training_data(dataset, splits))
    if hosts.healthy is not None:
        _check_hosts(plan, dataset, splits, hosts.healthy)
    if abs(attained_share(design) - design.real_share) > _FAR_SHARE:
        told = f"{attained_share(design):.0%}, the nearest that whole repeats of real cases come to"
        console.warn(
            f"--real-share {design.real_share:g} beside {design.ratio} pairs to a real case is not to be had: {told}"
        )
    root = workspace.root / "downstream"
    order = nested_order(splits.train, plan.seed)
    kind = find_device(device).type
    finished: list[TrainedNnunet] = []
    failures: list[Failure] = []
    with locked(root, "downstream"):
        forget_stale_scores(root, training_data(dataset, splits), plan.tolerance_mm)
        for count in counts:
            chosen = sorted(order[:count])
            console.headline(f"{count} real cases")
            data = training_data(dataset, Splits(tuple(chosen), splits.test))
            lost: dict[str, str] = {}  # arms without anything to learn from, and why
            try:
                inner, pairs, paintings = workspace, {}, {}
                try:
                    if count < len(splits.train):
                        inner = subset_workspace(workspace, [*chosen, *splits.test], root / f"real_{count}", device)
                except TumorgenError as error:  # real cases alone need no method
                    lost = dict.fromkeys((arm for arm in design.arms if arm != REAL), one_line(error))
                    console.warn(f"{count} real cases: {one_line(error)}")
                for arm in [arm for arm in design.arms if arm not in lost]:
                    try:
                        if arm.endswith(LIVE):
                            place = root / "live" / f"{arm}_{count}"
                            paintings[arm] = _painting(inner, arm.removesuffix(LIVE), place, design, hosts, device)
                        elif arm != REAL:
                            pairs[arm] = _pairs(inner, arm, design.ratio * count, hosts, device)
                    except TumorgenError as error:  # the other arms are no worse for it
                        lost[arm] = one_line(error)
                        console.warn(f"{arm} with {count} real cases: {lost[arm]}")
                runs, failed = train_and_score(root, plan, design, data, pairs, paintings, kind, jobs, size)
            except TumorgenError as error:  # nor are other numbers of cases
                runs, failed, lost = [], [], dict.fromkeys(design.arms, one_line(error)) | lost
                console.warn(f"{count} real cases: {one_line(error)}")
            finished += runs
            failures += [*(Failure(arm, count, reason) for arm, reason in lost.items()), *failed]
            if finished:
                result = _result(plan, splits, design, hosts, finished, failures, root, kind)
                _write(root, plan, result, data)  # after every count: long work shows what it has
    if not finished:
        faults = [
            Fault(
                f"{each.arm}, {each.cases} real cases", each.reason, "a training", "mend it and run the command again"
            )
            for each in failures
        ]
        raise StateError("No training was made", faults)
    return DownstreamReport(result, str(root / "downstream.html"), str(root / "downstream.csv"))


def _check_hosts(plan: Plan, dataset: Dataset, splits: Splits, healthy: Path) -> None:
    """Raises:
    DataError: hosts that cannot be used, or are held out, under whatever name, for nnU-Net would learn from its test cases; or lack the
    data set's other labels.
    """
    sources, faults = healthy_sources(plan, healthy, None), []
    known = match_cases({source.name: source.files[0] for source in sources}, dataset, splits.test)
    if known:
        found = f"{len(known)} held-out cases ({describe_matches(known)}), from which nnU-Net would learn"
        faults.append(Fault(str(healthy), found, "other scans", "take them out of the folder"))
    if bare := unlabeled_hosts(plan, sources):
        faults.append(unlabeled_hosts_fault(str(healthy), bare))
    if faults:
        raise DataError("Hosts cannot be painted into", faults)


def case_counts(cases: int, fractions: Sequence[float]) -> list[int]:
    """How many real cases each fraction is, ascending.

    Raises:
        PlanError: a fraction is none, or more than all.
    """
    wrong = [f for f in fractions if not 0 < f <= 1 or round(f * cases) < 1]
    if wrong or not fractions:
        found = ", ".join(f"{f:g}" for f in wrong) or "none"
        fault = Fault(
            "--fractions", found, f"shares of the {cases} training cases, above 0, at most 1", "for example 0.25,0.5,1"
        )
        raise PlanError("The fractions cannot be used", [fault])
    return sorted({round(f * cases) for f in fractions})


def nested_order(cases: Sequence[str], seed: int) -> list[str]:
    """The cases in a drawn order: the first n are the n real cases, so that fewer are always part of more."""
    names = sorted(cases)
    return [names[i] for i in np.random.default_rng(seed).permutation(len(names))]


def _pairs(workspace: Workspace, arm: str, count: int, hosts: HostOptions, device: DeviceName) -> list[TrainingCase]:
    """The pairs of an arm, its method trained."""
    _learn(workspace, arm, device)
    found: list[TrainingCase] = []
    kinds = [] if hosts.healthy is None else [(hosts.healthy.resolve().name, HostOptions(hosts.healthy))]
    kinds += [] if hosts.cases is None else [(f"{hosts.cases}_cases", HostOptions(cases=hosts.cases))]
    for number, (place, kind) in enumerate(kinds):
        share = count // len(kinds) + (number < count % len(kinds))
        folder = workspace.synthetic(f"{arm}_{place}_n{share}")
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
    """The file that says what a live arm paints, at the rate at which the other arms see pairs."""
    _learn(workspace, method, device)
    patches = OnTheFlyOptions(round(1 - attained_share(design), 4))
    made = set_up_nnunet(workspace, method, hosts, patches, device=device, folder=folder)
    return Path(made.file)


def _learn(workspace: Workspace, method: str, device: DeviceName) -> None:
    """Trains what is not trained of a method.

    Raises:
        StateError: weights that were given to it have seen held-out cases.
    """
    train_within(workspace, method, TrainingLength(), device)
    seen = sorted({*open_method(workspace, method, device).learnt_from()} & {*workspace.splits().test})
    if seen:
        fault = Fault(
            method,
            f"given weights have learnt from {len(seen)} held-out cases ({abbreviate_list(seen)})",
            "none",
            "train without them (--restart)",
        )
        raise StateError("Held-out cases have been learnt from", [fault])


def _result(
    plan: Plan,
    splits: Splits,
    design: Design,
    hosts: HostOptions,
    runs: Sequence[TrainedNnunet],
    failures: Sequence[Failure],
    root: Path,
    kind: str,
) -> Downstream:
    kinds = [] if hosts.healthy is None else [f"scans of {hosts.healthy.resolve().name}"]
    kinds += [] if hosts.cases is None else [f"{hosts.cases} cases"]
    schedule = measured_schedule(root, design.minutes, kind)
    if schedule is None:
        raise StateError(
            "No training was made", [Fault(str(root), "no schedule of one", "one", "run the command again")]
        )
    return Downstream(
        plan.dataset,
        plan.hash,
        splits.test,
        " and ".join(kinds),
        design,
        schedule,
        kind,
        plan.tolerance_mm,
        tuple(summarize_arms(runs)),
        tuple(runs),
        tuple(failures),
    )


def _write(root: Path, plan: Plan, result: Downstream, data: TrainingData) -> None:
    write_json(root / "downstream.json", none_for_nan(to_plain(result)))
    write_text(root / "downstream.csv", gains_csv(result.arms))
    write_text(root / "downstream.html", downstream.draw_page(result, _pictures(root, plan, result, data)))


def gains_csv(arms: Sequence[Arm]) -> str:
    """A line per arm, number of cases and measure; by size, too: Dice and surface Dice by that of the patients' largest lesion, lesions found
    and false positives by their own."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    head = [
        "arm",
        "real cases",
        "pairs",
        "seeds",
        "measure",
        "lesion size",
        "count",
        "mean",
        "low",
        "high",
        "spread over patients",
    ]
    writer.writerow([*head, "gain", "gain low", "gain high", "p", "better", "worse"])
    for arm in arms:
        lines = [(name, "any", getattr(arm, name)) for name in MEASURES]
        lines += [(name, each.name, getattr(each, name)) for each in arm.by_size for name in MEASURES]
        for name, size, measure in lines:
            own, gain = measure.over_patients, measure.gain
            values = [
                own.mean,
                own.low,
                own.high,
                measure.spread,
                *((gain.mean, gain.low, gain.high, measure.p) if gain else ()),
            ]
            numbers = [f"{value:.4f}" for value in values] + [""] * (8 - len(values))
            writer.writerow(
                [
                    arm.arm,
                    arm.cases,
                    arm.pairs,
                    arm.seeds,
                    name,
                    size,
                    own.count,
                    *numbers,
                    measure.better,
                    measure.worse,
                ]
            )
    return stream.getvalue()


def gain_rows(arms: Sequence[Arm]) -> list[tuple[str, ...]]:
    """Rows to print: the DSC and its gain, and the means of the other measures."""
    rows = []
    for arm in arms:
        gain, tested = arm.dice.gain, f"{arm.dice.better} / {arm.dice.worse}, {arm.dice.p:.3f}"
        means = [f"{getattr(arm, name).over_patients.mean:.3f}" for name in MEASURES if name != "dice"]
        rows.append(
            (
                str(arm.cases),
                arm.arm,
                arm.dice.over_patients.text,
                gain.text if gain else "–",
                tested if gain else "–",
                *means,
            )
        )
    return rows


def _pictures(root: Path, plan: Plan, result: Downstream, data: TrainingData) -> list[downstream.Patient]:
    """Held-out patients, from the worst to the best of the real arm (else the first) at the most real cases, by every arm's first seed."""
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
