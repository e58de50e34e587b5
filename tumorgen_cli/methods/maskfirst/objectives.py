"""The losses of the mask's flow, of the tumor's flow, and of the mask refiner behind them.

Shapes: latents (B, L, x, y, z), masks (B, K, x, y, z), boxes (B, 1, x, y, z), masks on the working grid
(B, N, X, Y, Z), N as for TumorGen's. A batch is one of TumorGen's: `latent`, `context`, `mask` in [0, 1], `box`,
`noise` (B, L + K, x, y, z), `uniform` (B,), `told` (B, V), and for the refiner `target` and `clean` (B,), 0 or 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from tumorgen_cli.methods.latent.condition import Condition
from tumorgen_cli.methods.latent.joint import cell_share, of_whole, to_flow, without_tumor
from tumorgen_cli.methods.latent.refining import refined_mask_loss
from tumorgen_cli.methods.latent.sampler import flow_start
from tumorgen_cli.methods.latent.settings import FlowConfig, TumorFlowConfig
from tumorgen_cli.models import rectified_flow
from tumorgen_cli.models.flow_unet import FlowUNet
from tumorgen_cli.models.mask_refiner import MaskRefiner
from tumorgen_cli.models.vae import KlVae


class MaskObjective(nn.Module):
    """L_rfm of the mask, given the host around the box and what is told.

    Source: TumorGen, eq. 3, for the mask alone.
    """

    def __init__(self, net: FlowUNet, condition: Condition, config: FlowConfig) -> None:
        super().__init__()
        self.net, self.condition, self.config = net, condition, config

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss for a batch."""
        c, box, data = self.config, batch["box"], to_flow(batch["mask"])
        noise = batch["noise"][:, batch["latent"].shape[1] :]
        t = rectified_flow.draw_time(batch["uniform"], c.time_schedule)
        x_t = rectified_flow.path(noise, data, t)
        seen = self.condition(batch["context"], box, batch["told"])
        velocity = self.net(torch.cat([x_t, seen], 1), t)
        return rectified_flow.velocity_loss(velocity, noise, data, 1 + (c.box_weight - 1) * box), {}


class TumorObjective(nn.Module):
    """L_rfm + λ1 L_coarse + λ2 L_fine of the latents, given the mask, the host around the box and what is told.

    Source: TumorGen, eqs. 3 to 5, for the latents alone; the mask in L_fine is the given one on both sides.
    """

    def __init__(self, net: FlowUNet, condition: Condition, config: FlowConfig) -> None:
        super().__init__()
        self.net, self.condition, self.config = net, condition, config

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss for a batch, and its terms."""
        c, latent, mask, box = self.config, batch["latent"], batch["mask"], batch["box"]
        t = rectified_flow.draw_time(batch["uniform"], c.time_schedule)
        start = flow_start(batch["noise"][:, : latent.shape[1]], batch["context"], c)
        x_t = rectified_flow.path(start, latent, t)
        seen = self.condition(batch["context"], box, batch["told"])
        velocity = self.net(torch.cat([x_t, seen, to_flow(mask)], 1), t)
        estimate = rectified_flow.estimate_data(x_t, velocity, t)
        share = cell_share(of_whole(mask, c.mask_coding))
        loss = rectified_flow.velocity_loss(velocity, start, latent, 1 + (c.box_weight - 1) * box)
        terms = {"rfm": loss}
        if c.coarse_weight:
            terms["coarse"] = rectified_flow.coarse_loss(estimate, latent, box)
            loss = loss + c.coarse_weight * terms["coarse"]
        if c.fine_weight:
            whole = c.fine_over == "window"
            terms["fine"] = rectified_flow.fine_loss(estimate, share, latent, share, c.ssim_window, whole)
            loss = loss + c.fine_weight * terms["fine"]
        return loss, {name: value.detach() for name, value in terms.items()}


@dataclass(frozen=True)
class Flows:
    """The trained flows: of the mask, of the tumor given the mask, and what both see of host and box."""

    mask: FlowUNet
    tumor: FlowUNet
    condition: Condition


class MaskFirstRefinerObjective(nn.Module):
    """L_rec = ||M' - M||² on estimates of both flows, one after the other, with clean latents mixed in.

    Source: TumorGen, section 2.3, eq. 6.
    Deviation: See `latent.refining`.
    """

    def __init__(self, refiner: MaskRefiner, vae: KlVae, flows: Flows, config: TumorFlowConfig) -> None:
        super().__init__()
        self.refiner, self.config, self.flow = refiner, config.refiner, config.flow
        self._frozen = (vae, flows)  # the tuple keeps these networks out of this module's parameters

    def estimate(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The joint variable (B, L + K, x, y, z): both flows from the same time on, the tumor's given the mask's."""
        c, context, box, flows = self.config, batch["context"], batch["box"], self._frozen[1]
        latents, t = context.shape[1], c.least_time + (1 - c.least_time) * batch["uniform"]
        seen = flows.condition(context, box, batch["told"])

        def finish(net: FlowUNet, noise: Tensor, data: Tensor, given: Tensor) -> Tensor:
            def velocity(x: Tensor, t: Tensor) -> Tensor:
                return cast("Tensor", net(torch.cat([x, given], 1), t))

            return rectified_flow.finish(velocity, rectified_flow.path(noise, data, t), t, c.steps)

        mask = finish(flows.mask, batch["noise"][:, latents:], to_flow(batch["mask"]), seen)
        mask = inside_box(mask, box)
        start = flow_start(batch["noise"][:, :latents], context, self.flow)
        latent = finish(flows.tumor, start, batch["latent"], torch.cat([seen, mask], 1))
        # as in a synthesis, outside the box latents are the scan's and there is no tumor
        return box * torch.cat([latent, mask], 1) + (1 - box) * without_tumor(context, mask.shape[1])

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss for a batch."""
        with torch.no_grad():
            data = torch.cat([batch["latent"], to_flow(batch["mask"])], 1)
            clean = batch["clean"].view(-1, 1, 1, 1, 1)
            joint = clean * data + (1 - clean) * self.estimate(batch)
            latent, coarse = joint.tensor_split([batch["latent"].shape[1]], 1)
        return refined_mask_loss(
            self.refiner, self._frozen[0], latent, coarse, batch["target"], self.config.balanced
        ), {}


def inside_box(mask: Tensor, box: Tensor) -> Tensor:
    """A drawn mask (B, K, x, y, z) as the tumor's flow gets it: in [-1, 1], and without a tumor outside the box."""
    return box * mask.clamp(-1, 1) - (1 - box)
