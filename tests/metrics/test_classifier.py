"""Features whose values are known, a classifier that finds what was planted and nothing else, and folds that do not
leak."""

import math

import numpy as np
import pytest
from scipy import ndimage

from tumorgen_cli.metrics import classifier as room
from tumorgen_cli.metrics.classifier import ReaderTest, reader_test
from tumorgen_cli.metrics.radiomics import (
    INTENSITIES,
    SHAPES,
    Feature,
    _Regions,
    describe_lesion,
    feature_scales,
    lesion_features,
)
from tumorgen_cli.system.json_records import from_plain, to_plain

SPACING = (2.0, 2.0, 4.0)
SCALES = (2.5, 5.0, 10.0)
SHAPE = (60, 60, 36)
NAMES = [feature.name for feature in lesion_features(["PET"])]


def depth_mm(radii=(18.0, 18.0, 18.0), spacing=SPACING, shape=SHAPE):
    """1 in the middle, 0 on the ellipsoid's surface."""
    axes = [(np.arange(n) - (n - 1) / 2) * s / r for n, s, r in zip(shape, spacing, radii, strict=True)]
    return 1 - np.sqrt(sum(a**2 for a in np.meshgrid(*axes, indexing="ij")))


def describe(image, mask, spacing=SPACING, excluded=None):
    values = describe_lesion(image[None], mask, spacing, np.zeros(1), SCALES, excluded)
    return dict(zip(NAMES, values, strict=True))


@pytest.fixture(scope="module")
def ball():
    return depth_mm() > 0


@pytest.fixture(scope="module")
def white():
    return np.random.default_rng(0).standard_normal(SHAPE)


def test_shape(ball):
    found = describe(np.where(ball, 5.0, 1.0), ball)
    assert found["volume_ml"] == pytest.approx(4 / 3 * math.pi * 1.8**3, rel=0.05)
    assert found["surface_to_volume"] == pytest.approx(3 / 18, rel=0.1)
    assert 0.9 < found["sphericity"] <= 1
    assert found["elongation"] == pytest.approx(1, abs=0.05)
    egg = depth_mm((40, 20, 10), (2.0, 2.0, 2.0)) > 0
    found = describe(egg * 1.0, egg, (2.0, 2.0, 2.0))
    assert (found["elongation"], found["flatness"]) == pytest.approx((0.5, 0.25), abs=0.03)


def test_intensities(ball):
    inside = np.zeros(SHAPE)
    inside[ball] = np.random.default_rng(0).permutation(np.linspace(2, 6, ball.sum()))  # uniform from 2 to 6
    found = describe(inside, ball)
    told = [
        found[name]
        for name in (
            "percentile_10",
            "median",
            "percentile_90",
            "maximum",
            "skewness",
            "kurtosis",
            "entropy",
            "dispersion",
        )
    ]
    np.testing.assert_allclose(told, [2.4, 4, 5.6, 6, 0, -1.2, 5, 2 / 8], atol=0.02)


def test_the_gradient_is_per_millimetre(ball):
    ramp = 0.3 * np.arange(60)[:, None, None] * SPACING[0] + np.zeros(SHAPE)
    found = describe(ramp, ball)
    assert found["gradient"] == pytest.approx(0.3, rel=0.01)
    assert found["spots_fine"] == pytest.approx(0, abs=1e-9)
    assert found["edge_gradient"] == pytest.approx(0, abs=0.01)  # uphill on one side, downhill on the other


def test_the_same_body_on_another_grid_has_the_same_features():
    def body(spacing, shape):
        depth = depth_mm((24, 20, 20), spacing, shape)
        return describe(1 + 4 / (1 + np.exp(-depth / 0.1)), depth > 0, spacing)

    fine, coarse = body((1.5, 1.5, 1.5), (80, 76, 76)), body((2.5, 2.5, 3.0), (48, 46, 38))
    for name in (
        "volume_ml",
        "elongation",
        "median",
        "gradient",
        "edge_gradient",
        "edge_contrast",
        "edge_alignment",
        "edge_sharpness",
        "spots_fine",
    ):
        assert fine[name] == pytest.approx(coarse[name], rel=0.12), name


def test_boundary(ball):
    step = np.where(ball, 5.0, 1.0)
    soft = 1 + 4 / (1 + np.exp(-depth_mm() * 18 / 5))
    sharp, blurred, cold = describe(step, ball), describe(soft, ball), describe(-step, ball)
    assert sharp["edge_contrast"] == pytest.approx(4)
    assert cold["edge_contrast"] == pytest.approx(-4)
    assert sharp["edge_gradient"] > 1.5 * blurred["edge_gradient"] > 0
    assert cold["edge_gradient"] == pytest.approx(-sharp["edge_gradient"])
    assert cold["edge_sharpness"] == pytest.approx(sharp["edge_sharpness"])
    assert sharp["edge_sharpness"] > 1.2 * blurred["edge_sharpness"]
    assert sharp["edge_alignment"] > 0.95
    aside = describe(np.roll(step, 6, 0), ball)
    assert aside["edge_alignment"] < 0.8
    assert aside["edge_gradient"] < 0.8 * sharp["edge_gradient"]


def test_noise_inside_near_and_far(ball, white):
    depth = depth_mm() * 18
    strength = np.where(ball, 0.4, np.where(depth >= -9, 0.1, 0.2))  # "near" ends at half the radius
    found = describe(3 + strength * white, ball)
    assert found["noise_to_near"] == pytest.approx(math.log(4), abs=0.15)
    assert found["near_to_far"] == pytest.approx(math.log(0.5), abs=0.15)
    assert found["near_mean"] == pytest.approx(3, abs=0.05)
    assert found["near_spread"] == pytest.approx(0.1, abs=0.01)


def test_smooth_texture_is_told_from_noise(ball, white):
    smooth = ndimage.gaussian_filter(white, [6 / s for s in SPACING])
    a, b = describe(5 + white, ball), describe(5 + smooth / smooth.std(), ball)
    a, b = describe(5 + white, ball), describe(5 + smooth / smooth.std(), ball)
    assert a["high_frequency"] > 0.8
    assert b["high_frequency"] < 0.3
    assert a["share_fine"] > 0.8 > 0.4 > b["share_fine"]
    assert b["share_fine"] < b["share_middle"] < b["share_coarse"]
    assert a["noise"] > 3 * b["noise"]
    assert a["spots_fine"] > b["spots_fine"]


def test_texture_does_not_see_the_boundary(ball, white):
    dim, hot = describe(1 + 0.2 * white, ball), describe(np.where(ball, 21, 1) + 0.2 * white, ball)
    for name in ("local_spread", "noise", "high_frequency", "share_fine"):
        assert hot[name] == pytest.approx(dim[name], rel=1e-6), name


def test_excluded_voxels_do_not_count(ball):
    image = np.where(ball, 5.0, 1.0)
    other = (depth_mm() < -0.4) & (np.arange(60)[:, None, None] < 20)
    found = describe(np.where(other, 50, image), ball, excluded=other)
    assert (found["near_mean"], found["contrast"], found["near_less_far"]) == pytest.approx((1, 4, 0))


def test_odd_lesions():
    image = np.random.default_rng(0).random((1, 12, 12, 12))
    mask = np.zeros((12, 12, 12), bool)
    assert describe_lesion(image, mask, SPACING, np.zeros(1), SCALES) is None
    mask[0, 0, 3] = True
    found = describe(image[0], mask)
    assert found["volume_ml"] == pytest.approx(0.016)
    assert all(math.isnan(found[name]) for name in ("share_fine", "noise", "skewness", "elongation"))
    assert math.isnan(describe(image[0], np.ones_like(mask))["contrast"])  # nothing around
    assert not np.isinf(describe_lesion(np.zeros_like(image), mask, SPACING, np.zeros(1), SCALES)).any()


def test_channels_have_features_of_their_own(ball, white):
    features = lesion_features(["PET", "CT"])
    both = describe_lesion(np.stack([5 + white, 50 + white]), ball, SPACING, np.zeros(2), SCALES)
    told = {feature.name: value for feature, value in zip(features, both, strict=True)}
    assert told["CT.mean"] == pytest.approx(told["PET.mean"] + 45)
    assert len(both) == len(SHAPES) + 2 * len(INTENSITIES) == len(set(told))
    assert next(f for f in features if f.name == "CT.noise").words == "noise inside (CT)"


def test_scales_follow_the_spacing():
    assert feature_scales((2.0, 2.0, 2.0)) == pytest.approx((2, 4, 8))
    assert feature_scales((1.0, 2.0, 4.0)) == pytest.approx((2, 4, 8))


FEATURES = tuple(
    Feature(name, family, f"the {name}")
    for name, family in zip("abcdef", ("shape", "shape", *["texture"] * 4), strict=True)
)


@pytest.fixture(autouse=True)
def fewer_divisions(monkeypatch):
    monkeypatch.setattr(room, "_REPEATS", 3)


def draw(count, seed, shift=()):
    values = np.random.default_rng(seed).normal(size=(count, len(FEATURES)))
    for column, by in shift:
        values[:, column] += by
    return values


def names(count, prefix):
    return [f"{prefix}{i}" for i in range(count)]


def test_alike_sets_cannot_be_told_apart():
    found = [
        reader_test(draw(30, 2 * i), draw(30, 2 * i + 1), names(30, "s"), names(30, "r"), FEATURES, 0) for i in range(6)
    ]
    assert np.mean([test.auc for test in found]) == pytest.approx(0.5, abs=0.08)
    assert sum(test.low <= 0.5 <= test.high for test in found) >= 5
    assert sum(len(test.give_aways) for test in found) <= 1  # 5 % of tests name one
    assert found[0].notes == ()
    assert (found[0].folds, found[0].synthetic_groups, found[0].reason) == (5, 30, "")


def test_what_was_planted_is_named():
    found = reader_test(draw(40, 0, [(2, -1.5)]), draw(50, 1), names(40, "s"), names(50, "r"), FEATURES, 0)
    assert found.auc == pytest.approx(0.856, abs=0.08)  # normal distributions 1.5 apart
    assert found.low > 0.65
    first = found.give_aways[0]
    assert (first.feature, first.direction) == ("c", "lower")
    assert first.words == f"the c: synthetic lower, AUC {first.auc:.2f}"
    assert first.low < first.auc < first.high
    assert first.importance > 0.1
    assert first.synthetic < first.real
    assert len(found.give_aways) == 1
    by = {row.family: row.auc for row in found.families}
    assert by["texture"] > 0.75 > by["shape"]
    suspicion = np.array(found.suspicion)
    assert suspicion.mean() > 0.6
    assert np.corrcoef(suspicion, draw(40, 0)[:, 2])[0, 1] < -0.7


def test_hosts_are_never_on_both_sides():
    """Every host has a fingerprint of its own, that says nothing of the next host's lesions."""
    rng = np.random.default_rng(4)
    sides = []
    for _ in range(2):
        marks = rng.normal(size=(10, len(FEATURES))) * 10
        sides.append(np.repeat(marks, 6, axis=0) + 0.01 * rng.normal(size=(60, len(FEATURES))))
    hosts = [np.repeat(names(10, side), 6) for side in "sr"]
    grouped = reader_test(*sides, *hosts, FEATURES, 0)
    assert grouped.low <= 0.5 <= grouped.high
    assert grouped.high - grouped.low > 0.2
    # a nearest neighbor that may look at the same host knows them all: the same lesions leak where they are let to
    labels, groups = np.arange(120) < 60, np.unique(np.concatenate(hosts), return_inverse=True)[1]
    leaking, tight = (nearest_neighbor_auc(np.concatenate(sides), labels, g) for g in (np.arange(120), groups))
    assert leaking > 0.99
    assert tight < 0.8


def nearest_neighbor_auc(values, labels, groups):
    """AUC of `room`'s own cross-validation, with a classifier that remembers."""
    from sklearn.neighbors import KNeighborsClassifier

    class Memory(KNeighborsClassifier):
        def decision_function(self, values):
            return self.predict_proba(values)[:, 1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "_classifier", lambda: Memory(1))
        found = room._cross_validate(values, labels, room._divisions(labels, groups, 0)[0], None)
    return found.wins.sum() / found.pairs.sum()


def test_a_host_of_both_sides_is_one_group():
    groups, notes = room._groups(["x", "y"], ["y", "z"])
    assert groups[1] == groups[2]
    assert len(set(groups)) == 3
    assert notes == ()


def test_one_host_is_told():
    found = reader_test(draw(20, 0), draw(20, 1), ["torso"] * 20, names(20, "r"), FEATURES, 0)
    assert "all synthetic lesions are of torso" in found.notes[0]
    assert found.synthetic_groups == 1
    assert math.isfinite(found.auc)


def test_same_seed_same_result():
    sides = draw(20, 0, [(1, 1.0)]), draw(25, 1), names(20, "s"), names(25, "r"), FEATURES
    assert reader_test(*sides, 3) == reader_test(*sides, 3)
    assert reader_test(*sides, 3).low != reader_test(*sides, 4).low


def test_too_few_lesions():
    found = reader_test(draw(9, 0), draw(40, 1), names(9, "s"), names(40, "r"), FEATURES, 0)
    assert math.isnan(found.auc)
    assert found.reason == "9 synthetic and 40 real lesions; at least 10 of each are needed"
    assert reader_test(np.zeros((0, 6)), draw(40, 1), [], names(40, "r"), FEATURES, 0).synthetic == 0


def test_undefined_features_are_counted_and_imputed():
    ours, theirs = draw(20, 0, [(2, 2.0)]), draw(20, 1)
    ours[:3, 2], theirs[:2, 2], ours[:, 5], theirs[:, 5] = math.nan, math.nan, math.nan, math.nan
    found = reader_test(ours, theirs, names(20, "s"), names(20, "r"), FEATURES, 0)
    assert [(row.feature, row.synthetic, row.real) for row in found.undefined] == [("c", 3, 2), ("f", 20, 20)]
    assert found.auc > 0.7
    assert found.give_aways[0].feature == "c"


def test_the_record_survives_a_file():
    found = reader_test(draw(15, 0, [(0, 3.0)]), draw(15, 1), names(15, "s"), names(15, "r"), FEATURES, 0)
    assert from_plain(ReaderTest, to_plain(found)) == found


def test_lesions_and_groups_must_fit():
    with pytest.raises(ValueError, match="25 lesions, but groups of 24"):
        reader_test(draw(10, 0), draw(15, 1), names(10, "s"), names(14, "r"), FEATURES, 0)


@pytest.mark.parametrize("spacing", [(0.8, 0.8, 5.0), (1.0, 1.0, 3.0), (4.0, 4.0, 3.27), (2.0, 2.0, 2.0)])
def test_a_slope_is_the_same_along_every_axis(spacing):
    """Across thick slices too, where a Gaussian is narrower than a voxel."""
    mask = np.zeros((16, 16, 16), bool)
    mask[6:10, 6:10, 6:10] = True
    places = _Regions(mask, ~mask & False, spacing, feature_scales(spacing), 10.0)
    for axis in range(3):
        ramp = np.moveaxis(np.broadcast_to(spacing[axis] * np.arange(16.0), (16, 16, 16)), 2, axis)
        assert places.slope(ramp, places.scales_mm[0])[:, 8, 8, 8] == pytest.approx(np.eye(3)[axis], abs=1e-9)
