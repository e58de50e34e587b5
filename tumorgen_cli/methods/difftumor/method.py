"""DiffTumor: latent diffusion fills a given mask, conditioned on the mask and on the healthy latents around it.

Stages: `vqgan`, `ddpm`. The mask comes from a prior (`tumors.masks`); only what it covers is changed.
"""

# ruff: noqa: ARG002  (the contract gives every method the same arguments; some are not needed here)

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from tumorgen_cli.figures import save_grid_preview
from tumorgen_cli.methods.base import Method, Request, Sampling, Synthetic
from tumorgen_cli.methods.difftumor.config import DiffTumorConfig, check_steps, plan_difftumor
from tumorgen_cli.methods.difftumor.objectives import CriticsObjective, DdpmObjective, VqGanObjective
from tumorgen_cli.methods.latent.autoencoder import draw_patch, load_cases, measure_latent_statistics, patch_shape
from tumorgen_cli.methods.latent.cache import held_out_windows, training_latents
from tumorgen_cli.methods.latent.canvas import open_canvas, put_back
from tumorgen_cli.methods.latent.quality import (
    inference_context,
    largest_tumor_slice,
    reconstruction_preview,
    reconstruction_quality,
)
from tumorgen_cli.methods.latent.scans import statistic_windows, training_scans
from tumorgen_cli.methods.mask_prior import load_donors, place_mask
from tumorgen_cli.models import ddpm
from tumorgen_cli.models.diffusion_unet import PlaneUNet
from tumorgen_cli.models.vqgan import Critics, VqGan
from tumorgen_cli.planning.fingerprint import Fingerprint
from tumorgen_cli.planning.plan import Decisions, Plan, WindowPlan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system.devices import DeviceBudget
from tumorgen_cli.system.files import derive_seed
from tumorgen_cli.training.stage import Objective, Stage


class DiffTumor(Method):
    """DiffTumor behind the contract; see the module and `SOURCE`."""

    name = "difftumor"
    section = DiffTumorConfig
    stages = ("vqgan", "ddpm")
    solvers = ddpm.SAMPLERS
    format_versions: ClassVar[Mapping[str, int]] = {"vqgan": 3}
    keeps_background = True
    SOURCE = (
        "Chen et al., Towards Generalizable Tumor Synthesis, CVPR 2024; settings of its published code. Deviations: "
        "The VQGAN is trained on the data set's own cases, and on healthy scans if the workspace has any. Patches "
        "have several sizes, and the blocks are MAISI's. Its codebook follows the mean of its vectors and replaces "
        "unused codes; its perceptual loss uses EfficientNet-Lite0. Latents are standardized per channel, not mapped "
        "to [-1, 1] by the codebook's extremes, and clipped at ten standard deviations. The critics have 32 channels "
        "instead of 64 and that code's hinge loss instead of eq. 3's logarithms; their verdicts are averaged over the"
        " volume and three slices, so that the volume counts a quarter. The noise loss is L1, as in that code, "
        "instead of eq. 6's square. AdamW with this project's moments (0.9, 0.99), weight decay, clipping and "
        "schedule replaces Adam (0.5, 0.9). The U-Net has three levels instead of four, and softmax attention in the "
        "plane. Host latents are put back outside the mask before decoding. Masks follow the given place instead of "
        "size classes drawn with 0.8 / 0.1 / 0.1. The working grid is the plan's, not 1 mm. One model serves all "
        "sizes (T = 4 for early tumors is `ddpm.timesteps=4` with `sampling.steps=4`)."
    )

    def __init__(self, plan: Plan, workspace: Workspace, device: str = "cpu") -> None:
        super().__init__(plan, workspace, device)
        self.config = plan.section(self.name, DiffTumorConfig)
        self.donors: list[np.ndarray] = []
        check_steps("methods.difftumor.sampling.steps", self.config.sampling.steps, self.config.ddpm.timesteps)

    @classmethod
    def plan_section(cls, d: Decisions, fingerprint: Fingerprint, window: WindowPlan, budget: DeviceBudget) -> None:
        """Take every field of `DiffTumorConfig` into `d`."""
        plan_difftumor(d, max(1, len(fingerprint.tumors)), window, budget)

    # -- networks ----------------------------------------------------------------------------------------------
    @cached_property
    def vqgan(self) -> VqGan:
        """The VQGAN."""
        c = self.config.vqgan
        return VqGan(len(self.plan.channels), c.widths, c.latent_channels, c.res_blocks, c.codes)

    def nearest_mask(self, mask: np.ndarray) -> Tensor:
        """`nearest_mask` on the VQGAN's latent grid, (1, 1, x, y, z) on the device."""
        return torch.from_numpy(nearest_mask(mask, self.vqgan.downsampling))[None].to(self.device)

    @cached_property
    def net(self) -> PlaneUNet:
        """The denoising network."""
        c, latent = self.config.ddpm, self.config.vqgan.latent_channels
        return PlaneUNet(2 * latent + 1, latent, c.widths, c.heads)

    # -- training ----------------------------------------------------------------------------------------------
    def stage(self, name: str, iterations: int | None = None, initial: Path | None = None) -> Stage:
        """The training stage `name`."""
        torch.manual_seed(derive_seed(self.plan.seed, self.name, name))  # determines the networks' first weights
        return self._vqgan_stage(iterations) if name == "vqgan" else self._ddpm_stage(iterations)

    def _vqgan_stage(self, iterations: int | None) -> Stage:
        c, plan = self.config.vqgan, self.plan
        splits = self.workspace.splits()
        train, test = load_cases(self.workspace, splits.train), load_cases(self.workspace, splits.test)
        scans = training_scans(self, "vqgan", train)
        steps = iterations or c.iterations
        seed = derive_seed(plan.seed, "vqgan")

        def item(number: int) -> dict[str, Any]:
            rng = np.random.default_rng([seed, number])
            fools = np.float32(number // c.batch >= c.adversarial_from * steps)
            shape = patch_shape(c.patch, seed, number // c.batch)
            return {"image": draw_patch(scans, plan, shape, rng), "planes": rng.integers(0, shape), "fools": fools}

        self.vqgan.to(self.device)
        critics = Critics(len(plan.channels)).to(self.device)
        first = VqGanObjective(self.vqgan, critics, c)
        objectives = (
            Objective("vqgan", first, c.learning_rate),
            Objective("critics", CriticsObjective(critics, first), c.learning_rate),
        )

        def finish() -> dict[str, float]:
            measure_latent_statistics(self.vqgan, statistic_windows(self, scans), plan, self.device)
            return reconstruction_quality(self.vqgan, test, plan, self.device) if test else {}

        return Stage(
            name="vqgan",
            title="VQGAN",
            models={"vqgan": self.vqgan},
            objectives=objectives,
            item=item,
            iterations=steps,
            batch=c.batch,
            ema=c.ema,
            inputs_hash=self.inputs_hash("vqgan"),
            preview=reconstruction_preview(self.vqgan, (test or train)[:4], plan, self.device),
            finish=finish,
        )

    def _ddpm_stage(self, iterations: int | None) -> Stage:
        c = self.config.ddpm
        encoder_hash = self.load_frozen({"vqgan": self.vqgan}, "vqgan")
        latents = training_latents(self, self.vqgan, encoder_hash, c.copies)
        self.net.to(self.device)
        seed = derive_seed(self.plan.seed, "ddpm")

        def item(number: int) -> dict[str, Any]:
            rng = np.random.default_rng([seed, number])
            drawn = latents.draw(rng)
            return {
                "latent": drawn.latent,
                "mask": nearest_mask(drawn.mask, self.vqgan.downsampling),
                "noise": rng.standard_normal(drawn.latent.shape, np.float32),
                "step": rng.integers(1, c.timesteps + 1),
            }

        objective = Objective("ddpm", DdpmObjective(self.net, c.timesteps), c.learning_rate)
        return Stage(
            name="ddpm",
            title="latent diffusion",
            models={"net": self.net},
            objectives=(objective,),
            item=item,
            iterations=iterations or c.iterations,
            batch=c.batch,
            ema=c.ema,
            inputs_hash=self.inputs_hash("ddpm"),
            preview=self._preview,
        )

    def _preview(self, path: Path) -> None:
        """Held-out tumors: the scan, the mask, two draws in it."""
        rows, names, s, main = [], [], self.config.sampling, self.plan.main_channel
        for window in held_out_windows(self, self.vqgan, 4):
            axial = largest_tumor_slice(window.mask)
            row = [window.image[0, main].float().cpu().numpy()[:, :, axial], window.mask[:, :, axial] * 2.0 - 1]
            mask = self.nearest_mask(window.mask)
            for seed in (1, 2):
                drawn = self.draw_latent(window.latent, mask, seed, s.steps, s.solver)
                with inference_context(self.plan.precision, self.device):
                    row.append(self.vqgan.decode(drawn)[0, main].float().cpu().numpy()[:, :, axial])
            rows.append(row)
            names.append(window.name)
        save_grid_preview(path, rows, names, ["scan", "mask", "drawn, seed 1", "drawn, seed 2"], -1, 1)

    # -- synthesis ---------------------------------------------------------------------------------------------
    def load(self) -> dict[str, str]:
        """Load the VQGAN, the denoising network and, if the prior uses them, the training masks."""
        hashes = {
            "vqgan": self.load_frozen({"vqgan": self.vqgan}, "vqgan"),
            "ddpm": self.load_frozen({"net": self.net}, "ddpm"),
        }
        self.donors, masks = load_donors(self.config.mask, self.workspace)
        return hashes | masks

    def draw_latent(self, latent: Tensor, mask: Tensor, seed: int, steps: int, solver: ddpm.Sampler) -> Tensor:
        """z_0 (1, L, x, y, z) given (1 - m) z_0 and m (1, 1, x, y, z); outside the mask the scan's own latents."""
        rng = np.random.default_rng(seed)
        condition = torch.cat([(1 - mask) * latent, mask], 1)

        def draw() -> Tensor:
            return torch.from_numpy(rng.standard_normal(latent.shape, np.float32)).to(self.device)

        def denoise(x: Tensor, step: Tensor) -> Tensor:
            return cast("Tensor", self.net(torch.cat([x, condition], 1), step))

        with inference_context(self.plan.precision, self.device):
            drawn = ddpm.sample(denoise, draw, self.config.ddpm.timesteps, steps, solver)
        return mask * drawn + (1 - mask) * latent

    def synthesize(self, request: Request, seed: int, sampling: Sampling) -> Synthetic:
        """Draw a mask in the place and its latents by diffusion; blend the decoded tumor in along a blurred edge.

        Raises:
            PlanError: `sampling` has more steps than the diffusion.
        """
        c, rng = self.config.sampling, np.random.default_rng([seed, 1])
        solver = cast("ddpm.Sampler", sampling.solver or c.solver)  # the command line checks the name
        steps = sampling.steps or c.steps
        check_steps("--steps", steps, self.config.ddpm.timesteps)
        share, drawn = place_mask(self.config.mask, self.plan, request, rng, self.donors)
        canvas = open_canvas(self.vqgan, request, self.plan, c.halo, self.device)
        mask = self.nearest_mask(share)
        latent = self.draw_latent(canvas.latent, mask, seed, steps, solver)
        with inference_context(self.plan.precision, self.device):
            picture = self.vqgan.decode(latent[canvas.cells])[0].float().cpu().numpy()
        painted, _ = put_back(canvas, picture, share[canvas.voxels.slices], self.plan)
        edge = rng.uniform(*c.edge_mm)
        weight = ndimage.gaussian_filter(share, [edge / s for s in request.spacing_mm])
        image = request.image.astype(np.float32, copy=True)
        inside = (slice(None), *request.box.slices)
        image[inside] += weight[request.box.slices] * (painted[inside] - image[inside])
        return Synthetic(image, share, {**drawn, "steps": steps, "solver": solver, "edge_mm": round(float(edge), 3)})


def nearest_mask(mask: np.ndarray, factor: int) -> np.ndarray:
    """A mask (X, Y, Z) on the grid of cells of `factor` voxels per side, (1, x, y, z), 0 or 1, by nearest neighbor.

    If no cell would be 1, the cell of the mask's maximum is.
    """
    half = factor // 2
    small = (mask[half::factor, half::factor, half::factor] >= 0.5).astype(np.float32)
    if not small.any() and mask.any():
        peak = np.unravel_index(int(mask.argmax()), mask.shape)
        small[tuple(min(p // factor, n - 1) for p, n in zip(peak, small.shape, strict=True))] = 1
    return small[None]
