"""Lung nodules: where they lie, their shapes, and how dense they are.

A shape is the level set of a sum of random blobs and waves. It shares no code with the shapes that any method draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tumorgen_cli.data.phantom.chest import Chest, Positions, Waves, draw_waves
from tumorgen_cli.data.phantom.tubes import Tube

SMALLEST_MM, LARGEST_MM = 5.0, 30.0  # diameter of the ball of the same volume: what is called a nodule
KINDS = ("solid", "ground-glass", "spiculated", "part-solid", "solid")  # of the first nodule of each case, in order
_NEAR = 1.9  # a nodule ends within this many radii
_CELLS = 24  # edge of the lattice, in cells, on which the level of a given volume is found


@dataclass(frozen=True)
class Spot:
    """A place for a nodule: its middle in mm, the radius of the ball of its volume, and what it lies at."""

    center: np.ndarray
    radius: float
    site: str


@dataclass(frozen=True)
class Blobs:
    """A shape: where a sum of Gaussian blobs and a few waves is above a level. Lengths are in radii."""

    centers: np.ndarray
    widths: np.ndarray
    waves: Waves
    rough: float
    level: float = 0.0

    def height(self, at: Positions) -> np.ndarray:
        """The logarithm of the sum above its level: positive inside."""
        total: np.ndarray | float = 1e-6
        for center, width in zip(self.centers, self.widths, strict=True):
            squared = (at[0] - center[0]) ** 2 + (at[1] - center[1]) ** 2 + (at[2] - center[2]) ** 2
            total = total + np.exp(-squared / (2 * width * width))
        return np.asarray(np.log(total) + self.rough * self.waves(at) - self.level)


@dataclass(frozen=True)
class Nodule:
    """A drawn nodule.

    Attributes:
        spot: Where it lies, and its size.
        kind: solid, part-solid, ground-glass or spiculated.
        shape: Its outline, in radii around its middle.
        core: Outline of the solid part of a part-solid nodule.
        hu: Density of the nodule; of the ground glass around the core, if there is a core.
        core_hu: Density of the core.
        texture: Unevenness inside, in radii.
        spicules: Thin strands that run out of it.
    """

    spot: Spot
    kind: str
    shape: Blobs
    core: Blobs | None
    hu: float
    core_hu: float
    texture: Waves
    spicules: list[Tube]

    @property
    def reach_mm(self) -> float:
        """The nodule and its spicules end within this distance of its middle."""
        return 2.4 * self.spot.radius + 2.0


def draw_radius(rng: np.random.Generator) -> float:
    """Draw the radius in mm of a ball: small nodules are more frequent, as in patients."""
    return 0.5 * math.exp(rng.uniform(math.log(SMALLEST_MM), math.log(LARGEST_MM)))


def draw_spot(rng: np.random.Generator, chest: Chest, vessels: list[Tube], radius: float) -> Spot:
    """Draw a place in a lung for a nodule: anywhere, at the pleura, or at a vessel.

    Args:
        rng: Source of chance.
        chest: The patient.
        vessels: Tubes of which those of 1 to 3 mm are places for nodules; without any, no nodule lies at a vessel.
        radius: Radius of the nodule in mm.
    """
    site = str(rng.choice(["free", "pleura", "vessel"], p=[0.55, 0.25, 0.20]))
    fitting = [tube for tube in vessels if 0.8 <= tube.radius <= 3.0]
    if site == "vessel" and fitting:
        tube = fitting[int(rng.integers(len(fitting)))]
        away = rng.normal(size=3)
        away *= rng.uniform(0.5, 1.0) * radius / np.linalg.norm(away)
        center = tube.stop + away
        if chest.lung_depth(_columns(center[None]))[0] > 0.5 * radius:
            return Spot(center, radius, site)
        site = "free"
    low = np.array([-chest.width, -chest.depth, min(chest.domes) - 60.0])
    high = np.array([chest.width, chest.depth, chest.apex])
    points = rng.uniform(low, high, (6000, 3))
    depth = chest.lung_depth(_columns(points))
    rim = chest.cavity_depth(_columns(points))
    if site == "pleura":
        fits = (depth > 0.25 * radius) & (depth < 0.9 * radius + 1.0) & (rim < depth + 3.0)
    else:
        site, fits = "free", depth > radius + 2.0
    return Spot(points[np.flatnonzero(fits)[0]] if fits.any() else points[np.argmax(depth)], radius, site)


def draw_nodule(rng: np.random.Generator, spot: Spot, kind: str) -> Nodule:
    """Draw a nodule of a kind at a place."""
    solid = float(rng.uniform(-20, 70))
    glass = float(rng.uniform(-680, -480))
    shape = _draw_blobs(rng, {"spiculated": 0.30, "ground-glass": 0.26}.get(kind, 0.18), 1.0)
    core = _draw_blobs(rng, 0.2, float(rng.uniform(0.4, 0.65))) if kind == "part-solid" else None
    spicules = _draw_spicules(rng, spot) if kind == "spiculated" else []
    hu = glass if kind in ("ground-glass", "part-solid") else solid
    return Nodule(spot, kind, shape, core, hu, solid, draw_waves(rng, 0.9, 6), spicules)


def _draw_blobs(rng: np.random.Generator, rough: float, radius: float) -> Blobs:
    """Draw a shape with the volume of a ball of the given radius, in radii of the nodule."""
    count = int(rng.integers(2, 6))
    centers = rng.normal(0, 0.42 * radius, (count, 3)) * rng.uniform(0.6, 1.3, 3)
    centers -= centers.mean(axis=0)
    widths = radius * rng.uniform(0.38, 0.62, count)
    shape = Blobs(centers, widths, draw_waves(rng, 1.1 * radius, 6), rough)
    axis = (np.arange(_CELLS) + 0.5) / _CELLS * 2 * _NEAR * radius - _NEAR * radius
    heights = np.sort(shape.height((axis[:, None, None], axis[:, None], axis)).ravel())
    cells = 4 / 3 * math.pi * (_CELLS / (2 * _NEAR)) ** 3  # in a ball of this radius
    return Blobs(centers, widths, shape.waves, rough, float(heights[-round(cells)]))


def _draw_spicules(rng: np.random.Generator, spot: Spot) -> list[Tube]:
    """Draw strands that run outward and get thinner; they lie around the middle of the nodule, in mm."""
    tubes = []
    for _ in range(int(rng.integers(10, 20))):
        way = rng.normal(size=3)
        way /= np.linalg.norm(way)
        length = spot.radius * rng.uniform(1.3, 2.1)
        radius = float(rng.uniform(0.5, 0.9)) + 0.06 * spot.radius
        bend = rng.normal(0, 0.08, 3) * length
        middle = spot.center + 0.6 * spot.radius * way
        tubes.append(Tube(middle, spot.center + length * way + bend, radius, 0.3))
    return tubes


def _columns(points: np.ndarray) -> Positions:
    return points[:, 0], points[:, 1], points[:, 2]
