"""The VAE-guided mask refiner (VMR): from the coarse mask on the latent grid to the mask on the working grid.

Source: TumorGen, section 2.3, eq. 6: decoder features f1, f2, f3 pass convolutions and are added to the refiner's own
features at the same level. Widths and normalisation are not given in the paper; they are the plan's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class MaskRefiner(nn.Module):
    """(mask (B, 1, x, y, z) in [-1, 1], features at 1x, 2x, 4x) -> mask logits (B, 1, 4x, 4y, 4z)."""

    def __init__(self, feature_widths: Sequence[int], width: int, guided: bool = True) -> None:
        super().__init__()
        self.guided = guided
        widths = [width * f for f in (4, 2, 1)[-len(feature_widths) :]]
        self.entry = nn.Conv3d(1, widths[0], 3, padding=1)
        self.guides = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(1, f), nn.Conv3d(f, w, 3, padding=1))
            for f, w in zip(feature_widths, widths, strict=True)
            if guided
        )
        self.levels = nn.ModuleList(_block(w, w) for w in widths)
        self.narrow = nn.ModuleList(nn.Conv3d(a, b, 1) for a, b in zip(widths, widths[1:], strict=False))
        self.exit = nn.Conv3d(widths[-1], 1, 3, padding=1)

    def forward(self, mask: Tensor, features: Sequence[Tensor]) -> Tensor:
        hidden = self.entry(mask)
        for level, block in enumerate(self.levels):
            if level:
                hidden = F.interpolate(self.narrow[level - 1](hidden), scale_factor=2, mode="nearest")
            if self.guided:
                hidden = hidden + self.guides[level](features[level])
            hidden = hidden + block(hidden)
        # The coarse mask stays in the sum: the refiner learns its correction, and an untrained one already upsamples.
        coarse = F.interpolate(mask.float(), size=hidden.shape[2:], mode="trilinear", align_corners=False)
        return self.exit(hidden).float() + 4.0 * coarse


def _block(inside: int, outside: int) -> nn.Sequential:
    groups = min(8, inside)
    return nn.Sequential(
        nn.GroupNorm(groups, inside),
        nn.SiLU(),
        nn.Conv3d(inside, outside, 3, padding=1),
        nn.GroupNorm(groups, outside),
        nn.SiLU(),
        nn.Conv3d(outside, outside, 3, padding=1),
    )
