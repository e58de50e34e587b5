"""Compares methods: the same training length, hosts, places, seeds and scores for each; one table and one page.

Reads a workspace, hosts and, where methods learn from or paint into another data set, that data set. Writes
`synthetic/`, `evaluation/` and `comparison/` of the workspace. `train_on/<name>/` is a workspace below it, for what
`--train-on` names; `paint_in/<name>/` holds the tumor-free cases of the data set that `--paint-in` names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tumorgen_cli.data.dataset import find_dataset, read_dataset
from tumorgen_cli.data.subsets import select_organ_cases, write_tumor_free_subset
from tumorgen_cli.evaluation.comparison import (
    Comparison,
    PaintedSet,
    StageCost,
    Table,
    make_table,
    stage_runs,
    write_comparison,
)
from tumorgen_cli.evaluation.evaluate import read_scores
from tumorgen_cli.evaluation.options import ScoreOptions
from tumorgen_cli.evaluation.reports import comparison as comparison_page
from tumorgen_cli.evaluation.scores import Scores
from tumorgen_cli.judge.find import choose_judge, needed_judge
from tumorgen_cli.methods.open import check_preprocessed
from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.pipeline.evaluate import evaluate_sets
from tumorgen_cli.pipeline.plan import plan_dataset
from tumorgen_cli.pipeline.preprocess import preprocess_dataset
from tumorgen_cli.pipeline.synthesize import synthesize_pairs
from tumorgen_cli.planning.options import PlanOptions
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.studies.subsets import subset_workspace
from tumorgen_cli.studies.training_length import TrainingLength, train_within
from tumorgen_cli.synthesis.host_checks import check_sources
from tumorgen_cli.synthesis.logs import read_log
from tumorgen_cli.synthesis.options import (
    CaseGroup,
    HostOptions,
    SetOptions,
    faults_of_cases_alone,
    refuse_host_options,
)
from tumorgen_cli.synthesis.set_files import read_provenance
from tumorgen_cli.synthesis.sources import Source, healthy_sources, redraw_sources
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName
from tumorgen_cli.system.errors import Fault, PlanError, StateError, TumorgenError, one_line
from tumorgen_cli.system.files import file_name
from tumorgen_cli.system.locks import locked
from tumorgen_cli.system.names import inside


@dataclass(frozen=True)
class ComparisonReport:
    """A comparison, and the page and table it was written to."""

    comparison: Comparison
    page: str
    table: str


@dataclass(frozen=True)
class _Place:
    """One kind of hosts: its name, the scans, and the options with which pairs are painted into them."""

    name: str
    sources: tuple[Source, ...]
    hosts: HostOptions


@dataclass(frozen=True)
class ComparisonDesign:
    """What is compared.

    Attributes:
        methods: The methods, in the order of the table.
        pairs: Number of pairs that each method paints into each kind of hosts.
        length: How long a method is trained.
        seed: Seed of the pairs; None: the plan's.
        train_on: A label of the plan, or another data set. Methods then learn only from the cases whose tumors lie in
            that organ, or from that data set, in a workspace of its own. None: they learn from the workspace's cases.
    """

    methods: Sequence[str]
    pairs: int
    length: TrainingLength = TrainingLength()
    seed: int | None = None
    train_on: str | None = None


@dataclass(frozen=True)
class _ScoredPlace:
    """What the methods scored on one kind of hosts; `scores` is None where no method made a set."""

    table: Table
    pictures: tuple[comparison_page.Place, ...] = ()
    reports: dict[str, Path] = field(default_factory=dict)
    scores: Scores | None = None


def compare_methods(
    workspace: Workspace,
    design: ComparisonDesign,
    hosts: HostOptions,
    scoring: ScoreOptions = ScoreOptions(),
    device: DeviceName = "auto",
) -> ComparisonReport:
    """Compare methods: train those that are not trained, paint into the same places, score; write a table and a page.

    A method that fails with an error that the user can correct has a row with that error; the other methods continue.

    Args:
        workspace: The workspace of the data set.
        design: What is compared.
        hosts: What is painted into; with `cases` and `healthy` a table for each.
        scoring: How sets are scored.
        device: Where networks run.

    Raises:
        PlanError: There is nothing to learn from.
        DataError: There is nothing to paint into.
        StateError: No method made a set.
    """
    refuse_host_options(hosts, "healthy", "cases", "paint_in", "host_labels", "tumors", "anywhere", "trust_units")
    if hosts.paint_in is None and (faults := faults_of_cases_alone(hosts)):
        raise PlanError("Options that do not apply", faults)
    if design.train_on is not None:
        scoring = _with_own_judge(workspace, design.train_on, scoring)
        workspace = _workspace_on(workspace, design.train_on, device)
    plan = workspace.plan()
    check_preprocessed(workspace, plan, workspace.splits())
    places = _places(workspace, plan, hosts)
    cases = workspace.fingerprint().of(workspace.splits().train).cases
    for place in places:  # before any training
        check_sources(place.sources[: design.pairs], None, plan, cases, tell=False)
    if scoring.judge is not None:
        needed_judge(workspace, scoring.judge, device)  # a judge with faults stops the command before any training
    seed = plan.seed if design.seed is None else design.seed
    suffix = f"n{design.pairs}" + (f"_seed{seed}" if seed != plan.seed else "")
    suffix += "" if hosts.tumors is None else f"_tumors{hosts.tumors}"
    suffix += "_anywhere" if hosts.anywhere else ""
    sets, failures = _paint(workspace, design, places, suffix, device, seed)
    scored = [
        _score_place(workspace, design, place, sets[place.name], failures[place.name], scoring, device, seed)
        for place in places
    ]
    known = [each.scores for each in scored if each.scores is not None]
    if not known:
        faults = [fault for error in failures[places[0].name].values() for fault in error.faults]
        raise StateError("No method made a set", faults)
    name = "_".join(["+".join(design.methods), *(place.name for place in places), suffix])
    result = Comparison(
        name=name,
        dataset=plan.dataset,
        plan_hash=plan.hash,
        seed=seed,
        budget=design.length.words,
        channel=known[-1].channel,
        judge=known[-1].judge_facts.words if known[-1].judge else "",
        features=known[-1].features,
        is_fid=known[-1].is_fid,
        tolerance_mm=known[-1].tolerance_mm,
        training=_training_cost(workspace, plan, design.methods),
        tables=tuple(each.table for each in scored),
    )
    return _write(workspace.root / "comparison" / name, result, scored)


def _with_own_judge(workspace: Workspace, train_on: str, scoring: ScoreOptions) -> ScoreOptions:
    """Keep the workspace's own judge for a workspace of one organ: it learned from tumors of every organ."""
    if scoring.judge is not None or train_on not in workspace.plan().labels:
        return scoring
    own = choose_judge(workspace, None).folder == workspace.judge
    return replace(scoring, judge=workspace.judge) if own else scoring


def _score_place(
    workspace: Workspace,
    design: ComparisonDesign,
    place: _Place,
    made: Mapping[str, Path],
    failed: Mapping[str, TumorgenError],
    scoring: ScoreOptions,
    device: DeviceName,
    seed: int,
) -> _ScoredPlace:
    """Score the sets of one kind of hosts, make their table and draw the places they share."""
    reasons = {method: one_line(error) for method, error in failed.items()}
    if not made:
        return _ScoredPlace(make_table(place.name, design.pairs, design.methods, {}, reasons))
    evaluated = evaluate_sets(workspace, list(made.values()), scoring, device, seed)
    files = {source.name: source.files for source in place.sources}
    painted = {}
    for method, folder in made.items():
        scores = read_scores(workspace.evaluation(folder.name) / "scores.json")
        painted[method] = PaintedSet(folder, scores, read_provenance(folder), read_log(folder, "given_up"))
    return _ScoredPlace(
        table=make_table(place.name, design.pairs, design.methods, painted, reasons),
        pictures=tuple(comparison_page.draw_places(workspace.plan(), made, files)),
        reports={str(folder): Path(each.page) for folder, each in zip(made.values(), evaluated, strict=True)},
        scores=scores,
    )


def _training_cost(workspace: Workspace, plan: Plan, methods: Sequence[str]) -> dict[str, tuple[StageCost, ...]]:
    """Read what the trained stages of each method cost."""
    costs = {}
    for name in methods:
        method = find_method(name)(plan, workspace)
        planned = {stage: method.planned_iterations(stage) for stage in method.stages if method.trained(stage)}
        costs[name] = stage_runs({stage: method.folder(stage) for stage in planned}, planned)
    return costs


def _write(folder: Path, result: Comparison, scored: Sequence[_ScoredPlace]) -> ComparisonReport:
    """Write the tables and the page of a comparison."""
    pictures = {each.table.hosts: each.pictures for each in scored}
    reports = {folder: page for each in scored for folder, page in each.reports.items()}
    with locked(folder, "compare"):
        write_comparison(folder, result)
        comparison_page.write_page(folder / "comparison.html", result, pictures, reports)
    return ComparisonReport(result, str(folder / "comparison.html"), str(folder / "comparison.csv"))


def _workspace_on(workspace: Workspace, train_on: str, device: DeviceName) -> Workspace:
    """Return the workspace for what `train_on` names, planned and preprocessed.

    Raises:
        StateError: The folder is a workspace of another data set with the same folder name.
    """
    plan, folder = workspace.plan(), workspace.root / "train_on"
    if train_on in plan.labels:
        dataset = read_dataset(find_dataset(plan.dataset_path), plan.tumor_name)
        cases = select_organ_cases(dataset, train_on, workspace.splits().train)
        inner_folder = inside(folder, train_on.replace(" ", "_"), f"{plan.dataset}: labels", "rename the label")
        return subset_workspace(workspace, cases, inner_folder, device)
    path = find_dataset(train_on)
    inner = Workspace(folder / path.name)
    if not inner.plan_file.is_file():  # an existing plan stays: the user may have changed it
        plan_dataset(inner, str(path), PlanOptions(memory_gib=plan.memory_gib, seed=plan.seed), device)
    elif Path(inner.plan().dataset_path).resolve() != path.resolve():
        remedy = f"rename one of the data sets, or delete {inner.root}"
        fault = Fault(str(inner.root), f"a workspace of {inner.plan().dataset_path}", f"one of {path}", remedy)
        raise StateError("A workspace belongs to another data set", [fault])
    preprocess_dataset(inner)
    return inner


def _only(hosts: HostOptions, healthy: Path | None = None, cases: CaseGroup | None = None) -> HostOptions:
    """Return the options for one kind of hosts; for healthy scans, also where tumors lie and the trust."""
    scans = cases is None
    anywhere, trust_units = hosts.anywhere and scans, hosts.trust_units and scans
    return HostOptions(healthy, cases, tumors=hosts.tumors, anywhere=anywhere, trust_units=trust_units)


def _places(workspace: Workspace, plan: Plan, hosts: HostOptions) -> list[_Place]:
    """List every requested kind of hosts, in the order of the tables."""
    found = []
    if hosts.cases:
        found.append(
            _Place(hosts.cases, tuple(redraw_sources(workspace, plan, hosts.cases)), _only(hosts, cases=hosts.cases))
        )
    if hosts.paint_in is not None and hosts.host_labels is None:
        path = find_dataset(hosts.paint_in)
        healthy = write_tumor_free_subset(path, workspace.root / "paint_in" / path.name, plan.tumor_name)
        found.append(_Place(path.name, tuple(healthy_sources(plan, healthy, None)), _only(hosts, healthy=healthy)))
    elif hosts.healthy is not None or not hosts.cases:
        name = hosts.healthy.resolve().name if hosts.healthy else ""
        name = f"{name}_scans" if name == hosts.cases else name
        name = file_name(f"{name}_in_{hosts.paint_in}") if hosts.paint_in else name
        sources = tuple(healthy_sources(plan, hosts.healthy, hosts.host_labels, hosts.paint_in))
        found.append(_Place(name, sources, replace(hosts, cases=None)))
    return found


def _paint(
    workspace: Workspace,
    design: ComparisonDesign,
    places: Sequence[_Place],
    suffix: str,
    device: DeviceName,
    seed: int,
) -> tuple[dict[str, dict[str, Path]], dict[str, dict[str, TumorgenError]]]:
    """Train every method and paint its sets; return the sets and the errors, both by place and method."""
    sets: dict[str, dict[str, Path]] = {place.name: {} for place in places}
    failures: dict[str, dict[str, TumorgenError]] = {place.name: {} for place in places}
    for number, method in enumerate(design.methods, 1):
        console.headline(f"{number}/{len(design.methods)} {method}")
        try:
            train_within(workspace, method, design.length, device)
        except TumorgenError as error:
            console.warn(f"{method}: {one_line(error)}")
            for each in failures.values():
                each[method] = error
            continue
        for place in places:
            folder = workspace.synthetic(f"{method}_{place.name}_{suffix}")
            try:
                synthesize_pairs(workspace, method, SetOptions(design.pairs, folder, seed), place.hosts, device=device)
                sets[place.name][method] = folder
            except TumorgenError as error:
                console.warn(f"{method}: {one_line(error)}")
                failures[place.name][method] = error
    return sets, failures
