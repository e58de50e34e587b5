"""The 3D VQGAN: the VAE's encoder and decoder around a codebook, and its discriminators.

Source: DiffTumor, section 3.1 (after Esser et al. 2021, in 3D). Deviations: blocks are MAISI's, as in the KL-VAE beside it;
the codebook follows its codes' means (an exponential moving average, as in VQ-VAE-2) and unused codes start again from the
batch, where the paper's equation has a codebook loss; latents are standardised by channel, as the KL-VAE's, where the published code
brings them to [-1, 1] by the smallest and largest number in the codebook: of PET, whose tails are long, that leaves a
standard deviation of 0.02 to 0.1, which a network that looks for noise learns to overlook.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets import PatchDiscriminator
from torch import Tensor, nn

from tumorgen_cli.models.vae import Autoencoder

_DECAY = 0.99
_DEAD = 0.05  # of an even share of the vectors: a code used less starts again
_CHUNK = 4096  # vectors compared with the codebook at once


class Codebook(nn.Module):
    """K codes of C channels; replaces each vector by the nearest. Learns while in training mode.

    With several processes unused codes start again from the first one's vectors: the codebook is one, but not that of a single process.
    """

    codes: Tensor
    used: Tensor
    total: Tensor

    def __init__(self, codes: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("codes", torch.zeros(codes, channels))
        self.register_buffer("used", torch.zeros(codes))  # mean share of a step's vectors
        self.register_buffer("total", torch.zeros(codes, channels))  # mean sum of them, over all of the step's

    def forward(self, latent: Tensor) -> Tensor:
        """(B, C, X, Y, Z) -> the nearest codes, same shape, without a gradient."""
        with torch.no_grad(), torch.autocast(latent.device.type, enabled=False):
            vectors = latent.movedim(1, -1).float()
            flat = vectors.reshape(-1, vectors.shape[-1])
            index = self._nearest(flat)
            found = self.codes[index].view_as(vectors).movedim(-1, 1)
            if self.training:
                self._learn(flat, index)
            return found

    def _nearest(self, flat: Tensor) -> Tensor:
        length = self.codes.square().sum(1)
        return torch.cat([torch.addmm(length, part, self.codes.t(), alpha=-2).argmin(1) for part in flat.split(_CHUNK)])

    def _learn(self, flat: Tensor, index: Tensor) -> None:
        count = torch.zeros_like(self.used).index_add_(0, index, torch.ones_like(flat[:, 0]))
        sums = torch.zeros_like(self.total).index_add_(0, index, flat)
        fresh = flat[(torch.arange(len(self.codes), device=flat.device) * 7919) % len(flat)]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(count)
            torch.distributed.all_reduce(sums)
            torch.distributed.broadcast(fresh, 0)
        vectors, share = count.sum(), 1 / len(self.codes)
        self.used.lerp_(count / vectors, 1 - _DECAY)
        self.total.lerp_(sums / vectors, 1 - _DECAY)
        dead = self.used < _DEAD * share
        self.used[dead] = share
        self.total[dead] = fresh[dead] * share
        self.codes.copy_(self.total / self.used.unsqueeze(1))


class VqGan(Autoencoder):
    """Encoder, codebook, decoder. Latents leave and enter before quantisation: `decode` quantises (as latent diffusion does)."""

    def __init__(
        self, channels: int, widths: Sequence[int], latent_channels: int, res_blocks: Sequence[int], codes: int
    ) -> None:
        super().__init__(channels, widths, latent_channels, res_blocks)
        del self.net.quant_conv_log_sigma
        self.codebook = Codebook(codes, latent_channels)

    def _embed(self, image: Tensor) -> Tensor:
        latent: Tensor = self.net.quant_conv_mu(self.net.encoder(image))
        return latent.float()

    def encode(self, image: Tensor) -> Tensor:
        """(B, C, X, Y, Z) in [-1, 1] -> standardised latents (B, L, X/4, Y/4, Z/4)."""
        return self.standardised(self._embed(image))

    def decode(self, latent: Tensor) -> Tensor:
        """Images of standardised latents, through the codebook."""
        picture: Tensor = self.net.decode(self.codebook(self.restored(latent)))
        return picture.float()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction, and the commitment: the mean squared distance of the latents to their codes."""
        latent = self._embed(image)
        codes = self.codebook(latent)
        commitment = (latent - codes).square().mean()
        picture: Tensor = self.net.decode(latent + (codes - latent).detach())
        return picture.float(), commitment


class Critics(nn.Module):
    """A volume and a slice discriminator; both return their layers' features, the last of which is the verdict."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.volume = PatchDiscriminator(
            spatial_dims=3, num_layers_d=3, channels=32, in_channels=channels, norm="INSTANCE"
        )
        self.slices = PatchDiscriminator(
            spatial_dims=2, num_layers_d=3, channels=32, in_channels=channels, norm="INSTANCE"
        )

    def forward(self, image: Tensor, planes: Tensor) -> list[list[Tensor]]:
        """Of (B, C, X, Y, Z) as a whole, and of its slices number `planes` (B, 3) along each axis."""
        return [self.volume(image), *(self.slices(part) for part in cut_planes(image, planes))]


def cut_planes(image: Tensor, planes: Tensor) -> list[Tensor]:
    """One slice (B, C, ., .) along each axis of (B, C, X, Y, Z); `planes` (B, 3) says which."""
    return [
        torch.stack([each.select(axis + 1, int(n)) for each, n in zip(image, planes[:, axis], strict=True)])
        for axis in range(3)
    ]
