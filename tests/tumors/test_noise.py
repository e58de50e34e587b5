"""Noise like the host's: as strong, as smooth, and deaf to what lies in the box."""

import numpy as np
import pytest
from scipy import ndimage

from tumorgen_cli.geometry import Box
from tumorgen_cli.tumors.noise import draw_scan_noise, noise_strength_at, robust_std

BOX = Box((12, 12, 12), (28, 28, 28))


def scan_of(sigma, strength, seed=0):
    """A flat picture with a step, and the same with blurred noise, stronger in the brighter half."""
    smooth = np.zeros((1, 40, 40, 40), np.float32)
    smooth[:, 20:] = 0.5
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(smooth.shape), (0, sigma, sigma, sigma))
    return smooth, smooth + (noise / noise.std() * np.where(smooth > 0, 2 * strength, strength)).astype(np.float32)


def test_strength_follows_the_level_and_smoothness_the_scan():
    smooth, scan = scan_of(1.0, 0.05)
    noise = draw_scan_noise(scan, smooth, smooth, BOX, np.random.default_rng(1), np.std)[0]
    np.testing.assert_allclose([noise[:18].std(), noise[22:].std()], [0.05, 0.1], rtol=0.2)
    got = [np.corrcoef(a[:18, :, :-1].ravel(), a[:18, :, 1:].ravel())[0, 1] for a in (noise, (scan - smooth)[0])]
    assert abs(got[0] - got[1]) < 0.05


def test_what_is_rarely_far_off_counts():
    """What an autoencoder takes away has long tails; of a robust spread they are no part."""
    smooth, _ = scan_of(0.0, 0.0)
    rng = np.random.default_rng(0)
    residual = (0.02 * rng.standard_normal(smooth.shape) * np.where(rng.random(smooth.shape) < 0.1, 6, 1)).astype(
        np.float32
    )
    noise, bulk = (
        draw_scan_noise(smooth + residual, smooth, smooth, BOX, np.random.default_rng(1), spread)
        for spread in (np.std, robust_std)
    )
    assert noise.std() == pytest.approx(residual.std(), rel=0.1)
    assert bulk.std() == pytest.approx(0.02, rel=0.3)


def test_white_noise_stays_white():
    smooth, scan = scan_of(0.0, 0.05)
    noise = draw_scan_noise(scan, smooth, smooth, BOX, np.random.default_rng(1), np.std)[0]
    assert abs(np.corrcoef(noise[:18, :, :-1].ravel(), noise[:18, :, 1:].ravel())[0, 1]) < 0.05


def test_what_was_in_the_box_has_no_say():
    smooth, scan = scan_of(1.0, 0.05)
    other = scan.copy()
    other[(slice(None), *BOX.slices)] += 7
    a, b = (draw_scan_noise(s, smooth, smooth, BOX, np.random.default_rng(3), np.std) for s in (scan, other))
    np.testing.assert_array_equal(a, b)


def test_nothing_to_learn_from_gives_no_noise():
    smooth, scan = scan_of(1.0, 0.05)
    whole = Box((0, 0, 0), (40, 40, 40))
    assert not draw_scan_noise(scan, smooth, smooth, whole, np.random.default_rng(3), np.std).any()


def test_brighter_than_all_around_is_noisier_along_the_line():
    levels, strengths = np.linspace(-1, -0.6, 5), np.linspace(0.01, 0.05, 5)
    found = noise_strength_at(np.array([-1.5, -0.8, -0.6, 0.4]), levels, strengths)
    assert found == pytest.approx([0.01, 0.03, 0.05, 0.15])
    assert noise_strength_at(np.array([0.4]), levels, strengths[::-1]) == pytest.approx([0.01])  # never below the last
    assert noise_strength_at(np.array([0.4]), np.zeros(5), strengths) == pytest.approx([0.05])
