"""DiffTumor's losses: of the VQGAN, of its critics, of the denoising network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tumorgen_cli.methods.difftumor.config import VqGanConfig
from tumorgen_cli.models import ddpm
from tumorgen_cli.models.diffusion_unet import PlaneUNet
from tumorgen_cli.models.efficientnet import Perceptual
from tumorgen_cli.models.vqgan import Critics, VqGan, cut_planes


class VqGanObjective(nn.Module):
    """L1 + commitment + perceptual loss, and later + adversarial loss + feature matching.

    Source: DiffTumor, eqs. 1, 2 and 4, with the sums and weights of the published code.
    Deviation: The codebook follows the mean of its vectors instead of a codebook loss, as in that code. The perceptual
        loss compares features of EfficientNet-Lite0.

    Attributes:
        picture: the last reconstruction, for the critics to learn from.
    """

    def __init__(self, vqgan: VqGan, critics: Critics, config: VqGanConfig) -> None:
        super().__init__()
        self.vqgan, self.config = vqgan, config
        self._critics = (critics,)  # the tuple keeps the critics out of this module's parameters
        self._perceptual = (Perceptual() if config.perceptual_weight else None,)
        self.picture = torch.empty(0)

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss for a batch.

        Args:
            batch: `image` (B, C, X, Y, Z) in [-1, 1]; `planes` (B, 3), the numbers of the slices that the perceptual
                loss sees, and the slice critic the last of them; `fools` (B,), 1 if the critics count already, else 0.
        """
        c, image, planes = self.config, batch["image"], batch["planes"]
        picture, commitment = self.vqgan(image)
        self.picture = picture.detach()
        terms = {"l1": (picture - image).abs().mean(), "commitment": commitment}
        loss = c.l1_weight * terms["l1"] + c.commitment_weight * commitment
        perceptual = self._perceptual[0]
        if perceptual is not None:
            pairs = zip(cut_planes(picture, planes), cut_planes(image, planes), strict=True)
            terms["perceptual"] = torch.stack([perceptual(a.flatten(0, 1), b.flatten(0, 1)) for a, b in pairs]).sum()
            loss = loss + c.perceptual_weight * terms["perceptual"]
        if bool(batch["fools"].any()):
            critics = self._critics[0].requires_grad_(False)
            with torch.no_grad():
                real = critics(image, planes)
            fake = critics(picture, planes)
            terms["fool"] = torch.stack([-features[-1].float().mean() for features in fake]).sum()
            matched = [
                (a.float() - b.float()).abs().mean()
                for f, r in zip(fake, real, strict=True)
                for a, b in zip(f[:-1], r[:-1], strict=True)
            ]
            terms["matching"] = torch.stack(matched).sum()
            loss = loss + c.adversarial_weight * terms["fool"] + c.matching_weight * terms["matching"]
        return loss, {name: value.detach() for name, value in terms.items()}


class CriticsObjective(nn.Module):
    """The hinge loss of both critics on real patches and reconstructions; zero until the critics count.

    Source: DiffTumor's published code.
    Deviation: DiffTumor, eq. 3, has logarithms instead of the hinge loss.
    """

    def __init__(self, critics: Critics, first: VqGanObjective) -> None:
        super().__init__()
        self.critics = critics
        self._first = (first,)  # the tuple keeps the VQGAN out of this module's parameters

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss for the batch of `VqGanObjective`, which must have been called before with the same batch."""
        self.critics.requires_grad_(True)
        if not bool(batch["fools"].any()):
            return torch.stack([p.sum() for p in self.critics.parameters()]).sum() * 0, {}
        real, fake = (self.critics(image, batch["planes"]) for image in (batch["image"], self._first[0].picture))
        losses = [
            F.relu(1 - r[-1].float()).mean() + F.relu(1 + f[-1].float()).mean() for r, f in zip(real, fake, strict=True)
        ]
        return torch.stack(losses).sum() / 2, {}


class DdpmObjective(nn.Module):
    """Mean absolute error of the predicted noise.

    Source: DiffTumor, section 3.2, as in the published code.
    Deviation: DiffTumor, eq. 6, has the squared error.
    """

    levels: Tensor

    def __init__(self, net: PlaneUNet, timesteps: int) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("levels", ddpm.signal_levels(timesteps).float(), persistent=False)

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss for a batch.

        Args:
            batch: `latent` and `noise` (B, L, x, y, z), `condition` (B, L + 1, x, y, z), see `method.condition_of`,
                and `step` (B,) from 1 to T.
        """
        latent, noise, step = batch["latent"], batch["noise"], batch["step"]
        x_t = ddpm.add_noise(latent, noise, self.levels.to(latent.device)[step])
        found = self.net(torch.cat([x_t, batch["condition"]], 1), step)
        return (found - noise).abs().mean(), {}
