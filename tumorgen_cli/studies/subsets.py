"""Data sets of some cases alone, and workspaces to learn from them.

Writes raw data sets of hard links where the disk allows, else copies.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tumorgen_cli import console
from tumorgen_cli.dataset import Dataset, find_dataset, read_dataset
from tumorgen_cli.devices import DeviceName
from tumorgen_cli.errors import Fault, StateError
from tumorgen_cli.files import link_or_copy, read_plain, write_json
from tumorgen_cli.pipeline import healthy_folders, plan_dataset, preprocess_dataset, preprocess_healthy
from tumorgen_cli.workspace import Splits, Workspace


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
        plan_dataset(inner, str(path), plan.tumor_name, device, plan.memory_gib, settings=own, seed=plan.seed)
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
        fault = Fault(str(inner.root), "other cases to learn from, or held out", "those of the present splits", "delete the folder and run again")
        raise StateError("A workspace of some cases is stale", [fault])
    wanted, kept = ({d.field: d.value for d in each.plan().decisions if d.source != "rule" and d.field != "seed"} for each in (workspace, inner))
    other = sorted(field for field in {*wanted, *kept} if wanted.get(field) != kept.get(field))
    if other:
        console.warn(f"{inner.root} keeps its own plan, with other {', '.join(other)}; delete the folder to plan as in {workspace.root}")


def write_subset(dataset: Dataset, cases: Sequence[str], out: Path, splits: Splits | None = None) -> Path:
    """A raw data set of some cases of another, for commands that take a data set or a folder of scans; returns `out`.

    With `splits` it has a `splits_final.json` that holds out the same of its cases. Files of other cases are removed from `out`.
    """
    (out / "dataset.json").unlink(missing_ok=True)
    wanted = {out / "labelsTr" / dataset.label_file(case).name: dataset.label_file(case) for case in cases}
    wanted |= {out / "imagesTr" / path.name: path for case in cases for path in dataset.image_files(case)}
    for stray in {*out.glob("imagesTr/*"), *out.glob("labelsTr/*")} - {*wanted}:
        stray.unlink()
    for target, source in wanted.items():
        link_or_copy(source, target)
    if splits is not None:
        kept = {key: [case for case in group if case in set(cases)] for key, group in (("train", splits.train), ("val", splits.test))}
        write_json(out / "splits_final.json", [kept])
    plain = read_plain(dataset.path / "dataset.json", "it was there a moment ago")
    write_json(out / "dataset.json", {**plain, "numTraining": len(cases)})
    return out
