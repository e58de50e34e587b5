"""SC-VFE and VMR as objectives: what the vector field and the mask refiner are trained on, and their settings.

Source: TumorGen, sections 2.2 and 2.3, eqs. 1-7. Shapes: latents (B, L, x, y, z), masks and boxes (B, 1, x, y, z).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from tumorgen_cli import flow
from tumorgen_cli.nets.flow_unet import FlowUNet
from tumorgen_cli.nets.refiner import MaskRefiner
from tumorgen_cli.nets.vae import KlVae


@dataclass(frozen=True)
class FlowConfig:
    """SC-VFE and its training.

    `bapmg` off: the fixed tight box. `coarse_weight` λ1, `fine_weight` λ2 (0 takes the constraint away).
    `box_channel`: the box as an extra input channel. `copies`: augmented windows encoded per tumor.
    """

    widths: tuple[int, ...]
    res_blocks: int
    batch: int
    iterations: int
    learning_rate: float
    ema: float
    copies: int
    time_schedule: Literal["uniform", "logit-normal"]
    bapmg: bool
    coarse_weight: float
    fine_weight: float
    ssim_window: int
    box_channel: bool


@dataclass(frozen=True)
class RefinerConfig:
    """VMR and its training. `enabled` off: the coarse mask, upsampled. `guided` off: no VAE features.

    `weight` is λ3 in the joint objective. `least_time`: estimates are made from t ~ U(least_time, 1); `clean`: the
    share of batches that see the encoder's own latents and mask.
    """

    enabled: bool
    guided: bool
    joint: bool
    width: int
    batch: int
    iterations: int
    learning_rate: float
    ema: float
    weight: float
    least_time: float
    clean: float


def to_flow(mask: Tensor) -> Tensor:
    """A mask in [0, 1] as the flow sees it: in [-1, 1] it has the spread of noise and latents; in [0, 1] it leaks from the box."""
    return mask * 2 - 1


def _to_share(mask: Tensor) -> Tensor:
    return ((mask + 1) / 2).clamp(0, 1)


def condition_on(latent: Tensor, box: Tensor, box_channel: bool) -> Tensor:
    """z^m = (1 - B) z1, with the box itself behind it where the plan says so."""
    known = (1 - box) * latent
    return torch.cat([known, box], 1) if box_channel else known


class FlowObjective(nn.Module):
    """L_rfm + λ1 L_coarse + λ2 L_fine (+ λ3 L_rec when joint), eqs. 3-7.

    Batch: latent (B, L, x, y, z), mask (B, 1, x, y, z) in [0, 1], box (B, 1, x, y, z), noise (B, L + 1, x, y, z),
    uniform (B,); joint: target (B, 1, X, Y, Z).
    """

    def __init__(self, net: FlowUNet, config: FlowConfig, joint: RefinerObjective | None) -> None:
        super().__init__()
        self.net, self.config, self.joint = net, config, joint

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        c, latent, mask, noise = self.config, batch["latent"], batch["mask"], batch["noise"]
        t = flow.draw_time(batch["uniform"], c.time_schedule)
        data = torch.cat([latent, to_flow(mask)], 1)
        x_t = flow.path(noise, data, t)
        velocity = self.net(torch.cat([x_t, condition_on(latent, batch["box"], c.box_channel)], 1), t)
        terms = {"rfm": flow.velocity_loss(velocity, noise, data)}
        estimate = flow.estimate_data(x_t, velocity, t)
        latent_estimate, mask_estimate = estimate[:, :-1], estimate[:, -1:]
        loss = terms["rfm"]
        if c.coarse_weight:
            terms["coarse"] = flow.coarse_loss(latent_estimate, latent, batch["box"])
            loss = loss + c.coarse_weight * terms["coarse"]
        if c.fine_weight:
            terms["fine"] = flow.fine_loss(latent_estimate, _to_share(mask_estimate), latent, mask, c.ssim_window)
            loss = loss + c.fine_weight * terms["fine"]
        if self.joint is not None:
            terms["rec"] = self.joint.loss(latent_estimate, mask_estimate, batch["target"])
            loss = loss + self.joint.config.weight * terms["rec"]
        return loss, {name: value.detach() for name, value in terms.items()}


class RefinerObjective(nn.Module):
    """L_rec = ||M' - M||^2 (eq. 6) on one-step estimates of the trained flow, with clean latents mixed in.

    Deviation: the paper does not say how the class imbalance is met; a soft Dice term is added, without which small
    tumors vanish.
    """

    def __init__(self, refiner: MaskRefiner, vae: KlVae, net: FlowUNet | None, config: RefinerConfig, box_channel: bool) -> None:
        super().__init__()
        self.refiner, self.config, self.box_channel = refiner, config, box_channel
        self._frozen = (vae, net)

    def loss(self, latent: Tensor, mask: Tensor, target: Tensor) -> Tensor:
        _, features = self._frozen[0].decode_with_features(latent)
        refined = torch.sigmoid(self.refiner(mask.clamp(-1, 1), features))
        overlap = (refined * target).flatten(1).sum(1)
        total = (refined + target).flatten(1).sum(1)
        weight = target.numel() / target.sum().clamp_min(1.0)  # the squared error per tumor voxel
        squared = (refined - target).square().mean() * weight.clamp_max(50.0)
        return squared + (1 - (2 * overlap + 1) / (total + 1)).mean()

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        net = self._frozen[1]
        if net is None:
            raise ValueError("the refiner's own stage needs the trained flow")
        latent, mask = batch["latent"], batch["mask"]
        with torch.no_grad():
            t = self.config.least_time + (1 - self.config.least_time) * batch["uniform"]
            data = torch.cat([latent, to_flow(mask)], 1)
            x_t = flow.path(batch["noise"], data, t)
            velocity = net(torch.cat([x_t, condition_on(latent, batch["box"], self.box_channel)], 1), t)
            estimate = flow.estimate_data(x_t, velocity, t)
            known = 1 - batch["box"]  # as in synthesis: outside the box latents are the scan's and there is no tumor
            estimate = (1 - known) * estimate + known * torch.cat([latent, -torch.ones_like(mask)], 1)
            clean = batch["clean"].view(-1, 1, 1, 1, 1)
            estimate = clean * data + (1 - clean) * estimate
        loss = self.loss(estimate[:, :-1], estimate[:, -1:], batch["target"])
        return loss, {}
