"""The 3D KL-VAE: MONAI's MAISI class, with torch's GroupNorm in the place of MONAI's piecewise one.

The keys of its state are those of `AutoencoderKlMaisi`, so that a MAISI checkpoint loads key for key. Latents leave and
enter standardised: per channel (z - mean) / std, with mean and std stored beside the weights as buffers; a VQGAN's too.

Source: TumorGen, section 2 (overview): z1 = E(I), 4 channels, a quarter of the resolution; MAISI (arXiv 2409.11169).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi, MaisiGroupNorm3D, MaisiUpsample
from torch import Tensor, nn

DOWNSAMPLING = 4


def make_kl_vae(
    channels: int, widths: Sequence[int], latent_channels: int, res_blocks: Sequence[int]
) -> AutoencoderKlMaisi:
    """The bare network, `AutoencoderKlMaisi` with `num_splits=1` (more would cut sizes silently) and fast norms."""
    groups = min(32, min(widths))
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
    """What makes latents; they leave and enter standardised.

    Attributes:
        net: an `AutoencoderKlMaisi`.
        mean, std: (latent_channels,) statistics of the training latents (0 and 1 until they are measured).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, widths: Sequence[int], latent_channels: int, res_blocks: Sequence[int]) -> None:
        super().__init__()
        self.net = make_kl_vae(channels, widths, latent_channels, res_blocks)
        self.register_buffer("mean", torch.zeros(latent_channels))
        self.register_buffer("std", torch.ones(latent_channels))

    def standardised(self, latent: Tensor) -> Tensor:
        return (latent.float() - _spread(self.mean)) / _spread(self.std)

    def restored(self, latent: Tensor) -> Tensor:
        return latent * _spread(self.std) + _spread(self.mean)


class KlVae(Autoencoder):
    """The KL-VAE."""

    def __init__(self, channels: int, widths: Sequence[int], latent_channels: int, res_blocks: Sequence[int]) -> None:
        super().__init__(channels, widths, latent_channels, res_blocks)
        #: widths of the three decoder feature maps, from the latent grid upwards
        self.feature_widths = tuple(reversed(widths))

    def encode(self, image: Tensor) -> Tensor:
        """Standardised latent means (B, L, X/4, Y/4, Z/4) of images (B, C, X, Y, Z) in [-1, 1]; no encoder noise."""
        return self.standardised(self.net.encode(image)[0])

    def decode(self, latent: Tensor) -> Tensor:
        """Images (B, C, X, Y, Z) of standardised latents."""
        return self.decode_with_features(latent)[0]

    def decode_with_features(self, latent: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Images, and the decoder's feature maps before each upsampling and before its last norm.

        For three widths these are at 1, 2 and 4 times the latent grid: f1, f2, f3 of TumorGen, section 2.3.
        """
        hidden = self.net.post_quant_conv(self.restored(latent))
        features: list[Tensor] = []
        for block in self.net.decoder.blocks:
            if isinstance(block, (MaisiUpsample, nn.GroupNorm)):
                features.append(hidden)
            hidden = block(hidden)
        return hidden.float(), tuple(features)

    def forward(self, image: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction, mean and sigma (unstandardised) for training; `noise` has the latent's shape."""
        mean, sigma = self.net.encode(image)
        return self.net.decode(mean + sigma * noise).float(), mean.float(), sigma.float()


def _spread(vector: Tensor) -> Tensor:
    return vector.view(1, -1, 1, 1, 1)
