"""Stage `export`: a trained method of a workspace -> one file that travels without scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tumorgen_cli.data.patients import patient_of
from tumorgen_cli.data.splits import Splits
from tumorgen_cli.geometry import as_triple
from tumorgen_cli.methods.base import HEALTHY, Method
from tumorgen_cli.methods.latent.autoencoder import load_cases
from tumorgen_cli.methods.latent.cache import find_candidates
from tumorgen_cli.methods.latent.condition import PATIENT_BUFFERS, Condition
from tumorgen_cli.methods.mask_prior import needs_donors, training_masks, write_donors
from tumorgen_cli.methods.open import open_method
from tumorgen_cli.methods.shortfalls import find_shortfalls
from tumorgen_cli.planning.fingerprint import Fingerprint
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.healthy import choose_evenly
from tumorgen_cli.preprocessing.sublabels import read_sublabel_rule
from tumorgen_cli.sharing.archive import sum_file, write_archive
from tumorgen_cli.sharing.card import model_card
from tumorgen_cli.sharing.figures import find_figures
from tumorgen_cli.sharing.membership import Membership, membership_test
from tumorgen_cli.sharing.options import ExportOptions
from tumorgen_cli.sharing.pooling import LEAST_PATIENTS, pool_buffers, pool_fingerprint
from tumorgen_cli.sharing.record import CARD, MODEL_FORMAT, LearnedData, ModelRecord, StageFacts, model_name_faults
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName
from tumorgen_cli.system.errors import Fault, PlanError, StateError
from tumorgen_cli.system.files import file_name, hash_file, scratch_folder, write_bytes, write_text
from tumorgen_cli.system.json_records import write_json
from tumorgen_cli.training.checkpoints import read_run

if TYPE_CHECKING:
    from tumorgen_cli.preprocessing.cases import Case

_MOST_CASES = 50  # of each side of the membership test: its interval is then about 0.1 wide to either side
_NO_LICENSE = "not stated: ask who gave it before you use it"


@dataclass(frozen=True)
class Exported:
    """A model that was written: its file, its size and its record."""

    path: str
    bytes: int
    record: ModelRecord


def export_model(
    workspace: Workspace,
    method_name: str,
    path: Path,
    options: ExportOptions = ExportOptions(),
    device: DeviceName = "auto",
) -> Exported:
    """Write a trained method as one file.

    Args:
        workspace: The workspace, with the method trained and the cases preprocessed.
        method_name: The method.
        path: The zip file; it must not exist.
        options: What is said of the model, and what of patients may go with it.
        device: Where the membership test computes.

    Raises:
        PlanError: a method that paints with scans, or that needs masks which are not to be given.
        DataError: fewer than three training cases.
        StateError: a stage is not trained, or a file is in the way.
    """
    name = options.name or file_name(path.stem)
    _check(workspace, path, name)
    method = open_method(workspace, method_name, device)
    _check_method(method, options)
    splits = workspace.splits()
    pooled = pool_fingerprint(workspace.fingerprint(), splits.train, splits.patients)
    weights = dict(method.load())
    stages = [stage for stage in method.stages if stage in weights]
    _check_current(method, stages)
    membership = _test_membership(method)
    with scratch_folder(path.parent) as folder:
        _write_facts(method, pooled, options, folder)
        for stage in stages:
            _write_stage(method, stage, options, folder)
        if needs_donors(method):
            write_donors(Workspace(folder).donors_file, training_masks(_training_cases(method)))
        record = _describe(method, name, options, pooled, stages)
        record = replace(record, sets=find_figures(workspace, method.name, weights), membership=membership)
        write_text(folder / CARD, model_card(record))
        names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
        record = replace(record, files={name: sum_file(folder / name) for name in names})
        write_archive(folder, record, path)
    if not record.sets:
        console.warn("no set of these weights is evaluated: the card has no scores (`tumorgen evaluate`, then export)")
    return Exported(str(path), path.stat().st_size, record)


def _check(workspace: Workspace, path: Path, name: str) -> None:
    """Check the file and the name.

    Raises:
        PlanError: the file is no zip, or the name is none.
        StateError: the file is there, or the workspace is an installed model.
    """
    faults = model_name_faults("--name", name)
    if path.suffix != ".zip":
        faults.append(Fault(str(path), "another ending", "MODEL.zip", "let the file's name end in .zip"))
    if faults:
        raise PlanError("The model cannot be written", faults)
    if path.exists():
        remedy = "choose another name for the file, or remove this one"
        raise StateError("A file is in the way", [Fault(str(path), "it exists", "a new file", remedy)])
    if workspace.is_model:
        remedy = "pass on the file that it was installed from"
        fault = Fault(str(workspace.root), "an installed model", "the workspace that it was trained in", remedy)
        raise StateError("There is nothing to export", [fault])


def _check_method(method: Method, options: ExportOptions) -> None:
    """Check that a method can paint without scans, and that what it needs of patients may be given.

    Raises:
        PlanError: it cannot, or may not.
    """
    if method.needs_scans:
        fault = Fault(
            f"--method {method.name}",
            "it paints with the voxels of training scans",
            "a method that has learned tumors",
            "export a method that paints without them, such as tumorgen",
        )
        raise PlanError("A model travels without scans", [fault])
    if needs_donors(method) and not options.donor_masks:
        fault = Fault(
            f"methods.{method.name}.mask.prior",
            "training: it draws from the masks of training tumors",
            "masks that may be given away",
            f"add --donor-masks, or plan with --set methods.{method.name}.mask.prior=ellipsoid and train again",
        )
        raise PlanError("The method needs masks of patients", [fault])


def _check_current(method: Method, stages: Sequence[str]) -> None:
    """Check that weights are those of the present cases and plan: the card and what is pooled are of these.

    Raises:
        StateError: a stage is outdated.
    """
    faults = [
        Fault(
            str(method.folder(stage)),
            "made from other data, another plan or other earlier stages",
            "weights of the present plan",
            f"train it again (`tumorgen train {stage} --restart`), or put the plan back that it was trained by",
        )
        for stage in stages
        if method.outdated(stage)
    ]
    if faults:
        raise StateError("Weights are outdated", faults)


def _training_cases(method: Method) -> list[Case]:
    return load_cases(method.workspace, method.workspace.splits().train)


def _test_membership(method: Method) -> Membership | None:
    """Compare the method's loss on training and on held-out tumors; None where it has none."""
    splits = method.workspace.splits()
    sides = [choose_evenly(cases, _MOST_CASES) for cases in (splits.train, splits.test)]
    losses: list[dict[str, tuple[float, ...]]] = [{}, {}]
    with console.progress("membership test", sum(map(len, sides))) as tick:
        for side, (cases, found) in enumerate(zip(sides, losses, strict=True)):
            for number, case in enumerate(cases, 1):
                found[case] = method.tumor_losses(case)
                tick(number + side * len(sides[0]), case)
    return membership_test(*losses)


def _write_facts(method: Method, pooled: Fingerprint, options: ExportOptions, folder: Path) -> None:
    """Write plan, pooled facts and splits without paths, inputs of decisions and names."""
    decisions = tuple(replace(decision, inputs={}) for decision in method.plan.decisions)
    target = Workspace(folder)
    write_json(target.plan_file, replace(method.plan, dataset_path="", decisions=decisions))
    write_json(target.fingerprint_file, pooled)
    if not isinstance(method.plan.tumor_label, int):
        write_json(target.sublabels_file, read_sublabel_rule(method.workspace))
    named = method.learned_from() if options.case_names else ()
    write_json(target.splits_file, Splits((*(case.case for case in pooled.cases), *named), ()))


def _write_stage(method: Method, stage: str, options: ExportOptions, folder: Path) -> None:
    """Write the weights and the record of a stage; what weights hold of single tumors is pooled."""
    import torch
    from safetensors.torch import load_file, save

    source = method.folder(stage)
    target = folder / source.relative_to(method.workspace.root)
    state = load_file(source / "weights.safetensors")
    held = {name: tensor.numpy() for name, tensor in state.items() if name.split(".")[-1] in PATIENT_BUFFERS}
    if held:
        cases = [candidate.case.record.case for candidate in find_candidates(_training_cases(method))]
        known = method.workspace.splits().patients
        pooled = pool_buffers(held, [patient_of(cases[row], known) for row in Condition.stored_rows(len(cases))])
        state |= {name: torch.from_numpy(values) for name, values in pooled.items()}
    write_bytes(target / "weights.safetensors", save(state))
    write_json(target / "run.json", replace(read_run(source), weights_hash=hash_file(target / "weights.safetensors")))
    if options.case_names and (source / HEALTHY).is_file():
        write_bytes(target / HEALTHY, (source / HEALTHY).read_bytes())


def _describe(
    method: Method, name: str, options: ExportOptions, pooled: Fingerprint, stages: Sequence[str]
) -> ModelRecord:
    """Describe a model, but for its files and what was measured of it."""
    plan, splits = method.plan, method.workspace.splits()
    channels = tuple(channel.name for channel in plan.channels)
    purpose = (
        f"Paints {plan.tumor_name} into {' and '.join(channels)} scans like those of {plan.dataset}, for research: "
    )
    purpose += "to train segmentation networks with."
    spacing, extent = (
        as_triple(map(float, np.median([getattr(case.grid, field) for case in pooled.cases], axis=0)))
        for field in ("spacing_mm", "extent_mm")
    )
    volumes = np.percentile([tumor.volume_ml for tumor in pooled.tumors], (10, 50, 90))
    runs = [read_run(method.folder(stage)) for stage in stages]
    return ModelRecord(
        format=MODEL_FORMAT,
        name=name,
        method=method.name,
        versions={package: version(package) for package in ("tumorgen", "torch", "monai")},
        weight_formats=dict(method.format_versions),
        date=datetime.now(timezone.utc).date().isoformat(),
        tumor=plan.tumor_name,
        channels=channels,
        purpose=options.purpose or purpose,
        license=options.license or _NO_LICENSE,
        data=LearnedData(
            dataset=plan.dataset,
            cases=len(splits.train),
            tumors=len(pooled.tumors),
            held_out=len(splits.test),
            healthy=len(method.learned_from_healthy()),
            spacing_mm=spacing,
            extent_mm=extent,
            volume_ml=as_triple(map(float, volumes)),
        ),
        stages=tuple(
            StageFacts(run.stage, run.iterations, run.planned_iterations, run.seconds, run.device, run.numbers)
            for run in runs
        ),
        shortfalls=find_shortfalls(method),
        sets=(),
        tested_loss=method.tested_loss,
        membership=None,
        left_out=tuple(_left_out(options)),
        holds=tuple(_holds(method, options)),
        files={},
    )


def _left_out(options: ExportOptions) -> list[str]:
    """What of the workspace is not in the model."""
    pooled = "tumors: sizes, intensities, surroundings, and what the networks store of them; scans: sizes, intensities"
    texts = [
        "All scans, labels and preprocessed windows, and the previews and logs of the training.",
        "Paths, places of tumors in scans, positions and directions of scans, and the inputs of the plan's decisions.",
        f"Values of single patients ({pooled}): each number is the mean of {LEAST_PATIENTS} or more patients.",
    ]
    names = "Names of cases, and hashes of scans without labels: merge cannot see which cases were learned from."
    return texts if options.case_names else [*texts, names]


def _holds(method: Method, options: ExportOptions) -> list[str]:
    """What of single patients is in the model all the same."""
    smallest = (
        f"half of the volume of the smallest training tumor (paste.smallest_ml, {method.plan.paste.smallest_ml:g} ml)"
    )
    texts = [
        "Weights, which were trained on every case: see what was tested.",
        f"The numbers of tumors of the cases, without names; {smallest}, unless it was set.",
        "Percentiles of the voxels of all scans, and the plan's numbers, which follow medians and percentiles.",
        "A hash of the data set's files, which tells nobody what is in them.",
    ]
    if not isinstance(method.plan.tumor_label, int):
        texts.append("The rule by which sub-labels of a tumor are chosen, fitted on the voxels of all training tumors.")
    if needs_donors(method):
        texts.append(
            "The masks of all training tumors, which the method draws from; without names, sorted by volume. Anyone "
            "who has a training case can find its masks among them."
        )
    if options.case_names:
        texts.append("The names of the training cases, and what identifies the scans without labels.")
    return texts
