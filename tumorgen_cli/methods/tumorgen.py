"""TumorGen: latent and mask of a tumor together, by rectified flow, from a box; the mask refined by VAE features.

Stages: vae, flow, refiner. The flow reads augmented latents that are encoded once; the refiner reads one-step
estimates of the trained flow. With `refiner.joint` both train at once, as in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor, nn

from tumorgen_cli import autoencoding as ae
from tumorgen_cli import console, flow, rules
from tumorgen_cli.boxes import box_mask, draw_box, latent_box, latent_mask
from tumorgen_cli.devices import Budget
from tumorgen_cli.files import derive_seed, hash_value, read_plain
from tumorgen_cli.methods.method import Method, Sampling
from tumorgen_cli.nets.flow_unet import FlowUNet
from tumorgen_cli.nets.refiner import MaskRefiner
from tumorgen_cli.nets.vae import DOWNSAMPLING, KlVae
from tumorgen_cli.plan import Decisions, Plan, WindowPlan
from tumorgen_cli.previews import grid_preview
from tumorgen_cli.records import Box, Fingerprint, Request, Synthetic
from tumorgen_cli.texture import like_noise
from tumorgen_cli.training import Objective, Stage, finished, load_weights
from tumorgen_cli.vector_field import FlowConfig, FlowObjective, RefinerConfig, RefinerObjective, condition_on, to_flow
from tumorgen_cli.windows import scale, unscale
from tumorgen_cli.workspace import Workspace


@dataclass(frozen=True)
class SamplingConfig:
    """Synthesis: solver steps, the halo in latent voxels that is decoded around a box, whether noise like the host's
    own, which a VAE smooths away, is put back into the box."""

    steps: int
    solver: flow.Solver
    halo: int
    texture: bool


@dataclass(frozen=True)
class Config:
    """TumorGen's section of the plan."""

    vae: ae.VaeConfig
    flow: FlowConfig
    refiner: RefinerConfig
    sampling: SamplingConfig


class TumorGen(Method):
    """See the module."""

    name = "tumorgen"
    stages = ("vae", "flow", "refiner")
    SOURCE = (
        "Liu, Chen et al., TumorGen: Boundary-Aware Tumor-Mask Synthesis with Rectified Flow Matching, 2025; eqs. 1-7. "
        "Deviations: the VAE is trained on the data set's own cases unless a checkpoint is given; the fine constraint is "
        "averaged where a mask is; the refiner trains after the flow unless `refiner.joint`, and has a Dice term; noise like "
        "the host's is added to the decoded box unless `sampling.texture` is off."
    )

    def __init__(self, plan: Plan, workspace: Workspace, device: str = "cpu") -> None:
        super().__init__(plan, workspace, device)
        self.config = plan.section(self.name, Config)
        self._ready = False

    # -- planning ----------------------------------------------------------------------------------------------
    @classmethod
    def plan_section(cls, d: Decisions, fingerprint: Fingerprint, window: WindowPlan, budget: Budget) -> None:
        large = budget.device == "cuda" and budget.memory_gib >= 16
        tumors = max(1, len(fingerprint.tumors))
        maisi = "MAISI's widths from 16 GiB up" if large else "small enough to learn from tens of scans, and on a CPU"
        free = "the paper gives none; not swept"
        v = d.within("vae")
        v.take("widths", (64, 128, 256) if large else (16, 32, 64), maisi, memory_gib=budget.memory_gib)
        v.take("res_blocks", (2, 2, 2), "MAISI's")
        cell, latents = rules.latent_channels(window.spacing_mm)
        v.take("latent_channels", latents, "the paper's 4; doubled with a latent cell's volume over the paper's 3.0 ml", cell_ml=cell)
        side = 64 if large else 48
        patch = tuple(min(n, side) for n in window.shape)
        v.take("patch", patch, "training patches: large enough that group statistics are those of whole windows", window=window.shape)
        v.take("batch", 4 if large else 1, "patches that fit beside their gradients")
        v.take("iterations", 20000 if large else 4000, "4000 on a CPU gave 35.6 dB from 32 PET cases; 20000 is not measured")
        v.take("learning_rate", 2e-4 if large else 2e-3, free)
        v.take("kl_weight", 1e-6, "1e-3 drowns the latents in noise; MAISI has 1e-7")
        v.take("square_weight", 1.0, free)
        v.take("gradient_weight", 0.5, free)
        v.take("adversarial_weight", 0.0, "0: a critic costs about half of the time again; MAISI has 0.1")
        v.take("ema", 0.998, free)
        v.take("least_psnr", 30.0, "below it synthetic tumors look blurred: a warning before the flow")
        f = d.within("flow")
        f.take("widths", (64, 128, 256) if large else (32, 64, 128), "the paper gives none; 64-128-256 from 16 GiB up")
        f.take("res_blocks", 2, "MAISI's")
        f.take("batch", 8, free)
        most = 20000 if large else 3000
        f.take("iterations", int(np.clip(60 * tumors, 1000, most)), f"60 steps a tumor, 1000 to {most}", tumors=tumors)
        f.take("learning_rate", 2e-4 if large else 2e-3, "on FDG-PET 2e-3 beat 1e-3 and 5e-4 at equal time; large networks are not measured")
        f.take("ema", 0.995, free)
        f.take("copies", int(np.clip(800 // tumors, 4, 32)), "about 800 encoded windows: fewer are memorised, more cost disk", tumors=tumors)
        f.take("time_schedule", "uniform", "uniform in the paper's notation")
        f.take("bapmg", True, "TumorGen, section 2.1; false: the fixed tight box of Table 2")
        f.take("coarse_weight", 1.0, "λ1; the paper gives none")
        f.take("fine_weight", 1.0, "λ2; the paper gives none; at 0.1 masks come out far too small, at 3 the field learns more slowly")
        f.take("ssim_window", 3, "λ2's SSIM: tumors are a few latent voxels wide")
        f.take("box_channel", False, "the paper's nine input channels")
        r = d.within("refiner")
        r.take("enabled", True, "VMR, section 2.3; false: Table 2's ablation")
        r.take("guided", True, "VAE features; without them a refiner adds nothing")
        r.take("joint", False, "after the flow, on its estimates: the decoder is run for one window a step, not for a whole batch")
        r.take("width", 16 if large else 8, "small beside the VAE's decoder")
        r.take("batch", 4 if large else 1, "windows that fit beside their gradients")
        r.take("iterations", 4000 if large else 600, free)
        r.take("learning_rate", 1e-3, free)
        r.take("ema", 0.99, free)
        r.take("weight", 1.0, "λ3 (joint only); the paper gives none")
        r.take("least_time", 0.4, "earlier estimates show no boundary that a mask could agree with")
        r.take("clean", 0.25, "clean masks mixed in: without them the refiner harms good masks")
        s = d.within("sampling")
        s.take("steps", 10, "the paper's fast setting")
        s.take("solver", "euler", "the paper's")
        s.take("texture", True, "a VAE smooths noise away: without it the box is a bare patch in a noisy scan; false: the paper's decode")
        s.take("halo", 4, "with 4 latent voxels around the box the decode is that of the whole window to 0.01 SUV")

    # -- networks ----------------------------------------------------------------------------------------------
    @cached_property
    def vae(self) -> KlVae:
        c = self.config.vae
        return KlVae(len(self.plan.channels), c.widths, c.latent_channels, c.res_blocks)

    @cached_property
    def net(self) -> FlowUNet:
        c, latent = self.config.flow, self.config.vae.latent_channels
        return FlowUNet(2 * latent + 1 + c.box_channel, latent + 1, c.widths, c.res_blocks)

    @cached_property
    def refiner(self) -> MaskRefiner:
        return MaskRefiner(self.vae.feature_widths, self.config.refiner.width, self.config.refiner.guided)

    def _folder(self, stage: str) -> Path:
        return self.workspace.run(self.name, stage)

    # -- training ----------------------------------------------------------------------------------------------
    def inputs_hash(self, name: str) -> str:
        plan, c = self.plan, self.config
        data = [plan.fingerprint_hash, plan.window, plan.channels, plan.precision, plan.seed, self.workspace.splits().train]

        def settings(section: Any) -> dict[str, Any]:
            return {k: v for k, v in vars(section).items() if k not in ("iterations", "least_psnr")}

        if name == "vae":
            return hash_value([data, settings(c.vae)])
        if name == "flow":
            return hash_value([data, settings(c.flow), self._weights_hash("vae"), settings(c.refiner) if c.refiner.joint else None])
        return hash_value([data, settings(c.refiner), self._weights_hash("vae"), self._weights_hash("flow")])

    def _weights_hash(self, stage: str) -> str:
        path = self._folder(stage) / "run.json"
        return str(read_plain(path, f"run `tumorgen train {stage}`")["weights_hash"])

    def stage(self, name: str, iterations: int | None = None, initial: Path | None = None) -> Stage:
        torch.manual_seed(derive_seed(self.plan.seed, self.name, name))  # the networks' first weights
        make = {"vae": self._vae_stage, "flow": self._flow_stage, "refiner": self._refiner_stage}[name]
        stage: Stage = make(iterations, initial) if name == "vae" else make(iterations)  # type: ignore[operator]
        return stage

    def _vae_stage(self, iterations: int | None, initial: Path | None) -> Stage:
        c, plan = self.config.vae, self.plan
        splits = self.workspace.splits()
        train, test = ae.load_cases(self.workspace, splits.train), ae.load_cases(self.workspace, splits.test)
        if initial is not None:
            ae.load_initial(self.vae, initial)
        self.vae.to(self.device)
        critic = ae.make_critic(len(plan.channels)) if c.adversarial_weight else None
        objectives = [Objective("vae", ae.VaeObjective(self.vae, c, critic), c.learning_rate)]
        if critic is not None:
            objectives.append(Objective("critic", ae.CriticObjective(critic, self.vae), c.learning_rate))

        def preview(path: Path) -> None:
            rows = []
            for case in (test or train)[:4]:
                image = ae.whole_image(case, plan)
                picture = ae.reconstruct(self.vae, image, plan, self.device)
                axial = _busiest(case.tumors)
                rows.append([image[0, :, :, axial], picture[0, :, :, axial], np.abs(picture - image)[0, :, :, axial] * 4 - 1])
            names = [case.record.case for case in (test or train)[:4]]
            grid_preview(path, rows, names, ["scan", "reconstruction", "4 × |difference|"], -1, 1)

        def finish() -> dict[str, float]:
            ae.measure_latents(self.vae, train, plan, self.device)
            return ae.quality(self.vae, test, plan, self.device) if test else {}

        return Stage(
            "vae", "KL-VAE", {"vae": self.vae}, tuple(objectives), ae.vae_item(train, plan, c, derive_seed(plan.seed, "vae")),
            iterations or c.iterations, c.batch, c.ema, self.inputs_hash("vae"), preview, finish,
        )  # fmt: skip

    def warn_of_poor_vae(self) -> None:
        """Shows the VAE's quality, and warns where it is below the plan's `least_psnr`."""
        numbers = read_plain(self._folder("vae") / "run.json", "run `tumorgen train vae`")["numbers"]
        if not numbers:
            return
        text = f"the VAE on {numbers['cases']:.0f} held-out cases: PSNR {numbers['psnr']:.2f} dB, SSIM {numbers['ssim']:.3f}"
        if numbers["psnr"] < self.config.vae.least_psnr:
            console.warn(f"{text}; below {self.config.vae.least_psnr} dB tumors will look blurred: train it longer or wider")
        else:
            console.note(text)

    def _latents(self) -> ae.Latents:
        """The encoded training tumors; the cache is built as far as it is not."""
        vae_hash = load_weights({"vae": self.vae}, self._folder("vae"), "run `tumorgen train vae`")
        self.vae.to(self.device).eval().requires_grad_(False)
        candidates = ae.find_candidates(ae.load_cases(self.workspace, self.workspace.splits().train))
        left_out = [c for case in ae.load_cases(self.workspace, self.workspace.splits().train) for c in case.record.components if not c.fits]
        if left_out:
            console.warn(f"{len(left_out)} tumors are larger than the window and are not learnt from")
        copies = self.config.flow.copies
        made_from = hash_value([vae_hash, self.plan.window, self.plan.channels, self.plan.seed, copies, self.workspace.splits().train])
        cache = ae.LatentCache(self._folder("latents"), candidates, copies, made_from)
        processes = PartialState(cpu=self.device == "cpu")
        with processes.main_process_first(), console.progress("encoding tumors", len(candidates), quiet=not processes.is_main_process) as tick:
            cache.build(self.vae, self.plan, self.device, tick)
        return cache.load()

    def _draw(self, latents: ae.Latents, rng: np.random.Generator) -> dict[str, Any]:
        """One random copy of one random tumor with a fresh box, noise and time; `target` is its mask on the working grid."""
        latent, target = latents.draw(rng)
        mask = latent_mask(target)
        box = draw_box(mask, self.plan.window.alpha if self.config.flow.bapmg else 0.0, rng)
        noise = rng.standard_normal((latent.shape[0] + 1, *mask.shape), np.float32)
        return {
            "latent": latent, "mask": mask[None], "box": box_mask(box, mask.shape)[None], "noise": noise,
            "uniform": np.float32(rng.random()), "target": target[None].astype(np.float32),
        }  # fmt: skip

    def _flow_stage(self, iterations: int | None) -> Stage:
        c, plan = self.config.flow, self.plan
        self.warn_of_poor_vae()
        latents, seed = self._latents(), derive_seed(plan.seed, "flow")
        joint = self.config.refiner.enabled and self.config.refiner.joint
        self.net.to(self.device)
        refine = RefinerObjective(self.refiner.to(self.device), self.vae, None, self.config.refiner, c.box_channel) if joint else None

        def item(number: int) -> dict[str, Any]:
            drawn = self._draw(latents, np.random.default_rng([seed, number]))
            return drawn if joint else {k: v for k, v in drawn.items() if k != "target"}  # 64 times a latent's voxels to carry

        models: dict[str, nn.Module] = {"net": self.net, **({"refiner": self.refiner} if joint else {})}
        return Stage(
            "flow", "vector field", models, (Objective("flow", FlowObjective(self.net, c, refine), c.learning_rate),), item,
            iterations or c.iterations, c.batch, c.ema, self.inputs_hash("flow"), self._preview, self._flow_quality,
        )  # fmt: skip

    def _refiner_stage(self, iterations: int | None) -> Stage:
        c, plan = self.config.refiner, self.plan
        latents, seed = self._latents(), derive_seed(plan.seed, "refiner")
        load_weights({"net": self.net}, self._folder("flow"), "run `tumorgen train flow`")
        self.net.to(self.device).eval().requires_grad_(False)
        self.refiner.to(self.device)

        def item(number: int) -> dict[str, Any]:
            rng = np.random.default_rng([seed, number])
            return {**self._draw(latents, rng), "clean": np.float32(rng.random() < c.clean)}

        objective = RefinerObjective(self.refiner, self.vae, self.net, c, self.config.flow.box_channel)
        return Stage(
            "refiner", "mask refiner", {"refiner": self.refiner}, (Objective("refiner", objective, c.learning_rate),), item,
            iterations or c.iterations, c.batch, c.ema, self.inputs_hash("refiner"), self._preview,
        )  # fmt: skip

    def _held_out(self, most: int) -> list[tuple[str, Tensor, np.ndarray, Tensor, Tensor]]:
        """(name, image (1, C, ...), mask, latent, box) of held-out tumors, each with one fixed box."""
        splits = self.workspace.splits()
        cases = ae.load_cases(self.workspace, splits.test or splits.train)
        found = []
        for candidate in [ae.Candidate(case, c) for case in cases for c in case.record.components if c.fits][:most]:
            image, mask = ae.LatentCache.window(self.plan, candidate, 0)
            picture = torch.from_numpy(image)[None].to(self.device)
            with ae.precise(self.plan.precision, self.device):
                latent = self.vae.encode(picture)
            soft = latent_mask(mask)
            alpha = self.plan.window.alpha if self.config.flow.bapmg else 0.0
            box = draw_box(soft, alpha, np.random.default_rng([self.plan.seed, 7]))
            found.append((candidate.name, picture, mask, latent, torch.from_numpy(box_mask(box, soft.shape))[None, None].to(self.device)))
        return found

    def _flow_quality(self) -> dict[str, float]:
        """The velocity error on held-out tumors at fixed times and noise: for the record, nothing is chosen by it."""
        errors = []
        for index, (_, _, mask, latent, box) in enumerate(self._held_out(16)):
            data = torch.cat([latent, to_flow(torch.from_numpy(latent_mask(mask))[None, None].to(self.device))], 1)
            for t in (0.1, 0.3, 0.5, 0.7, 0.9):
                rng = np.random.default_rng([self.plan.seed, index, int(10 * t)])
                noise = torch.from_numpy(rng.standard_normal(data.shape, np.float32)).to(self.device)
                time = torch.full((1,), t, device=self.device)
                with ae.precise(self.plan.precision, self.device):
                    x = torch.cat([flow.path(noise, data, time), condition_on(latent, box, self.config.flow.box_channel)], 1)
                    errors.append(float(flow.velocity_loss(self.net(x, time), noise, data)))
        return {"held_out_rfm": float(np.mean(errors))} if errors else {}

    def _preview(self, path: Path) -> None:
        """Held-out tumors: the scan, two draws in its box with the generated mask, the true mask."""
        rows, names = [], []
        for name, picture, mask, latent, box in self._held_out(4):
            axial = _busiest(mask)
            row = [picture[0, 0].float().cpu().numpy()[:, :, axial], mask[:, :, axial] * 2.0 - 1]
            for seed in (1, 2):
                image, refined = self._decode(self._sample(latent, box, seed, self.config.sampling.steps, "euler"))
                row += [image[0, :, :, axial], refined[:, :, axial] * 2 - 1]
            rows.append(row)
            names.append(name)
        grid_preview(path, rows, names, ["scan", "mask", "drawn, seed 1", "its mask", "drawn, seed 2", "its mask"], -1, 1)

    # -- synthesis ---------------------------------------------------------------------------------------------
    def load(self) -> dict[str, str]:
        hashes = {"vae": load_weights({"vae": self.vae}, self._folder("vae"), "run `tumorgen train vae`")}
        r = self.config.refiner
        with_flow: dict[str, nn.Module] = {"net": self.net, **({"refiner": self.refiner} if r.enabled and r.joint else {})}
        hashes["flow"] = load_weights(with_flow, self._folder("flow"), "run `tumorgen train flow`")
        if r.enabled and not r.joint:
            hashes["refiner"] = load_weights({"refiner": self.refiner}, self._folder("refiner"), "run `tumorgen train refiner`")
        for model in (self.vae, self.net, self.refiner):
            model.to(self.device).eval().requires_grad_(False)
        return hashes

    def planned_iterations(self, name: str) -> int:
        return int(getattr(self.config, name).iterations)

    def trained(self, name: str, iterations: int | None = None) -> bool:
        """Whether a stage is finished and made from what is there now (a joint refiner comes with the flow)."""
        r = self.config.refiner
        if name == "refiner" and (r.joint or not r.enabled):
            return self.trained("flow")
        before = {"vae": (), "flow": ("vae",), "refiner": ("vae", "flow")}[name]
        if not all((self._folder(stage) / "run.json").is_file() for stage in before):
            return False
        return finished(self._folder(name), self.inputs_hash(name), iterations)

    def _sample(self, latent: Tensor, box: Tensor, seed: int, steps: int, solver: flow.Solver) -> Tensor:
        """x1^ inside the box, the scan's own latents and no tumor outside: (1, L + 1, x, y, z)."""
        rng = np.random.default_rng(seed)
        noise = rng.standard_normal((1, latent.shape[1] + 1, *latent.shape[2:]), np.float32)
        condition = condition_on(latent, box, self.config.flow.box_channel)

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            return self.net(torch.cat([x, condition], 1), t).float()

        with ae.precise(self.plan.precision, self.device):
            drawn = flow.sample(velocity, torch.from_numpy(noise).to(self.device), steps, solver)
        return box * drawn + (1 - box) * torch.cat([latent, -torch.ones_like(latent[:, :1])], 1)

    def _decode(self, joint: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Scaled image (C, X, Y, Z) and refined mask (X, Y, Z) in [0, 1] of a joint variable."""
        latent, mask = joint[:, :-1], joint[:, -1:]
        with ae.precise(self.plan.precision, self.device):
            image, features = self.vae.decode_with_features(latent)
            with_vmr = self.config.refiner.enabled
            refined = torch.sigmoid(self.refiner(mask.clamp(-1, 1), features)) if with_vmr else ae.upsample_mask(mask)
        return image[0].float().cpu().numpy(), refined[0, 0].float().cpu().numpy()

    def synthesize(self, request: Request, seed: int, sampling: Sampling) -> Synthetic:
        """Encodes the window, draws in the box, decodes the box with its halo, refines the mask.

        The window's sides must be multiples of 16; the box is widened to whole latent voxels for the flow.
        """
        c = self.config.sampling
        scaled = scale(request.image, self.plan.channels, request.limits)
        with ae.precise(self.plan.precision, self.device):
            latent = self.vae.encode(torch.from_numpy(scaled)[None].to(self.device))
        shape = tuple(latent.shape[2:])
        box = latent_box(request.box, shape)  # type: ignore[arg-type]
        mask = torch.from_numpy(box_mask(box, shape))[None, None].to(self.device)  # type: ignore[arg-type]
        steps, solver = sampling.steps or c.steps, sampling.solver or c.solver
        joint = self._sample(latent, mask, seed, steps, solver)
        region = box.grown(c.halo, shape)  # type: ignore[arg-type]
        cells = (slice(None), slice(None), *region.slices)
        picture, refined = self._decode(joint[cells])
        voxels = Box(tuple(DOWNSAMPLING * a for a in region.start), tuple(DOWNSAMPLING * b for b in region.stop))  # type: ignore[arg-type]
        inner = request.box.shifted(tuple(-a for a in voxels.start))  # type: ignore[arg-type]
        local = inner.slices
        if c.texture:
            with ae.precise(self.plan.precision, self.device):
                smooth = self.vae.decode(latent[cells])[0].float().cpu().numpy()
            rng = np.random.default_rng([seed, 1])
            picture = picture + like_noise(scaled[(slice(None), *voxels.slices)], smooth, picture, inner, rng)
        image = request.image.astype(np.float32, copy=True)
        image[(slice(None), *request.box.slices)] = unscale(picture[(slice(None), *local)], self.plan.channels, request.limits)
        share = np.zeros(image.shape[1:], np.float32)
        share[request.box.slices] = refined[local]
        return Synthetic(image, share, {"steps": steps, "solver": solver})


def _busiest(mask: np.ndarray) -> int:
    """The axial slice with the largest tumor area."""
    return int((np.asarray(mask) > 0).sum(axis=(0, 1)).argmax())
