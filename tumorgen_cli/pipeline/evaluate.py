"""Stage `evaluate`: synthetic sets -> scores and one HTML page for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tumorgen_cli.evaluation.options import FEATURES, ScoreOptions
from tumorgen_cli.figures import tumor_unit
from tumorgen_cli.judge.find import find_judge
from tumorgen_cli.pipeline.sets import finished_sets
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName, find_device
from tumorgen_cli.system.errors import PlanError
from tumorgen_cli.system.json_records import unknown_name_fault
from tumorgen_cli.system.locks import locked

if TYPE_CHECKING:
    from tumorgen_cli.evaluation.scores import Scores
    from tumorgen_cli.metrics.feature_networks import Network


@dataclass(frozen=True)
class ScoreReport:
    """The scores of one set as rows to print; the page and the files beside it hold more."""

    name: str
    page: str
    rows: tuple[tuple[str, str], ...]


def evaluate_sets(
    workspace: Workspace,
    sets: Sequence[Path] = (),
    scoring: ScoreOptions = ScoreOptions(),
    device: DeviceName = "auto",
    seed: int | None = None,
) -> tuple[ScoreReport, ...]:
    """Score synthetic sets and write one page for each, which shows the other sets beside its own numbers.

    Args:
        workspace: Where the real data, the sets and the scores lie.
        sets: Folders, or names in the workspace. None given: every finished set of the workspace.
        scoring: What the pairs are scored with.
        device: Where to compute.
        seed: Seed of the scores. None: the plan's.
    """
    from tumorgen_cli.evaluation.cases import real_tumors, synthetic_cases
    from tumorgen_cli.evaluation.evaluate import evaluate_set, evaluation_steps
    from tumorgen_cli.evaluation.reports.one_set import write_page

    plan, folders = workspace.plan(), finished_sets(workspace, sets)
    seed = plan.seed if seed is None else seed
    real = real_tumors(plan, workspace.fingerprint(), workspace.splits())
    for folder in folders:
        synthetic_cases(plan, folder)  # a set with faults stops the command before any set is scored
    judge, network = find_judge(workspace, scoring.judge, device), find_features(scoring, device)
    scored = []
    for folder in folders:
        out, steps = workspace.evaluation(folder.name), evaluation_steps(folder, real)
        with locked(out, "evaluate"), console.progress(f"scoring {folder.name}", steps) as tick:
            scored.append(evaluate_set(plan, real, folder, out, judge, network, seed, tick))
    reports = []
    for folder, scores in zip(folders, scored, strict=True):
        others = [other for other in scored if other is not scores]
        page = write_page(plan, real, folder, workspace.evaluation(folder.name), scores, others)
        reports.append(ScoreReport(folder.name, str(page), tuple(_score_rows(scores))))
    return tuple(reports)


def find_features(scoring: ScoreOptions, device: DeviceName) -> Network:
    """The feature network of the distances.

    Raises:
        PlanError: no feature network has this name.
    """
    from tumorgen_cli.metrics import feature_networks

    if scoring.features == "filters":
        return feature_networks.hand_made()
    if scoring.features == "inception":
        return feature_networks.inception(find_device(device), scoring.inception)
    if scoring.features == "lite0":
        return feature_networks.lite0(find_device(device))
    raise PlanError("No such features", [unknown_name_fault("--features", scoring.features, FEATURES)])


def _score_rows(scores: Scores) -> list[tuple[str, str]]:
    """The rows of a report: what was measured, and its value."""
    return [*_agreement_rows(scores), *_trait_rows(scores), *_distance_rows(scores), *_reader_rows(scores)]


def _agreement_rows(scores: Scores) -> list[tuple[str, str]]:
    """Agreement with the judge; no row without a judge."""
    if not scores.judge:
        return []
    titles = {
        "dice": "agreement DSC",
        "surface_dice": f"agreement NSD at {scores.tolerance_mm} mm",
        "proportion": "P, share of the mask found",
    }
    return [
        (f"{titles[m.field]} [95 % interval]", f"{m.synthetic.text}; real held-out cases {m.real.text}")
        for m in scores.agreement.measures
    ]


def _trait_rows(scores: Scores) -> list[tuple[str, str]]:
    """Traits of the tumors, beside those of the training cases."""
    rows = []
    for c in scores.comparisons:
        unit = c.unit.replace("scan", tumor_unit(scores.channel))
        value = f"{c.synthetic.median:.3g} {unit}; training {c.training.median:.3g}; KS {c.ks:.3f}"
        rows.append((f"{c.title}, median", value))
    if scores.redrawn_volume.count:
        value = f"{scores.redrawn_volume.median:.2f}; pairs: {scores.redrawn_volume.count}"
        rows.append(("volume of a redrawn tumor over the old one's, median", value))
    return rows + [
        (f"share of {s.kind} tumors", f"{s.synthetic:.2f}; training {s.training:.2f}") for s in scores.shares
    ]


def _distance_rows(scores: Scores) -> list[tuple[str, str]]:
    """Distances between synthetic and real slices, beside those between real slices."""
    rows = []
    for p in scores.planes:
        if p.place == "tumor" or p.plane == "all":
            value = f"{p.matched.value:.3g}; real-real {p.floor.value:.3g} [{p.floor.low:.3g}, {p.floor.high:.3g}]"
            name = f"{p.measure} distance ({scores.features}), {p.plane}, {p.place} slice"
            rows.append((name, value + " (too few to tell)" * p.unclear))
    return rows


def _reader_rows(scores: Scores) -> list[tuple[str, str]]:
    """The reader test by a classifier, and near-copies of training tumors."""
    reader, new = scores.reader, scores.novelty
    auc = reader.reason or f"{reader.auc:.3f} [{reader.low:.3f}, {reader.high:.3f}]"
    rows = [("AUC of the machine's reader test", auc)]
    rows += [("given away by", give_away.words) for give_away in reader.give_aways[:3]]
    nearest = (
        f"distance to the nearest training lesion {new.synthetic.median:.3f}, held-out cases {new.held_out.median:.3f}"
    )
    copies = new.reason or f"{new.near_copies:.0f}, of them singled out {new.singled_out:.0f}; {nearest}"
    return [*rows, ("near-copies", copies)]
