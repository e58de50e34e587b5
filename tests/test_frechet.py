"""The Fréchet distance against pytorch-fid's formula and closed forms; what the filter bank notices."""

import math

import numpy as np
import pytest
from scipy import linalg, ndimage

from tumorgen_cli.metrics.frechet import PLANES, filters, frechet_distance, slices


def pytorch_fid(a, b):
    """pytorch-fid's calculate_frechet_distance, by the matrix square root."""
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(cov_a @ cov_b).real
    return ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * np.trace(root)


def textures(count, seed, size=48):
    """Smoothed noise in [0, 1], no two alike."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(count, size, size)), (0, 1.5, 1.5))
    return np.clip(0.5 + 0.12 * noise / noise.std(), 0, 1)


def test_agrees_with_pytorch_fid():
    rng = np.random.default_rng(1)
    mixing = rng.normal(size=(12, 12))
    a, b = rng.normal(size=(200, 12)) @ mixing, rng.normal(0.3, 1.4, size=(150, 12)) @ mixing[::-1]
    assert frechet_distance(a, b) == pytest.approx(pytorch_fid(a, b), rel=1e-3)


def test_closed_forms():
    rng = np.random.default_rng(2)
    a = rng.normal(size=(30, 64))  # fewer rows than columns: the covariance is singular
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a[::-1] + 2) == pytest.approx(64 * 4)
    variance = ((a - a.mean(axis=0)) ** 2).sum() / 29
    assert frechet_distance(3 * (a - a.mean(axis=0)), a - a.mean(axis=0)) == pytest.approx(4 * variance)  # (3 - 1)² tr Σ


def test_too_few_or_unlike():
    assert math.isnan(frechet_distance(np.zeros((1, 3)), np.zeros((5, 3))))
    with pytest.raises(ValueError, match="cannot be compared"):
        frechet_distance(np.zeros((4, 3)), np.zeros((4, 2)))


@pytest.mark.parametrize(
    "harm",
    [
        lambda x, s: ndimage.gaussian_filter(x, (0, s, s)),
        lambda x, s: np.clip(x + np.random.default_rng(9).normal(0, 0.04 * s, x.shape), 0, 1),
        lambda x, s: 0.5 + (x - 0.5) * (1 - 0.3 * s),
    ],
    ids=["blur", "noise", "contrast"],
)
def test_grows_with_harm(harm):
    real, other = filters(textures(60, 3)), textures(60, 4)
    distances = [frechet_distance(filters(harm(other, s) if s else other), real) for s in (0, 0.7, 1.4, 2.1)]
    assert distances == sorted(distances)
    assert distances[1] > 1.2 * distances[0]
    assert distances[-1] > 10 * distances[0]


def test_filters_shape_and_determinism():
    images = textures(3, 5)
    found = filters(images)
    assert found.shape == (3, 66)
    assert np.isfinite(filters(np.zeros((2, 16, 20)))).all()
    np.testing.assert_array_equal(filters(images[1:2]), found[1:2])  # a slice's features do not depend on the others


def test_slices():
    volume = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    np.testing.assert_array_equal(slices(volume, "sagittal"), volume[2])
    np.testing.assert_array_equal(slices(volume, "coronal", (0.2, 3.4, 1.0)), volume[:, 3])
    np.testing.assert_array_equal(slices(volume, "axial", (0, 0, 99)), volume[..., 5])
    assert set(PLANES.values()) == {0, 1, 2}
