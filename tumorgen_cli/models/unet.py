"""nnU-Net's plain 3D U-Net: two convolutions a level, instance norm, leaky ReLU. Any window whose sides 2^(levels - 1) divides."""

from __future__ import annotations

from collections.abc import Sequence

from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn


def make_unet(in_channels: int, out_channels: int, widths: Sequence[int]) -> PlainConvUNet:
    """(B, in_channels, X, Y, Z) -> (B, out_channels, X, Y, Z); one level per width."""
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
    for head in net.decoder.seg_layers[
        :-1
    ]:  # deep supervision's, without which they get no gradient: several processes would wait for it
        head.requires_grad_(False)
    return net
