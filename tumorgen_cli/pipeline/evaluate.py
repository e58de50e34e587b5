"""Stage `evaluate`: synthetic sets -> scores and one HTML page for each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tumorgen_cli.evaluation.options import FEATURES, ScoreOptions
from tumorgen_cli.evaluation.reports.pages import number
from tumorgen_cli.figures import tumor_unit
from tumorgen_cli.judge.find import WEAK_JUDGE, Choice, choose_judge, judge_facts, load_judge, no_judge_words
from tumorgen_cli.pipeline.sets import finished_sets
from tumorgen_cli.planning.planned_data import read_planned_dataset
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.synthesis.set_files import read_shortfalls
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName, find_device
from tumorgen_cli.system.errors import PlanError, abbreviate_list
from tumorgen_cli.system.json_records import unknown_name_fault
from tumorgen_cli.system.locks import locked

if TYPE_CHECKING:
    from tumorgen_cli.evaluation.evaluate import ScoringJudge
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
    from tumorgen_cli.evaluation.cases import one_scan_per_host, real_tumors, synthetic_cases
    from tumorgen_cli.evaluation.evaluate import evaluate_set, evaluation_steps
    from tumorgen_cli.evaluation.reports.one_set import write_page
    from tumorgen_cli.evaluation.set_card import write_card

    plan, folders = workspace.plan(), finished_sets(workspace, sets)
    read_planned_dataset(workspace, plan)
    seed = plan.seed if seed is None else seed
    real = real_tumors(plan, workspace.fingerprint(), workspace.splits())
    cases = [synthetic_cases(plan, folder) for folder in folders]  # a set with faults stops the command here
    choices = [choose_judge(workspace, scoring.judge, one_scan_per_host(pairs)) for pairs in cases]
    judges = {choice: _load_judge(workspace, choice, device) for choice in dict.fromkeys(choices)}
    network = find_features(scoring, device)
    scored = []
    for folder, choice in zip(folders, choices, strict=True):
        out, steps = workspace.evaluation(folder.name), evaluation_steps(folder, real)
        if choice.folder is None:
            console.warn(f"{folder.name}: {no_judge_words(choice)}")
        with locked(out, "evaluate"), console.progress(f"scoring {folder.name}", steps) as tick:
            scored.append(evaluate_set(plan, real, folder, out, judges[choice], network, seed, tick))
    reports, weak_sets = [], {}
    for folder, scores in zip(folders, scored, strict=True):
        others = [other for other in scored if other is not scores]
        page, verdict = write_page(plan, real, folder, workspace.evaluation(folder.name), scores, others)
        write_card(folder, plan, scores, workspace.evaluation(folder.name))
        weak = read_shortfalls(folder)
        weak_sets[folder.name] = weak
        rows = (("verdict", verdict.text), *(("weights", text) for text in weak), *_score_rows(scores))
        reports.append(ScoreReport(folder.name, str(page), rows))
    _warn_of_weights(weak_sets)
    return tuple(reports)


def _warn_of_weights(weak: Mapping[str, Sequence[str]]) -> None:
    """Warn of what was too weak about the weights that painted sets, each text once; `weak` has the texts by set."""
    for text in dict.fromkeys(text for texts in weak.values() for text in texts):
        console.warn(f"{abbreviate_list([name for name, texts in weak.items() if text in texts])}: {text}")


def _load_judge(workspace: Workspace, choice: Choice, device: DeviceName) -> ScoringJudge:
    """The judge of a choice, with its predictions of this workspace's scans."""
    from tumorgen_cli.evaluation.evaluate import ScoringJudge
    from tumorgen_cli.evaluation.measure import cache_folder
    from tumorgen_cli.judge.predictions import Predictions

    if choice.folder is None:
        return ScoringJudge(None, reason=no_judge_words(choice))
    judge = load_judge(workspace, choice, device)
    facts = judge_facts(judge, choice.title)
    if not facts.is_trained:
        return ScoringJudge(None, reason=f"{facts.words}: {facts.caution}; {WEAK_JUDGE}")
    return ScoringJudge(Predictions(judge, cache_folder(workspace.evaluation("any"))), facts)


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
    distances = [*_distance_rows(scores), *_radiomics_rows(scores)]
    return [*_agreement_rows(scores), *_trait_rows(scores), *distances, *_reader_rows(scores)]


def _agreement_rows(scores: Scores) -> list[tuple[str, str]]:
    """Agreement with the judge, and which judge it is."""
    if not scores.judge:
        return [("agreement", scores.no_judge)]
    facts = scores.judge_facts
    titles = {
        "dice": "agreement DSC",
        "surface_dice": f"agreement NSD at {scores.tolerance_mm} mm",
        "proportion": "P, share of the mask found",
    }
    rows = [("judge", facts.words + (f" ({facts.caution})" if facts.caution else ""))]
    return rows + [
        (f"{titles[m.field]} [95 % interval]", f"{m.synthetic.text}; real held-out cases {m.real.text}")
        for m in scores.agreement.measures
    ]


def _trait_rows(scores: Scores) -> list[tuple[str, str]]:
    """Traits of the tumors, beside those of the training cases."""
    rows = []
    for c in scores.comparisons:
        unit = c.unit.replace("scan", tumor_unit(scores.channel))
        ours, theirs = _number(c.synthetic.median, f" {unit}".rstrip()), _number(c.training.median)
        held_out = _number(c.held_out.median)
        rows.append((f"{c.title}, median", f"{ours}; training {theirs}; held-out {held_out}; KS {_number(c.ks)}"))
    if scores.redrawn.volume.count:
        value = f"{scores.redrawn.volume.median:.2f}; tumors: {scores.redrawn.volume.count}"
        rows.append(("volume of a redrawn tumor over the old one's, median", value))
    for s in scores.redrawn.strata[:1]:
        rows.append(("DSC of a redrawn tumor less the old one's [95 % interval]", s.dice.text))
        rows.append(("NSD of a redrawn tumor less the old one's [95 % interval]", s.surface_dice.text))
    p = scores.places
    shares = f"{_number(p.synthetic)}; training {_number(p.training)}; held-out {_number(p.held_out)}"
    rows.append(("share with surroundings outside the training tumors' 5th to 95th percentile", shares))
    return rows + [
        (f"share of {s.kind} tumors", f"{_number(s.synthetic)}; training {_number(s.training)}") for s in scores.shares
    ]


def _distance_rows(scores: Scores) -> list[tuple[str, str]]:
    """Distances between synthetic and real slices, beside those between real slices."""
    if not scores.planes:
        return [("distances to real slices", "not measured: they need two pairs and two training tumors")]
    rows = [("features of the distances", scores.features_words)]
    for p in scores.planes:
        if p.place == "tumor" or p.plane == "all":
            few = f"undefined: {p.matched.counts[0]} and {p.matched.counts[1]} scans are too few"
            real = f"undefined: {p.floor.counts[0]} and {p.floor.counts[1]} real scans are too few"
            if math.isfinite(p.floor.value):
                real = f"{number(p.floor.value)} [{number(p.floor.low)}, {number(p.floor.high)}]"
            value = f"{_number(p.matched.value, missing=few)}; real-real {real}"
            unclear = p.unclear and math.isfinite(p.matched.value) and math.isfinite(p.floor.value)
            name = f"{p.measure} distance, {p.plane}, {p.place} slice"
            rows.append((name, value + " (too few to tell)" * unclear))
    return rows


def _radiomics_rows(scores: Scores) -> list[tuple[str, str]]:
    """How far the radiomics of painted tumors are from those of real ones, and how many of these they cover."""
    titles = {"frechet": "Fréchet radiomics distance", "coverage": "coverage of real tumors by radiomics"}
    rows = []
    for each in scores.radiomics:
        few = f"undefined: {each.matched.counts[0]} and {each.matched.counts[1]} tumors are too few"
        unclear = " (too few to tell)" if math.isfinite(each.matched.value) and each.unclear else ""
        value = f"{_number(each.matched.value, missing=few)}; real-real {_number(each.floor.value)}{unclear}"
        rows.append((titles[each.measure], value))
    return rows


def _reader_rows(scores: Scores) -> list[tuple[str, str]]:
    """The reader test by a classifier, and near-copies of training tumors."""
    reader, new = scores.reader, scores.novelty
    auc = reader.reason or f"{reader.auc:.3f} [{reader.low:.3f}, {reader.high:.3f}]"
    rows = [("AUC of the machine's reader test", auc)]
    rows += [("given away by", give_away.words) for give_away in reader.give_aways[:3]]
    none = "none to measure"
    nearest = (
        f"distance to the nearest training lesion {_number(new.synthetic.median, missing=none)}, "
        f"held-out cases {_number(new.held_out.median, missing=none)}"
    )
    copies = f"{_number(new.near_copies)}, of them singled out {_number(new.singled_out)}; {nearest}"
    return [*rows, ("near-copies", new.reason or copies)]


def _number(value: float, unit: str = "", missing: str = "undefined (no case has a value)") -> str:
    """A number with three digits and its unit, or why it is missing."""
    return f"{number(value)}{unit}" if math.isfinite(value) else missing
