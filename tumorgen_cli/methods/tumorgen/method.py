"""TumorGen: draws the latents and the mask of a tumor together, by rectified flow, in a given box.

Stages: `vae`, `flow`, `refiner`. The flow learns from augmented windows that are encoded once. The refiner improves the
mask with features of the VAE's decoder; it learns from estimates of the trained flow in a few steps, or,
with `refiner.joint`, together with the flow as in the paper.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tumorgen_cli.figures import save_grid_preview
from tumorgen_cli.geometry import Box
from tumorgen_cli.methods.base import Method, Request, Sampling, Synthetic, learning_settings
from tumorgen_cli.methods.latent.autoencoder import load_cases, vae_stage
from tumorgen_cli.methods.latent.cache import FORMAT, HeldOut
from tumorgen_cli.methods.latent.condition import Condition, Wanted
from tumorgen_cli.methods.latent.items import (
    TrainingItems,
    fill_of,
    held_out_tumors,
    known_tumors,
    training_items,
)
from tumorgen_cli.methods.latent.joint import code_labels, mask_channels, show_masks, to_flow
from tumorgen_cli.methods.latent.quality import QUALITY_TIMES, inference_context, largest_tumor_slice
from tumorgen_cli.methods.latent.sampler import FlowSettings, Networks, Seen, TumorSampler, flow_start, open_sampler
from tumorgen_cli.methods.latent.settings import TumorFlowConfig, drawn_labels
from tumorgen_cli.methods.tumorgen.config import plan_tumorgen
from tumorgen_cli.methods.tumorgen.objectives import FlowObjective, RefinerObjective
from tumorgen_cli.metrics.traits import KINDS
from tumorgen_cli.models import rectified_flow
from tumorgen_cli.models.flow_unet import FlowUNet
from tumorgen_cli.models.mask_refiner import MaskRefiner
from tumorgen_cli.models.vae import KlVae
from tumorgen_cli.planning.fingerprint import Fingerprint
from tumorgen_cli.planning.plan import Decisions, Plan, WindowPlan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system.devices import DeviceBudget
from tumorgen_cli.system.files import derive_seed
from tumorgen_cli.system.json_records import hash_value
from tumorgen_cli.training.checkpoints import load_initial_weights
from tumorgen_cli.training.stage import Objective, Stage


class TumorGen(Method):
    """TumorGen behind the contract; see the module and `SOURCE`."""

    name = "tumorgen"
    section = TumorFlowConfig
    stages = ("vae", "flow", "refiner")
    initial_stages = stages
    solvers = rectified_flow.SOLVERS
    tested_loss = "the error of the flow's velocity in the tumor's box"
    SOURCE = (
        "Liu, Chen et al., TumorGen: Boundary-Aware Tumor-Mask Synthesis with Rectified Flow Matching, 2025; eqs. "
        "1-7. Deviations: The VAE is trained on the data set's own cases unless a checkpoint is given. The fine "
        "constraint is averaged only where a mask is unless `flow.fine_over` is `window`. The flow starts from the "
        "latents without the tumor unless `flow.start` is `noise`, and predicts the data unless `flow.predicts` is "
        "`velocity`; around the box it sees those latents unless `flow.context` is `scan`. Masks have eight channels "
        "unless `flow.mask_coding` is `mean`, and the box weighs more unless `flow.box_weight` is 1. The field gets "
        "the character (contrast, heterogeneity, core ratio) and the volume of the tumor as input unless "
        "`flow.character` and `flow.volume` are off. The refiner trains after the flow unless `refiner.joint` is on, "
        "and its loss has a Dice term and weighs tumor voxels more unless `refiner.balanced` is off. The noise that "
        "the decoder loses is added unless `sampling.texture` is `none`. Only the surroundings of the tumor are "
        "painted, not the whole box, unless `sampling.keep_cells` is 0. Sub-labels of a tumor have masks of their own "
        "unless `flow.sublabels` is off. The preset `paper` sets all of these as published."
    )

    def __init__(self, plan: Plan, workspace: Workspace, device: str = "cpu") -> None:
        super().__init__(plan, workspace, device)
        self.config = plan.section(self.name, TumorFlowConfig)
        self.labels = len(drawn_labels(self.config.flow, plan))
        self.cell = self.config.vae.downsampling
        self.keeps_background = self.config.sampling.keep_cells > 0
        self.kinds = tuple(KINDS) if self.config.flow.character else ()

    @property
    def needs_healthy_box(self) -> bool:
        """As the flows' settings say."""
        return self.config.needs_healthy_box

    @classmethod
    def plan_section(cls, d: Decisions, fingerprint: Fingerprint, window: WindowPlan, budget: DeviceBudget) -> None:
        """Take every field of `TumorFlowConfig` into `d`."""
        plan_tumorgen(d, fingerprint, window, budget)

    # -- networks ----------------------------------------------------------------------------------------------
    @cached_property
    def vae(self) -> KlVae:
        """The KL-VAE."""
        return self.config.vae.network(len(self.plan.channels))

    @cached_property
    def net(self) -> FlowUNet:
        """The vector field."""
        c, latent = self.config.flow, self.config.vae.latent_channels
        joint = latent + mask_channels(c.mask_coding, self.labels)
        return FlowUNet(joint + self.condition.channels, joint, c.widths, c.res_blocks, c.predicts)

    @cached_property
    def condition(self) -> Condition:
        """The vector field's input beside the noisy latents."""
        return Condition(self.config.vae.latent_channels, len(self.plan.channels), self.config.flow)

    @cached_property
    def refiner(self) -> MaskRefiner:
        """The mask refiner."""
        c, masks = self.config.refiner, mask_channels(self.config.flow.mask_coding, self.labels)
        return MaskRefiner(self.vae.feature_widths, c.width, c.guided, masks, self.labels)

    @cached_property
    def sampler(self) -> TumorSampler:
        """The synthesis with these networks."""
        networks = Networks(self.vae, self._draw, self.condition, self.refiner.to(self.device))
        return open_sampler(self, self.config, networks)

    def _field(self) -> dict[str, nn.Module]:
        """The vector field and its condition, as they are saved."""
        return {"net": self.net, "condition": self.condition}

    # -- training ----------------------------------------------------------------------------------------------
    def inputs_hash(self, name: str) -> str:
        """As for every method; flow and refiner also depend on the cache's format and on the share without a tumor.

        That share counts without healthy scans, too (`items.TrainingItems`). The flow also depends on a joint refiner.
        """
        made_from, refiner = super().inputs_hash(name), self.config.refiner
        if name == "vae":
            return made_from
        joint = learning_settings(refiner) if name == "flow" and refiner.joint else None
        return hash_value([made_from, FORMAT, joint, self.config.flow.healthy_share])

    def trained(self, name: str, iterations: int | None = None) -> bool:
        """As for every method; a joint refiner is trained with the flow, and one that is switched off is not needed."""
        refiner = self.config.refiner
        if name == "refiner" and (refiner.joint or not refiner.enabled):
            return self.trained("flow")
        return super().trained(name, iterations)

    def stage(self, name: str, iterations: int | None = None, initial: Path | None = None) -> Stage:
        """The training stage `name`; `initial` is a checkpoint of the same stage, for the VAE also one of MAISI."""
        torch.manual_seed(derive_seed(self.plan.seed, self.name, name))  # determines the networks' first weights
        if name == "vae":
            return vae_stage(self, self.vae, self.config.vae, iterations, initial)
        return self._flow_stage(iterations, initial) if name == "flow" else self._refiner_stage(iterations, initial)

    def _flow_stage(self, iterations: int | None, initial: Path | None) -> Stage:
        c = self.config.flow
        items, seed = self._items(), derive_seed(self.plan.seed, "flow")
        joint = self.config.refiner.enabled and self.config.refiner.joint
        if initial is not None:  # the network alone: the condition is measured on this workspace's tumors
            load_initial_weights({"net": self.net, **({"refiner": self.refiner} if joint else {})}, initial)
        self.condition.learn(known_tumors(items.latents, self.cell, np.array(self.plan.window.spacing_mm)))
        self.net.to(self.device)
        self.condition.to(self.device)
        refine = RefinerObjective(self.refiner.to(self.device), self.vae, None, self.config) if joint else None

        def item(number: int) -> dict[str, Any]:
            drawn = items.draw(np.random.default_rng([seed, number]))
            if not joint:
                del drawn["target"]  # not needed; it has many more voxels than a latent
            return drawn

        models = {**self._field(), **({"refiner": self.refiner} if joint else {})}
        objective = Objective("flow", FlowObjective(self.net, self.condition, c, refine), c.learning_rate)
        return Stage(
            name="flow",
            title="vector field",
            models=models,
            objectives=(objective,),
            item=item,
            iterations=iterations or c.iterations,
            batch=c.batch,
            ema=c.ema,
            inputs_hash=self.inputs_hash("flow"),
            preview=self._preview,
            finish=self._flow_quality,
        )

    def _refiner_stage(self, iterations: int | None, initial: Path | None) -> Stage:
        c = self.config.refiner
        items, seed = self._items(), derive_seed(self.plan.seed, "refiner")
        self.load_frozen(self._field(), "flow")
        if initial is not None:
            load_initial_weights({"refiner": self.refiner}, initial)
        self.refiner.to(self.device)

        def item(number: int) -> dict[str, Any]:
            rng = np.random.default_rng([seed, number])
            return {**items.draw(rng), "clean": np.float32(rng.random() < c.clean)}

        objective = RefinerObjective(self.refiner, self.vae, (self.net, self.condition), self.config)
        return Stage(
            name="refiner",
            title="mask refiner",
            models={"refiner": self.refiner},
            objectives=(Objective("refiner", objective, c.learning_rate),),
            item=item,
            iterations=iterations or c.iterations,
            batch=c.batch,
            ema=c.ema,
            inputs_hash=self.inputs_hash("refiner"),
            preview=self._preview,
        )

    def _items(self) -> TrainingItems:
        return training_items(self, self.vae, self.condition, self.config)

    def held_out(self, most: int) -> list[tuple[HeldOut, Box, Tensor]]:
        """Held-out tumors, each with a fixed box in latent cells, and the box as a mask (1, 1, x, y, z)."""
        return held_out_tumors(self, self.vae, self.config, most)

    def _flow_quality(self) -> dict[str, float]:
        """The velocity error on held-out tumors at fixed times and noise, for the record; no decision uses it.

        `held_out_rfm` is that of all elements, `held_out_box` and `held_out_mask` those of latents and mask in the box.
        """
        errors = [row for number, tumor in enumerate(self.held_out(16)) for row in self._errors(*tumor, number)]
        names = ("held_out_rfm", "held_out_box", "held_out_mask")
        return dict(zip(names, map(float, np.mean(errors, axis=0)), strict=True)) if errors else {}

    def tumor_losses(self, case: str) -> tuple[float, ...]:
        """The velocity error in the box of each tumor of a case, over fixed times and one noise for all tumors."""
        cases = load_cases(self.workspace, [case])
        tumors = held_out_tumors(self, self.vae, self.config, len(cases[0].record.components), cases)
        return tuple(float(np.mean(self._errors(*tumor, 0), axis=0)[1:].mean()) for tumor in tumors)

    def _errors(self, window: HeldOut, box: Box, inside: Tensor, number: int) -> list[list[float]]:
        """The velocity error of a tumor at each fixed time: of all elements, of latents and of mask in the box.

        Args:
            window: The tumor's window.
            box: Its box in latent cells.
            inside: The box as a mask (1, 1, x, y, z).
            number: Number of the noise.
        """
        c, errors = self.config.flow, []
        masks = code_labels(window.masks[: self.labels], c.mask_coding, self.cell)
        data = torch.cat([window.latent, to_flow(torch.from_numpy(masks)[None].to(self.device))], 1)
        wanted = Wanted(window.character, fill_of(window.mask, box, self.cell))
        told = torch.from_numpy(self.condition.tell(wanted))[None].to(self.device)
        condition = self.condition(window.context, inside, told)
        for t in QUALITY_TIMES:
            rng = np.random.default_rng([self.plan.seed, number, int(10 * t)])
            noise = torch.from_numpy(rng.standard_normal(data.shape, np.float32)).to(self.device)
            start = flow_start(noise, window.context, c)
            time = torch.full((1,), t, device=self.device)
            with inference_context(self.plan.precision, self.device):
                velocity = self.net(torch.cat([rectified_flow.path(start, data, time), condition], 1), time)
                squared = (velocity - (data - start)).square()
                latents, masks = (
                    part[(inside > 0).expand_as(part)] for part in squared.tensor_split([window.latent.shape[1]], 1)
                )
                errors.append([float(part.mean()) for part in (squared, latents, masks)])
        return errors

    def _preview(self, path: Path) -> None:
        """Held-out tumors: the scan, its mask, and two draws in its box, each with its mask."""
        rows, names, main = [], [], self.plan.main_channel
        for window, cells, box in self.held_out(4):
            axial, shown = largest_tumor_slice(window.mask), show_masks(window.masks[: self.labels])
            row = [window.image[0, main].float().cpu().numpy()[:, :, axial], shown[:, :, axial]]
            for seed in (1, 2):
                settings = FlowSettings(seed, self.config.sampling.steps, "euler")
                joint = self.sampler.sample(window.context, box, self.sampler.draw_tumor(cells, seed), settings)
                image, masks = self.sampler.show(joint)
                row += [image[main, :, :, axial], masks[:, :, axial]]
            rows.append(row)
            names.append(window.name)
        columns = ["scan", "mask", "drawn, seed 1", "its mask", "drawn, seed 2", "its mask"]
        save_grid_preview(path, rows, names, columns, -1, 1)

    # -- synthesis ---------------------------------------------------------------------------------------------
    def load(self) -> dict[str, str]:
        """Load the VAE, the flow and, if it is used, the refiner."""
        refiner = self.config.refiner
        hashes = {"vae": self.load_frozen({"vae": self.vae}, "vae")}
        with_flow = {**self._field(), **({"refiner": self.refiner} if refiner.enabled and refiner.joint else {})}
        hashes["flow"] = self.load_frozen(with_flow, "flow")
        if refiner.enabled and not refiner.joint:
            hashes["refiner"] = self.load_frozen({"refiner": self.refiner}, "refiner")
        return hashes

    def _draw(self, seen: Seen, settings: FlowSettings) -> Tensor:
        """Latents and mask together, see `latent.sampler.Draw`."""
        shape = (1, self.net.out_channels, *seen.latent.shape[2:])
        noise = torch.from_numpy(np.random.default_rng(settings.seed).standard_normal(shape, np.float32))
        start = flow_start(noise.to(self.device), seen.latent, self.config.flow)
        return rectified_flow.sample(seen.velocity(self.net), start, settings.steps, settings.solver)

    def synthesize(self, request: Request, seed: int, sampling: Sampling) -> Synthetic:
        """Paint a tumor; see `TumorSampler.synthesize`."""
        return self.sampler.synthesize(request, seed, sampling)
