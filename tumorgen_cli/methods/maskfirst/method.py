"""Mask first, then tumor: a flow draws the mask in a box, a second flow draws the tumor's latents given the mask.

Stages: `vae` (TumorGen's own, shared), `maskflow`, `tumorflow`, `maskrefiner`. All settings are TumorGen's, and so are
the training items, what the flows see of the host and are told, and the painting. Only the drawing differs: TumorGen
draws latents and mask at once. The comparison tells what that is worth. Sub-labels of a tumor are drawn as TumorGen's.
"""

# ruff: noqa: ARG003  (the contract gives every method the same arguments; some are not needed here)

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tumorgen_cli.figures import save_grid_preview
from tumorgen_cli.geometry import Box
from tumorgen_cli.methods.base import Method, Request, Sampling, Synthetic
from tumorgen_cli.methods.latent.autoencoder import load_cases, vae_stage
from tumorgen_cli.methods.latent.cache import FORMAT, HeldOut
from tumorgen_cli.methods.latent.condition import Condition, Wanted
from tumorgen_cli.methods.latent.items import TrainingItems, fill_of, held_out_tumors, known_tumors, training_items
from tumorgen_cli.methods.latent.joint import code_labels, mask_channels, show_masks
from tumorgen_cli.methods.latent.quality import QUALITY_TIMES, inference_context, largest_tumor_slice
from tumorgen_cli.methods.latent.sampler import FlowSettings, Networks, Seen, TumorSampler, flow_start, open_sampler
from tumorgen_cli.methods.latent.settings import TumorFlowConfig, drawn_labels
from tumorgen_cli.methods.maskfirst.objectives import (
    Flows,
    MaskFirstRefinerObjective,
    MaskObjective,
    TumorObjective,
    inside_box,
)
from tumorgen_cli.metrics.traits import KINDS
from tumorgen_cli.models import rectified_flow
from tumorgen_cli.models.flow_unet import FlowUNet
from tumorgen_cli.models.mask_refiner import MaskRefiner
from tumorgen_cli.models.vae import KlVae
from tumorgen_cli.planning.fingerprint import Fingerprint
from tumorgen_cli.planning.plan import REPLAN, Decisions, Plan, WindowPlan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system.devices import DeviceBudget
from tumorgen_cli.system.files import derive_seed
from tumorgen_cli.system.json_records import from_plain, hash_value
from tumorgen_cli.training.stage import Objective, Stage

_OWNER = "tumorgen"  # the method whose VAE, encoded windows and settings are used
_SECTIONS = {"vae": "vae", "maskflow": "flow", "tumorflow": "flow", "maskrefiner": "refiner"}  # of TumorGen's plan


@dataclass(frozen=True)
class MaskFirstConfig:
    """The method's section of the plan; everything else is TumorGen's.

    Attributes:
        refined: whether the mask is refined after the tumor is drawn, as TumorGen's; otherwise it stays as drawn.
    """

    refined: bool


class MaskFirst(Method):
    """Mask first, then tumor, behind the contract; see the module and `SOURCE`."""

    name = "maskfirst"
    section = MaskFirstConfig
    uses_sections_of = (_OWNER,)
    stages = tuple(_SECTIONS)
    initial_stages = ("vae",)
    solvers = rectified_flow.SOLVERS
    tested_loss = "the training losses of both flows, added"
    SOURCE = (
        "The two stages of Tian, Lei et al., LesionDiffusion, MICCAI 2025 (arXiv 2503.00741), and its published code: "
        "a network draws the mask from a box and attributes, a second one the lesion from mask and attributes. Here "
        "they test what TumorGen's drawing at once is worth. Deviations: Both networks are rectified flows on the "
        "latent grid, of TumorGen's widths, steps and items, where LesionDiffusion has DDPMs with T = 1000, the mask's "
        "in voxels and with a weight of 1000 on the foreground. Character and volume replace its text, and the host's "
        "latents around the box its organ mask. The second flow draws the whole box, as TumorGen, not only the mask. "
        "Its constraints are TumorGen's coarse and fine one. The mask is refined as TumorGen's unless `refined` is "
        "off. The VAE is TumorGen's in place of a VQ-GAN."
    )

    def __init__(self, plan: Plan, workspace: Workspace, device: str = "cpu") -> None:
        super().__init__(plan, workspace, device)
        self.config = plan.section(self.name, MaskFirstConfig)
        shared = from_plain(TumorFlowConfig, plan.methods[_OWNER], f"plan.json methods.{_OWNER}", REPLAN)
        refined = self.config.refined and shared.refiner.enabled
        self.shared = replace(shared, refiner=replace(shared.refiner, enabled=refined))
        self.labels = len(drawn_labels(shared.flow, plan))
        self.cell = shared.vae.downsampling
        self.keeps_background = shared.sampling.keep_cells > 0
        self.kinds = tuple(KINDS) if shared.flow.character else ()

    @property
    def needs_healthy_box(self) -> bool:
        """As the flows' settings say."""
        return self.shared.needs_healthy_box

    @classmethod
    def plan_section(cls, d: Decisions, fingerprint: Fingerprint, window: WindowPlan, budget: DeviceBudget) -> None:
        """Take the only field of `MaskFirstConfig` into `d`."""
        d.take("refined", True, "as TumorGen's masks, so that only the drawing differs; false: as LesionDiffusion's")

    # -- networks ----------------------------------------------------------------------------------------------
    @cached_property
    def vae(self) -> KlVae:
        """TumorGen's KL-VAE."""
        return self.shared.vae.network(len(self.plan.channels))

    @cached_property
    def condition(self) -> Condition:
        """What both flows see of host and box, and what they are told."""
        return Condition(self.shared.vae.latent_channels, len(self.plan.channels), self.shared.flow)

    @cached_property
    def mask_net(self) -> FlowUNet:
        """The flow of the mask."""
        c, masks = self.shared.flow, mask_channels(self.shared.flow.mask_coding, self.labels)
        return FlowUNet(masks + self.condition.channels, masks, c.widths, c.res_blocks, c.predicts)

    @cached_property
    def tumor_net(self) -> FlowUNet:
        """The flow of the tumor's latents; its input ends with the mask."""
        c, latents = self.shared.flow, self.shared.vae.latent_channels
        channels = latents + self.condition.channels + mask_channels(c.mask_coding, self.labels)
        return FlowUNet(channels, latents, c.widths, c.res_blocks, c.predicts)

    @cached_property
    def refiner(self) -> MaskRefiner:
        """The mask refiner."""
        c, masks = self.shared.refiner, mask_channels(self.shared.flow.mask_coding, self.labels)
        return MaskRefiner(self.vae.feature_widths, c.width, c.guided, masks, self.labels)

    @cached_property
    def sampler(self) -> TumorSampler:
        """TumorGen's synthesis with these networks."""
        networks = Networks(self.vae, self._draw, self.condition, self.refiner.to(self.device))
        return open_sampler(self, self.shared, networks)

    # -- training ----------------------------------------------------------------------------------------------
    def folder(self, stage: str) -> Path:
        """The folder of a stage's run; VAE and encoded windows are TumorGen's."""
        return self.workspace.run(self.name if stage in self.stages[1:] else _OWNER, stage)

    def settings(self, name: str) -> Any:
        """TumorGen's section of the plan for stage `name`."""
        return getattr(self.shared, _SECTIONS[name])

    def inputs_hash(self, name: str) -> str:
        """As for every method; what follows the VAE also depends, as TumorGen's, on cache and share without a tumor."""
        made_from = super().inputs_hash(name)
        return made_from if name == "vae" else hash_value([made_from, FORMAT, self.shared.flow.healthy_share])

    def trained(self, name: str, iterations: int | None = None) -> bool:
        """As for every method; a refiner that is switched off is not needed."""
        if name == "maskrefiner" and not self.shared.refiner.enabled:
            return self.trained("tumorflow")
        return super().trained(name, iterations)

    def stage(self, name: str, iterations: int | None = None, initial: Path | None = None) -> Stage:
        """The training stage `name`; `initial` is a checkpoint for the VAE to start from."""
        owner = _OWNER if name == "vae" else self.name
        torch.manual_seed(derive_seed(self.plan.seed, owner, name))  # determines the networks' first weights
        if name == "vae":
            return vae_stage(self, self.vae, self.shared.vae, iterations, initial)
        items = training_items(self, self.vae, self.condition, self.shared)
        if name == "maskrefiner":
            return self._refiner_stage(items, iterations)
        return self._flow_stage(name, items, iterations)

    def _flow_stage(self, name: str, items: TrainingItems, iterations: int | None) -> Stage:
        """The training of the mask's or of the tumor's flow, from the items of TumorGen's."""
        c, first = self.shared.flow, name == "maskflow"
        seed = derive_seed(self.plan.seed, "flow")  # as TumorGen
        if not first:  # the preview draws masks
            self.load_frozen(self._saved("maskflow"), "maskflow")
        self.condition.learn(known_tumors(items.latents, self.cell, np.array(self.plan.window.spacing_mm)))
        saved = self._saved(name)
        for model in saved.values():
            model.to(self.device)
        objective = (
            MaskObjective(self.mask_net, self.condition, c)
            if first
            else TumorObjective(self.tumor_net, self.condition, c)
        )

        def item(number: int) -> dict[str, Any]:
            drawn = items.draw(np.random.default_rng([seed, number]))
            del drawn["target"]  # not needed; it has many more voxels than a latent
            return drawn

        return Stage(
            name=name,
            title="flow of the mask" if first else "flow of the tumor",
            models=saved,
            objectives=(Objective(name, objective, c.learning_rate),),
            item=item,
            iterations=iterations or c.iterations,
            batch=c.batch,
            ema=c.ema,
            inputs_hash=self.inputs_hash(name),
            preview=partial(self._preview, pictures=not first),
            section=f"methods.{_OWNER}.{_SECTIONS[name]}",
        )

    def tumor_losses(self, case: str) -> tuple[float, ...]:
        """The training losses of both flows for each tumor of a case, at fixed times and with one noise for all."""
        cases = load_cases(self.workspace, [case])
        tumors = held_out_tumors(self, self.vae, self.shared, len(cases[0].record.components), cases)
        return tuple(self._loss(*tumor) for tumor in tumors)

    def _loss(self, window: HeldOut, box: Box, inside: Tensor) -> float:
        """The training losses of both flows for a tumor, added; see `latent.items.held_out_tumors`."""
        c = self.shared.flow
        flows = MaskObjective(self.mask_net, self.condition, c), TumorObjective(self.tumor_net, self.condition, c)
        masks = code_labels(window.masks[: self.labels], c.mask_coding, self.cell)[None]
        shape = (1, window.latent.shape[1] + masks.shape[1], *window.latent.shape[2:])
        noise = np.random.default_rng(self.plan.seed).standard_normal(shape, np.float32)
        told = self.condition.tell(Wanted(window.character, fill_of(window.mask, box, self.cell)))[None]
        batch = {
            name: torch.from_numpy(a).to(self.device) for name, a in (("mask", masks), ("noise", noise), ("told", told))
        }
        batch |= {"latent": window.latent, "context": window.context, "box": inside}
        losses = []
        for time in QUALITY_TIMES:
            timed = {**batch, "uniform": torch.full((1,), time, device=self.device)}
            with inference_context(self.plan.precision, self.device):
                losses.append(sum(float(flow(timed)[0]) for flow in flows))
        return float(np.mean(losses))

    def _refiner_stage(self, items: TrainingItems, iterations: int | None) -> Stage:
        c, seed = self.shared.refiner, derive_seed(self.plan.seed, "refiner")  # as TumorGen
        for stage in ("maskflow", "tumorflow"):
            self.load_frozen(self._saved(stage), stage)
        flows = Flows(self.mask_net, self.tumor_net, self.condition)
        objective = MaskFirstRefinerObjective(self.refiner.to(self.device), self.vae, flows, self.shared)

        def item(number: int) -> dict[str, Any]:
            rng = np.random.default_rng([seed, number])
            return {**items.draw(rng), "clean": np.float32(rng.random() < c.clean)}

        return Stage(
            name="maskrefiner",
            title="mask refiner",
            models=self._saved("maskrefiner"),
            objectives=(Objective("maskrefiner", objective, c.learning_rate),),
            item=item,
            iterations=iterations or c.iterations,
            batch=c.batch,
            ema=c.ema,
            inputs_hash=self.inputs_hash("maskrefiner"),
            preview=self._preview,
            section=f"methods.{_OWNER}.{_SECTIONS['maskrefiner']}",
        )

    def _saved(self, stage: str) -> dict[str, nn.Module]:
        """The networks of a stage, as they are saved."""
        if stage == "maskrefiner":
            return {"refiner": self.refiner}
        return {"net": self.mask_net if stage == "maskflow" else self.tumor_net, "condition": self.condition}

    def _preview(self, path: Path, pictures: bool = True) -> None:
        """Held-out tumors: the scan, its mask, and two draws in its box; without `pictures`, of the mask alone."""
        rows, names, main = [], [], self.plan.main_channel
        for window, cells, box in held_out_tumors(self, self.vae, self.shared, 4):
            axial, shown = largest_tumor_slice(window.mask), show_masks(window.masks[: self.labels])
            row = [window.image[0, main].float().cpu().numpy()[:, :, axial], shown[:, :, axial]]
            for seed in (1, 2):
                settings = FlowSettings(seed, self.shared.sampling.steps, "euler")
                joint = self.sampler.sample(window.context, box, self.sampler.draw_tumor(cells, seed), settings)
                image, masks = self.sampler.show(joint)
                row += [image[main, :, :, axial]] if pictures else []
                row.append(masks[:, :, axial])
            rows.append(row)
            names.append(window.name)
        drawn = ["drawn, seed 1", "its mask", "drawn, seed 2", "its mask"]
        columns = drawn if pictures else ["drawn mask, seed 1", "drawn mask, seed 2"]
        save_grid_preview(path, rows, names, ["scan", "mask", *columns], -1, 1)

    # -- synthesis ---------------------------------------------------------------------------------------------
    def load(self) -> dict[str, str]:
        """Load the VAE, both flows and, if it is used, the refiner."""
        hashes = {"vae": self.load_frozen({"vae": self.vae}, "vae")}
        for stage in self.stages[1:] if self.shared.refiner.enabled else self.stages[1:3]:
            hashes[stage] = self.load_frozen(self._saved(stage), stage)
        return hashes

    def _draw(self, seen: Seen, settings: FlowSettings) -> Tensor:
        """The mask, then the latents given the mask, see `latent.sampler.Draw`."""
        latents, masks = self.tumor_net.out_channels, self.mask_net.out_channels
        shape = (1, latents + masks, *seen.latent.shape[2:])
        noise = torch.from_numpy(np.random.default_rng(settings.seed).standard_normal(shape, np.float32))
        of_latent, of_mask = noise.to(self.device).tensor_split([latents], 1)
        steps, solver = settings.steps, settings.solver
        mask = inside_box(rectified_flow.sample(seen.velocity(self.mask_net), of_mask, steps, solver), seen.box)
        start = flow_start(of_latent, seen.latent, self.shared.flow)
        latent = rectified_flow.sample(seen.velocity(self.tumor_net, mask), start, steps, solver)
        return torch.cat([latent, mask], 1)

    def synthesize(self, request: Request, seed: int, sampling: Sampling) -> Synthetic:
        """Paint a tumor; see `TumorSampler.synthesize`."""
        return self.sampler.synthesize(request, seed, sampling)
