"""The trainings of `downstream`: one per arm, number of hosts, painting and seed, for every draw of the real cases.

Nothing is written here. Trainings are in `nnunet/real_N/runs/NAME_seedK` of the study's folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tumorgen_cli.data.patients import Patients
from tumorgen_cli.evaluation.design import Design, Draws, Variant, list_draws
from tumorgen_cli.evaluation.scan_scores import REAL
from tumorgen_cli.nnunet.job import TrainingCase, TrainingData, TrainingJob, TrainingOptions, make_job
from tumorgen_cli.nnunet.on_the_fly.settings import Painting
from tumorgen_cli.system.errors import say_count
from tumorgen_cli.system.json_records import hash_value, read_record

PRETRAINING = "pretraining"


@dataclass(frozen=True)
class Point:
    """A draw of the real cases, for all arms.

    Attributes:
        cases: Number of real cases.
        subset: Number of the draw.
        data: The real cases that are learned from, and the held-out cases.
        aside: The real cases that nothing learns from, because they choose the best weights of a training.
        patients: The patients of the scans, as far as they are known.
        order: All training cases, in the order in which they are drawn.
    """

    cases: int
    subset: int
    data: TrainingData
    aside: tuple[TrainingCase, ...] = ()
    patients: Patients = field(default_factory=dict)
    order: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of its folders."""
        aside = f"_aside{len(self.aside)}" if self.aside else ""
        return f"real_{self.cases}{aside}" + (f"_subset{self.subset}" if self.subset else "")

    @property
    def title(self) -> str:
        """The draw in words."""
        return say_count(self.cases, "real case") + (f", subset {self.subset}" if self.subset else "")


def method_cases(point: Point, learned: int | None) -> tuple[list[str], str]:
    """Return the real cases that a method learns from, and the name of its workspace's folder.

    Args:
        point: The draw of the real cases.
        learned: Number of cases, in the order of the draw; None: those of nnU-Net. Cases held aside are left out.
    """
    own = [case.name for case in point.data.train]
    if learned is None:
        return own, point.name
    aside = {case.name for case in point.aside}
    # without cases aside, it is the workspace of that many real cases
    folder = f"from_{learned}_{point.name}" if aside else replace(point, cases=learned).name
    return [case for case in point.order[:learned] if case not in aside], folder


@dataclass(frozen=True)
class LearnedFrom:
    """What a variant learns from beside the real cases.

    Attributes:
        pairs: Its pairs.
        empty: Healthy scans with empty masks.
        painting: Of one that paints during training, the file with the settings of the painting.
    """

    pairs: tuple[TrainingCase, ...] = ()
    empty: tuple[TrainingCase, ...] = ()
    painting: Path | None = None


@dataclass(frozen=True)
class Task:
    """A training to make.

    Attributes:
        point: The draw of the real cases.
        variant: The arm, its hosts and its painting.
        seed: Its seed.
        folder: Its folder.
        job: Its job.
        pairs: Number of its pairs.
        real_share: Share of real cases in what it draws.
        before: The job whose weights it starts from, if its arm is pretrained.
    """

    point: Point
    variant: Variant
    seed: int
    folder: Path
    job: TrainingJob
    pairs: int
    real_share: float
    before: TrainingJob | None = None

    @property
    def name(self) -> str:
        """The training in words."""
        return task_name(self.variant.name, self.point.title, self.seed)


def task_name(variant: str, point: str, seed: int) -> str:
    """Name a training in words."""
    return f"{variant}, {point}, seed {seed}"


def prepared_folder(root: Path, point: str) -> Path:
    """Return the folder in which nnU-Net prepares a draw of real cases."""
    return root / "nnunet" / point


def run_folder(root: Path, point: str, variant: str, seed: int) -> Path:
    """Return the folder of one training."""
    return prepared_folder(root, point) / "runs" / f"{variant}_seed{seed}"


def training_times(variant: Variant, design: Design, draws: Draws) -> float:
    """Return the length of a training as a multiple of the real arm's."""
    if not variant.arm.longer:
        return 1.0 if variant.arm.source == REAL else design.times
    # real cases alone are trained for as many iterations as the other longer arms
    return design.times / (design.real_share if variant.arm.source == REAL else draws.real_share)


def list_tasks(
    root: Path,
    design: Design,
    point: Point,
    sources: Mapping[Variant, LearnedFrom],
    options: TrainingOptions,
    unpainted: float,
) -> list[Task]:
    """List the trainings of one draw of real cases; all arms of a seed come before the next seed.

    Args:
        root: The study's folder.
        design: The design.
        point: The draw of real cases.
        sources: What each variant learns from; one that is missing is left out.
        options: How the real arm's first seed is trained.
        unpainted: Share of healthy scans with empty masks in what is drawn beside real cases.
    """
    return [
        _task(root, design, point, variant, learned, replace(options, seed=seed), unpainted)
        for seed in range(design.seeds)
        for variant, learned in sources.items()
    ]


def _task(
    root: Path,
    design: Design,
    point: Point,
    variant: Variant,
    learned: LearnedFrom,
    options: TrainingOptions,
    unpainted: float,
) -> Task:
    """Make one training's task."""
    real, pairs, empty = ([case.name for case in group] for group in (point.data.train, learned.pairs, learned.empty))
    draws = list_draws(variant.arm, design, real, pairs, empty, unpainted)
    options = replace(options, times=round(training_times(variant, design, draws), 4))
    aside = [case.name for case in point.aside]
    extra = [*point.aside, *learned.pairs, *(case for case in learned.empty if case.name in set(draws.names))]
    prepared = prepared_folder(root, point.name)
    job = make_job(point.data, prepared, options, draws.names, extra, aside)
    before, share = None, draws.real_share
    if variant.arm.pretrained:
        before, own = job, make_job(point.data, prepared, options, real, point.aside, aside)
        job, share = replace(own, inputs_hash=hash_value([own.inputs_hash, before.inputs_hash])), 1.0
    if learned.painting is not None:
        job = _live(job, learned.painting)
    folder = run_folder(root, point.name, variant.name, options.seed)
    return Task(point, variant, options.seed, folder, job, len(learned.pairs), share, before)


def _live(job: TrainingJob, file: Path) -> TrainingJob:
    """Return the job with painting during training.

    The hash of its inputs does not cover where the workspace and the hosts are.
    """
    painting = read_record(Painting, file, "run the command again")
    made_of = replace(painting, work="", healthy=None, roi=None, device="auto")
    return replace(job, painting=str(file), inputs_hash=hash_value([job.inputs_hash, made_of]))
