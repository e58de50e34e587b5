"""Stage `train`: preprocessed cases -> trained networks, or a judge.

What is finished is not trained again. Importing this module imports neither SimpleITK nor nnunetv2.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from accelerate import PartialState

from tumorgen_cli.methods.base import HEALTHY, INITIAL, Method, read_healthy
from tumorgen_cli.methods.open import open_method
from tumorgen_cli.methods.registry import METHODS, find_method
from tumorgen_cli.methods.shortfalls import find_shortfalls
from tumorgen_cli.pipeline.hints import command_line, quote
from tumorgen_cli.planning.planned_data import read_planned_dataset
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.cases import HealthyScan
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName
from tumorgen_cli.system.errors import Fault, PlanError, StateError
from tumorgen_cli.system.files import hash_file
from tumorgen_cli.system.json_records import read_fields, unknown_name_fault, write_json
from tumorgen_cli.system.locks import locked
from tumorgen_cli.training.checkpoints import (
    forget_damaged_run,
    read_checkpoint,
    restart_folder,
    settle_restart,
)
from tumorgen_cli.training.loggers import LoggerName, TrainingLogger, check_logger
from tumorgen_cli.training.loop import train
from tumorgen_cli.training.stage import Stage, StageRun
from tumorgen_cli.training.watch import Watcher, following

if TYPE_CHECKING:
    from tumorgen_cli.judge.card import JudgeRecord


@dataclass(frozen=True)
class StageOptions:
    """How stages are trained, beside the plan.

    Attributes:
        initial: Checkpoints whose weights stages start with, by stage.
        log: A logger that gets the numbers of the log, too.
    """

    initial: Mapping[str, Path] = field(default_factory=dict)
    log: LoggerName | None = None


def train_own_judge(
    workspace: Workspace, minutes: float, device: DeviceName, seed: int | None, restart: bool
) -> JudgeRecord:
    """Train an nnU-Net on the training cases of the workspace, as its judge, and score it on the held-out cases."""
    from tumorgen_cli.judge.domain import make_domain
    from tumorgen_cli.judge.train import train_judge
    from tumorgen_cli.nnunet.job import TrainingOptions, device_kind, training_data

    plan = workspace.plan()
    data = training_data(read_planned_dataset(workspace, plan), workspace.splits())
    seed = plan.seed if seed is None else seed
    options = TrainingOptions(minutes, seed, device_kind(device), plan.precision)
    domain = make_domain(workspace.fingerprint().of(workspace.splits().train))
    return train_judge(data, workspace.judge, options, plan.tolerance_mm, plan.fingerprint_hash, domain, restart)


def train_stage(
    workspace: Workspace,
    method_name: str,
    stage: str,
    iterations: int | None = None,
    device: DeviceName = "auto",
    restart: bool = False,
    options: StageOptions = StageOptions(),
) -> StageRun | None:
    """Train one stage; a stage that is finished is not trained again.

    A stage that is trained again from the beginning is trained in a folder beside its own (`Method.training_folder`),
    which takes the place of the earlier run when it is finished.

    Args:
        workspace: The workspace, planned and preprocessed.
        method_name: The method that the stage belongs to.
        stage: Name of the stage.
        iterations: Training steps in all. None: as many as the plan says.
        device: Where to train.
        restart: Train from the beginning, also if the stage is finished. A restart that was stopped goes on.
        options: The checkpoint that the stage starts from, and a logger.

    Returns:
        The run, or None if the stage was finished before.

    Raises:
        PlanError: the method has no such stage, or a checkpoint is given for one that always starts from random
            weights.
        StateError: an earlier stage is missing or stale, this stage is stale, or the logger cannot be opened.
    """
    check_logger(options.log)
    method, initial = open_method(workspace, method_name, device), options.initial.get(stage)
    _check_stage(method, stage, initial)
    folder, planned = method.folder(stage), method.planned_iterations(stage)
    first = _is_first()  # it holds the lock for all
    in_turn = PartialState(cpu=method.device == "cpu").main_process_first  # the others see what the first one changes
    with locked(workspace.root, f"train {stage}") if first else contextlib.nullcontext():
        with in_turn():
            settle_restart(folder)
            damage = None if restart else forget_damaged_run(folder)
        if damage is not None and first:
            faults = "; ".join(f"{fault.where}: {fault.found}" for fault in damage.faults)
            console.warn(f"{stage} is trained from its last checkpoint on, or again: {faults}")
        own, begun = (folder / "run.json").is_file(), restart_folder(folder).is_dir()
        if not begun and not (restart and own) and method.trained(stage, iterations or planned):
            console.note(f"{stage}: already trained")
            return None
        target = folder
        if restart or begun or (own and not (folder / "last.pt").is_file()):
            target = restart_folder(folder)
            if first and not restart:
                console.note(f"{stage}: trained again from the beginning; to keep the old weights, delete {target}")
        if first and (later := _stages_made_from(method, stage)):
            names = " and ".join(filter(None, [", ".join(later[:-1]), later[-1]]))
            console.warn(
                f"{stage} gets new weights: {names}, trained from the present ones, and sets painted with them will "
                "then be outdated"
            )
        made = method.stage(stage, iterations, initial)
        with in_turn():
            if first and restart and not _is_begun(target, made, initial):
                shutil.rmtree(target, ignore_errors=True)
            if first and not (target / "last.pt").is_file():
                _note_initial(workspace, target, initial)
                _note_healthy(method, stage, target, initial)
        again = command_line(_continue_words(stage, iterations, device, options), workspace.root, method.name)
        with following(_watchers(method, made, target, options.log, again) if first else ()) as tell:
            run = train(made, target, method.device, method.plan.precision, planned, tell)
        with in_turn():
            settle_restart(folder)
        return run


def _continue_words(stage: str, iterations: int | None, device: DeviceName, options: StageOptions) -> str:
    """The words of the command that continues a training as it was begun; it needs no --restart."""
    given = {
        "--iterations": iterations,
        "--init": options.initial.get(stage) and quote(options.initial[stage]),
        "--log": options.log,
        "--device": None if device == "auto" else device,
    }
    return " ".join([f"train {stage}", *(f"{name} {value}" for name, value in given.items() if value is not None)])


def _watchers(method: Method, stage: Stage, folder: Path, log: LoggerName | None, command: str) -> list[Watcher]:
    """Who follows the training of a stage in a folder: a logger if one is wanted, and the page.

    `command` continues the training.
    """
    from tumorgen_cli.evaluation.reports.training import PAGE, TrainingPage

    facts = {"data set": method.plan.dataset, "method": method.name, "plan": method.plan_hash}
    console.note(f"{stage.name}: curves and previews come to {folder / PAGE}")
    page: list[Watcher] = [TrainingPage(facts | {"items in a batch": str(stage.batch)}, command)]
    if log is None:
        return page
    numbers = {"stage": stage.name, "iterations": stage.iterations, "batch": stage.batch}
    return [TrainingLogger(log, f"{method.plan.dataset} {method.name} {stage.name}", facts | numbers), *page]


def _check_stage(method: Method, stage: str, initial: Path | None) -> None:
    """Check that a stage can be trained.

    Raises:
        PlanError: the method has no such stage, or `initial` is given for one that always starts from random weights.
        StateError: an earlier stage is missing or stale.
    """
    if stage not in method.stages:
        fault = unknown_name_fault("", stage, (*method.stages, "all", "judge"))
        raise PlanError(f"{method.name} has no such stage", [fault])
    if initial is not None and stage not in method.initial_stages:
        known = ", ".join(method.initial_stages) or f"no stage of {method.name}"
        fault = Fault(f"--init {initial}", f"{stage} always starts from random weights", known, "leave it out")
        raise PlanError("A stage that takes no first weights", [fault])
    for before in method.needed(stage):
        if not method.trained(before):
            remedy = f"run `tumorgen train {before}` (with --restart if the plan has changed)"
            raise StateError(
                "An earlier stage is not ready", [Fault(before, "not trained, or stale", "a finished run", remedy)]
            )


def _stages_made_from(method: Method, stage: str) -> list[str]:
    """The trained stages, of any method, that are outdated once a stage has new weights."""
    found: dict[Path, str] = {}
    for name in METHODS:
        if name != method.name and not (method.workspace.root / "runs" / name).is_dir():
            continue
        other, folder = find_method(name)(method.plan, method.workspace), method.folder(stage)
        for each in (each for each in other.stages if folder in map(other.folder, other.needed(each))):
            with contextlib.suppress(StateError):  # a damaged record: that stage is trained again anyway
                if (other.folder(each) / "run.json").is_file() and other.trained(each):
                    found[other.folder(each)] = each
    return list(found.values())


def _is_begun(folder: Path, stage: Stage, initial: Path | None) -> bool:
    """Whether a folder holds an unfinished training of this stage, from the same inputs and the same first weights."""
    try:
        saved = read_checkpoint(folder / "last.pt", "")
        known = read_fields(folder / INITIAL, "")["hash"] if (folder / INITIAL).is_file() else None
    except StateError:  # damaged: it begins again
        return False
    given = None if initial is None else hash_file(initial)
    return saved is not None and saved["inputs_hash"] == stage.inputs_hash and known == given


def _note_initial(workspace: Workspace, folder: Path, initial: Path | None) -> None:
    """Record the weights a stage starts with and the cases of this data set that those weights have learned from.

    The cases are known by name, and only if the weights come from a workspace.
    """
    path = folder / INITIAL
    path.unlink(missing_ok=True)
    if initial is None or not initial.is_file():
        return
    found = [parent for parent in initial.resolve().parents if (parent / "splits.json").is_file()]
    seen, before = {*Workspace(found[0]).splits().train} if found else set(), initial.parent / INITIAL
    if before.is_file():
        seen |= {*read_fields(before, "give other weights", cases=tuple[str, ...])["cases"]}
    own = {facts.case for facts in workspace.fingerprint().cases}
    write_json(path, {"file": str(initial), "hash": hash_file(initial), "cases": sorted(seen & own)})


def _note_healthy(method: Method, stage: str, folder: Path, initial: Path | None) -> None:
    """Record the scans without labels that a stage learns from, and those of the weights that it starts with."""
    before = () if initial is None else read_healthy(initial.parent)
    own = (HealthyScan(record.case, record.scan) for record in method.healthy_records(stage))
    (folder / HEALTHY).unlink(missing_ok=True)
    if seen := tuple(dict.fromkeys((*before, *own))):
        write_json(folder / HEALTHY, seen)


def train_stages(
    workspace: Workspace,
    method_name: str,
    stage: str,
    iterations: int | None = None,
    device: DeviceName = "auto",
    restart: bool = False,
    options: StageOptions = StageOptions(),
    seed: int | None = None,
) -> list[StageRun]:
    """Train `stage`, or every stage of the method in order for `all`; return the runs that were made now.

    For the arguments see `train_stage`. With `all`, a stage that is outdated because an earlier stage was trained now
    is trained again from the beginning.

    What makes the trained weights too weak to rely on is told (`find_shortfalls`).

    Raises:
        PlanError: `seed` is not the seed of the plan, on which every trained stage depends.
        StateError: the package of the logger is missing.
    """
    check_logger(options.log)
    planned = workspace.plan().seed
    if seed is not None and seed != planned:
        remedy = f"plan again with --seed {seed}, or leave it out"
        fault = Fault(f"--seed {seed}", f"the plan's seed is {planned}", "the same", remedy)
        raise PlanError("Training draws by the plan's seed", [fault])
    method = find_method(method_name)(workspace.plan(), workspace)
    stages = method.stages if stage == "all" else (stage,)
    runs: list[StageRun] = []
    _warn_of_shortfalls(method, [*takewhile(lambda each: each not in stages, method.stages)])
    for each in stages:
        again = not restart and bool(runs) and method.outdated(each)  # an earlier stage has new weights
        if again and _is_first():
            console.note(f"{each}: trained again from the beginning, from the new weights of the stages before it")
            restart_folder(method.folder(each)).mkdir(parents=True, exist_ok=True)  # after a stop, it goes on
        run = train_stage(workspace, method_name, each, iterations, device, restart or again, options)
        if run is not None:
            numbers = "".join(f", {name} {value:.4g}" for name, value in run.numbers.items())
            console.note(f"{each}: {run.iterations} steps in {console.clock(run.seconds)}{numbers}")
            runs.append(run)
        _warn_of_shortfalls(method, (each,))
    return runs


def _is_first() -> bool:
    """Whether this is the only process of a training, or the first of several."""
    return os.environ.get("RANK", "0") == "0"


def _warn_of_shortfalls(method: Method, stages: Sequence[str]) -> None:
    """Tell, in one process, what makes the weights of finished stages too weak to rely on."""
    for text in find_shortfalls(method, stages) if _is_first() else ():
        console.warn(text)
