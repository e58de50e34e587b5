"""Where the body is in a scan, whatever its units, and however large and hot its tumors are."""

import numpy as np
from scipy import ndimage

from tumorgen_cli.data.body import body_levels, body_mask, body_stride


def test_the_body_is_found():
    image = np.full((40, 40, 20), -1000.0, np.float32)
    image[8:32, 10:30, 2:18] = 40
    image[14:20, 14:24, 4:16] = -800  # lungs: part of the body
    image[35:37, 35:37, 5:7] = 200  # a table's screw is not
    image += np.random.default_rng(0).normal(0, 10, image.shape).astype(np.float32)
    body = body_mask(image)
    inside = np.zeros(body.shape, bool)
    inside[8:32, 10:30, 2:18] = True
    assert (body & inside).sum() / inside.sum() > 0.97
    assert not (body & ~ndimage.binary_dilation(inside, iterations=2)).any()
    assert not body[35:37, 35:37, 5:7].any()
    assert body_mask(np.zeros((5, 5, 5), np.float32)).any()


def test_known_tumors_do_not_move_the_threshold():
    """A tumor that fills a part of the scan, and is far hotter than all else, would else be the body."""
    image = np.random.default_rng(0).uniform(0, 0.05, (40, 40, 20)).astype(np.float32)
    image[8:32, 10:30, 2:18] += 0.8
    tumors = np.zeros(image.shape, bool)
    tumors[10:22, 12:28, 4:16] = True
    image[tumors] = 40
    assert body_mask(image)[24:30, 12:28, 4:16].mean() < 0.1
    body = body_mask(image, tumors)
    assert body[24:30, 12:28, 4:16].all()
    assert body[tumors].all()
    assert not body[:5].any()
    np.testing.assert_array_equal(body_mask(image, np.zeros(image.shape, bool)), body_mask(image))


def test_levels_of_the_body():
    channel = np.arange(1000, dtype=np.float32).reshape(10, 10, 10)
    assert body_levels(channel, channel >= 899) == (904.0, 949.0, 994.0)


def test_large_scans_are_subsampled():
    assert (body_stride((100, 100, 100)), body_stride((400, 400, 400)), body_stride((512, 512, 1000))) == (1, 3, 5)
