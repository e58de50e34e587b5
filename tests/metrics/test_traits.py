"""A tumor's traits, and which tumors are hard."""

import numpy as np
import pytest

from tumorgen_cli.metrics.statistics import describe_tumor
from tumorgen_cli.metrics.traits import core_ratio, describe_traits, hard_limit, is_hard

SPACING = (2.0, 2.0, 2.0)
NOTHING = np.zeros(1)


def ball(radius, side=32):
    axes = np.ogrid[:side, :side, :side]
    return sum((a - side / 2 + 0.5) ** 2 for a in axes) <= radius**2


def rng(seed=0):
    return np.random.default_rng(seed)


def test_contrast_heterogeneity_and_core():
    mask = ball(9)
    flat = np.where(mask, 5.0, 2.0)[None].astype(np.float32)
    np.testing.assert_allclose(describe_traits(flat, mask, SPACING, NOTHING), [3, 0, 1], atol=1e-6)
    dark = np.where(ball(7), 1.0, flat).astype(np.float32)  # the deepest third and more
    contrast, cv, core = describe_traits(dark, mask, SPACING, NOTHING)
    inside = dark[0][mask]
    assert contrast == pytest.approx(inside.mean() - 2, abs=1e-5)
    assert cv == pytest.approx(inside.std() / inside.mean(), abs=1e-5)
    assert core == pytest.approx(1 / 5, abs=0.05)
    both = describe_traits(np.concatenate([flat, dark]), mask, SPACING, np.zeros(2))
    np.testing.assert_allclose(both, [3, 0, 1, contrast, cv, core], atol=1e-6)  # channel by channel


def test_it_is_what_the_report_says(trained):
    image = rng().gamma(2.0, 2.0, (1, 24, 24, 24)).astype(np.float32)
    told = describe_tumor(image[0], ball(6, 24), SPACING, 0.0)
    found = describe_traits(image, ball(6, 24), SPACING, NOTHING)
    np.testing.assert_allclose(found, [told.contrast, told.heterogeneity, told.core_ratio], rtol=1e-6)


def test_what_cannot_be_told_is_nan():
    image = rng().uniform(1, 2, (1, 8, 8, 8)).astype(np.float32)
    assert np.isnan(describe_traits(image, np.ones((8, 8, 8)), SPACING, NOTHING)[0])  # no surroundings
    single = np.zeros((8, 8, 8), bool)
    single[4, 4, 4] = True
    assert np.isnan(core_ratio(image[0], single, SPACING))
    assert np.isnan(describe_traits(-image, single, SPACING, NOTHING)[1])
    with pytest.raises(ValueError, match="empty"):
        describe_traits(image, single & False, SPACING, NOTHING)


def test_hard_kinds():
    """Weak contrast of either sign, dark cores, uneven ones; what is not known is never hard."""
    ramp = np.linspace(0.1, 1, 11)
    for kind, values in (("low-contrast", ramp), ("low-contrast", -ramp), ("necrotic", ramp), ("heterogeneous", -ramp)):
        limit = hard_limit(kind, np.append(values, np.nan))
        assert np.flatnonzero(is_hard(kind, np.append(values, np.nan), limit)).tolist() == [0, 1, 2]
    assert np.isnan(hard_limit("necrotic", np.array([np.nan])))
    assert is_hard("necrotic", np.array([0.5]), hard_limit("necrotic", np.array([0.5]))).all()  # never none of one
