"""SynTumor's texture: the statistics of the published recipe, at any voxel size."""

import numpy as np
import pytest
from scipy import ndimage

from tumorgen_cli.tumors import texture
from tumorgen_cli.tumors.texture import TextureConfig, draw_texture


def published(shape, cloud, grain, rng):
    """The recipe in words: noise blurred to probabilities, one grain a voxel, blurred, scaled to a mean of 0.525."""
    noise = ndimage.gaussian_filter(rng.uniform(0, 1, shape), cloud)
    chance = 0.2 * (noise - noise.min()) / np.ptp(noise) + 0.05
    grains = ndimage.gaussian_filter((rng.uniform(0, 1, shape) < chance).astype(float), grain)
    return np.clip(0.525 / grains[grains > 0.12].mean() * grains, 0, 1)


def drawn(spacing, seeds, cloud=3.0, grain=4.0, side_mm=64):
    config = TextureConfig((cloud, cloud), (grain, grain))
    shape = tuple(round(side_mm / s) for s in spacing)
    return [draw_texture(config, shape, spacing, np.random.default_rng(seed)) for seed in range(seeds)]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 2.0, 4.0), (0.5, 1.0, 1.0)])
def test_a_texture_has_the_mean_and_the_spread_of_the_published_recipe(monkeypatch, spacing):
    shape = (120, 120, 120)
    monkeypatch.setattr(texture, "_VOXELS", np.prod(shape))  # extremes are those of the volume that is drawn
    expected = published(shape, 3.0, 4.0, np.random.default_rng(0))
    found = drawn(spacing, 6)
    assert all(each.dtype == np.float32 and each.min() >= 0 and each.max() <= 1 for each in found)
    assert np.mean([each.mean() for each in found]) == pytest.approx(expected.mean(), abs=0.02)
    assert np.mean([each.std() for each in found]) == pytest.approx(expected.std(), rel=0.2)


def test_grains_are_as_wide_in_mm_on_any_grid():
    """The correlation of voxels that are 8 mm apart."""

    def correlation(spacing):
        step = round(8 / spacing[0])
        pairs = [(each[step:].ravel(), each[:-step].ravel()) for each in drawn(spacing, 8)]
        return np.mean([np.corrcoef(*pair)[0, 1] for pair in pairs])

    assert correlation((1.0, 1.0, 1.0)) == pytest.approx(correlation((2.0, 2.0, 2.0)), abs=0.12)


def test_a_window_smaller_than_a_cloud_shows_a_part_of_one():
    """Within a cloud there is little spread; from window to window there is as much as in a large volume."""
    means = np.array([each.mean() for each in drawn((1.0, 1.0, 1.0), 40, cloud=15.0, side_mm=8)])
    within = np.mean([each.std() for each in drawn((1.0, 1.0, 1.0), 40, cloud=15.0, side_mm=8)])
    assert within < 0.5 * means.std()


def test_the_same_seed_gives_the_same_texture():
    first, second = (drawn((2.0, 2.0, 2.0), 1)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, drawn((2.0, 2.0, 2.0), 2)[1])


@pytest.mark.parametrize("cloud", [1e-3, 0.5, 100.0, 1000.0])
def test_any_width_is_drawn(cloud):
    (made,) = drawn((3.0, 3.0, 3.0), 1, cloud=cloud)
    assert np.isfinite(made).all()
