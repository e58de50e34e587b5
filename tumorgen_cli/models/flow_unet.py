"""The vector-field network: MONAI's DiffusionModelUNet without attention, for times in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet
from torch import Tensor, nn

Prediction = Literal["velocity", "data"]
_LEAST_REST = 0.05  # of the time left, by which the predicted way to the data is divided
_TIME_SCALE = 1000.0  # MONAI's sinusoidal embedding expects step numbers; unscaled, t = 0.1 and t = 0.9 look alike


class FlowUNet(nn.Module):
    """Velocity v(x, t): (B, in_channels, X, Y, Z), (B,) -> (B, out_channels, X, Y, Z).

    The network is fully convolutional: X, Y and Z may be any multiples of `multiple`. The result is in single
    precision.

    Source: TumorGen, section 2.2, asks for a 3D U-Net without giving widths or depth. Li and He 2025 (arXiv 2511.13720)
        for the prediction of data.

    Args:
        in_channels: Channels of x; the first `out_channels` of them are x_t.
        out_channels: Channels of the velocity.
        widths: Channels of the levels.
        res_blocks: Residual blocks per level.
        predicts: `velocity`; or `data`: the network predicts x_1, and v = (x_1 - x_t) / (1 - t).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        widths: Sequence[int],
        res_blocks: int = 2,
        predicts: Prediction = "velocity",
    ) -> None:
        super().__init__()
        self.predicts, self.out_channels = predicts, out_channels
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
        out = out.float() if out.dtype == torch.bfloat16 else out
        if self.predicts == "data":
            out = (out - x[:, : self.out_channels]) / (1 - t).clamp_min(_LEAST_REST).view(-1, 1, 1, 1, 1)
        return out
