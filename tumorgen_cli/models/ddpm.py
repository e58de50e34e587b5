"""Denoising diffusion: noise schedule and samplers. Pure functions of tensors.

Steps are counted 1 to T as in the papers: step 0 is data with mean 0 and variance 1, step T is noise. Shapes: x is
(B, C, X, Y, Z), steps are (B,).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

#: (x_t, step) -> the noise in x_t
Denoiser = Callable[[Tensor, Tensor], Tensor]
Sampler = Literal["ddpm", "ddim"]
SAMPLERS: tuple[Sampler, ...] = ("ddpm", "ddim")
_OFFSET = 0.008
_LARGEST_BETA = 0.999
_LARGEST_DATA = 10.0  # standard deviations; an estimate beyond it is an error


def signal_levels(timesteps: int) -> Tensor:
    """ᾱ at the steps 0 to T of the cosine schedule, (T + 1,) float64: 1 at data, near 0 at noise.

    Source: Nichol and Dhariwal 2021, eq. 17.
    """
    curve = [math.cos((t / timesteps + _OFFSET) / (1 + _OFFSET) * math.pi / 2) ** 2 for t in range(timesteps + 1)]
    levels = [1.0]
    for before, after in pairwise(curve):
        levels.append(levels[-1] * (1 - min(1 - after / before, _LARGEST_BETA)))
    return torch.tensor(levels, dtype=torch.float64)


def add_noise(data: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """x_t of data and noise at signal levels ᾱ (B,).

    Source: Ho et al. 2020, eq. 4.
    """
    level = level.view(-1, *([1] * (data.dim() - 1))).to(data.dtype)
    return level.sqrt() * data + (1 - level).sqrt() * noise


def estimate_data(x_t: Tensor, noise: Tensor, level: float) -> Tensor:
    """x_0 from x_t and its noise at the signal level ᾱ.

    Source: Ho et al. 2020, eq. 15.
    Deviation: The estimate is clipped to 10 standard deviations of the data.
    """
    return ((x_t - math.sqrt(1 - level) * noise) / math.sqrt(level)).clamp(-_LARGEST_DATA, _LARGEST_DATA)


def sample(denoiser: Denoiser, draw: Callable[[], Tensor], timesteps: int, steps: int, sampler: Sampler) -> Tensor:
    """Draw x_0 from noise, in `steps` evenly spaced steps of the schedule's T.

    Source: Ho et al. 2020, eq. 7, with fewer steps as in Nichol and Dhariwal 2021, section 4 (`ddpm`); Song et al.
    2021, eq. 12, with η = 0 (`ddim`).

    Args:
        denoiser: Returns the noise in x_t.
        draw: Returns standard normal noise of the shape of x. `ddpm` draws it for every step but the last, `ddim` only
            at the start.
        timesteps: T.
        steps: Number of denoiser calls, at most T.
        sampler: `ddpm` or `ddim`.
    """
    levels = signal_levels(timesteps).tolist()
    chosen = [round(i * timesteps / steps) for i in range(steps + 1)]
    x = draw()
    for before, here in zip(reversed(chosen[:-1]), reversed(chosen[1:]), strict=True):
        level, next_level = levels[here], levels[before]
        data = estimate_data(x, denoiser(x, torch.full((x.shape[0],), float(here), device=x.device)), level)
        noise = (x - math.sqrt(level) * data) / math.sqrt(1 - level)  # what remains after clipping
        if sampler == "ddim":
            x = math.sqrt(next_level) * data + math.sqrt(1 - next_level) * noise
            continue
        beta = 1 - level / next_level
        mean = (
            math.sqrt(next_level) * beta / (1 - level) * data + math.sqrt(1 - beta) * (1 - next_level) / (1 - level) * x
        )
        x = mean + math.sqrt(beta * (1 - next_level) / (1 - level)) * draw() if before else mean
    return x
