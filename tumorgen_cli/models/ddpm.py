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
_LARGEST_BETA = 0.9999
_SPREAD = 1.0  # of the data


def signal_levels(timesteps: int) -> Tensor:
    """ᾱ at the steps 0 to T of the cosine schedule, (T + 1,) float64: 1 at data, near 0 at noise.

    Source: Nichol and Dhariwal 2021, eq. 17; DiffTumor's published code for the largest β, 0.9999.
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


def estimate_data(x_t: Tensor, noise: Tensor, level: float, limit: float) -> Tensor:
    """x_0 from x_t and its noise at the signal level ᾱ, clipped to ± `limit`.

    Source: Ho et al. 2020, eq. 15.
    """
    return ((x_t - math.sqrt(1 - level) * noise) / math.sqrt(level)).clamp(-limit, limit)


def chosen_steps(timesteps: int, steps: int, sampler: Sampler) -> list[int]:
    """The steps 1 to T at which a sampler calls the denoiser, in ascending order, evenly spaced.

    `ddpm` ends at T. `ddim` begins at step 2, as in the code of latent diffusion that DiffTumor's code uses: 50 of 200
    are 2, 6, ..., 198. It begins at 1 where that would leave the schedule.
    """
    stride = timesteps / steps
    if sampler == "ddim":
        return [round(i * stride + min(2.0, stride)) for i in range(steps)]
    return [round(i * stride) for i in range(1, steps + 1)]


def sample(
    denoiser: Denoiser, draw: Callable[[], Tensor], timesteps: int, steps: int, sampler: Sampler, limit: float = 10.0
) -> Tensor:
    """Draw x_0 from noise, in `steps` steps of the schedule's T (`chosen_steps`).

    Source: Ho et al. 2020, eq. 7, with fewer steps as in Nichol and Dhariwal 2021, section 4 (`ddpm`); Song et al.
    2021, eq. 12, with η = 0 (`ddim`).
    Deviation: At step T nothing is left of the data, and an estimate is the error of the predicted noise, magnified a
        hundredfold or more. It is clipped to one standard deviation, so that the next x has the spread it had in
        training. With few steps, a larger error would stay in the result.

    Args:
        denoiser: Returns the noise in x_t.
        draw: Returns standard normal noise of the shape of x. `ddpm` draws it for every step but the last, `ddim` only
            at the start.
        timesteps: T.
        steps: Number of denoiser calls, at most T.
        sampler: `ddpm` or `ddim`.
        limit: Estimates of x_0 are clipped to ± this many standard deviations.
    """
    levels = signal_levels(timesteps).tolist()
    chosen = [0, *chosen_steps(timesteps, steps, sampler)]
    x = draw()
    for before, here in zip(reversed(chosen[:-1]), reversed(chosen[1:]), strict=True):
        level, next_level = levels[here], levels[before]
        found = denoiser(x, torch.full((x.shape[0],), float(here), device=x.device))
        data = estimate_data(x, found, level, min(limit, _SPREAD) if here == timesteps else limit)
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
