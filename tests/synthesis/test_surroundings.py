"""Boxes lie where the surroundings look like those of training tumors: in the tissue in which these lie."""

import functools
import time
from dataclasses import replace

import numpy as np
import pytest

from tumorgen_cli.data.body import body_mask
from tumorgen_cli.data.integrity import CaseVoxels
from tumorgen_cli.data.surroundings import QUANTILES, Surroundings
from tumorgen_cli.geometry import Grid
from tumorgen_cli.planning.fingerprint import measure_tumors
from tumorgen_cli.synthesis.places import Placing
from tumorgen_cli.synthesis.scan import Scan
from tumorgen_cli.synthesis.sources import Source
from tumorgen_cli.synthesis.surroundings import KnownSurroundings

GRID = Grid((90, 60, 60), (2.0, 2.0, 2.0))
TIGHT, LOOSE = slice(5, 45), slice(45, 85)  # two tissues along x, with air around both


def draw_tissues(seed, shape=GRID.shape, noise=0.1):
    """A body of two tissues, 1 and 3, in air."""
    image = np.zeros(shape, np.float32)
    image[TIGHT, 5:-5, 5:-5], image[LOOSE, 5:-5, 5:-5] = 1, 3
    return image + np.random.default_rng(seed).normal(0, noise, shape).astype(np.float32)


@functools.cache
def training_tumors(start, count=6):
    """Balls of 9 mm radius and uptake 8, of one case each, at random places of the tissue that starts there."""
    found = []
    for seed in range(count):
        rng = np.random.default_rng(100 + seed)
        center = [rng.integers(start + 9, start + 31), *rng.integers(16, 44, 2)]
        tumor = sum((np.arange(n).reshape(-1, *(1,) * (2 - a)) - c) ** 2
                    for a, (n, c) in enumerate(zip(GRID.shape, center, strict=True))) <= 4.5**2  # fmt: skip
        image = np.where(tumor, np.float32(8), draw_tissues(seed))
        found += measure_tumors(CaseVoxels((image,), tumor, GRID), body_mask(image, tumor))[0]
    return tuple(found)


@pytest.fixture
def plan(workspace):
    found = workspace.plan()
    window = replace(found.window, spacing_mm=(4.0, 4.0, 4.0), shape=(32, 32, 32), alpha=0.05)
    return replace(found, window=window, paste=replace(found.paste, feather_mm=4.0))


def make_scan(plan, image, grid=GRID, scale=1.0):
    names = tuple(channel.name for channel in plan.channels)
    return Scan("h", (), scale * image[None], (image.dtype,), grid, np.array([[0.0, 20.0]]), None, names)


def boxes(placing, count=24):
    drawn = [placing.draw(np.random.default_rng(seed), 0) for seed in range(count)]
    return [(each.box, each.unlike) for each in drawn]


def centers(drawn):
    return np.array([box.center for box, _ in drawn])


def test_places_lie_in_the_tissue_of_training_tumors(plan):
    scan = make_scan(plan, draw_tissues(50))
    for tissue in (TIGHT, LOOSE):
        drawn = boxes(Placing(scan, Source("h", ()), plan, training_tumors(tissue.start), None))
        x = centers(drawn)[:, 0]
        assert ((x > tissue.start + 3) & (x < tissue.stop - 3)).all()
        assert max(unlike for _, unlike in drawn) < 2
        assert np.std(centers(drawn), axis=0).min() > 4  # they are not one place
    # without surroundings, they lie in the other tissue too
    anywhere = boxes(Placing(scan, Source("h", ()), plan, training_tumors(TIGHT.start), None, anywhere=True))
    assert (centers(anywhere)[:, 0] > TIGHT.stop).mean() > 0.3
    assert {unlike for _, unlike in anywhere} == {None}
    # the switch of the plan does the same
    switched = replace(plan, paste=replace(plan.paste, places="anywhere"))
    assert boxes(Placing(scan, Source("h", ()), switched, training_tumors(TIGHT.start), None)) == anywhere


def test_within_a_region_places_lie_in_the_tissue_of_training_tumors(plan):
    region = np.zeros(GRID.shape, bool)
    region[:, 30:55, 5:55] = True
    placing = Placing(
        make_scan(plan, draw_tissues(50)), Source("h", ()), plan, training_tumors(LOOSE.start), None, region
    )
    found = centers(boxes(placing))
    assert (found[:, 0] > LOOSE.start).all()
    assert (found[:, 1] >= 30).all()


def test_the_same_seed_gives_the_same_place(plan):
    scan, tumors = make_scan(plan, draw_tissues(50)), training_tumors(TIGHT.start)
    one, other = (boxes(Placing(scan, Source("h", ()), plan, tumors, None), 4) for _ in range(2))
    assert one == other
    assert len({box for box, _ in one}) == 4


def test_a_host_of_other_spacing_and_noise_is_compared_in_the_same_way(plan):
    """The shell is measured in mm, in cells of its own width; noise counts in proportion to the scan's own."""
    grid = replace(GRID, shape=(180, 60, 60), spacing_mm=(1.0, 2.0, 2.0))
    image = draw_tissues(50, noise=0.0).repeat(2, axis=0)
    image += np.random.default_rng(1).normal(0, 0.3, image.shape).astype(np.float32)
    placing = Placing(make_scan(plan, image, grid), Source("h", ()), plan, training_tumors(LOOSE.start), None)
    assert (centers(boxes(placing, 20))[:, 0] / 2 > LOOSE.start).all()


def test_a_host_without_such_a_place_says_so(plan):
    """The most similar place is taken, and its distance is that of training tumors many times."""
    strange = make_scan(plan, np.where(draw_tissues(50) > 0.5, np.float32(6), np.float32(0)) + draw_tissues(3) / 20)
    usual = make_scan(plan, draw_tissues(50))
    far, near = (
        np.median(
            [unlike for _, unlike in boxes(Placing(scan, Source("h", ()), plan, training_tumors(TIGHT.start), None), 8)]
        )
        for scan in (strange, usual)
    )
    assert near < 1 < 5 < far


def test_tumors_outside_the_body_lie_outside_it_in_hosts_too(plan):
    """In crops of a chest, lungs that are open to the border are no body; nodules still lie in them."""

    def crop(seed, ball=None):
        image = np.full(GRID.shape, 0.2, np.float32)  # lung, open to the border
        image[60:] = 6
        image += np.random.default_rng(seed).normal(0, 0.05, image.shape).astype(np.float32)
        return image if ball is None else np.where(ball, np.float32(6), image)

    ball = sum((np.arange(n).reshape(-1, *(1,) * (2 - a)) - 30) ** 2 for a, n in enumerate(GRID.shape)) <= 4.5**2
    tumors = []
    for seed in range(5):
        image = crop(seed, ball)
        body = body_mask(image, ball)
        assert not body[10:50].any()
        tumors += measure_tumors(CaseVoxels((image,), ball, GRID), body)[0]
    placing = Placing(make_scan(plan, crop(9)), Source("h", ()), plan, tumors, None)
    found = boxes(placing, 20)
    assert (centers(found)[:, 0] < 58).all()
    assert placing.holds(0.0)
    assert all(placing.has_room(box, 1.0) for box, _ in found)
    assert not Placing(make_scan(plan, crop(9)), Source("h", ()), plan, tumors, None, anywhere=True).holds(0.9)


def test_flat_shells_that_hardly_differ_are_alike():
    """Without noise, a thousandth of the level is no difference; half of it is one."""

    def shell(level):
        return Surroundings(10.0, ((level,) * len(QUANTILES),), (0.0,), 1.0, 1.0)

    known = KnownSurroundings.of(tuple(map(shell, (2.0, 2.0, 2.0, 2.002))))
    same, half = (known.choose(shell(level).features[None, None], 0)[1] for level in (2.001, 1.0))
    assert same < 0.1
    assert 10 < half < 100


def test_too_few_tumors_set_no_limit(plan):
    known = KnownSurroundings.of(tuple(tumor.surroundings for tumor in training_tumors(TIGHT.start, 2)))
    assert known.limit == np.inf
    scan = make_scan(plan, 6 * draw_tissues(50))
    assert boxes(Placing(scan, Source("h", ()), plan, training_tumors(TIGHT.start, 2), None), 2)[0][1] == 0


def test_a_place_is_found_fast(plan):
    """Also in a scan of 10^8 voxels, of which only points are read; the body was found before."""
    tumors = training_tumors(TIGHT.start)
    for repeats in (1, 4):
        image = draw_tissues(50).repeat(repeats, 0).repeat(repeats, 1).repeat(repeats, 2)
        grid = Grid(image.shape, tuple(2.0 / repeats for _ in range(3)))
        placing = Placing(make_scan(plan, image, grid), Source("h", ()), plan, tumors, None)
        placing.draw(np.random.default_rng(0), 0)
        start = time.process_time()
        for seed in range(5):
            placing.draw(np.random.default_rng(seed), 0)
        assert (time.process_time() - start) / 5 < 0.3
