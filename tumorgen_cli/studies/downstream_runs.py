"""The nnU-Nets of `downstream`: one per arm and seed, several at a time, each resumed where it was, scored on the held-out cases.

Writes `nnunet/real_N/` of the folder it is given: what nnU-Net prepared, and `runs/ARM_seedK/` with run.json and predictions.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tumorgen_cli.data.volumes import read_image, read_volume, write_volume
from tumorgen_cli.evaluation.gains import REAL, SCORES, Design, Failure, TrainedNnunet, score_patient
from tumorgen_cli.nnunet.job import (
    NetworkSize,
    Schedule,
    TrainingCase,
    TrainingData,
    TrainingJob,
    TrainingOptions,
    hash_cases,
    make_job,
)
from tumorgen_cli.nnunet.on_the_fly.settings import FOLDER, Painting
from tumorgen_cli.nnunet.results import FINAL
from tumorgen_cli.nnunet.runner import is_trained, loader_workers, results_folder, run_job
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import usable_cores
from tumorgen_cli.system.errors import TumorgenError, one_line
from tumorgen_cli.system.files import write_text
from tumorgen_cli.system.json_records import hash_value, read_plain, read_record, write_json

PREDICTIONS = "predictions"
_SCHEDULE = "schedule.json"


def prepared_folder(root: Path, cases: int) -> Path:
    return root / "nnunet" / f"real_{cases}"


def run_folder(root: Path, cases: int, arm: str, seed: int) -> Path:
    return prepared_folder(root, cases) / "runs" / f"{arm}_seed{seed}"


@dataclass(frozen=True)
class Task:
    """A run to be made: its folder, its job and what is told of it."""

    arm: str
    cases: int
    seed: int
    folder: Path
    data: TrainingData
    job: TrainingJob
    pairs: int
    real_share: float

    @property
    def name(self) -> str:
        return f"{self.arm}, {self.cases} real cases, seed {self.seed}"


def repeats(real: int, pairs: int, real_share: float) -> int:
    """How often a real case stands among the training cases so that `real_share` of what is drawn is real; at least once."""
    return max(1, round(real_share / (1 - real_share) * pairs / real)) if pairs else 1


def attained_share(design: Design) -> float:
    """Of real cases in what is drawn, as near to the design's as repeating them comes."""
    repeated = repeats(1, design.ratio, design.real_share)
    return repeated / (repeated + design.ratio)


def train_and_score(
    root: Path,
    plan: Plan,
    design: Design,
    data: TrainingData,
    pairs: Mapping[str, Sequence[TrainingCase]],
    paintings: Mapping[str, Path],
    kind: str,
    jobs: int | None,
    size: NetworkSize | None,
) -> tuple[list[TrainedNnunet], list[Failure]]:
    """The runs of one number of real cases, arm after arm within a seed, so that what there is early is comparable; and those that failed."""
    count = len(data.train)
    folder = prepared_folder(root, count)
    named = {arm: pairs.get(arm, ()) for arm in design.arms if arm == REAL or arm in pairs or arm in paintings}
    tasks = []
    for seed in range(design.seeds):
        for arm, extra in named.items():
            real = [case.name for case in data.train] * repeats(count, len(extra), design.real_share)
            names = [*real, *(case.name for case in extra)]
            options = TrainingOptions(design.minutes, seed, kind, plan.precision, size)  # type: ignore[arg-type]
            job = make_job(data, folder, options, names, extra)
            share = len(real) / len(names)
            if arm in paintings:
                job, share = _live(job, paintings[arm]), attained_share(design)
            tasks.append(
                Task(arm, count, seed, run_folder(root, count, arm, seed), data, job, len(extra), round(share, 4))
            )
    runs = {task.name: run for task in tasks if (run := _finished(task)) is not None}
    missing = [task for task in tasks if task.name not in runs]
    failures = []
    untrained = [task for task in missing if not is_trained(task.folder)]  # of the others scores are to be made alone
    if untrained:
        everything = [case for extra in named.values() for case in extra]
        options = TrainingOptions(design.minutes, 0, kind, plan.precision, size)  # type: ignore[arg-type]
        prepare = make_job(data, folder, options, (), everything)
        try:
            run_job(data, folder, prepare, "preprocessing pairs")
        except TumorgenError as failed:  # what was trained before is no worse for it
            failures = [Failure(task.arm, count, f"seed {task.seed}: {one_line(failed)}") for task in untrained]
            missing = [task for task in missing if task not in untrained]
            console.warn(f"{count} real cases: {one_line(failed)}")
    if kind == "cuda":
        import torch

        torch.cuda.empty_cache()  # what methods held is nnU-Net's now
    for task, error in _trained(missing, root, design.minutes, kind, jobs):
        try:
            if error is not None:
                raise error
            schedule = read_record(Schedule, _schedule_file(task.folder), "delete the run's folder")
            write_json(task.folder / _SCHEDULE, schedule)
            runs[task.name] = _score(task, plan, schedule, kind)
        except TumorgenError as failed:  # the other runs are no worse for it
            failures.append(Failure(task.arm, count, f"seed {task.seed}: {one_line(failed)}"))
            console.warn(f"{task.name}: {one_line(failed)}")
    return [runs[task.name] for task in tasks if task.name in runs], failures


def _live(job: TrainingJob, file: Path) -> TrainingJob:
    """The job with painting; where workspace and hosts lie is no part of what it is made of."""
    painting = read_record(Painting, file, "run the command again")
    made_of = replace(painting, work="", healthy=None, roi=None, device="auto")
    return replace(job, painting=str(file), inputs_hash=hash_value([job.inputs_hash, made_of]))


def _finished(task: Task) -> TrainedNnunet | None:
    """The run's scores where it was made of the same; what was made of something else gives way, and comes back when it is asked for."""
    folder, own = task.folder, task.job.inputs_hash
    path, begun = folder / "run.json", folder / "inputs.txt"
    found = _run_in(folder).inputs_hash if path.is_file() else begun.read_text() if begun.is_file() else own
    if found != own:
        console.note(f"{task.name}: what was made from other cases, pairs or settings is kept as {folder.name}_{found}")
        folder.rename(folder.with_name(f"{folder.name}_{found}"))
    kept = folder.with_name(f"{folder.name}_{own}")
    if kept.is_dir() and not folder.is_dir():
        kept.rename(folder)
    if path.is_file():
        return _run_in(folder)
    write_text(begun, own)
    return None


def _run_in(folder: Path) -> TrainedNnunet:
    return read_record(TrainedNnunet, folder / "run.json", "delete the run's folder")


def _trained(
    tasks: Sequence[Task], root: Path, minutes: float, kind: str, jobs: int | None
) -> Iterator[tuple[Task, TumorgenError | None]]:
    """Yields each task when its nnU-Net is trained, or with why it is not; `jobs` at a time, each on a GPU of its own where there are some.

    The first training of so many minutes on such a device measures how many steps they are; the others take as many.
    """
    devices = _devices(kind, jobs)
    left = list(tasks)
    while left and measured_schedule(root, minutes, kind) is None:
        task = left.pop(0)
        yield task, _attempt(task, task.job, task.name, devices[0])
    schedule = measured_schedule(root, minutes, kind)
    waiting: queue.Queue[Task] = queue.Queue()
    done: queue.Queue[tuple[Task, TumorgenError | None] | Exception] = queue.Queue()
    for task in left:
        waiting.put(task)

    def work(variables: Mapping[str, str]) -> None:
        while True:
            try:
                task = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                title = task.name if len(devices) == 1 else None
                done.put((task, _attempt(task, replace(task.job, schedule=schedule), title, variables)))
            except Exception as error:  # noqa: BLE001 - whatever it is: who waits for this thread would wait for ever
                done.put(error)
                return

    for variables in devices:  # daemons: when this process ends so do they, and with them the children
        threading.Thread(target=work, args=(variables,), daemon=True).start()
    for _ in left:
        found = done.get()
        if isinstance(found, Exception):
            raise found
        if len(devices) > 1 and found[1] is None:
            console.note(f"trained: {found[0].name}")
        yield found


def _attempt(task: Task, job: TrainingJob, title: str | None, variables: Mapping[str, str]) -> TumorgenError | None:
    """Has the task's nnU-Net trained; why it is not, where that is a user's to mend."""
    try:
        run_job(task.data, task.folder, job, title, variables)
    except TumorgenError as error:
        return error
    return None


def measured_schedule(root: Path, minutes: float, kind: str) -> Schedule | None:
    """What the minutes came to on such a device, by any training that has begun; None before the first."""
    for path in sorted(root.glob("nnunet/*/runs/*/job.json")):
        job = read_plain(path, "delete the run's folder")
        measured = _schedule_file(path.parent)
        if (job["minutes"], job["device"]) == (minutes, kind) and measured.is_file():
            return read_record(Schedule, measured, "delete the run's folder")
    return None


def _schedule_file(folder: Path) -> Path:
    """What the minutes of a run came to: nnU-Net's, and from the end of training on the run's own, so that checkpoints may be deleted."""
    kept = folder / _SCHEDULE
    return kept if kept.is_file() else results_folder(folder) / "fold_all" / _SCHEDULE


def _devices(kind: str, jobs: int | None) -> list[dict[str, str]]:
    """Variables of each of the trainings that run at a time: a GPU, or a share of the cores."""
    if kind == "cuda":
        import torch

        given = os.environ.get("CUDA_VISIBLE_DEVICES")  # a scheduler's, or the user's, share of the machine
        gpus = (given.split(",") if given else [str(i) for i in range(torch.cuda.device_count())])[
            : torch.cuda.device_count()
        ]
        jobs = jobs or len(gpus)
        workers = str(loader_workers(jobs))
        return [{"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)].strip(), "nnUNet_n_proc_DA": workers} for i in range(jobs)]
    jobs = jobs or 1
    return [{"OMP_NUM_THREADS": str(max(1, usable_cores() // jobs))}] * jobs if jobs > 1 else [{}]


def forget_stale_scores(root: Path, data: TrainingData, tolerance_mm: float) -> None:
    """Removes the scores that are of other held-out files, another tolerance or another form; the nnU-Nets stay, to be scored again."""
    path = root / "held_out.json"
    ignored = [data.ignored] if "ignore" in data.labels else []
    now = hash_value([SCORES, hash_cases(data.test), data.tumor_name, tolerance_mm, *ignored])
    if not path.is_file() or read_plain(path, "delete it") != now:
        for scores in root.glob("nnunet/*/runs/*/run.json"):
            scores.unlink()
        write_json(path, now)


def _score(task: Task, plan: Plan, schedule: Schedule, kind: str) -> TrainedNnunet:
    """Predicts the held-out cases in their own grid, keeps the masks, and records the scores."""
    import torch

    from tumorgen_cli.judge.model import Judge

    results = results_folder(task.folder)
    model = Judge(results, torch.device(kind), task.data.tumor_name, plan.precision)
    patients = []
    for case in task.data.test:
        image, grid = read_image(case.images)
        labels, _ = read_volume(case.label)
        truth = labels == task.data.labels[task.data.tumor_name]
        found = model.tumor(image, grid) & (labels != task.data.ignored)
        write_volume(task.folder / PREDICTIONS / f"{case.name}{task.data.file_ending}", found.astype(np.uint8), grid)
        patients.append(score_patient(case.name, found, truth, grid.spacing_mm, plan.tolerance_mm))
    steps, seconds = (
        schedule.epochs * schedule.iterations,
        torch.load(results / "fold_all" / FINAL, map_location="cpu", weights_only=True)["seconds"],
    )
    painted = results / "fold_all" / FOLDER / "provenance.jsonl"
    pairs = painted.read_text().count("\n") if painted.is_file() else task.pairs
    run = TrainedNnunet(
        task.arm,
        task.cases,
        task.seed,
        pairs,
        task.real_share,
        steps,
        round(seconds / 60, 2),
        task.job.inputs_hash,
        tuple(patients),
    )
    write_json(task.folder / "run.json", run)
    return run
