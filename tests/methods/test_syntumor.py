"""SynTumor: the data set's own contrast."""

from dataclasses import replace

import numpy as np
import pytest
from support.requests import make_request, opened

from tumorgen_cli.geometry import Box
from tumorgen_cli.methods.base import Sampling


def test_syntumors_contrast_is_the_data_sets(trained):
    """In an even host the tumor is brighter by a contrast of the fingerprint's range."""
    method, _ = opened("syntumor", trained)
    (low, high) = method.config.contrast[0]
    flat = np.full((1, 32, 32, 32), 2.0, np.float32)
    for seed in range(6):
        request = replace(make_request(trained, Box((6, 6, 6), (26, 26, 26))), image=flat)
        made = method.synthesize(request, seed, Sampling())
        (contrast,) = made.drawn["contrast"]
        assert low <= contrast <= high
        core = made.mask > 0.99
        assert float(made.image[0][core].mean()) - 2 == pytest.approx(contrast, rel=0.35)
