"""Methods without networks paint in the units of the host."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from support.requests import make_request, opened

from tumorgen_cli.geometry import Box
from tumorgen_cli.methods.base import Request, Sampling
from tumorgen_cli.preprocessing.cases import load_case
from tumorgen_cli.preprocessing.intensity import channel_units, scale


@pytest.mark.parametrize("name", ["copypaste", "syntumor"])
def test_a_tumor_comes_in_the_units_of_its_host(units_of_their_own, workspace, name):
    """Two channels with the same content, one of them in units of each scan, get the same tumor."""
    method, plain = opened(name, units_of_their_own)[0], opened(name, workspace)[0]
    request = make_request(units_of_their_own, Box((4, 4, 4), (28, 28, 28)))
    only = replace(request, image=request.image[:1], limits=request.limits[:1])
    for seed in range(4):
        made, alone = method.synthesize(request, seed, Sampling()), plain.synthesize(only, seed, Sampling())
        np.testing.assert_array_equal(made.image[0], alone.image[0])
        assert made.drawn.get("donor") == alone.drawn.get("donor")
        change = (made.image - request.image)[:, made.mask > 0.5].mean(axis=1) / channel_units(
            method.plan.channels, request.limits
        )[:, 1]
        assert 0.05 < change[1] < 3, change  # independent of the donor's unit


def test_bright_tumors_are_measured_in_units_of_what_lies_around_them(bright):
    """They do not influence the unit, and they are not clipped."""
    plan = bright.plan()
    (channel,) = plan.channels
    assert (channel.scheme, channel.low, channel.high) == (
        "own",
        0,
        pytest.approx(4, rel=0.01),
    )  # the brightest tumor, of a held-out case or not
    for number, facts in enumerate(bright.fingerprint().cases):
        assert facts.tumors[0].mean[0] == pytest.approx(1.5 + 0.5 * number, rel=0.01)
        case = load_case(bright.cases / facts.case)
        np.testing.assert_allclose(
            channel_units(plan.channels, case.record.limits), [[0, 10.0**number]], rtol=0.01, atol=1e-6
        )
        seen = scale(np.asarray(case.image), plan.channels, np.array(case.record.limits))
        assert seen[0, 16, 16, 16] == pytest.approx(-0.25 + 0.25 * number, abs=0.02)
    assert np.allclose(
        plan.methods["syntumor"]["contrast"], np.percentile([0.5, 1, 1.5, 2, 3], (10, 90)), rtol=0.05
    )  # without the fifth case, which is held out


@pytest.mark.parametrize("name", ["copypaste", "syntumor"])
def test_a_contrast_is_painted_as_it_was_measured(bright, name):
    method, _ = opened(name, bright)
    host = np.full((1, 32, 32, 32), 70.0, np.float32)
    limits = np.array([[0.0, 70 * method.plan.channels[0].high]], np.float32)
    request = Request(
        host, Box((4, 4, 4), (28, 28, 28)), Box((6, 6, 6), (26, 26, 26)), limits, method.plan.window.spacing_mm
    )
    for seed in range(4):
        made = method.synthesize(request, seed, Sampling())
        found = (made.image[0] - 70)[ndimage.binary_erosion(made.mask > 0.9, iterations=2)].mean() / 70
        expected = made.drawn["contrast"][0] / 70 if name == "syntumor" else 0.5 + 0.5 * int(made.drawn["donor"][1:])
        assert 0.5 <= expected <= 3
        assert found == pytest.approx(expected, rel=0.3 if name == "syntumor" else 0.05)
