"""FreeTumor's generator: how far each voxel of the mask is changed from organ to tumor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tumorgen_cli.models.unet import make_unet


class TumorGenerator(nn.Module):
    """Paints a tumor into an image where a weight is above 0.

    With the U-Net G, the Gaussian blur g and a weight W, the form "equation" is x̂ = x - W tanh(G(x)) g(x), which is
    eq. 1 where W is the mask. The form "published" is x̂ = x - W g(tanh(G(x))), as in the public code, where W is the
    mask with a blurred edge times a texture. The last convolution of G starts at zero, so that an untrained generator
    changes nothing.

    Source: FreeTumor, eq. 1, and its public code.
    Deviation: The result is clipped to [0, 1], as it is when it is written.

    Args:
        channels: Channels of the image.
        widths: Widths of the U-Net.
        taps: Width of the blur kernel in voxels.
        sigma: Standard deviation of the blur in voxels.
        mask_channel: Whether G sees the mask beside the image.
        form: See above.
    """

    kernel: Tensor

    def __init__(
        self,
        channels: int,
        widths: Sequence[int],
        taps: int,
        sigma: float,
        mask_channel: bool,
        form: Literal["published", "equation"],
    ) -> None:
        super().__init__()
        self.mask_channel, self.form = mask_channel, form
        self.net = make_unet(channels + mask_channel, channels, widths)
        for parameter in self.net.decoder.seg_layers[-1].parameters():
            nn.init.zeros_(parameter)
        places = torch.arange(taps) - (taps - 1) / 2
        kernel = torch.exp(-0.5 * (places / sigma) ** 2)
        self.register_buffer("kernel", kernel / kernel.sum(), persistent=False)

    def forward(self, image: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
        """Paint into an image.

        Args:
            image: (B, C, X, Y, Z) in [0, 1].
            mask: (B, 1, X, Y, Z) in [0, 1], which G may see.
            weight: (B, 1, X, Y, Z) in [0, 1], how much of the change is painted.

        Returns:
            x̂ (B, C, X, Y, Z) in [0, 1].
        """
        return self.shade(image, self.difference(self.inputs(image, mask)), weight)

    def inputs(self, image: Tensor, mask: Tensor) -> Tensor:
        """What G sees of an image and a mask."""
        return torch.cat([image, mask], 1) if self.mask_channel else image

    def difference(self, inputs: Tensor) -> Tensor:
        """tanh(G(x)), (B, C, X, Y, Z)."""
        return torch.tanh(self.net(inputs).float())

    def shade(self, image: Tensor, difference: Tensor, weight: Tensor) -> Tensor:
        """x̂ of an image, a difference and a weight, as `forward` has them."""
        change = self.blur(difference) if self.form == "published" else difference * self.blur(image)
        return (image - weight * change).clamp(0, 1)

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
