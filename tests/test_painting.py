"""From a draw in latents to a painted window."""

import numpy as np
import pytest

from tumorgen_cli.painting import near


def test_how_near_a_voxel_is_to_the_tumor():
    mask = np.zeros((20, 8, 8), np.float32)
    mask[4:6, 3:5, 3:5] = 1
    weight = near(mask, (2.0, 3.0, 4.0), 8.0)
    assert weight[mask == 1].min() == 1
    assert weight[7, 3, 3] == pytest.approx(0.5)  # 4 mm away, half of the reach
    assert not weight[9:, 3, 3].any()  # 8 mm and more
    assert weight[4, 5, 3] > weight[4, 3, 5]  # 3 mm, 4 mm
    assert not near(mask * 0.4, (2.0, 3.0, 4.0), 8.0).any()
