"""Stage `evaluate`: synthetic sets -> scores and one HTML page each. Also `filter`: the pairs that a judge agrees with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tumorgen_cli.figures import tumor_unit
from tumorgen_cli.judge.find import find_judge, needed_judge
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.synthesis.shards import Shard
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName, find_device
from tumorgen_cli.system.errors import Fault, PlanError, StateError
from tumorgen_cli.system.json_records import read_plain, unknown_name_fault
from tumorgen_cli.system.locks import locked

if TYPE_CHECKING:
    from tumorgen_cli.evaluation.filter import Filtered
    from tumorgen_cli.metrics.feature_networks import Network


#: feature networks of the distances, the default first
FEATURES = ("lite0", "filters", "inception")


@dataclass(frozen=True)
class ScoreReport:
    """The scores of one set as rows to print; the page and the numbers beside it hold more."""

    name: str
    page: str
    rows: tuple[tuple[str, str], ...]


def evaluate_sets(
    workspace: Workspace,
    synthetic: Sequence[Path] = (),
    judge: Path | None = None,
    device: DeviceName = "auto",
    features: str = FEATURES[0],
    inception: Path | None = None,
    seed: int | None = None,
) -> tuple[ScoreReport, ...]:
    """Scores the given sets, or every set of the workspace; each page has the others beside its own numbers."""
    from tumorgen_cli.evaluation.cases import real_tumors, synthetic_cases
    from tumorgen_cli.evaluation.evaluate import evaluate_set, evaluation_steps
    from tumorgen_cli.evaluation.reports.one_set import write_page

    plan, folders = workspace.plan(), _finished_sets(workspace, synthetic)
    real = real_tumors(plan, workspace.fingerprint(), workspace.splits())
    for folder in folders:
        synthetic_cases(plan, folder)  # what is wrong with any of them is told before the first is scored
    model, network = find_judge(workspace, judge, device), find_features(features, device, inception)
    scored = []
    for folder in folders:
        out = workspace.evaluation(folder.name)
        with (
            locked(out, "evaluate"),
            console.progress(f"scoring {folder.name}", evaluation_steps(folder, real)) as tick,
        ):
            scored.append(
                evaluate_set(plan, real, folder, out, model, network, plan.seed if seed is None else seed, tick)
            )
    reports = []
    for folder, scores in zip(folders, scored, strict=True):
        others = [other for other in scored if other is not scores]
        page = write_page(plan, real, folder, workspace.evaluation(folder.name), scores, others)
        reports.append(ScoreReport(folder.name, str(page), tuple(_score_rows(scores))))
    return tuple(reports)


def _finished_sets(workspace: Workspace, given: Sequence[Path]) -> list[Path]:
    """The given sets, or every finished one of the workspace that holds a pair.

    Raises:
        StateError: there is none; sets of one name, whose scores would lie in one place.
    """
    folders = [_find_set(workspace, folder) for folder in given]
    for folder in () if given else sorted(path.parent for path in workspace.root.glob("synthetic/*/dataset.json")):
        if read_plain(folder / "dataset.json", "delete the set")["numTraining"]:
            folders.append(folder)
        else:
            console.note(f"{folder.name} holds no pair and is left out")
    names = [folder.name for folder in folders]
    twice = [folder for folder in folders if names.count(folder.name) > 1]
    faults = [
        Fault(str(folder), "another set of that name", "a name of its own", "rename one of them") for folder in twice
    ]
    if faults:
        raise StateError("Sets of one name", faults)
    if not folders:
        fault = Fault(
            str(workspace.root / "synthetic"),
            "no finished set",
            "one or more",
            "run `tumorgen synthesize --healthy DIR`",
        )
        raise StateError("There are no pairs", [fault])
    return folders


def _find_set(workspace: Workspace, given: Path) -> Path:
    """The folder of a set, by its path or by its name in the workspace."""
    for folder in (given.resolve(), workspace.synthetic(given.name)):
        if (folder / "provenance.jsonl").is_file():
            return folder
    known = (
        ", ".join(sorted(path.parent.name for path in workspace.root.glob("synthetic/*/dataset.json"))) or "none yet"
    )
    remedy = "correct the path or name, or run `tumorgen synthesize --healthy DIR`"
    raise StateError(
        "No such set",
        [Fault(str(given), "no synthetic set", f"a set's folder, or a name in the workspace ({known})", remedy)],
    )


def find_features(name: str, device: DeviceName, inception: Path | None = None) -> Network:
    """The feature network of a name in `FEATURES`."""
    from tumorgen_cli.metrics import feature_networks

    if name not in FEATURES:
        raise PlanError("No such features", [unknown_name_fault("--features", name, FEATURES)])
    if name == "filters":
        return feature_networks.hand_made()
    return (
        feature_networks.inception(find_device(device), inception)
        if name == "inception"
        else feature_networks.lite0(find_device(device))
    )


def filter_pairs(
    workspace: Workspace,
    set_folder: Path,
    keep: float,
    judge: Path | None,
    out: Path | None,
    device: DeviceName,
    shard: Shard | None = None,
) -> Filtered:
    """The pairs of a set of which the judge finds the share `keep` of the mask, as a set of their own.

    With `shard` only that part of the pairs is judged; the shard that finishes last finishes the set.
    """
    from tumorgen_cli.evaluation.filter import filter_set, own_pairs
    from tumorgen_cli.evaluation.measure import cache_of
    from tumorgen_cli.synthesis.set_files import read_provenance

    set_folder = _find_set(workspace, set_folder)
    count = len(own_pairs(read_provenance(set_folder), shard))
    model = needed_judge(workspace, judge, device)
    folder = out or set_folder.parent / f"{set_folder.name}_kept"
    cache = cache_of(workspace.evaluation(set_folder.name))
    with locked(folder, "filter", shard and shard.name), console.progress("asking the judge", count) as tick:
        return filter_set(workspace.plan(), set_folder, folder, cache, model, keep, tick, shard)


def _score_rows(scores: Any) -> list[tuple[str, str]]:
    rows = []
    if scores.judge:
        titles = {
            "dice": "agreement DSC",
            "surface_dice": f"agreement NSD at {scores.tolerance_mm} mm",
            "proportion": "P, share of the mask found",
        }
        rows += [
            (f"{titles[m.field]} [95 % interval]", f"{m.synthetic.text}; real held-out cases {m.real.text}")
            for m in scores.agreement.measures
        ]
    for c in scores.comparisons:
        unit = c.unit.replace("scan", tumor_unit(scores.channel))
        rows.append(
            (f"{c.title}, median", f"{c.synthetic.median:.3g} {unit}; training {c.training.median:.3g}; KS {c.ks:.3f}")
        )
    if scores.redrawn_volume.count:
        told = f"{scores.redrawn_volume.median:.2f}; pairs: {scores.redrawn_volume.count}"
        rows.append(("volume of a redrawn tumor over the old one's, median", told))
    rows += [(f"share of {s.kind} tumors", f"{s.synthetic:.2f}; training {s.training:.2f}") for s in scores.shares]
    for p in scores.planes:
        if p.place == "tumor" or p.plane == "all":
            told = f"{p.matched.value:.3g}; real-real {p.floor.value:.3g} [{p.floor.low:.3g}, {p.floor.high:.3g}]"
            rows.append(
                (
                    f"{p.measure} distance ({scores.features}), {p.plane}, {p.place} slice",
                    told + " (too few to tell)" * p.unclear,
                )
            )
    reader, new = scores.reader, scores.novelty
    rows.append(
        ("AUC of the machine's reader test", reader.reason or f"{reader.auc:.3f} [{reader.low:.3f}, {reader.high:.3f}]")
    )
    rows += [("given away by", give_away.words) for give_away in reader.give_aways[:3]]
    nearest = (
        f"distance to the nearest training lesion {new.synthetic.median:.3f}, held-out cases {new.held_out.median:.3f}"
    )
    rows.append(
        ("near-copies", new.reason or f"{new.near_copies:.0f}, of them singled out {new.singled_out:.0f}; {nearest}")
    )
    return rows
