"""What methods share that train a network without a condition on the latents of TumorGen's autoencoder."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from tumorgen_cli.methods.base import Method
from tumorgen_cli.methods.latent.autoencoder import VaeConfig, load_cases, vae_stage
from tumorgen_cli.methods.latent.cache import HeldOut, held_out_windows
from tumorgen_cli.methods.latent.quality import QUALITY_TIMES, inference_context
from tumorgen_cli.models.vae import KlVae
from tumorgen_cli.planning import rules
from tumorgen_cli.planning.fingerprint import Fingerprint
from tumorgen_cli.planning.plan import REPLAN, Decisions, Plan
from tumorgen_cli.planning.ranges import Batch, Blocks, Copies, Iterations, LatentWidths, LearningRate, ShareBelowOne
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system.devices import DeviceBudget
from tumorgen_cli.system.files import derive_seed
from tumorgen_cli.system.json_records import from_plain
from tumorgen_cli.training.stage import Stage

_OWNER = "tumorgen"  # the method whose VAE is used


@dataclass(frozen=True)
class UnconditionedConfig:
    """The network and its training.

    Attributes:
        widths: channels of the levels.
        res_blocks: residual blocks per level.
        batch: windows per step.
        iterations: training steps.
        learning_rate: learning rate after the warm-up.
        ema: decay of the moving average of the weights.
        copies: augmented windows that are encoded per tumor.
    """

    widths: LatentWidths
    res_blocks: Blocks
    batch: Batch
    iterations: Iterations
    learning_rate: LearningRate
    ema: ShareBelowOne
    copies: Copies


def plan_unconditioned(d: Decisions, fingerprint: Fingerprint, budget: DeviceBudget) -> None:
    """Take every field of `UnconditionedConfig` into `d`, by the rules of TumorGen's flow."""
    large, tumors, same = budget.large, max(1, len(fingerprint.tumors)), "as TumorGen's flow"
    d.take("widths", (64, 128, 256) if large else (32, 64, 128), same)
    d.take("res_blocks", 2, same)
    d.take("batch", 8, same)
    d.take("iterations", rules.flow_steps(tumors, 20000 if large else 5000), same, tumors=tumors)
    d.take("learning_rate", 2e-4 if large else 2e-3, same)
    d.take("ema", 0.995, same)
    d.take("copies", rules.encoded_copies(tumors), same, tumors=tumors)


class Unconditioned(Method):
    """A method of two stages: TumorGen's `vae`, which it shares, and a network of its own.

    Attributes:
        vae_config: settings of the VAE, TumorGen's.
    """

    uses_sections_of = (_OWNER,)
    initial_stages: ClassVar[tuple[str, ...]] = ("vae",)

    def __init__(self, plan: Plan, workspace: Workspace, device: str = "cpu") -> None:
        super().__init__(plan, workspace, device)
        self.vae_config = from_plain(VaeConfig, plan.methods[_OWNER]["vae"], f"plan.json methods.{_OWNER}.vae", REPLAN)

    @cached_property
    def vae(self) -> KlVae:
        """TumorGen's KL-VAE."""
        return self.vae_config.network(len(self.plan.channels))

    def folder(self, stage: str) -> Path:
        """The folder of a stage's run; the VAE's is TumorGen's."""
        return self.workspace.run(_OWNER if stage == "vae" else self.name, stage)

    def settings(self, name: str) -> Any:
        """The section of the plan for stage `name`; the VAE's is TumorGen's."""
        return self.vae_config if name == "vae" else super().settings(name)

    def stage(self, name: str, iterations: int | None = None, initial: Path | None = None) -> Stage:
        """The training stage `name`; `initial` is a checkpoint for the VAE to start from."""
        owner = _OWNER if name == "vae" else self.name
        torch.manual_seed(derive_seed(self.plan.seed, owner, name))  # determines the networks' first weights
        if name == "vae":
            return vae_stage(self, self.vae, self.vae_config, iterations, initial)
        return self.own_stage(iterations)

    def tumor_losses(self, case: str) -> tuple[float, ...]:
        """The training loss of the window of each tumor of a case, at fixed times and with one noise for all tumors."""
        cases = load_cases(self.workspace, [case])
        losses = []
        for window in held_out_windows(self, self.vae, len(cases[0].record.components), cases=cases):
            noise = np.random.default_rng(self.plan.seed)
            with inference_context(self.plan.precision, self.device):
                losses.append(np.mean([self.window_loss(window, time, noise) for time in QUALITY_TIMES]))
        return tuple(map(float, losses))

    @abstractmethod
    def window_loss(self, window: HeldOut, time: float, noise: np.random.Generator) -> float:
        """The training loss of a window of a tumor.

        Args:
            window: The window.
            time: Flow time: 0 noise, 1 data.
            noise: Draws the noise.
        """

    @abstractmethod
    def own_stage(self, iterations: int | None) -> Stage:
        """The training of the method's own network."""
