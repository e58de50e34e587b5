"""Blended latent diffusion: an unconditional flow of latents and mask; what is known is put back at every step.

Stages: vae (TumorGen's own, shared), unconditional. The flow has never been told what lies around a box: only the blending
tells it, so the comparison with TumorGen shows what its condition is worth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tumorgen_cli.figures import save_grid_preview
from tumorgen_cli.methods.base import Method, Request, Sampling, Synthetic
from tumorgen_cli.methods.latent import autoencoder as ae
from tumorgen_cli.methods.latent.cache import held_out_windows, training_latents
from tumorgen_cli.methods.latent.canvas import check_halo, open_canvas, put_back, smooth_host, texture
from tumorgen_cli.methods.tumorgen.objectives import to_flow
from tumorgen_cli.models import rectified_flow
from tumorgen_cli.models.flow_unet import FlowUNet
from tumorgen_cli.models.vae import DOWNSAMPLING, KlVae
from tumorgen_cli.planning import rules
from tumorgen_cli.planning.fingerprint import Fingerprint
from tumorgen_cli.planning.plan import REPLAN, Decisions, Plan, WindowPlan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system.devices import DeviceBudget
from tumorgen_cli.system.files import derive_seed
from tumorgen_cli.system.json_records import from_plain
from tumorgen_cli.training.checkpoints import load_weights
from tumorgen_cli.training.stage import Objective, Stage
from tumorgen_cli.tumors.boxes import box_mask, draw_box, latent_mask

_OWNER = "tumorgen"  # whose VAE is used


@dataclass(frozen=True)
class UnconditionalConfig:
    """The unconditional flow and its training. `copies`: augmented windows encoded per tumor."""

    widths: tuple[int, ...]
    res_blocks: int
    batch: int
    iterations: int
    learning_rate: float
    ema: float
    copies: int


@dataclass(frozen=True)
class BlendedSampling:
    """As TumorGen's."""

    steps: int
    solver: rectified_flow.Solver
    halo: int
    texture: bool

    def __post_init__(self) -> None:
        check_halo(self.halo, "methods.blended.sampling.halo")


@dataclass(frozen=True)
class BlendedConfig:
    """The section of the plan."""

    unconditional: UnconditionalConfig
    sampling: BlendedSampling


class Blended(Method):
    """See the module."""

    name = "blended"
    stages = ("vae", "unconditional")
    solvers = rectified_flow.SOLVERS
    cell = DOWNSAMPLING
    SOURCE = (
        "Avrahami et al., Blended Latent Diffusion, SIGGRAPH 2023, as a rival in TumorGen's Table 1. Deviations: a rectified flow "
        "instead of DDPM; what is known is put back from one fixed path of noise, not noised anew at each step; no text; latents and mask "
        "are drawn together, so that the mask comes with the picture, outside the "
        "box it is known to be empty; the decoder is not fitted to each picture; noise like the host's is added, as in TumorGen."
    )

    def __init__(self, plan: Plan, workspace: Workspace, device: str = "cpu") -> None:
        super().__init__(plan, workspace, device)
        self.config = plan.section(self.name, BlendedConfig)
        self.vae_config = from_plain(
            ae.VaeConfig, plan.methods[_OWNER]["vae"], f"plan.json methods.{_OWNER}.vae", REPLAN
        )

    @classmethod
    def plan_section(cls, d: Decisions, fingerprint: Fingerprint, window: WindowPlan, budget: DeviceBudget) -> None:
        large = budget.large
        tumors = max(1, len(fingerprint.tumors))
        same = "as TumorGen's flow"
        f = d.within("unconditional")
        f.take("widths", (64, 128, 256) if large else (32, 64, 128), same)
        f.take("res_blocks", 2, same)
        f.take("batch", 8, same)
        f.take("iterations", rules.flow_steps(tumors, 20000 if large else 5000), same, tumors=tumors)
        f.take("learning_rate", 2e-4 if large else 2e-3, same)
        f.take("ema", 0.995, same)
        f.take("copies", rules.encoded_copies(tumors), same, tumors=tumors)
        s = d.within("sampling")
        s.take("steps", 50, "blending needs more steps than a condition does: 50, as the paper's diffusion")
        s.take("solver", "euler", same)
        s.take("halo", 8, same)
        s.take("texture", True, same)

    # -- networks ----------------------------------------------------------------------------------------------
    @cached_property
    def vae(self) -> KlVae:
        c = self.vae_config
        return KlVae(len(self.plan.channels), c.widths, c.latent_channels, c.res_blocks)

    @cached_property
    def net(self) -> FlowUNet:
        channels = self.vae_config.latent_channels + 1
        return FlowUNet(channels, channels, self.config.unconditional.widths, self.config.unconditional.res_blocks)

    # -- training ----------------------------------------------------------------------------------------------
    def folder(self, stage: str) -> Path:
        """The VAE is TumorGen's."""
        return self.workspace.run(_OWNER if stage == "vae" else self.name, stage)

    def settings(self, name: str) -> Any:
        return self.vae_config if name == "vae" else super().settings(name)

    def stage(self, name: str, iterations: int | None = None, initial: Path | None = None) -> Stage:
        torch.manual_seed(
            derive_seed(self.plan.seed, _OWNER if name == "vae" else self.name, name)
        )  # the networks' first weights
        if name == "vae":
            made_from = self.inputs_hash(name)
            return ae.vae_stage(
                self.vae, self.vae_config, self.plan, self.workspace, self.device, made_from, iterations, initial
            )
        c, plan, seed = self.config.unconditional, self.plan, derive_seed(self.plan.seed, "unconditional")
        vae_hash = load_weights({"vae": self.vae}, self.folder("vae"))
        self.vae.to(self.device).eval().requires_grad_(False)
        latents = training_latents(
            self.vae, vae_hash, plan, self.workspace, self.folder("latents"), c.copies, self.device
        )
        self.net.to(self.device)

        def item(number: int) -> dict[str, Any]:
            rng = np.random.default_rng([seed, number])
            drawn = latents.draw(rng)
            data = np.concatenate([drawn.latent, latent_mask(drawn.mask)[None]])
            return {
                "data": data,
                "noise": rng.standard_normal(data.shape, np.float32),
                "uniform": np.float32(rng.random()),
            }

        objective = Objective("unconditional", UnconditionalObjective(self.net), c.learning_rate)
        return Stage(
            "unconditional",
            "unconditional flow",
            {"net": self.net},
            (objective,),
            item,
            iterations or c.iterations,
            c.batch,
            c.ema,
            self.inputs_hash("unconditional"),
            self._preview,
        )

    def _preview(self, path: Path) -> None:
        """Held-out tumors: the scan, its mask, a draw in its box and the mask that came with it."""
        rows, names, main = [], [], self.plan.main_channel
        for window in held_out_windows(self.vae, self.plan, self.workspace, self.device, 4):
            soft, axial = latent_mask(window.mask), ae.busiest_slice(window.mask)
            box = draw_box(soft, self.plan.window.alpha, np.random.default_rng([self.plan.seed, 7]))
            inside = torch.from_numpy(box_mask(box, soft.shape))[None, None].to(self.device)  # type: ignore[arg-type]
            picture, mask = self._decode(self._sample(window.latent, inside, 1, 20, "euler"))
            image = window.image[0, main].float().cpu().numpy()
            rows.append(
                [
                    image[:, :, axial],
                    window.mask[:, :, axial] * 2.0 - 1,
                    picture[main, :, :, axial],
                    mask[:, :, axial] * 2 - 1,
                ]
            )
            names.append(window.name)
        save_grid_preview(path, rows, names, ["scan", "mask", "drawn", "its mask"], -1, 1)

    # -- synthesis ---------------------------------------------------------------------------------------------
    def load(self) -> dict[str, str]:
        hashes = {
            "vae": load_weights({"vae": self.vae}, self.folder("vae")),
            "unconditional": load_weights({"net": self.net}, self.folder("unconditional")),
        }
        for model in (self.vae, self.net):
            model.to(self.device).eval().requires_grad_(False)
        return hashes

    def _sample(self, latent: Tensor, box: Tensor, seed: int, steps: int, solver: rectified_flow.Solver) -> Tensor:
        """x1 inside the box, the scan's own latents and no tumor outside: (1, L + 1, x, y, z). At each t the known part is what
        its own path from noise to data has there."""
        known = torch.cat([latent, -torch.ones_like(latent[:, :1])], 1)
        noise = torch.from_numpy(np.random.default_rng(seed).standard_normal(known.shape, np.float32)).to(self.device)

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            blended = box * x + (1 - box) * rectified_flow.path(noise, known, t)
            return box * self.net(blended, t).float() + (1 - box) * (known - noise)

        with ae.precise(self.plan.precision, self.device):
            drawn = rectified_flow.sample(velocity, noise, steps, solver)
        return box * drawn + (1 - box) * known

    def _decode(self, joint: Tensor) -> tuple[np.ndarray, np.ndarray]:
        with ae.precise(self.plan.precision, self.device):
            image, mask = self.vae.decode(joint[:, :-1]), ae.upsample_mask(joint[:, -1:])
        return image[0].float().cpu().numpy(), mask[0, 0].float().cpu().numpy()

    def synthesize(self, request: Request, seed: int, sampling: Sampling) -> Synthetic:
        """Encodes the window, draws the box with the rest put back at every step, decodes the box with its halo."""
        c = self.config.sampling
        steps, solver = sampling.steps or c.steps, sampling.solver or c.solver
        canvas = open_canvas(self.vae, request, self.plan, c.halo, self.device)
        joint = self._sample(canvas.latent, canvas.box, seed, steps, solver)  # type: ignore[arg-type]
        picture, mask = self._decode(joint[canvas.cells])
        if c.texture:
            picture += texture(canvas, picture, smooth_host(canvas, self.vae.decode, self.plan, self.device), seed)
        return Synthetic(*put_back(canvas, picture, mask, self.plan), {"steps": steps, "solver": solver})


class UnconditionalObjective(nn.Module):
    """L_rfm alone (TumorGen, eq. 3), nothing known. Batch: data (B, L + 1, x, y, z) with the mask in [0, 1] last, noise, uniform (B,)."""

    def __init__(self, net: FlowUNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        data = torch.cat([batch["data"][:, :-1], to_flow(batch["data"][:, -1:])], 1)
        velocity = self.net(rectified_flow.path(batch["noise"], data, batch["uniform"]), batch["uniform"])
        return rectified_flow.velocity_loss(velocity, batch["noise"], data), {}
