"""Segmentation networks beside nnU-Net's own, in the form in which nnU-Net builds, trains and applies a network.

nnU-Net calls the class that its plan names with the numbers of channels and classes, the plan's own settings and
`deep_supervision`, and switches `network.decoder.deep_supervision`. None of these networks is supervised deeply.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets.swin_unetr import SwinUNETR
from monai.networks.nets.unet import UNet
from monai.networks.nets.unetr import UNETR
from torch import nn


class _PlannedSegmentor(nn.Module):
    """A network (B, C, Z, Y, X) -> (B, classes, Z, Y, X) that nnU-Net can switch as its own."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.decoder = nn.Module()  # nnU-Net sets its attribute `deep_supervision`

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits of a patch (B, C, Z, Y, X)."""
        logits: torch.Tensor = self.network(image)
        return logits


class PlannedUNet(_PlannedSegmentor):
    """MONAI's residual U-Net.

    Source: Kerfoot et al. 2019; the widths (16 to 256) and two residual units are those of MONAI's tutorials.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        widths: Sequence[int],
        deep_supervision: bool = False,  # noqa: ARG002 - nnU-Net gives it
    ) -> None:
        strides = [2] * (len(widths) - 1)
        super().__init__(UNet(3, input_channels, num_classes, widths, strides, num_res_units=2))


class PlannedUnetr(_PlannedSegmentor):
    """UNETR: a vision transformer on cells of 16 voxels, with a convolutional decoder.

    Source: Hatamizadeh et al. 2022, in MONAI's version.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        patch_size: Sequence[int],
        width: int,
        hidden: int,
        deep_supervision: bool = False,  # noqa: ARG002 - nnU-Net gives it
    ) -> None:
        super().__init__(UNETR(input_channels, num_classes, tuple(patch_size), width, hidden, 4 * hidden))


class PlannedSwinUnetr(_PlannedSegmentor):
    """Swin UNETR: windows of attention that shift from layer to layer, with a convolutional decoder.

    Source: Tang et al. 2022, in MONAI's version.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        width: int,
        deep_supervision: bool = False,  # noqa: ARG002 - nnU-Net gives it
    ) -> None:
        super().__init__(SwinUNETR(input_channels, num_classes, feature_size=width))
