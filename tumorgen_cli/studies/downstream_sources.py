"""What the arms of `downstream` learn from beside real cases: healthy scans with empty masks, pairs, paintings.

Methods learn from a draw of the real cases only, in a workspace of its own below the study's folder where these are not
all cases. Writes there: `real_N/` (such a workspace), `hosts/` (links to some of the healthy scans), `empty_masks/` and
`live/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from tumorgen_cli.data.splits import Splits
from tumorgen_cli.data.volumes import read_grid, write_volume
from tumorgen_cli.evaluation.cases import synthetic_cases
from tumorgen_cli.evaluation.design import (
    MIXED,
    Design,
    Variant,
    list_draws,
    list_variants,
    unpainted_share,
)
from tumorgen_cli.evaluation.scan_scores import EMPTY
from tumorgen_cli.methods.open import check_held_out, open_method
from tumorgen_cli.methods.shortfalls import find_shortfalls
from tumorgen_cli.nnunet.job import TrainingCase, TrainingOptions
from tumorgen_cli.pipeline.nnunet_setup import set_up_nnunet
from tumorgen_cli.pipeline.synthesize import synthesize_pairs
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.studies.cross_fitting import cross_fit
from tumorgen_cli.studies.downstream_runs import measured_schedule
from tumorgen_cli.studies.downstream_tasks import LearnedFrom, Point, method_cases, prepared_folder
from tumorgen_cli.studies.subsets import subset_workspace
from tumorgen_cli.studies.training_length import TrainingLength, train_within
from tumorgen_cli.synthesis.options import HostOptions, OnTheFlyOptions, SetOptions
from tumorgen_cli.synthesis.sources import Source, healthy_sources
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName
from tumorgen_cli.system.errors import TumorgenError, one_line
from tumorgen_cli.system.files import derive_seed
from tumorgen_cli.system.links import copy_file, link_file

STUDY = "downstream"  # the study's folder in the workspace


@dataclass(frozen=True)
class StudySetup:
    """What stays the same for every draw of the real cases.

    Attributes:
        workspace: The workspace of all cases.
        plan: Its plan.
        splits: Its training cases and held-out cases.
        design: What is compared.
        hosts: What is painted into.
        device: Where methods run.
        weak: What is too weak about the methods' weights, filled as they are used.
    """

    workspace: Workspace
    plan: Plan
    splits: Splits
    design: Design
    hosts: HostOptions
    device: DeviceName
    weak: list[str] = field(default_factory=list)

    @property
    def root(self) -> Path:
        """The folder of the study: what methods learned and painted, for every segmentor."""
        return self.workspace.root / STUDY

    @property
    def results(self) -> Path:
        """The folder of the trainings and results of the design's segmentor."""
        return self.root / self.design.folder

    @property
    def unpainted(self) -> float:
        """Share of healthy scans with empty masks in what is drawn beside real cases."""
        return unpainted_share(self.design, self.hosts.healthy is not None)

    @cached_property
    def healthy(self) -> list[Source]:
        """All healthy scans; none where only tumors of cases are redrawn."""
        return [] if self.hosts.healthy is None else healthy_sources(self.plan, self.hosts.healthy, None)


def learned_sources(
    setup: StudySetup, point: Point, lost: dict[str, str], options: TrainingOptions
) -> dict[Variant, LearnedFrom]:
    """Prepare what each variant learns from at a draw of the real cases.

    Args:
        setup: The study.
        point: The draw.
        lost: Gets the variants for which this fails, by name, with the reason.
        options: How nnU-Nets are trained that arms are aimed by.
    """
    variants, found = list_variants(setup.design), {}
    spaces: dict[int | None, Workspace] = {}
    for learned in dict.fromkeys(variant.arm.learned for variant in variants if variant.arm.paints):
        try:
            spaces[learned] = _workspace_of(setup, point, learned)
        except TumorgenError as error:  # the other arms continue
            own = [each.name for each in variants if each.arm.paints and each.arm.learned == learned]
            lost |= dict.fromkeys(own, one_line(error))
            console.warn(f"{point.title}: {one_line(error)}")
    for variant in [variant for variant in variants if variant.name not in lost]:
        try:
            found[variant] = _learned_from(setup, point, variant, spaces.get(variant.arm.learned), options)
        except TumorgenError as error:  # the other arms continue
            lost[variant.name] = one_line(error)
            console.warn(f"{variant.name} with {point.title}: {lost[variant.name]}")
    return found


def _workspace_of(setup: StudySetup, point: Point, learned: int | None) -> Workspace:
    """Return the workspace in which methods learn from a draw of the real cases.

    A draw has a seed of its own, so that methods are trained anew also where all cases are drawn.

    Args:
        setup: The study.
        point: The draw.
        learned: Number of cases to learn from, in the order of the draw; None: those of nnU-Net.
    """
    cases, folder = method_cases(point, learned)
    if point.subset == 0 and len(cases) == len(setup.splits.train):
        return setup.workspace
    seed = setup.plan.seed + point.subset
    return subset_workspace(setup.workspace, [*cases, *setup.splits.test], setup.root / folder, setup.device, seed)


def _learned_from(
    setup: StudySetup, point: Point, variant: Variant, inner: Workspace | None, options: TrainingOptions
) -> LearnedFrom:
    """Prepare what one variant learns from."""
    arm = variant.arm
    empty: tuple[TrainingCase, ...] = ()
    if arm.source == EMPTY or (arm.paints and setup.unpainted):
        empty = _empty_cases(setup, host_names(setup, variant.hosts, point.subset))
    if not arm.paints or inner is None:
        return LearnedFrom(empty=empty)
    hosts = _host_options(setup, variant.hosts, point.subset)
    if arm.aimed:
        hosts = replace(hosts, aim=_segmentor(setup, point, options))
    _learn(inner, arm.source, setup.device)
    seed = None if not variant.painting else derive_seed(inner.plan().seed, "painting", variant.painting)
    if arm.live:
        real = [case.name for case in point.data.train]
        draws = list_draws(arm, setup.design, real, (), [case.name for case in empty], setup.unpainted)
        patches = OnTheFlyOptions(draws.painted, mixup=MIXED if arm.mixup else 0.0)
        folder = setup.root / "live" / f"{variant.name}_{point.name}"
        made = set_up_nnunet(inner, arm.source, hosts, patches, device=setup.device, seed=seed, folder=folder)
        learned = LearnedFrom((), empty, Path(made.file))
    else:
        count, suffix = (
            (arm.ratio or setup.design.ratio) * len(point.data.train),
            f"_painting{variant.painting}" if variant.painting else "",
        )
        learned = LearnedFrom(_pairs(inner, arm.source, count, hosts, (seed, suffix), setup.device), empty)
    method = open_method(inner, arm.source, setup.device)
    weak = [f"{arm.source} with {point.title}: {text}" for text in find_shortfalls(method)]
    setup.weak.extend(text for text in weak if text not in setup.weak)
    return learned


def _segmentor(setup: StudySetup, point: Point, options: TrainingOptions) -> Path:
    """Train an nnU-Net on each fold of the real cases; return their results folder."""
    prepared = prepared_folder(setup.results, point.name)
    schedule = measured_schedule(setup.results, options.minutes, options.device)
    folder = setup.results / "aim" / point.name
    return cross_fit(folder, prepared, point.data, options, point.patients, schedule)


def host_names(setup: StudySetup, count: int | None, subset: int) -> list[str]:
    """Return the names of an arm's healthy scans, in the random order of a draw; fewer are always part of more."""
    names = sorted(source.name for source in setup.healthy)
    order = np.random.default_rng(derive_seed(setup.plan.seed, "hosts", subset)).permutation(len(names))
    return [names[i] for i in order[:count]]


def _host_options(setup: StudySetup, count: int | None, subset: int) -> HostOptions:
    """Return what a method paints into: of the healthy scans a folder with links to those of a draw."""
    if count is None or setup.hosts.healthy is None:
        return setup.hosts
    folder = setup.root / "hosts" / f"subset{subset}" / f"{setup.hosts.healthy.resolve().name}{count}"
    chosen = {*host_names(setup, count, subset)}
    wanted: dict[Path, Path] = {}
    for source in [source for source in setup.healthy if source.name in chosen]:
        wanted |= {folder / "imagesTr" / path.name: path for path in source.files}
        if source.label is not None:
            wanted[folder / "labelsTr" / source.label.name] = source.label
            described = source.label.parent.parent / "dataset.json"
            wanted |= {folder / "dataset.json": described} if described.is_file() else {}
    for other in {path for path in folder.rglob("*") if not path.is_dir()} - {*wanted}:
        other.unlink()
    for target, source_file in wanted.items():
        link_file(source_file, target)
    return replace(setup.hosts, healthy=folder)


def _empty_cases(setup: StudySetup, names: Sequence[str]) -> tuple[TrainingCase, ...]:
    """Return healthy scans as training cases; their labels say that there is no tumor."""
    sources, found = {source.name: source for source in setup.healthy}, []
    for source in map(sources.__getitem__, names):
        path = setup.root / "empty_masks" / f"{source.name}{setup.plan.file_ending}"
        grid = read_grid(source.files[0])
        if source.label is not None:  # with the data set's other labels
            copy_file(source.label, path)
        elif not path.is_file() or read_grid(path) != grid:
            write_volume(path, np.zeros(grid.shape, np.uint8), grid, like=source.files[0])
        found.append(TrainingCase(f"empty_{source.name}", source.files, path))
    return tuple(found)


def _pairs(
    workspace: Workspace,
    method: str,
    count: int,
    hosts: HostOptions,
    painting: tuple[int | None, str],
    device: DeviceName,
) -> tuple[TrainingCase, ...]:
    """Paint a method's pairs and return them; with healthy scans and training cases, each get half of them.

    Args:
        workspace: The workspace in which the method has learned.
        method: The method.
        count: Number of pairs.
        hosts: What it paints into.
        painting: The seed of the painting, and what its folders end in.
        device: Where the method runs.
    """
    found: list[TrainingCase] = []
    kinds = [] if hosts.healthy is None else [(hosts.healthy.resolve().name, replace(hosts, cases=None))]
    if hosts.cases is not None:
        kinds.append((f"{hosts.cases}_cases", HostOptions(cases=hosts.cases, tumors=hosts.tumors)))
    seed, ending = painting
    suffix = "" if hosts.tumors is None else f"_tumors{hosts.tumors}"
    suffix += ("_anywhere" if hosts.anywhere else "") + ("_aimed" if hosts.aim else "") + ending
    for number, (place, kind) in enumerate(kinds):
        share = count // len(kinds) + (number < count % len(kinds))
        region = "" if kind.roi is None else f"_roi-{kind.roi.resolve().name}"
        folder = workspace.synthetic(f"{method}_{place}_n{share}{region}{suffix}")
        synthesize_pairs(workspace, method, SetOptions(share, folder, seed), kind, device=device)
        found += [
            TrainingCase(f"{folder.name}_{pair.case}", pair.images, pair.label)
            for pair in synthetic_cases(workspace.plan(), folder)
        ]
    return tuple(found)


def _learn(workspace: Workspace, method: str, device: DeviceName) -> None:
    """Train the stages of a method that are not trained.

    Raises:
        StateError: The method has learned from held-out cases.
    """
    train_within(workspace, method, TrainingLength(), device)
    check_held_out(open_method(workspace, method, device))
