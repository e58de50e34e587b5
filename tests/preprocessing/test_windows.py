"""Scaling and its inverse, windows that hold their tumor, and randomness that is given back."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tumorgen_cli import geometry
from tumorgen_cli.geometry import Box, cast_to_dtype, find_spanning_component
from tumorgen_cli.planning.plan import ChannelPlan
from tumorgen_cli.preprocessing import cases, intensity, windows
from tumorgen_cli.preprocessing.cases import Case, CaseRecord, Component, ScanIdentity
from tumorgen_cli.preprocessing.intensity import to_comparable_units
from tumorgen_cli.system.errors import StateError

PET = ChannelPlan("PET", "dataset", 0.0, 20.0, 0.5)
CT = ChannelPlan("CT", "dataset", -175.0, 250.0, 1.0)
MR = ChannelPlan("T1", "own", 0.0, 1.25, 1.0)


def test_scale_and_unscale_are_inverse():
    rng = np.random.default_rng(0)
    image = np.stack(
        [rng.uniform(0, 20, (6, 5, 4)), rng.uniform(-175, 250, (6, 5, 4)), rng.normal(300, 40, (6, 5, 4))]
    ).astype(np.float32)
    channels = (PET, CT, MR)
    limits = intensity.scan_limits(image, channels)
    clipped = np.clip(image, limits[:, 0, None, None, None], limits[:, 1, None, None, None])
    scaled = intensity.scale(image, channels, limits)
    assert scaled.dtype == np.float32
    assert scaled.min() >= -1
    assert scaled.max() <= 1
    np.testing.assert_allclose(intensity.unscale(scaled, channels, limits), clipped, atol=2e-4)


def test_scale_by_hand():
    limits = np.array([[0, 20], [-175, 250]], np.float32)
    image = np.array([[0, 5, 20, 30, -1], [-175, 37.5, 250, 900, -1000]], np.float32).reshape(2, 5, 1, 1)
    found = intensity.scale(image, (PET, CT), limits)[..., 0, 0]
    np.testing.assert_allclose(found, [[-1, 0, 1, 1, -1], [-1, 0, 1, 1, -1]], atol=1e-6)
    outside = intensity.unscale(np.array([-1.5, 1.5], np.float32).reshape(1, 2, 1, 1), (PET,), limits[:1])
    np.testing.assert_allclose(outside.ravel(), [0, 20])


def test_units_are_a_scans_own_only_where_scans_differ_in_them():
    limits = [(0.0, 20.0), (-175.0, 250.0), (100.0, 500.0)]
    np.testing.assert_array_equal(intensity.channel_units((PET, CT, MR), limits), [[0, 1], [0, 1], [100, 320]])
    raised = replace(MR, low=0.25)
    np.testing.assert_array_equal(
        intensity.channel_units((raised,), [(180.0, 500.0)]), [[100, 320]]
    )  # whatever is clipped
    np.testing.assert_array_equal(intensity.channel_units((MR,), [(0.0, 0.0)]), [[0, 1]])  # nothing to divide by


def test_limits_are_the_plans_or_the_scans():
    image = np.stack([np.linspace(0, 1000, 1001).reshape(1001, 1, 1)] * 2)
    np.testing.assert_allclose(intensity.scan_limits(image, (PET, MR)), [[0, 20], [1, 1 + 1.25 * 998]])
    tumors = np.zeros(image.shape[1:], bool)
    tumors[900:] = True
    np.testing.assert_allclose(
        intensity.scan_limits(image, (PET, MR), tumors), [[0, 20], [0.897, 0.897 * (1 + 1.25 * 998)]]
    )  # and two voxels beside it


def test_a_constant_scan_has_no_division_by_zero():
    image = np.full((1, 3, 3, 3), 7.0, np.float32)
    limits = intensity.scan_limits(image, (MR,))
    assert np.isfinite(intensity.scale(image, (MR,), limits)).all()


def test_cut_inside_is_the_slice_and_outside_the_edge_continues():
    array = np.arange(2 * 4 * 5 * 6).reshape(2, 4, 5, 6)
    np.testing.assert_array_equal(geometry.cut(array, (1, 2, 0), (3, 2, 6)), array[:, 1:4, 2:4])
    wide = geometry.cut(array, (-2, 0, 4), (8, 5, 4))
    np.testing.assert_array_equal(wide, np.pad(array, ((0, 0), (2, 2), (0, 0), (0, 2)), mode="edge")[..., 4:8])


def test_masks_end_where_the_scan_does():
    mask = np.ones((4, 5, 6), np.uint8)
    found = geometry.cut_mask(mask, (-2, 1, 3), (8, 4, 5))
    np.testing.assert_array_equal(found, np.pad(mask, ((2, 2), (0, 0), (0, 2)))[:, 1:5, 3:8])
    assert not geometry.cut_mask(mask, (10, 0, 0), (3, 3, 3)).any()


def test_tight_box():
    mask = np.zeros((9, 8, 7))
    assert geometry.tight_box(mask) is None
    mask[2, 3, 4] = mask[5, 3, 6] = 1
    assert geometry.tight_box(mask) == Box((2, 3, 4), (6, 4, 7))


@pytest.mark.parametrize("seed", range(40))
def test_a_window_shows_its_box_whole(seed):
    rng = np.random.default_rng(seed)
    volume = tuple(int(n) for n in rng.integers(10, 60, 3))
    window = tuple(int(n) for n in rng.choice([16, 32, 48], 3))
    start = [int(rng.integers(0, n - 2)) for n in volume]
    stop = [int(rng.integers(a + 1, min(n, a + w) + 1)) for a, n, w in zip(start, volume, window, strict=True)]
    box = Box(tuple(start), tuple(stop))
    for draw in (None, rng, rng):
        place = geometry.place_window(box, volume, window, draw)
        for a, b, n, w, s in zip(box.start, box.stop, volume, window, place, strict=True):
            assert s <= a
            assert b <= s + w
            assert 0 <= s <= n - w if n >= w else n - w <= s <= 0  # inside the volume, or the volume inside it


def test_places_are_drawn_over_all_that_fit():
    box = Box((20, 20, 20), (24, 24, 24))
    rng = np.random.default_rng(0)
    places = np.array([geometry.place_window(box, (60, 60, 22 + 4), (16, 16, 16), rng) for _ in range(600)])
    assert (places.min(0).tolist(), places.max(0).tolist()) == ([8, 8, 8], [20, 20, 10])
    assert geometry.place_window(box, (60, 60, 60), (16, 16, 16), None) == (14, 14, 14)


@pytest.fixture
def case():
    """A tumor of uptake 10 in 2, a second one beside it."""
    tumors = np.zeros((40, 36, 30), np.uint8)
    tumors[18:24, 15:20, 12:17] = 1
    tumors[26:28, 15:18, 12:15] = 2
    image = np.where(tumors, 10.0, 2.0).astype(np.float32)[None] + np.random.default_rng(0).normal(
        0, 0.1, (1, 40, 36, 30)
    ).astype(np.float32)
    first, second = (Component(i, geometry.tight_box(tumors == i), True) for i in (1, 2))
    scan = ScanIdentity(tumors.shape, "")
    limits = ((0.0, 20.0),)
    record = CaseRecord("c", "h", tumors.shape, (4.0, 4.0, 4.0), limits, (first, second), ("", ""), scan, {})
    return Case(record, image, tumors)


def test_without_a_seed_the_window_is_centred_and_untouched(case):
    image, mask, _ = windows.cut_tumor_window(case, case.record.components[0], (PET,), (16, 16, 16), None)
    box = case.record.components[0].box
    start = tuple((a + b - 16) // 2 for a, b in zip(box.start, box.stop, strict=True))
    np.testing.assert_array_equal(mask, geometry.cut_mask(case.tumors, start, (16, 16, 16)))  # the first is its own
    expected = intensity.scale(geometry.cut(case.image, start, (16, 16, 16)), (PET,), np.array([[0, 20]], np.float32))
    np.testing.assert_array_equal(image, expected)
    second = windows.cut_tumor_window(case, case.record.components[1], (PET,), (16, 16, 16), None).tumors
    assert {*np.unique(mask)} == {*np.unique(second)} == {0, windows.OWN, windows.OTHER}
    assert (second == windows.OWN).sum() == (case.tumors == 2).sum()


def test_without_spatial_a_window_is_not_resampled(case):
    """Its values are the scan's own, turned and times a gain."""
    component, sides = case.record.components[0], (16, 16, 16)
    for seed in range(6):
        start = geometry.place_window(component.box, case.record.shape, sides, np.random.default_rng(seed))
        plain = intensity.scale(geometry.cut(case.image, start, sides), (PET,), np.array([[0, 20]], np.float32))
        image = windows.cut_tumor_window(case, component, (PET,), sides, seed, spatial=False).image
        gains = np.sort(image + 1, None) / np.sort(plain + 1, None)
        assert np.ptp(gains) < 1e-4


def test_same_seed_same_window(case):
    def draw(seed):
        return windows.cut_tumor_window(case, case.record.components[0], (PET,), (16, 16, 16), seed)

    before = case.image.copy()
    state = np.random.get_state()[1].copy()
    for seed in range(4):
        for a, b in zip(draw(seed), draw(seed), strict=True):
            np.testing.assert_array_equal(a, b)
    assert len({draw(seed)[0].tobytes() for seed in range(6)}) == 6
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    np.testing.assert_array_equal(case.image, before)


def test_sublabels_are_moved_with_the_picture_and_change_no_draw(case):
    """A tumor's core of another voxel value and another uptake; with sub-labels, image and tumors are the same."""
    core = np.zeros_like(case.tumors)
    core[20:22, 16:19, 13:16] = 1
    image = np.where(core, 18.0, case.image)
    plain = replace(case, image=image)
    labeled = replace(plain, sublabels=np.where(case.tumors > 0, 2 + 3 * core, 0).astype(np.uint8))
    component = case.record.components[0]
    for seed in (None, *range(6)):
        found, tumors, values = windows.cut_tumor_window(labeled, component, (PET,), (16, 16, 16), seed)
        alone = windows.cut_tumor_window(plain, component, (PET,), (16, 16, 16), seed)
        np.testing.assert_array_equal(found, alone.image)
        np.testing.assert_array_equal(tumors, alone.tumors)
        assert (values.dtype, {*np.unique(values)}) == (np.uint8, {0, 2, 5})
        np.testing.assert_array_equal(values > 0, tumors > 0)
        uptake = intensity.unscale(found, (PET,), np.array([[0, 20]]))[0]
        assert uptake[values == 5].mean() > 1.25 * uptake[values == 2].mean()
        if seed is None:
            assert (values == 5).sum() == core.sum()
    assert windows.cut_tumor_window(plain, component, (PET,), (16, 16, 16), 0).sublabels is None


def test_augmented_windows_keep_the_tumor_under_its_mask(case):
    """Image and mask are moved alike: the tumor stays five times as bright as what is around it."""
    for seed in range(12):
        image, mask, _ = windows.cut_tumor_window(case, case.record.components[0], (PET,), (16, 16, 16), seed)
        assert image.shape == (1, 16, 16, 16)
        assert image.dtype == np.float32
        assert mask.dtype == np.uint8
        assert {0, windows.OWN} <= set(np.unique(mask)) <= {0, windows.OWN, windows.OTHER}
        assert np.abs(image).max() <= 1
        uptake = intensity.unscale(image, (PET,), np.array([[0, 20]]))[0]
        assert uptake[mask > 0].mean() > 2.5 * uptake[mask == 0].mean()


def test_numpys_own_generator_is_put_back():
    np.random.seed(5)
    expected = np.random.random(3)
    np.random.seed(5)
    with windows.seeded_numpy(1):
        first = np.random.random()
    drawn = []

    def fail():
        with windows.seeded_numpy(1):
            drawn.append(np.random.random())
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    assert drawn == [first]
    np.testing.assert_array_equal(np.random.random(3), expected)


def test_a_case_is_memory_mapped_and_knows_what_it_was_made_from(workspace):
    plan, name = workspace.plan(), workspace.splits().train[0]
    case = cases.load_case(workspace.cases / name)
    assert isinstance(case.image, np.memmap)
    assert case.image.shape == (1, *case.record.shape)
    assert case.tumors.shape == case.record.shape
    assert cases.is_done(plan, name, workspace.cases / name)
    for other in (
        replace(plan, tumor_label=2),
        replace(plan, window=replace(plan.window, spacing_mm=(1.0, 1.0, 1.0))),
        replace(plan, fingerprint_hash="other"),
        replace(plan, channels=(replace(plan.channels[0], high=1.0),)),
    ):
        assert not cases.is_done(other, name, workspace.cases / name)
    assert cases.is_done(replace(plan, seed=9), name, workspace.cases / name)


def test_a_case_that_is_not_there():
    with pytest.raises(StateError, match="tumorgen preprocess"):
        cases.load_case(Path("/nowhere/case"))


def test_intensities_compare_between_scans():
    """PET and CT stay in their units, with nothing at 0 SUV and at the window's low end; MR comes in its scan's own."""
    image = np.stack([np.full((2, 2, 2), v, np.float32) for v in (7.0, 60.0, 300.0)])
    limits = np.array([[-0.5, 20.0], [-175.0, 250.0], [100.0, 500.0]], np.float32)
    found, zero = to_comparable_units(image, (PET, CT, MR), limits)
    assert found[:, 0, 0, 0].tolist() == pytest.approx([7, 60, 0.625])
    assert zero.tolist() == [0, -175, 0]
    assert image[2, 0, 0, 0] == 300
    known = image[:2]
    assert to_comparable_units(known, (PET, CT), limits[:2])[0] is known  # nothing is copied


def test_the_part_that_spans_its_box():
    mask = np.zeros((4, 4, 4), bool)
    mask[:, 0, 0] = mask[0, :, 0] = mask[0, 0, :] = True
    arms = mask.copy()
    mask[2:, 2:, 2:] = True
    np.testing.assert_array_equal(find_spanning_component(mask), arms)
    assert find_spanning_component(arms & False) is None
    assert find_spanning_component(~arms) is not None


def test_values_in_a_type():
    values = np.array([-3.6, 2.5, 300.0, 1e6], np.float32)
    assert cast_to_dtype(values, np.dtype(np.uint8)).tolist() == [0, 2, 255, 255]
    assert cast_to_dtype(values, np.dtype(np.int16)).tolist() == [-4, 2, 300, 32767]
    assert cast_to_dtype(values, np.dtype(np.float64)).tolist() == [pytest.approx(v) for v in values.tolist()]
