"""TumorGen: latent and mask of a tumor together, by rectified flow, from a box; the mask refined by VAE features.

Stages: vae, flow, refiner. The flow reads augmented latents that are encoded once; the refiner reads one-step
estimates of the trained flow. With `refiner.joint` both train at once, as in the paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tumorgen_cli.figures import save_grid_preview
from tumorgen_cli.geometry import SHELL_MM, Box, tight_box
from tumorgen_cli.methods.base import Method, Request, Sampling, Synthetic, learnt_by
from tumorgen_cli.methods.latent import autoencoder as ae
from tumorgen_cli.methods.latent.cache import FORMAT, HeldOut, Latents, held_out_windows, training_latents
from tumorgen_cli.methods.latent.canvas import (
    Canvas,
    check_halo,
    near,
    open_canvas,
    put_back,
    roughen,
    smooth_host,
    texture,
)
from tumorgen_cli.methods.tumorgen.objectives import (
    Condition,
    FlowConfig,
    FlowObjective,
    RefinerConfig,
    RefinerObjective,
    to_flow,
)
from tumorgen_cli.metrics.traits import FIELDS, KINDS, describe_traits
from tumorgen_cli.models import rectified_flow
from tumorgen_cli.models.flow_unet import FlowUNet
from tumorgen_cli.models.mask_refiner import MaskRefiner
from tumorgen_cli.models.vae import DOWNSAMPLING, KlVae
from tumorgen_cli.planning import rules
from tumorgen_cli.planning.fingerprint import Fingerprint
from tumorgen_cli.planning.plan import Decisions, Plan, WindowPlan, validate_sides
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.intensity import scale, to_comparable_units, unscale
from tumorgen_cli.system.devices import DeviceBudget
from tumorgen_cli.system.files import derive_seed
from tumorgen_cli.system.json_records import hash_value
from tumorgen_cli.training.checkpoints import load_weights
from tumorgen_cli.training.stage import Objective, Stage
from tumorgen_cli.tumors.boxes import box_mask, draw_box, latent_mask

_NEAR = 0.3  # a character this near to what was wanted will do; its spread over the training tumors is 1
_FARTHEST = 4.0  # nothing is told that is farther from ordinary; training tumors go to 2 or 3


@dataclass(frozen=True)
class TumorGenSampling:
    """Synthesis: solver steps, the halo in latent voxels that is decoded around a box, whether noise like the host's
    own, which a VAE smooths away, is put back into the box; how much, and on what scale, the refined mask's edge wavers
    (`painting.roughen`); how far around its tumor the box is painted (0: the whole box).

    A field answers with less than the character it is told: `emphasis` is how many times as far from ordinary as wanted a
    character is told at first, `corrections` how often a tumor that is off is drawn anew from the same noise, told so much
    more as the last one lacked, `gain` times."""

    steps: int
    solver: rectified_flow.Solver
    halo: int
    texture: bool
    roughness: float
    roughness_mm: float
    keep_mm: float
    emphasis: float
    corrections: int
    gain: float

    def __post_init__(self) -> None:
        check_halo(self.halo, "methods.tumorgen.sampling.halo")


@dataclass(frozen=True)
class TumorGenConfig:
    """TumorGen's section of the plan."""

    vae: ae.VaeConfig
    flow: FlowConfig
    refiner: RefinerConfig
    sampling: TumorGenSampling


def _off(lack: np.ndarray | None) -> float:
    """How far a tumor is off its character: by the field that is farthest."""
    return math.inf if lack is None else float(np.abs(lack).max())


class TumorGen(Method):
    """See the module."""

    name = "tumorgen"
    stages = ("vae", "flow", "refiner")
    solvers = rectified_flow.SOLVERS
    cell = DOWNSAMPLING
    SOURCE = (
        "Liu, Chen et al., TumorGen: Boundary-Aware Tumor-Mask Synthesis with Rectified Flow Matching, 2025; eqs. 1-7. "
        "Deviations: the VAE is trained on the data set's own cases unless a checkpoint is given; the fine constraint is "
        "averaged where a mask is; the field is told the character of the tumor to draw unless `flow.character` is off; the "
        "refiner trains after the flow unless `refiner.joint`, and has a Dice term; noise like the host's is added to the "
        "decoded box unless `sampling.texture` is off, and only what lies near the tumor is kept of it unless `sampling.keep_mm` is 0; "
        "the mask's edge wavers unless `sampling.roughness` is 0; a tumor off its character is drawn again unless `sampling.corrections` is 0."
    )

    def __init__(self, plan: Plan, workspace: Workspace, device: str = "cpu") -> None:
        super().__init__(plan, workspace, device)
        self.config = plan.section(self.name, TumorGenConfig)
        self.keeps_background = self.config.sampling.keep_mm > 0
        self.kinds = tuple(KINDS) if self.config.flow.character else ()

    # -- planning ----------------------------------------------------------------------------------------------
    @classmethod
    def plan_section(cls, d: Decisions, fingerprint: Fingerprint, window: WindowPlan, budget: DeviceBudget) -> None:
        large = budget.large
        tumors = max(1, len(fingerprint.tumors))
        maisi = "MAISI's widths from 16 GiB up" if large else "small enough to learn from tens of scans, and on a CPU"
        free = "the paper gives none; not swept"
        v = d.within("vae")
        v.take("widths", (64, 128, 256) if large else (16, 32, 64), maisi, memory_gib=budget.memory_gib)
        v.take("res_blocks", (2, 2, 2), "MAISI's")
        cell, latents = rules.latent_channels(window.spacing_mm)
        v.take(
            "latent_channels",
            latents,
            "the paper's 4; doubled with a latent cell's volume over the paper's 3.0 ml",
            cell_ml=cell,
        )
        asked = v.take(
            "patch",
            window.shape,
            "the largest; sides are drawn from 32 up: a VAE that learns from one size shifts intensities at others",
        )
        patch = validate_sides(asked, "methods.tumorgen.vae.patch")
        v.take(
            "batch",
            rules.patches_per_step(patch) if large else 1,
            "together no larger than the paper's window",
            patch=patch,
        )
        v.take(
            "iterations",
            20000 if large else 4000,
            "4000 on a CPU gave 36.7 dB from 32 PET cases; 20000 is not measured",
        )
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
        most = 20000 if large else 5000
        f.take(
            "iterations",
            rules.flow_steps(tumors, most),
            f"125 steps a tumor, 1000 to {most}; on FDG-PET 75 agreed less",
            tumors=tumors,
        )
        f.take(
            "learning_rate",
            2e-4 if large else 2e-3,
            "on FDG-PET 2e-3 beat 1e-3 and 5e-4 at equal time; large networks are not measured",
        )
        f.take("ema", 0.995, free)
        f.take(
            "copies",
            rules.encoded_copies(tumors),
            "about 640 encoded windows: fewer are memorised, more cost disk",
            tumors=tumors,
        )
        f.take("time_schedule", "uniform", "uniform in the paper's notation")
        f.take("bapmg", True, "TumorGen, section 2.1; false: the fixed tight box of Table 2")
        f.take("coarse_weight", 1.0, "λ1; the paper gives none")
        f.take(
            "fine_weight",
            1.0,
            "λ2; the paper gives none; at 0.1 masks come out far too small, at 3 the field learns more slowly",
        )
        f.take("ssim_window", 3, "λ2's SSIM: tumors are a few latent voxels wide")
        f.take("box_channel", False, "the paper's nine input channels")
        f.take(
            "character",
            True,
            "the field is told its tumor's contrast, unevenness, core; false: the paper's, whose hard tumors come too seldom",
        )
        r = d.within("refiner")
        r.take("enabled", True, "VMR, section 2.3; false: Table 2's ablation")
        r.take("guided", True, "VAE features; without them a refiner adds nothing")
        r.take(
            "joint",
            False,
            "after the flow, on its estimates: the decoder is run for one window a step, not for a whole batch",
        )
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
        s.take(
            "texture",
            True,
            "a VAE smooths noise away: without it the box is a bare patch in a noisy scan; false: the paper's decode",
        )
        s.take(
            "roughness",
            2.0,
            "edges waver where the refined mask is unsure: without it masks are rounder than real ones; 0: the paper's",
        )
        s.take("roughness_mm", 12.0, "on FDG-PET 10 and 16 did about as well")
        s.take(
            "keep_mm",
            SHELL_MM,
            "beyond the tumor's surroundings the host stays: slices come nearer to real ones; 0: the paper's, the whole box",
        )
        s.take(
            "emphasis",
            1.5,
            "characters told so many times as far from ordinary: told as they are, tumors come out tamer than was asked",
        )
        s.take(
            "corrections",
            1,
            "draws of a tumor that misses its character, beside the first: twice the time, nearer to the data",
        )
        s.take(
            "gain",
            2.0,
            "told that much of what the first draw lacked: 1 left necrotic tumors too seldom, 2.5 agreed no better",
        )
        s.take(
            "halo",
            8,
            "latent voxels around the box: on FDG-PET its decode is the whole window's to 0.1 % of the clip window, with 4 to 1.3 %",
        )

    # -- networks ----------------------------------------------------------------------------------------------
    @cached_property
    def vae(self) -> KlVae:
        c = self.config.vae
        return KlVae(len(self.plan.channels), c.widths, c.latent_channels, c.res_blocks)

    @cached_property
    def net(self) -> FlowUNet:
        c, latent = self.config.flow, self.config.vae.latent_channels
        return FlowUNet(latent + 1 + self.condition.channels, latent + 1, c.widths, c.res_blocks)

    @cached_property
    def condition(self) -> Condition:
        return Condition(self.config.vae.latent_channels, len(self.plan.channels), self.config.flow)

    @cached_property
    def refiner(self) -> MaskRefiner:
        return MaskRefiner(self.vae.feature_widths, self.config.refiner.width, self.config.refiner.guided)

    # -- training ----------------------------------------------------------------------------------------------
    def inputs_hash(self, name: str) -> str:
        """As for every method; flow and refiner read encoded tumors, and a joint refiner is part of the flow."""
        made_from, r = super().inputs_hash(name), self.config.refiner
        return (
            made_from
            if name == "vae"
            else hash_value([made_from, FORMAT, learnt_by(r) if name == "flow" and r.joint else None])
        )

    def trained(self, name: str, iterations: int | None = None) -> bool:
        """As for every method; a joint refiner comes with the flow, and one that is switched off is never missing."""
        r = self.config.refiner
        if name == "refiner" and (r.joint or not r.enabled):
            return self.trained("flow")
        return super().trained(name, iterations)

    def stage(self, name: str, iterations: int | None = None, initial: Path | None = None) -> Stage:
        torch.manual_seed(derive_seed(self.plan.seed, self.name, name))  # the networks' first weights
        if name == "vae":
            made_from = self.inputs_hash(name)
            return ae.vae_stage(
                self.vae, self.config.vae, self.plan, self.workspace, self.device, made_from, iterations, initial
            )
        return self._flow_stage(iterations) if name == "flow" else self._refiner_stage(iterations)

    def _latents(self) -> Latents:
        vae_hash = load_weights({"vae": self.vae}, self.folder("vae"))
        self.vae.to(self.device).eval().requires_grad_(False)
        cache = self.folder("latents")
        return training_latents(
            self.vae, vae_hash, self.plan, self.workspace, cache, self.config.flow.copies, self.device
        )

    def _told(self, latents: Latents) -> Latents:
        """The training tumors with their characters as the field is told them."""
        return replace(latents, characters=self.condition.standard(latents.characters))

    def _draw(self, latents: ae.Latents, rng: np.random.Generator) -> dict[str, Any]:
        """One random copy of one random tumor with its character, a fresh box, noise and time; `target`: its mask on the working grid."""
        drawn = latents.draw(rng)
        mask = latent_mask(drawn.mask)
        box = draw_box(mask, self._alpha, rng)
        noise = rng.standard_normal((drawn.latent.shape[0] + 1, *mask.shape), np.float32)
        return {
            "latent": drawn.latent,
            "mask": mask[None],
            "box": box_mask(box, mask.shape)[None],
            "noise": noise,
            "uniform": np.float32(rng.random()),
            "character": drawn.character,
            "target": drawn.mask[None].astype(np.float32),
        }

    def _flow_stage(self, iterations: int | None) -> Stage:
        c, plan = self.config.flow, self.plan
        ae.tell_quality(self.folder("vae") / "run.json", self.config.vae.least_psnr)
        latents, seed = self._latents(), derive_seed(plan.seed, "flow")
        joint = self.config.refiner.enabled and self.config.refiner.joint
        self.condition.learn(latents.characters[:, 0], self._extents_mm(latents))
        latents = self._told(latents)
        self.net.to(self.device)
        self.condition.to(self.device)
        refine = RefinerObjective(self.refiner.to(self.device), self.vae, None, self.config.refiner) if joint else None

        def item(number: int) -> dict[str, Any]:
            drawn = self._draw(latents, np.random.default_rng([seed, number]))
            return (
                drawn if joint else {k: v for k, v in drawn.items() if k != "target"}
            )  # 64 times a latent's voxels to carry

        models = {**self._field(), **({"refiner": self.refiner} if joint else {})}
        objective = Objective("flow", FlowObjective(self.net, self.condition, c, refine), c.learning_rate)
        return Stage(
            "flow",
            "vector field",
            models,
            (objective,),
            item,
            iterations or c.iterations,
            c.batch,
            c.ema,
            self.inputs_hash("flow"),
            self._preview,
            self._flow_quality,
        )

    def _refiner_stage(self, iterations: int | None) -> Stage:
        c, plan = self.config.refiner, self.plan
        latents, seed = self._latents(), derive_seed(plan.seed, "refiner")
        load_weights(self._field(), self.folder("flow"))
        latents = self._told(latents)
        self.net.to(self.device).eval().requires_grad_(False)
        self.condition.to(self.device)
        self.refiner.to(self.device)

        def item(number: int) -> dict[str, Any]:
            rng = np.random.default_rng([seed, number])
            return {**self._draw(latents, rng), "clean": np.float32(rng.random() < c.clean)}

        objective = RefinerObjective(self.refiner, self.vae, (self.net, self.condition), c)
        return Stage(
            "refiner",
            "mask refiner",
            {"refiner": self.refiner},
            (Objective("refiner", objective, c.learning_rate),),
            item,
            iterations or c.iterations,
            c.batch,
            c.ema,
            self.inputs_hash("refiner"),
            self._preview,
        )

    def _field(self) -> dict[str, nn.Module]:
        """The vector field and what it is told, as saved."""
        return {"net": self.net, "condition": self.condition}

    def _extents_mm(self, latents: Latents) -> np.ndarray:
        """(N, 3): the tight boxes on the latent grid, which BA-PMG starts from, of the tumors as they are."""
        masks = [latent_mask(np.unpackbits(packed[0], axis=-1)) for packed in latents.packed]
        sides = [tight_box(mask > 0).shape for mask in masks]  # type: ignore[union-attr]
        return DOWNSAMPLING * np.array(sides) * np.array(self.plan.window.spacing_mm)

    def _held_out(self, most: int) -> list[tuple[HeldOut, Box, Tensor]]:
        """Held-out tumors, each with one fixed box in latent cells and as a mask (1, 1, x, y, z)."""
        found = []
        for window in held_out_windows(self.vae, self.plan, self.workspace, self.device, most):
            soft = latent_mask(window.mask)
            box = draw_box(soft, self._alpha, np.random.default_rng([self.plan.seed, 7]))
            found.append((window, box, torch.from_numpy(box_mask(box, soft.shape))[None, None].to(self.device)))  # type: ignore[arg-type]
        return found

    def _flow_quality(self) -> dict[str, float]:
        """The velocity error on held-out tumors at fixed times and noise: for the record, nothing is chosen by it."""
        errors = []
        for index, (window, _, box) in enumerate(self._held_out(16)):
            data = torch.cat(
                [window.latent, to_flow(torch.from_numpy(latent_mask(window.mask))[None, None].to(self.device))], 1
            )
            told = self.condition(
                window.latent, box, torch.from_numpy(self.condition.standard(window.character))[None].to(self.device)
            )
            for t in (0.1, 0.3, 0.5, 0.7, 0.9):
                rng = np.random.default_rng([self.plan.seed, index, int(10 * t)])
                noise = torch.from_numpy(rng.standard_normal(data.shape, np.float32)).to(self.device)
                time = torch.full((1,), t, device=self.device)
                with ae.precise(self.plan.precision, self.device):
                    x = torch.cat([rectified_flow.path(noise, data, time), told], 1)
                    errors.append(float(rectified_flow.velocity_loss(self.net(x, time), noise, data)))
        return {"held_out_rfm": float(np.mean(errors))} if errors else {}

    def _preview(self, path: Path) -> None:
        """Held-out tumors: the scan, two draws in its box with the generated mask, the true mask."""
        rows, names, main = [], [], self.plan.main_channel
        for window, cells, box in self._held_out(4):
            axial = ae.busiest_slice(window.mask)
            row = [window.image[0, main].float().cpu().numpy()[:, :, axial], window.mask[:, :, axial] * 2.0 - 1]
            for seed in (1, 2):
                told = self._first_told(self._character(cells, seed))
                image, refined = self._decode(
                    self._sample(window.latent, box, told, seed, self.config.sampling.steps, "euler")
                )
                row += [image[main, :, :, axial], refined[:, :, axial] * 2 - 1]
            rows.append(row)
            names.append(window.name)
        save_grid_preview(
            path, rows, names, ["scan", "mask", "drawn, seed 1", "its mask", "drawn, seed 2", "its mask"], -1, 1
        )

    # -- synthesis ---------------------------------------------------------------------------------------------
    def load(self) -> dict[str, str]:
        hashes = {"vae": load_weights({"vae": self.vae}, self.folder("vae"))}
        r = self.config.refiner
        with_flow = {**self._field(), **({"refiner": self.refiner} if r.enabled and r.joint else {})}
        hashes["flow"] = load_weights(with_flow, self.folder("flow"))
        if r.enabled and not r.joint:
            hashes["refiner"] = load_weights({"refiner": self.refiner}, self.folder("refiner"))
        for model in (self.vae, self.net, self.condition, self.refiner):
            model.to(self.device).eval().requires_grad_(False)
        return hashes

    @property
    def _alpha(self) -> float:
        """BA-PMG's α; without it boxes are tight."""
        return self.plan.window.alpha if self.config.flow.bapmg else 0.0

    def _character(self, box: Box, seed: int, kind: str | None = None) -> np.ndarray | None:
        """The character (3 C,) to ask for in a box of latent cells, drawn; None where the field is told none."""
        cell = DOWNSAMPLING * np.array(self.plan.window.spacing_mm)
        reach = np.maximum(self._alpha * np.array(self.plan.window.extent_mm), cell)
        return self.condition.draw(
            tuple(box.shape * cell), tuple(reach), np.random.default_rng([seed, 2]), kind, self.plan.main_channel
        )

    def _first_told(self, character: np.ndarray | None) -> np.ndarray | None:
        """What the field is told (3 C,) to get a character (3 C,)."""
        if character is None:
            return None
        return np.clip(self.config.sampling.emphasis * self.condition.standard(character), -_FARTHEST, _FARTHEST)

    def _sample(
        self, latent: Tensor, box: Tensor, told: np.ndarray | None, seed: int, steps: int, solver: rectified_flow.Solver
    ) -> Tensor:
        """x1^ inside the box (1, 1, x, y, z), the scan's own latents and no tumor outside: (1, L + 1, x, y, z)."""
        rng = np.random.default_rng(seed)
        noise = rng.standard_normal((1, latent.shape[1] + 1, *latent.shape[2:]), np.float32)
        condition = self.condition(latent, box, None if told is None else torch.from_numpy(told)[None].to(self.device))

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            return self.net(torch.cat([x, condition], 1), t).float()

        with ae.precise(self.plan.precision, self.device):
            drawn = rectified_flow.sample(velocity, torch.from_numpy(noise).to(self.device), steps, solver)
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
        """Encodes the window and paints, again as long as the tumor is off its character and corrections are left; the nearest is kept."""
        c = self.config.sampling
        canvas = open_canvas(self.vae, request, self.plan, c.halo, self.device)
        steps, solver = sampling.steps or c.steps, sampling.solver or c.solver
        character = self._character(canvas.latent_box, seed, sampling.kind)
        smooth = smooth_host(canvas, self.vae.decode, self.plan, self.device) if c.texture else None
        told = self._first_told(character)
        nearest, draws = self._paint(canvas, smooth, told, seed, steps, solver), 1
        lack = self._lack(character, nearest, request)
        least = _off(lack)
        while lack is not None and least > _NEAR and draws <= c.corrections:
            told = np.clip(told + c.gain * lack, -_FARTHEST, _FARTHEST)
            painted, draws = self._paint(canvas, smooth, told, seed, steps, solver), draws + 1
            lack = self._lack(character, painted, request)
            if _off(lack) < least:
                nearest, least = painted, _off(lack)
        off = {"off": round(least, 4)} if math.isfinite(least) else {}
        return replace(
            nearest, drawn={"steps": steps, "solver": solver, "draws": draws, **off, **self._asked(character)}
        )

    def _paint(
        self,
        canvas: Canvas,
        smooth: np.ndarray | None,
        told: np.ndarray | None,
        seed: int,
        steps: int,
        solver: rectified_flow.Solver,
    ) -> Synthetic:
        """One draw: the box decoded with its halo, the mask refined; noise as beside the `smooth` host, if it is given."""
        c, request = self.config.sampling, canvas.request
        picture, refined = self._decode(
            self._sample(canvas.latent, canvas.box, told, seed, steps, solver)[canvas.cells]
        )
        if c.roughness and self.config.refiner.enabled:  # a coarse mask is no probability
            refined = roughen(canvas, refined, c.roughness, c.roughness_mm, seed)
        image, mask = put_back(canvas, picture, refined, self.plan)
        noise = np.zeros_like(image)
        if smooth is not None:
            noise = put_back(canvas, picture + texture(canvas, picture, smooth, seed), refined, self.plan)[0] - image
        if not c.keep_mm:
            return Synthetic(image + noise, mask)
        share = near(mask, request.spacing_mm, c.keep_mm)
        loud = np.sqrt(
            share * (2 - share)
        )  # where half of the host's noise is left, half of ours would make the sum too quiet
        return Synthetic(request.image + share * (image - request.image) + loud * noise, mask, kept=1 - share)

    def _lack(self, character: np.ndarray | None, painted: Synthetic, request: Request) -> np.ndarray | None:
        """What a painted tumor lacks of its character (3 C,), in the field's own measure; None where there is no character or tumor."""
        inside = painted.mask >= 0.5
        volume = float(inside.sum()) * math.prod(request.spacing_mm) / 1000
        if character is None or not volume or volume < self.plan.paste.smallest_ml:
            return None
        channels, limits = self.plan.channels, request.limits
        clipped = unscale(
            scale(painted.image, channels, limits), channels, limits
        )  # as the training tumors were described
        seen, zero = to_comparable_units(clipped, channels, limits)
        has = self.condition.standard(describe_traits(seen, inside, request.spacing_mm, zero))
        return np.where(np.isfinite(character), self.condition.standard(character) - has, np.float32(0))

    def _asked(self, character: np.ndarray | None) -> dict[str, Any]:
        """A character for the record: by channel and name; None where it could not be told."""
        if character is None:
            return {}
        rows = zip(self.plan.channels, character.reshape(-1, len(FIELDS)).tolist(), strict=True)
        told = {
            channel.name: {f: round(v, 4) if math.isfinite(v) else None for f, v in zip(FIELDS, row, strict=True)}
            for channel, row in rows
        }
        return {"character": told}
