"""The one contract: how the harness meets a method, with or without training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tumorgen_cli.flow import Solver
from tumorgen_cli.plan import Decisions, Plan, WindowPlan
from tumorgen_cli.records import Fingerprint, Request, Synthetic
from tumorgen_cli.workspace import Workspace

if TYPE_CHECKING:
    from pathlib import Path

    from tumorgen_cli.devices import Budget
    from tumorgen_cli.training import Stage


@dataclass(frozen=True)
class Sampling:
    """How to sample, where a method samples: steps of the solver (None: the plan's)."""

    steps: int | None = None
    solver: Solver | None = None


class Method(ABC):
    """A way to paint a tumor into a window of a scan.

    A method gets a window on the working grid in the scan's own units and gives one back, with a soft mask. It
    changes nothing outside the request's box (the harness pastes the box alone) and never the request itself. The
    same request and seed give the same bits.

    Attributes:
        SOURCE: paper, equations, known deviations.
        stages: names of the training stages, in order.
        keeps_background: whether voxels of the box outside the tumor are the host's own; if so, paste-back carries the
            host's detail finer than the working grid into the box.
    """

    name: ClassVar[str]
    SOURCE: ClassVar[str]
    stages: ClassVar[tuple[str, ...]] = ()
    keeps_background: ClassVar[bool] = False

    def __init__(self, plan: Plan, workspace: Workspace, device: str = "cpu") -> None:
        self.plan, self.workspace, self.device = plan, workspace, device

    @classmethod
    @abstractmethod
    def plan_section(cls, d: Decisions, fingerprint: Fingerprint, window: WindowPlan, budget: Budget) -> None:
        """Takes every field of the method's config into `d`."""

    @abstractmethod
    def load(self) -> Mapping[str, str]:
        """Makes `synthesize` ready; returns the hashes of what was loaded, by name.

        Raises:
            StateError: a stage is not trained, or training data is not preprocessed.
        """

    @abstractmethod
    def synthesize(self, request: Request, seed: int, sampling: Sampling) -> Synthetic:
        """Paints a tumor into the request's box."""

    def stage(self, name: str, iterations: int | None = None, initial: Path | None = None) -> Stage:
        """The training stage `name`; `initial` is a checkpoint to start from, where a stage takes one."""
        raise NotImplementedError(f"{self.name} has no stage {name}")

    def inputs_hash(self, name: str) -> str:
        """What stage `name` would be made from now."""
        raise NotImplementedError(f"{self.name} has no stage {name}")

    def planned_iterations(self, name: str) -> int:
        """How long the plan wants stage `name` to be."""
        raise NotImplementedError(f"{self.name} has no stage {name}")

    def trained(self, name: str, iterations: int | None = None) -> bool:
        """Whether stage `name` is finished, made from what is there now, and `iterations` long (None: of any length)."""
        raise NotImplementedError(f"{self.name} has no stage {name}")
