"""From a draw in latents to a painted window."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from tumorgen_cli.painting import near, roughen
from tumorgen_cli.records import Box


def test_how_near_a_voxel_is_to_the_tumor():
    mask = np.zeros((20, 8, 8), np.float32)
    mask[4:6, 3:5, 3:5] = 1
    weight = near(mask, (2.0, 3.0, 4.0), 8.0)
    assert weight[mask == 1].min() == 1
    assert weight[7, 3, 3] == pytest.approx(0.5)  # 4 mm away, half of the reach
    assert not weight[9:, 3, 3].any()  # 8 mm and more
    assert weight[4, 5, 3] > weight[4, 3, 5]  # 3 mm, 4 mm
    assert not near(mask * 0.4, (2.0, 3.0, 4.0), 8.0).any()


def test_an_edge_wavers_where_it_is_unsure():
    axes = np.ogrid[:32, :32, :32]
    ball = np.clip((10.5 - np.sqrt(sum((a - 15.5) ** 2 for a in axes))) / 6 + 0.5, 0, 1).astype(np.float32)
    window = SimpleNamespace(spacing_mm=(3.0, 3.0, 3.0))

    def rough(box, strength, seed=1):
        canvas = SimpleNamespace(scaled=np.zeros((1, 32, 32, 32)), request=window, voxels=box)
        return roughen(canvas, ball[box.slices], strength, 12.0, seed)

    whole, part = Box((0, 0, 0), (32, 32, 32)), Box((4, 0, 8), (28, 32, 24))
    np.testing.assert_allclose(rough(whole, 0.0), np.clip(ball, 1e-4, 1 - 1e-4), atol=1e-5)
    wavering = rough(whole, 2.0)
    np.testing.assert_array_equal(wavering[part.slices], rough(part, 2.0))  # whatever part of the window is decoded
    assert not np.array_equal(wavering, rough(whole, 2.0, seed=2))
    sure = (ball == 0) | (ball == 1)
    np.testing.assert_array_equal(wavering[sure] >= 0.5, ball[sure] >= 0.5)
    edge = [int((mask ^ ndimage.binary_erosion(mask)).sum()) for mask in (ball >= 0.5, wavering >= 0.5)]
    assert edge[1] > 1.2 * edge[0]
    assert (wavering >= 0.5).sum() == pytest.approx((ball >= 0.5).sum(), rel=0.2)  # neither larger nor smaller
