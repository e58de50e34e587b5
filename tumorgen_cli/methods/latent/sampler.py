"""From a box to a painted tumor: latents and mask are drawn in the box, decoded, and painted with their surroundings.

How they are drawn is the method's own (`Networks.draw`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from tumorgen_cli.geometry import Box, as_triple, tight_box, widened
from tumorgen_cli.methods.base import Method, Request, Sampling, Synthetic
from tumorgen_cli.methods.latent.canvas import (
    Canvas,
    closeness,
    open_canvas,
    paint,
    place_sublabels,
    roughen_mask,
)
from tumorgen_cli.methods.latent.condition import Condition, Wanted
from tumorgen_cli.methods.latent.joint import mask_channels, show_masks, upsample_mask, without_tumor
from tumorgen_cli.methods.latent.quality import inference_context
from tumorgen_cli.methods.latent.settings import FlowConfig, TumorFlowConfig, box_alpha, drawn_labels
from tumorgen_cli.metrics.traits import FIELDS
from tumorgen_cli.models import rectified_flow
from tumorgen_cli.models.flow_unet import FlowUNet
from tumorgen_cli.models.mask_refiner import MaskRefiner, split_sublabels, sublabel_chances
from tumorgen_cli.models.vae import KlVae
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.preprocessing.sublabels import read_sublabel_rule
from tumorgen_cli.tumors.masks import largest_part


@dataclass(frozen=True)
class FlowSettings:
    """Settings of one draw of a flow: the seed of its noise, the number of steps, the solver."""

    seed: int
    steps: int
    solver: rectified_flow.Solver


@dataclass(frozen=True)
class Seen:
    """What flows see beside x_t, for one draw.

    Attributes:
        latent: (1, L, x, y, z) of the scan.
        box: (1, 1, x, y, z), 1 inside.
        inputs: (1, D, x, y, z) from `Condition`; with guidance (2, D, x, y, z), the second without what is told.
        guidance: factor of what this changes in the velocity; without a second input it is ignored.
    """

    latent: Tensor
    box: Tensor
    inputs: Tensor
    guidance: float

    def velocity(self, net: FlowUNet, *more: Tensor) -> rectified_flow.Velocity:
        """The velocity of one x_t (1, ...); the field's input ends with `more` (1, K, x, y, z)."""
        rows = len(self.inputs)
        inputs = torch.cat([self.inputs, *(each.expand(rows, -1, -1, -1, -1) for each in more)], 1)

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            found = net(torch.cat([x.expand(rows, -1, -1, -1, -1), inputs], 1), t.expand(rows)).float()
            return found if rows == 1 else torch.lerp(found[1:], found[:1], self.guidance)

        return velocity


#: draws the joint variable (1, L + K, x, y, z); what it has outside the box is not used
Draw = Callable[[Seen, FlowSettings], Tensor]


@dataclass(frozen=True)
class Networks:
    """The trained networks of a method; its flows are in `draw`."""

    vae: KlVae
    draw: Draw
    condition: Condition
    refiner: MaskRefiner


def flow_start(noise: Tensor, context: Tensor, config: FlowConfig) -> Tensor:
    """x_0 of the flow: noise (B, L + K, x, y, z), and with `start` = `healthy` the context's latents added to it."""
    if config.start == "noise":
        return noise
    latents = context.shape[1]
    return torch.cat([noise[:, :latents] + context, noise[:, latents:]], 1)


class TumorSampler:
    """Draws tumors with the trained networks.

    Attributes:
        config: Settings of the networks and of the synthesis.
        plan: The plan.
        device: Where the networks are.
        networks: The networks.
        single: Whether a tumor gets one sub-label, that of most of its voxels.
        labels: The voxel values that its masks tell apart.
    """

    def __init__(self, config: TumorFlowConfig, plan: Plan, device: str, networks: Networks, single: bool) -> None:
        self.config, self.plan, self.device, self.networks, self.single = config, plan, device, networks, single
        self.labels = drawn_labels(config.flow, plan)

    def synthesize(self, request: Request, seed: int, sampling: Sampling) -> Synthetic:
        """Draw a tumor for a request: sample, decode the box with its halo, refine the mask, paint."""
        c = self.config.sampling
        canvas = open_canvas(self.networks.vae, request, self.plan, c.halo, self.device)
        solver = cast("rectified_flow.Solver", sampling.solver or c.solver)  # the command line checks the name
        settings = FlowSettings(seed, sampling.steps or c.steps, solver)
        wanted = self.draw_tumor(canvas.latent_box, seed, sampling.kind)
        joint = self.sample(canvas.latent, canvas.box, wanted, settings)
        picture, refined, sublabels = self.decode(joint[canvas.cells])
        if self.config.flow.context == "healthy":  # a box of such a field holds one tumor
            refined = largest_part(refined)
        image, mask = self.paint(canvas, picture, refined, seed)
        drawn = {"steps": settings.steps, "solver": settings.solver, **self._record(wanted)}
        if sublabels is not None:
            sublabels = place_sublabels(canvas, sublabels, mask, self.single)
        made = Synthetic(image, mask, drawn, sublabels=sublabels)
        if not c.keep_cells:
            return made
        share = closeness(mask, request.spacing_mm, c.keep_cells * self.cell_mm)
        # with a texture, the host's detail finer than the working grid stays, too
        kept = 1 - share if c.texture == "none" else np.ones_like(mask)
        return replace(made, image=request.image + share * (image - request.image), kept=kept)

    @property
    def cell_mm(self) -> float:
        """The edge of a cube as large as a latent cell."""
        return self.config.vae.downsampling * math.prod(self.plan.window.spacing_mm) ** (1 / 3)

    def draw_tumor(self, box: Box, seed: int, kind: str | None = None) -> Wanted | None:
        """A tumor to draw in a box of latent cells; None if the field is told nothing."""
        cell = self.config.vae.downsampling * np.array(self.plan.window.spacing_mm)
        reach = np.maximum(box_alpha(self.config, self.plan.window) * np.array(self.plan.window.extent_mm), cell)
        rng = np.random.default_rng([seed, 2])
        return self.networks.condition.draw(
            as_triple(box.shape * cell), as_triple(reach), rng, kind, self.plan.main_channel
        )

    def sample(self, latent: Tensor, box: Tensor, wanted: Wanted | None, settings: FlowSettings) -> Tensor:
        """Draw the joint variable x̂_1 inside the box; outside are the scan's own latents and no tumor.

        Args:
            latent: (1, L, x, y, z) of the scan.
            box: (1, 1, x, y, z), 1 inside.
            wanted: What the field is told; None for nothing.
            settings: Seed, steps and solver.

        Returns:
            (1, L + K, x, y, z), the mask's channels last, in the flow's range.
        """
        condition, c = self.networks.condition, self.config.sampling
        joint = without_tumor(latent, mask_channels(self.config.flow.mask_coding, len(self.labels)))
        seen = (slice(None), slice(None), *self._seen(box).slices)
        near, inside = latent[seen], box[seen]
        told = [condition.tell(wanted, c.emphasis)]
        if c.guidance != 1 and condition.flag:
            told.append(condition.tell(None))
        inputs = torch.cat([condition(near, inside, torch.from_numpy(t)[None].to(self.device)) for t in told])
        with inference_context(self.plan.precision, self.device):
            drawn = self.networks.draw(Seen(near, inside, inputs, c.guidance), settings)
        joint[seen] = inside * drawn + (1 - inside) * joint[seen]
        return joint

    def _seen(self, box: Tensor) -> Box:
        """The cells around a box (1, 1, x, y, z) that the flow sees; its sides are multiples, as the network needs."""
        window, margin = as_triple(box.shape[2:]), self.config.sampling.context_cells
        cells = tight_box(box[0, 0].cpu().numpy() > 0)
        if cells is None or not margin:
            return Box((0, 0, 0), window)
        return widened(cells.grown(margin, window), 2 ** (len(self.config.flow.widths) - 1), window)

    def decode(self, joint: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Decode a joint variable (1, L + K, x, y, z).

        Returns:
            The scaled image (C, X, Y, Z), the mask of the whole tumor (X, Y, Z) in [0, 1], and the voxel value of the
            likeliest sub-label at each voxel (X, Y, Z), None if masks tell none apart.
        """
        latent, mask = joint.tensor_split([self.config.vae.latent_channels], 1)
        several = len(self.labels) > 1
        with inference_context(self.plan.precision, self.device):
            image, features = self.networks.vae.decode_with_features(latent)
            if self.config.refiner.enabled:
                logits = self.networks.refiner(mask.clamp(-1, 1), features)
                refined = torch.sigmoid(logits[:, :1])
                scores = sublabel_chances(logits) if several else None
            else:
                masks = upsample_mask(mask, self.config.vae.downsampling, len(self.labels))
                refined, scores = masks[:, :1], split_sublabels(masks) if several else None
        sublabels = None
        if scores is not None:
            values = np.array(self.labels, np.min_scalar_type(max(self.labels)))
            sublabels = values[scores[0].argmax(0).cpu().numpy()]
        return image[0].float().cpu().numpy(), refined[0, 0].float().cpu().numpy(), sublabels

    def show(self, joint: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """The scaled image (C, X, Y, Z) of a joint variable, and its masks as a picture (`joint.show_masks`)."""
        image, refined, sublabels = self.decode(joint)
        others = () if sublabels is None else (refined * (sublabels == value) for value in self.labels[1:])
        return image, show_masks(np.stack([refined, *others]))

    def paint(
        self, canvas: Canvas, picture: np.ndarray, refined: np.ndarray, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Put a decoded box into the window, with the noise that the decoder loses.

        Args:
            canvas: The encoded window.
            picture: The decoded region (C, X, Y, Z) in [-1, 1].
            refined: Its mask (X, Y, Z) in [0, 1].
            seed: Seed of the request.

        Returns:
            The window (C, X, Y, Z) in the scan's units, and the mask (X, Y, Z).
        """
        c = self.config.sampling
        if c.roughness and self.config.refiner.enabled:  # a coarse mask is not a probability
            refined = roughen_mask(canvas, refined, c.roughness, c.roughness_cells * self.cell_mm, seed)
        return paint(canvas, self.networks.vae, self.plan, picture, refined, c.texture, seed)

    def _record(self, wanted: Wanted | None) -> dict[str, Any]:
        """What the field was told, for the provenance record: traits by channel, None for NaN; the share of the box."""
        if wanted is None:
            return {}
        rows = zip(self.plan.channels, wanted.character.reshape(-1, len(FIELDS)).tolist(), strict=False)
        character = {
            channel.name: {f: round(v, 4) if math.isfinite(v) else None for f, v in zip(FIELDS, row, strict=True)}
            for channel, row in rows
        }
        return {"character": character, "fill": round(wanted.fill, 4)}


def open_sampler(method: Method, config: TumorFlowConfig, networks: Networks) -> TumorSampler:
    """The sampler of a method, whose tumors get one sub-label each if those of the data have one each."""
    single = len(drawn_labels(config.flow, method.plan)) > 1 and read_sublabel_rule(method.workspace).whole
    return TumorSampler(config, method.plan, method.device, networks, single)
