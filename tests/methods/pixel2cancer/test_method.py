"""Pixel2Cancer: levels from the data, cells of a place, what is painted by state, mass effect, time."""

import time
from dataclasses import replace

import numpy as np
import pytest
from support.requests import check_synthetic, make_request, opened

from tumorgen_cli.geometry import Box
from tumorgen_cli.methods.base import Sampling
from tumorgen_cli.methods.pixel2cancer import automaton
from tumorgen_cli.methods.pixel2cancer import method as module
from tumorgen_cli.methods.pixel2cancer.method import CellGrid, push_tissue, tissue_levels

PLACE = Box((4, 6, 8), (28, 26, 24))


@pytest.fixture
def method(workspace):
    return opened("pixel2cancer", workspace)[0]


def flat_request(workspace, level=2.0, place=PLACE):
    request = make_request(workspace, Box((2, 2, 2), (30, 30, 30)))
    return replace(request, image=np.full((1, 32, 32, 32), level, np.float32), place=place)


def test_levels_are_quantiles_of_what_surrounds_the_training_tumors(workspace):
    facts = workspace.fingerprint()
    ((low, first, second, wall),) = tissue_levels(facts)
    around = np.concatenate([tumor.surroundings.levels[0] for tumor in facts.tumors])
    assert low == around.min()
    assert np.mean(around < first) == pytest.approx(0.5, abs=0.05)
    assert np.mean(around < wall) == pytest.approx(0.9, abs=0.05)
    assert low <= first <= second <= wall
    cases = tuple(
        replace(case, tumors=tuple(replace(tumor, surroundings=None) for tumor in case.tumors)) for case in facts.cases
    )
    ((*bounds,),) = tissue_levels(replace(facts, cases=cases))
    assert bounds[0] == pytest.approx(facts.channels[0].image["5"])
    assert bounds == sorted(bounds)


def test_cells_have_the_level_of_the_tissue_below_them(method, workspace):
    """Slabs of five values across the place; and nothing grows beyond the region."""
    request = flat_request(workspace)
    method.config = replace(method.config, levels=((1.0, 2.0, 3.0, 4.0),), cells=(12, 12))
    slabs = np.repeat([0.5, 1.5, 2.5, 3.5, 4.5], 4)  # along y, over the place
    image = request.image.copy()
    image[0, :, 6:26] = slabs[:, None]
    grid = CellGrid.draw(replace(request, image=image), method.plan, method.config, np.random.default_rng(0))
    region = np.ones((32, 32, 32), bool)
    region[:16] = False
    allowed = method._tissue(replace(request, image=image, region=region), grid)
    x, y, _ = grid.tissue.shape
    inside = (np.arange(x) + 0.5) * grid.edges[0] + 4
    assert (grid.tissue[inside < 15] == automaton.NEVER).all()
    np.testing.assert_array_equal(allowed, grid.tissue != automaton.NEVER)
    found = grid.tissue[inside > 17][0, :, 3]
    slab = ((np.arange(y) + 0.5) * grid.edges[1] / 4).astype(int).clip(0, 4)
    sure = np.abs((np.arange(y) + 0.5) * grid.edges[1] % 4 - 2) < 1.2  # not at a slab's edge
    expected = np.array([automaton.WALL, 1, 2, 3, automaton.WALL])[slab]
    np.testing.assert_array_equal(found[sure], expected[sure])


@pytest.mark.parametrize("across", [8, 20, 40])
def test_cells_and_voxels_are_converted_back_and_forth(method, workspace, across):
    """A ramp of the window at the cells; a ball of cells has its volume and place in voxels."""
    request = flat_request(workspace)
    config = replace(method.config, cells=(across, across))
    grid = CellGrid.draw(request, method.plan, config, np.random.default_rng(1))
    x = np.broadcast_to(np.arange(32.0)[:, None, None], (32, 32, 32))
    centers = 4 + (np.arange(grid.shape[0]) + 0.5) * grid.edges[0] - 0.5
    np.testing.assert_allclose(grid.to_cells(x)[:, 2, 2], centers, atol=0.1)
    distance = np.sqrt(
        sum(
            ((a + 0.5 - c - 0.5) * e) ** 2
            for a, c, e in zip(np.ogrid[tuple(map(slice, grid.shape))], grid.center, grid.edges, strict=True)
        )
    )
    ball = (distance < 5).astype(np.float32)
    made = grid.to_voxels(ball, PLACE, 0.0)
    assert made.shape == PLACE.shape
    assert made.sum() == pytest.approx(ball.sum() * np.prod(grid.edges), rel=0.12)
    middle = (np.argwhere(made >= 0.5) + 0.5).mean(axis=0)
    assert middle == pytest.approx((grid.center + 0.5) * grid.edges, abs=0.6)
    assert not grid.to_voxels(ball, Box((0, 0, 0), (3, 3, 3)), 0.8).any()  # beyond the place


@pytest.mark.parametrize(("source", "contrast"), [("literature", -40.0), ("data", -40.0), ("data", 40.0)])
def test_a_tumor_is_painted_by_its_states(method, workspace, monkeypatch, source, contrast):
    """States of 10, 5 and dead in thirds of a block, on an even host with a texture of one half.

    The literature's contrast is multiplied by texture and state over 10; that of the data is the mean contrast of the
    living. Dead cells are darker, by a share of the contrast's size.
    """
    monkeypatch.setattr(module.texture, "draw_texture", lambda config, shape, *rest: np.full(shape, 0.5))
    changes = {"levels": ((0.0, 1e3, 2e3, 3e3),), "contrast": ((contrast,) * 2,), "contrast_from": source}
    method.config = replace(method.config, necrosis=(0.5, 0.5), cells=(12, 12), **changes)
    state = {}

    def grown(tissue, *rest):
        found = np.zeros(tissue.shape, np.int16)
        thirds = np.array_split(np.arange(2, tissue.shape[0] - 2), 3)
        for part, value in zip(thirds, (10, 5, automaton.DEAD), strict=True):
            found[part, 2:-2, 2:-2] = value
        state["cells"] = found
        return found, 7

    monkeypatch.setattr(module.automaton, "grow_tumor", grown)
    request = flat_request(workspace, 100.0)
    made = method.synthesize(request, 0, Sampling())
    check_synthetic(replace(request, limits=np.array([[0.0, 200.0]])), made)
    change = made.image[0] - 100
    cells = state["cells"]
    middles = {value: int(np.argwhere(cells == value)[:, 0].mean()) for value in (10, 5, automaton.DEAD)}
    grid = CellGrid.draw(request, method.plan, method.config, np.random.default_rng(0))
    full, half, dead = (
        change[
            tuple(
                round(p + (c + 0.5) * e)
                for p, c, e in zip(PLACE.start, (x, *(n // 2 for n in grid.shape[1:])), grid.edges, strict=True)
            )
        ]
        for x in middles.values()
    )
    if source == "literature":
        assert full == pytest.approx(contrast * 0.5, rel=0.05)
    assert half == pytest.approx(full / 2, rel=0.1)
    assert dead == pytest.approx(full - 0.5 * abs(full), rel=0.1)
    assert np.sign(full) == np.sign(contrast)
    assert made.drawn["steps"] == 7


def test_the_mean_contrast_is_the_drawn_one(method, workspace):
    ratios = []
    method.config = replace(method.config, death=0.0)
    for seed in range(8):
        made = method.synthesize(flat_request(workspace, 1.0), seed, Sampling())
        change = (made.image[0] - 1)[made.mask >= 0.5]
        ratios.append(float(change.mean()) / made.drawn["contrast"][0])
    assert np.mean(ratios) == pytest.approx(1, abs=0.1)


def test_a_vessel_does_not_shine_through(method, workspace, monkeypatch):
    """A dark tumor darkens it to the walls' bound and below; a bright one does not add to it, nor darken it."""
    monkeypatch.setattr(module.texture, "draw_texture", lambda config, shape, *rest: np.full(shape, 0.525))
    method.config = replace(method.config, levels=((0.0, 110.0, 120.0, 130.0),), death=0.0)
    request = flat_request(workspace, 100.0)
    image = request.image.copy()
    image[0, 15:17] = 200
    for contrast, expected in ((-40.0, lambda v: v < 130), (20.0, lambda v: v == 200), (90.0, lambda v: 200 < v < 240)):
        method.config = replace(method.config, contrast=((contrast,) * 2,))
        made = method.synthesize(replace(request, image=image), 2, Sampling())
        deep = made.mask[15:17] >= 1
        values = made.image[0, 15:17][deep]
        assert deep.any()
        assert expected(float(np.median(values))), (contrast, np.median(values))


def test_death_needs_a_wide_tumor(method, workspace):
    method.config = replace(method.config, death=1.0, death_mm=1000.0)
    assert method.synthesize(flat_request(workspace), 1, Sampling()).drawn["dead"] == 0
    method.config = replace(method.config, death_mm=1.0)
    assert method.synthesize(flat_request(workspace), 1, Sampling()).drawn["dead"] > 0


def test_a_tumor_lies_in_its_region_and_without_room_there_is_none(method, workspace):
    request = flat_request(workspace)
    region = np.zeros((32, 32, 32), bool)
    region[:17] = True
    made = method.synthesize(replace(request, region=region), 3, Sampling())
    assert made.mask.any()
    assert not made.mask[~region].any()
    np.testing.assert_array_equal(made.image[0][~region], 2.0)
    empty = method.synthesize(replace(request, region=np.zeros_like(region)), 3, Sampling())
    assert not empty.mask.any()
    np.testing.assert_array_equal(empty.image, request.image)


def test_mass_effect_moves_tissue_outward_and_nothing_beyond_its_reach():
    """A plane at x of the tumor's center + 3 is seen further out; at the box and beyond 1.3 half axes nothing moves."""
    image = np.zeros((1, 40, 40, 40), np.float32)
    image[0, 23] = 1
    mask = np.zeros((40, 40, 40), np.float32)
    mask[10:30, 10:30, 10:30] = 1  # its center is at 20; 23.5 is 3.5 voxels from it
    before = image.copy()
    push_tissue(image, mask, Box((4, 4, 4), (36, 36, 36)), 0.3)
    line = image[0, :, 20, 20]
    seen = float((np.arange(40) + 0.5) @ line / line.sum()) - 20
    r = np.linspace(0, 1, 10_001)
    expected = 13 * float(np.interp(3.5 / 13, r * (1 - 0.3 * (1 - r**2)), r))
    assert seen == pytest.approx(expected, abs=0.3)
    assert seen > 4.5
    far = np.square((np.indices(mask.shape) - 19.5) / 13).sum(axis=0) >= 1
    np.testing.assert_array_equal(image[0][far], before[0][far])
    still = before.copy()
    push_tissue(still, mask, Box((4, 4, 4), (36, 36, 36)), 0.0)
    np.testing.assert_array_equal(still, before)


def test_a_tumor_of_30_voxels_takes_a_second_or_two(method, workspace):
    """Processor time: the machine may be busy."""
    request = make_request(workspace, Box((0, 0, 0), (32, 32, 32)))
    method.config = replace(method.config, cells=(32, 32), death=1.0, death_mm=1.0)
    start = time.process_time()
    made = method.synthesize(request, 1, Sampling())
    assert time.process_time() - start < 3
    assert made.drawn["cells"] == 32
