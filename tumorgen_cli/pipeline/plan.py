"""Stage `plan`: data set -> fingerprint, splits and plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tumorgen_cli.data.contents import hash_contents
from tumorgen_cli.data.dataset import Dataset, find_dataset, read_dataset
from tumorgen_cli.data.splits import make_splits
from tumorgen_cli.methods.registry import METHODS, find_method
from tumorgen_cli.planning import rules
from tumorgen_cli.planning.fields import check_overrides, plan_fields
from tumorgen_cli.planning.fingerprint import Fingerprint, content_hash, make_fingerprint
from tumorgen_cli.planning.options import PlanOptions
from tumorgen_cli.planning.plan import Plan, make_plan
from tumorgen_cli.planning.planned_data import read_contents
from tumorgen_cli.planning.presets import read_overrides
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName, find_budget
from tumorgen_cli.system.errors import Fault, StateError
from tumorgen_cli.system.json_records import read_plain, read_record, write_json
from tumorgen_cli.system.locks import locked


def plan_dataset(
    workspace: Workspace,
    name: str,
    options: PlanOptions = PlanOptions(),
    device: DeviceName = "auto",
    workers: int | None = None,
) -> Plan:
    """Check, fingerprint and plan a data set; write the fingerprint, the splits and the plan.

    Args:
        workspace: Where the plan is written.
        name: The nnU-Net raw data set: a path, or an id or name under `$nnUNet_raw`.
        options: What the user decides; the rules decide the rest.
        device: The device to plan for.
        workers: Processes that read the files; None for a number by cores and memory, 0 for none but this one.

    Raises:
        DataError: the data set has faults.
        PlanError: a preset, setting or fold that cannot be used.
        StateError: the workspace belongs to another data set.
    """
    overrides = read_overrides(options.preset, options.settings)
    if options.seed is not None:
        overrides["seed"] = (options.seed, "--seed")
    dataset = read_dataset(find_dataset(name), options.tumor_label)
    known = plan_fields(len(dataset.channel_names), {method: find_method(method).section for method in METHODS})
    check_overrides(overrides, known)
    with locked(workspace.root, "plan"):
        check_owner(workspace, dataset.path)
        fingerprint = _fingerprint(workspace, dataset, workers)
        before = workspace.splits() if workspace.splits_file.is_file() else None
        splits = make_splits(dataset, options.fold, before)
        sections = {method: find_method(method).plan_section for method in METHODS}
        budget = find_budget(device, options.memory_gib)
        plan = make_plan(fingerprint, splits.train, budget, sections, overrides)
        for method in METHODS:  # values of a section may not fit together
            find_method(method)(plan, workspace)
        write_json(workspace.splits_file, splits)
        write_json(workspace.plan_file, plan)
    _warn_of_small_tumors(fingerprint, plan)
    _warn_of_foreign_windows(fingerprint, plan)
    return plan


def _warn_of_foreign_windows(fingerprint: Fingerprint, plan: Plan) -> None:
    """Warn where the clip window of a preset is in other units than the scans."""
    for facts, channel in zip(fingerprint.channels, plan.channels, strict=True):
        covered = min(facts.high, channel.high) - max(facts.low, channel.low)
        if covered < 0.2 * (channel.high - channel.low):
            console.warn(
                f"channel {channel.name}: intensities from {facts.low:.4g} to {facts.high:.4g} fill little of "
                f"the clip window {channel.low:.4g} to {channel.high:.4g}; is the preset made for such scans?"
            )


def _warn_of_small_tumors(fingerprint: Fingerprint, plan: Plan) -> None:
    """Warn where the median tumor is too small for the working grid."""
    finer = rules.spacing_for_small_tumors(rules.extent_percentile_mm(fingerprint.tumors, 50), plan.window.spacing_mm)
    if finer is not None:
        wanted = ",".join(f"{s:.2g}" for s in finer)
        console.warn(
            "the median tumor is less than 1.5 latent cells wide, too small for a good mask, and memory allows no "
            "finer grid; plan with a finer grid and a smaller window, for example "
            f"--set window.spacing_mm=[{wanted}] --set window.shape=[48,48,48]"
        )


def check_owner(workspace: Workspace, dataset: Path) -> None:
    """Raise a `StateError` if the workspace belongs to another data set than the one in the folder `dataset`."""
    if workspace.fingerprint_file.is_file():
        found = str(read_plain(workspace.fingerprint_file, "delete it and plan again").get("path"))
        if found != str(dataset):
            remedy = "choose another folder with --work (one workspace, one data set)"
            fault = Fault(str(workspace.root), f"the workspace of {found}", str(dataset), remedy)
            raise StateError("The workspace belongs to another data set", [fault])


def _fingerprint(workspace: Workspace, dataset: Dataset, workers: int | None) -> Fingerprint:
    """Return the fingerprint on file if the data are unchanged, else make a new one, which checks every file."""
    if workspace.fingerprint_file.is_file():
        old = read_record(Fingerprint, workspace.fingerprint_file, "delete it and plan again")
        contents = hash_contents(dataset, read_contents(workspace))
        if old.tumor_name == dataset.tumor_name and old.content_hash == content_hash(dataset, contents):
            console.note("the data set is unchanged: its fingerprint is kept")
            write_json(workspace.contents_file, contents)
            return old
    with console.progress("checking and measuring", len(dataset.cases)) as tick:
        findings = make_fingerprint(dataset, workers, tick)
    for line in findings.notes:
        console.warn(line)
    write_json(workspace.contents_file, findings.contents)
    write_json(workspace.fingerprint_file, findings.fingerprint)
    return findings.fingerprint


def plan_rows(plan: Plan) -> list[tuple[str, str, str, str]]:
    """Rows to print, one per plan field: field, value, rule (and source, where it is not the rule), inputs."""
    rows = []
    for d in plan.decisions:
        rule = d.rule if d.source == "rule" else f"{d.source} (rule: {d.rule})"
        rows.append((d.field, _short(d.value), rule, ", ".join(f"{k} {_short(v)}" for k, v in d.inputs.items())))
    latent = "×".join(map(str, plan.window.latent_shape))
    rows.insert(
        0, ("window.latent_shape", latent, "a quarter of the window per axis", f"window {_short(plan.window.shape)}")
    )
    return rows


def _short(value: Any) -> str:
    """Format a value for a narrow column."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ("×" if all(isinstance(v, (int, float)) for v in value) else " ").join(_short(v) for v in value)
    return str(value)
