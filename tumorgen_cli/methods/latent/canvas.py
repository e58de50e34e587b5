"""From a window to its latents and back: encode the window, decode the box with its halo, put the box back.

Every method that draws in latents uses it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy import ndimage
from scipy.special import expit, logit
from torch import Tensor

from tumorgen_cli.geometry import Box, Triple, as_triple
from tumorgen_cli.methods.base import Request
from tumorgen_cli.methods.latent.quality import Codec, inference_context
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.preprocessing.intensity import scale, unscale
from tumorgen_cli.tumors.boxes import box_mask, latent_box
from tumorgen_cli.tumors.masks import smooth_noise
from tumorgen_cli.tumors.noise import draw_scan_noise

#: what a tumor gets of the noise that an autoencoder smooths away: the `host`'s own, noise `drawn` like it, what is
#: `matched` to the channel (see `paint`), or `none`
Texture = Literal["matched", "host", "drawn", "none"]


@dataclass(frozen=True)
class Canvas:
    """An encoded window.

    Attributes:
        request: the request that it belongs to.
        scaled: (C, X, Y, Z), the window in [-1, 1].
        latent: (1, L, x, y, z).
        downsampling: voxels per latent cell, along each axis.
        latent_box: the tumor's place in latent cells.
        box: the tumor's place as a mask (1, 1, x, y, z).
        region: the region to decode, in latent cells: the box with its halo.
    """

    request: Request
    scaled: np.ndarray
    latent: Tensor
    downsampling: int
    latent_box: Box
    box: Tensor
    region: Box

    @property
    def cells(self) -> tuple[slice, ...]:
        """The region as an index of latents (B, L, x, y, z)."""
        return (slice(None), slice(None), *self.region.slices)

    @property
    def voxels(self) -> Box:
        """The region in voxels of the window."""
        start, stop = (as_triple(self.downsampling * a for a in ends) for ends in (self.region.start, self.region.stop))
        return Box(start, stop)

    @property
    def host(self) -> np.ndarray:
        """The host in the region, (C, X, Y, Z) in [-1, 1]."""
        return self.scaled[(slice(None), *self.voxels.slices)]

    def in_region(self, box: Box) -> Box:
        """A box of the window in voxels of the region."""
        return box.shifted(as_triple(-a for a in self.voxels.start))


def open_canvas(codec: Codec, request: Request, plan: Plan, halo: int, device: str) -> Canvas:
    """Encode a request's window, whose sides must be multiples of 16.

    The tumor's place is widened to whole latent cells. `halo`: latent voxels to decode around the box.
    """
    scaled = scale(request.image, plan.channels, request.limits)
    with inference_context(plan.precision, device):
        latent = codec.encode(torch.from_numpy(scaled)[None].to(device))
    shape = as_triple(latent.shape[2:])
    factor = codec.downsampling
    place, box = latent_box(request.place, factor), latent_box(request.box, factor)
    mask = torch.from_numpy(box_mask(place, shape))[None, None].to(device)
    return Canvas(request, scaled, latent, factor, place, mask, box.grown(halo, shape))


def paint(
    canvas: Canvas, codec: Codec, plan: Plan, picture: np.ndarray, share: np.ndarray, texture: Texture, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Put a decoded region into the window, with the noise that the decoder loses.

    Around the tumor the host's own noise always stays, unless `texture` is `none`. `matched` also leaves it in the
    tumor, except in channels whose intensities are compressed (`ChannelPlan.power` below 1): there noise grows with the
    intensity, so that of the darker tissue before is too weak, and noise as strong as the tumor's intensity asks for is
    drawn.

    Args:
        canvas: The encoded window.
        codec: The autoencoder that decoded it.
        plan: The plan.
        picture: The decoded region (C, X, Y, Z) in [-1, 1].
        share: Its mask (X, Y, Z) in [0, 1].
        texture: What the tumor gets of that noise.
        seed: Seed of the request.

    Returns:
        As `put_back`.
    """
    if texture == "none":
        return put_back(canvas, picture, share, plan)
    smooth = smooth_host(canvas, codec.decode, plan, canvas.latent.device.type)
    drawn = [texture == "drawn" or (texture == "matched" and channel.power < 1) for channel in plan.channels]
    if any(drawn):
        own = canvas.host - smooth
        noise = noise_like_host(canvas, picture, smooth, seed)
        mixed = np.sqrt(1 - share) * own + np.sqrt(share) * noise  # independent: as strong as each of them
        picture = picture + np.where(np.reshape(drawn, (-1, 1, 1, 1)), mixed - own, 0)
    return add_change(canvas, picture, smooth, share, plan)


def smooth_host(canvas: Canvas, decode: Callable[[Tensor], Tensor], plan: Plan, device: str) -> np.ndarray:
    """The host's own latents decoded in the region (C, X, Y, Z): the host without the noise that a VAE smooths away."""
    with inference_context(plan.precision, device):
        return np.asarray(decode(canvas.latent[canvas.cells])[0].float().cpu().numpy())


def noise_like_host(canvas: Canvas, picture: np.ndarray, smooth: np.ndarray, seed: int) -> np.ndarray:
    """Noise (C, X, Y, Z) for the decoded region, like the noise that the host has outside the box.

    Its strength is the standard deviation of everything that the VAE removes from the host, rare large values included.
    A robust estimate gives noise that is a sixth too weak on FDG-PET.

    Args:
        canvas: The encoded window.
        picture: The decoded region (C, X, Y, Z) in [-1, 1].
        smooth: The `smooth_host`.
        seed: Seed of the request.
    """
    box, rng = canvas.in_region(canvas.request.box), np.random.default_rng([seed, 1])
    return draw_scan_noise(canvas.host, smooth, picture, box, rng, np.std)


def roughen_mask(canvas: Canvas, share: np.ndarray, strength: float, scale_mm: float, seed: int) -> np.ndarray:
    """Make the edge of a mask irregular where its probability is near one half.

    A smooth Gaussian field is added to the logit, and a constant, so that the mask keeps its size. Parts that do not
    touch the old mask are left out. If nothing remains, the mask stays as it is. Without the field, a mask cut at one
    half is the mean of all likely masks, which is rounder than each of them.

    Args:
        canvas: The encoded window.
        share: Probability (X, Y, Z) of the mask in the decoded region.
        strength: Standard deviation of the field.
        scale_mm: Twice the standard deviation of the kernel that makes the field smooth.
        seed: Seed of the request.
    """
    inside = share >= 0.5
    count = int(inside.sum())
    if not count:
        return share
    sigma = [scale_mm / 2 / s for s in canvas.request.spacing_mm]
    whole = as_triple(canvas.scaled.shape[1:])
    field = smooth_noise(whole, sigma, np.random.default_rng([seed, 3]))[canvas.voxels.slices]
    moved = logit(np.clip(share, 1e-4, 1 - 1e-4).astype(np.float64)) + strength * field
    rough = np.asarray(expit(moved - np.partition(moved, -count, None)[-count]), np.float32)
    parts, _ = ndimage.label(rough >= 0.5)
    stray = (parts > 0) & ~np.isin(parts, parts[inside])
    rough[stray] = share[stray]
    return rough if (rough >= 0.5).any() else share


def closeness(mask: np.ndarray, spacing_mm: Triple, reach_mm: float) -> np.ndarray:
    """A weight that is 1 inside a soft mask (X, Y, Z) and falls smoothly to 0 at `reach_mm`; 0 if the mask is empty."""
    inside = mask >= 0.5
    if not inside.any():
        return np.zeros(mask.shape, np.float32)
    share = np.clip(1 - ndimage.distance_transform_edt(~inside, spacing_mm) / reach_mm, 0, 1)
    return np.asarray(share * share * (3 - 2 * share), np.float32)


def add_change(
    canvas: Canvas, picture: np.ndarray, smooth: np.ndarray, share: np.ndarray, plan: Plan
) -> tuple[np.ndarray, np.ndarray]:
    """Change the host in the box as much as a picture differs from the decoded host.

    What the decoder loses, noise and fine detail, stays as it is in the host. The change is added in scaled
    intensities, so that noise grows with uptake where they are compressed (PET). Where the picture is the decoded host,
    nothing changes, also beyond the clip limits.

    Args:
        canvas: The encoded window.
        picture: The decoded region (C, X, Y, Z) in [-1, 1], and what else changes.
        smooth: The `smooth_host`.
        share: The mask of the region (X, Y, Z) in [0, 1].
        plan: The plan.

    Returns:
        As `put_back`.
    """
    request, limits = canvas.request, canvas.request.limits
    host = canvas.host
    before, after = (unscale(each, plan.channels, limits) for each in (host, host + picture - smooth))
    inside = (slice(None), *canvas.in_region(request.box).slices)
    image = request.image.astype(np.float32, copy=True)
    image[(slice(None), *request.box.slices)] += (after - before)[inside]
    return image, _place_mask(canvas, share)


def put_back(canvas: Canvas, picture: np.ndarray, share: np.ndarray, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Put a decoded region back into the window.

    Args:
        canvas: The encoded window.
        picture: The decoded region (C, X, Y, Z) in [-1, 1].
        share: Its mask (X, Y, Z) in [0, 1].
        plan: The plan.

    Returns:
        The window (C, X, Y, Z) in the scan's units with the box replaced, and the mask (X, Y, Z), which is zero outside
        the place.
    """
    request = canvas.request
    image = request.image.astype(np.float32, copy=True)
    image[(slice(None), *request.box.slices)] = unscale(
        picture[(slice(None), *canvas.in_region(request.box).slices)], plan.channels, request.limits
    )
    return image, _place_mask(canvas, share)


def _place_mask(canvas: Canvas, share: np.ndarray) -> np.ndarray:
    """The region's mask in the window (X, Y, Z), zero outside the tumor's place."""
    mask = np.zeros(canvas.request.image.shape[1:], np.float32)
    mask[canvas.request.place.slices] = share[canvas.in_region(canvas.request.place).slices]
    return mask


def place_sublabels(canvas: Canvas, values: np.ndarray, mask: np.ndarray, single: bool) -> np.ndarray:
    """The region's sub-labels in the window (X, Y, Z), zero outside the tumor.

    Args:
        canvas: The encoded window.
        values: The voxel value of the likeliest sub-label at each voxel of the region (X, Y, Z).
        mask: The window's mask (X, Y, Z) in [0, 1].
        single: Whether the tumor has one sub-label: that of most of its voxels.
    """
    placed = np.zeros(mask.shape, values.dtype)
    placed[canvas.request.place.slices] = values[canvas.in_region(canvas.request.place).slices]
    inside = mask >= 0.5
    if single and inside.any():
        placed[inside] = np.bincount(placed[inside]).argmax()
    return np.where(inside, placed, 0)
