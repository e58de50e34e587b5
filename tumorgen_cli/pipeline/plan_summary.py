"""What a plan says in ten lines, what is doubtful about it, and what it changes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tumorgen_cli.data.channels import describe_modality, modality
from tumorgen_cli.data.patients import group_cases
from tumorgen_cli.data.splits import Splits
from tumorgen_cli.data.volumes import working_grid
from tumorgen_cli.geometry import Grid, Shape, Triple, as_triple, describe_edges
from tumorgen_cli.planning import rules
from tumorgen_cli.planning.fingerprint import Fingerprint, TumorFacts
from tumorgen_cli.planning.plan import VAE_DOWNSAMPLING, Plan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import TumorgenError, abbreviate_list

_FLOAT_BYTES = 4
_MOST_CHANGES = 5
_FEW_CELLS = 1.5  # latent cells; the mask of a narrower tumor may vanish


@dataclass(frozen=True)
class Planned:
    """A plan, and the facts and cases that it was made from."""

    plan: Plan
    fingerprint: Fingerprint
    splits: Splits


def summarize_plan(planned: Planned, training_seconds: float) -> list[tuple[str, str, str]]:
    """Describe a plan in about ten rows: what it is about, the facts in words, and the fields that decide it.

    Args:
        planned: The plan, and what it was made from.
        training_seconds: A rough time of the training.
    """
    plan, fingerprint, splits = planned.plan, planned.fingerprint, planned.splits
    window, training = plan.window, fingerprint.of(splits.train).tumors
    channels = [f"{describe_modality(c.name)} from {c.low:.4g} to {c.high:.4g}" for c in plan.channels]
    median = rules.extent_percentile_mm(training, 50)
    downsampling = _downsampling(plan)
    cells = describe_edges((e / (downsampling * s) for e, s in zip(median, window.spacing_mm, strict=True)), ".1f")
    lesions = f"{len(fingerprint.tumors)} of {plan.tumor_name}, {len(training)} to train"
    latent_shape = _short(window.latent_shape(downsampling))
    shape = f"{_short(window.shape)} voxels of {_short(window.spacing_mm)} mm, {latent_shape} latent cells"
    fold = "every fifth case" if splits.fold is None else f"fold {splits.fold}"
    chosen = [f"{d.field}={_short(d.value)}" for d in plan.decisions if d.source != "rule"]
    steps = ", ".join(f"{stage} {part['iterations']}" for stage, part in _stages(plan))
    held_out = f"{len(splits.train)} to train, {len(splits.test)} held out: {fold}"
    if splits.patients:
        count = len(group_cases([*splits.train, *splits.test], splits.patients))
        held_out += f", by {count} patient{'s' * (count != 1)}"
    return [
        ("cases", held_out, "--fold, --groups"),
        ("lesions", f"{lesions}; {_spread([tumor.volume_ml for tumor in training])} ml", "--tumor-label"),
        ("channels", "; ".join(channels), "channels.0.low, channels.0.high, ..."),
        ("main channel", plan.channels[plan.main_channel].name, "main_channel"),
        ("window", f"{shape}: {describe_edges(window.extent_mm)} mm", "window.shape, window.spacing_mm"),
        ("median tumor", f"{describe_edges(median)} mm, {cells} latent cells", "window.spacing_mm"),
        (
            "training",
            f"tumorgen: {steps} steps, {describe_rough_time(training_seconds)}",
            "methods.tumorgen.vae.iterations, ...",
        ),
        ("disk", _describe_disk(planned), "methods.tumorgen.flow.copies"),
        ("memory", f"{plan.memory_gib:g} GiB, {plan.device}, {plan.precision}", "--memory, --device, precision"),
        ("set by you", abbreviate_list(chosen, _MOST_CHANGES) or "nothing: rules decide", "--set, --preset"),
    ]


def describe_rough_time(seconds: float) -> str:
    """Say how long a training takes, and how wrong that may be."""
    return f"about {console.rough_time(seconds)} on this machine when idle, give or take a factor of two"


def _downsampling(plan: Plan) -> int:
    """Voxels per latent cell of tumorgen's autoencoder."""
    return int(plan.methods["tumorgen"]["vae"]["downsampling"])


def _stages(plan: Plan) -> list[tuple[str, dict[str, Any]]]:
    """The stages of tumorgen and their settings."""
    section = plan.methods["tumorgen"]
    return [(stage, part) for stage, part in section.items() if "iterations" in part]


def _spread(values: Sequence[float]) -> str:
    low, middle, high = np.percentile(values, (0, 50, 100))
    return f"{_rounded(low)} to {_rounded(high)}, median {_rounded(middle)}"


def _rounded(number: float) -> str:
    """Three digits, or whole numbers from 100 up."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def preprocessed_bytes(plan: Plan, grids: Iterable[Grid]) -> int:
    """The size on disk of preprocessed scans of these grids: 4 bytes a voxel and channel, and masks."""
    voxels = sum(math.prod(working_grid(grid, plan.window.spacing_mm).shape) for grid in grids)
    return voxels * (_FLOAT_BYTES * len(plan.channels) + (1 if isinstance(plan.tumor_label, int) else 2))


def encoded_bytes(planned: Planned) -> int:
    """The size on disk of the encoded windows around the training tumors."""
    section, tumors = planned.plan.methods["tumorgen"], planned.fingerprint.of(planned.splits.train).tumors
    cells = math.prod(planned.plan.window.latent_shape(_downsampling(planned.plan)))
    latent = cells * int(section["vae"]["latent_channels"]) * _FLOAT_BYTES
    return latent * int(section["flow"]["copies"]) * len(tumors)


def _describe_disk(planned: Planned) -> str:
    cases = console.size(preprocessed_bytes(planned.plan, [facts.grid for facts in planned.fingerprint.cases]))
    return f"{cases} of preprocessed cases, {console.size(encoded_bytes(planned))} of encoded windows"


def tell_changes(workspace: Workspace, plan: Plan) -> None:
    """Say which fields differ from the plan on file, because weights that depend on them become stale."""
    if not workspace.plan_file.is_file():
        return
    try:
        before = workspace.plan()
    except TumorgenError:
        console.note("the plan on file is of another version or another fingerprint: it is replaced")
        return
    old, new = ({d.field: d.value for d in each.decisions} for each in (before, plan))
    changes = [
        f"{field}: {_short(old.get(field))} -> {_short(value)}"
        for field, value in new.items()
        if _short(old.get(field)) != _short(value)
    ]
    if changes:
        shown = abbreviate_list(changes, _MOST_CHANGES)
        console.note(f"{len(changes)} fields of the plan change: {shown}; `tumorgen status` says what is stale then")


def warn_of_doubts(planned: Planned) -> None:
    """Warn of names that are unknown, clip windows in other units, and tumors too small or large for the window."""
    plan, fingerprint = planned.plan, planned.fingerprint
    for channel in plan.channels:
        if modality(channel.name).word is None:
            console.warn(
                f"channel {channel.name}: an unknown name, taken for MR or similar, where each scan has its own unit; "
                "if it is not, name it CT, PET or noNorm in dataset.json and plan again"
            )
    warn_of_foreign_windows(fingerprint, plan)
    training = fingerprint.of(planned.splits.train).tumors
    _warn_of_small_tumors(training, plan, rules.median_spacing(fingerprint))
    _warn_of_large_tumors(training, plan)


def warn_of_foreign_windows(fingerprint: Fingerprint, plan: Plan) -> None:
    """Warn where the clip window of a preset is in other units than the scans."""
    for facts, channel in zip(fingerprint.channels, plan.channels, strict=True):
        covered = min(facts.high, channel.high) - max(facts.low, channel.low)
        if covered < 0.2 * (channel.high - channel.low):
            console.warn(
                f"channel {channel.name}: intensities from {facts.low:.4g} to {facts.high:.4g} fill little of "
                f"the clip window {channel.low:.4g} to {channel.high:.4g}; is the preset made for such scans?"
            )


def _warn_of_small_tumors(tumors: Sequence[TumorFacts], plan: Plan, voxel: Triple) -> None:
    """Warn where the median tumor is narrower than 1.5 latent cells although a smaller window allows finer ones."""
    downsampling, spacing = _downsampling(plan), plan.window.spacing_mm
    median, _ = rules.tumor_sizes(tumors).widths(as_triple(downsampling * s for s in spacing))
    finest = downsampling == 2 and all(s <= 1.01 * v for s, v in zip(spacing, voxel, strict=True))
    if median >= _FEW_CELLS or finest:
        return
    small = as_triple(rules.SMALLEST_SIDE for _ in range(3))
    settings = {"window.spacing_mm": _listed(voxel), "window.shape": _listed(small)}
    given = {d.field: d.value for d in plan.decisions if d.source != "rule"}
    if VAE_DOWNSAMPLING in given:
        settings[VAE_DOWNSAMPLING] = "2"
        for name in ("widths", "res_blocks"):  # two levels make cells of two voxels
            field = VAE_DOWNSAMPLING.replace("downsampling", name)
            settings.update({field: _listed(given[field][:2])} if field in given else {})
    console.warn(
        f"the median tumor is only {median:.1f} latent cells wide, so that its picture and mask are coarse; the scans "
        f"allow finer cells in a smaller window: plan with "
        + " ".join(f"--set {field}={value}" for field, value in settings.items())
    )


def _warn_of_large_tumors(tumors: Sequence[TumorFacts], plan: Plan) -> None:
    """Warn where training tumors are larger than the window, and name a window that holds them all."""
    window = plan.window
    large = sum(any(e > w for e, w in zip(tumor.extent_mm, window.extent_mm, strict=True)) for tumor in tumors)
    if not large:
        return
    edges = np.max([tumor.extent_mm for tumor in tumors], axis=0)
    cells = rules.cell_budget(plan.device) * _downsampling(plan) ** 3
    budget = max(min(rules.voxel_budget(plan.device, plan.memory_gib), cells), math.prod(window.shape))
    spacing, shape = window.spacing_mm, as_triple(map(max, window.shape, _shape_around(edges, window.spacing_mm)))
    while math.prod(shape) > budget:
        spacing = as_triple(math.ceil(105 * s) / 100 for s in spacing)
        shape = _shape_around(edges, spacing)
    settings = f"--set window.shape={_listed(shape)}"
    if spacing != window.spacing_mm:
        settings = f"--set window.spacing_mm={_listed(spacing)} {settings}"
    console.warn(
        f"{large} of {len(tumors)} training tumors are larger than the window of "
        f"{describe_edges(window.extent_mm)} mm, and nothing is learned from them; "
        f"for a window that holds them all, plan with {settings}"
    )


def _shape_around(edges_mm: Iterable[float], spacing: Triple) -> Shape:
    """The shape of a window around a tumor with a voxel more on each side, because its edge may lie within a voxel."""
    return rules.window_shape(as_triple(e + 2 * s for e, s in zip(edges_mm, spacing, strict=True)), spacing)


def _listed(values: Sequence[float]) -> str:
    return f"[{','.join(f'{value:g}' for value in values)}]"


def plan_rows(plan: Plan) -> list[tuple[str, str, str, str]]:
    """Rows to print, one per plan field: field, value, rule (and source, where it is not the rule), inputs."""
    rows = []
    for d in plan.decisions:
        rule = d.rule if d.source == "rule" else f"{d.source} (rule: {d.rule})"
        rows.append((d.field, _short(d.value), rule, ", ".join(f"{k} {_short(v)}" for k, v in d.inputs.items())))
    return rows


def _short(value: Any) -> str:
    """Format a value for a narrow column."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ("×" if all(isinstance(v, (int, float)) for v in value) else " ").join(_short(v) for v in value)
    return str(value)
