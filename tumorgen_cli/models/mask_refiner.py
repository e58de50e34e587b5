"""The VAE-guided mask refiner (VMR): from the coarse mask on the latent grid to the mask on the working grid."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class MaskRefiner(nn.Module):
    """Refines a coarse mask with the decoder features of the VAE.

    The decoder's feature maps f1, f2, f3 pass convolutions and are added to the refiner's own features of the same
    level. The refiner has one level for each of them, so its output has the grid of the decoder's.

    Source: TumorGen, section 2.3.
    Deviation: The paper gives neither widths nor normalization. The coarse mask stays in the sum, so that the refiner
        learns its correction and an untrained one already upsamples.

    Args:
        feature_widths: Channels of the feature maps, from the latent grid upward.
        width: Channels on the finest level; each coarser level has twice as many.
        guided: Whether the decoder features are used.
        mask_channels: Channels of the coarse mask.
    """

    def __init__(self, feature_widths: Sequence[int], width: int, guided: bool = True, mask_channels: int = 1) -> None:
        super().__init__()
        self.guided = guided
        widths = [width * 2**level for level in reversed(range(len(feature_widths)))]
        self.entry = nn.Conv3d(mask_channels, widths[0], 3, padding=1)
        self.guides = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(1, f), nn.Conv3d(f, w, 3, padding=1))
            for f, w in zip(feature_widths, widths, strict=True)
            if guided
        )
        self.levels = nn.ModuleList(_block(w, w) for w in widths)
        self.narrow = nn.ModuleList(nn.Conv3d(a, b, 1) for a, b in pairwise(widths))
        self.exit = nn.Conv3d(widths[-1], 1, 3, padding=1)

    def forward(self, mask: Tensor, features: Sequence[Tensor]) -> Tensor:
        """Logits of the refined mask (B, 1, X, Y, Z).

        Args:
            mask: Channels of the coarse mask (B, K, x, y, z) in [-1, 1], see `unpack_mask`.
            features: Decoder features, each of twice the resolution of the one before, from the latent grid upward.
        """
        hidden = self.entry(mask)
        for level, block in enumerate(self.levels):
            if level:
                hidden = F.interpolate(self.narrow[level - 1](hidden), scale_factor=2, mode="nearest")
            if self.guided:
                hidden = hidden + self.guides[level](features[level])
            hidden = hidden + block(hidden)
        coarse = F.interpolate(unpack_mask(mask).float(), size=hidden.shape[2:], mode="trilinear", align_corners=False)
        out: Tensor = self.exit(hidden).float() + 4.0 * coarse
        return out


def unpack_mask(mask: Tensor) -> Tensor:
    """The channels of a mask (B, K, x, y, z) as one (B, 1, ...).

    One channel stays as it is. Eight are those of the eight parts of each cell, and give twice the latent grid.
    """
    if mask.shape[1] == 1:
        return mask
    b, _, x, y, z = mask.shape
    return mask.view(b, 2, 2, 2, x, y, z).permute(0, 4, 1, 5, 2, 6, 3).reshape(b, 1, 2 * x, 2 * y, 2 * z)


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
