"""Methods side by side: the same training budget, hosts, places, seeds and scores for each; one table and one page.

Reads a workspace, hosts and, where another data set is learnt from or painted in, that. Writes `synthetic/`, `evaluation/` and
`comparison/` of the workspace (`train_on/<name>/` is a workspace below it, for what `--train-on` names; `paint_in/<name>/` holds the
tumor-free cases of the data set that `--paint-in` names).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tumorgen_cli.data.dataset import find_dataset, read_dataset
from tumorgen_cli.data.subsets import select_organ_cases, write_tumor_free_subset
from tumorgen_cli.evaluation.comparison import Comparison, Painted, make_table, stage_runs, write_comparison
from tumorgen_cli.evaluation.evaluate import read_scores
from tumorgen_cli.evaluation.reports import comparison as comparison_page
from tumorgen_cli.judge.find import find_judge
from tumorgen_cli.methods.open import check_preprocessed
from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.pipeline.evaluate import FEATURES, evaluate_sets
from tumorgen_cli.pipeline.plan import plan_dataset
from tumorgen_cli.pipeline.preprocess import preprocess_dataset
from tumorgen_cli.pipeline.synthesize import synthesize
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.studies.subsets import subset_workspace
from tumorgen_cli.studies.training_length import TrainingLength, train_within
from tumorgen_cli.synthesis.places import Source, healthy_sources, redraw_sources
from tumorgen_cli.synthesis.set_files import read_provenance
from tumorgen_cli.synthesis.shards import read_log
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName
from tumorgen_cli.system.errors import Fault, StateError, TumorgenError, one_line
from tumorgen_cli.system.locks import locked


@dataclass(frozen=True)
class Hosts:
    """What is painted into: scans, or a split's own cases; a label of the scans alone, with their label files; or the
    tumor-free cases of another data set."""

    healthy: Path | None = None
    cases: str | None = None
    paint_in: str | None = None
    host_labels: Path | None = None


@dataclass(frozen=True)
class Scoring:
    """How sets are scored: see `pipeline.evaluate_sets`."""

    judge: Path | None = None
    features: str = FEATURES[0]
    inception: Path | None = None


@dataclass(frozen=True)
class ComparisonReport:
    """A comparison, and the page and tables it was written to."""

    comparison: Comparison
    page: str
    table: str


@dataclass(frozen=True)
class _Place:
    """One kind of hosts: its name, the scans, and how `pipeline.synthesize` is told of them."""

    name: str
    sources: tuple[Source, ...]
    options: dict[str, object]


def compare_methods(
    workspace: Workspace,
    methods: Sequence[str],
    pairs: int,
    hosts: Hosts,
    budget: TrainingLength = TrainingLength(),
    scoring: Scoring = Scoring(),
    device: DeviceName = "auto",
    seed: int | None = None,
    train_on: str | None = None,
) -> ComparisonReport:
    """Trains what is not trained, paints into the same places with every method, scores, and writes one table and one page.

    With `train_on`, a label of the plan's names or another data set, methods learn from the cases whose tumors lie in that organ,
    or from that data set, in a workspace of its own. A method that fails with an error a user is told is a row that
    says so; the others go on.

    Raises:
        PlanError, DataError: there is nothing to learn from or to paint into. StateError: no method came to a set.
    """
    if train_on is not None:
        if scoring.judge is None and train_on in workspace.plan().labels:
            own = find_judge(workspace, None, device)
            if own is not None and own.folder == workspace.judge:  # it knows these tumors in every organ
                scoring = replace(scoring, judge=own.folder)
        workspace = _workspace_on(workspace, train_on, device)
    plan = workspace.plan()
    check_preprocessed(workspace, plan, workspace.splits())
    places = _places(workspace, plan, hosts)
    if scoring.judge is not None:
        find_judge(workspace, scoring.judge, device)  # a wrong one is told before anything is trained
    seed = plan.seed if seed is None else seed
    own = f"n{pairs}" + (f"_seed{seed}" if seed != plan.seed else "")
    sets, failures = _paint(workspace, methods, pairs, places, own, budget, device, seed)
    tables, reports, pictures, scores = [], {}, {}, None
    for place in places:
        made, failed = sets[place.name], failures[place.name]
        if made:
            scored = evaluate_sets(
                workspace, list(made.values()), scoring.judge, device, scoring.features, scoring.inception, seed
            )
            reports |= {str(folder): Path(each.page) for folder, each in zip(made.values(), scored, strict=True)}
            pictures[place.name] = comparison_page.draw_places(
                plan, made, {source.name: source.files for source in place.sources}
            )
        found = {}
        for method, folder in made.items():
            scores = read_scores(workspace.evaluation(folder.name) / "scores.json")
            found[method] = Painted(folder, scores, read_provenance(folder), read_log(folder, "given_up"))
        tables.append(make_table(place.name, pairs, methods, found, {m: one_line(e) for m, e in failed.items()}))
    if scores is None:
        raise StateError(
            "No method came to a set", [f for error in failures[places[0].name].values() for f in error.faults]
        )
    training = {}
    for name in methods:
        method = find_method(name)(plan, workspace)
        planned = {stage: method.planned_iterations(stage) for stage in method.stages if method.trained(stage)}
        training[name] = stage_runs({stage: method.folder(stage) for stage in planned}, planned)
    result = Comparison(
        "_".join(["+".join(methods), *(place.name for place in places), own]),
        plan.dataset,
        plan.hash,
        seed,
        budget.words,
        scores.channel,
        scores.judge,
        scores.features,
        scores.is_fid,
        scores.tolerance_mm,
        training,
        tuple(tables),
    )
    folder = workspace.root / "comparison" / result.name
    with locked(folder, "compare"):
        write_comparison(folder, result)
        comparison_page.write_page(folder / "comparison.html", result, pictures, reports)
    return ComparisonReport(result, str(folder / "comparison.html"), str(folder / "comparison.csv"))


def _workspace_on(workspace: Workspace, train_on: str, device: DeviceName) -> Workspace:
    """The workspace for what `train_on` names, planned and preprocessed.

    Raises:
        StateError: it is planned for another data set whose folder has the same name.
    """
    plan, folder = workspace.plan(), workspace.root / "train_on"
    if train_on in plan.labels:
        dataset = read_dataset(find_dataset(plan.dataset_path), plan.tumor_name)
        cases = select_organ_cases(dataset, train_on, workspace.splits().train)
        return subset_workspace(workspace, cases, folder / train_on.replace(" ", "_"), device)
    path = find_dataset(train_on)
    inner = Workspace(folder / path.name)
    if not inner.plan_file.is_file():  # else it stays: a user may have planned it otherwise
        plan_dataset(inner, str(path), None, device, plan.memory_gib, seed=plan.seed)
    elif Path(inner.plan().dataset_path).resolve() != path.resolve():
        remedy = f"rename one of the data sets, or delete {inner.root}"
        fault = Fault(str(inner.root), f"a workspace of {inner.plan().dataset_path}", f"one of {path}", remedy)
        raise StateError("Another data set was learnt from there", [fault])
    preprocess_dataset(inner)
    return inner


def _places(workspace: Workspace, plan: Plan, hosts: Hosts) -> list[_Place]:
    """Every kind of hosts that was asked for, in the order of the tables."""
    found = []
    if hosts.cases:
        found.append(_Place(hosts.cases, tuple(redraw_sources(workspace, plan, hosts.cases)), {"cases": hosts.cases}))
    if hosts.paint_in is not None and hosts.host_labels is None:
        path = find_dataset(hosts.paint_in)
        healthy = write_tumor_free_subset(path, workspace.root / "paint_in" / path.name, plan.tumor_name)
        found.append(_Place(path.name, tuple(healthy_sources(plan, healthy, None)), {"healthy": healthy}))
    elif hosts.healthy is not None or not hosts.cases:
        name = hosts.healthy.resolve().name if hosts.healthy else ""
        name = f"{name}_scans" if name == hosts.cases else name
        name = f"{name}_in_{hosts.paint_in}" if hosts.paint_in else name
        sources = tuple(healthy_sources(plan, hosts.healthy, hosts.host_labels, hosts.paint_in))
        found.append(
            _Place(name, sources, {"healthy": hosts.healthy, "roi": hosts.host_labels, "paint_in": hosts.paint_in})
        )
    return found


def _paint(
    workspace: Workspace,
    methods: Sequence[str],
    pairs: int,
    places: Sequence[_Place],
    own: str,
    budget: TrainingLength,
    device: DeviceName,
    seed: int,
) -> tuple[dict[str, dict[str, Path]], dict[str, dict[str, TumorgenError]]]:
    """The sets by place and method, and what went wrong."""
    sets: dict[str, dict[str, Path]] = {place.name: {} for place in places}
    failures: dict[str, dict[str, TumorgenError]] = {place.name: {} for place in places}
    for number, method in enumerate(methods, 1):
        console.headline(f"{number}/{len(methods)} {method}")
        try:
            train_within(workspace, method, budget, device)
        except TumorgenError as error:
            console.warn(f"{method}: {one_line(error)}")
            for each in failures.values():
                each[method] = error
            continue
        for place in places:
            folder = workspace.synthetic(f"{method}_{place.name}_{own}")
            try:
                synthesize(workspace, method, pairs, out=folder, device=device, seed=seed, **place.options)  # type: ignore[arg-type]
                sets[place.name][method] = folder
            except TumorgenError as error:
                console.warn(f"{method}: {one_line(error)}")
                failures[place.name][method] = error
    return sets, failures
