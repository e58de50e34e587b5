"""Data sets of some cases alone, and workspaces to learn from them.

Writes raw data sets of hard links where the disk allows, else copies.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tumorgen_cli.data.dataset import find_dataset, read_dataset
from tumorgen_cli.data.subsets import write_subset
from tumorgen_cli.pipeline.plan import plan_dataset
from tumorgen_cli.pipeline.preprocess import healthy_folders, preprocess_dataset, preprocess_healthy
from tumorgen_cli.planning.options import PlanOptions
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName
from tumorgen_cli.system.errors import Fault, StateError


def subset_workspace(workspace: Workspace, cases: Sequence[str], folder: Path, device: DeviceName) -> Workspace:
    """The workspace in `folder` for some cases of another's data set, preprocessed as are its tumor-free scans. What was held out still is.

    It is planned anew from these cases, with the settings that were not left to the rules; where it is planned already the
    plan stays: a user may have changed it.

    Raises:
        StateError: it was planned when other cases were held out.
    """
    plan, inner = workspace.plan(), Workspace(folder)
    if inner.plan_file.is_file():
        _check_kept(workspace, inner, cases)
    dataset = read_dataset(find_dataset(plan.dataset_path), plan.tumor_name)
    path = write_subset(dataset, cases, inner.root / "cases_of" / dataset.name, workspace.splits())
    if not inner.plan_file.is_file():
        own = [f"{d.field}={json.dumps(d.value)}" for d in plan.decisions if d.source != "rule"]
        options = PlanOptions(plan.tumor_name, plan.memory_gib, settings=own, seed=plan.seed)
        plan_dataset(inner, str(path), options, device)
    preprocess_dataset(inner)
    for healthy in healthy_folders(workspace):
        if healthy.is_dir():
            preprocess_healthy(inner, healthy)
        else:
            console.warn(f"{healthy} is gone: its scans are not learnt from in {inner.root}")
    return inner


def _check_kept(workspace: Workspace, inner: Workspace, cases: Sequence[str]) -> None:
    """Sees that a subset's workspace still is of these cases, and warns where its plan is of other settings."""
    outer, found = workspace.splits(), inner.splits()
    if ({*found.train}, {*found.test}) != ({*outer.train} & {*cases}, {*outer.test} & {*cases}):
        fault = Fault(
            str(inner.root),
            "other cases to learn from, or held out",
            "those of the present splits",
            "delete the folder and run again",
        )
        raise StateError("A workspace of some cases is stale", [fault])
    wanted, kept = (
        {d.field: d.value for d in each.plan().decisions if d.source != "rule" and d.field != "seed"}
        for each in (workspace, inner)
    )
    other = sorted(field for field in {*wanted, *kept} if wanted.get(field) != kept.get(field))
    if other:
        console.warn(
            f"{inner.root} keeps its own plan, with other {', '.join(other)}; delete the folder to plan as in {workspace.root}"
        )
