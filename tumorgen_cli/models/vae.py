"""The 3D KL-VAE: MONAI's MAISI class with torch's GroupNorm in place of MONAI's piecewise one.

The keys of its state are those of `AutoencoderKlMaisi`, so that a MAISI checkpoint can be loaded. Latents are
standardized: per channel (z - mean) / std, with mean and std stored as buffers beside the weights. The VQGAN does the
    same.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi, MaisiGroupNorm3D, MaisiUpsample
from torch import Tensor, nn


def make_kl_vae(
    channels: int, widths: Sequence[int], latent_channels: int, res_blocks: Sequence[int]
) -> AutoencoderKlMaisi:
    """Build an `AutoencoderKlMaisi` without attention and with fast norms.

    `num_splits` is 1: larger values cut sizes without a message.

    Source: MAISI (arXiv 2409.11169).

    Args:
        channels: Channels of the image.
        widths: Widths of the levels, from the image downward. The grid is halved between levels.
        latent_channels: Channels of the latents.
        res_blocks: Residual blocks per level.
    """
    groups = min(32, *widths)
    vae = AutoencoderKlMaisi(
        spatial_dims=3,
        in_channels=channels,
        out_channels=channels,
        latent_channels=latent_channels,
        num_channels=tuple(widths),
        num_res_blocks=tuple(res_blocks),
        norm_num_groups=groups,
        attention_levels=(False,) * len(widths),
        with_encoder_nonlocal_attn=False,
        with_decoder_nonlocal_attn=False,
        num_splits=1,
        norm_float16=False,
        save_mem=False,
    )
    _replace_norms(vae)
    return vae


def _replace_norms(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, MaisiGroupNorm3D):
            plain = nn.GroupNorm(child.num_groups, child.num_channels, child.eps, child.affine)
            plain.load_state_dict(child.state_dict())
            setattr(module, name, plain)
        else:
            _replace_norms(child)


class Autoencoder(nn.Module):
    """A network that encodes images into standardized latents and decodes them.

    A latent cell is F voxels wide along each axis, the network's `downsampling`. Shapes (X/F, Y/F, Z/F) are written
    (x, y, z).

    Attributes:
        net: an `AutoencoderKlMaisi`.
        downsampling: F; with three widths it is 4, with two it is 2.
        mean: (latent_channels,) mean of the training latents; 0 until it is measured.
        std: (latent_channels,) standard deviation of the training latents; 1 until it is measured.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, widths: Sequence[int], latent_channels: int, res_blocks: Sequence[int]) -> None:
        super().__init__()
        self.net = make_kl_vae(channels, widths, latent_channels, res_blocks)
        self.downsampling = 2 ** (len(widths) - 1)
        self.register_buffer("mean", torch.zeros(latent_channels))
        self.register_buffer("std", torch.ones(latent_channels))

    @abstractmethod
    def encode(self, image: Tensor) -> Tensor:
        """Standardized latents (B, L, x, y, z) of images (B, C, X, Y, Z) in [-1, 1]."""

    @abstractmethod
    def decode(self, latent: Tensor) -> Tensor:
        """Images (B, C, X, Y, Z) of standardized latents (B, L, x, y, z)."""

    def standardize(self, latent: Tensor) -> Tensor:
        """Latents (B, L, x, y, z) of the encoder with mean 0 and standard deviation 1 per channel."""
        return (latent.float() - _per_channel(self.mean)) / _per_channel(self.std)

    def restore(self, latent: Tensor) -> Tensor:
        """The inverse of `standardize`."""
        return latent * _per_channel(self.std) + _per_channel(self.mean)


class KlVae(Autoencoder):
    """The KL-VAE.

    Source: TumorGen, section 2, overview.

    Attributes:
        feature_widths: channels of the decoder's feature maps, from the latent grid upward.
    """

    def __init__(self, channels: int, widths: Sequence[int], latent_channels: int, res_blocks: Sequence[int]) -> None:
        super().__init__(channels, widths, latent_channels, res_blocks)
        self.feature_widths = tuple(reversed(widths))

    def encode(self, image: Tensor) -> Tensor:
        """Standardized latent means (B, L, x, y, z) of images (B, C, X, Y, Z) in [-1, 1]; no noise is added."""
        return self.standardize(self.net.encode(image)[0])

    def decode(self, latent: Tensor) -> Tensor:
        """Images (B, C, X, Y, Z) of standardized latents (B, L, x, y, z)."""
        return self.decode_with_features(latent)[0]

    def decode_with_features(self, latent: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Images, and the decoder's feature maps before each upsampling and before the last norm.

        With three widths the maps have 1, 2 and 4 times the resolution of the latents.

        Source: f1, f2 and f3 of TumorGen, section 2.3.
        """
        hidden = self.net.post_quant_conv(self.restore(latent))
        features: list[Tensor] = []
        for block in cast("Iterable[nn.Module]", self.net.decoder.blocks):
            if isinstance(block, (MaisiUpsample, nn.GroupNorm)):
                features.append(hidden)
            hidden = block(hidden)
        return hidden.float(), tuple(features)

    def forward(
        self, image: Tensor, noise: Tensor, change: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction, mean and sigma of the latents for training; not standardized.

        Args:
            image: (B, C, X, Y, Z) in [-1, 1].
            noise: Standard normal noise (B, L, x, y, z) for the latents.
            change: Changes the drawn latents before they are decoded.
        """
        mean, sigma = self.net.encode(image)
        drawn = mean + sigma * noise
        picture = self.net.decode(drawn if change is None else change(drawn))
        return picture.float(), mean.float(), sigma.float()


def _per_channel(vector: Tensor) -> Tensor:
    return vector.view(1, -1, 1, 1, 1)
