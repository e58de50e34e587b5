"""The nnU-Nets of `downstream`: one per arm and seed, several at a time, resumed where they stopped, and scored.

Writes `nnunet/real_N/` of the folder it is given: what nnU-Net prepared, and `runs/ARM_seedK/` with run.json and
predictions of the held-out cases.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

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
from tumorgen_cli.system.errors import Fault, StateError, TumorgenError, one_line
from tumorgen_cli.system.files import write_text
from tumorgen_cli.system.json_records import hash_value, read_fields, read_plain, read_record, write_json
from tumorgen_cli.system.names import check_names

PREDICTIONS = "predictions"
_SCHEDULE = "schedule.json"
_DELETE = "delete the run's folder: the same command makes the run again"


def prepared_folder(root: Path, cases: int) -> Path:
    """Return the folder in which nnU-Net prepares a number of real cases."""
    return root / "nnunet" / f"real_{cases}"


def run_folder(root: Path, cases: int, arm: str, seed: int) -> Path:
    """Return the folder of one training."""
    return prepared_folder(root, cases) / "runs" / f"{arm}_seed{seed}"


@dataclass(frozen=True)
class Task:
    """A training to make: its folder, its job, and what its scores are recorded with."""

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
        """The training in words."""
        return f"{self.arm}, {self.cases} real cases, seed {self.seed}"


def repeats(real: int, pairs: int, real_share: float) -> int:
    """Return how often each real case is listed so that `real_share` of the drawn cases is real; at least once."""
    return max(1, round(real_share / (1 - real_share) * pairs / real)) if pairs else 1


def attained_share(design: Design) -> float:
    """Return the share of real cases among the drawn cases that repeating them can reach."""
    repeated = repeats(1, design.ratio, design.real_share)
    return repeated / (repeated + design.ratio)


@dataclass(frozen=True)
class ArmSources:
    """What arms learn from beside the real cases, by arm.

    Attributes:
        pairs: Their pairs.
        paintings: Of arms that paint during training, the file with the settings of the painting.
    """

    pairs: Mapping[str, Sequence[TrainingCase]]
    paintings: Mapping[str, Path]


@dataclass(frozen=True)
class Machine:
    """Where nnU-Nets train.

    Attributes:
        kind: Kind of the device.
        jobs: Number of trainings at the same time; None: one per GPU, or one.
        size: Size of nnU-Net on a CPU; None: nnU-Net's own.
    """

    kind: Literal["cpu", "cuda"]
    jobs: int | None
    size: NetworkSize | None


def train_and_score(
    root: Path, plan: Plan, design: Design, data: TrainingData, sources: ArmSources, machine: Machine
) -> tuple[list[TrainedNnunet], list[Failure]]:
    """Train and score the nnU-Nets of one number of real cases.

    All arms of a seed come before the next seed, so that arms can be compared early.

    Args:
        root: The `downstream` folder of the workspace.
        plan: The plan of the workspace.
        design: What is compared.
        data: The real training cases and the held-out cases.
        sources: What the arms learn from beside the real cases; an arm that is missing there is left out.
        machine: Where they train.

    Returns:
        The finished trainings in the order of the design, and those that failed.
    """
    count, tasks = len(data.train), _tasks(root, plan, design, data, sources, machine)
    runs = {task.name: run for task in tasks if (run := _finished(task)) is not None}
    missing = [task for task in tasks if task.name not in runs]
    failures = []
    untrained = [task for task in missing if not is_trained(task.folder)]  # the other ones only lack their scores
    if untrained:
        options = TrainingOptions(design.minutes, 0, machine.kind, plan.precision, machine.size)
        folder, everything = prepared_folder(root, count), [case for extra in sources.pairs.values() for case in extra]
        try:
            run_job(data, folder, make_job(data, folder, options, (), everything), "preprocessing pairs")
        except TumorgenError as failed:  # trained nnU-Nets are still scored
            failures = [Failure(task.arm, count, f"seed {task.seed}: {one_line(failed)}") for task in untrained]
            missing = [task for task in missing if task not in untrained]
            console.warn(f"{count} real cases: {one_line(failed)}")
    if machine.kind == "cuda":
        import torch

        torch.cuda.empty_cache()  # nnU-Net needs the memory that methods held
    for task, error in _trained(missing, root, design.minutes, machine):
        try:
            if error is not None:
                raise error
            schedule = read_record(Schedule, _schedule_file(task.folder), _DELETE)
            write_json(task.folder / _SCHEDULE, schedule)
            runs[task.name] = _score(task, plan, schedule, machine.kind)
        except TumorgenError as failed:  # the other trainings continue
            failures.append(Failure(task.arm, count, f"seed {task.seed}: {one_line(failed)}"))
            console.warn(f"{task.name}: {one_line(failed)}")
    return [runs[task.name] for task in tasks if task.name in runs], failures


def _tasks(
    root: Path, plan: Plan, design: Design, data: TrainingData, sources: ArmSources, machine: Machine
) -> list[Task]:
    """List the trainings of one number of real cases."""
    count, tasks = len(data.train), []
    arms = [arm for arm in design.arms if arm == REAL or arm in sources.pairs or arm in sources.paintings]
    for seed in range(design.seeds):
        for arm in arms:
            extra = sources.pairs.get(arm, ())
            real = [case.name for case in data.train] * repeats(count, len(extra), design.real_share)
            names = [*real, *(case.name for case in extra)]
            options = TrainingOptions(design.minutes, seed, machine.kind, plan.precision, machine.size)
            job, share = make_job(data, prepared_folder(root, count), options, names, extra), len(real) / len(names)
            if arm in sources.paintings:
                job, share = _live(job, sources.paintings[arm]), attained_share(design)
            folder = run_folder(root, count, arm, seed)
            tasks.append(Task(arm, count, seed, folder, data, job, len(extra), round(share, 4)))
    return tasks


def _live(job: TrainingJob, file: Path) -> TrainingJob:
    """Return the job with painting during training.

    The hash of its inputs does not cover where the workspace and the hosts are.
    """
    painting = read_record(Painting, file, "run the command again")
    made_of = replace(painting, work="", healthy=None, roi=None, device="auto")
    return replace(job, painting=str(file), inputs_hash=hash_value([job.inputs_hash, made_of]))


def _finished(task: Task) -> TrainedNnunet | None:
    """Read the scores of a training that was made from the same inputs; None if there are none.

    A folder made from other inputs is moved aside, and moved back when these inputs are requested again.
    """
    folder, own = task.folder, task.job.inputs_hash
    path, begun = folder / "run.json", folder / "inputs.txt"
    found = own
    if path.is_file():
        found = _run_in(task).inputs_hash
    elif begun.is_file():
        found = begun.read_text(encoding="utf-8", errors="replace")
        check_names(str(begun), [found], _DELETE)
    if found != own:
        console.note(f"{task.name}: what was made from other cases, pairs or settings is kept as {folder.name}_{found}")
        folder.rename(folder.with_name(f"{folder.name}_{found}"))
    kept = folder.with_name(f"{folder.name}_{own}")
    if kept.is_dir() and not folder.is_dir():
        kept.rename(folder)
    if path.is_file():
        return _run_in(task)
    write_text(begun, own)
    return None


def _run_in(task: Task) -> TrainedNnunet:
    """Read the training recorded in the folder of a task.

    Raises:
        StateError: it is the record of another training.
    """
    path = task.folder / "run.json"
    run = read_record(TrainedNnunet, path, _DELETE)
    check_names(str(path), [run.inputs_hash], _DELETE)
    found, wanted = (f"{each.arm}, {each.cases} real cases, seed {each.seed}" for each in (run, task))
    if found != wanted:
        raise StateError("A run is another one", [Fault(str(path), found, wanted, _DELETE)])
    return run


def _trained(
    tasks: Sequence[Task], root: Path, minutes: float, machine: Machine
) -> Iterator[tuple[Task, TumorgenError | None]]:
    """Yield each task when its nnU-Net is trained, or with its error.

    As many train at the same time as the machine allows, each on its own GPU where there are GPUs. The first training
    with this number of minutes on this kind of device measures the number of steps; all others take as many.
    """
    devices = _devices(machine.kind, machine.jobs)
    left = list(tasks)
    while left and measured_schedule(root, minutes, machine.kind) is None:
        task = left.pop(0)
        yield task, _attempt(task, task.job, task.name, devices[0])
    schedule = measured_schedule(root, minutes, machine.kind)
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
            except Exception as error:  # noqa: BLE001 - any error ends the wait for this thread, which would otherwise never end
                done.put(error)
                return

    for variables in devices:  # daemons: they and their children end with this process
        threading.Thread(target=work, args=(variables,), daemon=True).start()
    for _ in left:
        found = done.get()
        if isinstance(found, Exception):
            raise found
        if len(devices) > 1 and found[1] is None:
            console.note(f"trained: {found[0].name}")
        yield found


def _attempt(task: Task, job: TrainingJob, title: str | None, variables: Mapping[str, str]) -> TumorgenError | None:
    """Train the nnU-Net of a task; return an error that the user can correct, else None."""
    try:
        run_job(task.data, task.folder, job, title, variables)
    except TumorgenError as error:
        return error
    return None


def measured_schedule(root: Path, minutes: float, kind: str) -> Schedule | None:
    """Return the schedule that any training with these minutes on this kind of device has measured.

    It is None before the first training.
    """
    for path in sorted(root.glob("nnunet/*/runs/*/job.json")):
        job = read_fields(path, _DELETE)
        measured = _schedule_file(path.parent)
        if (job.get("minutes"), job.get("device")) == (minutes, kind) and measured.is_file():
            return read_record(Schedule, measured, _DELETE)
    return None


def _schedule_file(folder: Path) -> Path:
    """Return the file with the schedule of a training.

    It is nnU-Net's file during training, and the run's own copy after it, so that checkpoints may be deleted.
    """
    kept = folder / _SCHEDULE
    return kept if kept.is_file() else results_folder(folder) / "fold_all" / _SCHEDULE


def _devices(kind: str, jobs: int | None) -> list[dict[str, str]]:
    """Return the environment variables of each training that runs at the same time: a GPU, or a share of the cores."""
    if kind == "cuda":
        import torch

        given = os.environ.get("CUDA_VISIBLE_DEVICES")  # the GPUs that a scheduler or the user allows
        gpus = (given.split(",") if given else [str(i) for i in range(torch.cuda.device_count())])[
            : torch.cuda.device_count()
        ]
        jobs = jobs or len(gpus)
        workers = str(loader_workers(jobs))
        return [{"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)].strip(), "nnUNet_n_proc_DA": workers} for i in range(jobs)]
    jobs = jobs or 1
    return [{"OMP_NUM_THREADS": str(max(1, usable_cores() // jobs))}] * jobs if jobs > 1 else [{}]


def forget_stale_scores(root: Path, data: TrainingData, tolerance_mm: float) -> None:
    """Remove scores of other held-out files, of another tolerance or of another version.

    The trained nnU-Nets stay and are scored again.
    """
    path = root / "held_out.json"
    ignored = [data.ignored] if "ignore" in data.labels else []
    now = hash_value([SCORES, hash_cases(data.test), data.tumor_name, tolerance_mm, *ignored])
    if not path.is_file() or read_plain(path, "delete it") != now:
        for scores in root.glob("nnunet/*/runs/*/run.json"):
            scores.unlink()
        write_json(path, now)


def _score(task: Task, plan: Plan, schedule: Schedule, kind: str) -> TrainedNnunet:
    """Predict the held-out cases in their own grid, keep the masks, and record the scores."""
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
        prediction = task.folder / PREDICTIONS / f"{case.name}{task.data.file_ending}"
        write_volume(prediction, found, grid, like=case.images[0])
        patients.append(score_patient(case.name, found, truth, grid.spacing_mm, plan.tolerance_mm))
    checkpoint = torch.load(results / "fold_all" / FINAL, map_location="cpu", weights_only=True)
    painted = results / "fold_all" / FOLDER / "provenance.jsonl"
    pairs = painted.read_text().count("\n") if painted.is_file() else task.pairs
    run = TrainedNnunet(
        arm=task.arm,
        cases=task.cases,
        seed=task.seed,
        pairs=pairs,
        real_share=task.real_share,
        iterations=schedule.epochs * schedule.iterations,
        minutes=round(checkpoint["seconds"] / 60, 2),
        inputs_hash=task.job.inputs_hash,
        patients=tuple(patients),
    )
    write_json(task.folder / "run.json", run)
    return run
