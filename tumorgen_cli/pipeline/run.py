"""The commands as functions: each reads a workspace, does one step, returns what the command line prints."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tumorgen_cli import console, rules
from tumorgen_cli.dataset import Dataset, case_words, cases_among, find_dataset, host_labels, host_scans, organ_labels, read_dataset
from tumorgen_cli.devices import DeviceName, find_budget, find_device
from tumorgen_cli.errors import DataError, Fault, PlanError, StateError, few
from tumorgen_cli.faults import read_header
from tumorgen_cli.files import hash_value, locked, read_plain, read_record, unknown_name, write_json
from tumorgen_cli.fingerprint import content_hash, make_fingerprint
from tumorgen_cli.folds import make_splits
from tumorgen_cli.hosts import window_shape
from tumorgen_cli.judges import find_judge, needed_judge
from tumorgen_cli.methods import METHODS, find_method
from tumorgen_cli.methods.method import Sampling
from tumorgen_cli.plan import Plan, make_plan, read_overrides
from tumorgen_cli.preprocess import preprocess, worker_count
from tumorgen_cli.previews import unit_of
from tumorgen_cli.records import Box, Fingerprint, Shard
from tumorgen_cli.sets import BARE, bare_fault
from tumorgen_cli.stages import open_method, train_stages
from tumorgen_cli.synthesis import Quality, Source, Tally, make_jobs, own_jobs, redraw_box, synthesize_set
from tumorgen_cli.workspace import Workspace

if TYPE_CHECKING:
    from tumorgen_cli.filtering import Filtered
    from tumorgen_cli.judge_training import JudgeRecord
    from tumorgen_cli.merging import Merge
    from tumorgen_cli.metrics.features import Network
    from tumorgen_cli.reader_study import Study


#: feature networks of the distances, the default first
FEATURES = ("lite0", "filters", "inception")


# -- plan ------------------------------------------------------------------------------------------------------
def plan_dataset(
    workspace: Workspace,
    name: str,
    tumor_label: str | None = None,
    device: DeviceName = "auto",
    memory_gib: float | None = None,
    preset: str | None = None,
    settings: Sequence[str] = (),
    seed: int | None = None,
    workers: int | None = None,
    fold: int | None = None,
) -> Plan:
    """Checks, fingerprints and plans a data set; writes fingerprint, splits and plan.

    `fold`: see `make_splits`.

    Raises:
        DataError: the data set's faults. PlanError: a bad preset, setting or fold. StateError: another set's workspace.
    """
    overrides = read_overrides(preset, settings)
    if seed is not None:
        overrides["seed"] = (seed, "--seed")
    dataset = read_dataset(find_dataset(name), tumor_label)
    with locked(workspace.root, "plan"):
        _check_owner(workspace, dataset)
        fingerprint = _fingerprint(workspace, dataset, workers)
        splits = make_splits(dataset, fold, workspace.splits() if workspace.splits_file.is_file() else None)
        sections = {method: find_method(method).plan_section for method in METHODS}
        plan = make_plan(fingerprint, splits.train, find_budget(device, memory_gib), sections, overrides)
        for method in METHODS:  # each method reads its section strictly, so a wrong --set is told now
            find_method(method)(plan, workspace)
        write_json(workspace.splits_file, splits)
        write_json(workspace.plan_file, plan)
    _warn_of_small_tumors(fingerprint, plan)
    _warn_of_foreign_windows(fingerprint, plan)
    return plan


def _warn_of_foreign_windows(fingerprint: Fingerprint, plan: Plan) -> None:
    """A preset's clip window in other units than the scans'."""
    for facts, channel in zip(fingerprint.channels, plan.channels, strict=True):
        covered = min(facts.maximum, channel.high) - max(facts.minimum, channel.low)
        if covered < 0.2 * (channel.high - channel.low):
            console.warn(
                f"channel {channel.name}: intensities from {facts.minimum:.4g} to {facts.maximum:.4g} fill little of the clip window "
                f"{channel.low:.4g} to {channel.high:.4g}; is the preset one for such scans?"
            )


def _warn_of_small_tumors(fingerprint: Fingerprint, plan: Plan) -> None:
    finer = rules.spacing_for_small_tumors(rules.usual_extent(fingerprint.tumors, 50), plan.window.spacing_mm)
    if finer is not None:
        wanted = ",".join(f"{s:.2g}" for s in finer)
        console.warn(
            "the median tumor is less than 1.5 latent cells wide, which masks hardly survive, and memory allows no finer grid; plan with one and "
            f"a smaller window, such as --set window.spacing_mm=[{wanted}] --set window.shape=[48,48,48]"
        )


def _check_owner(workspace: Workspace, dataset: Dataset) -> None:
    if workspace.fingerprint_file.is_file():
        found = str(read_plain(workspace.fingerprint_file, "delete it and plan again").get("path"))
        if found != str(dataset.path):
            remedy = "choose another folder with --work (one workspace, one data set)"
            fault = Fault(str(workspace.root), f"the workspace of {found}", str(dataset.path), remedy)
            raise StateError("The workspace belongs to another data set", [fault])


def _fingerprint(workspace: Workspace, dataset: Dataset, workers: int | None) -> Fingerprint:
    """The fingerprint on file if the data are unchanged, else a new one (which checks every file)."""
    if workspace.fingerprint_file.is_file():
        old = read_record(Fingerprint, workspace.fingerprint_file, "delete it and plan again")
        if old.tumor_name == dataset.tumor_name and old.content_hash == content_hash(dataset):
            console.note("the data set is unchanged: its fingerprint is kept")
            return old
    with console.progress("checking and measuring", len(dataset.cases)) as tick:
        findings = make_fingerprint(dataset, workers, tick)
    for line in findings.notes:
        console.warn(line)
    write_json(workspace.fingerprint_file, findings.fingerprint)
    return findings.fingerprint


def plan_rows(plan: Plan) -> list[tuple[str, str, str, str]]:
    """The plan as a table a person can check: field, value, rule, inputs (and source, where it is not the rule)."""
    rows = []
    for d in plan.decisions:
        rule = d.rule if d.source == "rule" else f"{d.source} (rule: {d.rule})"
        rows.append((d.field, _short(d.value), rule, ", ".join(f"{k} {_short(v)}" for k, v in d.inputs.items())))
    latent = "×".join(map(str, plan.window.latent_shape))
    rows.insert(0, ("window.latent_shape", latent, "a quarter of the window per axis", f"window {_short(plan.window.shape)}"))
    return rows


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ("×" if all(isinstance(v, (int, float)) for v in value) else " ").join(_short(v) for v in value)
    return str(value)


# -- preprocess --------------------------------------------------------------------------------------
def preprocess_dataset(workspace: Workspace, workers: int | None = None) -> int:
    """Preprocesses every case of the plan that is not done; returns how many were written."""
    plan, splits = workspace.plan(), workspace.splits()
    dataset = dataset_of(plan)
    facts = {case.case: case for case in workspace.fingerprint().cases}
    cases = [*splits.train, *splits.test]
    jobs = [(case, dataset.image_files(case), dataset.label_file(case)) for case in cases]
    count = worker_count([facts[case].grid for case in cases], len(plan.channels)) if workers is None else workers
    with locked(workspace.root, "preprocess"), console.progress("preprocessing", len(jobs)) as tick:
        return preprocess(plan, jobs, workspace.cases, count, tick)


def preprocess_healthy(workspace: Workspace, healthy: Path, workers: int | None = None) -> int:
    """Preprocesses the tumor-free scans of a folder that are not done, for methods that learn from them; returns how many were written.

    Scans are known by name: one that is there already is not preprocessed again.

    Raises:
        DataError: scans that cannot be read, or that are the data set's own cases, under whatever name.
    """
    plan, splits = workspace.plan(), workspace.splits()
    hosts = host_scans(healthy, [channel.name for channel in plan.channels], plan.file_ending)
    known = cases_among({host.case: host.files[0] for host in hosts}, dataset_of(plan), [*splits.train, *splits.test])
    if known:
        found = f"{len(known)} of the data set's own cases, or scans of their names ({case_words(known)})"
        fault = Fault(str(healthy), found, "other scans", "remove them, or rename what is another scan: held-out cases teach nothing")
        raise DataError("Labelled cases are among the healthy scans", [fault])
    grids = [grid for host in hosts if (grid := read_header(host.files[0], [])) is not None]
    count = worker_count(grids, len(plan.channels)) if workers is None else workers
    with locked(workspace.root, "preprocess"), console.progress("preprocessing healthy scans", len(hosts)) as tick:
        written = preprocess(plan, [(host.case, host.files, None) for host in hosts], workspace.unlabelled, count, tick)
    write_json(workspace.healthy_file, sorted({*map(str, healthy_folders(workspace)), str(healthy.resolve())}))
    return written


def healthy_folders(workspace: Workspace) -> list[Path]:
    """The folders of tumor-free scans that methods of a workspace learn from."""
    if not workspace.healthy_file.is_file():
        return []
    return [Path(folder) for folder in read_record(tuple[str, ...], workspace.healthy_file, "run `tumorgen preprocess --healthy DIR` again")]


def dataset_of(plan: Plan) -> Dataset:
    """The planned data set, as it lies on disk now.

    Raises:
        StateError: its files have changed since planning.
    """
    dataset = read_dataset(find_dataset(plan.dataset_path), plan.tumor_name)
    if content_hash(dataset) != plan.fingerprint_hash:
        fault = Fault(plan.dataset_path, "files changed since planning", "the planned data", f"run `tumorgen plan {plan.dataset_path}`")
        raise StateError("The data set has changed", [fault])
    return dataset


# -- synthesize ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class SetReport:
    """A synthetic set: where it lies and what it cost."""

    folder: str
    tally: Tally


def synthesize(
    workspace: Workspace,
    method_name: str,
    pairs: int,
    healthy: Path | None = None,
    cases: str | None = None,
    out: Path | None = None,
    box: Box | None = None,
    roi: Path | None = None,
    sampling: Sampling = Sampling(),
    device: DeviceName = "auto",
    seed: int | None = None,
    until_pass: int | None = None,
    keep: float = 0.7,
    judge: Path | None = None,
    paint_in: str | None = None,
    shard: Shard | None = None,
) -> SetReport:
    """Paints `pairs` tumors into the scans of `healthy`, or redraws those of the split's `cases` ("test", "train").

    With `paint_in` the masks of `roi` are labels of the plan's names, and the region is that label's.
    With `until_pass` a pair is drawn again, so often at most, until the judge finds the share `keep` of its mask. With
    `shard` only that part of the pairs is made; the shard that finishes last finishes the set.
    """
    method = open_method(workspace, method_name, device)
    plan = method.plan
    asked = (
        ("--solver", sampling.solver, method.solvers, "it does not sample", "leave it out"),
        ("--kind", sampling.kind, method.kinds, "it is not told what to draw", "leave it out; tumorgen knows them where flow.character is on"),
    )
    faults = [
        Fault(f"{option} {value}", f"not one of {method_name}'s", ", ".join(known) or f"none: {why}", remedy)
        for option, value, known, why, remedy in asked
        if value is not None and value not in known
    ]
    if faults:
        raise PlanError("A method cannot do this", faults)
    sources = redraw_sources(workspace, plan, cases) if cases else healthy_sources(plan, healthy, roi, paint_in)
    seed = plan.seed if seed is None else seed
    tumors = workspace.fingerprint().of(workspace.splits().train).tumors
    settings = {
        "seed": seed, "sources": [source.name for source in sources], "box": box, "roi": str(roi) if roi else None,
        "steps": sampling.steps, "solver": sampling.solver, "learnt_from": method.learnt_from(),
    }  # fmt: skip
    if bare := bare_hosts(plan, sources):
        told = bare_fault(str(healthy), bare)
        console.warn(f"{told.found}: {told.remedy} (merge, downstream and nnunet-setup refuse these)")
    settings |= {name: value for name, value in (("paint_in", paint_in), ("kind", sampling.kind), (BARE, bare or None)) if value is not None}
    # a set of its own for settings of its own: what is usual keeps the plain name
    usual = box is None and roi is None and sampling == Sampling() and until_pass is None
    name = f"{method_name}_{cases or (healthy.resolve().name if healthy else 'scans')}"
    own = hash_value([box, settings["roi"], sampling, until_pass, keep if until_pass else None])
    folder = out or workspace.synthetic(name if usual else f"{name}_{own[:6]}")
    jobs = make_jobs(sources, pairs, seed)
    quality = Quality(needed_judge(workspace, judge, device), keep, until_pass) if until_pass else None
    with locked(folder, "synthesize", shard and shard.name), console.progress("painting", len(own_jobs(jobs, shard))) as tick:
        tally = synthesize_set(plan, method, jobs, folder, tumors, box, sampling, settings, quality, tick, shard)
    return SetReport(str(folder), tally)


def healthy_sources(plan: Plan, healthy: Path | None, roi: Path | None, paint_in: str | None = None) -> list[Source]:
    if healthy is None:
        raise PlanError("Nothing to paint into", [Fault("--healthy", "not given", "a folder of scans", "give --healthy DIR or --cases test")])
    organs = organ_labels(plan.labels, plan.tumor_label)
    if paint_in is not None and paint_in not in organs:
        raise PlanError("Nowhere to paint", [unknown_name("--paint-in", paint_in, organs)])
    hosts = host_scans(healthy, [channel.name for channel in plan.channels], plan.file_ending)
    rois = {host.case: roi / f"{host.case}{plan.file_ending}" if roi else None for host in hosts}
    faults = [
        Fault(str(path), "no such file", f"a mask for {case}", "write one mask per scan, named as the scan without _0000")
        for case, path in rois.items()
        if path is not None and not path.is_file()
    ]
    if faults:
        raise DataError("Regions of interest are missing", faults)
    region = None if paint_in is None else organs[paint_in]
    labels = rois if region is not None else host_labels(healthy, plan.labels, plan.tumor_name, plan.file_ending) if organs else {}
    return [Source(host.case, host.files, labels.get(host.case), roi=rois[host.case], region=region) for host in hosts]


def bare_hosts(plan: Plan, sources: Sequence[Source]) -> list[str]:
    """The hosts without labels, where the data set has others than the tumor's."""
    organs = organ_labels(plan.labels, plan.tumor_label)
    return [source.name for source in sources if organs and source.label is None]


def redraw_sources(workspace: Workspace, plan: Plan, cases: str) -> list[Source]:
    """The cases of a split with their tumors, but for those too large to be redrawn: these are told.

    Raises:
        PlanError: no such split. DataError: no tumor is left.
    """
    splits = workspace.splits()
    names = {"test": splits.test, "train": splits.train}.get(cases)
    if names is None:
        raise PlanError("No such cases", [unknown_name("--cases", cases, ("test", "train"))])
    dataset = dataset_of(plan)
    facts = {case.case: case for case in workspace.fingerprint().cases}
    sources, large, widest = [], {}, (1.0, 1.0, 1.0)  # a tumor is left out if the largest box that may be drawn around it has no window
    for name in names:
        grid, tumors = facts[name].grid, facts[name].tumors
        boxes = tuple(t.box for t in tumors if window_shape(redraw_box(t.box, grid, plan, widest, widest), grid, plan))
        if boxes:
            sources.append(Source(name, dataset.image_files(name), dataset.label_file(name), boxes))
        if len(boxes) < len(tumors):
            large[name] = len(tumors) - len(boxes)
    told = f"tumors too large for twice the plan's window: {sum(large.values())}, in {few([*large])}"
    if not sources:
        remedy = "plan with a larger window (--set window.shape=[...])" if large else "name the other cases, or paint into --healthy DIR"
        fault = Fault(f"--cases {cases}", told if large else f"no tumor in {len(names)} cases", "a tumor to redraw", remedy)
        raise DataError("There is nothing to redraw", [fault])
    if large:
        console.warn(f"--cases {cases}, not redrawn: {told}")
    return sources


# -- evaluate and run ------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class ScoreReport:
    """The scores of one set as rows to print; the page and the numbers beside it hold more."""

    name: str
    page: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class RunReport:
    """What `run` made: pairs and their scores."""

    pairs: SetReport
    scores: tuple[ScoreReport, ...]


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
    from tumorgen_cli.evaluation import evaluate_set, evaluation_steps, real_tumors, synthetic_cases, write_page

    plan, folders = workspace.plan(), _finished_sets(workspace, synthetic)
    real = real_tumors(plan, workspace.fingerprint(), workspace.splits())
    for folder in folders:
        synthetic_cases(plan, folder)  # what is wrong with any of them is told before the first is scored
    model, network = find_judge(workspace, judge, device), find_features(features, device, inception)
    scored = []
    for folder in folders:
        out = workspace.evaluation(folder.name)
        with locked(out, "evaluate"), console.progress(f"scoring {folder.name}", evaluation_steps(folder, real)) as tick:
            scored.append(evaluate_set(plan, real, folder, out, model, network, plan.seed if seed is None else seed, tick))
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
    faults = [Fault(str(folder), "another set of that name", "a name of its own", "rename one of them") for folder in twice]
    if faults:
        raise StateError("Sets of one name", faults)
    if not folders:
        fault = Fault(str(workspace.root / "synthetic"), "no finished set", "one or more", "run `tumorgen synthesize --healthy DIR`")
        raise StateError("There are no pairs", [fault])
    return folders


def _find_set(workspace: Workspace, given: Path) -> Path:
    """The folder of a set, by its path or by its name in the workspace."""
    for folder in (given.resolve(), workspace.synthetic(given.name)):
        if (folder / "provenance.jsonl").is_file():
            return folder
    known = ", ".join(sorted(path.parent.name for path in workspace.root.glob("synthetic/*/dataset.json"))) or "none yet"
    remedy = "correct the path or name, or run `tumorgen synthesize --healthy DIR`"
    raise StateError("No such set", [Fault(str(given), "no synthetic set", f"a set's folder, or a name in the workspace ({known})", remedy)])


def make_reader_study(
    workspace: Workspace, synthetic: Sequence[Path], pairs: int, out: Path | None, seed: int | None, with_mask: bool
) -> Study:
    """A page on which readers tell real from synthetic lesions, and its key."""
    from tumorgen_cli.evaluation import real_tumors
    from tumorgen_cli.reader_study import make_study, study_steps

    plan, folders = workspace.plan(), _finished_sets(workspace, synthetic)
    real = real_tumors(plan, workspace.fingerprint(), workspace.splits())
    folder = out or workspace.root / "reader_study"
    with locked(folder, "reader-study"), console.progress("drawing", study_steps(real, folders, pairs)) as tick:
        return make_study(plan, real, folders, folder, pairs, plan.seed if seed is None else seed, tick, with_mask)


def find_features(name: str, device: DeviceName, inception: Path | None = None) -> Network:
    """The feature network of a name in `FEATURES`."""
    from tumorgen_cli.metrics import features

    if name not in FEATURES:
        raise PlanError("No such features", [unknown_name("--features", name, FEATURES)])
    if name == "filters":
        return features.hand_made()
    return features.inception(find_device(device), inception) if name == "inception" else features.lite0(find_device(device))


def train_own_judge(workspace: Workspace, minutes: float, device: DeviceName, seed: int | None, restart: bool) -> JudgeRecord:
    """Trains an nnU-Net on the workspace's training cases, as its judge; scores it on the held-out ones."""
    from tumorgen_cli.judge_training import train_judge
    from tumorgen_cli.nnunet import training_data

    plan = workspace.plan()
    data = training_data(dataset_of(plan), workspace.splits())
    seed = plan.seed if seed is None else seed
    return train_judge(data, workspace.judge, minutes, device, plan.precision, plan.tolerance_mm, seed, plan.fingerprint_hash, restart=restart)


def filter_pairs(
    workspace: Workspace, set_folder: Path, keep: float, judge: Path | None, out: Path | None, device: DeviceName, shard: Shard | None = None
) -> Filtered:
    """The pairs of a set of which the judge finds the share `keep` of the mask, as a set of their own.

    With `shard` only that part of the pairs is judged; the shard that finishes last finishes the set.
    """
    from tumorgen_cli.evaluation import cache_of
    from tumorgen_cli.filtering import filter_set, own_pairs
    from tumorgen_cli.sets import read_provenance

    set_folder = _find_set(workspace, set_folder)
    count = len(own_pairs(read_provenance(set_folder), shard))
    model = needed_judge(workspace, judge, device)
    folder = out or set_folder.parent / f"{set_folder.name}_kept"
    cache = cache_of(workspace.evaluation(set_folder.name))
    with locked(folder, "filter", shard and shard.name), console.progress("asking the judge", count) as tick:
        return filter_set(workspace.plan(), set_folder, folder, cache, model, keep, tick, shard)


def merge(
    workspace: Workspace, real: str, synthetic: Sequence[Path], out: Path, folds: int = 1, oversample: int = 1, preprocessed: Path | None = None
) -> Merge:
    """One nnU-Net raw data set of real cases and synthetic sets, with folds that no pair leaks into.

    `out` without a folder is a name in nnUNet_raw, the user's or the workspace's. Its splits_final.json goes into nnU-Net's
    preprocessed folder, too, where that is given or known.
    """
    from tumorgen_cli.merging import plan_merge, write_merge
    from tumorgen_cli.nnunet import users_folders

    named = [folder if folder.is_dir() or not workspace.synthetic(folder.name).is_dir() else workspace.synthetic(folder.name) for folder in synthetic]
    if out.name == str(out):
        out = users_folders(workspace.root)["nnUNet_raw"] / out
    known = os.environ.get("nnUNet_preprocessed")
    made = plan_merge(find_dataset(real), named, out.absolute(), folds, oversample, preprocessed or (Path(known) if known else None))
    with locked(made.out, "merge"), console.progress("merging", made.steps) as tick:
        write_merge(made, tick)
    return made


def _score_rows(scores: Any) -> list[tuple[str, str]]:
    rows = []
    if scores.judge:
        titles = {"dice": "agreement DSC", "surface_dice": f"agreement NSD at {scores.tolerance_mm} mm", "proportion": "P, share of the mask found"}
        rows += [
            (f"{titles[m.field]} [95 % interval]", f"{m.synthetic.text}; real held-out cases {m.real.text}")
            for m in scores.agreement.measures
        ]
    for c in scores.comparisons:
        unit = c.unit.replace("scan", unit_of(scores.channel))
        rows.append((f"{c.title}, median", f"{c.synthetic.median:.3g} {unit}; training {c.training.median:.3g}; KS {c.ks:.3f}"))
    if scores.redrawn_volume.count:
        told = f"{scores.redrawn_volume.median:.2f}; pairs: {scores.redrawn_volume.count}"
        rows.append(("volume of a redrawn tumor over the old one's, median", told))
    rows += [(f"share of {s.kind} tumors", f"{s.synthetic:.2f}; training {s.training:.2f}") for s in scores.shares]
    for p in scores.planes:
        if p.place == "tumor" or p.plane == "all":
            told = f"{p.matched.value:.3g}; real-real {p.floor.value:.3g} [{p.floor.low:.3g}, {p.floor.high:.3g}]"
            rows.append((f"{p.measure} distance ({scores.features}), {p.plane}, {p.place} slice", told + " (too few to tell)" * p.unclear))
    reader, new = scores.reader, scores.novelty
    rows.append(("AUC of the machine's reader test", reader.reason or f"{reader.auc:.3f} [{reader.low:.3f}, {reader.high:.3f}]"))
    rows += [("given away by", give_away.words) for give_away in reader.give_aways[:3]]
    nearest = f"distance to the nearest training lesion {new.synthetic.median:.3f}, held-out cases {new.held_out.median:.3f}"
    rows.append(("near-copies", new.reason or f"{new.near_copies:.0f}, of them singled out {new.singled_out:.0f}; {nearest}"))
    return rows


def run_all(
    workspace: Workspace,
    dataset: str,
    healthy: Path,
    pairs: int = 20,
    judge: Path | None = None,
    tumor_label: str | None = None,
    memory_gib: float | None = None,
    preset: str | None = None,
    settings: Sequence[str] = (),
    device: DeviceName = "auto",
    seed: int | None = None,
    fold: int | None = None,
    features: str = FEATURES[0],
) -> RunReport:
    """Every command in order; each sees for itself what is done."""
    console.headline("1/5 plan")
    plan_dataset(workspace, dataset, tumor_label, device, memory_gib, preset, settings, seed, fold=fold)
    console.headline("2/5 preprocess")
    preprocess_dataset(workspace)
    console.headline("3/5 train")
    train_stages(workspace, "tumorgen", "all", device=device)
    console.headline("4/5 synthesize")
    made = synthesize(workspace, "tumorgen", pairs, healthy, device=device, seed=seed)
    console.headline("5/5 evaluate")
    return RunReport(made, evaluate_sets(workspace, [Path(made.folder)], judge, device, features))
