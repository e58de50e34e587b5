"""The VAE-guided mask refiner (VMR): from the coarse mask on the latent grid to the mask on the working grid."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MaskRefiner(nn.Module):
    """Refines a coarse mask with the decoder features of the VAE.

    The decoder's feature maps f1, f2, f3 pass convolutions and are added to the refiner's own features of the same
    level. The refiner has one level for each of them, so its output has the grid of the decoder's.

    Source: TumorGen, section 2.3.
    Deviation: The paper gives neither widths nor normalization. The coarse mask stays in the sum, so that the refiner
        learns its correction and an untrained one already upsamples. A tumor may have several sub-labels.

    Args:
        feature_widths: Channels of the feature maps, from the latent grid upward.
        width: Channels on the finest level; each coarser level has twice as many.
        guided: Whether the decoder features are used.
        mask_channels: Channels of the coarse masks, all together.
        labels: Number of the tumor's sub-labels, L; 1 if it has one label.
    """

    def __init__(
        self,
        feature_widths: Sequence[int],
        width: int,
        guided: bool = True,
        mask_channels: int = 1,
        labels: int = 1,
    ) -> None:
        super().__init__()
        self.guided, self.labels = guided, labels
        widths = [width * 2**level for level in reversed(range(len(feature_widths)))]
        self.entry = nn.Conv3d(mask_channels, widths[0], 3, padding=1)
        self.guides = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(1, f), nn.Conv3d(f, w, 3, padding=1))
            for f, w in zip(feature_widths, widths, strict=True)
            if guided
        )
        self.levels = nn.ModuleList(_block(w, w) for w in widths)
        self.narrow = nn.ModuleList(nn.Conv3d(a, b, 1) for a, b in pairwise(widths))
        self.exit = nn.Conv3d(widths[-1], labels, 3, padding=1)

    def forward(self, mask: Tensor, features: Sequence[Tensor]) -> Tensor:
        """Logits (B, L, X, Y, Z): of the refined mask of the whole tumor, then of each sub-label against the first.

        Args:
            mask: Channels of the coarse masks (B, L K, x, y, z) in [-1, 1], see `unpack_mask`.
            features: Decoder features, each of twice the resolution of the one before, from the latent grid upward.
        """
        hidden = self.entry(mask)
        for level, block in enumerate(self.levels):
            if level:
                hidden = F.interpolate(self.narrow[level - 1](hidden), scale_factor=2, mode="nearest")
            if self.guided:
                hidden = hidden + self.guides[level](features[level])
            hidden = hidden + block(hidden)
        unpacked = unpack_mask(mask, self.labels).float()
        coarse = F.interpolate(unpacked, size=hidden.shape[2:], mode="trilinear", align_corners=False)
        if self.labels > 1:
            own = split_sublabels((coarse + 1) / 2)
            coarse = torch.cat([coarse[:, :1], own[:, 1:] - own[:, :1]], 1)
        out: Tensor = self.exit(hidden).float() + 4.0 * coarse
        return out


def unpack_mask(mask: Tensor, labels: int = 1) -> Tensor:
    """The channels of L masks (B, L K, x, y, z), those of each in turn, as one channel each (B, L, ...).

    One channel stays as it is. Eight are those of the eight parts of each cell, and give twice the latent grid.
    """
    if mask.shape[1] == labels:
        return mask
    b, _, x, y, z = mask.shape
    parts = mask.reshape(b * labels, 2, 2, 2, x, y, z).permute(0, 4, 1, 5, 2, 6, 3)
    return parts.reshape(b, labels, 2 * x, 2 * y, 2 * z)


def split_sublabels(masks: Tensor) -> Tensor:
    """The share (B, L, X, Y, Z) of each sub-label, of masks (B, L, X, Y, Z) in [0, 1].

    The masks are the whole tumor and each sub-label but the first, which is what they leave of the whole.
    """
    return torch.cat([masks[:, :1] - masks[:, 1:].sum(1, keepdim=True), masks[:, 1:]], 1)


def sublabel_chances(logits: Tensor) -> Tensor:
    """How likely each sub-label is in the tumor (B, L, X, Y, Z); they add up to 1.

    Args:
        logits: Those of a refiner (B, L, X, Y, Z).
    """
    return torch.cat([torch.zeros_like(logits[:, :1]), logits[:, 1:]], 1).softmax(1)


def _block(in_channels: int, out_channels: int) -> nn.Sequential:
    groups = min(8, in_channels)
    return nn.Sequential(
        nn.GroupNorm(groups, in_channels),
        nn.SiLU(),
        nn.Conv3d(in_channels, out_channels, 3, padding=1),
        nn.GroupNorm(groups, out_channels),
        nn.SiLU(),
        nn.Conv3d(out_channels, out_channels, 3, padding=1),
    )
