"""TumorGen's training items: one tumor a box, what is told, items without a tumor."""

from dataclasses import replace

import numpy as np
import pytest

from tumorgen_cli.geometry import Box
from tumorgen_cli.methods.latent.cache import Latents
from tumorgen_cli.methods.latent.condition import Condition, Wanted
from tumorgen_cli.methods.latent.healthy import HealthyLatents
from tumorgen_cli.methods.latent.items import TrainingItems, fill_of, known_tumors
from tumorgen_cli.methods.registry import find_method

TUMOR = Box((8, 8, 8), (16, 12, 16))


@pytest.fixture
def items(trained):
    """One training tumor of two cells by one by two, with a neighbor; its context is 10 below its latents."""
    config = replace(
        find_method("tumorgen")(trained.plan(), trained).config.flow,
        mask_coding="packed",
        healthy_share=0.0,
        dropout=0.0,
        volume=True,
        character=True,
    )
    mask, others = np.zeros((2, 32, 32, 32), np.uint8)
    mask[TUMOR.slices], others[20:24, 8:12, 8:12] = 1, 1
    latent = np.random.default_rng(0).standard_normal((4, 8, 8, 8)).astype(np.float32)
    packed = [np.packbits(each, axis=-1)[None, None] for each in (mask, others)]
    latents = Latents(latent[None, None], latent[None, None] - 10, *packed, np.zeros((1, 1, 3), np.float32))
    return TrainingItems(config, 0.3, 4, Condition(4, 1, config), latents, None)


def draws(items, count=40):
    return [items.draw(np.random.default_rng(seed)) for seed in range(count)]


def test_a_box_holds_its_tumor_and_no_neighbor(items):
    for item in draws(items):
        inside = item["box"][0] > 0
        assert inside[2:4, 2:3, 2:4].all()
        assert not inside[5, 2, 2]
        np.testing.assert_array_equal(item["target"][0], np.unpackbits(items.latents.masks[0, 0], axis=-1))
        np.testing.assert_array_equal(item["context"], item["latent"] - 10)
        assert item["mask"].shape == (8, 8, 8, 8)
        assert item["noise"].shape == (12, 8, 8, 8)
        assert item["mask"].sum() * 8 == item["target"].sum()
        assert item["told"][3] == pytest.approx(4 * (4 / inside.sum()) ** (1 / 3) - 2)  # four cells of the box's


def test_items_have_the_masks_of_sublabels_if_these_are_drawn(items):
    """The same draws as without them."""
    core = np.zeros((32, 32, 32), np.uint8)
    core[8:12, 8:12, 8:16] = 1
    latents = replace(items.latents, sublabels=np.packbits(core, axis=-1)[None, None, None])
    assert (latents.labels, items.latents.labels) == (2, 1)
    for sublabels in (False, True):
        both = replace(items, latents=latents, config=replace(items.config, sublabels=sublabels))
        assert both.labels == 1 + sublabels
        for one, found in zip(draws(items, 5), draws(both, 5), strict=True):
            assert found["mask"].shape == (8 * both.labels, 8, 8, 8)
            assert len(found["noise"]) == 4 + len(found["mask"])
            np.testing.assert_array_equal(found["mask"][:8], one["mask"])
            np.testing.assert_array_equal(found["target"][:1], one["target"])
            np.testing.assert_array_equal(found["target"][1:], core[None] if sublabels else one["target"][1:])
            assert found["mask"][8:].sum() * 8 == found["target"][1:].sum()
            np.testing.assert_array_equal(found["box"], one["box"])
    place = np.packbits(np.ones((1, 32, 32, 32), np.uint8), axis=-1)
    healthy = HealthyLatents(np.full((1, 4, 8, 8, 8), 7, np.float32), place)
    free = replace(both, healthy=healthy, config=replace(both.config, healthy_share=1 - 1e-9)).draw(
        np.random.default_rng(0)
    )
    assert (free["mask"].shape[0], free["target"].shape[0], free["mask"].any()) == (16, 2, False)


def test_items_without_a_tumor_show_the_context(items):
    found = draws(replace(items, config=replace(items.config, healthy_share=0.5)), 100)
    free = [item for item in found if not item["mask"].any()]
    assert 30 < len(free) < 70
    for item in free:
        np.testing.assert_array_equal(item["latent"], item["context"])
        assert not item["target"].any()
        assert item["told"].tolist() == [0, 0, 0, -2]  # a volume of 0
        assert item["latent"].mean() < -9
    config = replace(items.config, healthy_share=0.5)
    kept = replace(items, config=config, latents=replace(items.latents, contexts=None))
    assert all(item["mask"].any() for item in draws(kept))  # no tumor is removed, so none can be missing


def test_items_of_healthy_scans_have_a_box_of_a_tumors_size(items):
    place = np.zeros((32, 32, 32), np.uint8)
    place[12:20, 12:16, 4:12] = 1
    healthy = HealthyLatents(np.full((1, 4, 8, 8, 8), 7, np.float32), np.packbits(place, axis=-1)[None])
    config = replace(items.config, healthy_share=1 - 1e-9)
    for item in draws(replace(items, config=config, healthy=healthy)):
        assert (item["latent"] == 7).all()
        assert (item["context"] == 7).all()
        assert not item["mask"].any()
        assert item["box"][0, 3:5, 3:4, 1:3].all()


def test_a_share_of_the_items_is_told_nothing(items):
    config = replace(items.config, dropout=0.3)
    dropping = replace(items, config=config, condition=Condition(4, 1, config))
    told = np.array([item["told"] for item in draws(dropping, 200)])
    silent = told[:, -1] == 0
    assert 0.2 < silent.mean() < 0.4
    assert not told[silent].any()
    assert (told[~silent, -1] == 1).all()


def test_what_is_known_of_the_training_tumors(items):
    known = known_tumors(items.latents, 4, np.array([2.0, 3.0, 4.0]))
    np.testing.assert_allclose(known.extents_mm, [[16, 12, 32]])
    np.testing.assert_allclose(known.volumes_mm3, [8 * 4 * 8 * 24])
    mask = np.unpackbits(items.latents.masks[0, 0], axis=-1)
    assert fill_of(mask, Box((2, 2, 2), (4, 4, 4)), 4) == 0.5
    assert items.condition.tell(Wanted(known.characters[0], 0.5)).shape == (4,)
