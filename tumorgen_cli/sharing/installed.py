"""The installed models: folders of one user, each a workspace without scans.

They lie in `$TUMORGEN_MODELS`, else in the user's data folder. To remove a model, delete its folder.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path

from tumorgen_cli.data.checks import ENDINGS
from tumorgen_cli.methods.registry import METHODS, find_method
from tumorgen_cli.planning.fingerprint import Fingerprint
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.sublabels import read_sublabel_rule
from tumorgen_cli.sharing.archive import parse_record, read_archive, sum_file
from tumorgen_cli.sharing.record import RECORD, ModelRecord, model_name_faults
from tumorgen_cli.system.errors import DataError, Fault, PlanError, StateError, TumorgenError, did_you_mean
from tumorgen_cli.system.files import free_bytes, scratch_folder
from tumorgen_cli.system.json_records import read_plain, write_json

FOLDER = "TUMORGEN_MODELS"
_AS_EXPORTED = "ask for the file as `tumorgen export` wrote it, of this version of TumorGen"
_INSTALL_AGAIN = "delete the folder, and install the model again with `tumorgen install`"


def models_folder() -> Path:
    """Where installed models lie; the folder need not exist."""
    if named := os.environ.get(FOLDER):
        return Path(named)
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "tumorgen" / "models"


def read_record(folder: Path) -> ModelRecord:
    """The record of an installed model.

    Raises:
        StateError: it is missing or damaged.
    """
    path = folder / RECORD
    try:
        return parse_record(read_plain(path, _INSTALL_AGAIN), str(path))
    except DataError as error:
        faults = [replace(fault, remedy=_INSTALL_AGAIN) for fault in error.faults]
        raise StateError("An installed model is damaged", faults) from error


def installed_models() -> dict[str, Path]:
    """The folders of the installed models by name, in the order of their names."""
    return {path.parent.name: path.parent for path in sorted(models_folder().glob(f"[!.]*/{RECORD}"))}


def find_model(name: str, results: Path | None = None) -> tuple[Workspace, ModelRecord]:
    """The workspace and the record of an installed model.

    Args:
        name: its name.
        results: where sets that it paints are written.

    Raises:
        StateError: there is no such model, it is damaged, or it is for another version of its method.
    """
    known = installed_models()
    if name not in known:
        found = f"no such model among {', '.join(known) or 'none'} in {models_folder()}"
        remedy = did_you_mean(name, [*known]) or "install it with `tumorgen install MODEL.zip`; `tumorgen models` lists"
        raise StateError("The model is not installed", [Fault(f"--model {name}", found, "an installed model", remedy)])
    record = read_record(known[name])
    if faults := version_faults(record, str(known[name])):
        raise StateError("The model is of another version", faults)
    return Workspace(known[name], results), record


def version_faults(record: ModelRecord, where: str) -> list[Fault]:
    """The faults of a model of another version: a method that is unknown here, or weights that mean something else."""
    remedy = f"use tumorgen {record.versions.get('tumorgen', 'of then')}, or ask for a model of this version"
    if record.method not in METHODS:
        return [Fault(f"{where}: method", record.method, f"one of {', '.join(METHODS)}", remedy)]
    formats = dict(find_method(record.method).format_versions)
    if formats != record.weight_formats:
        return [Fault(f"{where}: weights of format", str(record.weight_formats), str(formats), remedy)]
    return []


def install_model(path: Path, name: str | None = None) -> tuple[Path, ModelRecord]:
    """Install a model from its zip file.

    Everything is checked before the model gets its place: the zip (`read_archive`), the plan, and that every weight
    fits the plan's networks. Nothing of it is executed.

    Args:
        path: the zip file.
        name: its name here; None: the one that it was exported with.

    Returns:
        Its folder and its record.

    Raises:
        DataError: the file is no model, is damaged, or does not fit together.
        StateError: another model of this name is installed, or there is too little space.
    """
    root = models_folder()
    needed = path.stat().st_size
    if free_bytes(root) < needed:
        remedy = f"free some space, or name another folder in ${FOLDER}"
        fault = Fault(str(root), f"{free_bytes(root):,} bytes free", f"{needed:,} for the model", remedy)
        raise StateError("No space left", [fault])
    with scratch_folder(root) as scratch:
        fresh = scratch / "model"
        record = read_archive(path, fresh)
        check_model(fresh, record, str(path))
        if name is not None:
            if faults := model_name_faults("--name", name):
                raise PlanError("The model cannot have this name", faults)
            record = replace(record, name=name)
            write_json(fresh / RECORD, record)
        return _put_in_place(fresh, root / record.name, record), record


def _put_in_place(fresh: Path, folder: Path, record: ModelRecord) -> Path:
    """Give a model its place; one that is there already with the same files stays.

    Raises:
        StateError: another one is there.
    """
    if folder.exists():
        same = (folder / RECORD).is_file() and read_record(folder).files == record.files
        if same and all(sum_file(folder / file) == known for file, known in record.files.items()):
            return folder
        remedy = "choose another name with --name, or delete this folder first"
        fault = Fault(str(folder), f"another model {record.name!r}", "a new name, or the same model", remedy)
        raise StateError("A model of this name is installed", [fault])
    fresh.rename(folder)
    return folder


def check_model(folder: Path, record: ModelRecord, where: str) -> None:
    """Check that a model's plan, facts and weights fit together and its method; no memory for networks is taken.

    Args:
        folder: the model's files.
        record: its record.
        where: the zip file, for error messages.

    Raises:
        DataError: they do not.
    """
    if faults := version_faults(record, where):
        raise DataError("The model is of another version", faults)
    workspace = Workspace(folder)
    try:
        plan, training = workspace.plan(), workspace.fingerprint().of(workspace.splits().train)
        faults = _plan_faults(plan, training, record, where)
        if not isinstance(plan.tumor_label, int):
            read_sublabel_rule(workspace)
        if not faults:
            _load_without_memory(record.method, plan, workspace)
    except TumorgenError as error:
        faults = [
            replace(fault, where=fault.where.replace(str(folder), where), remedy=_AS_EXPORTED) for fault in error.faults
        ]
    if faults:
        raise DataError("The model does not fit together", faults)


def _plan_faults(plan: Plan, training: Fingerprint, record: ModelRecord, where: str) -> list[Fault]:
    """The faults of a plan that contradicts the record, or would lead files out of their folder."""
    channels = ", ".join(channel.name for channel in plan.channels)
    compared = {
        "file_ending": (plan.file_ending in ENDINGS, plan.file_ending, f"one of {', '.join(ENDINGS)}"),
        "tumor_name": (plan.tumor_name == record.tumor, plan.tumor_name, record.tumor),
        "channels": (channels == ", ".join(record.channels), channels, ", ".join(record.channels)),
        "fingerprint": (bool(training.tumors), "no training tumor", "tumors to paint like"),
    }
    return [
        Fault(f"{where}: {name}", found[:200], expected, _AS_EXPORTED)
        for name, (fits, found, expected) in compared.items()
        if not fits
    ]


def _load_without_memory(method: str, plan: Plan, workspace: Workspace) -> None:
    """Load a method's weights into networks that take no memory: their names and shapes are compared.

    Raises:
        TumorgenError: they do not fit.
    """
    import torch

    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that no weight is copied
        find_method(method)(plan, workspace, "meta").load()
