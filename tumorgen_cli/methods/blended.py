"""Blended latent diffusion with a given mask: the host's latents are put back outside the mask at every step.

Stages: `vae` (TumorGen's own, shared), `diffusion`. The diffusion learns the latents of windows with tumors and is
told nothing. The mask comes from a prior (`tumors.masks`); the decoded tumor is put into the scan inside the mask, in
voxels.
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
from tumorgen_cli.methods.base import Request, Sampling, Synthetic
from tumorgen_cli.methods.latent.cache import FORMAT, HeldOut, held_out_windows, training_latents
from tumorgen_cli.methods.latent.canvas import Texture, open_canvas, paint
from tumorgen_cli.methods.latent.quality import inference_context, largest_tumor_slice
from tumorgen_cli.methods.latent.settings import check_steps
from tumorgen_cli.methods.latent.unconditioned import Unconditioned, UnconditionedConfig, plan_unconditioned
from tumorgen_cli.methods.mask_prior import load_donors, place_mask
from tumorgen_cli.models import ddpm
from tumorgen_cli.models.flow_unet import FlowUNet
from tumorgen_cli.planning.fingerprint import Fingerprint
from tumorgen_cli.planning.plan import Decisions, Plan, WindowPlan
from tumorgen_cli.planning.ranges import LatentCells, Steps
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system.devices import DeviceBudget
from tumorgen_cli.system.files import derive_seed
from tumorgen_cli.training.stage import Objective, Stage
from tumorgen_cli.tumors.boxes import latent_mask
from tumorgen_cli.tumors.masks import MaskConfig, plan_masks

_MOST = "methods.blended.diffusion.timesteps"  # the most steps of the sampler


@dataclass(frozen=True)
class BlendedDiffusionConfig(UnconditionedConfig):
    """The unconditional diffusion and its training.

    Attributes:
        timesteps: T, the number of diffusion steps.
    """

    timesteps: Steps


@dataclass(frozen=True)
class BlendedSampling:
    """The synthesis.

    Attributes:
        steps: steps of the sampler, at most T.
        solver: `ddpm` or `ddim`.
        halo: latent voxels that are decoded around the box.
        texture: what the tumor gets of the noise that a VAE smooths away, as TumorGen's `sampling.texture`.
    """

    steps: Steps
    solver: ddpm.Sampler
    halo: LatentCells
    texture: Texture


@dataclass(frozen=True)
class BlendedConfig:
    """The method's section of the plan."""

    diffusion: BlendedDiffusionConfig
    mask: MaskConfig
    sampling: BlendedSampling


class Blended(Unconditioned):
    """Blended latent diffusion behind the contract; see the module and `SOURCE`."""

    name = "blended"
    section = BlendedConfig
    stages = ("vae", "diffusion")
    format_versions: ClassVar[Mapping[str, int]] = {"diffusion": FORMAT}
    solvers = ddpm.SAMPLERS
    tested_loss = "the error of the noise that the diffusion predicts in the tumor's window"
    keeps_background = True
    SOURCE = (
        "Avrahami et al., Blended Latent Diffusion, SIGGRAPH 2023, algorithm 1, and settings of its published code: "
        "50 DDIM steps with eta 0, new noise for the known region at each step. It is the row BLD of TumorGen's "
        "Table 1, where masks are given. That paper does not say how it trained BLD. Deviations: There is no text: the "
        "diffusion learns windows with tumors only, so that a tumor is what it expects where none is seen. TumorGen's "
        "VAE and network replace Stable Diffusion's, trained on the data set's own cases; the schedule is the cosine "
        "schedule with T = 1000. A latent cell is drawn if the mask touches it, where the published code has the "
        "nearest voxel: here cells are as large as small tumors. The mask is not dilated in early steps, and all steps "
        "are run. Inside the mask the decoded change is added to the host, in voxels, where the paper fits the decoder "
        "to each picture; it also gets the noise that the decoder loses, unless `sampling.texture` is `none`. No draw "
        "is ranked."
    )

    def __init__(self, plan: Plan, workspace: Workspace, device: str = "cpu") -> None:
        super().__init__(plan, workspace, device)
        c = self.config = plan.section(self.name, BlendedConfig)
        self.donors: list[np.ndarray] = []
        check_steps("methods.blended.sampling.steps", c.sampling.steps, c.diffusion.timesteps, _MOST)

    @classmethod
    def plan_section(cls, d: Decisions, fingerprint: Fingerprint, window: WindowPlan, budget: DeviceBudget) -> None:
        """Take every field of `BlendedConfig` into `d`."""
        published = "the published code's"
        f = d.within("diffusion")
        plan_unconditioned(f, fingerprint, budget)
        f.take("timesteps", 1000, published)
        plan_masks(d, "ellipsoid")
        s = d.within("sampling")
        s.take("steps", 50, published)
        s.take("solver", "ddim", published)
        s.take("halo", 8, "as TumorGen's")
        s.take("texture", "matched", "as TumorGen's, so that the samplers are compared; none: the paper's")

    # -- networks ----------------------------------------------------------------------------------------------
    @cached_property
    def net(self) -> FlowUNet:
        """The denoising network: TumorGen's, told nothing; it gets step / T and returns the noise."""
        c, channels = self.config.diffusion, self.vae_config.latent_channels
        return FlowUNet(channels, channels, c.widths, c.res_blocks)

    # -- training ----------------------------------------------------------------------------------------------
    def own_stage(self, iterations: int | None) -> Stage:
        """The training of the diffusion."""
        c, seed = self.config.diffusion, derive_seed(self.plan.seed, self.name, "items")
        latents = training_latents(self, self.vae, self.load_frozen({"vae": self.vae}, "vae"), c.copies)
        self.net.to(self.device)

        def item(number: int) -> dict[str, Any]:
            rng = np.random.default_rng([seed, number])
            latent = latents.draw(rng).latent
            noise = rng.standard_normal(latent.shape, np.float32)
            return {"latent": latent, "noise": noise, "step": rng.integers(1, c.timesteps + 1)}

        objective = Objective("diffusion", NoiseObjective(self.net, c.timesteps), c.learning_rate)
        return Stage(
            name="diffusion",
            title="unconditional diffusion",
            models={"net": self.net},
            objectives=(objective,),
            item=item,
            iterations=iterations or c.iterations,
            batch=c.batch,
            ema=c.ema,
            inputs_hash=self.inputs_hash("diffusion"),
            preview=self._preview,
        )

    def window_loss(self, window: HeldOut, time: float, noise: np.random.Generator) -> float:
        """The error of the predicted noise of a window of a tumor; see `Unconditioned`."""
        timesteps = self.config.diffusion.timesteps
        drawn = torch.from_numpy(noise.standard_normal(window.latent.shape, np.float32)).to(self.device)
        step = torch.full((1,), max(1, round((1 - time) * timesteps)), device=self.device)
        objective = NoiseObjective(self.net, timesteps).to(self.device)
        return float(objective({"latent": window.latent, "noise": drawn, "step": step})[0])

    def _preview(self, path: Path) -> None:
        """Held-out tumors: the scan, the mask, two draws in it."""
        rows, names, s, main = [], [], self.config.sampling, self.plan.main_channel
        for window in held_out_windows(self, self.vae, 4):
            axial = largest_tumor_slice(window.mask)
            row = [window.image[0, main].float().cpu().numpy()[:, :, axial], window.mask[:, :, axial] * 2.0 - 1]
            for seed in (1, 2):
                drawn = self.draw_latent(window.latent, self.touched_cells(window.mask), seed, s.steps, s.solver)
                with inference_context(self.plan.precision, self.device):
                    row.append(self.vae.decode(drawn)[0, main].float().cpu().numpy()[:, :, axial])
            rows.append(row)
            names.append(window.name)
        save_grid_preview(path, rows, names, ["scan", "mask", "drawn, seed 1", "drawn, seed 2"], -1, 1)

    # -- synthesis ---------------------------------------------------------------------------------------------
    def load(self) -> dict[str, str]:
        """Load the VAE, the diffusion and, if the prior uses them, the training masks."""
        hashes = {
            "vae": self.load_frozen({"vae": self.vae}, "vae"),
            "diffusion": self.load_frozen({"net": self.net}, "diffusion"),
        }
        self.donors, masks = load_donors(self.config.mask, self.workspace)
        return hashes | masks

    def touched_cells(self, mask: np.ndarray) -> Tensor:
        """The latent cells (1, 1, x, y, z) that a mask (X, Y, Z) touches, 0 or 1, on the device."""
        touched = latent_mask(mask, self.vae_config.downsampling) > 0
        return torch.from_numpy(touched.astype(np.float32))[None, None].to(self.device)

    def draw_latent(self, latent: Tensor, cells: Tensor, seed: int, steps: int, solver: ddpm.Sampler) -> Tensor:
        """z_0 (1, L, x, y, z): drawn in `cells` (1, 1, x, y, z), the scan's own latents elsewhere.

        Before every step, x_t outside the cells is the scan's latents with new noise of that step.
        """
        timesteps, rng = self.config.diffusion.timesteps, np.random.default_rng(seed)
        levels = ddpm.signal_levels(timesteps).float().to(self.device)

        def draw() -> Tensor:
            return torch.from_numpy(rng.standard_normal(latent.shape, np.float32)).to(self.device)

        def denoise(x: Tensor, step: Tensor) -> Tensor:
            known = ddpm.add_noise(latent, draw(), levels[step.long()])
            return cast("Tensor", self.net(cells * x + (1 - cells) * known, step / timesteps))

        with inference_context(self.plan.precision, self.device):
            drawn = ddpm.sample(denoise, draw, timesteps, steps, solver)
        return cells * drawn + (1 - cells) * latent

    def synthesize(self, request: Request, seed: int, sampling: Sampling) -> Synthetic:
        """Draw a mask in the place and the latents that it touches; put the decoded tumor into the mask.

        Raises:
            PlanError: `sampling` has more steps than the diffusion.
        """
        c, rng = self.config.sampling, np.random.default_rng([seed, 1])
        solver = cast("ddpm.Sampler", sampling.solver or c.solver)  # the command line checks the name
        steps = sampling.steps or c.steps
        check_steps("--steps", steps, self.config.diffusion.timesteps, _MOST)
        share, drawn = place_mask(self.config.mask, self.plan, request, rng, self.donors)
        canvas = open_canvas(self.vae, request, self.plan, c.halo, self.device)
        latent = self.draw_latent(canvas.latent, self.touched_cells(share), seed, steps, solver)
        with inference_context(self.plan.precision, self.device):
            picture = self.vae.decode(latent[canvas.cells])[0].float().cpu().numpy()
        inside = share[canvas.voxels.slices]
        painted, _ = paint(canvas, self.vae, self.plan, picture, inside, c.texture, seed)
        image = request.image + share * (painted - request.image)
        kept = 1 - share if c.texture == "none" else None  # with a texture, the host's finer detail stays, too
        return Synthetic(image, share, {**drawn, "steps": steps, "solver": solver}, kept)


class NoiseObjective(nn.Module):
    """Mean squared error of the predicted noise, without a condition.

    Source: Rombach et al., Latent Diffusion Models, 2022, eq. 2.
    """

    levels: Tensor

    def __init__(self, net: FlowUNet, timesteps: int) -> None:
        super().__init__()
        self.net, self.timesteps = net, timesteps
        self.register_buffer("levels", ddpm.signal_levels(timesteps).float(), persistent=False)

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss for a batch.

        Args:
            batch: `latent` and `noise` (B, L, x, y, z), `step` (B,) from 1 to T.
        """
        latent, noise, step = batch["latent"], batch["noise"], batch["step"]
        x_t = ddpm.add_noise(latent, noise, self.levels.to(latent.device)[step])
        return (self.net(x_t, step / self.timesteps) - noise).square().mean(), {}
