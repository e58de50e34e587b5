"""nnU-Net's plain 3D U-Net: two convolutions per level, instance normalization, leaky ReLU."""

from __future__ import annotations

from collections.abc import Sequence

from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn


def make_unet(in_channels: int, out_channels: int, widths: Sequence[int]) -> PlainConvUNet:
    """Build a U-Net (B, in_channels, X, Y, Z) -> (B, out_channels, X, Y, Z) with one level per width.

    X, Y and Z must be divisible by 2^(levels - 1).

    Source: nnU-Net's PlainConvUNet (Isensee et al. 2021).
    """
    levels = len(widths)
    net = PlainConvUNet(
        in_channels,
        levels,
        tuple(widths),
        nn.Conv3d,
        kernel_sizes=3,
        strides=(1,) + (2,) * (levels - 1),
        n_conv_per_stage=2,
        num_classes=out_channels,
        n_conv_per_stage_decoder=2,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )
    # The other heads are for deep supervision, which is off. Without a gradient they would block several processes.
    for head in net.decoder.seg_layers[:-1]:
        head.requires_grad_(False)
    return net
