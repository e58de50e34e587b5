"""Do pairs help? nnU-Nets trained with and without them, alike in everything else, and scored on real held-out cases.

For every number of real cases: the methods learn from these cases alone (a workspace of its own below `downstream/` where they
are not all), paint, and one nnU-Net per arm and seed learns from the real cases and the arm's pairs, by the plan that nnU-Net
makes of the real cases. Writes `downstream/` of the workspace: `nnunet/real_N/` (what nnU-Net prepared, and `runs/ARM_seedK/` with
scores and predictions), downstream.json, .csv and .html. A run that is finished is never made again.
"""

from __future__ import annotations

import csv
import io
import os
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tumorgen_cli import console, downstream_page
from tumorgen_cli.budgets import Budget, train_within
from tumorgen_cli.dataset import Dataset, cases_among
from tumorgen_cli.devices import DeviceName, find_device, usable_cores
from tumorgen_cli.errors import DataError, Fault, PlanError, StateError, TumorgenError, few, one_line
from tumorgen_cli.files import hash_file, hash_value, locked, none_for_nan, read_plain, read_record, to_plain, write_json, write_text
from tumorgen_cli.gains import LIVE, MEASURES, REAL, Arm, Design, Downstream, Failure, Run, score_patient, summarize_arms
from tumorgen_cli.live import FOLDER, Painting
from tumorgen_cli.metrics.scores import Summary
from tumorgen_cli.nnunet import (
    CPU_SIZE,
    FINAL,
    CaseFiles,
    Job,
    Schedule,
    Size,
    TrainingData,
    check_data,
    make_job,
    results_folder,
    run_job,
    training_data,
)
from tumorgen_cli.nnunet_setup import set_up
from tumorgen_cli.pipeline import dataset_of, healthy_sources, synthesize
from tumorgen_cli.plan import Plan
from tumorgen_cli.previews import box_slices, display_of
from tumorgen_cli.stages import check_preprocessed
from tumorgen_cli.subsets import subset_workspace
from tumorgen_cli.synthesis import read_provenance
from tumorgen_cli.volumes import read_image, read_volume, write_volume
from tumorgen_cli.windows import scan_limits, tight_box
from tumorgen_cli.workspace import Splits, Workspace

_POLL_SECONDS = 0.5
_PICTURED = 4  # held-out patients on the page
_POOL, _PAINTERS_SHARE = 32, 0.15  # of a live arm: the defaults of `tumorgen nnunet-setup`


@dataclass(frozen=True)
class DownstreamReport:
    """The comparison, and where it was written."""

    result: Downstream
    page: str
    table: str


@dataclass(frozen=True)
class _Task:
    """A run to be made: its folder, its job and what is told of it."""

    arm: str
    cases: int
    seed: int
    folder: Path
    data: TrainingData
    job: Job
    pairs: int
    real_share: float

    @property
    def name(self) -> str:
        return f"{self.arm}, {self.cases} real cases, seed {self.seed}"


def measure_gains(
    workspace: Workspace,
    design: Design,
    healthy: Path | None = None,
    cases: str | None = None,
    device: DeviceName = "auto",
    jobs: int | None = None,
    size: Size | None = CPU_SIZE,
) -> DownstreamReport:
    """Trains what is not trained, paints, trains the nnU-Nets, scores them and writes tables and the page.

    Args:
        healthy, cases: hosts, as for `synthesize`; with both, each gets half of the pairs.
        jobs: nnU-Nets at a time; None for one per GPU, or one.

    Raises:
        PlanError: no case is held out, or the fractions leave none to learn from. DataError: hosts or cases that cannot be used, held-out
        cases among the hosts.
    """
    plan, splits = workspace.plan(), workspace.splits()
    check_preprocessed(workspace, plan, splits)
    counts = case_counts(len(splits.train), design.fractions)
    if not splits.test:
        fault = Fault("splits.json", "no case held out", "one or more: nothing else shows a gain", "plan with splits_final.json, or more cases")
        raise PlanError("Gains cannot be measured", [fault])
    dataset = dataset_of(plan)
    check_data(training_data(dataset, splits))
    if healthy is not None:
        _check_hosts(plan, dataset, splits, healthy)
    root = workspace.root / "downstream"
    order = nested_order(splits.train, plan.seed)
    kind = find_device(device).type
    finished: list[Run] = []
    failures: list[Failure] = []
    with locked(root, "downstream"):
        _forget_stale_scores(root, training_data(dataset, splits), plan.tolerance_mm)
        for count in counts:
            chosen = sorted(order[:count])
            console.headline(f"{count} real cases")
            inner = workspace
            if count < len(splits.train):
                inner = subset_workspace(workspace, [*chosen, *splits.test], root / f"real_{count}", device)
            pairs, paintings = {}, {}
            for arm in design.arms:
                try:
                    if arm.endswith(LIVE):
                        paintings[arm] = _painting(inner, arm.removesuffix(LIVE), root / "live" / f"{arm}_{count}", design, healthy, cases, device)
                    elif arm != REAL:
                        pairs[arm] = _pairs(inner, arm, design.ratio * count, healthy, cases, device)
                except TumorgenError as error:  # the other arms are no worse for it
                    failures.append(Failure(arm, count, one_line(error)))
                    console.warn(f"{arm} with {count} real cases: {failures[-1].reason}")
            data = training_data(dataset, Splits(tuple(chosen), splits.test))
            finished += _train_and_score(root, plan, design, data, pairs, paintings, kind, jobs, size)
            result = _result(plan, splits, design, healthy, cases, finished, failures, root, kind)
            _write(root, plan, result, data)  # after every count: long work shows what it has
    return DownstreamReport(result, str(root / "downstream.html"), str(root / "downstream.csv"))


def _check_hosts(plan: Plan, dataset: Dataset, splits: Splits, healthy: Path) -> None:
    """Raises:
    DataError: hosts that cannot be used, or are held out, under whatever name: nnU-Net would learn from its test cases.
    """
    scans = {source.name: source.files[0] for source in healthy_sources(plan, healthy, None)}
    known = cases_among(scans, dataset, splits.test)
    if known:
        found = f"{len(known)} held-out cases ({few([name if name == case else f'{name}, which is {case}' for name, case in known.items()])})"
        raise DataError("Held-out cases would be painted into", [Fault(str(healthy), found, "other scans", "take them out of the folder")])


def case_counts(cases: int, fractions: Sequence[float]) -> list[int]:
    """How many real cases each fraction is, ascending.

    Raises:
        PlanError: a fraction is none, or more than all.
    """
    wrong = [f for f in fractions if not 0 < f <= 1 or round(f * cases) < 1]
    if wrong or not fractions:
        found = ", ".join(f"{f:g}" for f in wrong) or "none"
        fault = Fault("--fractions", found, f"shares of the {cases} training cases, above 0, at most 1", "for example 0.25,0.5,1")
        raise PlanError("The fractions cannot be used", [fault])
    return sorted({round(f * cases) for f in fractions})


def nested_order(cases: Sequence[str], seed: int) -> list[str]:
    """The cases in a drawn order: the first n are the n real cases, so that fewer are always part of more."""
    names = sorted(cases)
    return [names[i] for i in np.random.default_rng(seed).permutation(len(names))]


def repeats(real: int, pairs: int, real_share: float) -> int:
    """How often a real case stands among the training cases so that `real_share` of what is drawn is real; at least once."""
    return max(1, round(real_share / (1 - real_share) * pairs / real)) if pairs else 1


def attained_share(design: Design) -> float:
    """Of real cases in what is drawn, as near to the design's as repeating them comes."""
    repeated = repeats(1, design.ratio, design.real_share)
    return repeated / (repeated + design.ratio)


# -- pairs ---------------------------------------------------------------------------------------------------------
def _pairs(workspace: Workspace, arm: str, count: int, healthy: Path | None, cases: str | None, device: DeviceName) -> list[CaseFiles]:
    """The pairs of an arm: its method is trained where it is not, and paints what is missing."""
    train_within(workspace, arm, Budget(), device)
    plan, found = workspace.plan(), []
    hosts = [{"healthy": healthy}] * (healthy is not None) + [{"cases": cases}] * (cases is not None)
    for number, host in enumerate(hosts):
        share = count // len(hosts) + (number < count % len(hosts))
        place = cases if healthy is None or "cases" in host else healthy.resolve().name
        folder = workspace.synthetic(f"{arm}_{place}_n{share}")
        synthesize(workspace, arm, share, out=folder, device=device, **host)  # type: ignore[arg-type]
        ending = plan.file_ending
        for record in read_provenance(folder):
            images = tuple(folder / "imagesTr" / f"{record.case}_{channel:04d}{ending}" for channel in range(len(plan.channels)))
            found.append(CaseFiles(f"{folder.name}_{record.case}", images, folder / "labelsTr" / f"{record.case}{ending}"))
    return found


def _painting(
    workspace: Workspace, method: str, folder: Path, design: Design, healthy: Path | None, cases: str | None, device: DeviceName
) -> Path:
    """The file that says what a live arm paints, at the rate at which the other arms see pairs."""
    train_within(workspace, method, Budget(), device)
    probability = round(1 - attained_share(design), 4)
    made = set_up(workspace, method, healthy, cases, None, probability, _POOL, _PAINTERS_SHARE, 0.0, None, 0.7, None, device, None, folder)  # type: ignore[arg-type]
    return Path(made.file)


# -- nnU-Nets ------------------------------------------------------------------------------------------------------
def _train_and_score(
    root: Path,
    plan: Plan,
    design: Design,
    data: TrainingData,
    pairs: Mapping[str, Sequence[CaseFiles]],
    paintings: Mapping[str, Path],
    kind: str,
    jobs: int | None,
    size: Size | None,
) -> list[Run]:
    """The runs of one number of real cases, arm after arm within a seed, so that what there is early is comparable."""
    count = len(data.train)
    folder = root / "nnunet" / f"real_{count}"
    named = {arm: pairs.get(arm, ()) for arm in design.arms if arm == REAL or arm in pairs or arm in paintings}
    tasks = []
    for seed in range(design.seeds):
        for arm, extra in named.items():
            real = [case.name for case in data.train] * repeats(count, len(extra), design.real_share)
            names = [*real, *(case.name for case in extra)]
            job = make_job(data, folder, kind, plan.precision, design.minutes, seed, size, None, names, extra)  # type: ignore[arg-type]
            share = len(real) / len(names)
            if arm in paintings:
                job, share = _live(job, paintings[arm]), attained_share(design)
            tasks.append(_Task(arm, count, seed, folder / "runs" / f"{arm}_seed{seed}", data, job, len(extra), round(share, 4)))
    runs = {task.name: run for task in tasks if (run := _finished(task)) is not None}
    missing = [task for task in tasks if task.name not in runs]
    if missing:
        everything = [case for extra in named.values() for case in extra]
        prepare = make_job(data, folder, kind, plan.precision, design.minutes, 0, size, None, (), everything)  # type: ignore[arg-type]
        run_job(data, folder, prepare, "preprocessing pairs")
    if kind == "cuda":
        import torch

        torch.cuda.empty_cache()  # what methods held is nnU-Net's now
    for task in _trained(missing, root, design.minutes, kind, jobs):
        schedule = read_record(Schedule, _schedule_file(task.folder), "delete the run's folder")
        runs[task.name] = _score(task, plan, schedule, kind)
    return [runs[task.name] for task in tasks]


def _live(job: Job, file: Path) -> Job:
    """The job with painting; where workspace and hosts lie is no part of what it is made of."""
    painting = read_record(Painting, file, "run the command again")
    made_of = replace(painting, work="", healthy=None, roi=None, device="auto")
    return replace(job, painting=str(file), inputs_hash=hash_value([job.inputs_hash, made_of]))


def _finished(task: _Task) -> Run | None:
    """The run's scores where it was made of the same; what was made of something else gives way, and comes back when it is asked for."""
    folder, own = task.folder, task.job.inputs_hash
    path, begun = folder / "run.json", folder / "inputs.txt"
    found = read_record(Run, path, "delete the run's folder").inputs_hash if path.is_file() else begun.read_text() if begun.is_file() else own
    if found != own:
        console.note(f"{task.name}: what was made from other cases, pairs or settings is kept as {folder.name}_{found}")
        folder.rename(folder.with_name(f"{folder.name}_{found}"))
    kept = folder.with_name(f"{folder.name}_{own}")
    if kept.is_dir() and not folder.is_dir():
        kept.rename(folder)
    if path.is_file():
        return read_record(Run, path, "delete the run's folder")
    write_text(begun, own)
    return None


def _trained(tasks: Sequence[_Task], root: Path, minutes: float, kind: str, jobs: int | None) -> Iterator[_Task]:
    """Yields each task when its nnU-Net is trained; `jobs` at a time, each on a GPU of its own where there are some.

    The first training of so many minutes on such a device measures how many steps they are; the others take as many.
    """
    devices = _devices(kind, jobs)
    left = list(tasks)
    while left and _schedule(root, minutes, kind) is None:
        task = left.pop(0)
        run_job(task.data, task.folder, task.job, task.name, devices[0])
        yield task
    schedule = _schedule(root, minutes, kind)
    waiting: queue.Queue[_Task] = queue.Queue()
    done: queue.Queue[_Task | Exception] = queue.Queue()
    for task in left:
        waiting.put(task)

    def work(variables: Mapping[str, str]) -> None:
        while True:
            try:
                task = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                run_job(task.data, task.folder, replace(task.job, schedule=schedule), task.name if len(devices) == 1 else None, variables)
                done.put(task)
            except Exception as error:  # noqa: BLE001 - whatever it is: who waits for this thread would wait for ever
                done.put(error)
                return

    for variables in devices:  # daemons: when this process ends so do they, and with them the children
        threading.Thread(target=work, args=(variables,), daemon=True).start()
    for _ in left:
        while True:
            try:
                found = done.get(timeout=_POLL_SECONDS)
                break
            except queue.Empty:
                continue
        if isinstance(found, Exception):
            raise found
        if len(devices) > 1:
            console.note(f"trained: {found.name}")
        yield found


def _schedule(root: Path, minutes: float, kind: str) -> Schedule | None:
    """What the minutes came to on such a device, by any training that has begun; None before the first."""
    for path in sorted(root.glob("nnunet/*/runs/*/job.json")):
        job = read_plain(path, "delete the run's folder")
        measured = _schedule_file(path.parent)
        if (job["minutes"], job["device"]) == (minutes, kind) and measured.is_file():
            return read_record(Schedule, measured, "delete the run's folder")
    return None


def _schedule_file(folder: Path) -> Path:
    return results_folder(folder) / "fold_all" / "schedule.json"


def _devices(kind: str, jobs: int | None) -> list[dict[str, str]]:
    """Variables of each of the trainings that run at a time: a GPU, or a share of the cores."""
    if kind == "cuda":
        import torch

        given = os.environ.get("CUDA_VISIBLE_DEVICES")  # a scheduler's, or the user's, share of the machine
        gpus = (given.split(",") if given else [str(i) for i in range(torch.cuda.device_count())])[: torch.cuda.device_count()]
        jobs = jobs or len(gpus)
        workers = str(max(1, min(12, usable_cores() // jobs - 1)))
        return [{"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)].strip(), "nnUNet_n_proc_DA": workers} for i in range(jobs)]
    jobs = jobs or 1
    return [{"OMP_NUM_THREADS": str(max(1, usable_cores() // jobs))}] * jobs if jobs > 1 else [{}]


def _forget_stale_scores(root: Path, data: TrainingData, tolerance_mm: float) -> None:
    """Removes the scores that are of other held-out files or another tolerance; the nnU-Nets stay, to be scored again."""
    path, held_out = root / "held_out.json", [(case.name, *map(hash_file, (*case.images, case.label))) for case in data.test]
    now = hash_value([held_out, data.tumor_name, tolerance_mm])
    if not path.is_file() or read_plain(path, "delete it") != now:
        for scores in root.glob("nnunet/*/runs/*/run.json"):
            scores.unlink()
        write_json(path, now)


def _score(task: _Task, plan: Plan, schedule: Schedule, kind: str) -> Run:
    """Predicts the held-out cases in their own grid, keeps the masks, and records the scores."""
    import torch

    from tumorgen_cli.judge import Judge

    results = results_folder(task.folder)
    model = Judge(results, torch.device(kind), task.data.tumor_name, plan.precision)
    patients = []
    for case in task.data.test:
        image, grid = read_image(case.images)
        truth = read_volume(case.label)[0] == task.data.labels[task.data.tumor_name]
        found = model.tumor(image, grid)
        write_volume(task.folder / "predictions" / f"{case.name}{task.data.file_ending}", found.astype(np.uint8), grid)
        patients.append(score_patient(case.name, found, truth, grid.spacing_mm, plan.tolerance_mm))
    steps, seconds = schedule.epochs * schedule.iterations, torch.load(results / "fold_all" / FINAL, map_location="cpu", weights_only=True)["seconds"]
    painted = results / "fold_all" / FOLDER / "provenance.jsonl"
    pairs = painted.read_text().count("\n") if painted.is_file() else task.pairs
    run = Run(
        task.arm, task.cases, task.seed, pairs, task.real_share, steps, round(seconds / 60, 2), task.job.inputs_hash, tuple(patients)
    )
    write_json(task.folder / "run.json", run)
    return run


# -- what is written -----------------------------------------------------------------------------------------------
def _result(
    plan: Plan, splits: Splits, design: Design, healthy: Path | None, cases: str | None, runs: Sequence[Run],
    failures: Sequence[Failure], root: Path, kind: str,
) -> Downstream:
    hosts = " and ".join([f"scans of {healthy.resolve().name}"] * (healthy is not None) + [f"{cases} cases"] * (cases is not None))
    schedule = _schedule(root, design.minutes, kind)
    if schedule is None:
        raise StateError("No training was made", [Fault(str(root), "no schedule of one", "one", "run the command again")])
    return Downstream(
        plan.dataset, plan.hash, splits.test, hosts, design, schedule, kind, plan.tolerance_mm, tuple(summarize_arms(runs)), tuple(runs),
        tuple(failures),
    )


def _write(root: Path, plan: Plan, result: Downstream, data: TrainingData) -> None:
    write_json(root / "downstream.json", none_for_nan(to_plain(result)))
    write_text(root / "downstream.csv", gains_csv(result.arms))
    write_text(root / "downstream.html", downstream_page.draw(result, _pictures(root, plan, result, data)))


def gains_csv(arms: Sequence[Arm]) -> str:
    """A line per arm, number of cases, measure and, for Dice and surface Dice, size of the patients' largest lesion."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    head = ["arm", "real cases", "pairs", "seeds", "measure", "largest lesion", "patients", "mean", "low", "high", "spread over patients"]
    writer.writerow([*head, "gain", "gain low", "gain high", "p", "better", "worse"])
    for arm in arms:
        lines = [(name, "any", getattr(arm, name)) for name in MEASURES]
        lines += [(name, each.name, getattr(each, name)) for each in arm.by_size for name in ("dice", "surface_dice")]
        for name, size, measure in lines:
            own, gain = measure.over_patients, measure.gain
            values = [own.mean, own.low, own.high, measure.spread, *((gain.mean, gain.low, gain.high, measure.p) if gain else ())]
            numbers = [f"{value:.4f}" for value in values] + [""] * (8 - len(values))
            writer.writerow([arm.arm, arm.cases, arm.pairs, arm.seeds, name, size, own.count, *numbers, measure.better, measure.worse])
    return stream.getvalue()


def gain_rows(arms: Sequence[Arm]) -> list[tuple[str, ...]]:
    """Rows to print: the DSC and its gain, and the means of the other measures."""
    rows = []
    for arm in arms:
        gain, tested = arm.dice.gain, f"{arm.dice.better} / {arm.dice.worse}, {arm.dice.p:.3f}"
        means = [f"{getattr(arm, name).over_patients.mean:.3f}" for name in MEASURES if name != "dice"]
        rows.append((str(arm.cases), arm.arm, _told(arm.dice.over_patients), _told(gain) if gain else "–", tested if gain else "–", *means))
    return rows


def _told(summary: Summary) -> str:
    return f"{summary.mean:.3f} [{summary.low:.3f}, {summary.high:.3f}]"


def _pictures(root: Path, plan: Plan, result: Downstream, data: TrainingData) -> list[downstream_page.Patient]:
    """Held-out patients, from the worst to the best of the real arm (else the first) at the most real cases, by every arm's first seed."""
    count = max(run.cases for run in result.runs)
    runs = {run.arm: run for run in result.runs if run.cases == count and run.seed == 0}
    first = runs.get(REAL, next(iter(runs.values())))
    ranked = [patient.case for patient in sorted(first.patients, key=lambda patient: patient.dice or 0.0)]
    chosen = [ranked[i] for i in np.unique(np.linspace(0, len(ranked) - 1, min(_PICTURED, len(ranked))).round().astype(int))]
    files, patients = {case.name: case for case in data.test}, []
    for name in chosen:
        case = files[name]
        image, grid = read_image(case.images)
        masks = {"truth": read_volume(case.label)[0] == data.labels[data.tumor_name]}
        for arm, run in runs.items():
            value = next(patient.dice for patient in run.patients if patient.case == name)
            where = root / "nnunet" / f"real_{count}" / "runs" / f"{arm}_seed0" / "predictions" / f"{name}{data.file_ending}"
            masks[f"{arm}, DSC {'–' if value is None else f'{value:.2f}'}"] = read_volume(where)[0] > 0
        box = tight_box(masks["truth"])
        if box is None:
            continue
        low, high = (float(v) for v in scan_limits(image, plan.channels)[0])
        seen = float(np.clip(np.percentile(image[(0, *box.slices)], 99.5), low + 0.1 * (high - low), high))
        painted = [(image[0], mask) for mask in masks.values()]
        shown = display_of(plan.channels[0].name)[0]
        _, *pictures = box_slices(image[0], painted, box, grid.spacing_mm, (low, seen), grid.direction, colormap=shown)
        patients.append(downstream_page.Patient(name, count, dict(zip(masks, pictures, strict=True))))
    return patients
