"""The contract between the pipeline and a method, with or without training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tumorgen_cli.geometry import Box, Triple
from tumorgen_cli.planning.fingerprint import Fingerprint
from tumorgen_cli.planning.plan import Decisions, Plan, WindowPlan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.cases import CaseRecord, HealthyScan
from tumorgen_cli.preprocessing.healthy import case_records, unlabeled_records
from tumorgen_cli.system.json_records import hash_value, read_fields, read_written
from tumorgen_cli.training.checkpoints import PROGRESS, is_finished, load_weights, read_run, restart_folder
from tumorgen_cli.training.stage import Stage

if TYPE_CHECKING:
    from torch import nn

    from tumorgen_cli.system.devices import DeviceBudget


#: file beside a run that started from given weights: their path, their hash, and the cases they were trained on
INITIAL = "initial.json"
#: file beside a run that has learned from scans without labels: what tells each of them
HEALTHY = "healthy.json"


@dataclass(frozen=True)
class Sampling:
    """How to sample, for methods that sample.

    Attributes:
        steps: number of steps; None for the plan's.
        solver: one of the method's solvers; None for the plan's.
        kind: one of the method's kinds of tumor; None for any.
    """

    steps: int | None = None
    solver: str | None = None
    kind: str | None = None


class Method(ABC):
    """A way to paint a tumor into a window of a scan.

    A method gets a window on the working grid in the scan's own units and returns a window with a soft mask. It changes
    nothing outside the request's box (the pipeline pastes only the box), keeps its tumor in the request's place, and
    never changes the request itself. The same request and seed give the same bits.

    Attributes:
        name: name of the method in commands and in the plan.
        uses_sections_of: other methods whose sections of the plan this one reads.
        SOURCE: paper, equations and known deviations, in sentences.
        section: type of the method's section of the plan.
        config: the method's section of the plan; the settings of a stage are the field with the stage's name.
        stages: names of the training stages in order; a stage may use the stages before it (`needed`). A plan may
            choose other ones than those of the class.
        solvers: names of the samplers.
        kinds: kinds of tumor that can be requested.
        initial_stages: the stages that can start from given weights (`train --init`).
        format_versions: by stage, a version of what its weights mean beyond its settings; raised when that changes.
        keeps_background: whether voxels of the box outside the tumor stay the host's own. If so, when the box is pasted
            back, the host's detail finer than the working grid is kept.
        needs_scans: whether it paints with the voxels of training scans; such a method cannot be given away as a model.
        tested_loss: what `tumor_losses` measures, in words; empty for methods that train no networks.
        cell: side in working voxels of the cells in which the method draws masks. The pipeline widens a tumor's place
            to whole cells, so that no part of a cell is cut off, unless the user has given the box.
    """

    name: ClassVar[str]
    uses_sections_of: tuple[str, ...] = ()
    SOURCE: ClassVar[str]
    stages: tuple[str, ...] = ()
    initial_stages: ClassVar[tuple[str, ...]] = ()
    solvers: ClassVar[tuple[str, ...]] = ()
    kinds: tuple[str, ...] = ()
    format_versions: ClassVar[Mapping[str, int]] = {}
    keeps_background: bool = False
    needs_scans: ClassVar[bool] = False
    tested_loss: ClassVar[str] = ""
    cell: int = 1
    section: ClassVar[type]
    config: Any

    def __init__(self, plan: Plan, workspace: Workspace, device: str = "cpu") -> None:
        self.plan, self.workspace, self.device = plan, workspace, device

    @property
    def needs_healthy_box(self) -> bool:
        """Whether an old tumor in the box must be removed before the method paints there.

        A method that keeps the background would leave it in the box.
        """
        return self.keeps_background

    @classmethod
    @abstractmethod
    def plan_section(cls, d: Decisions, fingerprint: Fingerprint, window: WindowPlan, budget: DeviceBudget) -> None:
        """Take every field of the method's section of the plan into `d`.

        Args:
            d: Decisions of this section.
            fingerprint: Facts of the training cases.
            window: The training window.
            budget: Device and memory that the plan is made for.
        """

    @abstractmethod
    def load(self) -> Mapping[str, str]:
        """Load what `synthesize` needs.

        Returns:
            The hashes of what was loaded, by name.

        Raises:
            StateError: A stage is not trained, or training data is not preprocessed.
        """

    def draw_extents(self, rng: np.random.Generator) -> tuple[Triple, ...] | None:  # noqa: ARG002  (of those who do)
        """The extents in mm of the tumors of a pair, if the method sets sizes and counts itself.

        They count where the pipeline draws boxes, not where it redraws tumors or the user gives a box.

        Args:
            rng: Makes all random draws.

        Returns:
            One extent a tumor. None: sizes and counts are those of the training cases.
        """
        return None

    @abstractmethod
    def synthesize(self, request: Request, seed: int, sampling: Sampling) -> Synthetic:
        """Paint a tumor into the request's place."""

    def tumor_losses(self, case: str) -> tuple[float, ...]:  # noqa: ARG002  (of those who have it)
        """How badly the loaded method predicts the tumors of a preprocessed case, with fixed times and noise.

        A method that predicts training tumors better than others tells who was among the training cases.

        Args:
            case: Name of the case, a training case or one that is held out.

        Returns:
            The training loss of each tumor that fits into a window; empty for methods that train no networks.
        """
        return ()

    def stage(self, name: str, iterations: int | None = None, initial: Path | None = None) -> Stage:
        """The training stage `name`.

        Args:
            name: One of `stages`.
            iterations: Number of steps; None for the plan's.
            initial: A checkpoint to start from, for stages that accept one.
        """
        raise NotImplementedError(f"{self.name} has no stage {name}")

    def load_frozen(self, models: Mapping[str, nn.Module], stage: str) -> str:
        """Load a trained stage's weights into `models` on the device, for inference; returns the weights' hash.

        Raises:
            StateError: The stage is not trained, its weights are damaged, or they do not fit the plan.
        """
        weights_hash = load_weights(models, self.folder(stage))
        for model in models.values():
            model.to(self.device).eval().requires_grad_(False)
        return weights_hash

    @property
    def plan_hash(self) -> str:
        """The hash of what the method paints by: the plan without the sections of methods that it does not use."""
        return self.plan.hash_for((self.name, *self.uses_sections_of))

    # -- what stages are made from ---------------------------------------------------------------------------------
    def folder(self, stage: str) -> Path:
        """The folder of a stage's run."""
        return self.workspace.run(self.name, stage)

    def training_folder(self, stage: str) -> Path:
        """The folder in which the stage is trained: its own, or while it is trained again, the one beside it.

        The training writes `progress.json` and `last.pt` there, see `training.loop`.
        """
        fresh = restart_folder(self.folder(stage))
        return fresh if fresh.is_dir() else self.folder(stage)

    def inputs_hash(self, name: str) -> str:
        """Hash of what stage `name` depends on: data, settings, healthy scans, and the weights of earlier stages."""
        version = [self.format_versions[name]] if name in self.format_versions else []
        scans = [(record.case, record.hashes[0]) for record in self.healthy_records(name)]
        healthy = [self.healthy_share(name), scans] if scans else []
        weights = (self.weights_hash(stage) for stage in self.needed(name))
        return hash_value([self.data_inputs(), learning_settings(self.settings(name)), *version, *healthy, *weights])

    def healthy_records(self, name: str) -> tuple[CaseRecord, ...]:
        """The scans without labels that stage `name` learns from: the workspace's, if it has a share for them."""
        return unlabeled_records(self.workspace) if self.healthy_share(name) else ()

    def healthy_share(self, name: str) -> float | None:
        """The share that the plan gives scans without labels in stage `name`; None if the stage has no such field."""
        return getattr(self.settings(name), "healthy_share", None)

    def data_inputs(self) -> list[Any]:
        """What every stage depends on: cases, working grid, channels, precision, seed and training split."""
        plan = self.plan
        return [
            plan.fingerprint_hash,
            plan.window,
            plan.channels,
            plan.precision,
            plan.seed,
            self.workspace.splits().train,
            *chosen_labels(plan),
        ]

    def weights_hash(self, stage: str) -> str:
        """The hash of a trained stage's weights.

        Raises:
            StateError: The stage is not trained.
        """
        return read_run(self.folder(stage)).weights_hash

    def learned_from_healthy(self) -> tuple[HealthyScan, ...]:
        """The scans without labels that the method has seen, also by given initial weights.

        The name is that of the field in `set.json`.
        """
        return tuple(dict.fromkeys(scan for stage in self.stages for scan in read_healthy(self.folder(stage))))

    def learned_from(self) -> tuple[str, ...]:
        """The cases that the method has seen, by name.

        They are the training cases, those that given initial weights were trained on, and those whose voxels a scan
        without labels has that it has seen. The name is that of the field in `set.json`.
        """
        own = self.workspace.splits().train
        files = [path for stage in self.stages if (path := self.folder(stage) / INITIAL).is_file()]
        remedy = "train the stage anew, with `tumorgen train STAGE --restart` and the same --init"
        other = {case for path in files for case in read_fields(path, remedy, cases=tuple[str, ...])["cases"]}
        if healthy := {each.scan for each in self.learned_from_healthy()}:
            other |= {record.case for record in case_records(self.workspace) if record.scan in healthy}
        return (*own, *sorted(other - {*own}))

    def planned_iterations(self, name: str) -> int:
        """The number of steps that the plan gives stage `name`."""
        return int(self.settings(name).iterations)

    def settings(self, name: str) -> Any:
        """The section of the plan for stage `name`."""
        return getattr(self.config, name)

    def trained(self, name: str, iterations: int | None = None) -> bool:
        """Whether stage `name` is finished, up to date, and at least `iterations` steps long (None: of any length)."""
        return self._is_ready(name) and is_finished(self.folder(name), self.inputs_hash(name), iterations)

    def needed(self, name: str) -> tuple[str, ...]:
        """The stages whose weights stage `name` is trained with: all before it."""
        return self.stages[: self.stages.index(name)]

    def _is_ready(self, name: str) -> bool:
        """Whether all stages that `name` needs were trained, so that its `inputs_hash` is known."""
        return all((self.folder(stage) / "run.json").is_file() for stage in self.needed(name))

    def outdated(self, name: str) -> bool:
        """Whether what was trained of stage `name`, finished or not, was made from other inputs than it has now."""
        if (self.folder(name) / "run.json").is_file():
            return not self.trained(name)
        begun = self.training_folder(name) / PROGRESS
        if not begun.is_file():
            return False
        known = read_fields(begun, "delete it", inputs_hash=str)["inputs_hash"]
        return not self._is_ready(name) or bool(known != self.inputs_hash(name))


def chosen_labels(plan: Plan) -> list[Any]:
    """Which labels are the tumor, if the data set has others, too: the hash of its files does not tell."""
    choice = plan.labels.keys() - {"background", "ignore"}
    return [plan.tumor_label] if len(choice) > 1 or not isinstance(plan.tumor_label, int) else []


def read_healthy(folder: Path) -> tuple[HealthyScan, ...]:
    """Read which scans without labels the run in a folder has learned from.

    Raises:
        StateError: The file is damaged.
    """
    path, remedy = folder / HEALTHY, "train the stage anew, with `tumorgen train STAGE --restart`"
    what = "the scans without labels that the stage has learned from"
    return read_written(tuple[HealthyScan, ...], path, remedy, what, "A file is damaged") if path.is_file() else ()


def learning_settings(section: Any) -> dict[str, Any]:
    """A stage's section of the plan without what does not change what is learned.

    That is its length, its warning limits, and the share of healthy scans, which counts only if there are any.
    """
    left_out = ("iterations", "least_psnr", "healthy_share")
    return {k: v for k, v in vars(section).items() if k not in left_out}


@dataclass(frozen=True)
class Request:
    """A window of a host scan on the working grid, the box to paint in, and the place of the tumor within the box.

    Between the place and the box's faces the picture fades into the host, and a mask is cut off. A place that the
    pipeline has drawn consists of whole cells (`Method.cell`), as far as the box allows.

    Attributes:
        image: (C, X, Y, Z) float32 in the scan's own units.
        box: the box, in voxels of the window.
        place: the tumor's place, in voxels of the window.
        limits: (C, 2) clip limits of the whole scan (`preprocessing.intensity.scan_limits`).
        spacing_mm: voxel edges of the window.
        case: the case whose tumor is redrawn, if it is one of the data set's.
        region: (X, Y, Z) bool, the region of the user that the window shows, such as an organ; None without one.
    """

    image: np.ndarray
    box: Box
    place: Box
    limits: np.ndarray
    spacing_mm: Triple
    case: str | None = None
    region: np.ndarray | None = None


@dataclass(frozen=True)
class Synthetic:
    """What a method made of a request.

    Attributes:
        image: (C, X, Y, Z) float32 in the scan's units.
        mask: (X, Y, Z) in [0, 1].
        drawn: random choices of the method, for the record.
        kept: (X, Y, Z) in [0, 1], the share of the host in the image. None: all or nothing of the host's detail is
            kept, as `Method.keeps_background` says.
        sublabels: (X, Y, Z), the voxel values of a tumor with several labels where the method knows them, 0 elsewhere.
            None: the pipeline chooses them (`preprocessing.sublabels`).
    """

    image: np.ndarray
    mask: np.ndarray
    drawn: Mapping[str, Any] = field(default_factory=dict)
    kept: np.ndarray | None = None
    sublabels: np.ndarray | None = None
