"""Stage `plan`: data set -> fingerprint, splits and plan."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from tumorgen_cli.data.contents import Contents, hash_contents
from tumorgen_cli.data.dataset import Dataset, find_dataset, read_dataset
from tumorgen_cli.data.patients import find_patients, read_patients
from tumorgen_cli.data.splits import Splits, make_splits
from tumorgen_cli.methods.registry import METHODS, find_method
from tumorgen_cli.pipeline.plan_summary import Planned, tell_changes, warn_of_doubts
from tumorgen_cli.planning.fields import check_overrides, plan_fields
from tumorgen_cli.planning.fingerprint import Fingerprint, content_hash, make_fingerprint
from tumorgen_cli.planning.options import PlanOptions
from tumorgen_cli.planning.plan import make_plan
from tumorgen_cli.planning.planned_data import read_contents
from tumorgen_cli.planning.presets import read_overrides
from tumorgen_cli.planning.workspace import Workspace, check_planned
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName, find_budget
from tumorgen_cli.system.errors import Fault, PlanError, StateError
from tumorgen_cli.system.json_records import read_fields, write_json
from tumorgen_cli.system.locks import locked

_DELETE = "delete it and plan again"


def plan_dataset(
    workspace: Workspace,
    name: str,
    options: PlanOptions = PlanOptions(),
    device: DeviceName = "auto",
    workers: int | None = None,
    dry_run: bool = False,
) -> Planned:
    """Check, fingerprint and plan a data set; write the fingerprint, the splits and the plan.

    Args:
        workspace: Where the plan is written.
        name: The nnU-Net raw data set: a path, or an id or name under `$nnUNet_raw`.
        options: What the user decides; the rules decide the rest.
        device: The device to plan for.
        workers: Processes that read the files; None for a number by cores and memory, 0 for none but this one.
        dry_run: Write nothing. What would change in the plan on file is told.

    Returns:
        The plan, and what it was made from.

    Raises:
        DataError: the data set, or the file of its patients, has faults.
        PlanError: a preset, setting or fold that cannot be used.
        StateError: the workspace belongs to another data set.
    """
    overrides = read_overrides(options.preset, options.settings)
    if options.seed is not None:
        overrides["seed"] = (options.seed, "--seed")
    dataset = read_dataset(find_dataset(name), options.tumor_label)
    if options.groups is not None:
        read_patients(options.groups, dataset.cases)  # faults are told before the files are measured, which takes long
    known = plan_fields(len(dataset.channel_names), {method: find_method(method).section for method in METHODS})
    check_overrides(overrides, known)
    with contextlib.nullcontext() if dry_run else locked(workspace.root, "plan"):
        fingerprint, contents = _fingerprint(workspace, dataset, workers)
        before = _read_splits(workspace)
        patients = find_patients(dataset, options.groups, before.patients if before else None)
        splits = make_splits(dataset, options.fold, before, patients)
        sections = {method: find_method(method).plan_section for method in METHODS}
        budget = find_budget(device, options.memory_gib)
        plan = make_plan(fingerprint, splits.train, budget, sections, overrides)
        for method in METHODS:  # values of a section may not fit together
            find_method(method)(plan, workspace)
        tell_changes(workspace, plan)
        if not dry_run:
            write_json(workspace.contents_file, contents)
            write_json(workspace.fingerprint_file, fingerprint)
            write_json(workspace.splits_file, splits)
            write_json(workspace.plan_file, plan)
    planned = Planned(plan, fingerprint, splits)
    warn_of_doubts(planned)
    return planned


def read_planned(workspace: Workspace) -> Planned:
    """Read the plan of a workspace, and what it was made from."""
    check_planned(workspace.root)
    return Planned(workspace.plan(), workspace.fingerprint(), workspace.splits())


def check_owner(workspace: Workspace, dataset: Path, same_content: bool = False) -> None:
    """Check that a workspace belongs to the data set in a folder.

    A data set that was moved or copied is still known: by its content, or by its name if the old folder is gone.

    Args:
        workspace: The workspace; it may be empty.
        dataset: The folder of the data set.
        same_content: Whether the content is that of the workspace's data set.

    Raises:
        StateError: the workspace belongs to another data set.
    """
    if not workspace.fingerprint_file.is_file():
        return
    found = Path(read_fields(workspace.fingerprint_file, _DELETE, path=str)["path"])
    if found == dataset:
        return
    if not same_content and (found.is_dir() or found.name != dataset.name):
        remedy = "choose another folder with --work (one workspace, one data set)"
        fault = Fault(str(workspace.root), f"the workspace of {found}", str(dataset), remedy)
        raise StateError("The workspace belongs to another data set", [fault])
    console.note(f"the data set was in {found}; the workspace follows it to {dataset}")


def _fingerprint(workspace: Workspace, dataset: Dataset, workers: int | None) -> tuple[Fingerprint, Contents]:
    """Return the fingerprint on file if the data are unchanged, else make a new one, which checks every file."""
    old = _read_fingerprint(workspace)
    contents = {} if old is None else hash_contents(dataset, read_contents(workspace))
    same = old is not None and old.content_hash == content_hash(dataset, contents)
    check_owner(workspace, dataset.path, same)
    if old is not None and same and old.tumor_name == dataset.tumor_name:
        console.note("the data set is unchanged: its fingerprint is kept")
        return replace(old, dataset=dataset.name, path=str(dataset.path)), contents
    with console.progress("checking and measuring", len(dataset.cases)) as tick:
        findings = make_fingerprint(dataset, workers, tick)
    for line in findings.notes:
        console.warn(line)
    return findings.fingerprint, findings.contents


def _read_fingerprint(workspace: Workspace) -> Fingerprint | None:
    """Read the fingerprint on file; None if there is none, or one that cannot be used, which is replaced."""
    if not workspace.fingerprint_file.is_file():
        return None
    try:
        return workspace.fingerprint()
    except (PlanError, StateError):
        console.note("the fingerprint is of another version or damaged: the data set is measured again")
        return None


def _read_splits(workspace: Workspace) -> Splits | None:
    """Read the splits of an earlier plan; None if there is none.

    Raises:
        StateError: they are damaged. To plan again is the remedy of other commands; here the file is in the way.
    """
    try:
        return workspace.splits() if workspace.splits_file.is_file() else None
    except (PlanError, StateError) as error:
        faults = [replace(fault, where=str(workspace.splits_file), remedy=_DELETE) for fault in error.faults]
        raise StateError("The splits on file cannot be used", faults) from error
