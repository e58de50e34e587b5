"""The training items of the vector field and of the refiner: a tumor's window, a box, noise, what the field is told."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tumorgen_cli.geometry import Box, as_triple, tight_box
from tumorgen_cli.methods.base import Method
from tumorgen_cli.methods.latent.cache import HeldOut, Latents, held_out_windows, training_latents
from tumorgen_cli.methods.latent.condition import Condition, Known, Wanted
from tumorgen_cli.methods.latent.healthy import HealthyLatents, healthy_latents
from tumorgen_cli.methods.latent.joint import code_labels
from tumorgen_cli.methods.latent.settings import FlowConfig, TumorFlowConfig, box_alpha
from tumorgen_cli.models.vae import KlVae
from tumorgen_cli.preprocessing.cases import Case
from tumorgen_cli.tumors.boxes import box_mask, draw_box, latent_mask


@dataclass(frozen=True)
class TrainingItems:
    """Draws training items.

    Attributes:
        config: settings of the flow.
        alpha: α of the box offsets.
        cell: side of a latent cell in voxels.
        condition: tells the field what it draws.
        latents: the encoded training tumors.
        healthy: encoded windows of healthy scans; None if there are none.
    """

    config: FlowConfig
    alpha: float
    cell: int
    condition: Condition
    latents: Latents
    healthy: HealthyLatents | None

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """An item, with a new box, noise and time; `target` are its masks (L, X, Y, Z) on the working grid.

        In a share `healthy_share` of the items there is no tumor: in windows of healthy scans or, without such scans,
        in those from which tumors are removed, if they are. A field that is told no volume could not tell such items
        from others, and gets none.
        """
        c = self.config
        possible = c.volume and (self.healthy is not None or self.latents.contexts is not None)
        free = rng.random() < c.healthy_share and possible
        if free and self.healthy is not None:
            latent, place = self.healthy.draw(rng)
            context, box = latent, draw_box(latent_mask(place, self.cell), self.alpha, rng)
            masks = np.zeros((self.labels, *place.shape), place.dtype)
        else:
            drawn = self.latents.draw(rng)
            latent, context, masks = drawn.latent, drawn.context, drawn.masks[: self.labels]
            soft, others = latent_mask(drawn.mask, self.cell), latent_mask(drawn.others, self.cell)
            box = draw_box(soft, self.alpha, rng, others)
            if free:
                latent, masks = context, np.zeros_like(masks)
        told = None
        if rng.random() >= c.dropout:
            character = np.full(self.latents.characters.shape[-1], np.nan) if free else drawn.character
            told = Wanted(character, fill_of(masks[0], box, self.cell))
        coded = code_labels(masks, c.mask_coding, self.cell)
        return {
            "latent": latent,
            "context": context,
            "mask": coded,
            "box": box_mask(box, as_triple(latent.shape[1:]))[None],
            "noise": rng.standard_normal((len(latent) + len(coded), *latent.shape[1:]), np.float32),
            "uniform": np.float32(rng.random()),
            "target": masks.astype(np.float32),
            "told": self.condition.tell(told, known=self._known),
        }

    @property
    def labels(self) -> int:
        """The number of masks of an item: that of the tumor's sub-labels, or 1 if they are drawn as one."""
        return self.latents.labels if self.config.sublabels else 1

    @functools.cached_property
    def _known(self) -> Known | None:
        """What the condition knows, if it tells anything: read once, with the first item, when it has learned it."""
        return self.condition.known() if self.condition.values else None


def fill_of(mask: np.ndarray, box: Box, cell: int) -> float:
    """The share of a box of latent cells that a mask (X, Y, Z) on the working grid fills."""
    return float(mask.sum()) / (math.prod(box.shape) * cell**3)


def known_tumors(latents: Latents, cell: int, spacing_mm: np.ndarray) -> Known:
    """The training tumors, as copy 0 shows them.

    Args:
        latents: the encoded training tumors.
        cell: side of a latent cell in voxels.
        spacing_mm: voxel edges (3,) of the working grid.
    """
    windows = [latents.window(number, 0) for number in range(len(latents.latents))]
    boxes = [tight_box(latent_mask(window.mask, cell) > 0) for window in windows]
    extents = np.array([box.shape for box in boxes if box is not None]) * cell * spacing_mm
    volumes = np.array([float(window.mask.sum()) for window in windows]) * spacing_mm.prod()
    return Known(np.stack([window.character for window in windows]), extents, volumes)


def training_items(method: Method, vae: KlVae, condition: Condition, config: TumorFlowConfig) -> TrainingItems:
    """The training items of a method; without windows of healthy scans if no item is to be without a tumor.

    The autoencoder is loaded; missing windows are encoded.

    Args:
        method: The method.
        vae: The autoencoder of its stage `vae`.
        condition: Tells the field what it draws.
        config: Settings of the flow.
    """
    c, vae_hash = config.flow, method.load_frozen({"vae": vae}, "vae")
    latents = training_latents(method, vae, vae_hash, c.copies, c.context == "healthy")
    count = math.ceil(c.healthy_share * latents.latents.shape[0] * latents.latents.shape[1])
    healthy = healthy_latents(method, vae, vae_hash, count) if count else None
    alpha = box_alpha(config, method.plan.window)
    return TrainingItems(c, alpha, config.vae.downsampling, condition, latents, healthy)


def held_out_tumors(
    method: Method, vae: KlVae, config: TumorFlowConfig, most: int, cases: Sequence[Case] | None = None
) -> list[tuple[HeldOut, Box, Tensor]]:
    """Held-out tumors, or those of `cases`, each with a fixed box in latent cells and as a mask (1, 1, x, y, z)."""
    found = []
    for window in held_out_windows(method, vae, most, config.flow.context == "healthy", cases):
        soft = latent_mask(window.mask, config.vae.downsampling)
        rng = np.random.default_rng([method.plan.seed, 7])
        box = draw_box(soft, box_alpha(config, method.plan.window), rng)
        inside = torch.from_numpy(box_mask(box, as_triple(soft.shape)))[None, None].to(method.device)
        found.append((window, box, inside))
    return found
