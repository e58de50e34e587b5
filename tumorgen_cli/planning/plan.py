"""The plan: the one home of every number. Schema, making, reading, presets.

Order of authority: rules < preset < `--set a.b=value`. (A preset is what a user asks for by name, so it wins over a
rule; rules further on see its values.) Every field carries its decision: value, rule, inputs, source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from tumorgen_cli.data import channels
from tumorgen_cli.geometry import Shape, Triple
from tumorgen_cli.planning import rules
from tumorgen_cli.planning.fingerprint import Fingerprint
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

SCHEMA = 1
REPLAN = "run `tumorgen plan DATASET` (again), or name another workspace with -w"
T = TypeVar("T")


@dataclass(frozen=True)
class ChannelPlan:
    """See `rules.Scaling`."""

    name: str
    scheme: Literal["dataset", "own"]
    low: float
    high: float
    power: float


@dataclass(frozen=True)
class WindowPlan:
    """The working grid: spacing, window shape in voxels (multiples of 16), α of the box offsets."""

    spacing_mm: Triple
    shape: Shape
    alpha: float

    @property
    def extent_mm(self) -> Triple:
        return tuple(n * s for n, s in zip(self.shape, self.spacing_mm, strict=True))  # type: ignore[return-value]

    @property
    def latent_shape(self) -> Shape:
        return tuple(n // 4 for n in self.shape)  # type: ignore[return-value]


@dataclass(frozen=True)
class PastePlan:
    """Paste-back and redraws: feather in host voxels' mm, draws per pair before giving up, least tumor volume; for methods that keep
    the host's own voxels, how far around an old tumor the scan is made tumor-free, and the channels in which one is looked for
    beyond its outline."""

    feather_mm: float
    draws: int
    smallest_ml: float
    heal_mm: float
    seen_in: tuple[int, ...]


@dataclass(frozen=True)
class Decision:
    """Why a field has its value."""

    field: str
    value: Any
    rule: str
    inputs: dict[str, Any]
    source: str


@dataclass(frozen=True)
class Plan:
    """All that the later commands need. `main_channel`: the one that is scored and shown where one must do. `methods` holds each
    method's section; the method reads it strictly."""

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
        """Changes with every number, not with the reasons."""
        return hash_value({k: v for k, v in to_plain(self).items() if k not in ("decisions", "dataset_path")})

    def section(self, method: str, kind: type[T]) -> T:
        """The strictly read section of a method."""
        return from_plain(kind, self.methods[method], where=f"plan.json methods.{method}", remedy=REPLAN)


class Decisions:
    """Collects the fields of a plan; an override (preset or --set) takes the place of a rule's value."""

    def __init__(self, overrides: Mapping[str, tuple[Any, str]] | None = None, prefix: str = "") -> None:
        self.overrides = dict(overrides or {})
        self.prefix = prefix
        self.taken: list[Decision] = []

    def take(self, field: str, value: Any, rule: str, **inputs: Any) -> Any:
        """The value of `field`: the override if there is one, else `value`."""
        field = self.prefix + field
        source = "rule"
        if field in self.overrides:
            value, source = self.overrides[field]
            if isinstance(value, list):
                value = tuple(value)
        self.taken.append(Decision(field, value, rule, inputs, source))
        return value

    def within(self, prefix: str) -> Decisions:
        """The same collection for a sub-section."""
        part = Decisions(prefix=f"{self.prefix}{prefix}.")
        part.overrides, part.taken = self.overrides, self.taken
        return part

    def unknown(self) -> list[Fault]:
        known = {d.field for d in self.taken}
        return [unknown_name_fault("", field, known) for field in self.overrides if field not in known]

    def nested(self) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for decision in self.taken:
            *parents, leaf = decision.field.split(".")
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = decision.value
        return tree


#: Adds a method's section: (decisions, fingerprint of the training cases, training window, budget) -> None
SectionRule = Callable[[Decisions, Fingerprint, WindowPlan, DeviceBudget], None]


def make_plan(
    fingerprint: Fingerprint,
    train: Sequence[str],
    budget: DeviceBudget,
    sections: Mapping[str, SectionRule],
    overrides: Mapping[str, tuple[Any, str]] | None = None,
) -> Plan:
    """The plan of a data set for a budget. Tumor facts are taken from the training cases alone.

    Raises:
        PlanError: no training case has a tumor, unknown or ill-typed overrides (all at once), or a window that does not suit the networks.
    """
    d = Decisions(overrides)
    learnt_from = fingerprint.of(train)
    tumors = learnt_from.tumors
    if not tumors:
        found = f"{len(train)} training cases without a tumor that is large enough, and {len(fingerprint.cases) - len(train)} held out"
        fault = Fault(fingerprint.dataset, found, "a tumor in one at least", "hold out other cases (splits_final.json)")
        raise PlanError("There is no tumor to learn from", [fault])
    for i, facts in enumerate(fingerprint.channels):
        scaling = rules.channel_scaling(facts)
        part = d.within(f"channels.{i}")
        part.take("name", facts.name, "dataset.json")
        scheme = part.take("scheme", scaling.scheme, scaling.rule)
        if scheme != scaling.scheme:  # the fingerprint has measured it so
            remedy = "name the channel in dataset.json for what it holds: noNorm, where its intensities compare between scans"
            raise PlanError(
                "A channel's unit follows from its name",
                [Fault(f"channels.{i}.scheme", str(scheme), scaling.scheme, remedy)],
            )
        part.take("low", scaling.low, scaling.rule, minimum=facts.minimum)
        part.take("high", scaling.high, scaling.rule, foreground=facts.foreground.get("99.95"), maximum=facts.maximum)
        part.take("power", scaling.power, "square root for PET: the VAE sees low uptake too; linear otherwise")
    every = range(len(fingerprint.channels))
    reason = "tumors stand out most in it: scores, hard kinds and pictures are of it"
    main = d.take("main_channel", rules.main_channel(fingerprint.channels, tumors), reason)
    window = _plan_window(d, fingerprint, tumors, budget)
    part = d.within("paste")
    part.take(
        "feather_mm",
        2.0 * max(window.spacing_mm),
        "two working voxels: no seam, little lost",
        spacing=window.spacing_mm,
    )
    part.take("draws", 10, "an empty or too small tumor is drawn again, up to so often")
    part.take("smallest_ml", rules.smallest_volume_ml(tumors), "half of the smallest training tumor")
    blur = 1.5 * max(rules.median_spacing(fingerprint))
    part.take("heal_mm", blur, "an old tumor is taken away with one and a half voxels around it: its blur")
    pet = tuple(i for i, facts in enumerate(fingerprint.channels) if channels.is_pet(facts.name))
    reason = "PET: uptake reaches beyond outlines that were drawn on another scan; what is left of it is a tumor without a mask"
    seen_in = part.take("seen_in", pet, reason)
    asked = {"main_channel": (main,), "paste.seen_in": seen_in}
    strange = [
        (field, given)
        for field, given in asked.items()
        if not (isinstance(given, tuple) and all(i in every for i in given))
    ]
    if strange:
        faults = [
            Fault(field, str(given), f"of 0 to {len(every) - 1}", "correct --set or the preset")
            for field, given in strange
        ]
        raise PlanError("A channel does not exist", faults)
    d.take("device", budget.device, "the device found")
    d.take("memory_gib", budget.memory_gib, "--memory, or what the device has")
    fast = budget.bf16_speedup >= 1.3
    d.take(
        "precision",
        "bf16" if fast else "fp32",
        "bf16 where its convolutions are 1.3 times faster or more",
        speedup=budget.bf16_speedup,
    )
    d.take("seed", 0, "--seed of `plan`: training's draws depend on it")
    tolerance = rules.surface_tolerance_mm(rules.median_spacing(fingerprint))
    d.take("tolerance_mm", tolerance, "NSD: the largest edge of the median voxel")
    for name, rule in sections.items():
        rule(d.within(f"methods.{name}"), learnt_from, window, budget)
    faults = d.unknown()
    if faults:
        raise PlanError("The plan has no such fields", faults)
    tree = d.nested()
    tree["channels"] = list(tree["channels"].values())
    facts_of_set = {
        "schema": SCHEMA,
        "dataset": fingerprint.dataset,
        "dataset_path": fingerprint.path,
        "fingerprint_hash": fingerprint.content_hash,
        "file_ending": fingerprint.file_ending,
        "labels": fingerprint.labels,
        "tumor_name": fingerprint.tumor_name,
        "tumor_label": fingerprint.tumor_label,
    }
    plain = to_plain({**facts_of_set, "methods": {}, **tree, "decisions": d.taken})
    return from_plain(Plan, plain, where="plan", remedy="correct the preset or --set")


def _plan_window(d: Decisions, fingerprint: Fingerprint, tumors: Sequence[Any], budget: DeviceBudget) -> WindowPlan:
    import numpy as np

    spacing = rules.median_spacing(fingerprint)
    extents = np.array([case.grid.extent_mm for case in fingerprint.cases])
    median_case, largest_case = (tuple(float(v) for v in f(extents, axis=0)) for f in (np.median, np.max))
    tumor, median_tumor = rules.extent_percentile_mm(tumors, 95), rules.extent_percentile_mm(tumors, 50)
    voxels = rules.voxel_budget(budget.device, budget.memory_gib)
    wanted, reason = rules.window_mm(tumor, median_case, largest_case, spacing, voxels)  # type: ignore[arg-type]
    factor = rules.resize_factor(wanted, spacing, voxels)
    coarse: Triple = tuple(s * factor for s in spacing)  # type: ignore[assignment]
    rule = f"median spacing × {factor:.4g}, the least factor at which the window fits {voxels} voxels"
    fine = rules.small_tumor_grid(median_tumor, tumor, wanted, largest_case, coarse, voxels)  # type: ignore[arg-type]
    if fine is not None:
        (coarse, wanted), reason = fine, "tumors are small: the largest usual one with 25 mm or more"
        rule = f"the median tumor at least 1.5 latent cells wide, as far as {voxels} voxels allow"
    part = d.within("window")
    asked = part.take("spacing_mm", coarse, rule, median=spacing, factor=factor, median_tumor_mm=median_tumor)
    working: Triple = from_plain(Triple, asked, "window.spacing_mm", "three numbers, in mm")  # type: ignore[arg-type]
    if min(working) <= 0:
        fault = Fault("window.spacing_mm", str(working), "three numbers above 0, in mm", "correct the preset or --set")
        raise PlanError("The working grid has no size", [fault])
    asked = part.take(
        "shape",
        rules.window_shape(wanted, working),
        f"{reason}; sides rounded up to 16",
        wanted_mm=wanted,
        tumor_95_mm=tumor,
        median_case_mm=median_case,
        voxel_budget=voxels,
    )
    shape = validate_sides(asked, "window.shape")
    seen = tuple(n * s for n, s in zip(shape, working, strict=True))
    alpha = part.take(
        "alpha",
        rules.box_alpha(seen, median_tumor),
        rules.box_alpha.__doc__.split(":")[0],
        median_tumor_mm=median_tumor,
    )  # type: ignore[arg-type,union-attr]
    return WindowPlan(working, shape, alpha)


def validate_sides(asked: object, field: str) -> Shape:
    """The sides of a window or patch, in voxels: from 32 up, for of 16 voxels critics and deep networks keep one, which no norm takes.

    Raises:
        PlanError: not three multiples of 16, or less than 32.
    """
    shape: Shape = from_plain(Shape, asked, field, "three whole numbers, in voxels")  # type: ignore[arg-type]
    if any(n % rules.SIDE_MULTIPLE or n < rules.SMALLEST_SIDE for n in shape):
        expected = f"multiples of {rules.SIDE_MULTIPLE}, {rules.SMALLEST_SIDE} or more"
        fault = Fault(field, str(shape), expected, "round each side up to the next of them")
        raise PlanError("These sides do not suit the networks", [fault])
    return shape


def read_plan(path: Path) -> Plan:
    """The plan of a workspace.

    Raises:
        StateError: missing, or of another schema.
        PlanError: fields do not fit.
    """
    plain = read_plain(path, REPLAN)
    found = plain.get("schema") if isinstance(plain, dict) else None
    if found != SCHEMA:
        raise StateError(
            "The plan is of another version", [Fault(str(path), f"schema {found}", f"schema {SCHEMA}", REPLAN)]
        )
    return read_record(Plan, path, REPLAN)
