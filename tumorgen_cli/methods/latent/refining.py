"""The loss of a mask refiner, on latents and coarse masks that a method's flows have drawn.

Source: TumorGen, section 2.3, eq. 6, L_rec = ||M' - M||².
Deviation: The paper does not say how it balances tumor and background, see `refined_mask_loss`.
"""

from __future__ import annotations

from typing import cast

import torch
from monai.losses.dice import DiceLoss
from torch import Tensor

from tumorgen_cli.models.mask_refiner import MaskRefiner, split_sublabels, sublabel_chances
from tumorgen_cli.models.vae import KlVae

_MOST_WEIGHT = 50.0  # of a tumor voxel's squared error against the mean over all voxels
_DICE = DiceLoss(smooth_nr=1.0, smooth_dr=1.0)  # of each mask of a batch, then their mean


def refined_mask_loss(
    refiner: MaskRefiner, vae: KlVae, latent: Tensor, mask: Tensor, target: Tensor, balanced: bool
) -> Tensor:
    """The loss of the refined mask and, of a tumor with several sub-labels, of theirs as well.

    Sub-labels are judged inside the true tumor alone: how likely each one is there, against its own true mask. The
    whole tumor's loss is the same with and without them.

    Args:
        refiner: The refiner.
        vae: The autoencoder whose decoder's features it uses.
        latent: Latents (B, C, x, y, z).
        mask: Coarse masks (B, L K, x, y, z) in the flow's range.
        target: True masks (B, L, X, Y, Z) in [0, 1]: of the whole tumor, and of each sub-label but the first.
        balanced: Whether the squared error is relative to the tumor's share of the voxels, at most 50 times the mean
            over all voxels, with a soft Dice term; without it small tumors vanish. Otherwise the mean over all voxels.
    """
    _, features = vae.decode_with_features(latent)
    logits, whole = refiner(mask.clamp(-1, 1), features), target[:, :1]
    loss = _mask_loss(torch.sigmoid(logits[:, :1]), whole, balanced)
    if target.shape[1] == 1:
        return loss
    return loss + _mask_loss(sublabel_chances(logits) * whole, split_sublabels(target), balanced)


def _mask_loss(refined: Tensor, target: Tensor, balanced: bool) -> Tensor:
    """The loss of masks (B, L, X, Y, Z) in [0, 1]; see `refined_mask_loss`."""
    if not balanced:
        return (refined - target).square().mean()
    weight = target.numel() / target.sum().clamp_min(1.0)  # makes the mean a squared error per tumor voxel
    squared = (refined - target).square().mean() * weight.clamp_max(_MOST_WEIGHT)
    return squared + cast("Tensor", _DICE(refined, target))
