"""Trees of vessels and airways: the same whatever part of them is grown, and drawn with the right volume."""

from __future__ import annotations

import numpy as np
import pytest

from tumorgen_cli.data.phantom.chest import draw_chest
from tumorgen_cli.data.phantom.tubes import Tube, draw_tubes, grow_trees

EVERYWHERE = np.full(3, -500.0), np.full(3, 500.0)


def key(tube: Tube) -> tuple[float, ...]:
    return (*tube.start, *tube.stop, tube.radius)


def test_a_part_of_a_tree_is_that_of_the_whole() -> None:
    chest = draw_chest(np.random.default_rng(0))
    low, high = np.array([-80.0, -20.0, 0.0]), np.array([-50.0, 10.0, 30.0])
    whole = grow_trees(np.random.default_rng(1), chest, *EVERYWHERE)
    part = grow_trees(np.random.default_rng(1), chest, low, high)
    known = {key(tube) for tube in whole.vessels}
    assert {key(tube) for tube in part.vessels} <= known
    inside = [t for t in whole.vessels if (t.stop > low).all() and (t.stop < high).all()]
    assert len(inside) > 5
    assert {key(tube) for tube in inside} <= {key(tube) for tube in part.vessels}
    assert len(part.vessels) < 0.4 * len(whole.vessels)


def test_branches_get_thinner_and_stay_in_the_lungs() -> None:
    chest = draw_chest(np.random.default_rng(0))
    trees = grow_trees(np.random.default_rng(1), chest, *EVERYWHERE)
    radii = np.array([tube.radius for tube in trees.vessels])
    assert 4.0 < radii.max() < 10.0
    assert np.median(radii) < 1.0
    tips = np.array([tube.stop for tube in trees.vessels if tube.radius < 0.5])
    assert (chest.lung_depth((tips[:, 0], tips[:, 1], tips[:, 2])) > 0).all()
    assert 0 < len(trees.airways) < 0.2 * len(trees.vessels), "only the larger airways are seen"
    coarse = grow_trees(np.random.default_rng(1), chest, *EVERYWHERE, thinnest_mm=1.0)
    assert min(tube.radius for tube in coarse.vessels) >= 1.0


@pytest.mark.parametrize("radius", [0.3, 0.6, 2.0, 4.0])
def test_a_tube_fills_its_volume(radius: float) -> None:
    axes = tuple(np.arange(-20.0, 20.0, step) for step in (1.0, 1.0, 1.25))
    tube = Tube(np.array([-12.0, 3.3, 1.1]), np.array([12.0, -2.2, 0.4]), radius, radius)
    filled = float(draw_tubes([tube], axes, 1.0).sum()) * 1.25
    length = float(np.linalg.norm(tube.stop - tube.start))
    assert filled == pytest.approx(np.pi * radius**2 * length + 4 / 3 * np.pi * radius**3, rel=0.35)


def test_tubes_beside_the_grid_draw_nothing() -> None:
    axes = tuple(np.arange(0.0, 10.0) for _ in range(3))
    assert not draw_tubes([Tube(np.full(3, 30.0), np.full(3, 40.0), 2.0, 2.0)], axes, 1.0).any()
