"""DiffTumor: latent diffusion fills a given mask, conditioned on the mask and on the image around it.

Stages: `vqgan`, and a diffusion model for `early` tumors and one for `later` ones, or one for all. The mask comes from
a prior (`tumors.masks`); only what it covers is changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from tumorgen_cli.figures import save_grid_preview
from tumorgen_cli.methods.base import Method, Request, Sampling, Synthetic
from tumorgen_cli.methods.difftumor.config import DiffTumorConfig, diameter_mm, plan_difftumor
from tumorgen_cli.methods.difftumor.objectives import CriticsObjective, DdpmObjective, VqGanObjective
from tumorgen_cli.methods.latent.autoencoder import (
    VaeConfig,
    draw_patch,
    load_cases,
    measure_latent_statistics,
    patch_shape,
    vae_stage,
)
from tumorgen_cli.methods.latent.cache import (
    FORMAT,
    Candidate,
    candidate_window,
    find_candidates,
    held_out_candidates,
    held_out_cases,
    held_out_windows,
    training_latents,
)
from tumorgen_cli.methods.latent.quality import (
    QUALITY_TIMES,
    inference_context,
    largest_tumor_slice,
    reconstruction_preview,
    reconstruction_quality,
)
from tumorgen_cli.methods.latent.scans import statistic_windows, training_scans
from tumorgen_cli.methods.latent.settings import check_steps
from tumorgen_cli.methods.mask_prior import load_donors, place_mask
from tumorgen_cli.models import ddpm
from tumorgen_cli.models.diffusion_unet import PlaneUNet
from tumorgen_cli.models.vae import KlVae
from tumorgen_cli.models.vqgan import Critics, VqGan
from tumorgen_cli.planning.fingerprint import Fingerprint
from tumorgen_cli.planning.plan import REPLAN, Decisions, Plan, WindowPlan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.intensity import scale, unscale
from tumorgen_cli.system.devices import DeviceBudget
from tumorgen_cli.system.files import derive_seed
from tumorgen_cli.system.json_records import from_plain, hash_value
from tumorgen_cli.training.stage import Objective, Stage

_OWNER = "tumorgen"  # the method whose KL-VAE can take the VQGAN's place
_MOST = "methods.difftumor.later.timesteps"  # the most steps of the sampler


class DiffTumor(Method):
    """DiffTumor behind the contract; see the module and `SOURCE`."""

    name = "difftumor"
    section = DiffTumorConfig
    stages = ("vqgan", "early", "later")
    solvers = ddpm.SAMPLERS
    tested_loss = "the error of the noise that the diffusion predicts in the tumor's window"
    format_versions: ClassVar[Mapping[str, int]] = {"vqgan": 4}
    SOURCE = (
        "Chen et al., Towards Generalizable Tumor Synthesis, CVPR 2024, as in its published code: the latents of the "
        "image without the mask's voxels and the mask (-1 or 1) are the condition, whole samples are decoded and "
        "blended in along the blurred mask, and early tumors have a model of their own (T = 4). Deviations: The VQGAN "
        "is trained on the data set's own cases, and on healthy scans if the workspace has any. Patches have several "
        "sizes, and the blocks are MAISI's. Its perceptual loss uses EfficientNet-Lite0. The critics have instance "
        "norms. Latents are standardized per channel unless `ddpm.scale` is `codebook`, and estimates are clipped at "
        "ten standard deviations, at step T at one. AdamW with this project's moments (0.9, 0.99), weight decay, "
        "clipping and schedule replaces Adam. Positions in depth are learned. On a CPU critics, U-Net and attention "
        "are smaller than published. All training windows show a tumor; in the published code half of them do. Masks "
        "follow the given place instead of size classes drawn with 0.8 / 0.1 / 0.1. The working grid is the plan's, "
        "not 1 mm; a mask that no cell's first voxel meets keeps one cell. In the mask's surroundings the host is not "
        "clipped. One model serves all sizes if less than a tenth of the training tumors is early, or later. No public "
        "source gives how many tumors a model needs. The preset `difftumor-liver` has the published values."
    )

    def __init__(self, plan: Plan, workspace: Workspace, device: str = "cpu") -> None:
        super().__init__(plan, workspace, device)
        c = self.config = plan.section(self.name, DiffTumorConfig)
        self.models = ("early", "later") if c.models == "both" else (c.models,)
        self.encoder = "vqgan" if c.autoencoder == "vqgan" else "vae"
        self.stages = (self.encoder, *self.models)
        self.keeps_background = c.sampling.blend
        if self.encoder == "vae":
            self.uses_sections_of = (_OWNER,)
            where = f"plan.json methods.{_OWNER}.vae"
            self.vae_config = from_plain(VaeConfig, plan.methods[_OWNER]["vae"], where, REPLAN)
        self.nets: dict[str, PlaneUNet] = {}
        self.donors: list[np.ndarray] = []
        check_steps("methods.difftumor.sampling.steps", c.sampling.steps, c.later.timesteps, _MOST)

    @classmethod
    def plan_section(cls, d: Decisions, fingerprint: Fingerprint, window: WindowPlan, budget: DeviceBudget) -> None:
        """Take every field of `DiffTumorConfig` into `d`."""
        plan_difftumor(d, fingerprint.tumors, window, budget)

    # -- networks ----------------------------------------------------------------------------------------------
    @cached_property
    def codec(self) -> VqGan | KlVae:
        """The autoencoder: the VQGAN or TumorGen's KL-VAE."""
        channels, c = len(self.plan.channels), self.config.vqgan
        if self.encoder == "vae":
            return self.vae_config.network(channels)
        return VqGan(channels, c.widths, c.latent_channels, c.res_blocks, c.codes)

    def net(self, model: str) -> PlaneUNet:
        """The denoising network of a model, `early` or `later`, on the device."""
        if model not in self.nets:
            c, latent = self.config.ddpm, len(self.codec.mean)
            self.nets[model] = PlaneUNet(2 * latent + 1, latent, c.widths, c.heads, c.attention)
        return self.nets[model].to(self.device)

    def model_for(self, voxels: int) -> str:
        """The model for a tumor of so many voxels of the working grid."""
        early = diameter_mm(voxels * math.prod(self.plan.window.spacing_mm)) < self.config.early_mm
        return ("early" if early else "later") if len(self.models) > 1 else self.models[0]

    def _load_codec(self) -> str:
        """Load the autoencoder and scale its latents; returns the hash of its weights."""
        weights = self.load_frozen({self.encoder: self.codec}, self.encoder)
        if isinstance(self.codec, VqGan) and self.config.ddpm.scale == "codebook":
            self.codec.scale_by_codebook()
        return weights

    # -- training ----------------------------------------------------------------------------------------------
    def folder(self, stage: str) -> Path:
        """The folder of a stage's run; the KL-VAE's is TumorGen's."""
        return self.workspace.run(_OWNER if stage == "vae" else self.name, stage)

    def settings(self, name: str) -> Any:
        """The section of the plan for stage `name`; the KL-VAE's is TumorGen's."""
        return self.vae_config if name == "vae" else super().settings(name)

    def needed(self, name: str) -> tuple[str, ...]:
        """A diffusion model is trained with the autoencoder, and not with the other model."""
        return () if name == self.encoder else (self.encoder,)

    def inputs_hash(self, name: str) -> str:
        """As for every method; the models also depend on what they have in common, and on which tumors are theirs."""
        made_from, c = super().inputs_hash(name), self.config
        if name == self.encoder:
            return made_from
        return hash_value([made_from, FORMAT, c.ddpm, c.models, c.early_mm if c.models == "both" else None])

    def stage(self, name: str, iterations: int | None = None, initial: Path | None = None) -> Stage:
        """The training stage `name`."""
        owner = _OWNER if name == "vae" else self.name
        torch.manual_seed(derive_seed(self.plan.seed, owner, name))  # determines the networks' first weights
        if isinstance(self.codec, KlVae) and name == "vae":
            return vae_stage(self, self.codec, self.vae_config, iterations, initial)
        return self._vqgan_stage(iterations) if name == "vqgan" else self._ddpm_stage(name, iterations)

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

        vqgan = cast("VqGan", self.codec).to(self.device)
        critics = Critics(len(plan.channels), c.critic_width).to(self.device)
        first = VqGanObjective(vqgan, critics, c)
        objectives = (
            Objective("vqgan", first, c.learning_rate),
            Objective("critics", CriticsObjective(critics, first), c.learning_rate),
        )

        def finish() -> dict[str, float]:
            measure_latent_statistics(vqgan, statistic_windows(self, scans), plan, self.device)
            return reconstruction_quality(vqgan, test, plan, self.device) if test else {}

        return Stage(
            name="vqgan",
            title="VQGAN",
            models={"vqgan": vqgan},
            objectives=objectives,
            item=item,
            iterations=steps,
            batch=c.batch,
            ema=c.ema,
            inputs_hash=self.inputs_hash("vqgan"),
            preview=reconstruction_preview(vqgan, (test or train)[:4], plan, self.device),
            finish=finish,
        )

    def _ddpm_stage(self, name: str, iterations: int | None) -> Stage:
        c, model = self.config.ddpm, self.settings(name)
        made_from = hash_value([self._load_codec(), c.scale])
        latents = training_latents(self, self.codec, made_from, c.copies, masked=c.condition == "voxels")
        own, net, seed = self._own_tumors(name), self.net(name), derive_seed(self.plan.seed, name)

        def item(number: int) -> dict[str, Any]:
            rng = np.random.default_rng([seed, number])
            drawn = latents.window(own[int(rng.integers(len(own)))], int(rng.integers(c.copies)))
            return {
                "latent": drawn.latent,
                "condition": condition_of(drawn.context, drawn.mask, c.condition == "latents"),
                "noise": rng.standard_normal(drawn.latent.shape, np.float32),
                "step": rng.integers(1, model.timesteps + 1),
            }

        return Stage(
            name=name,
            title=f"latent diffusion of {name} tumors",
            models={"net": net},
            objectives=(Objective(name, DdpmObjective(net, model.timesteps), c.learning_rate),),
            item=item,
            iterations=iterations or model.iterations,
            batch=c.batch,
            ema=c.ema,
            inputs_hash=self.inputs_hash(name),
            preview=partial(self._preview, model=name),
            section=f"methods.{self.name}.ddpm",
        )

    def _own_tumors(self, model: str) -> list[int]:
        """The numbers of the training tumors, among `find_candidates`, that a model learns from.

        They are those of its size; all if none is, as in a part of the cases in which speed is measured.
        """
        found = find_candidates(load_cases(self.workspace, self.workspace.splits().train))
        own = [number for number, each in enumerate(found) if self._model_of(each) == model]
        return own or [*range(len(found))]

    def _model_of(self, tumor: Candidate) -> str:
        """The model for a tumor of a case."""
        part = tumor.case.tumors[tumor.component.box.slices]
        return self.model_for(int(np.count_nonzero(part == tumor.component.number)))

    def tumor_losses(self, case: str) -> tuple[float, ...]:
        """The training loss of each tumor's own model, at fixed times and with one noise for all tumors."""
        c, cases, losses = self.config.ddpm, load_cases(self.workspace, [case]), []
        tumors = held_out_candidates(cases, len(cases[0].record.components))
        windows = held_out_windows(self, self.codec, len(tumors), cases=cases, masked=c.condition == "voxels")
        for tumor, window in zip(tumors, windows, strict=True):
            model, rng = self._model_of(tumor), np.random.default_rng(self.plan.seed)
            timesteps = self.settings(model).timesteps
            objective = DdpmObjective(self.net(model), timesteps)
            seen = condition_of(window.context[0].float().cpu().numpy(), window.mask, c.condition == "latents")
            batch = {"latent": window.latent, "condition": torch.from_numpy(seen)[None].to(self.device)}
            of_times = []
            for time in QUALITY_TIMES:
                noise = torch.from_numpy(rng.standard_normal(window.latent.shape, np.float32)).to(self.device)
                step = torch.full((1,), max(1, round((1 - time) * timesteps)), device=self.device)
                with inference_context(self.plan.precision, self.device):
                    of_times.append(float(objective({**batch, "noise": noise, "step": step})[0]))
            losses.append(float(np.mean(of_times)))
        return tuple(losses)

    def _preview(self, path: Path, model: str | None = None) -> None:
        """Held-out tumors: the scan, the mask, two samples; `model`: None for that of the tumor's size."""
        rows, names, main = [], [], self.plan.main_channel
        for candidate in held_out_candidates(held_out_cases(self.workspace), 4):
            window = candidate_window(self.plan, candidate, 0)
            used = model or self.model_for(int(window.mask.sum()))
            samples = [self.draw(window.image, window.mask, seed, used, *self.how(used, Sampling())) for seed in (1, 2)]
            axial = largest_tumor_slice(window.mask)
            shown = (window.image[main], window.mask * 2.0 - 1, *(sample[main] for sample in samples))
            rows.append([each[:, :, axial] for each in shown])
            names.append(candidate.name)
        save_grid_preview(path, rows, names, ["scan", "mask", "drawn, seed 1", "drawn, seed 2"], -1, 1)

    # -- synthesis ---------------------------------------------------------------------------------------------
    def load(self) -> dict[str, str]:
        """Load the autoencoder, the denoising networks and, if the prior uses them, the training masks."""
        hashes = {self.encoder: self._load_codec()}
        hashes |= {model: self.load_frozen({"net": self.net(model)}, model) for model in self.models}
        self.donors, masks = load_donors(self.config.mask, self.workspace)
        return hashes | masks

    def how(self, model: str, sampling: Sampling) -> tuple[int, ddpm.Sampler]:
        """The steps and the sampler of a model; that for early tumors takes all of its steps by `ddpm` unless told.

        Raises:
            PlanError: `sampling` has more steps than the diffusion of later tumors.
        """
        c = self.config
        solver = cast("ddpm.Sampler | None", sampling.solver)  # the command line checks the name
        if model == "early":
            return min(sampling.steps or c.early.timesteps, c.early.timesteps), solver or "ddpm"
        steps = sampling.steps or c.sampling.steps
        check_steps("--steps", steps, c.later.timesteps, _MOST)
        return steps, solver or c.sampling.solver

    def draw(
        self, image: np.ndarray, mask: np.ndarray, seed: int, model: str, steps: int, solver: ddpm.Sampler
    ) -> np.ndarray:
        """A whole sample (C, X, Y, Z) in [-1, 1], given an image (C, X, Y, Z) in [-1, 1] and a mask (X, Y, Z)."""
        c, rng, net = self.config.ddpm, np.random.default_rng(seed), self.net(model)
        solid = mask >= 0.5
        seen = image * ~solid if c.condition == "voxels" else image
        with inference_context(self.plan.precision, self.device):
            latent = self.codec.encode(torch.from_numpy(seen)[None].to(self.device))[0].float().cpu().numpy()
        condition = torch.from_numpy(condition_of(latent, mask, c.condition == "latents"))[None].to(self.device)

        def noise() -> Tensor:
            return torch.from_numpy(rng.standard_normal((1, *latent.shape), np.float32)).to(self.device)

        def denoise(x: Tensor, step: Tensor) -> Tensor:
            return cast("Tensor", net(torch.cat([x, condition], 1), step))

        timesteps = (self.config.early if model == "early" else self.config.later).timesteps
        limit = 1.0 if c.scale == "codebook" else 10.0
        with inference_context(self.plan.precision, self.device):
            sample = ddpm.sample(denoise, noise, timesteps, steps, solver, limit)
            return np.asarray(self.codec.decode(sample)[0].float().cpu().numpy())

    def synthesize(self, request: Request, seed: int, sampling: Sampling) -> Synthetic:
        """Draw a mask in the place, and a sample given it; blend the decoded sample in along the blurred mask.

        Raises:
            PlanError: `sampling` has more steps than the diffusion.
        """
        c, rng = self.config.sampling, np.random.default_rng([seed, 1])
        share, drawn = place_mask(self.config.mask, self.plan, request, rng, self.donors)
        model = self.model_for(int(np.count_nonzero(share >= 0.5)))
        steps, solver = self.how(model, sampling)
        scaled = scale(request.image, self.plan.channels, request.limits)
        sample = unscale(self.draw(scaled, share, seed, model, steps, solver), self.plan.channels, request.limits)
        record: dict[str, Any] = {"model": model, "steps": steps, "solver": solver}
        weight = np.ones_like(share)
        if c.blend:
            edge = float(rng.uniform(*c.edge_mm))
            weight = ndimage.gaussian_filter(share, [edge / s for s in request.spacing_mm])
            record["edge_mm"] = round(edge, 3)
        image = request.image.astype(np.float32, copy=True)
        inside = (slice(None), *request.box.slices)
        image[inside] += weight[request.box.slices] * (sample[inside] - image[inside])
        return Synthetic(image, share, {**drawn, **record})


def condition_of(latent: np.ndarray, mask: np.ndarray, hide: bool) -> np.ndarray:
    """What a denoising network sees beside x_t: latents and the mask, -1 or 1, (L + 1, x, y, z).

    Args:
        latent: (L, x, y, z).
        mask: (X, Y, Z) in [0, 1].
        hide: Whether latents are 0 in the mask's cells, as the paper writes it.
    """
    cells = nearest_mask(mask, mask.shape[0] // latent.shape[1])
    return np.concatenate([(1 - cells) * latent if hide else latent, 2 * cells - 1])


def nearest_mask(mask: np.ndarray, factor: int) -> np.ndarray:
    """A mask (X, Y, Z) on the grid of cells of `factor` voxels per side, (1, x, y, z), 0 or 1, by nearest neighbor.

    A cell's neighbor is its first voxel, as torch's interpolation has it. If no cell would be 1, that of the mask's
    maximum is.
    """
    small = (mask[::factor, ::factor, ::factor] >= 0.5).astype(np.float32)
    if not small.any() and mask.any():
        peak = np.unravel_index(int(mask.argmax()), mask.shape)
        small[tuple(p // factor for p in peak)] = 1
    return small[None]
