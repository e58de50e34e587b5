"""DiffTumor: a given mask is filled by latent diffusion, conditioned on the mask and on the healthy latents around it.

Stages: vqgan, ddpm. The mask comes from a prior (`shapes`); only what it covers is changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from tumorgen_cli.figures import save_grid_preview
from tumorgen_cli.geometry import Shape
from tumorgen_cli.methods.base import Method, Request, Sampling, Synthetic
from tumorgen_cli.methods.latent import autoencoder as ae
from tumorgen_cli.methods.latent.cache import held_out_windows, training_latents
from tumorgen_cli.methods.latent.canvas import check_halo, open_canvas, put_back
from tumorgen_cli.methods.mask_prior import load_donors, place_mask
from tumorgen_cli.models import ddpm
from tumorgen_cli.models.diffusion_unet import PlaneUNet
from tumorgen_cli.models.efficientnet import Perceptual
from tumorgen_cli.models.vae import DOWNSAMPLING
from tumorgen_cli.models.vqgan import Critics, VqGan, cut_planes
from tumorgen_cli.planning import rules
from tumorgen_cli.planning.fingerprint import Fingerprint
from tumorgen_cli.planning.plan import Decisions, Plan, WindowPlan, validate_sides
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system.devices import DeviceBudget
from tumorgen_cli.system.errors import Fault, PlanError
from tumorgen_cli.system.files import derive_seed
from tumorgen_cli.training.checkpoints import load_weights
from tumorgen_cli.training.stage import Objective, Stage
from tumorgen_cli.tumors.masks import MaskConfig, plan_masks


@dataclass(frozen=True)
class VqGanConfig:
    """The VQGAN and its training. `codes`: K of the codebook, `latent_channels` its width; `patch`: the largest, in voxels. Weights
    are those of the terms' sum; `adversarial_from`: the share of the iterations after which the critics count."""

    widths: tuple[int, ...]
    res_blocks: tuple[int, ...]
    latent_channels: int
    codes: int
    patch: Shape
    batch: int
    iterations: int
    learning_rate: float
    ema: float
    l1_weight: float
    commitment_weight: float
    perceptual_weight: float
    matching_weight: float
    adversarial_weight: float
    adversarial_from: float
    least_psnr: float


@dataclass(frozen=True)
class DdpmConfig:
    """The denoising network and its training. `heads`: number and width. `timesteps`: T. `copies`: augmented windows per tumor."""

    widths: tuple[int, ...]
    heads: tuple[int, int]
    batch: int
    iterations: int
    learning_rate: float
    ema: float
    copies: int
    timesteps: int


@dataclass(frozen=True)
class DiffTumorSampling:
    """Synthesis: steps of the T, sampler, the halo in latent voxels decoded around a box, the sigma range of the blurred mask
    edge in mm."""

    steps: int
    solver: ddpm.Sampler
    halo: int
    edge_mm: tuple[float, float]

    def __post_init__(self) -> None:
        check_halo(self.halo, "methods.difftumor.sampling.halo")


@dataclass(frozen=True)
class DiffTumorConfig:
    """DiffTumor's section of the plan."""

    vqgan: VqGanConfig
    ddpm: DdpmConfig
    mask: MaskConfig
    sampling: DiffTumorSampling


class DiffTumor(Method):
    """See the module."""

    name = "difftumor"
    stages = ("vqgan", "ddpm")
    solvers = ddpm.SAMPLERS
    formats: ClassVar[Mapping[str, int]] = {"vqgan": 2}
    keeps_background = True
    SOURCE = (
        "Chen et al., Towards Generalizable Tumor Synthesis, CVPR 2024; settings of its published code. Deviations: the VQGAN is trained on the "
        "data set's own cases, on patches of several sizes, with MAISI's blocks, a codebook that follows its codes' means and restarts unused ones, "
        "and a perceptual loss in EfficientNet-Lite0's features; latents are standardised by channel, not brought to [-1, 1] by the codebook's "
        "extremes, and clipped at ten standard deviations; critics of 32 channels instead of 64 with that code's hinge loss for eq. 3's logarithms, "
        "whose verdicts are averaged over the volume and three slices, so that the volume's counts a quarter; L1 between noises, as that code, for "
        "eq. 6's square; AdamW with this project's moments (0.9, 0.99), weight decay, clipping and schedule instead of Adam (0.5, 0.9); three U-Net "
        "levels instead of four; masks follow the given box instead of size classes drawn 0.8 / 0.1 / 0.1; the working grid is the plan's, not 1 "
        "mm; one model for all sizes (T = 4 for early tumors is `ddpm.timesteps=4` with `sampling.steps=4`)."
    )

    def __init__(self, plan: Plan, workspace: Workspace, device: str = "cpu") -> None:
        super().__init__(plan, workspace, device)
        self.config = plan.section(self.name, DiffTumorConfig)
        self.donors: list[np.ndarray] = []
        if self.config.sampling.steps > self.config.ddpm.timesteps:
            _refuse_steps("methods.difftumor.sampling.steps", self.config.sampling.steps, self.config.ddpm.timesteps)

    @classmethod
    def plan_section(cls, d: Decisions, fingerprint: Fingerprint, window: WindowPlan, budget: DeviceBudget) -> None:
        large = budget.large
        tumors = max(1, len(fingerprint.tumors))
        published = "DiffTumor's published setting"
        v = d.within("vqgan")
        v.take("widths", (16, 32, 64), published)
        v.take("res_blocks", (2, 2, 2), "as the KL-VAE's beside it")
        v.take("latent_channels", 8, published)
        v.take("codes", 16384, published)
        asked = v.take(
            "patch",
            window.shape,
            "the largest; sides are drawn from 32 up, as the KL-VAE's beside it; published: 96 voxels alone",
        )
        patch = validate_sides(asked, "methods.difftumor.vqgan.patch")
        v.take(
            "batch",
            min(2, rules.patches_per_step(patch)) if large else 1,
            "2 published; together no larger than the paper's window",
            patch=patch,
        )
        v.take(
            "iterations", 20000 if large else 2000, "as long as the KL-VAE's training on the same device, by the clock"
        )
        v.take("learning_rate", 3e-4 if large else 1e-3, "3e-4 as published; higher for the few steps of a CPU")
        v.take("ema", 0.0, "none: an average of a codebook that restarts codes fits no encoder")
        v.take("l1_weight", 4.0, published)
        v.take("commitment_weight", 0.25, published)
        v.take("perceptual_weight", 4.0, published)
        v.take("matching_weight", 4.0, published)
        v.take("adversarial_weight", 1.0, published)
        v.take("adversarial_from", 0.5, "published: step 10,000; here a share, for shorter trainings")
        v.take("least_psnr", 30.0, "below it synthetic tumors look blurred: a warning before the diffusion")
        f = d.within("ddpm")
        f.take(
            "widths",
            (48, 96, 192) if large else (24, 48, 96),
            "published: 24 to 192 over four levels; smaller on a CPU",
        )
        f.take("heads", (8, 32) if large else (4, 16), "8 of 32 as published; attention is most of the time on a CPU")
        f.take("batch", 8 if large else 4, "latents that fit beside their gradients")
        f.take("iterations", 60000 if large else 6000, "published: 60,000; on a CPU about 40 minutes of one core")
        f.take("learning_rate", 1e-4 if large else 1e-3, "1e-4 as published; higher for the few steps of a CPU")
        f.take("ema", 0.995, published)
        f.take("copies", rules.encoded_copies(tumors), "as TumorGen's: the same windows", tumors=tumors)
        f.take("timesteps", 200, "published for all but early tumors")
        plan_masks(d, "ellipsoid")
        s = d.within("sampling")
        s.take("steps", 50, "the DDPM-50 of TumorGen's comparison")
        s.take("solver", "ddpm", published)
        s.take("halo", 8, "as TumorGen's")
        s.take("edge_mm", (0.0, 4.0), "published: sigma 0 to 4 voxels of 1 mm")

    # -- networks ----------------------------------------------------------------------------------------------
    @cached_property
    def vqgan(self) -> VqGan:
        c = self.config.vqgan
        return VqGan(len(self.plan.channels), c.widths, c.latent_channels, c.res_blocks, c.codes)

    @cached_property
    def net(self) -> PlaneUNet:
        c, latent = self.config.ddpm, self.config.vqgan.latent_channels
        return PlaneUNet(2 * latent + 1, latent, c.widths, c.heads)

    # -- training ----------------------------------------------------------------------------------------------
    def stage(self, name: str, iterations: int | None = None, initial: Path | None = None) -> Stage:
        torch.manual_seed(derive_seed(self.plan.seed, self.name, name))  # the networks' first weights
        return self._vqgan_stage(iterations) if name == "vqgan" else self._ddpm_stage(iterations)

    def _vqgan_stage(self, iterations: int | None) -> Stage:
        c, plan = self.config.vqgan, self.plan
        splits = self.workspace.splits()
        train, test = ae.load_cases(self.workspace, splits.train), ae.load_cases(self.workspace, splits.test)
        steps = iterations or c.iterations
        seed = derive_seed(plan.seed, "vqgan")

        def item(number: int) -> dict[str, Any]:
            rng = np.random.default_rng([seed, number])
            fools = np.float32(number // c.batch >= c.adversarial_from * steps)
            shape = ae.patch_shape(c.patch, seed, number // c.batch)
            return {"image": ae.draw_patch(train, plan, shape, rng), "planes": rng.integers(0, shape), "fools": fools}

        self.vqgan.to(self.device)
        critics = Critics(len(plan.channels)).to(self.device)
        first = VqGanObjective(self.vqgan, critics, c)
        objectives = (
            Objective("vqgan", first, c.learning_rate),
            Objective("critics", CriticsObjective(critics, first), c.learning_rate),
        )

        def finish() -> dict[str, float]:
            ae.measure_latents(self.vqgan, train, plan, self.device)
            return ae.quality(self.vqgan, test, plan, self.device) if test else {}

        return Stage(
            "vqgan",
            "VQGAN",
            {"vqgan": self.vqgan},
            objectives,
            item,
            steps,
            c.batch,
            c.ema,
            self.inputs_hash("vqgan"),
            ae.reconstruction_preview(self.vqgan, (test or train)[:4], plan, self.device),
            finish,
        )

    def _ddpm_stage(self, iterations: int | None) -> Stage:
        c, plan = self.config.ddpm, self.plan
        ae.tell_quality(self.folder("vqgan") / "run.json", self.config.vqgan.least_psnr)
        encoder_hash = load_weights({"vqgan": self.vqgan}, self.folder("vqgan"))
        self.vqgan.to(self.device).eval().requires_grad_(False)
        latents = training_latents(
            self.vqgan, encoder_hash, plan, self.workspace, self.folder("latents"), c.copies, self.device
        )
        self.net.to(self.device)
        seed = derive_seed(plan.seed, "ddpm")

        def item(number: int) -> dict[str, Any]:
            rng = np.random.default_rng([seed, number])
            drawn = latents.draw(rng)
            return {
                "latent": drawn.latent,
                "mask": nearest_mask(drawn.mask),
                "noise": rng.standard_normal(drawn.latent.shape, np.float32),
                "step": rng.integers(1, c.timesteps + 1),
            }

        objective = Objective("ddpm", DdpmObjective(self.net, c.timesteps), c.learning_rate)
        return Stage(
            "ddpm",
            "latent diffusion",
            {"net": self.net},
            (objective,),
            item,
            iterations or c.iterations,
            c.batch,
            c.ema,
            self.inputs_hash("ddpm"),
            self._preview,
        )

    def _preview(self, path: Path) -> None:
        """Held-out tumors: the scan, the mask, two draws in it."""
        rows, names, s, main = [], [], self.config.sampling, self.plan.main_channel
        for window in held_out_windows(self.vqgan, self.plan, self.workspace, self.device, 4):
            axial = ae.busiest_slice(window.mask)
            row = [window.image[0, main].float().cpu().numpy()[:, :, axial], window.mask[:, :, axial] * 2.0 - 1]
            mask = torch.from_numpy(nearest_mask(window.mask))[None].to(self.device)
            for seed in (1, 2):
                drawn = self._sample(window.latent, mask, seed, s.steps, s.solver)
                with ae.precise(self.plan.precision, self.device):
                    row.append(self.vqgan.decode(drawn)[0, main].float().cpu().numpy()[:, :, axial])
            rows.append(row)
            names.append(window.name)
        save_grid_preview(path, rows, names, ["scan", "mask", "drawn, seed 1", "drawn, seed 2"], -1, 1)

    # -- synthesis ---------------------------------------------------------------------------------------------
    def load(self) -> dict[str, str]:
        hashes = {
            "vqgan": load_weights({"vqgan": self.vqgan}, self.folder("vqgan")),
            "ddpm": load_weights({"net": self.net}, self.folder("ddpm")),
        }
        for model in (self.vqgan, self.net):
            model.to(self.device).eval().requires_grad_(False)
        self.donors, masks = load_donors(self.config.mask, self.workspace)
        return hashes | masks

    def _sample(self, latent: Tensor, mask: Tensor, seed: int, steps: int, solver: ddpm.Sampler) -> Tensor:
        """z_0 given (1 - m) z_0 and m: (1, L, x, y, z); outside the mask the scan's own latents."""
        rng = np.random.default_rng(seed)
        condition = torch.cat([(1 - mask) * latent, mask], 1)

        def draw() -> Tensor:
            return torch.from_numpy(rng.standard_normal(latent.shape, np.float32)).to(self.device)

        def denoise(x: Tensor, step: Tensor) -> Tensor:
            return self.net(torch.cat([x, condition], 1), step)

        with ae.precise(self.plan.precision, self.device):
            drawn = ddpm.sample(denoise, draw, self.config.ddpm.timesteps, steps, solver)
        return mask * drawn + (1 - mask) * latent

    def synthesize(self, request: Request, seed: int, sampling: Sampling) -> Synthetic:
        """Draws a mask in the box, its latents by diffusion, and blends the decoded tumor in along a blurred mask edge."""
        c, rng = self.config.sampling, np.random.default_rng([seed, 1])
        steps, solver = sampling.steps or c.steps, sampling.solver or c.solver
        if steps > self.config.ddpm.timesteps:
            _refuse_steps("--steps", steps, self.config.ddpm.timesteps)
        share, drawn = place_mask(self.config.mask, self.plan, request, rng, self.donors)
        canvas = open_canvas(self.vqgan, request, self.plan, c.halo, self.device)
        mask = torch.from_numpy(nearest_mask(share))[None].to(self.device)
        latent = self._sample(canvas.latent, mask, seed, steps, solver)  # type: ignore[arg-type]
        with ae.precise(self.plan.precision, self.device):
            picture = self.vqgan.decode(latent[canvas.cells])[0].float().cpu().numpy()
        painted, _ = put_back(canvas, picture, share[canvas.voxels.slices], self.plan)
        edge = rng.uniform(*c.edge_mm)
        weight = ndimage.gaussian_filter(share, [edge / s for s in request.spacing_mm])
        image = request.image.astype(np.float32, copy=True)
        inside = (slice(None), *request.box.slices)
        image[inside] += weight[request.box.slices] * (painted[inside] - image[inside])
        return Synthetic(image, share, {**drawn, "steps": steps, "solver": solver, "edge_mm": round(float(edge), 3)})


class VqGanObjective(nn.Module):
    """L1 + commitment + perceptual + (from a step on) adversarial + feature matching, DiffTumor, section 3.1.

    Batch: image (B, C, ...), planes (B, 3) the slices that the slice critic and the perceptual loss see, fools (B,) 0 or 1.

    Attributes:
        picture: the last reconstruction, for the critics to learn from.
    """

    def __init__(self, vqgan: VqGan, critics: Critics, config: VqGanConfig) -> None:
        super().__init__()
        self.vqgan, self.config = vqgan, config
        self._critics = (critics,)  # a tuple keeps them out of this module's parameters
        self._perceptual = (Perceptual() if config.perceptual_weight else None,)
        self.picture = torch.empty(0)

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        c, image, planes = self.config, batch["image"], batch["planes"]
        picture, commitment = self.vqgan(image)
        self.picture = picture.detach()
        terms = {"l1": (picture - image).abs().mean(), "commitment": commitment}
        loss = c.l1_weight * terms["l1"] + c.commitment_weight * commitment
        perceptual = self._perceptual[0]
        if perceptual is not None:
            pairs = zip(cut_planes(picture, planes), cut_planes(image, planes), strict=True)
            terms["perceptual"] = torch.stack([perceptual(a.flatten(0, 1), b.flatten(0, 1)) for a, b in pairs]).mean()
            loss = loss + c.perceptual_weight * terms["perceptual"]
        if bool(batch["fools"].any()):
            critics = self._critics[0].requires_grad_(False)
            with torch.no_grad():
                real = critics(image, planes)
            fake = critics(picture, planes)
            terms["fool"] = torch.stack([-features[-1].float().mean() for features in fake]).mean()
            matched = [
                (a.float() - b.float()).abs().mean()
                for f, r in zip(fake, real, strict=True)
                for a, b in zip(f[:-1], r[:-1], strict=True)
            ]
            terms["matching"] = torch.stack(matched).mean()
            loss = loss + c.adversarial_weight * terms["fool"] + c.matching_weight * terms["matching"]
        return loss, {name: value.detach() for name, value in terms.items()}


class CriticsObjective(nn.Module):
    """The hinge loss of both critics on real patches and reconstructions; zero until they count."""

    def __init__(self, critics: Critics, first: VqGanObjective) -> None:
        super().__init__()
        self.critics = critics
        self._first = (first,)

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        self.critics.requires_grad_(True)
        if not bool(batch["fools"].any()):
            return torch.stack([p.sum() for p in self.critics.parameters()]).sum() * 0, {}
        real, fake = (self.critics(image, batch["planes"]) for image in (batch["image"], self._first[0].picture))
        losses = [
            F.relu(1 - r[-1].float()).mean() + F.relu(1 + f[-1].float()).mean() for r, f in zip(real, fake, strict=True)
        ]
        return torch.stack(losses).mean() / 2, {}


class DdpmObjective(nn.Module):
    """L1 between the noise and its prediction, DiffTumor, section 3.2 (eq. 6 has the square).

    Batch: latent and noise (B, L, x, y, z), mask (B, 1, x, y, z) in {0, 1}, step (B,) in 1 .. T.
    """

    levels: Tensor

    def __init__(self, net: PlaneUNet, timesteps: int) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("levels", ddpm.signal_levels(timesteps).float(), persistent=False)

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        latent, mask, noise, step = batch["latent"], batch["mask"], batch["noise"], batch["step"]
        x_t = ddpm.add_noise(latent, noise, self.levels.to(latent.device)[step])
        found = self.net(torch.cat([x_t, (1 - mask) * latent, mask], 1), step)
        return (found - noise).abs().mean(), {}


def nearest_mask(mask: np.ndarray) -> np.ndarray:
    """A mask (X, Y, Z) on the latent grid, (1, x, y, z) in {0, 1}: nearest neighbour, never empty where the mask is not."""
    half = DOWNSAMPLING // 2
    small = (mask[half::DOWNSAMPLING, half::DOWNSAMPLING, half::DOWNSAMPLING] >= 0.5).astype(np.float32)
    if not small.any() and mask.any():
        peak = np.unravel_index(int(mask.argmax()), mask.shape)
        small[tuple(min(p // DOWNSAMPLING, n - 1) for p, n in zip(peak, small.shape, strict=True))] = 1
    return small[None]


def _refuse_steps(where: str, steps: int, timesteps: int) -> None:
    fault = Fault(
        where,
        str(steps),
        f"at most {timesteps}, the diffusion's T",
        "fewer steps, or plan with methods.difftumor.ddpm.timesteps higher",
    )
    raise PlanError("More steps than the diffusion has", [fault])
