"""The nnU-Nets of `downstream`: several at a time, resumed where they stopped, and scored.

Writes `nnunet/real_N/` of the folder it is given: what nnU-Net prepared, and `runs/NAME_seedK/` with run.json and
predictions of the held-out cases.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tumorgen_cli.data.labels import mask_of
from tumorgen_cli.data.patients import patient_of
from tumorgen_cli.data.volumes import read_image, read_volume, write_volume
from tumorgen_cli.evaluation.design import Design
from tumorgen_cli.evaluation.gains import SCORES, Failure, TrainedNnunet
from tumorgen_cli.evaluation.scan_scores import ScanScore
from tumorgen_cli.metrics.lesions import FalsePositive, LesionScore, score_lesions
from tumorgen_cli.metrics.overlap import Verdict, compare_masks
from tumorgen_cli.nnunet.job import ExtraCase, NetworkSize, Schedule, TrainingData, hash_cases
from tumorgen_cli.nnunet.on_the_fly.settings import FOLDER
from tumorgen_cli.nnunet.results import FINAL
from tumorgen_cli.nnunet.runner import is_trained, loader_workers, results_folder, run_job
from tumorgen_cli.nnunet.schedule import scale_schedule
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.studies.downstream_tasks import PRETRAINING, Point, Task, prepared_folder, task_name
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import share_devices
from tumorgen_cli.system.errors import Fault, StateError, TumorgenError, one_line
from tumorgen_cli.system.files import write_text
from tumorgen_cli.system.json_records import hash_value, read_fields, read_plain, read_record, write_json
from tumorgen_cli.system.names import check_names

PREDICTIONS = "predictions"
_SCHEDULE = "schedule.json"
_DELETE = "delete the run's folder: the same command makes the run again"


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
    root: Path, plan: Plan, design: Design, point: Point, tasks: Sequence[Task], machine: Machine
) -> tuple[list[TrainedNnunet], list[Failure]]:
    """Train and score the nnU-Nets of one draw of the real cases.

    Args:
        root: The `downstream` folder of the workspace.
        plan: The plan of the workspace.
        design: What is compared.
        point: The draw of the real cases.
        tasks: The trainings.
        machine: Where they train.

    Returns:
        The finished trainings in the order of the tasks, and those that failed.
    """
    runs = {task.name: run for task in tasks if (run := _finished(task)) is not None}
    missing = [task for task in tasks if task.name not in runs]
    failures = []
    untrained = [task for task in missing if not is_trained(task.folder)]  # the other ones only lack their scores
    if untrained:
        try:
            _prepare(root, point, untrained)
        except TumorgenError as failed:  # trained nnU-Nets are still scored
            failures = [_failure(task, failed) for task in untrained]
            missing = [task for task in missing if task not in untrained]
            console.warn(f"{point.title}: {one_line(failed)}")
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
            failures.append(_failure(task, failed))
            console.warn(f"{task.name}: {one_line(failed)}")
    return [runs[task.name] for task in tasks if task.name in runs], failures


def _prepare(root: Path, point: Point, tasks: Sequence[Task]) -> None:
    """Preprocess the real cases, and what is drawn beside them, before several trainings start at the same time."""
    folder = prepared_folder(root, point.name)
    extra: dict[str, ExtraCase] = {}
    for task in tasks:
        for job in filter(None, (task.job, task.before)):
            extra |= {case.name: case for case in job.extra}
    job = replace(tasks[0].before or tasks[0].job, train=(), aside=(), extra=tuple(extra.values()), painting=None)
    run_job(point.data, folder, job, "preprocessing pairs")


def _failure(task: Task, error: TumorgenError) -> Failure:
    """Return the record of a training that failed."""
    subset = f"subset {task.point.subset}, " if task.point.subset else ""
    return Failure(task.variant.name, task.point.cases, f"{subset}seed {task.seed}: {one_line(error)}")


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
    variant = replace(task.variant, arm=replace(task.variant.arm, name=run.arm), hosts=run.hosts, painting=run.painting)
    found = task_name(variant.name, replace(task.point, cases=run.cases, subset=run.subset).title, run.seed)
    wanted = task.name
    if found != wanted:
        raise StateError("A run is another one", [Fault(str(path), found, wanted, _DELETE)])
    return run


def _trained(
    tasks: Sequence[Task], root: Path, minutes: float, machine: Machine
) -> Iterator[tuple[Task, TumorgenError | None]]:
    """Yield each task when its nnU-Net is trained, or with its error.

    As many train at the same time as the machine allows, each on its own GPU where there are GPUs. The first training
    with this number of minutes on this kind of device measures the number of steps; all others take as many, or the
    multiple of them that their arm asks for.
    """
    devices = list_devices(machine.kind, machine.jobs)
    left = list(tasks)
    for task in [task for task in tasks if task.job.times == 1 and task.before is None]:
        if measured_schedule(root, minutes, machine.kind) is not None:
            break
        left.remove(task)
        yield task, _attempt(task, None, task.name, devices[0])
    schedule = measured_schedule(root, minutes, machine.kind)
    if left and schedule is None:
        yield from ((task, _unmeasured(minutes)) for task in left)
        return
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
                done.put((task, _attempt(task, schedule, title, variables)))
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


def _unmeasured(minutes: float) -> StateError:
    """Return the error of a training whose length is unknown."""
    found = f"no training of {minutes:g} minutes, whose length this one follows"
    return StateError(
        "The length is unknown", [Fault("real arm", found, "one", "correct it and run the command again")]
    )


def _attempt(
    task: Task, schedule: Schedule | None, title: str | None, variables: Mapping[str, str]
) -> TumorgenError | None:
    """Train the nnU-Net of a task; return an error that the user can correct, else None."""
    job = replace(task.job, schedule=None if schedule is None else scale_schedule(schedule, task.job.times))
    try:
        if task.before is not None and not is_trained(task.folder):
            first = task.folder / PRETRAINING
            run_job(task.point.data, first, replace(task.before, schedule=job.schedule), title, variables)
            job = replace(job, initial=str((results_folder(first) / "fold_all" / FINAL).resolve()))
        run_job(task.point.data, task.folder, job, title, variables)
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
        length = job.get("minutes"), job.get("device"), job.get("times", 1.0)
        if length == (minutes, kind, 1.0) and measured.is_file():
            return read_record(Schedule, measured, _DELETE)
    return None


def _schedule_file(folder: Path) -> Path:
    """Return the file with the schedule of a training.

    It is nnU-Net's file during training, and the run's own copy after it, so that checkpoints may be deleted.
    """
    kept = folder / _SCHEDULE
    return kept if kept.is_file() else results_folder(folder) / "fold_all" / _SCHEDULE


def list_devices(kind: str, jobs: int | None) -> list[dict[str, str]]:
    """Return the environment variables of each training that runs at the same time: a GPU, or a share of the cores."""
    found = share_devices(kind, jobs)
    workers = {"nnUNet_n_proc_DA": str(loader_workers(len(found)))} if kind == "cuda" else {}
    return [each | workers for each in found]


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
    data = task.point.data
    model = Judge(results, torch.device(kind), data.tumor_name, plan.precision)
    scans = []
    for case in data.test:
        image, grid = read_image(case.images)
        labels, _ = read_volume(case.label)
        truth = mask_of(labels, data.tumor_label)
        found, probability = model.tumor_with_probability(image, grid)
        found &= labels != data.ignored
        prediction = task.folder / PREDICTIONS / f"{case.name}{data.file_ending}"
        write_volume(prediction, found, grid, like=case.images[0])
        verdict = compare_masks(truth, found, grid.spacing_mm, plan.tolerance_mm)
        found_lesions = score_lesions(found, probability, truth, grid.spacing_mm)
        scans.append(_scan_score(task, schedule, case.name, verdict, found_lesions))
    checkpoint = torch.load(results / "fold_all" / FINAL, map_location="cpu", weights_only=True)
    painted = results / "fold_all" / FOLDER / "provenance.jsonl"
    pairs = painted.read_text().count("\n") if painted.is_file() else task.pairs
    run = TrainedNnunet(
        arm=task.variant.arm.name,
        cases=task.point.cases,
        seed=task.seed,
        pairs=pairs,
        real_share=task.real_share,
        iterations=schedule.epochs * schedule.iterations,
        minutes=round(checkpoint["seconds"] / 60, 2),
        inputs_hash=task.job.inputs_hash,
        scans=tuple(scans),
        hosts=task.variant.hosts,
        subset=task.point.subset,
        painting=task.variant.painting,
        curve=tuple(round(float(value), 4) for value in checkpoint.get("curve", ())),
    )
    write_json(task.folder / "run.json", run)
    return run


def _scan_score(
    task: Task,
    schedule: Schedule,
    scan: str,
    verdict: Verdict,
    found: tuple[tuple[LesionScore, ...], tuple[FalsePositive, ...]],
) -> ScanScore:
    """Return the row of a training and a test scan; `found` is from `score_lesions`."""
    lesions, false_positives = found
    dsc, nsd = (round(value, 4) if lesions else None for value in (verdict.dice, verdict.surface_dice))
    return ScanScore(
        arm=task.variant.arm.name,
        cases=task.point.cases,
        hosts=task.variant.hosts,
        subset=task.point.subset,
        painting=task.variant.painting,
        seed=task.seed,
        scan=scan,
        patient=patient_of(scan, task.point.patients),
        healthy=not lesions,
        dsc=dsc,
        nsd=nsd,
        iterations=schedule.epochs * schedule.iterations,
        plateau_iterations=None,
        lesions=lesions,
        false_positives=false_positives,
    )
