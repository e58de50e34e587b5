"""The losses of the vector field (SC-VFE) and of the mask refiner (VMR).

Shapes: latents (B, L, x, y, z), masks (B, K, x, y, z), boxes (B, 1, x, y, z), masks on the working grid
(B, N, X, Y, Z). N is 1, or the number of sub-labels that are drawn; K are the channels of all N masks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from tumorgen_cli.methods.latent.condition import Condition
from tumorgen_cli.methods.latent.joint import (
    cell_share,
    from_flow,
    mask_channels,
    of_whole,
    to_flow,
    without_tumor,
)
from tumorgen_cli.methods.latent.refining import refined_mask_loss
from tumorgen_cli.methods.latent.sampler import flow_start
from tumorgen_cli.methods.latent.settings import FlowConfig, TumorFlowConfig
from tumorgen_cli.models import rectified_flow
from tumorgen_cli.models.flow_unet import FlowUNet
from tumorgen_cli.models.mask_refiner import MaskRefiner
from tumorgen_cli.models.vae import KlVae


class FlowObjective(nn.Module):
    """L_rfm + λ1 L_coarse + λ2 L_fine, and + λ3 L_rec if the refiner trains jointly.

    Source: TumorGen, eqs. 3 to 7.
    Deviation: L_rfm weighs the box and the mask's channels by `box_weight` and `mask_weight`. L_rec is that of one
        item of the batch, which has the same mean. Of a tumor with several sub-labels, L_fine is of the whole.
    """

    def __init__(self, net: FlowUNet, condition: Condition, config: FlowConfig, joint: RefinerObjective | None) -> None:
        super().__init__()
        self.net, self.condition, self.config, self.joint = net, condition, config, joint

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its terms.

        Args:
            batch: `latent` and `context` (B, L, x, y, z), `mask` (B, K, x, y, z) in [0, 1], `box` (B, 1, x, y, z),
                `noise` (B, L + K, x, y, z), `uniform` (B,), `told` (B, V), and with a joint refiner `target`
                (B, N, X, Y, Z).
        """
        c, latent, mask = self.config, batch["latent"], batch["mask"]
        t = rectified_flow.draw_time(batch["uniform"], c.time_schedule)
        data = torch.cat([latent, to_flow(mask)], 1)
        start = flow_start(batch["noise"], batch["context"], c)
        x_t = rectified_flow.path(start, data, t)
        condition = self.condition(batch["context"], batch["box"], batch["told"])
        velocity = self.net(torch.cat([x_t, condition], 1), t)
        of_latents, of_mask = latent.shape[1], mask_channels(c.mask_coding)
        weight = velocity_weight(batch["box"], (of_latents, of_mask, mask.shape[1] - of_mask), c)
        terms = {"rfm": rectified_flow.velocity_loss(velocity, start, data, weight)}
        estimate = rectified_flow.estimate_data(x_t, velocity, t)
        latent_estimate, mask_estimate = estimate.tensor_split([latent.shape[1]], 1)
        loss = terms["rfm"]
        if c.coarse_weight:
            terms["coarse"] = rectified_flow.coarse_loss(latent_estimate, latent, batch["box"])
            loss = loss + c.coarse_weight * terms["coarse"]
        if c.fine_weight:
            share, true = cell_share(of_whole(from_flow(mask_estimate), c.mask_coding)), of_whole(mask, c.mask_coding)
            over_window = c.fine_over == "window"
            terms["fine"] = rectified_flow.fine_loss(
                latent_estimate, share, latent, cell_share(true), c.ssim_window, over_window
            )
            loss = loss + c.fine_weight * terms["fine"]
        if self.joint is not None:
            terms["rec"] = self.joint.loss(latent_estimate[:1], mask_estimate[:1], batch["target"][:1])
            loss = loss + self.joint.config.weight * terms["rec"]
        return loss, {name: value.detach() for name, value in terms.items()}


def velocity_weight(box: Tensor, channels: tuple[int, int, int], config: FlowConfig) -> Tensor | None:
    """Weights (B, L + K, x, y, z) of L_rfm for a box (B, 1, x, y, z); None if all are equal, as in the paper.

    The channels of the whole tumor's mask have together the weight of `mask_weight` latent channels, and those of all
    sub-labels together as much again: more sub-labels take nothing more from latents and outline.

    Args:
        box: The box.
        channels: Numbers of channels: of the latents, of the whole tumor's mask, of the masks of sub-labels.
        config: The weights.
    """
    latents, whole, sublabels = channels
    if config.box_weight == 1 and config.mask_weight == whole == 1 and not sublabels:
        return None
    cells = 1 + (config.box_weight - 1) * box
    parts = [cells.expand(-1, latents, -1, -1, -1)]
    parts += [cells.expand(-1, n, -1, -1, -1) * config.mask_weight / n for n in (whole, sublabels) if n]
    return torch.cat(parts, 1)


class RefinerObjective(nn.Module):
    """L_rec = ||M' - M||² on estimates of the trained flow, with clean latents mixed in.

    Source: TumorGen, section 2.3, eq. 6.
    Deviation: See `latent.refining`. Estimates may take more than one step of the flow.
    """

    def __init__(
        self, refiner: MaskRefiner, vae: KlVae, field: tuple[FlowUNet, Condition] | None, config: TumorFlowConfig
    ) -> None:
        super().__init__()
        self.refiner, self.config, self.flow = refiner, config.refiner, config.flow
        self._frozen = (vae, field)  # the tuple keeps these networks out of this module's parameters

    def loss(self, latent: Tensor, mask: Tensor, target: Tensor) -> Tensor:
        """The loss of the refined mask.

        Args:
            latent: (B, L, x, y, z).
            mask: Coarse masks (B, K, x, y, z) in the flow's range.
            target: True masks (B, N, X, Y, Z) in [0, 1].
        """
        return refined_mask_loss(self.refiner, self._frozen[0], latent, mask, target, self.config.balanced)

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss for a batch of `FlowObjective` with `target` (B, N, X, Y, Z) and `clean` (B,), 0 or 1."""
        field = self._frozen[1]
        if field is None:
            raise ValueError("the refiner's own stage needs the trained flow")
        net, conditions = field
        context, mask, box, steps = batch["context"], batch["mask"], batch["box"], self.config.steps
        with torch.no_grad():
            t = self.config.least_time + (1 - self.config.least_time) * batch["uniform"]
            data = torch.cat([batch["latent"], to_flow(mask)], 1)
            x = rectified_flow.path(flow_start(batch["noise"], context, self.flow), data, t)
            condition = conditions(context, box, batch["told"])

            def velocity(x: Tensor, t: Tensor) -> Tensor:
                return cast("Tensor", net(torch.cat([x, condition], 1), t))

            x = rectified_flow.finish(velocity, x, t, steps)
            # as in a synthesis, outside the box latents are the scan's and there is no tumor
            x = box * x + (1 - box) * without_tumor(context, mask.shape[1])
            clean = batch["clean"].view(-1, 1, 1, 1, 1)
            latent, coarse = (clean * data + (1 - clean) * x).tensor_split([context.shape[1]], 1)
        return self.loss(latent, coarse, batch["target"]), {}
