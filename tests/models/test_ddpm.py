"""Denoising diffusion against closed forms."""

import math

import pytest
import torch

from tumorgen_cli.models import ddpm


def test_the_cosine_schedule():
    levels = ddpm.signal_levels(200)
    assert levels.shape == (201,)
    assert levels[0] == 1
    assert (levels.diff() < 0).all()
    assert float(levels[100]) == pytest.approx(
        math.cos(math.pi / 2 * 0.508 / 1.008) ** 2 / math.cos(math.pi / 2 * 0.008 / 1.008) ** 2, rel=1e-9
    )
    assert float(levels[-1]) < 1e-4
    assert float(ddpm.signal_levels(4)[-1]) < 0.01


def test_noise_and_back():
    rng = torch.Generator().manual_seed(0)
    data, noise = (torch.rand(3, 2, 4, 4, 4, generator=rng) * 2 - 1, torch.randn(3, 2, 4, 4, 4, generator=rng))
    level = torch.tensor([0.9, 0.5, 0.1])
    x = ddpm.add_noise(data, noise, level)
    for i in range(3):
        torch.testing.assert_close(
            ddpm.estimate_data(x[i : i + 1], noise[i : i + 1], float(level[i]), 10.0),
            data[i : i + 1],
            atol=1e-5,
            rtol=0,
        )
    far = torch.full((1, 1, 1, 1, 1), 9.0)
    assert float(ddpm.estimate_data(far, far * 0, 0.5, 10.0)) == 10  # no data lie beyond


def test_the_largest_beta_is_the_published_one():
    levels = ddpm.signal_levels(4)
    assert float(1 - levels[4] / levels[3]) == pytest.approx(0.9999)


def test_the_steps_that_are_visited():
    """All four of the early model; of DDIM's 50 in 200 those of the published code, 0-based 1, 5, ..., 197."""
    assert ddpm.chosen_steps(4, 4, "ddpm") == [1, 2, 3, 4]
    assert ddpm.chosen_steps(200, 50, "ddim") == [*range(2, 199, 4)]
    assert ddpm.chosen_steps(200, 50, "ddpm") == [*range(4, 201, 4)]
    for sampler in ddpm.SAMPLERS:
        for timesteps in (1, 3, 4, 7, 10, 200):
            for steps in range(1, timesteps + 1):
                found = ddpm.chosen_steps(timesteps, steps, sampler)
                assert found == sorted(set(found))
                assert len(found) == steps
                assert 1 <= found[0] <= found[-1] <= timesteps


@pytest.mark.parametrize("sampler", ddpm.SAMPLERS)
def test_an_error_at_step_t_does_not_stay_with_few_steps(sampler):
    """At T nothing is left of the data: there a predicted noise that is off by 0.1 gives data that are off by 26."""
    levels = ddpm.signal_levels(4).tolist()
    spreads = []
    for error in (0.0, 0.1):
        rng = torch.Generator().manual_seed(0)

        def denoiser(x, step, error=error, rng=rng):
            return math.sqrt(1 - levels[int(step[0])]) * x + error * torch.randn(x.shape, generator=rng)

        x = ddpm.sample(denoiser, lambda rng=rng: torch.randn(20000, 1, 1, 1, 1, generator=rng), 4, 4, sampler)
        spreads.append(float(x.std()))
    assert spreads[1] == pytest.approx(spreads[0], rel=0.1)


@pytest.mark.parametrize("sampler", ddpm.SAMPLERS)
@pytest.mark.parametrize("steps", [1, 4, 50, 200])
def test_where_all_data_are_one_point_sampling_lands_on_it(sampler, steps):
    """The true noise predictor of a point c is (x - sqrt(level) c) / sqrt(1 - level)."""
    levels, c, calls = ddpm.signal_levels(200), 0.3, []

    def denoiser(x, step):
        level = float(levels[int(step[0])])
        calls.append(int(step[0]))
        return (x - math.sqrt(level) * c) / math.sqrt(1 - level)

    rng = torch.Generator().manual_seed(1)
    x = ddpm.sample(denoiser, lambda: torch.randn(2, 3, 4, 4, 4, generator=rng), 200, steps, sampler)
    torch.testing.assert_close(x, torch.full_like(x, c), atol=1e-3, rtol=0)
    assert calls == ddpm.chosen_steps(200, steps, sampler)[::-1]


@pytest.mark.parametrize("sampler", ddpm.SAMPLERS)
def test_a_gaussian_comes_out_with_its_spread(sampler):
    """For data N(m, s^2) the true predictor is linear; many steps give back mean and spread."""
    levels, mean, spread = ddpm.signal_levels(1000), 0.1, 0.2

    def denoiser(x, step):
        level = float(levels[int(step[0])])
        variance = level * spread**2 + 1 - level
        return math.sqrt(1 - level) * (x - math.sqrt(level) * mean) / variance

    rng = torch.Generator().manual_seed(2)
    x = ddpm.sample(denoiser, lambda: torch.randn(20000, 1, 1, 1, 1, generator=rng), 1000, 250, sampler)
    assert float(x.mean()) == pytest.approx(mean, abs=0.01)
    assert float(x.std()) == pytest.approx(spread, rel=0.04)


def test_ddim_draws_once():
    draws = []

    def draw():
        draws.append(1)
        return torch.zeros(1, 1, 2, 2, 2)

    for sampler, expected in (("ddim", 1), ("ddpm", 5)):
        draws.clear()
        ddpm.sample(lambda x, step: x * 0, draw, 20, 5, sampler)
        assert len(draws) == expected
