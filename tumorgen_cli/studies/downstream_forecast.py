"""What `downstream` would do and cost: trainings, hours and disk, before anything is trained. Nothing is written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tumorgen_cli.evaluation.design import Design, Variant, attained_share, find_arm, list_variants
from tumorgen_cli.evaluation.scan_scores import REAL
from tumorgen_cli.methods.open import open_method
from tumorgen_cli.nnunet.job import CPU_SIZE, NetworkSize
from tumorgen_cli.nnunet.results import FINAL
from tumorgen_cli.nnunet.runner import is_trained
from tumorgen_cli.pipeline.training_forecast import measure_stages
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.studies.cross_fitting import count_folds
from tumorgen_cli.studies.downstream_points import find_machine, set_up_study
from tumorgen_cli.studies.downstream_runs import list_devices
from tumorgen_cli.studies.downstream_sources import StudySetup
from tumorgen_cli.studies.downstream_tasks import Point, method_cases, run_folder
from tumorgen_cli.synthesis.options import HostOptions
from tumorgen_cli.system.devices import DeviceName
from tumorgen_cli.system.files import file_size, free_bytes

#: of a finished training: the weights of nnU-Net's own plan have 31 million numbers, those of `CPU_SIZE` 1.5 million
_WEIGHT_BYTES = {"cuda": 130 << 20, "cpu": 8 << 20}
_VOXEL_BYTES = 4  # of a channel of a case that nnU-Net has prepared, before it is compressed


@dataclass(frozen=True)
class StudyStep:
    """A part of the work that is left.

    Attributes:
        what: The part, in words.
        count: How many there are of it.
        hours: Hours it takes; None if that is not known before it has begun.
        disk_bytes: What it takes on disk, at most.
    """

    what: str
    count: int
    hours: float | None
    disk_bytes: int


@dataclass(frozen=True)
class StudyForecast:
    """What is left to do, and the free space where it will be written.

    Attributes:
        steps: The parts.
        scans: Number of scans that each training is scored on, which is not counted.
        free_bytes: Free space.
    """

    steps: tuple[StudyStep, ...]
    scans: int
    free_bytes: int

    @property
    def hours(self) -> float:
        """All hours that are known."""
        return sum(step.hours or 0.0 for step in self.steps)

    @property
    def disk_bytes(self) -> int:
        """All that it takes on disk."""
        return sum(step.disk_bytes for step in self.steps)


def forecast_gains(
    workspace: Workspace,
    design: Design,
    hosts: HostOptions,
    device: DeviceName = "auto",
    jobs: int | None = None,
    size: NetworkSize | None = CPU_SIZE,
) -> StudyForecast:
    """Say what `measure_gains` with the same arguments would do and cost.

    Hours of nnU-Nets follow from the design. Steps of methods are measured. The time of painting is not known.

    Args:
        workspace: The workspace, planned and preprocessed.
        design: What is compared.
        hosts: What is painted into.
        device: Where networks run.
        jobs: Number of nnU-Nets that train at the same time; None: one per GPU, or one.
        size: Size of nnU-Net on a CPU; None: nnU-Net's own.

    Raises:
        PlanError: See `set_up_study`.
        DataError: Hosts or cases cannot be used.
    """
    setup, points = set_up_study(workspace, design, hosts, device)
    machine = find_machine(device, jobs, size)
    steps = [*_method_steps(setup, points), _painting_step(setup, points)]
    steps += [_preparation_step(setup, points), _aim_step(setup, points, _WEIGHT_BYTES[machine.kind])]
    steps.append(
        _training_step(setup, points, len(list_devices(machine.kind, machine.jobs)), _WEIGHT_BYTES[machine.kind])
    )
    return StudyForecast(tuple(step for step in steps if step.count), len(points[0].data.test), free_bytes(setup.root))


def _aim_step(setup: StudySetup, points: Sequence[Point], weights: int) -> StudyStep:
    """Forecast the nnU-Nets of folds by which arms are aimed, one after the other."""
    left = 0
    if any(find_arm(arm).aimed for arm in setup.design.arms):
        for point in points:
            finished = list((setup.results / "aim" / point.name).glob(f"*/fold_*/{FINAL}"))
            left += max(0, count_folds([case.name for case in point.data.train], point.patients) - len(finished))
    hours = round(left * setup.design.minutes / 60, 2)
    return StudyStep("nnU-Nets of folds, to aim by", left, hours, 2 * left * weights)


def _training_step(setup: StudySetup, points: Sequence[Point], jobs: int, weights: int) -> StudyStep:
    """Forecast the trainings that are not finished."""
    left = [
        relative_length(setup.design, variant, setup.unpainted)
        for point in points
        for variant in list_variants(setup.design)
        for seed in range(setup.design.seeds)
        if not is_trained(run_folder(setup.results, point.name, variant.name, seed))
    ]
    hours = sum(left) * setup.design.minutes / 60 / jobs
    what = "nnU-Nets" if jobs == 1 else f"nnU-Nets, {jobs} at a time"
    return StudyStep(what, len(left), round(hours, 2), len(left) * weights)


def relative_length(design: Design, variant: Variant, unpainted: float) -> float:
    """Return the length of a training as a multiple of the real arm's, pretraining included."""
    arm = variant.arm
    if arm.longer:
        share = attained_share(design, unpainted if arm.paints else 0.0)
        return design.times / (design.real_share if arm.source == REAL else share)
    times = 1.0 if arm.source == REAL else design.times
    return 2 * times if arm.pretrained else times


def _method_steps(setup: StudySetup, points: Sequence[Point]) -> list[StudyStep]:
    """Forecast the trainings of methods, from a few steps of each stage in the workspace of all cases."""
    steps = []
    arms = [arm for arm in map(find_arm, setup.design.arms) if arm.paints]
    for name in dict.fromkeys(arm.source for arm in arms):
        method = open_method(setup.workspace, name, setup.device)
        if not method.stages:
            continue
        learned = {arm.learned for arm in arms if arm.source == name}
        places = dict.fromkeys(_workspace_root(setup, point, number) for point in points for number in learned)
        left = [root for root in places if not _learned(root, name, method.stages, setup)]
        if not left:
            continue
        measured = measure_stages(method, method.stages)
        seconds = sum(each.seconds_per_step * method.planned_iterations(stage) for stage, each in measured.items())
        size = sum(each.disk_bytes for each in measured.values())
        steps.append(
            StudyStep(f"trainings of {name}", len(left), round(len(left) * seconds / 3600, 2), len(left) * size)
        )
    return steps


def _workspace_root(setup: StudySetup, point: Point, learned: int | None) -> Path:
    """Return the folder of the workspace in which methods learn from (that many cases of) a draw."""
    cases, folder = method_cases(point, learned)
    whole = point.subset == 0 and len(cases) == len(setup.splits.train)
    return setup.workspace.root if whole else setup.root / folder


def _learned(root: Path, name: str, stages: Sequence[str], setup: StudySetup) -> bool:
    """Whether a method is trained in a workspace."""
    if not (root / "plan.json").is_file():
        return False
    method = open_method(Workspace(root), name, setup.device)
    return all(method.trained(stage) for stage in stages)


def _pairs_per_case(setup: StudySetup) -> int:
    """Return the number of pairs that are painted for each real case, in all sets."""
    sets = {
        (arm.source, arm.learned, arm.ratio or setup.design.ratio, arm.aimed, variant.hosts, variant.painting)
        for variant in list_variants(setup.design)
        if (arm := variant.arm).paints and not arm.live
    }
    return sum(ratio for _, _, ratio, *_ in sets)


def _painting_step(setup: StudySetup, points: Sequence[Point]) -> StudyStep:
    """Forecast the pairs of all sets, also those that are painted already."""
    count = _pairs_per_case(setup) * sum(len(point.data.train) for point in points)
    files = [source.files for source in setup.healthy] or [case.images for case in points[0].data.train]
    scan = int(np.median([sum(map(file_size, each)) for each in files]))
    return StudyStep("pairs to paint", count, None, count * scan)


def _preparation_step(setup: StudySetup, points: Sequence[Point]) -> StudyStep:
    """Forecast the cases that nnU-Net prepares: real ones, pairs, and healthy scans with empty masks."""
    uses_empty = any(
        variant.arm.source != REAL and (not variant.arm.paints or setup.unpainted)
        for variant in list_variants(setup.design)
    )
    empty = len(setup.healthy) if uses_empty else 0
    count = sum(point.cases + _pairs_per_case(setup) * len(point.data.train) + empty for point in points)
    voxels = np.median([math.prod(case.grid.shape) for case in setup.workspace.fingerprint().cases])
    case_bytes = int(voxels) * (_VOXEL_BYTES * len(setup.plan.channels) + 1)
    return StudyStep("cases that nnU-Net prepares", count, None, count * case_bytes)
