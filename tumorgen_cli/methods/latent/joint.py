"""The joint variable of a flow: latents and mask of a tumor, as channels of one tensor.

Source: x = [z, m] of TumorGen, section 2.2.
Deviation: The mask lies in [-1, 1], where it has the spread of noise and latents. With values in [0, 1] masks leak from
    the box. It may have several channels (`MaskCoding`).

A tumor with L sub-labels, such as edema and core, has L masks: the whole tumor first, then each sub-label but the
first, which is what the others leave of the whole. One label has one mask, the paper's. The whole has channels of its
own, so that the losses that know one mask (eqs. 5 and 6) are of the same mask for every L, and a voxel with a wrong
sub-label costs the outline nothing. If each sub-label had a mask and the whole were their union, the outline would
bear the errors of L masks. A mask of the first sub-label would say again what the others say.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tumorgen_cli.models.mask_refiner import unpack_mask
from tumorgen_cli.tumors.boxes import latent_mask

#: how a mask becomes channels on the latent grid. `mean`: one, the share of each cell (the paper's); `packed`: eight,
#: the shares of the eight parts of a cell that is halved along each axis
MaskCoding = Literal["mean", "packed"]


def mask_channels(coding: MaskCoding, labels: int = 1) -> int:
    """The number of channels of the masks of a tumor with so many sub-labels."""
    return labels * (8 if coding == "packed" else 1)


def code_mask(mask: np.ndarray, coding: MaskCoding, cell: int) -> np.ndarray:
    """A mask (X, Y, Z) in {0, 1} as channels (K, x, y, z) in [0, 1], float32; `cell`: voxels of a cell's side."""
    if coding == "packed":
        x, y, z = (n // cell for n in mask.shape)
        halves = latent_mask(mask, cell // 2).reshape(x, 2, y, 2, z, 2)
        return np.ascontiguousarray(halves.transpose(1, 3, 5, 0, 2, 4).reshape(8, x, y, z))
    return latent_mask(mask, cell)[None]


def code_labels(masks: np.ndarray, coding: MaskCoding, cell: int) -> np.ndarray:
    """The masks (L, X, Y, Z) of a tumor as channels (L K, x, y, z): those of each mask (`code_mask`) in turn."""
    return np.concatenate([code_mask(mask, coding, cell) for mask in masks])


def of_whole(masks: Tensor, coding: MaskCoding) -> Tensor:
    """The channels (B, K, x, y, z) of the whole tumor, of those of all masks (B, L K, x, y, z)."""
    return masks[:, : mask_channels(coding)]


def show_masks(masks: np.ndarray) -> np.ndarray:
    """The masks (L, X, Y, Z) of a tumor as a picture (X, Y, Z) in [-1, 1], in which sub-labels are shades of gray."""
    shades = np.array([1, *range(1, len(masks))]) / len(masks)  # the first is the darkest
    return np.asarray(np.tensordot(shades, masks, 1) * 2 - 1)


def to_flow(mask: Tensor) -> Tensor:
    """A mask in [0, 1] in the flow's range [-1, 1]."""
    return mask * 2 - 1


def from_flow(mask: Tensor) -> Tensor:
    """A mask in the flow's range as a share in [0, 1]; clipped."""
    return ((mask + 1) / 2).clamp(0, 1)


def cell_share(mask: Tensor) -> Tensor:
    """The share (B, 1, x, y, z) of each cell, of a mask's channels (B, K, x, y, z) in [0, 1]."""
    return mask.mean(1, keepdim=True)


def without_tumor(latent: Tensor, channels: int = 1) -> Tensor:
    """The joint variable (B, L + channels, x, y, z) of latents (B, L, x, y, z) with an empty mask."""
    empty = -torch.ones_like(latent[:, :1]).expand(-1, channels, -1, -1, -1)
    return torch.cat([latent, empty], 1)


def upsample_mask(mask: Tensor, cell: int, labels: int = 1) -> Tensor:
    """Coarse masks (B, L K, x, y, z) in [-1, 1] on the working grid (B, L, ...), in [0, 1]: those without a refiner."""
    size = [cell * n for n in mask.shape[2:]]
    return from_flow(F.interpolate(unpack_mask(mask, labels), size=size, mode="trilinear"))
