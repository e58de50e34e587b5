"""From a window and a draw in its latents to a painted window: encode, draw, decode the box with its halo. Any latent method's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from scipy.special import expit, logit
from torch import Tensor

from tumorgen_cli.geometry import Box, Triple
from tumorgen_cli.methods.base import Request
from tumorgen_cli.methods.latent.autoencoder import Codec, precise
from tumorgen_cli.models.vae import DOWNSAMPLING
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.preprocessing.intensity import scale, unscale
from tumorgen_cli.system.errors import Fault, PlanError
from tumorgen_cli.tumors.boxes import box_mask, latent_box
from tumorgen_cli.tumors.masks import smooth_noise
from tumorgen_cli.tumors.noise import draw_scan_noise


@dataclass(frozen=True)
class Canvas:
    """An encoded window: scaled image (C, X, Y, Z), its latent (1, L, x, y, z), the tumor's place in latent cells and as a mask
    (1, 1, x, y, z), and the region to decode, in latent cells: the box with its halo."""

    request: Request
    scaled: np.ndarray
    latent: Tensor
    latent_box: Box
    box: Tensor
    region: Box

    @property
    def cells(self) -> tuple[slice, ...]:
        """The region as an index of latents (B, L, x, y, z)."""
        return (slice(None), slice(None), *self.region.slices)

    @property
    def voxels(self) -> Box:
        """The region in the window's voxels."""
        start, stop = (tuple(DOWNSAMPLING * a for a in ends) for ends in (self.region.start, self.region.stop))
        return Box(start, stop)  # type: ignore[arg-type]

    def local(self, box: Box) -> Box:
        """A box of the window in the region's voxels."""
        return box.shifted(tuple(-a for a in self.voxels.start))  # type: ignore[arg-type]


def check_halo(halo: int, field: str) -> None:
    """Sees that a box is decoded with some of what lies around it.

    Raises:
        PlanError: a halo below 1.
    """
    if halo < 1:
        raise PlanError(
            "A halo is too small", [Fault(field, str(halo), "1 latent voxel or more", "correct --set or the preset")]
        )


def open_canvas(codec: Codec, request: Request, plan: Plan, halo: int, device: str) -> Canvas:
    """Encodes a request's window, whose sides must be multiples of 16; the tumor's place is widened to whole latent cells."""
    scaled = scale(request.image, plan.channels, request.limits)
    with precise(plan.precision, device):
        latent = codec.encode(torch.from_numpy(scaled)[None].to(device))
    shape = tuple(latent.shape[2:])
    place, box = latent_box(request.place), latent_box(request.box)
    mask = torch.from_numpy(box_mask(place, shape))[None, None].to(device)  # type: ignore[arg-type]
    return Canvas(request, scaled, latent, place, mask, box.grown(halo, shape))  # type: ignore[arg-type]


def smooth_host(canvas: Canvas, decode: Callable[[Tensor], Tensor], plan: Plan, device: str) -> np.ndarray:
    """The host's own latents decoded in the region (C, X, Y, Z): the host without the noise that a VAE smooths away."""
    with precise(plan.precision, device):
        return np.asarray(decode(canvas.latent[canvas.cells])[0].float().cpu().numpy())


def texture(canvas: Canvas, picture: np.ndarray, smooth: np.ndarray, seed: int) -> np.ndarray:
    """Noise (C, X, Y, Z) for the decoded region as the host has it outside the box: of all that a VAE takes away from it (`smooth`:
    the `smooth_host`), rare large parts too. As strong as the bulk alone it is a sixth too weak on FDG-PET."""
    host = canvas.scaled[(slice(None), *canvas.voxels.slices)]
    return draw_scan_noise(host, smooth, picture, canvas.local(canvas.request.box), np.random.default_rng([seed, 1]), np.std)


def roughen(canvas: Canvas, share: np.ndarray, strength: float, scale_mm: float, seed: int) -> np.ndarray:
    """A mask's probability (X, Y, Z) in the decoded region, its edge wavering where it is unsure: a smooth Gaussian field is added
    to its logit, and so much everywhere that the mask stays as large as it is. Parts that touch none of the old mask are left out;
    if all do, it stays as it is.

    Cut at one half as it is, a probability gives the mean of all likely edges, rounder than any of them. `strength`: the field's
    standard deviation; `scale_mm`: twice that of the kernel that makes it smooth.
    """
    inside = share >= 0.5
    count = int(inside.sum())
    if not count:
        return share
    sigma = [scale_mm / 2 / s for s in canvas.request.spacing_mm]
    field = smooth_noise(canvas.scaled.shape[1:], sigma, np.random.default_rng([seed, 3]))[canvas.voxels.slices]
    moved = logit(np.clip(share, 1e-4, 1 - 1e-4).astype(np.float64)) + strength * field
    rough = np.asarray(expit(moved - np.partition(moved, -count, None)[-count]), np.float32)
    parts, _ = ndimage.label(rough >= 0.5)
    stray = (parts > 0) & ~np.isin(parts, parts[inside])
    rough[stray] = share[stray]
    return rough if (rough >= 0.5).any() else share


def near(mask: np.ndarray, spacing_mm: Triple, reach_mm: float) -> np.ndarray:
    """1 in a soft mask (X, Y, Z), smoothly down to 0 at `reach_mm` from it; 0 everywhere where the mask is empty."""
    inside = mask >= 0.5
    if not inside.any():
        return np.zeros(mask.shape, np.float32)
    share = np.clip(1 - ndimage.distance_transform_edt(~inside, spacing_mm) / reach_mm, 0, 1)
    return (share * share * (3 - 2 * share)).astype(np.float32)


def put_back(canvas: Canvas, picture: np.ndarray, share: np.ndarray, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """The window with the box replaced by the decoded region's, in the scan's units, and the mask: (C, X, Y, Z), (X, Y, Z)."""
    request = canvas.request
    image = request.image.astype(np.float32, copy=True)
    image[(slice(None), *request.box.slices)] = unscale(
        picture[(slice(None), *canvas.local(request.box).slices)], plan.channels, request.limits
    )
    mask = np.zeros(image.shape[1:], np.float32)
    mask[request.place.slices] = share[canvas.local(request.place).slices]
    return image, mask
