"""Rectified flow: path, losses, samplers. Pure functions of tensors.

Time t is 0 at noise and 1 at data; x_t = (1 - t) ε + t x_1; the velocity is x_1 - ε. Shapes: x is (B, C, X, Y, Z), t is
(B,), a box is (B, 1, X, Y, Z) with values 0 and 1.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

#: (x_t, t) -> velocity
Velocity = Callable[[Tensor, Tensor], Tensor]
Solver = Literal["euler", "heun"]
SOLVERS: tuple[Solver, ...] = ("euler", "heun")


def _broadcast(t: Tensor, like: Tensor) -> Tensor:
    """Times (B,) as (B, 1, 1, 1, 1)."""
    return t.view(-1, *([1] * (like.dim() - 1)))


def path(noise: Tensor, data: Tensor, t: Tensor) -> Tensor:
    """x_t on the straight line from noise (t = 0) to data (t = 1).

    Source: TumorGen, section 2.2.
    """
    t = _broadcast(t, data)
    return (1 - t) * noise + t * data


def estimate_data(x_t: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
    """The one-step estimate of the data, x̂_1 = x_t + (1 - t) v.

    Source: TumorGen, eqs. 1 and 2.
    """
    return x_t + (1 - _broadcast(t, x_t)) * velocity


def draw_time(uniform: Tensor, schedule: Literal["uniform", "logit-normal"]) -> Tensor:
    """Times (B,) in (0, 1) from uniform random numbers; `logit-normal` draws more times near one half.

    Source: Esser et al. 2024, eq. 19, for `logit-normal`.
    """
    if schedule == "uniform":
        return uniform
    return torch.sigmoid(torch.special.ndtri(uniform.double().clamp(1e-6, 1 - 1e-6))).to(uniform.dtype)


def velocity_loss(velocity: Tensor, noise: Tensor, data: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean squared error of the velocity, over all elements.

    Source: TumorGen, eq. 3.
    Deviation: With `weight`, which has the shape of the data or can be expanded to it, a weighted mean.
    """
    squared = (velocity - (data - noise)).square()
    if weight is None:
        return squared.mean()
    weight = weight.expand_as(squared)
    return (weight * squared).sum() / weight.sum()


def coarse_loss(estimate: Tensor, data: Tensor, box: Tensor) -> Tensor:
    """Mean squared error of the latents inside the box; 0 for an empty box.

    Source: TumorGen, eq. 4.
    Deviation: The error of each item is averaged over its own box.
    """
    inside = box.expand_as(data)
    error = ((estimate - data).square() * inside).flatten(1).sum(1)
    return (error / inside.flatten(1).sum(1).clamp_min(1)).mean()


def fine_loss(
    latent_estimate: Tensor, mask_estimate: Tensor, latent: Tensor, mask: Tensor, window: int, whole: bool = False
) -> Tensor:
    """1 - SSIM(m̂_1 ẑ_1, m_1 z_1) with masks in [0, 1].

    The data range of SSIM is 6: latents are standardized, and 6 is three standard deviations to each side.

    Source: TumorGen, eq. 5.
    Deviation: Unless `whole`, SSIM is averaged only where one of the masks is. Over the whole volume almost all of it
        compares zero with zero, and the loss of a small tumor vanishes.

    Args:
        latent_estimate: Estimated latents (B, L, x, y, z).
        mask_estimate: Estimated mask (B, 1, x, y, z); it is clamped to [0, 1].
        latent: True latents (B, L, x, y, z).
        mask: True mask (B, 1, x, y, z) in [0, 1].
        window: Side of the SSIM window in latent voxels, odd.
        whole: Whether SSIM is averaged over the whole volume.
    """
    mask_estimate = mask_estimate.clamp(0, 1)
    similarity = ssim_map(mask_estimate * latent_estimate, mask * latent, window, data_range=6.0)
    if whole:
        return 1 - similarity.mean()
    where = F.max_pool3d(torch.maximum(mask, mask_estimate.detach()), window, 1, window // 2).clamp(0, 1)
    weight = where.expand_as(similarity)
    per_item = (similarity * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(1e-6)
    return 1 - per_item.mean()


def ssim_map(a: Tensor, b: Tensor, window: int, data_range: float) -> Tensor:
    """Structural similarity of each voxel, with a uniform cubic window of odd side.

    Source: Wang et al. 2004, eq. 13.
    """
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool3d(x, window, 1, window // 2, count_include_pad=False)

    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    return ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))


def sample(velocity: Velocity, noise: Tensor, steps: int, solver: Solver = "euler", start: float = 0.0) -> Tensor:
    """Integrate the velocity up to t = 1, by `steps` equal steps from `noise` at t = `start`.

    `heun` calls the network twice per step, except in the last step, which is an Euler step: 2 · steps - 1 calls in
    all.
    """
    x = noise
    times = torch.linspace(start, 1.0, steps + 1, dtype=torch.float64).tolist()
    for t, t_next in pairwise(times):
        here = torch.full((x.shape[0],), t, dtype=x.dtype, device=x.device)
        slope = velocity(x, here)
        if solver == "heun" and t_next < 1.0:
            there = torch.full_like(here, t_next)
            slope = (slope + velocity(x + (t_next - t) * slope, there)) / 2
        x = x + (t_next - t) * slope
    return x


def finish(velocity: Velocity, x_t: Tensor, t: Tensor, steps: int) -> Tensor:
    """Integrate the velocity from x_t at the times t (B,), one for each item, up to t = 1, by `steps` Euler steps each.

    With one step it is `estimate_data`.
    """
    x = x_t
    for left in range(steps, 0, -1):
        stride = (1 - t) / left
        x, t = x + _broadcast(stride, x) * velocity(x, t), t + stride
    return x
