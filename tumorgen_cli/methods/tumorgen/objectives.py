"""The losses of the vector field (SC-VFE) and of the mask refiner (VMR).

Shapes: latents (B, L, x, y, z), masks and boxes (B, 1, x, y, z), masks on the working grid (B, 1, X, Y, Z).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from monai.losses.dice import DiceLoss
from torch import Tensor, nn

from tumorgen_cli.methods.latent.joint import from_flow, to_flow, without_tumor
from tumorgen_cli.methods.tumorgen.condition import Condition
from tumorgen_cli.methods.tumorgen.config import FlowConfig, RefinerConfig
from tumorgen_cli.models import rectified_flow
from tumorgen_cli.models.flow_unet import FlowUNet
from tumorgen_cli.models.mask_refiner import MaskRefiner
from tumorgen_cli.models.vae import KlVae

_MOST_WEIGHT = 50.0  # of a tumor voxel's squared error against the mean over all voxels
_DICE = DiceLoss(smooth_nr=1.0, smooth_dr=1.0)  # of each mask of a batch, then their mean


class FlowObjective(nn.Module):
    """L_rfm + λ1 L_coarse + λ2 L_fine, and + λ3 L_rec if the refiner trains jointly.

    Source: TumorGen, eqs. 3 to 7.
    """

    def __init__(self, net: FlowUNet, condition: Condition, config: FlowConfig, joint: RefinerObjective | None) -> None:
        super().__init__()
        self.net, self.condition, self.config, self.joint = net, condition, config, joint

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its terms.

        Args:
            batch: `latent` (B, L, x, y, z), `mask` (B, 1, x, y, z) in [0, 1], `box` (B, 1, x, y, z), `noise`
                (B, L + 1, x, y, z), `uniform` (B,), `character` (B, 3 C), and with a joint refiner `target`
                (B, 1, X, Y, Z).
        """
        c, latent, mask, noise = self.config, batch["latent"], batch["mask"], batch["noise"]
        t = rectified_flow.draw_time(batch["uniform"], c.time_schedule)
        data = torch.cat([latent, to_flow(mask)], 1)
        x_t = rectified_flow.path(noise, data, t)
        velocity = self.net(torch.cat([x_t, self.condition(latent, batch["box"], batch["character"])], 1), t)
        terms = {"rfm": rectified_flow.velocity_loss(velocity, noise, data)}
        estimate = rectified_flow.estimate_data(x_t, velocity, t)
        latent_estimate, mask_estimate = estimate[:, :-1], estimate[:, -1:]
        loss = terms["rfm"]
        if c.coarse_weight:
            terms["coarse"] = rectified_flow.coarse_loss(latent_estimate, latent, batch["box"])
            loss = loss + c.coarse_weight * terms["coarse"]
        if c.fine_weight:
            share = from_flow(mask_estimate)
            terms["fine"] = rectified_flow.fine_loss(latent_estimate, share, latent, mask, c.ssim_window)
            loss = loss + c.fine_weight * terms["fine"]
        if self.joint is not None:
            terms["rec"] = self.joint.loss(latent_estimate, mask_estimate, batch["target"])
            loss = loss + self.joint.config.weight * terms["rec"]
        return loss, {name: value.detach() for name, value in terms.items()}


class RefinerObjective(nn.Module):
    """L_rec = ||M' - M||² on one-step estimates of the trained flow, with clean latents mixed in.

    Source: TumorGen, section 2.3, eq. 6.
    Deviation: The paper does not say how it balances tumor and background. Here the squared error is relative to the
        tumor's share of the voxels, at most 50 times the mean over all voxels, and a soft Dice term is added; without
        it small tumors vanish.
    """

    def __init__(
        self, refiner: MaskRefiner, vae: KlVae, field: tuple[FlowUNet, Condition] | None, config: RefinerConfig
    ) -> None:
        super().__init__()
        self.refiner, self.config = refiner, config
        self._frozen = (vae, field)  # the tuple keeps these networks out of this module's parameters

    def loss(self, latent: Tensor, mask: Tensor, target: Tensor) -> Tensor:
        """The loss of the refined mask.

        Args:
            latent: (B, L, x, y, z).
            mask: Coarse mask (B, 1, x, y, z) in the flow's range.
            target: True mask (B, 1, X, Y, Z) in [0, 1].
        """
        _, features = self._frozen[0].decode_with_features(latent)
        refined = torch.sigmoid(self.refiner(mask.clamp(-1, 1), features))
        weight = target.numel() / target.sum().clamp_min(1.0)  # makes the mean a squared error per tumor voxel
        squared = (refined - target).square().mean() * weight.clamp_max(_MOST_WEIGHT)
        return squared + cast("Tensor", _DICE(refined, target))

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss for a batch of `FlowObjective` with `target` (B, 1, X, Y, Z) and `clean` (B,), 0 or 1."""
        field = self._frozen[1]
        if field is None:
            raise ValueError("the refiner's own stage needs the trained flow")
        latent, mask = batch["latent"], batch["mask"]
        with torch.no_grad():
            t = self.config.least_time + (1 - self.config.least_time) * batch["uniform"]
            data = torch.cat([latent, to_flow(mask)], 1)
            x_t = rectified_flow.path(batch["noise"], data, t)
            net, condition = field
            velocity = net(torch.cat([x_t, condition(latent, batch["box"], batch["character"])], 1), t)
            estimate = rectified_flow.estimate_data(x_t, velocity, t)
            outside = (
                1 - batch["box"]
            )  # as in a synthesis, outside the box latents are the scan's and there is no tumor
            estimate = (1 - outside) * estimate + outside * without_tumor(latent)
            clean = batch["clean"].view(-1, 1, 1, 1, 1)
            estimate = clean * data + (1 - clean) * estimate
        loss = self.loss(estimate[:, :-1], estimate[:, -1:], batch["target"])
        return loss, {}
