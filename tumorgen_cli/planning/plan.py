"""The plan, which holds every number: its fields, how it is made, and how it is read.

`--set a.b=value` overrides a preset, and a preset overrides the rules. Rules that follow see the overridden values.
Every field has a decision: value, rule, inputs and source.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from tumorgen_cli.data import channels
from tumorgen_cli.geometry import Shape, Triple, as_triple
from tumorgen_cli.planning import rules
from tumorgen_cli.planning.fingerprint import ChannelFacts, Fingerprint, TumorFacts
from tumorgen_cli.system.devices import DeviceBudget
from tumorgen_cli.system.errors import Fault, PlanError, StateError
from tumorgen_cli.system.json_records import (
    from_plain,
    hash_value,
    read_plain,
    read_record,
    to_plain,
    unknown_name_fault,
)
from tumorgen_cli.system.names import check_names

SCHEMA = 2
REPLAN = "run `tumorgen plan DATASET` (again), or name another workspace with -w"
T = TypeVar("T")


@dataclass(frozen=True)
class ChannelPlan:
    """The intensity scaling of a channel; see `rules.Scaling`."""

    name: str
    scheme: Literal["dataset", "own"]
    low: float
    high: float
    power: float


@dataclass(frozen=True)
class WindowPlan:
    """The working grid: spacing in mm, window shape in voxels (multiples of 16), factor α of the box offsets."""

    spacing_mm: Triple
    shape: Shape
    alpha: float

    @property
    def extent_mm(self) -> Triple:
        """Edges of the window in mm."""
        return as_triple(n * s for n, s in zip(self.shape, self.spacing_mm, strict=True))

    @property
    def latent_shape(self) -> Shape:
        """Latent cells per side of the window."""
        return as_triple(n // 4 for n in self.shape)


@dataclass(frozen=True)
class PastePlan:
    """How drawn tumors are pasted into hosts, and when they are drawn again.

    Attributes:
        feather_mm: Width of the transition from the host to the drawn voxels.
        draws: Draws per pair before it is given up.
        smallest_ml: Tumors with a smaller volume are drawn again.
        heal_mm: An old tumor is removed with this margin, by methods that keep the host's voxels.
        seen_in: Channels in which an old tumor is looked for beyond its outline.
    """

    feather_mm: float
    draws: int
    smallest_ml: float
    heal_mm: float
    seen_in: tuple[int, ...]


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
    method; the method checks its fields when it reads it.
    """

    schema: int
    dataset: str
    dataset_path: str
    fingerprint_hash: str
    file_ending: str
    labels: dict[str, int]
    tumor_name: str
    tumor_label: int
    channels: tuple[ChannelPlan, ...]
    main_channel: int
    window: WindowPlan
    paste: PastePlan
    device: Literal["cpu", "cuda"]
    precision: Literal["fp32", "bf16"]
    memory_gib: float
    seed: int
    tolerance_mm: float
    methods: dict[str, dict[str, Any]]
    decisions: tuple[Decision, ...]

    @property
    def hash(self) -> str:
        """A hash that changes with every number, but not with the decisions or the path of the data set."""
        return hash_value({k: v for k, v in to_plain(self).items() if k not in ("decisions", "dataset_path")})

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

    def unknown(self) -> list[Fault]:
        """A fault for each override whose field was not taken."""
        known = {d.field for d in self.taken}
        return [unknown_name_fault("", field, known) for field in self.overrides if field not in known]

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
        overrides: Value and source of fields that a preset or `--set` gives.

    Raises:
        PlanError: no training case has a tumor, overrides are unknown or have a wrong type (all are listed), or the
            window does not suit the networks.
    """
    d = Decisions(overrides)
    training_facts = fingerprint.of(train)
    tumors = training_facts.tumors
    if not tumors:
        held_out = len(fingerprint.cases) - len(train)
        found = f"{len(train)} training cases without a tumor that is large enough, and {held_out} held out"
        fault = Fault(fingerprint.dataset, found, "a tumor in one at least", "hold out other cases (splits_final.json)")
        raise PlanError("There is no tumor to learn from", [fault])
    for i, facts in enumerate(fingerprint.channels):
        _plan_channel(d.within(f"channels.{i}"), i, facts)
    reason = "tumors stand out most in it: scores, hard kinds and pictures are of it"
    main = d.take("main_channel", rules.main_channel(fingerprint.channels, tumors), reason)
    window = _plan_window(d, fingerprint, tumors, budget)
    searched = _plan_paste(d.within("paste"), fingerprint, tumors, window)
    _check_channels({"main_channel": (main,), "paste.seen_in": searched}, len(fingerprint.channels))
    _plan_training(d, fingerprint, budget)
    for name, rule in sections.items():
        rule(d.within(f"methods.{name}"), training_facts, window, budget)
    faults = d.unknown()
    if faults:
        raise PlanError("The plan has no such fields", faults)
    return _build_plan(d, fingerprint)


def _plan_channel(d: Decisions, number: int, facts: ChannelFacts) -> None:
    """Take the fields of a channel.

    Raises:
        PlanError: the scheme is overridden.
    """
    scaling = rules.channel_scaling(facts)
    d.take("name", facts.name, "dataset.json")
    scheme = d.take("scheme", scaling.scheme, scaling.rule)
    if scheme != scaling.scheme:  # the fingerprint was measured with this scheme
        remedy = (
            "name the channel in dataset.json for what it holds: noNorm, where its intensities compare between scans"
        )
        fault = Fault(f"channels.{number}.scheme", str(scheme), scaling.scheme, remedy)
        raise PlanError("A channel's unit follows from its name", [fault])
    d.take("low", scaling.low, scaling.rule, lowest=facts.low)
    d.take("high", scaling.high, scaling.rule, foreground=facts.foreground["99.95"], highest=facts.high)
    d.take("power", scaling.power, "square root for PET: the VAE sees low uptake too; linear otherwise")


def _plan_paste(d: Decisions, fingerprint: Fingerprint, tumors: Sequence[TumorFacts], window: WindowPlan) -> Any:
    """Take the fields of `PastePlan`; returns the channels in which old tumors are looked for."""
    feather = 2.0 * max(window.spacing_mm)
    d.take("feather_mm", feather, "two working voxels: no seam, little lost", spacing=window.spacing_mm)
    d.take("draws", 10, "an empty or too small tumor is drawn again; at most this many draws")
    d.take("smallest_ml", rules.smallest_volume_ml(tumors), "half of the smallest training tumor")
    blur = 1.5 * max(rules.median_spacing(fingerprint))
    d.take("heal_mm", blur, "an old tumor is removed with one and a half voxels around it, its blur")
    pet = tuple(i for i, facts in enumerate(fingerprint.channels) if channels.is_pet(facts.name))
    reason = "PET: uptake reaches beyond outlines drawn on another scan; what is left of it is a tumor without a mask"
    return d.take("seen_in", pet, reason)


def _check_channels(chosen: Mapping[str, Any], count: int) -> None:
    """Check that fields name channels of the data set.

    Raises:
        PlanError: a field is no tuple of channel numbers below `count`.
    """
    faults = [
        Fault(field, str(value), f"of 0 to {count - 1}", "correct --set or the preset")
        for field, value in chosen.items()
        if not (isinstance(value, tuple) and all(i in range(count) for i in value))
    ]
    if faults:
        raise PlanError("A channel does not exist", faults)


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
        PlanError: overrides have a wrong type.
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
    }
    plain = to_plain({**description, "methods": {}, **fields, "decisions": d.taken})
    return from_plain(Plan, plain, where="plan", remedy="correct the preset or --set")


def _plan_window(
    d: Decisions, fingerprint: Fingerprint, tumors: Sequence[TumorFacts], budget: DeviceBudget
) -> WindowPlan:
    """Choose the working grid and the window, and take their fields.

    Raises:
        PlanError: overrides give a spacing or sides that cannot be used.
    """
    spacing = rules.median_spacing(fingerprint)
    extents = np.array([case.grid.extent_mm for case in fingerprint.cases])
    median_case, largest_case = (as_triple(float(v) for v in f(extents, axis=0)) for f in (np.median, np.max))
    tumor, median_tumor = rules.extent_percentile_mm(tumors, 95), rules.extent_percentile_mm(tumors, 50)
    voxels = rules.voxel_budget(budget.device, budget.memory_gib)
    wanted, reason = rules.window_mm(tumor, median_case, largest_case, spacing, voxels)
    factor = rules.resize_factor(wanted, spacing, voxels)
    working = as_triple(s * factor for s in spacing)
    rule = f"median spacing × {factor:.4g}, the least factor at which the window fits {voxels} voxels"
    fine = rules.small_tumor_grid(median_tumor, tumor, wanted, largest_case, working, voxels)
    if fine is not None:
        (working, wanted), reason = fine, "tumors are small: the largest usual one with 25 mm or more"
        rule = f"the median tumor at least 1.5 latent cells wide, as far as {voxels} voxels allow"
    part = d.within("window")
    inputs = {"median": spacing, "factor": factor, "median_tumor_mm": median_tumor}
    working = _check_spacing(part.take("spacing_mm", working, rule, **inputs))
    inputs = {"wanted_mm": wanted, "tumor_95_mm": tumor, "median_case_mm": median_case, "voxel_budget": voxels}
    rule = f"{reason}; sides rounded up to 16"
    shape = validate_sides(part.take("shape", rules.window_shape(wanted, working), rule, **inputs), "window.shape")
    extent = as_triple(n * s for n, s in zip(shape, working, strict=True))
    alpha = rules.box_alpha(extent, median_tumor)
    return WindowPlan(working, shape, part.take("alpha", alpha, "α of the box offsets", median_tumor_mm=median_tumor))


def _check_spacing(asked: object) -> Triple:
    """Read a working spacing.

    Raises:
        PlanError: it is not three numbers above 0.
    """
    working = as_triple(from_plain(tuple[float, float, float], asked, "window.spacing_mm", "three numbers, in mm"))
    if min(working) <= 0:
        fault = Fault("window.spacing_mm", str(working), "three numbers above 0, in mm", "correct the preset or --set")
        raise PlanError("The working grid has no size", [fault])
    return working


def validate_sides(asked: object, field: str) -> Shape:
    """Read the sides of a window or patch, in voxels.

    Sides of 16 voxels are refused, because critics and deep networks reduce them to one voxel, which cannot be
    normalized.

    Args:
        asked: The value of the field.
        field: Name of the field, for error messages.

    Raises:
        PlanError: the sides are not three multiples of 16 from 32 up.
    """
    shape = from_plain(tuple[int, int, int], asked, field, "three whole numbers, in voxels")
    if any(n % rules.SIDE_MULTIPLE or n < rules.SMALLEST_SIDE for n in shape):
        expected = f"multiples of {rules.SIDE_MULTIPLE}, {rules.SMALLEST_SIDE} or more"
        fault = Fault(field, str(shape), expected, "round each side up to the next of them")
        raise PlanError("These sides do not suit the networks", [fault])
    return shape


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
