"""FreeTumor's generator: how far each voxel of the mask is changed from organ to tumor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tumorgen_cli.models.unet import make_unet


class TumorGenerator(nn.Module):
    """Paints a tumor into an image where a soft mask is.

    x̂ = (1 - M) x + M [x - tanh(G(x)) g(x)], with the U-Net G and the Gaussian blur g. The last convolution of G starts
    at zero, so that an untrained generator changes nothing.

    Source: FreeTumor, eq. 1.
    Deviation: The result is clipped to [0, 1], as it is when it is written.

    Args:
        channels: Channels of the image.
        widths: Widths of the U-Net.
        taps: Width of the blur kernel in voxels.
        sigma: Standard deviation of the blur in voxels.
        mask_channel: Whether G sees the mask beside the image.
    """

    kernel: Tensor

    def __init__(self, channels: int, widths: Sequence[int], taps: int, sigma: float, mask_channel: bool) -> None:
        super().__init__()
        self.mask_channel = mask_channel
        self.net = make_unet(channels + mask_channel, channels, widths)
        for parameter in self.net.decoder.seg_layers[-1].parameters():
            nn.init.zeros_(parameter)
        places = torch.arange(taps) - (taps - 1) / 2
        kernel = torch.exp(-0.5 * (places / sigma) ** 2)
        self.register_buffer("kernel", kernel / kernel.sum(), persistent=False)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Paint into `image` (B, C, X, Y, Z) in [0, 1] under `mask` (B, 1, X, Y, Z) in [0, 1]; returns x̂ in [0, 1]."""
        share = torch.tanh(self.net(torch.cat([image, mask], 1) if self.mask_channel else image).float())
        return (image - mask * share * self.blur(image)).clamp(0, 1)

    def blur(self, image: Tensor) -> Tensor:
        """g(x) of an image (B, C, X, Y, Z), each channel separately; outside, the nearest edge voxel is repeated."""
        half, channels = len(self.kernel) // 2, image.shape[1]
        out = F.pad(image.float(), (half,) * 6, mode="replicate")
        with torch.autocast(image.device.type, enabled=False):
            for axis in range(3):
                shape = [1, 1, 1]
                shape[axis] = -1
                out = F.conv3d(out, self.kernel.view(1, 1, *shape).expand(channels, -1, -1, -1, -1), groups=channels)
        return out
