"""Phantoms and grids that tests share. What is session-scoped is read-only: copy it to change it."""

from __future__ import annotations

import math

import pytest

from tumorgen_cli.phantom import Phantoms, write_phantoms
from tumorgen_cli.records import Grid


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Phantoms:
    """Six small phantoms with tumors (`.dataset`, an nnU-Net raw dataset) and two without (`.healthy`)."""
    return write_phantoms(tmp_path_factory.mktemp("phantoms"), cases=6, healthy=2, seed=7, small=True)


@pytest.fixture
def grid() -> Grid:
    """Anisotropic spacing, origin off zero, turned about two axes."""
    a, b = math.radians(20), math.radians(-35)
    about_z = ((math.cos(a), -math.sin(a), 0.0), (math.sin(a), math.cos(a), 0.0), (0.0, 0.0, 1.0))
    about_x = ((1.0, 0.0, 0.0), (0.0, math.cos(b), -math.sin(b)), (0.0, math.sin(b), math.cos(b)))
    direction = tuple(sum(row[k] * about_x[k][j] for k in range(3)) for row in about_z for j in range(3))
    return Grid((12, 10, 8), (2.0, 3.0, 5.0), (-31.5, 12.25, 400.0), direction)
