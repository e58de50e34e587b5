"""The data set of a plan, and whether its files are still those that were planned with.

`contents.json` of a workspace holds the content of each file (`data.contents`). It may be deleted: all files are then
hashed again.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from tumorgen_cli.data.contents import Contents, changed_files, hash_contents
from tumorgen_cli.data.dataset import Dataset, find_dataset, read_dataset
from tumorgen_cli.planning.fingerprint import content_hash
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.workspace import Workspace, model_fault
from tumorgen_cli.system.errors import Fault, StateError, TumorgenError, abbreviate_list
from tumorgen_cli.system.json_records import read_record, write_json


def read_planned_dataset(workspace: Workspace, plan: Plan) -> Dataset:
    """Read the data set that was planned, and check that no file has changed.

    Every command that reads the data set calls this. Files of the same size and time of modification are not read.

    Raises:
        StateError: the data set is not there, as that of a model, or files have changed since planning, or what
            dataset.json says of them.
        DataError: its dataset.json is faulty.
    """
    if workspace.is_model:
        raise StateError("A model has no data set", [model_fault(workspace.root)])
    if not Path(plan.dataset_path).is_dir():
        remedy = (
            f"put it back, or run `tumorgen plan DATASET -w {workspace.root}` with its path now: "
            "files that are the same make nothing stale"
        )
        fault = Fault(plan.dataset_path, "no such folder", "the planned data set", remedy)
        raise StateError("The data set is not where it was", [fault])
    dataset = read_dataset(find_dataset(plan.dataset_path), plan.tumor_name)
    known = read_contents(workspace)
    now = hash_contents(dataset, known)
    if content_hash(dataset, now) != plan.fingerprint_hash:
        names = changed_files(known, now) if known else []
        what = f"{len(names)} file{'s' * (len(names) > 1)} changed" if names else "changed"
        found = f"{what} since planning" + (f": {abbreviate_list(names)}" if names else "")
        remedy = f"put the files back, or run `tumorgen plan {plan.dataset_path} -w {workspace.root}`"
        raise StateError("The data set has changed", [Fault(plan.dataset_path, found, "the planned data", remedy)])
    if now != known:
        with contextlib.suppress(StateError):  # a workspace that cannot be written: the files are hashed each time
            write_json(workspace.contents_file, now)
    return dataset


def read_contents(workspace: Workspace) -> Contents:
    """Read the content of the planned files; empty if it is not known, or damaged: it is then made again."""
    try:
        return read_record(Contents, workspace.contents_file, "")
    except TumorgenError:
        return {}
