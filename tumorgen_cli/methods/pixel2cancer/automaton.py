"""The cellular automaton: a tumor grows from a few cells, invades tissue by its level, pushes through walls and dies.

Source:
    Lai et al., From Pixel to Cancer: Cellular Automata in Computed Tomography, MICCAI 2024 (arXiv 2403.06459), section
    2.1, and its public code, which gives the numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FULL = 10  # the largest state
INVADES = 5  # the state from which on a cell invades its neighbors
DEAD = -1
#: levels of tissue: beyond where a tumor may be; three levels that are invaded; vessels and edges of the organ
NEVER, WALL = 0, 4
_TRIES = 3  # neighbors that a cell tries in a step until it has invaded one
_PRESSES = 3  # of full cells, until a wall gives way
_NEIGHBORS = [shift for shift in itertools.product((-1, 0, 1), repeat=3) if any(shift)]


@dataclass
class Colony:
    """The cells of a tumor and the tissue around it, changed in place by the rules.

    Attributes:
        state: state of each cell (X, Y, Z), 0 (no tumor) to 10, or `DEAD`; int16.
        tissue: level of each cell (X, Y, Z): `NEVER`, 1 to 3, or `WALL`; int8. Cells at the array's edges are `NEVER`.
        pressed: how often each wall has been pressed (X, Y, Z); int16.
        chances: chance that a cell of levels 1, 2 and 3 is invaded when a neighbor tries.
        rng: draws neighbors and chances.
    """

    state: np.ndarray
    tissue: np.ndarray
    pressed: np.ndarray
    chances: np.ndarray
    rng: np.random.Generator

    @classmethod
    def seeded(
        cls, tissue: np.ndarray, cores: np.ndarray, chances: Sequence[float], rng: np.random.Generator
    ) -> Colony:
        """A colony in tissue (X, Y, Z) whose cores (N, 3) are about to invade."""
        padded = np.pad(tissue.astype(np.int8), 1)
        state = np.zeros(padded.shape, np.int16)
        state[tuple(cores.T + 1)] = INVADES
        return cls(state, padded, np.zeros_like(state), np.array([0.0, *chances, 0.0]), rng)

    @property
    def cells(self) -> np.ndarray:
        """The states (X, Y, Z) without the edges."""
        return self.state[1:-1, 1:-1, 1:-1]

    def grow(self) -> None:
        """One step of growth and invasion.

        Each cell's state rises by one, up to 10. A cell that had 5 or more tries up to three neighbors at random, until
        it has invaded one: a neighbor of tissue that is not full yet gains one, by the chance of its level. A cell that
        was full also presses walls; a wall that has been pressed three times becomes tissue of level 1.
        """
        state, tissue, pressed = self.state.ravel(), self.tissue.ravel(), self.pressed.ravel()
        cells = np.flatnonzero(state > 0)
        before = state[cells]
        state[cells] = np.minimum(before + 1, FULL)
        able, full = cells[before >= INVADES], before[before >= INVADES] == FULL
        for _ in range(_TRIES):
            targets = self._neighbors(able)
            walls = targets[full & (tissue[targets] == WALL)]
            np.add.at(pressed, walls, 1)
            invaded = (self.rng.random(len(able)) < self.chances[tissue[targets]]) & (state[targets] < FULL)
            np.add.at(state, targets[invaded], 1)
            np.minimum(state, FULL, out=state)
            tissue[walls[pressed[walls] >= _PRESSES]] = 1
            able, full = able[~invaded], full[~invaded]

    def die(self) -> None:
        """One step of death: each dead cell tries up to three neighbors at random, until one that was full is dead."""
        state = self.state.ravel()
        able = np.flatnonzero(state == DEAD)
        for _ in range(_TRIES):
            targets = self._neighbors(able)
            dies = state[targets] == FULL
            state[targets[dies]] = DEAD
            able = able[~dies]

    def kill(self, cores: np.ndarray, reach: int) -> None:
        """Kill full cells at the cores (N, 3), and at 5 to 19 random places up to `reach` cells around each."""
        for core in cores:
            around = self.rng.integers(-reach, reach + 1, (self.rng.integers(5, 20), 3))
            places = np.concatenate([core[None], core + around])
            places = places[((places >= 0) & (places < self.cells.shape)).all(axis=1)]
            full = places[self.cells[tuple(places.T)] == FULL]
            self.cells[tuple(full.T)] = DEAD

    def _neighbors(self, cells: np.ndarray) -> np.ndarray:
        """A random neighbor of each cell (N,), by flat index."""
        shifts = np.array([np.dot(shift, np.array(self.state.strides) // self.state.itemsize) for shift in _NEIGHBORS])
        return np.asarray(cells + shifts[self.rng.integers(len(shifts), size=len(cells))])


def grow_tumor(
    tissue: np.ndarray,
    cores: np.ndarray,
    chances: Sequence[float],
    size: int,
    most_steps: int,
    dies: bool,
    rng: np.random.Generator,
) -> tuple[np.ndarray, int]:
    """Grow a tumor until it has a size.

    Args:
        tissue: Level of each cell (X, Y, Z).
        cores: The first cells (N, 3).
        chances: Chance that a cell of levels 1, 2 and 3 is invaded.
        size: Number of cells with a state above 0 at which growth ends.
        most_steps: Growth ends after this number of steps, however small the tumor is.
        dies: Whether cells die at the end.
        rng: Makes all random draws.

    Returns:
        The states (X, Y, Z), and the number of steps of growth.
    """
    colony = Colony.seeded(tissue, cores, chances, rng)
    steps = 0
    while steps < most_steps and np.count_nonzero(colony.cells > 0) < size:
        colony.grow()
        steps += 1
    if dies:
        colony.kill(cores, max(1, steps // 10 - 2))
        for _ in range(steps // 7 + 1):
            colony.die()
    return colony.cells.copy(), steps
