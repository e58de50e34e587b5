"""Data sets of some cases only, and workspaces to learn from them.

Writes raw data sets with links to the images and copies of the labels.
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


def subset_workspace(
    workspace: Workspace, cases: Sequence[str], folder: Path, device: DeviceName, seed: int | None = None
) -> Workspace:
    """Return the workspace in `folder` for some cases of another workspace's data set, preprocessed like it.

    Held-out cases stay held out, and its tumor-free scans are preprocessed too. It is planned from these cases, with
    the settings that were not left to the rules. An existing plan stays, because the user may have changed it.

    Args:
        workspace: The other workspace.
        cases: The cases.
        folder: The folder.
        device: The device that is planned for.
        seed: Seed of the plan. None: that of the other workspace.

    Raises:
        StateError: It was planned with other cases or held-out cases.
    """
    plan, inner = workspace.plan(), Workspace(folder)
    if inner.plan_file.is_file():
        _check_kept(workspace, inner, cases)
    dataset = read_dataset(find_dataset(plan.dataset_path), plan.tumor_name)
    path = write_subset(dataset, cases, inner.root / "cases_of" / dataset.name, workspace.splits())
    if not inner.plan_file.is_file():
        own = [f"{d.field}={json.dumps(d.value)}" for d in plan.decisions if d.source != "rule" and d.field != "seed"]
        options = PlanOptions(plan.tumor_name, plan.memory_gib, settings=own, seed=plan.seed if seed is None else seed)
        plan_dataset(inner, str(path), options, device)
    preprocess_dataset(inner)
    for healthy in healthy_folders(workspace):
        if healthy.is_dir():
            preprocess_healthy(inner, healthy)
        else:
            console.warn(f"{healthy} is missing: its scans are not used in {inner.root}")
    return inner


def _check_kept(workspace: Workspace, inner: Workspace, cases: Sequence[str]) -> None:
    """Check that a subset's workspace still has these cases, and warn where its plan has other settings."""
    outer, found = workspace.splits(), inner.splits()
    wanted = {*outer.train} & {*cases}, {*outer.test} & {*cases}, dict(outer.patients)
    if ({*found.train}, {*found.test}, dict(found.patients)) != wanted:
        fault = Fault(
            str(inner.root),
            "other cases to learn from or held out, or other patients",
            "those of the present splits",
            "delete this folder, then run the same command again",
        )
        raise StateError("A workspace of some cases does not match the splits", [fault])
    settings, kept = (
        {d.field: d.value for d in each.plan().decisions if d.source != "rule" and d.field != "seed"}
        for each in (workspace, inner)
    )
    other = sorted(field for field in {*settings, *kept} if settings.get(field) != kept.get(field))
    if other:
        console.warn(
            f"{inner.root} keeps its own plan, with other {', '.join(other)}; "
            f"delete the folder to plan as in {workspace.root}"
        )
