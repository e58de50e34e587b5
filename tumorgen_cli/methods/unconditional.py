"""TumorGen without its condition: an unconditional flow of latents and mask; the known is put back at every step.

Stages: `vae` (TumorGen's own, shared), `unconditional`. The flow gets no condition; only the blending shows it what
lies around the box. It is an ablation and no system of a paper: the comparison with TumorGen measures what TumorGen's
condition is worth.
"""

# ruff: noqa: ARG003  (the contract gives every method the same arguments; some are not needed here)

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from tumorgen_cli.figures import save_grid_preview
from tumorgen_cli.geometry import as_triple
from tumorgen_cli.methods.base import Request, Sampling, Synthetic
from tumorgen_cli.methods.latent.cache import FORMAT, HeldOut, held_out_windows, training_latents
from tumorgen_cli.methods.latent.canvas import noise_like_host, open_canvas, put_back, smooth_host
from tumorgen_cli.methods.latent.joint import to_flow, upsample_mask, without_tumor
from tumorgen_cli.methods.latent.quality import inference_context, largest_tumor_slice
from tumorgen_cli.methods.latent.unconditioned import Unconditioned, UnconditionedConfig, plan_unconditioned
from tumorgen_cli.models import rectified_flow
from tumorgen_cli.models.flow_unet import FlowUNet
from tumorgen_cli.planning.fingerprint import Fingerprint
from tumorgen_cli.planning.plan import Decisions, Plan, WindowPlan
from tumorgen_cli.planning.ranges import LatentCells, Steps
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system.devices import DeviceBudget
from tumorgen_cli.system.files import derive_seed
from tumorgen_cli.training.stage import Objective, Stage
from tumorgen_cli.tumors.boxes import box_mask, draw_box, latent_mask


@dataclass(frozen=True)
class UnconditionalSampling:
    """The synthesis.

    Attributes:
        steps: steps of the solver.
        solver: `euler` or `heun`.
        halo: latent voxels that are decoded around the box.
        texture: whether noise like the host's own is added to the box.
    """

    steps: Steps
    solver: rectified_flow.Solver
    halo: LatentCells
    texture: bool


@dataclass(frozen=True)
class UnconditionalConfig:
    """The method's section of the plan."""

    unconditional: UnconditionedConfig
    sampling: UnconditionalSampling


class Unconditional(Unconditioned):
    """The ablation behind the contract; see the module and `SOURCE`."""

    name = "unconditional"
    section = UnconditionalConfig
    stages = ("vae", "unconditional")
    format_versions: ClassVar[Mapping[str, int]] = {"unconditional": FORMAT}
    solvers = rectified_flow.SOLVERS
    tested_loss = "the error of the flow's velocity in the tumor's window"
    SOURCE = (
        "An ablation of TumorGen (Liu, Chen et al. 2025, eq. 3): its flow without z^m, character and volume. "
        "Deviations: In place of a condition, the known region is put back at every step, as in Avrahami et al., "
        "Blended Latent Diffusion, SIGGRAPH 2023, but from one fixed path of noise. Outside the box the mask is known "
        "to be empty. The mask has one channel, no sub-labels and no refiner. Noise like the host's is drawn anew."
    )

    def __init__(self, plan: Plan, workspace: Workspace, device: str = "cpu") -> None:
        super().__init__(plan, workspace, device)
        self.config = plan.section(self.name, UnconditionalConfig)
        self.cell = self.vae_config.downsampling

    @classmethod
    def plan_section(cls, d: Decisions, fingerprint: Fingerprint, window: WindowPlan, budget: DeviceBudget) -> None:
        """Take every field of `UnconditionalConfig` into `d`."""
        same = "as TumorGen's flow"
        f = d.within("unconditional")
        plan_unconditioned(f, fingerprint, budget)
        s = d.within("sampling")
        s.take("steps", 50, "blending needs more steps than a condition: 50, as blended latent diffusion")
        s.take("solver", "euler", same)
        s.take("halo", 8, same)
        s.take("texture", True, same)

    # -- networks ----------------------------------------------------------------------------------------------
    @cached_property
    def net(self) -> FlowUNet:
        """The unconditional flow."""
        channels = self.vae_config.latent_channels + 1
        return FlowUNet(channels, channels, self.config.unconditional.widths, self.config.unconditional.res_blocks)

    # -- training ----------------------------------------------------------------------------------------------
    def own_stage(self, iterations: int | None) -> Stage:
        """The training of the flow."""
        c, seed = self.config.unconditional, derive_seed(self.plan.seed, "unconditional")
        vae_hash = self.load_frozen({"vae": self.vae}, "vae")
        latents = training_latents(self, self.vae, vae_hash, c.copies)
        self.net.to(self.device)

        def item(number: int) -> dict[str, Any]:
            rng = np.random.default_rng([seed, number])
            drawn = latents.draw(rng)
            data = np.concatenate([drawn.latent, latent_mask(drawn.mask, self.cell)[None]])
            return {
                "data": data,
                "noise": rng.standard_normal(data.shape, np.float32),
                "uniform": np.float32(rng.random()),
            }

        objective = Objective("unconditional", UnconditionalObjective(self.net), c.learning_rate)
        return Stage(
            name="unconditional",
            title="unconditional flow",
            models={"net": self.net},
            objectives=(objective,),
            item=item,
            iterations=iterations or c.iterations,
            batch=c.batch,
            ema=c.ema,
            inputs_hash=self.inputs_hash("unconditional"),
            preview=self._preview,
        )

    def window_loss(self, window: HeldOut, time: float, noise: np.random.Generator) -> float:
        """The velocity error of a window of a tumor; see `Unconditioned`."""
        mask = torch.from_numpy(latent_mask(window.mask, self.cell))[None, None].to(self.device)
        data = torch.cat([window.latent, mask], 1)
        drawn = torch.from_numpy(noise.standard_normal(data.shape, np.float32)).to(self.device)
        uniform = torch.full((1,), time, device=self.device)
        return float(UnconditionalObjective(self.net)({"data": data, "noise": drawn, "uniform": uniform})[0])

    def _preview(self, path: Path) -> None:
        """Held-out tumors: the scan, its mask, a draw in its box and the mask that belongs to the draw."""
        rows, names, main = [], [], self.plan.main_channel
        for window in held_out_windows(self, self.vae, 4):
            soft, axial = latent_mask(window.mask, self.cell), largest_tumor_slice(window.mask)
            box = draw_box(soft, self.plan.window.alpha, np.random.default_rng([self.plan.seed, 7]))
            inside = torch.from_numpy(box_mask(box, as_triple(soft.shape)))[None, None].to(self.device)
            picture, mask = self._decode(self._sample(window.latent, inside, 1, 20, "euler"))
            image = window.image[0, main].float().cpu().numpy()
            shown = (image, window.mask * 2.0 - 1, picture[main], mask * 2 - 1)
            rows.append([each[:, :, axial] for each in shown])
            names.append(window.name)
        save_grid_preview(path, rows, names, ["scan", "mask", "drawn", "its mask"], -1, 1)

    # -- synthesis ---------------------------------------------------------------------------------------------
    def load(self) -> dict[str, str]:
        """Load the VAE and the flow."""
        return {
            "vae": self.load_frozen({"vae": self.vae}, "vae"),
            "unconditional": self.load_frozen({"net": self.net}, "unconditional"),
        }

    def _sample(self, latent: Tensor, box: Tensor, seed: int, steps: int, solver: rectified_flow.Solver) -> Tensor:
        """x_1 inside the box (1, 1, x, y, z), the scan's own latents and no tumor outside: (1, L + 1, x, y, z).

        At each time t, the known region is what its own path from noise to data has there.
        """
        known = without_tumor(latent)
        noise = torch.from_numpy(np.random.default_rng(seed).standard_normal(known.shape, np.float32)).to(self.device)

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            blended = box * x + (1 - box) * rectified_flow.path(noise, known, t)
            inside: Tensor = self.net(blended, t)
            return box * inside.float() + (1 - box) * (known - noise)

        with inference_context(self.plan.precision, self.device):
            drawn = rectified_flow.sample(velocity, noise, steps, solver)
        return box * drawn + (1 - box) * known

    def _decode(self, joint: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """The scaled image (C, X, Y, Z) and the mask (X, Y, Z) in [0, 1] of a joint variable (1, L + 1, x, y, z)."""
        with inference_context(self.plan.precision, self.device):
            image, mask = self.vae.decode(joint[:, :-1]), upsample_mask(joint[:, -1:], self.cell)
        return image[0].float().cpu().numpy(), mask[0, 0].float().cpu().numpy()

    def synthesize(self, request: Request, seed: int, sampling: Sampling) -> Synthetic:
        """Encode the window, draw in the box with the rest put back at every step, decode the box with its halo."""
        c = self.config.sampling
        solver = cast("rectified_flow.Solver", sampling.solver or c.solver)  # the command line checks the name
        steps = sampling.steps or c.steps
        canvas = open_canvas(self.vae, request, self.plan, c.halo, self.device)
        joint = self._sample(canvas.latent, canvas.box, seed, steps, solver)
        picture, mask = self._decode(joint[canvas.cells])
        if c.texture:
            smooth = smooth_host(canvas, self.vae.decode, self.plan, self.device)
            picture += noise_like_host(canvas, picture, smooth, seed)
        return Synthetic(*put_back(canvas, picture, mask, self.plan), {"steps": steps, "solver": solver})


class UnconditionalObjective(nn.Module):
    """L_rfm without a condition.

    Source: TumorGen, eq. 3.
    """

    def __init__(self, net: FlowUNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss for a batch.

        Args:
            batch: `data` (B, L + 1, x, y, z) with the mask in [0, 1] as last channel, `noise` of the same shape,
                `uniform` (B,).
        """
        data = torch.cat([batch["data"][:, :-1], to_flow(batch["data"][:, -1:])], 1)
        velocity = self.net(rectified_flow.path(batch["noise"], data, batch["uniform"]), batch["uniform"])
        return rectified_flow.velocity_loss(velocity, batch["noise"], data), {}
