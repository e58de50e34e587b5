"""The plan, which holds every number: its fields, how it is made, and how it is read.

`--set a.b=value` overrides a preset, and a preset overrides the rules. Rules that follow see the overridden values.
Every field has a decision: value, rule, inputs and source.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from tumorgen_cli.data import channels
from tumorgen_cli.data.splits import HOLD_OUT
from tumorgen_cli.geometry import Shape, Triple, as_triple
from tumorgen_cli.planning import rules
from tumorgen_cli.planning.fingerprint import ChannelFacts, Fingerprint, TumorFacts
from tumorgen_cli.planning.ranges import (
    BoxMargin,
    ChannelIndex,
    Draws,
    Gibibytes,
    Intensity,
    LabelValue,
    Milliliters,
    Millimeters,
    MillimetersAboveZero,
    Power,
    Seed,
    Sides,
    Spacing,
    TumorCount,
)
from tumorgen_cli.system.devices import DeviceBudget
from tumorgen_cli.system.errors import Fault, PlanError, StateError
from tumorgen_cli.system.json_records import (
    from_plain,
    hash_value,
    read_plain,
    read_record,
    to_plain,
)
from tumorgen_cli.system.names import check_names

SCHEMA = 3
REPLAN = "run `tumorgen plan DATASET` (again), or name another workspace with -w"
#: the cells of this autoencoder, which several methods share, decide the working grid
VAE_DOWNSAMPLING = "methods.tumorgen.vae.downsampling"
T = TypeVar("T")


@dataclass(frozen=True)
class ChannelPlan:
    """The intensity scaling of a channel; see `rules.Scaling`."""

    name: str
    scheme: Literal["dataset", "own"]
    low: Intensity
    high: Intensity
    power: Power

    def __post_init__(self) -> None:
        if not self.low < self.high:
            found, remedy = f"{self.low:g} to {self.high:g}", "set both channels.N.low and channels.N.high, low first"
            fault = Fault(f"clip window of channel {self.name}", found, "a low end below the high end", remedy)
            raise PlanError("A clip window is empty", [fault])


@dataclass(frozen=True)
class WindowPlan:
    """The working grid: spacing in mm, window shape in voxels (multiples of 16), factor α of the box offsets."""

    spacing_mm: Spacing
    shape: Sides
    alpha: BoxMargin

    @property
    def extent_mm(self) -> Triple:
        """Edges of the window in mm."""
        return as_triple(n * s for n, s in zip(self.shape, self.spacing_mm, strict=True))

    def latent_shape(self, downsampling: int) -> Shape:
        """Latent cells per side of the window, for an autoencoder whose cells are `downsampling` voxels wide."""
        return as_triple(n // downsampling for n in self.shape)


@dataclass(frozen=True)
class PastePlan:
    """How drawn tumors are pasted into hosts, and when they are drawn again.

    Attributes:
        feather_mm: Width of the transition from the host to the drawn voxels.
        draws: Draws per pair before it is given up.
        smallest_ml: Tumors with a smaller volume are drawn again.
        least_change: Tumors that change the main channel less inside their mask are drawn again, and so are those that
            change it the other way; in the unit of the channel's clip window; 0: none are.
        heal_mm: An old tumor is removed with this margin, by methods that keep the host's voxels.
        seen_in: Channels in which an old tumor is looked for beyond its outline.
        places: Where boxes are drawn in healthy hosts: where the surroundings look like those of training tumors, or
            anywhere in the body or region.
        tumors: Tumors of a pair in a healthy host; "data" draws as many as the training cases have
            (`synthesis.counts`).
    """

    feather_mm: Millimeters
    draws: Draws
    smallest_ml: Milliliters
    least_change: Intensity
    heal_mm: Millimeters
    seen_in: tuple[ChannelIndex, ...]
    tumors: TumorCount
    places: Literal["surroundings", "anywhere"]


@dataclass(frozen=True)
class Decision:
    """Why a field of the plan has its value."""

    field: str
    value: Any
    rule: str
    inputs: dict[str, Any]
    source: str


@dataclass(frozen=True)
class Plan:
    """Everything that later commands need.

    `main_channel` is the channel that is scored and shown where only one can be. `methods` holds the section of each
    method; the method checks its fields when it reads it. Of a region, and of a tumor with several labels, all voxel
    values are listed: compare with them by `data.labels.mask_of`.
    """

    schema: int
    dataset: str
    dataset_path: str
    fingerprint_hash: str
    file_ending: str
    labels: dict[str, LabelValue | tuple[LabelValue, ...]]
    tumor_name: str
    tumor_label: LabelValue | tuple[LabelValue, ...]
    channels: tuple[ChannelPlan, ...]
    main_channel: ChannelIndex
    window: WindowPlan
    paste: PastePlan
    device: Literal["cpu", "cuda"]
    precision: Literal["fp32", "bf16"]
    memory_gib: Gibibytes
    seed: Seed
    tolerance_mm: MillimetersAboveZero
    methods: dict[str, dict[str, Any]]
    decisions: tuple[Decision, ...]
    regions_class_order: tuple[LabelValue, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.channels)
        remedy = "name channels of the data set, in --set, the preset or plan.json"
        faults = [
            Fault(field, str(value), f"channels of 0 to {count - 1}", remedy)
            for field, value in (("main_channel", (self.main_channel,)), ("paste.seen_in", self.paste.seen_in))
            if any(number >= count for number in value)
        ]
        if faults:
            raise PlanError("A channel does not exist", faults)

    @property
    def hash(self) -> str:
        """A hash that changes with every number, but not with the decisions or the path of the data set."""
        left_out = {"decisions", "dataset_path", *(() if self.regions_class_order else ("regions_class_order",))}
        return hash_value({k: v for k, v in to_plain(self).items() if k not in left_out})

    def hash_for(self, methods: Collection[str]) -> str:
        """The same hash without the sections of other methods: what `methods` paint by."""
        own = {name: section for name, section in self.methods.items() if name in methods}
        return replace(self, methods=own).hash

    def section(self, method: str, kind: type[T]) -> T:
        """Read the section of a method as a record of type `kind`.

        Raises:
            PlanError: the fields do not fit.
        """
        return from_plain(kind, self.methods[method], where=f"plan.json methods.{method}", remedy=REPLAN)


class Decisions:
    """Collects the fields of a plan. An override (from a preset or --set) replaces the value of a rule."""

    def __init__(self, overrides: Mapping[str, tuple[Any, str]] | None = None, prefix: str = "") -> None:
        self.overrides = dict(overrides or {})
        self.prefix = prefix
        self.taken: list[Decision] = []

    def take(self, field: str, value: Any, rule: str, **inputs: Any) -> Any:
        """Record a field and return its value: the override if there is one, else `value`.

        Args:
            field: Name of the field, without the prefix of this collection.
            value: The value that the rule gives.
            rule: The rule in words.
            **inputs: The numbers that the rule used.
        """
        field = self.prefix + field
        source = "rule"
        if field in self.overrides:
            value, source = self.overrides[field]
            if isinstance(value, list):
                value = tuple(value)
        self.taken.append(Decision(field, value, rule, inputs, source))
        return value

    def within(self, prefix: str) -> Decisions:
        """The same collection for a section of the plan; field names get the prefix."""
        part = Decisions(prefix=f"{self.prefix}{prefix}.")
        part.overrides, part.taken = self.overrides, self.taken
        return part

    def nested(self) -> dict[str, Any]:
        """The values of all fields as nested dictionaries."""
        tree: dict[str, Any] = {}
        for decision in self.taken:
            *parents, leaf = decision.field.split(".")
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = decision.value
        return tree


#: Adds the section of a method: (decisions, fingerprint of the training cases, window, budget) -> None
SectionRule = Callable[[Decisions, Fingerprint, WindowPlan, DeviceBudget], None]


def make_plan(
    fingerprint: Fingerprint,
    train: Sequence[str],
    budget: DeviceBudget,
    sections: Mapping[str, SectionRule],
    overrides: Mapping[str, tuple[Any, str]] | None = None,
) -> Plan:
    """Make the plan of a data set for a budget. Tumor facts are taken from the training cases only.

    Args:
        fingerprint: The fingerprint of the data set.
        train: Names of the training cases.
        budget: The device and its memory.
        sections: For each method, the function that adds its section.
        overrides: Value and source of fields that a preset or `--set` gives; see `fields.check_overrides`.

    Raises:
        PlanError: no training case has a tumor, or values do not fit together.
    """
    d = Decisions(overrides)
    training_facts = fingerprint.of(train)
    tumors = training_facts.tumors
    if not tumors:
        held_out = len(fingerprint.cases) - len(train)
        found = f"{len(train)} training cases without a tumor that is large enough, and {held_out} held out"
        fault = Fault(fingerprint.dataset, found, "a tumor in one at least", HOLD_OUT)
        raise PlanError("There is no tumor to learn from", [fault])
    for i, facts in enumerate(fingerprint.channels):
        _plan_channel(d.within(f"channels.{i}"), facts)
    reason = "tumors stand out most in it: scores, hard kinds and pictures are of it"
    main_channel = d.take("main_channel", rules.main_channel(fingerprint.channels, tumors), reason)
    window = _plan_window(d, fingerprint, tumors, budget)
    _plan_paste(d.within("paste"), fingerprint, training_facts, window, main_channel)
    _plan_training(d, fingerprint, budget)
    for name, rule in sections.items():
        rule(d.within(f"methods.{name}"), training_facts, window, budget)
    return _build_plan(d, fingerprint)


def _plan_channel(d: Decisions, facts: ChannelFacts) -> None:
    """Take the fields of a channel. Name and scheme are fixed: the fingerprint was measured by them."""
    scaling = rules.channel_scaling(facts)
    d.take("name", facts.name, "dataset.json")
    d.take("scheme", scaling.scheme, scaling.rule)
    d.take("low", scaling.low, scaling.rule, lowest=facts.low)
    d.take("high", scaling.high, scaling.rule, foreground=facts.foreground["99.95"], highest=facts.high)
    d.take("power", scaling.power, "square root for PET: the VAE sees low uptake too; linear otherwise")


def _plan_paste(
    d: Decisions, fingerprint: Fingerprint, training: Fingerprint, window: WindowPlan, main_channel: int
) -> None:
    """Take the fields of `PastePlan`; `training` holds the training cases alone."""
    feather = 2.0 * max(window.spacing_mm)
    d.take("feather_mm", feather, "two working voxels: no seam, little lost", spacing=window.spacing_mm)
    d.take("draws", 10, "an empty or too small tumor is drawn again; at most this many draws")
    d.take("smallest_ml", rules.smallest_volume_ml(training.tumors), "half of the smallest training tumor")
    reason = (
        "half of what 95 % of training tumors stand out by; 0: some are brighter than the tissue around, some darker"
    )
    seen = min(main_channel, len(fingerprint.channels) - 1)  # `Plan` refuses a channel that does not exist
    contrasts = [tumor.contrast[seen] for tumor in training.tumors]
    d.take("least_change", rules.least_change(contrasts), reason)
    blur = 1.5 * math.prod(rules.median_spacing(fingerprint)) ** (1 / 3)
    reason = (
        "an old tumor is removed with its blur: one and a half voxels (geometric mean), one along each axis at least"
    )
    d.take("heal_mm", blur, reason)
    pet = tuple(i for i, facts in enumerate(fingerprint.channels) if channels.is_pet(facts.name))
    reason = "PET: uptake reaches beyond outlines drawn on another scan; what is left of it is a tumor without a mask"
    d.take("seen_in", pet, reason)
    reason = "tumors lie where the shell around them looks like that of training tumors, in healthy hosts"
    d.take("places", "surroundings", reason)
    counts = sorted(len(case.tumors) for case in training.cases if case.tumors)
    reason = "as many tumors in a pair as the training cases have; fewer where a host shows less of the body"
    d.take("tumors", "data", reason, fewest=counts[0], median=counts[len(counts) // 2], most=counts[-1])


def _plan_training(d: Decisions, fingerprint: Fingerprint, budget: DeviceBudget) -> None:
    """Take the fields for the device, the seed and the tolerance of the surface Dice."""
    d.take("device", budget.device, "the device found")
    d.take("memory_gib", budget.memory_gib, "--memory, or what the device has")
    speedup = budget.bf16_speedup
    reason = "bf16 where its convolutions are 1.3 times faster or more"
    d.take("precision", "bf16" if speedup >= 1.3 else "fp32", reason, speedup=speedup)
    d.take("seed", 0, "--seed of `plan`: training's draws depend on it")
    tolerance = rules.surface_tolerance_mm(rules.median_spacing(fingerprint))
    d.take("tolerance_mm", tolerance, "NSD: the largest edge of the median voxel")


def _build_plan(d: Decisions, fingerprint: Fingerprint) -> Plan:
    """Build the plan from its decisions and the description of the data set.

    Raises:
        PlanError: values do not fit together.
    """
    fields = d.nested()
    fields["channels"] = list(fields["channels"].values())
    description = {
        "schema": SCHEMA,
        "dataset": fingerprint.dataset,
        "dataset_path": fingerprint.path,
        "fingerprint_hash": fingerprint.content_hash,
        "file_ending": fingerprint.file_ending,
        "labels": fingerprint.labels,
        "tumor_name": fingerprint.tumor_name,
        "tumor_label": fingerprint.tumor_label,
        "regions_class_order": fingerprint.regions_class_order,
    }
    plain = to_plain({**description, "methods": {}, **fields, "decisions": d.taken})
    return from_plain(Plan, plain, where="plan", remedy="correct the preset or --set")


def _plan_window(
    d: Decisions, fingerprint: Fingerprint, tumors: Sequence[TumorFacts], budget: DeviceBudget
) -> WindowPlan:
    """Choose the working grid and the window, and take their fields."""
    extents = np.array([case.grid.extent_mm for case in fingerprint.cases])
    median_case, largest_case = (as_triple(float(v) for v in f(extents, axis=0)) for f in (np.median, np.max))
    cases = rules.CaseSizes(rules.median_spacing(fingerprint), median_case, largest_case)
    sizes = rules.tumor_sizes(tumors)
    voxels, cells = rules.voxel_budget(budget.device, budget.memory_gib), rules.cell_budget(budget.device)
    given = d.overrides.get(VAE_DOWNSAMPLING)
    grid = rules.choose_grid(sizes, cases, voxels, cells, *([(int(given[0]),)] if given else []))
    part = d.within("window")
    budgets = f"{voxels} voxels and {cells} latent cells of {grid.downsampling} voxels"
    rule = (
        f"the finest, from the median voxel on, at which the largest usual tumor with 2 cells around it fits {budgets}"
    )
    working = part.take("spacing_mm", grid.spacing, rule, median=cases.voxel, median_tumor_mm=sizes.median)
    inputs = {"wanted_mm": grid.window, "tumor_95_mm": sizes.large, "median_case_mm": median_case}
    rule = "the largest usual tumor with 2 cells around it; up to 4, or half of its width, as far as they fit; × 16"
    shape = part.take("shape", rules.window_shape(grid.window, working), rule, **inputs)
    extent = as_triple(n * s for n, s in zip(shape, working, strict=True))
    alpha = part.take(
        "alpha", rules.box_alpha(extent, sizes.median), "α of the box offsets", median_tumor_mm=sizes.median
    )
    return WindowPlan(working, shape, alpha)


def read_plan(path: Path) -> Plan:
    """Read a plan.

    Raises:
        StateError: the file is missing, the plan has another schema, or a name in it leads out of its folder.
        PlanError: the fields do not fit.
    """
    plain = read_plain(path, REPLAN)
    found = plain.get("schema") if isinstance(plain, dict) else None
    if found != SCHEMA:
        raise StateError(
            "The plan is of another version", [Fault(str(path), f"schema {found}", f"schema {SCHEMA}", REPLAN)]
        )
    plan = read_record(Plan, path, REPLAN)
    check_names(f"{path}: dataset and file_ending", [plan.dataset, f"case{plan.file_ending}"], REPLAN)
    return plan
