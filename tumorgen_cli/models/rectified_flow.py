"""Rectified flow: path, losses, samplers. Pure functions of tensors.

Time t is 0 at noise and 1 at data; x_t = (1 - t) eps + t x1; the velocity is x1 - eps. Shapes: x is (B, C, X, Y, Z),
t is (B,), a box B is (B, 1, X, Y, Z) in {0, 1}.

Source: TumorGen, section 2.2, eqs. 1-5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
Solver = Literal["euler", "heun"]
SOLVERS: tuple[Solver, ...] = ("euler", "heun")


def _wide(t: Tensor, like: Tensor) -> Tensor:
    return t.view(-1, *([1] * (like.dim() - 1)))


def path(noise: Tensor, data: Tensor, t: Tensor) -> Tensor:
    """x_t on the straight line from noise (t = 0) to data (t = 1)."""
    t = _wide(t, data)
    return (1 - t) * noise + t * data


def estimate_data(x_t: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
    """The one-step estimate x1^ = x_t + (1 - t) v (eqs. 1 and 2)."""
    return x_t + (1 - _wide(t, x_t)) * velocity


def draw_time(uniform: Tensor, schedule: Literal["uniform", "logit-normal"]) -> Tensor:
    """Times in (0, 1) from uniform numbers; `logit-normal` favours the middle (Esser et al. 2024, eq. 19)."""
    if schedule == "uniform":
        return uniform
    return torch.sigmoid(torch.special.ndtri(uniform.double().clamp(1e-6, 1 - 1e-6))).to(uniform.dtype)


def velocity_loss(velocity: Tensor, noise: Tensor, data: Tensor) -> Tensor:
    """Mean squared error to x1 - eps (eq. 3), over all elements."""
    return (velocity - (data - noise)).square().mean()


def coarse_loss(estimate: Tensor, data: Tensor, box: Tensor) -> Tensor:
    """Mean squared error of the latents inside the box (eq. 4); each item is averaged over its own box."""
    inside = box.expand_as(data)
    error = ((estimate - data).square() * inside).flatten(1).sum(1)
    return (error / inside.flatten(1).sum(1).clamp_min(1)).mean()


def fine_loss(latent_estimate: Tensor, mask_estimate: Tensor, latent: Tensor, mask: Tensor, window: int) -> Tensor:
    """1 - SSIM(m1^ z1^, m1 z1) (eq. 5), masks in [0, 1]; SSIM is averaged where either mask is.

    Deviation: the paper averages SSIM over the whole volume; almost all of it is zero against zero there, and the
    loss vanishes for small tumors. The data range is 6 (standardised latents, three sigma to each side).
    """
    mask_estimate = mask_estimate.clamp(0, 1)
    similarity = ssim_map(mask_estimate * latent_estimate, mask * latent, window, data_range=6.0)
    where = F.max_pool3d(torch.maximum(mask, mask_estimate.detach()), window, 1, window // 2).clamp(0, 1)
    weight = where.expand_as(similarity)
    per_item = (similarity * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(1e-6)
    return 1 - per_item.mean()


def ssim_map(a: Tensor, b: Tensor, window: int, data_range: float) -> Tensor:
    """Structural similarity per voxel with a uniform cubic window of odd side (Wang et al. 2004, eq. 13)."""
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool3d(x, window, 1, window // 2, count_include_pad=False)

    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    return ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))


def sample(velocity: Velocity, noise: Tensor, steps: int, solver: Solver = "euler", start: float = 0.0) -> Tensor:
    """x at t = 1 by `steps` equal steps from `noise` at t = `start`.

    `heun` takes two network calls a step but the last, which is an Euler step; with `steps` it costs 2 steps - 1 calls.
    """
    x = noise
    times = torch.linspace(start, 1.0, steps + 1, dtype=torch.float64).tolist()
    for t, t_next in zip(times, times[1:], strict=False):
        here = torch.full((x.shape[0],), t, dtype=x.dtype, device=x.device)
        slope = velocity(x, here)
        if solver == "heun" and t_next < 1.0:
            there = torch.full_like(here, t_next)
            slope = (slope + velocity(x + (t_next - t) * slope, there)) / 2
        x = x + (t_next - t) * slope
    return x
