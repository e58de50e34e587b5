"""FreeTumor's generator: how far each voxel of the mask goes from organ to tumor.

Source: FreeTumor, eq. 1. Deviation: what it paints is clipped to the unit range, as it is when written.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tumorgen_cli.models.unet import make_unet


class TumorGenerator(nn.Module):
    """x^ = (1 - M) x + M [x - tanh(G(x)) g(x)]: (B, C, X, Y, Z) in [0, 1], soft mask (B, 1, X, Y, Z) in [0, 1] -> x^ in [0, 1].

    G is a U-Net, g a Gaussian of `taps` voxels. Its last convolution starts at zero: an untrained generator changes nothing.
    With `mask_channel` G sees the mask beside the image.
    """

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
        share = torch.tanh(self.net(torch.cat([image, mask], 1) if self.mask_channel else image).float())
        return (image - mask * share * self.blur(image)).clamp(0, 1)

    def blur(self, image: Tensor) -> Tensor:
        """g(x), each channel on its own; beyond the edge the nearest voxel continues."""
        kernel: Tensor = self.kernel  # type: ignore[assignment]
        half, channels = len(kernel) // 2, image.shape[1]
        out = F.pad(image.float(), (half,) * 6, mode="replicate")
        with torch.autocast(image.device.type, enabled=False):
            for axis in range(3):
                shape = [1, 1, 1]
                shape[axis] = -1
                out = F.conv3d(out, kernel.view(1, 1, *shape).expand(channels, -1, -1, -1, -1), groups=channels)
        return out
