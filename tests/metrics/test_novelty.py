"""Copies of all kinds are found, strangers are not, and empty sets are told as such."""

import math

import numpy as np
import pytest
from scipy import ndimage

from tumorgen_cli.metrics import novelty as room
from tumorgen_cli.metrics.novelty import (
    FACTS,
    Novelty,
    compare_diversity,
    distances,
    find_nearest,
    lesion_patch,
    make_lesion,
    measure_novelty,
)
from tumorgen_cli.metrics.statistics import describe_tumor
from tumorgen_cli.system.json_records import from_plain, to_plain

SPACING = (2.0, 2.0, 3.0)
SHAPE = (44, 40, 30)


def blob(seed, scale=1.0):
    """A smooth random lesion: picture (1, X, Y, Z) with a texture of its own, and mask."""
    rng = np.random.default_rng(seed)
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(SHAPE, SPACING, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    depth = 1 - np.sqrt(sum((a / r) ** 2 for a, r in zip((x, y, z), scale * rng.uniform(12, 24, 3), strict=True)))
    wobble = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 3.5)
    mask = depth + 0.2 * wobble / wobble.std() > 0
    texture = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 3)
    image = 1 + mask * (4 + texture / texture.std()) + 0.05 * rng.standard_normal(SHAPE)
    return image[None].astype(np.float32), mask


def made(case, image, mask, group=None, spacing=SPACING):
    statistics = describe_tumor(image[0], mask, spacing, 0.0)
    return make_lesion(case, group or case, image, mask, spacing, statistics)


@pytest.fixture(scope="module")
def train():
    return [made(f"t{i}", *blob(i)) for i in range(14)]


@pytest.fixture(scope="module")
def held_out():
    return [made(f"h{i}", *blob(100 + i)) for i in range(4)]


def mirrored(image, mask):
    return np.flip(image, (1, 3)), np.flip(mask, (0, 2))


def brighter(image, mask):
    return 3 * image + 7, mask


def shifted(image, mask):
    return np.roll(image, 3, 1), np.roll(mask, 3, 0)


def elsewhere(image, mask):
    """The same lesion in other surroundings."""
    return np.where(mask, image, 9 * np.random.default_rng(5).random(image.shape)), mask


def rescaled(image, mask):
    """10 % larger and noisy, with a mask of its own."""
    rng = np.random.default_rng(3)

    def zoom(a):
        return ndimage.affine_transform(a, np.full(3, 1 / 1.1), [(n - 1) / 2 * (1 - 1 / 1.1) for n in SHAPE], order=1)

    larger = zoom(image[0]) + 0.3 * rng.standard_normal(SHAPE)
    edge = zoom(mask.astype(float)) + 0.1 * ndimage.gaussian_filter(rng.standard_normal(SHAPE), 1)
    return larger[None], edge > 0.5


@pytest.mark.parametrize(
    ("copy", "most"),
    [(lambda *a: a, 1e-5), (mirrored, 1e-4), (brighter, 1e-4), (shifted, 1e-4), (elsewhere, 0.14), (rescaled, 0.12)],
)
def test_copies_are_found(copy, most, train, held_out):
    found = measure_novelty([made("copy", *copy(*blob(6)))], train, held_out)
    assert [pair.nearest for pair in found.pairs] == ["t6"]
    assert 0 <= found.pairs[0].distance <= most
    assert (found.near_copies, found.singled_out, found.close_share) == (1, 1, 1)
    assert found.copied == ("copy",)
    assert found.pairs[0].ratio < 0.5


def test_another_spacing_is_no_disguise(train, held_out):
    image, mask = blob(6)
    finer = np.repeat(np.repeat(image, 2, 2), 2, 1)
    copy = made("copy", finer, np.repeat(np.repeat(mask, 2, 1), 2, 0), spacing=(1.0, 1.0, 3.0))
    found = measure_novelty([copy], train, held_out)
    assert (found.pairs[0].nearest, found.near_copies) == ("t6", 1)


def test_strangers_are_no_copies(train, held_out):
    found = measure_novelty([made(f"s{i}", *blob(200 + i)) for i in range(8)], train, held_out)
    assert found.near_copies <= 1  # one in 27 is expected below the least of 18 alike
    assert found.synthetic.median == pytest.approx(found.held_out.median, abs=0.1)
    assert found.duplicated == 0
    assert found.synthetic_mean == pytest.approx(found.real_mean, abs=0.1)
    assert (found.synthetic.count, found.held_out.count, found.left_out.count) == (8, 4, 14)
    assert found.threshold == min(found.held_out.minimum, found.left_out.minimum)
    assert list(found.pairs) == sorted(found.pairs, key=lambda pair: pair.distance)


def test_duplicates_among_the_synthetic(train, held_out):
    a, b, c = (made(name, *blob(300 + i)) for i, name in enumerate("abc"))
    found = measure_novelty([a, b, made("a2", *mirrored(*blob(300))), c], train, held_out)
    assert [(pair.case, pair.nearest) for pair in found.duplicates] == [("a", "a2")]
    assert found.duplicated == 2


def test_a_patients_other_lesions_do_not_set_the_threshold(train, held_out):
    twin = made("t6b", *rescaled(*blob(6)), group="t6")
    assert measure_novelty([], [*train, twin], held_out).threshold > 0.12
    stranger = made("t6b", *rescaled(*blob(6)), group="another")
    assert measure_novelty([], [*train, stranger], held_out).threshold < 0.12


def test_mask_and_picture_both_count():
    image, mask = blob(1)
    other_image, _ = blob(2)
    same_mask = np.stack([lesion_patch(i, mask, SPACING) for i in (image, np.where(mask, other_image, 1))])
    assert (
        0.15 < distances(same_mask[:1], same_mask[1:])[0, 0] <= 0.5 + 1e-3
    )  # the mask agrees: half a likeness, and more by chance
    assert np.linalg.norm(same_mask[0]) == pytest.approx(1, abs=1e-5)


def test_shifts_and_mirrorings_against_trying_them_all(monkeypatch):
    rng = np.random.default_rng(0)
    patches = ndimage.gaussian_filter(rng.standard_normal((5, 2, 20, 20, 20)), (0, 0, 3, 3, 3))
    patches /= np.linalg.norm(patches.reshape(5, -1), axis=1)[:, None, None, None, None]
    patches = patches.astype(np.float32)
    query = np.flip(np.roll(patches[3:4], (1, -2, 2), (2, 3, 4)), (2, 4))
    monkeypatch.setattr(room, "_CANDIDATES", 1000)
    index, near, second = find_nearest(query, patches)
    assert second[0] > 0.3
    assert index[0] == 3
    assert near[0] == pytest.approx(0, abs=1e-5)
    best = max(
        float((np.flip(np.roll(patches[0], (i, j, k), (1, 2, 3)), axes) * patches[1]).sum())
        for axes in [(), (1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3)]
        for i in range(-2, 3)
        for j in range(-2, 3)
        for k in range(-2, 3)
    )
    assert find_nearest(patches[1:2], patches[:1])[1][0] == pytest.approx(1 - best, abs=1e-5)


def test_diversity(train):
    half = [lesion_like(one, 0.5) for one in train]
    for row in compare_diversity(half, train):
        assert (row.quartiles, row.deviations) == pytest.approx((0.5, 0.5))
    assert [row.fact for row in compare_diversity(half, train)] == list(FACTS)
    assert all(math.isnan(row.quartiles) for row in compare_diversity(half[:1], train))


def lesion_like(one, factor):
    return room.Lesion(one.case, one.group, one.patch, tuple(factor * fact for fact in one.facts))


def test_place_is_a_fraction_of_the_scan():
    image, mask = blob(0)
    mask = np.zeros_like(mask)
    mask[10:12, 20:24, 29:30] = True
    assert made("a", image, mask).facts[-3:] == pytest.approx((11 / 44, 22 / 40, 29.5 / 30))


def test_edge_cases(train, held_out):
    nothing = measure_novelty([], train, held_out)
    assert (nothing.pairs, nothing.duplicates, nothing.reason) == ((), (), "no synthetic lesion")
    assert math.isnan(nothing.near_copies)
    assert math.isnan(nothing.synthetic.median)
    alone = measure_novelty(held_out[:1], train[:1], [])
    assert alone.reason
    assert math.isnan(alone.threshold)
    assert math.isnan(alone.near_copies)
    assert alone.pairs[0].nearest == "t0"
    assert measure_novelty([], [], []).left_out.count == 0
    assert measure_novelty(held_out[:1], [], []).pairs == ()
    back = from_plain(Novelty, to_plain(measure_novelty(held_out, train, held_out)))
    assert back.near_copies == 0


def test_odd_lesions():
    image = np.random.default_rng(0).random((2, 9, 9, 9)).astype(np.float32)
    mask = np.zeros((9, 9, 9), bool)
    assert lesion_patch(image, mask, SPACING) is None
    mask[0, 8, 4] = True  # one voxel in the scan's corner
    patch = lesion_patch(image, mask, SPACING)
    assert patch.shape == (3, 20, 20, 20)
    assert np.isfinite(patch).all()
    flat = lesion_patch(np.ones((1, 9, 9, 9)), mask, SPACING)
    assert not flat[0].any()
    assert flat[1].any()
