"""Mask priors: they lie in the box, follow its size, and differ by seed alone."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from support.requests import make_request

from tumorgen_cli.geometry import tight_box
from tumorgen_cli.methods.mask_prior import place_mask, training_masks
from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.preprocessing.cases import load_case
from tumorgen_cli.system.errors import PlanError
from tumorgen_cli.tumors.masks import draw_mask, draw_tumor_box, ellipsoid, nearest_size_class


def test_size_classes_are_the_nearest_by_ratio():
    assert [nearest_size_class((4, 8, 16, 32), r) for r in (0.0, 1, 5, 6, 11, 12, 23, 100)] == [0, 0, 0, 1, 1, 2, 3, 3]


def test_a_plain_ellipsoid_has_its_volume():
    body = ellipsoid((40, 40, 40), (20, 20, 20), (15, 12, 9), np.random.default_rng(0))
    assert float(body.sum()) == pytest.approx(4 / 3 * np.pi * 15 * 12 * 9, rel=0.02)
    assert body[20, 20, 20] == 1
    assert body[36, 20, 20] == 0


def test_a_tumors_place_in_its_box():
    """Offsets up to the reach on each side, at least half of the box left, the whole box where there is no reach."""
    rng = np.random.default_rng(0)
    assert draw_tumor_box((9, 10, 11), (0, 0, 0), rng).shape == (9, 10, 11)
    draws = [draw_tumor_box((40, 40, 4), (5, 30, 30), rng) for _ in range(300)]
    starts, ends = np.array([d.start for d in draws]), np.array([(40, 40, 4)]) - np.array([d.stop for d in draws])
    assert starts.min() >= 0
    assert ends.min() >= 0
    assert starts[:, 0].max() == 5 == ends[:, 0].max()
    assert starts[:, 0].mean() == pytest.approx(2.5, abs=0.3)
    assert min(d.shape[1] for d in draws) >= 20
    assert min(d.shape[2] for d in draws) >= 2


@pytest.fixture
def donors(trained):
    return training_masks([load_case(trained.cases / name) for name in trained.splits().train])


@pytest.mark.parametrize("prior", ["ellipsoid", "training"])
def test_a_mask_fills_its_box(trained, donors, prior):
    plan = trained.plan()
    config = replace(find_method("syntumor")(plan, trained).config.mask, prior=prior)
    filled = []
    for seed in range(20):
        mask, drawn = draw_mask(config, plan, (24, 20, 16), plan.window.spacing_mm, np.random.default_rng(seed), donors)
        again, _ = draw_mask(config, plan, (24, 20, 16), plan.window.spacing_mm, np.random.default_rng(seed), donors)
        np.testing.assert_array_equal(mask, again)
        assert mask.shape == (24, 20, 16)
        assert 0 <= mask.min() <= mask.max() <= 1
        extent = tight_box(mask > 0.5).shape
        filled += [a - b for a, b in zip(extent, drawn["extent_voxels"], strict=True)]
        assert ("donor" in drawn) == (prior == "training")
        assert prior == "training" or ndimage.label(mask >= 0.5)[1] == 1  # no islands
    assert max(filled) <= 1  # as long as the tumor that was drawn, to a voxel
    assert -1 < np.mean(filled) < 0.5  # (a thin spike may be lost)


def test_a_training_mask_keeps_its_donors_form(trained):
    """Untouched but for mirroring, a donor comes out as it is."""
    plan = trained.plan()
    donor = np.zeros((12, 10, 8), bool)
    donor[:6] = True
    donor[:, :5, :4] = True
    config = replace(
        find_method("syntumor")(plan, trained).config.mask,
        prior="training",
        turn_degrees=0.0,
        deformation=((0.0, 0.0),) * 4,
    )
    plan = replace(plan, window=replace(plan.window, alpha=0.0))
    mask, _ = draw_mask(config, plan, (12, 10, 8), (1, 1, 1), np.random.default_rng(3), [donor])
    mirrored = [np.flip(donor, [a for a in range(3) if flips >> a & 1]) for flips in range(8)]
    assert any(np.array_equal(mask > 0.5, each) for each in mirrored)


def test_thin_boxes_get_masks_too(trained, donors):
    plan = trained.plan()
    for prior in ("ellipsoid", "training"):
        config = replace(find_method("syntumor")(plan, trained).config.mask, prior=prior)
        for box in ((1, 1, 1), (4, 4, 1), (8, 1, 3)):
            for seed in range(10):
                mask, _ = draw_mask(config, plan, box, (2.0, 2.0, 5.0), np.random.default_rng(seed), donors)
                assert (mask >= 0.5).any()


def test_size_classes_must_match(trained):
    config = find_method("syntumor")(trained.plan(), trained).config
    with pytest.raises(PlanError, match=r"one for each of mask\.radii_mm"):
        replace(config.mask, radii_mm=(4.0, 8.0))


def test_a_mask_ends_where_the_region_does(trained):
    plan = trained.plan()
    config = find_method("syntumor")(plan, trained).config.mask
    request = make_request(trained)
    whole, drawn = place_mask(config, plan, request, np.random.default_rng(1), [])
    region = np.zeros(whole.shape, bool)
    region[:14] = True
    cut, same = place_mask(config, plan, replace(request, region=region), np.random.default_rng(1), [])
    assert same == drawn
    assert whole[14:].any()
    np.testing.assert_array_equal(cut, np.where(region, whole, 0))
