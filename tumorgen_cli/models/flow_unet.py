"""The vector-field network: MONAI's DiffusionModelUNet, without attention, told the time in [0, 1].

Source: TumorGen, section 2.2 ("a 3D U-Net"); widths and depth are the plan's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn

_TIME_SCALE = 1000.0  # MONAI's sinusoidal embedding is made for step numbers; unscaled, t = 0.1 and 0.9 look alike


class FlowUNet(nn.Module):
    """v(x, t): (B, in_channels, X, Y, Z), (B,) -> (B, out_channels, X, Y, Z).

    Convolutional throughout, so that any window whose sides are divisible by `multiple` works.
    """

    def __init__(self, in_channels: int, out_channels: int, widths: Sequence[int], res_blocks: int = 2) -> None:
        super().__init__()
        self.multiple = 2 ** (len(widths) - 1)
        self.net = DiffusionModelUNet(
            spatial_dims=3,
            in_channels=in_channels,
            out_channels=out_channels,
            channels=tuple(widths),
            num_res_blocks=(res_blocks,) * len(widths),
            attention_levels=(False,) * len(widths),
            num_head_channels=min(widths),
            norm_num_groups=min(32, min(widths)),
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        out: Tensor = self.net(x, timesteps=t * _TIME_SCALE)
        return out.float() if out.dtype == torch.bfloat16 else out
