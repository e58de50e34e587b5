"""The one contract: how the harness meets a method, with or without training."""

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
from tumorgen_cli.system.json_records import hash_value, read_plain
from tumorgen_cli.training.checkpoints import is_finished
from tumorgen_cli.training.stage import Stage

if TYPE_CHECKING:
    from tumorgen_cli.system.devices import DeviceBudget


#: beside a run that began with given weights: their file, hash, and the cases of the data set that they have seen
INITIAL = "initial.json"


@dataclass(frozen=True)
class Sampling:
    """How to sample, where a method samples: steps, one of its solvers (None: the plan's), one of its kinds of tumor (None: any)."""

    steps: int | None = None
    solver: str | None = None
    kind: str | None = None


class Method(ABC):
    """A way to paint a tumor into a window of a scan.

    A method gets a window on the working grid in the scan's own units and gives one back, with a soft mask. It
    changes nothing outside the request's box (the harness pastes the box alone), keeps its tumor in the request's
    place, and never changes the request itself. The same request and seed give the same bits.

    Attributes:
        SOURCE: paper, equations, known deviations.
        config: the method's section of the plan; the settings of a stage are its field of the stage's name.
        stages: names of the training stages, in order; each may use those before it.
        solvers: names of the samplers it knows.
        kinds: names of the kinds of tumor that it can be asked for.
        formats: numbers of what a stage's weights mean beyond its settings, by stage; raised when that changes.
        keeps_background: whether voxels of the box outside the tumor are the host's own; if so, an old tumor in the box is
            taken away first, and paste-back carries the host's detail finer than the working grid into the box.
        cell: side, in working voxels, of the cells in which it draws masks: a place for a tumor is widened to whole ones, so that no
            part of a cell is cut off, unless the user has given the box.
    """

    name: ClassVar[str]
    SOURCE: ClassVar[str]
    stages: ClassVar[tuple[str, ...]] = ()
    solvers: ClassVar[tuple[str, ...]] = ()
    kinds: tuple[str, ...] = ()
    formats: ClassVar[Mapping[str, int]] = {}
    keeps_background: bool = False
    cell: ClassVar[int] = 1
    config: Any

    def __init__(self, plan: Plan, workspace: Workspace, device: str = "cpu") -> None:
        self.plan, self.workspace, self.device = plan, workspace, device

    @classmethod
    @abstractmethod
    def plan_section(cls, d: Decisions, fingerprint: Fingerprint, window: WindowPlan, budget: DeviceBudget) -> None:
        """Takes every field of the method's config into `d`."""

    @abstractmethod
    def load(self) -> Mapping[str, str]:
        """Makes `synthesize` ready; returns the hashes of what was loaded, by name.

        Raises:
            StateError: a stage is not trained, or training data is not preprocessed.
        """

    @abstractmethod
    def synthesize(self, request: Request, seed: int, sampling: Sampling) -> Synthetic:
        """Paints a tumor into the request's place."""

    def stage(self, name: str, iterations: int | None = None, initial: Path | None = None) -> Stage:
        """The training stage `name`; `initial` is a checkpoint to start from, where a stage takes one."""
        raise NotImplementedError(f"{self.name} has no stage {name}")

    # -- what stages are made from ---------------------------------------------------------------------------------
    def folder(self, stage: str) -> Path:
        """Where a stage's run lies."""
        return self.workspace.run(self.name, stage)

    def inputs_hash(self, name: str) -> str:
        """What stage `name` would be made from now: the data, its section of the plan, the weights of the stages before it."""
        before, made = self.stages[: self.stages.index(name)], [self.formats[name]] if name in self.formats else []
        return hash_value(
            [self.data(), learnt_by(self.settings(name)), *made, *(self.weights_hash(stage) for stage in before)]
        )

    def data(self) -> list[Any]:
        """What every stage depends on: the cases, their working grid, the split, the seed."""
        plan = self.plan
        return [
            plan.fingerprint_hash,
            plan.window,
            plan.channels,
            plan.precision,
            plan.seed,
            self.workspace.splits().train,
        ]

    def weights_hash(self, stage: str) -> str:
        """The hash of a trained stage's weights.

        Raises:
            StateError: it is not trained.
        """
        return str(read_plain(self.folder(stage) / "run.json", f"run `tumorgen train {stage}`")["weights_hash"])

    def learnt_from(self) -> tuple[str, ...]:
        """The cases that the method has seen: the training cases, and those that given weights have seen."""
        own = self.workspace.splits().train
        files = [path for stage in self.stages if (path := self.folder(stage) / INITIAL).is_file()]
        other = {case for path in files for case in read_plain(path, "train the stage again")["cases"]}
        return (*own, *sorted(other - {*own}))

    def planned_iterations(self, name: str) -> int:
        """How long the plan wants stage `name` to be."""
        return int(self.settings(name).iterations)

    def settings(self, name: str) -> Any:
        """The section of the plan for stage `name`."""
        return getattr(self.config, name)

    def trained(self, name: str, iterations: int | None = None) -> bool:
        """Whether stage `name` is finished, made from what is there now, and `iterations` long (None: of any length)."""
        before = self.stages[: self.stages.index(name)]
        if not all((self.folder(stage) / "run.json").is_file() for stage in before):
            return False
        return is_finished(self.folder(name), self.inputs_hash(name), iterations)


def learnt_by(section: Any) -> dict[str, Any]:
    """A stage's section of the plan without its length and its warnings, which change nothing that was learnt."""
    return {k: v for k, v in vars(section).items() if k not in ("iterations", "least_psnr")}


@dataclass(frozen=True)
class Request:
    """A window of a host scan on the working grid, the box to paint in and, within it, the one for the tumor.

    `image`: (C, X, Y, Z) float32, the scan's own units. `box`, `place`: voxels of the window; between the two the picture fades into
    the host, and a mask is cut off; a drawn place is of whole cells (`Method.cell`) as far as the box goes. `limits`: (C, 2), the whole scan's clip
    limits (`windows.scan_limits`). `case`: the case whose tumor is redrawn, if it is one of the data set's.
    """

    image: np.ndarray
    box: Box
    place: Box
    limits: np.ndarray
    spacing_mm: Triple
    case: str | None = None


@dataclass(frozen=True)
class Synthetic:
    """What a method made of a request: image (C, X, Y, Z) in the scan's units, mask (X, Y, Z) in [0, 1].

    `drawn` holds whatever the method drew at random and wants to have on record. `kept` (X, Y, Z) in [0, 1]: how much of the
    host is in the image; None: all or nothing of its detail stays, as the method says (`keeps_background`).
    """

    image: np.ndarray
    mask: np.ndarray
    drawn: Mapping[str, Any] = field(default_factory=dict)
    kept: np.ndarray | None = None
