"""From a draw in latents to a painted window."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from tumorgen_cli.geometry import Box
from tumorgen_cli.methods.latent.canvas import closeness, roughen_mask


def test_how_near_a_voxel_is_to_the_tumor():
    mask = np.zeros((20, 8, 8), np.float32)
    mask[4:6, 3:5, 3:5] = 1
    weight = closeness(mask, (2.0, 3.0, 4.0), 8.0)
    assert weight[mask == 1].min() == 1
    assert weight[7, 3, 3] == pytest.approx(0.5)  # 4 mm away, half of the reach
    assert not weight[9:, 3, 3].any()  # 8 mm and more
    assert weight[4, 5, 3] > weight[4, 3, 5]  # 3 mm, 4 mm
    assert not closeness(mask * 0.4, (2.0, 3.0, 4.0), 8.0).any()


SIDE = 32
WHOLE = Box((0, 0, 0), (SIDE, SIDE, SIDE))


def soft_ball(radius, background=0.0):
    axes = np.ogrid[:SIDE, :SIDE, :SIDE]
    share = np.clip((radius - np.sqrt(sum((a - 15.5) ** 2 for a in axes))) / 6 + 0.5, 0, 1)
    return np.maximum(share, background).astype(np.float32)


def rough(share, strength, box=WHOLE, seed=1):
    window = SimpleNamespace(spacing_mm=(3.0, 3.0, 3.0))
    canvas = SimpleNamespace(scaled=np.zeros((1, SIDE, SIDE, SIDE)), request=window, voxels=box)
    return roughen_mask(canvas, share[box.slices], strength, 12.0, seed)


@pytest.mark.parametrize("radius", [3, 5, 10])
def test_an_edge_wavers_where_it_is_unsure(radius):
    ball = soft_ball(radius)
    sure = (ball == 0) | (ball == 1)
    edges = []
    for seed in range(8):
        wavering = rough(ball, 2.0, seed=seed)
        np.testing.assert_array_equal(wavering[sure] >= 0.5, ball[sure] >= 0.5)
        assert (wavering >= 0.5).sum() == pytest.approx((ball >= 0.5).sum(), rel=0.3)  # less what came loose
        edges.append([int((mask ^ ndimage.binary_erosion(mask)).sum()) for mask in (ball >= 0.5, wavering >= 0.5)])
    plain, wavering = np.mean(edges, axis=0)
    assert wavering > 1.05 * plain
    assert not np.array_equal(rough(ball, 2.0), rough(ball, 2.0, seed=2))
    np.testing.assert_array_equal(rough(ball, 0.0) >= 0.5, ball >= 0.5)


def test_an_edge_wavers_alike_whatever_is_decoded_around_it():
    ball, part = soft_ball(7), Box((4, 0, 6), (28, 32, 26))
    np.testing.assert_allclose(rough(ball, 2.0)[part.slices], rough(ball, 2.0, part), atol=1e-6)


def test_no_tumor_comes_of_wavering():
    assert not (rough(np.minimum(soft_ball(8), 0.45), 3.0) >= 0.5).any()
    speck = np.zeros((SIDE, SIDE, SIDE), np.float32)
    speck[4, 4, 4] = 0.6
    assert all((rough(speck + 0.3, 3.0, seed=seed) >= 0.5).any() for seed in range(4))  # nor does one vanish
    unsure = soft_ball(8, background=0.1)
    assert ndimage.label(unsure >= 0.5)[1] == 1
    for seed in range(4):
        mask = rough(unsure, 3.0, seed=seed) >= 0.5
        parts, count = ndimage.label(mask)
        assert all((unsure[parts == part] >= 0.5).any() for part in range(1, count + 1))
