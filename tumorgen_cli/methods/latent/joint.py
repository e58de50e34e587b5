"""The joint variable of a flow: latents and mask of a tumor, as channels of one tensor.

Source: x = [z, m] of TumorGen, section 2.2.
Deviation: The mask lies in [-1, 1], where it has the spread of noise and latents. With values in [0, 1] masks leak from
    the box.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def to_flow(mask: Tensor) -> Tensor:
    """A mask in [0, 1] in the flow's range [-1, 1]."""
    return mask * 2 - 1


def from_flow(mask: Tensor) -> Tensor:
    """A mask in the flow's range as a share in [0, 1]; clipped."""
    return ((mask + 1) / 2).clamp(0, 1)


def without_tumor(latent: Tensor) -> Tensor:
    """The joint variable (B, L + 1, x, y, z) of latents (B, L, x, y, z) with an empty mask."""
    return torch.cat([latent, -torch.ones_like(latent[:, :1])], 1)


def upsample_mask(mask: Tensor, downsampling: int) -> Tensor:
    """A coarse mask (B, 1, x, y, z) in [-1, 1] on the working grid, in [0, 1]: the mask without a refiner."""
    return from_flow(F.interpolate(mask, scale_factor=downsampling, mode="trilinear"))
