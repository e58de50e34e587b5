"""The 3D VQGAN: the encoder and decoder of the VAE around a codebook, and its discriminators."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets.patchgan_discriminator import PatchDiscriminator
from torch import Tensor, nn

from tumorgen_cli.models.vae import Autoencoder

_DECAY = 0.99
_UNUSED = 0.05  # of an even share of the vectors: a code that is used less is replaced
_CHUNK = 4096  # vectors compared with the codebook at once


class Codebook(nn.Module):
    """K codes of C channels; replaces each vector by the nearest code. It learns in training mode.

    The codes follow the mean of their vectors, and unused codes are replaced by vectors of the batch. With several
    processes these come from the first process: all processes have one codebook, which differs from that of a single
    process.

    Source: VQ-VAE-2 (Razavi et al. 2019) for the moving average, as in DiffTumor's published code.
    Deviation: DiffTumor, eq. 1, has a codebook loss instead of the moving average.
    """

    codes: Tensor
    used: Tensor
    total: Tensor

    def __init__(self, codes: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("codes", torch.zeros(codes, channels))
        self.register_buffer("used", torch.zeros(codes))  # mean share of a step's vectors
        self.register_buffer("total", torch.zeros(codes, channels))  # mean sum of these vectors over the step's number

    def forward(self, latent: Tensor) -> Tensor:
        """The nearest codes of latents (B, C, X, Y, Z), same shape, without a gradient."""
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
        unused = self.used < _UNUSED * share
        self.used[unused] = share
        self.total[unused] = fresh[unused] * share
        self.codes.copy_(self.total / self.used.unsqueeze(1))


class VqGan(Autoencoder):
    """Encoder, codebook and decoder.

    Latents are taken before the quantization; `decode` quantizes them, as in latent diffusion.

    Source: DiffTumor, section 3.1 (Esser et al. 2021, in 3D).
    Deviation: The blocks are MAISI's, as in the KL-VAE. Latents are standardized per channel, unless
        `scale_by_codebook` is called.
    """

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
        """Standardized latents (B, L, x, y, z) of images (B, C, X, Y, Z) in [-1, 1], before the quantization."""
        return self.standardize(self._embed(image))

    def scale_by_codebook(self) -> None:
        """Bring latents to [-1, 1] by the smallest and largest number of the codebook, not by mean and deviation.

        Source: DiffTumor's published code.
        """
        low, high = self.codebook.codes.min(), self.codebook.codes.max()
        self.mean.fill_((low + high) / 2)
        self.std.fill_((high - low) / 2)

    def decode(self, latent: Tensor) -> Tensor:
        """Images (B, C, X, Y, Z) of standardized latents, through the codebook."""
        picture: Tensor = self.net.decode(self.codebook(self.restore(latent)))
        return picture.float()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction, and the commitment loss: the mean squared distance of the latents to their codes.

        Source: L_commit of DiffTumor, eq. 1.
        """
        latent = self._embed(image)
        codes = self.codebook(latent)
        commitment = (latent - codes).square().mean()
        picture: Tensor = self.net.decode(latent + (codes - latent).detach())
        return picture.float(), commitment


class Critics(nn.Module):
    """A discriminator of volumes and one of axial slices.

    Source: D_v and D_s of DiffTumor, section 3.1, and its published code, in which each volume shows one axial slice.
    Deviation: Instance norms instead of batch norms, because a batch may be a single patch.

    Args:
        channels: Channels of the image.
        width: Channels of the first layer.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.volume, self.slices = (
            PatchDiscriminator(spatial_dims=d, num_layers_d=3, channels=width, in_channels=channels, norm="INSTANCE")
            for d in (3, 2)
        )

    def forward(self, image: Tensor, planes: Tensor) -> list[list[Tensor]]:
        """Features of all layers, of the volume and of its axial slice; the last feature is the verdict.

        Args:
            image: (B, C, X, Y, Z).
            planes: (B, 3), the number of the slice along each axis.
        """
        return [self.volume(image), self.slices(cut_planes(image, planes)[2])]


def cut_planes(image: Tensor, planes: Tensor) -> list[Tensor]:
    """One slice (B, C, ., .) of images (B, C, X, Y, Z) along each axis; `planes` (B, 3) holds their numbers."""
    return [
        torch.stack([each.select(axis + 1, int(n)) for each, n in zip(image, planes[:, axis], strict=True)])
        for axis in range(3)
    ]
