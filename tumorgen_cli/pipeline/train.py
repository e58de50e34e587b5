"""Training as a command: which stage, is what it needs there, is it done. Imports neither SimpleITK nor nnunetv2."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from tumorgen_cli import console
from tumorgen_cli.devices import DeviceName, find_device
from tumorgen_cli.errors import Fault, PlanError, StateError, few
from tumorgen_cli.files import hash_file, locked, read_plain, unknown_name, write_json
from tumorgen_cli.methods import find_method
from tumorgen_cli.methods.method import INITIAL, Method
from tumorgen_cli.plan import Plan
from tumorgen_cli.training import Run, train
from tumorgen_cli.windows import is_done
from tumorgen_cli.workspace import Splits, Workspace


def check_preprocessed(workspace: Workspace, plan: Plan, splits: Splits) -> None:
    """Sees that every case of the splits is preprocessed by this plan.

    Raises:
        StateError: cases are missing or stale.
    """
    missing = [case for case in (*splits.train, *splits.test) if not is_done(plan, case, workspace.cases / case)]
    if missing:
        found = f"{len(missing)} cases missing or made by another plan ({few(missing)})"
        raise StateError("Cases are not preprocessed", [Fault(str(workspace.cases), found, "every case", "run `tumorgen preprocess`")])


def open_method(workspace: Workspace, name: str, device: DeviceName) -> Method:
    """The method of a workspace on a device, its plan and cases checked."""
    plan = workspace.plan()
    check_preprocessed(workspace, plan, workspace.splits())
    return find_method(name)(plan, workspace, find_device(device).type)


def train_stage(
    workspace: Workspace,
    method_name: str,
    stage: str,
    iterations: int | None = None,
    device: DeviceName = "auto",
    restart: bool = False,
    initial: Path | None = None,
) -> Run | None:
    """Trains one stage, or sees that it is finished.

    Raises:
        StateError: an earlier stage is missing or stale, or this one is stale.
    """
    method = open_method(workspace, method_name, device)
    if stage not in method.stages:
        raise PlanError(f"{method_name} has no such stage", [unknown_name("", stage, (*method.stages, "all", "judge"))])
    for before in method.stages[: method.stages.index(stage)]:
        if not method.trained(before):
            remedy = f"run `tumorgen train {before}` (with --restart if the plan has changed)"
            raise StateError("An earlier stage is not ready", [Fault(before, "not trained, or stale", "a finished run", remedy)])
    folder = method.folder(stage)
    own = (folder / "run.json").is_file()  # or it is off, or part of an earlier stage
    if method.trained(stage, iterations or method.planned_iterations(stage)) and not (restart and own):
        console.note(f"{stage}: already trained")
        return None
    first = os.environ.get("RANK", "0") == "0"  # the first process of a run, on whatever node, holds the lock for all
    with locked(workspace.root, f"train {stage}") if first else contextlib.nullcontext():
        made = method.stage(stage, iterations, initial)
        if first and (restart or not (folder / "last.pt").is_file()):
            (folder / "run.json").unlink(missing_ok=True)  # what it began with is no longer told
            _note_initial(workspace, folder, initial)
        return train(made, folder, method.device, method.plan.precision, restart)


def _note_initial(workspace: Workspace, folder: Path, initial: Path | None) -> None:
    """Writes down what a stage begins with, and which of the workspace's cases that has seen, by their names, where it is a workspace's own."""
    path = folder / INITIAL
    path.unlink(missing_ok=True)
    if initial is None or not initial.is_file():
        return
    found = [parent for parent in initial.resolve().parents if (parent / "splits.json").is_file()]
    seen, before = {*Workspace(found[0]).splits().train} if found else set(), initial.parent / INITIAL
    if before.is_file():
        seen |= {*read_plain(before, "train the stage again")["cases"]}
    own = {facts.case for facts in workspace.fingerprint().cases}
    write_json(path, {"file": str(initial), "hash": hash_file(initial), "cases": sorted(seen & own)})


def train_stages(
    workspace: Workspace,
    method_name: str,
    stage: str,
    iterations: int | None = None,
    device: DeviceName = "auto",
    restart: bool = False,
    initial: Path | None = None,
    seed: int | None = None,
) -> list[Run]:
    """Trains `stage`, or every stage of the method in order for `all`; returns the runs made now.

    Raises:
        PlanError: `seed` is not the plan's, on which every trained stage depends.
    """
    planned = workspace.plan().seed
    if seed is not None and seed != planned:
        fault = Fault(f"--seed {seed}", f"the plan's seed is {planned}", "the same", f"plan again with --seed {seed}, or leave it out")
        raise PlanError("Training draws by the plan's seed", [fault])
    stages = find_method(method_name).stages if stage == "all" else (stage,)
    runs = [train_stage(workspace, method_name, each, iterations, device, restart, initial if each == stages[0] else None) for each in stages]
    return [run for run in runs if run is not None]
