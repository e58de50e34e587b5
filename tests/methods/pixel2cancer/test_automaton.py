"""The rules of the automaton on tissue that is drawn by hand."""

import numpy as np
import pytest

from tumorgen_cli.methods.pixel2cancer.automaton import DEAD, FULL, INVADES, NEVER, WALL, Colony, grow_tumor

CHANCES = (1.0, 0.3, 0.1)


def colony(level=1, state=INVADES, shape=(5, 5, 5), seed=0, chances=CHANCES):
    """One cell in the middle of tissue of one level."""
    tissue = np.full(shape, level)
    middle = np.array([shape]) // 2
    found = Colony.seeded(tissue, middle, chances, np.random.default_rng(seed))
    found.cells[tuple(middle[0])] = state
    return found


def others(found):
    """The states of all cells but the one in the middle."""
    states = found.cells.copy()
    states[tuple(n // 2 for n in states.shape)] = 0
    return states


@pytest.mark.parametrize("state", [1, 4])
def test_a_young_cell_grows_and_invades_nothing(state):
    found = colony(state=state)
    found.grow()
    assert found.cells[2, 2, 2] == state + 1
    assert not others(found).any()


@pytest.mark.parametrize("state", [5, 9, 10])
def test_an_older_cell_grows_to_ten_and_invades_one_neighbor(state):
    for seed in range(20):
        found = colony(state=state, seed=seed)
        found.grow()
        assert found.cells[2, 2, 2] == min(state + 1, FULL)
        invaded = np.argwhere(others(found))
        assert len(invaded) == 1
        assert others(found).max() == 1
        assert np.abs(invaded - 2).max() == 1


def test_a_full_neighbor_is_not_invaded():
    found = colony(state=5)
    found.cells[...] = np.where(found.cells == 0, FULL, found.cells)
    before = found.cells.copy()
    found.grow()
    assert found.cells.max() == FULL
    np.testing.assert_array_equal(found.cells[before == FULL], FULL)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_tissue_is_invaded_by_the_chance_of_its_level(level):
    """Of three tries, one must succeed."""
    hits = 0
    for seed in range(1500):
        found = colony(level, seed=seed)
        found.grow()
        hits += others(found).any()
    assert hits / 1500 == pytest.approx(1 - (1 - CHANCES[level - 1]) ** 3, abs=0.04)


@pytest.mark.parametrize(("state", "presses"), [(9, 0), (10, 3)])
def test_only_full_cells_press_walls(state, presses):
    found = colony(WALL, state)
    found.grow()
    assert found.pressed.sum() == presses
    assert not others(found).any()


def test_a_wall_gives_way_to_the_third_press():
    """The one neighbor of a full cell is a wall."""
    tissue = np.full((3, 1, 1), NEVER)
    tissue[1], tissue[2] = 1, WALL
    found = Colony.seeded(tissue, np.array([[1, 0, 0]]), CHANCES, np.random.default_rng(0))
    found.cells[1] = FULL
    while not found.cells[2].any():
        before = int(found.pressed.sum())
        found.grow()
        assert (found.tissue[3, 1, 1] == 1) == (found.pressed.sum() >= 3)
    assert before <= found.pressed.sum() <= before + 3
    assert not found.cells[0].any()


def test_death_spreads_to_full_cells_alone():
    """A dead cell between full cells kills one in a step, between others none."""
    for state, dead in ((FULL, 2), (FULL - 1, 1)):
        found = colony()
        found.cells[...] = state
        found.cells[2, 2, 2] = DEAD
        found.die()
        assert np.count_nonzero(found.cells == DEAD) == dead


def test_cores_and_places_around_them_are_killed_where_full():
    found = colony(shape=(15, 15, 15))
    found.cells[...] = FULL
    found.cells[8:] = FULL - 1
    found.kill(np.array([[7, 7, 7]]), 3)
    dead = np.argwhere(found.cells == DEAD)
    assert (found.cells == DEAD)[7, 7, 7]
    assert 2 <= len(dead) <= 20
    assert np.abs(dead - 7).max() <= 3
    assert dead[:, 0].max() <= 7


def test_a_tumor_grows_to_its_size_where_it_may():
    """A ball of a given volume in free tissue; beside a border, nothing beyond."""
    free = np.ones((31, 31, 31))
    middle = np.array([[15, 15, 15]])
    state, steps = grow_tumor(free, middle, CHANCES, 2000, 150, False, np.random.default_rng(0))
    assert 2000 <= np.count_nonzero(state) < 2600
    assert 10 < steps < 150
    assert state.max() == FULL
    radius = np.sqrt(np.square(np.argwhere(state) - 15).sum(axis=1)).max()
    assert radius < 1.5 * (3 * 2000 / 4 / np.pi) ** (1 / 3)
    half = free.copy()
    half[:14] = NEVER
    state, _ = grow_tumor(half, middle, CHANCES, 2000, 150, False, np.random.default_rng(0))
    assert not state[:14].any()
    state, steps = grow_tumor(0 * free, middle, CHANCES, 2000, 12, False, np.random.default_rng(0))
    assert (np.count_nonzero(state), steps) == (1, 12)


def test_hard_tissue_is_spared():
    """A tumor between tissue of level 1 and of level 3 grows into the first."""
    tissue = np.ones((31, 31, 31))
    tissue[16:] = 3
    state, _ = grow_tumor(tissue, np.array([[15, 15, 15]]), CHANCES, 2000, 150, False, np.random.default_rng(0))
    assert np.count_nonzero(state[:15]) > 1.5 * np.count_nonzero(state[16:])


def test_the_same_seed_grows_the_same_tumor_and_death_leaves_its_extent():
    def grown(seed, dies):
        cores = np.array([[10, 10, 10]])
        return grow_tumor(np.ones((21, 21, 21)), cores, CHANCES, 1500, 150, dies, np.random.default_rng(seed))[0]

    np.testing.assert_array_equal(grown(3, True), grown(3, True))
    assert not np.array_equal(grown(3, True), grown(4, True))
    dead = grown(3, True) == DEAD
    assert dead.any()
    np.testing.assert_array_equal(grown(3, True) != 0, grown(3, False) != 0)
    assert (grown(3, False)[dead] == FULL).all()
