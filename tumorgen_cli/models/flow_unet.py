"""The vector-field network: MONAI's DiffusionModelUNet without attention, for times in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet
from torch import Tensor, nn

_TIME_SCALE = 1000.0  # MONAI's sinusoidal embedding expects step numbers; unscaled, t = 0.1 and t = 0.9 look alike


class FlowUNet(nn.Module):
    """Velocity v(x, t): (B, in_channels, X, Y, Z), (B,) -> (B, out_channels, X, Y, Z).

    The network is fully convolutional: X, Y and Z may be any multiples of `multiple`. The result is in single
    precision.

    Source: TumorGen, section 2.2, asks for a 3D U-Net without giving widths or depth.
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
            norm_num_groups=min(32, *widths),
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Velocities at the points `x` (B, in_channels, X, Y, Z) and the times `t` (B,) in [0, 1]."""
        out: Tensor = self.net(x, timesteps=t * _TIME_SCALE)
        return out.float() if out.dtype == torch.bfloat16 else out
