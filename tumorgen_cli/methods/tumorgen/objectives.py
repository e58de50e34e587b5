"""SC-VFE and VMR as objectives: what the vector field and the mask refiner are told and trained on, and their settings.

Source: TumorGen, sections 2.2 and 2.3, eqs. 1-7. Shapes: latents (B, L, x, y, z), masks and boxes (B, 1, x, y, z).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from tumorgen_cli.geometry import Triple
from tumorgen_cli.metrics.traits import FIELDS, KINDS, hard_limit, is_hard
from tumorgen_cli.models import rectified_flow
from tumorgen_cli.models.flow_unet import FlowUNet
from tumorgen_cli.models.mask_refiner import MaskRefiner
from tumorgen_cli.models.vae import KlVae


def normal_scores(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """`values` (..., V) as standard normal numbers by their rank among `known` (N, V), column by column; 0 where nan.

    So told, a field needs no unit, and a column of one value, or of none, tells nothing.
    """
    from scipy.special import ndtri

    out = np.zeros(values.shape, np.float32)
    for column in range(known.shape[1]):
        ladder = np.sort(known[np.isfinite(known[:, column]), column].astype(np.float64))
        steps, first, count = np.unique(ladder, return_index=True, return_counts=True)
        if len(steps) > 1:
            scores = ndtri((first + count / 2) / len(ladder))  # equal values share the middle of their ranks
            given = values[..., column].astype(np.float64)
            out[..., column] = np.where(np.isfinite(given), np.interp(np.nan_to_num(given), steps, scores), 0)
    return out


def draw_character(
    known: np.ndarray,
    extents_mm: np.ndarray,
    box_mm: Triple,
    reach_mm: Triple,
    rng: np.random.Generator,
    kind: str | None,
    channel: int,
) -> np.ndarray:
    """One of the characters `known` (N, 3 C), of tumors of `extents_mm` (N, 3): of one around which the box may have been put.

    BA-PMG adds two offsets U(0, reach) to each side; tumors are weighed by the normal density of that sum's mean and
    variance, so that a box like none of them gets the character of the nearest in size. With a `kind` only those are drawn from that are
    of it in `channel`.
    """
    left = (np.array(box_mm) - extents_mm - np.array(reach_mm)) / (np.array(reach_mm) / math.sqrt(6))
    weight = -0.5 * np.square(left).sum(1)
    if kind is not None:
        values = known[:, channel * len(FIELDS) + FIELDS.index(KINDS[kind][0])]
        weight = np.where(is_hard(kind, values, hard_limit(kind, values)), weight, -np.inf)
    likely = np.exp(weight - weight.max())
    return np.asarray(known[int(rng.choice(len(known), p=likely / likely.sum()))])


@dataclass(frozen=True)
class FlowConfig:
    """SC-VFE and its training.

    `bapmg` off: the fixed tight box. `coarse_weight` λ1, `fine_weight` λ2 (0 takes the constraint away).
    `box_channel`: the box as an extra input channel; `character`: the tumor's character as further ones, constant in the box.
    `copies`: augmented windows encoded per tumor.
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
    character: bool


@dataclass(frozen=True)
class RefinerConfig:
    """VMR and its training. `enabled` off: the coarse mask, upsampled. `guided` off: no VAE features.

    `weight` is λ3 in the joint objective. `least_time`: estimates are made from t ~ U(least_time, 1); `clean`: the
    share of items that see the encoder's own latents and mask.
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


class Condition(nn.Module):
    """What the vector field is told beside x_t: z^m = (1 - B) z1, and where the plan says so the box and, in it, a character.

    Characters are `metrics.traits.describe_traits`'s, told as `character.normal_scores` among the training tumors. These are
    buffers, saved with the field, so that one can be drawn at synthesis. `channels`: how many input channels all this takes.
    """

    ROWS = 256  # of more training tumors so many, evenly; fewer leave rows of no extent

    def __init__(self, latent_channels: int, channels: int, config: FlowConfig) -> None:
        super().__init__()
        self.box_channel = config.box_channel
        self.values = len(FIELDS) * channels if config.character else 0
        self.channels = latent_channels + config.box_channel + self.values
        if self.values:
            self.register_buffer("characters", torch.zeros(self.ROWS, self.values))
            self.register_buffer("extents_mm", torch.zeros(self.ROWS, 3))

    def learn(self, characters: np.ndarray, extents_mm: np.ndarray) -> None:
        """Takes the characters (N, 3 C) and extents (N, 3) of the training tumors, where characters are told."""
        if self.values:
            rows = np.linspace(0, len(characters), min(self.ROWS, len(characters)), endpoint=False).astype(int)
            self.characters[: len(rows)] = torch.from_numpy(characters[rows])
            self.extents_mm[: len(rows)] = torch.from_numpy(extents_mm[rows])

    def known(self) -> tuple[np.ndarray, np.ndarray]:
        """Characters (N, 3 C) and extents (N, 3) that were learnt."""
        extents = self.extents_mm.cpu().numpy()
        filled = extents.any(1)
        return self.characters.cpu().numpy()[filled], extents[filled]

    def standard(self, characters: np.ndarray) -> np.ndarray:
        """Characters (..., 3 C) as the field is told them; as they are, where it is told none."""
        return normal_scores(characters, self.known()[0]) if self.values else characters

    def draw(
        self, box_mm: Triple, reach_mm: Triple, rng: np.random.Generator, kind: str | None, channel: int
    ) -> np.ndarray | None:
        """A training tumor's character (3 C,) for a box (`character.draw_character`); None where the field is told none."""
        return draw_character(*self.known(), box_mm, reach_mm, rng, kind, channel) if self.values else None

    def forward(self, latent: Tensor, box: Tensor, character: Tensor | None) -> Tensor:
        """(B, channels, x, y, z) from latents (B, L, x, y, z), a box (B, 1, x, y, z) and characters (B, 3 C) as `standard` gives them."""
        parts = [(1 - box) * latent]
        if self.box_channel:
            parts.append(box)
        if self.values:
            if character is None:
                raise ValueError("a field that was trained with characters needs one")
            parts.append(box * character.view(*character.shape, 1, 1, 1))
        return torch.cat(parts, 1)


class FlowObjective(nn.Module):
    """L_rfm + λ1 L_coarse + λ2 L_fine (+ λ3 L_rec when joint), eqs. 3-7.

    Batch: latent (B, L, x, y, z), mask (B, 1, x, y, z) in [0, 1], box (B, 1, x, y, z), noise (B, L + 1, x, y, z),
    uniform (B,), character (B, 3 C); joint: target (B, 1, X, Y, Z).
    """

    def __init__(self, net: FlowUNet, condition: Condition, config: FlowConfig, joint: RefinerObjective | None) -> None:
        super().__init__()
        self.net, self.condition, self.config, self.joint = net, condition, config, joint

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
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
            terms["fine"] = rectified_flow.fine_loss(
                latent_estimate, _to_share(mask_estimate), latent, mask, c.ssim_window
            )
            loss = loss + c.fine_weight * terms["fine"]
        if self.joint is not None:
            terms["rec"] = self.joint.loss(latent_estimate, mask_estimate, batch["target"])
            loss = loss + self.joint.config.weight * terms["rec"]
        return loss, {name: value.detach() for name, value in terms.items()}


class RefinerObjective(nn.Module):
    """L_rec = ||M' - M||^2 (eq. 6) on one-step estimates of the trained flow, with clean latents mixed in.

    Batch: the flow's, target (B, 1, X, Y, Z), clean (B,) 0 or 1.

    Deviation: the paper does not say how the class imbalance is met; a soft Dice term is added, without which small
    tumors vanish.
    """

    def __init__(
        self, refiner: MaskRefiner, vae: KlVae, field: tuple[FlowUNet, Condition] | None, config: RefinerConfig
    ) -> None:
        super().__init__()
        self.refiner, self.config = refiner, config
        self._frozen = (vae, field)

    def loss(self, latent: Tensor, mask: Tensor, target: Tensor) -> Tensor:
        _, features = self._frozen[0].decode_with_features(latent)
        refined = torch.sigmoid(self.refiner(mask.clamp(-1, 1), features))
        overlap = (refined * target).flatten(1).sum(1)
        total = (refined + target).flatten(1).sum(1)
        weight = target.numel() / target.sum().clamp_min(1.0)  # the squared error per tumor voxel
        squared = (refined - target).square().mean() * weight.clamp_max(50.0)
        return squared + (1 - (2 * overlap + 1) / (total + 1)).mean()

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
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
            known = 1 - batch["box"]  # as in synthesis: outside the box latents are the scan's and there is no tumor
            estimate = (1 - known) * estimate + known * torch.cat([latent, -torch.ones_like(mask)], 1)
            clean = batch["clean"].view(-1, 1, 1, 1, 1)
            estimate = clean * data + (1 - clean) * estimate
        loss = self.loss(estimate[:, :-1], estimate[:, -1:], batch["target"])
        return loss, {}
