"""BA-PMG by its definition, area averaging by hand, and boxes that stay where they may."""

import numpy as np
import pytest

from tumorgen_cli.geometry import Box
from tumorgen_cli.planning.fingerprint import TumorFacts
from tumorgen_cli.tumors import boxes

SHAPE = (40, 32, 24)


@pytest.fixture
def mask():
    out = np.zeros(SHAPE, np.float32)
    out[18:22, 14:17, 10:14] = 1
    out[20, 17, 11] = 0.02  # an area average's soft rim belongs to the tumor
    return out


TIGHT = Box((18, 14, 10), (22, 18, 14))


def test_without_alpha_the_box_is_tight(mask):
    assert boxes.draw_box(mask, 0.0, np.random.default_rng(0)) == TIGHT


def test_planes_move_outward_by_their_own_uniform_offsets(mask):
    """d_i ~ U(0, alpha D_i) on each of the six planes, rounded to latent planes."""
    alpha, rng = 0.2, np.random.default_rng(0)
    drawn = [boxes.draw_box(mask, alpha, rng) for _ in range(4000)]
    low = np.array(TIGHT.start) - np.array([b.start for b in drawn])
    high = np.array([b.stop for b in drawn]) - np.array(TIGHT.stop)
    offsets = np.concatenate([low, high], axis=1)  # (draws, 6)
    reach = alpha * np.array(SHAPE * 2)  # 8, 6.4, 4.8: all inside the grid here
    assert (offsets >= 0).all()
    assert (offsets <= np.round(reach)).all()
    np.testing.assert_allclose(offsets.mean(0), reach / 2, rtol=0.05)
    np.testing.assert_allclose(offsets.var(0), reach**2 / 12 + 1 / 12, rtol=0.12)  # rounding adds 1/12
    counts = np.bincount(offsets[:, 0].astype(int), minlength=9) / len(drawn)
    np.testing.assert_allclose(counts[1:8], 1 / 8, atol=0.02)  # every whole offset alike, the ends half as often
    np.testing.assert_allclose(counts[[0, 8]], 1 / 16, atol=0.02)
    assert np.abs(np.corrcoef(offsets.T) - np.eye(6)).max() < 0.08  # six offsets, each its own


@pytest.mark.parametrize("seed", range(30))
def test_the_box_holds_every_tumor_voxel_and_stays_on_the_grid(seed):
    rng = np.random.default_rng(seed)
    mask = (rng.random((9, 8, 7)) > 0.985).astype(np.float32)
    mask[tuple(rng.integers(0, n) for n in mask.shape)] = 0.3
    box = boxes.draw_box(mask, float(rng.uniform(0, 1)), rng)
    inside = boxes.box_mask(box, mask.shape)
    assert not (mask * (1 - inside)).any()
    assert all(0 <= a < b <= n for a, b, n in zip(box.start, box.stop, mask.shape, strict=True))
    assert inside.sum() == np.prod(box.shape)


def test_planes_are_clipped_to_the_grid(mask):
    drawn = [boxes.draw_box(mask, 1.0, np.random.default_rng(i)) for i in range(50)]
    assert any(b.start[0] == 0 for b in drawn)
    assert any(b.stop[2] == SHAPE[2] for b in drawn)


def test_an_empty_mask_has_no_box():
    with pytest.raises(ValueError, match="empty"):
        boxes.draw_box(np.zeros((4, 4, 4)), 0.1, np.random.default_rng(0))


def test_area_averaging():
    mask = np.zeros((8, 8, 12), np.uint8)
    mask[0:4, 0:4, 0:4] = 1  # one whole latent voxel
    mask[4:6, 0:4, 0:4] = 1  # half of the next
    mask[7, 7, 11] = 1  # a single voxel of 64
    found = boxes.latent_mask(mask, 4)
    assert found.shape == (2, 2, 3)
    assert found.dtype == np.float32
    expected = np.zeros((2, 2, 3))
    expected[0, 0, 0], expected[1, 0, 0], expected[1, 1, 2] = 1, 0.5, 1 / 64
    np.testing.assert_allclose(found, expected)
    assert found.sum() * 64 == mask.sum()
    finer = boxes.latent_mask(mask, 2)
    assert finer.shape == (4, 4, 6)
    assert (finer[2, 0, 0], finer[3, 0, 0], finer[3, 3, 5]) == (1, 0, 1 / 8)


def test_latent_cells_that_a_box_touches():
    assert boxes.latent_box(Box((4, 8, 0), (12, 16, 12)), 4) == Box((1, 2, 0), (3, 4, 3))
    assert boxes.latent_box(Box((6, 9, 5), (14, 17, 6)), 4) == Box((1, 2, 1), (4, 5, 2))
    assert boxes.latent_box(Box((6, 9, 5), (14, 17, 6)), 2) == Box((3, 4, 2), (7, 9, 3))


def test_a_place_of_a_tumors_size_has_the_cells_that_training_gives_the_tumor():
    """Tight in voxels and then brought to latent cells, or the other way round: BA-PMG without offsets."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        start, size = rng.integers(0, 20, 3), rng.integers(1, 13, 3)
        box = Box(tuple(start.tolist()), tuple((start + size).tolist()))
        mask = np.zeros((32, 32, 32), np.uint8)
        mask[box.slices] = 1
        assert boxes.latent_box(box, 4) == boxes.draw_box(boxes.latent_mask(mask, 4), 0.0, rng)


def test_a_box_lies_in_its_region():
    allowed = np.zeros((30, 30, 30), bool)
    allowed[5:25, 8:28, 10:22] = True
    drawn = {boxes.place_box((6, 5, 4), allowed, np.random.default_rng(i)) for i in range(100)}
    assert len(drawn) > 80
    for box in drawn:
        assert box.shape == (6, 5, 4)
        assert all(0 <= a < b <= 30 for a, b in zip(box.start, box.stop, strict=True))
        assert allowed[box.slices].mean() >= 0.6
        assert allowed[tuple(a + n // 2 for a, n in zip(box.start, box.shape, strict=True))]


def test_a_region_smaller_than_the_box_gets_the_best_place():
    allowed = np.zeros((20, 20, 20), bool)
    allowed[9:11, 9:11, 9:11] = True
    box = boxes.place_box((8, 8, 8), allowed, np.random.default_rng(0))
    assert allowed[box.slices].sum() == 8


def test_no_place():
    assert boxes.place_box((4, 4, 4), np.zeros((10, 10, 10), bool), np.random.default_rng(0)) is None
    assert boxes.place_box((4, 4, 11), np.ones((10, 10, 10), bool), np.random.default_rng(0)) is None
    assert boxes.place_box((10, 10, 10), np.ones((10, 10, 10), bool), np.random.default_rng(0)) == Box(
        (0, 0, 0), (10, 10, 10)
    )


def test_sizes_follow_the_training_tumors():
    tumors = [
        TumorFacts(Box((0, 0, 0), (1, 1, 1)), 1.0, extent, (1.0,), (1.0,), (0.5, 0.5, 0.5))
        for extent in ((20.0, 30.0, 40.0), (5.0, 5.0, 5.0), (500.0, 10.0, 10.0))
    ]
    rng, window, alpha = np.random.default_rng(0), (100.0, 200.0, 100.0), 0.1
    drawn = [boxes.draw_size_mm(tumors, alpha, window, rng) for _ in range(900)]
    for number, facts in enumerate(tumors):
        sizes = np.array([size for size, which in drawn if which == number])
        assert 240 < len(sizes) < 360
        low = np.minimum(0.9 * np.array(facts.extent_mm), 0.875 * np.array(window))
        high = np.minimum(1.1 * np.array(facts.extent_mm) + 2 * alpha * np.array(window), 0.875 * np.array(window))
        assert (sizes >= low - 1e-9).all()
        assert (sizes <= high + 1e-9).all()
    bare = [boxes.draw_size_mm(tumors[:1], 0.0, window, rng)[0] for _ in range(300)]
    np.testing.assert_allclose(np.mean(bare, axis=0), (20, 30, 40), rtol=0.02)


def test_a_box_does_not_reach_other_tumors(mask):
    """A box that reaches one is drawn again; where that does not help, it is the tight box."""
    others = np.zeros(SHAPE, np.float32)
    others[25:28, 14:17, 10:14] = 1
    rng = np.random.default_rng(0)
    drawn = [boxes.draw_box(mask, 0.2, rng, others) for _ in range(200)]
    assert all(not others[box.slices].any() for box in drawn)
    assert sum(box != TIGHT for box in drawn) > 150
    others[:] = 1
    others[TIGHT.slices] = 0
    assert {boxes.draw_box(mask, 0.5, rng, others) for _ in range(20)} == {TIGHT}


def test_voxels_of_latent_cells():
    assert boxes.voxel_box(Box((1, 0, 2), (3, 1, 4)), 4) == Box((4, 0, 8), (12, 4, 16))
    assert boxes.latent_box(boxes.voxel_box(TIGHT, 2), 2) == TIGHT
