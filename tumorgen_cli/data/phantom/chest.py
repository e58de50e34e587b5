"""The anatomy of a chest as functions of the position in mm, so that a crop costs no more than its own voxels.

x runs to the patient's left, y to the back, z to the head; 0 is the middle of the chest. Every function takes three
arrays that broadcast to the same shape (open grids or lists of points), and returns depths in mm: positive inside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tumorgen_cli.geometry import Triple

Positions = tuple[np.ndarray, np.ndarray, np.ndarray]
PLEURA_MM = 1.5  # pleura and fat between the inner chest wall and the lung
RIB_MM = 8.0  # from the lung to the middle of a rib
_ROUND = 2.3  # exponent of the chest's outline: a little squarer than an ellipse


@dataclass(frozen=True)
class Waves:
    """A smooth random function of the position: a few plane waves, about 1 in amplitude."""

    vectors: np.ndarray
    phases: np.ndarray

    def __call__(self, at: Positions) -> np.ndarray:
        """The function at the given positions."""
        parts: list[np.ndarray] = [
            np.sin(v[0] * at[0] + v[1] * at[1] + v[2] * at[2] + phase)
            for v, phase in zip(self.vectors, self.phases, strict=True)
        ]
        return np.asarray(sum(parts[1:], parts[0]) / math.sqrt(len(parts)))


def draw_waves(rng: np.random.Generator, length_mm: float, count: int = 4) -> Waves:
    """Draw waves of about the given length, in random directions."""
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    lengths = length_mm * rng.uniform(0.7, 1.4, (count, 1))
    return Waves((2 * math.pi * directions / lengths).astype(np.float32), rng.uniform(0, 6.3, count).astype(np.float32))


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid: center and half axes in mm, turned about z by `turn`, then about y by `tilt` radians."""

    center: Triple
    half: Triple
    turn: float = 0.0
    tilt: float = 0.0

    def depth(self, at: Positions) -> np.ndarray:
        """Depth in the ellipsoid, exact along its axes."""
        x, y, z = (a - c for a, c in zip(at, self.center, strict=True))
        c, s = math.cos(self.tilt), math.sin(self.tilt)
        x, z = c * x - s * z, c * z + s * x
        c, s = math.cos(self.turn), math.sin(self.turn)
        u, v = c * x + s * y, c * y - s * x
        q = np.sqrt((u / self.half[0]) ** 2 + (v / self.half[1]) ** 2 + (z / self.half[2]) ** 2)
        length = np.sqrt(u * u + v * v + z * z)
        return np.asarray((1 - q) * np.where(q > 1e-3, length / np.maximum(q, 1e-3), min(self.half)))


@dataclass(frozen=True)
class Chest:
    """One patient's chest; lengths in mm, intensities in HU.

    Attributes:
        width: Half the width of the inside of the rib cage; `depth` is half its depth.
        apex: Where the lungs end above, in z.
        domes: Tops of the right and the left half of the diaphragm, in z.
        wall: From the lung to the outer face of the muscles.
        fat: Thickness of the fat under the skin.
        heart: The heart with its coat of fat.
        contrast: HU of blood: about 45, or more after a contrast agent.
        lung: HU of lung tissue at the front; it is denser toward the back.
        ribs: Distance of one rib to the next, their shift in z, and their slope toward the front.
        emphysema: HU by which bubbles of air darken the lung; 0 in most patients.
        waves: Irregularities of the surfaces, from long to short.
    """

    width: float
    depth: float
    apex: float
    domes: tuple[float, float]
    wall: float
    fat: float
    heart: Ellipsoid
    contrast: float
    lung: float
    ribs: Triple
    emphysema: float
    waves: tuple[Waves, Waves, Waves]

    @property
    def spine_y(self) -> float:
        """Middle of the vertebral bodies in y."""
        return self.depth - 6.0

    def body_depth(self, at: Positions) -> np.ndarray:
        """Depth below the skin."""
        extra = self.wall + self.fat + 2.0
        shoulders = 30.0 / (1 + np.exp(-(at[2] - self.apex + 10) / 15.0))
        outline = _outline_depth(at, self.width + extra + shoulders, self.depth + extra, 2.6)
        return np.asarray(outline + 2.0 * self.waves[0](at))

    def cavity_depth(self, at: Positions) -> np.ndarray:
        """Depth inside the rib cage."""
        up = np.clip((at[2] + 60.0) / (self.apex + 60.0), 0.0, 0.9999)
        taper = np.sqrt(1 - up**3.0)  # round at the apex
        inner = _outline_depth(at, self.width * taper, self.depth * (0.12 + 0.88 * taper), _ROUND)
        near_top = np.minimum(inner, 0.8 * (self.apex - at[2]))
        return np.asarray(near_top + 1.5 * self.waves[1](at))

    def dome_height(self, at: Positions) -> np.ndarray:
        """Height of a position above the diaphragm; the right half lies higher."""
        x, y, z = at
        right, left = (
            top - ((x - side * 0.5 * self.width) ** 2 / 95.0 + (y + 8.0) ** 2 / 80.0)
            for top, side in zip(self.domes, (-1.0, 1.0), strict=True)
        )
        return np.asarray(z - np.maximum(right, left) - 2.0 * self.waves[0](at))

    def spine_depth(self, at: Positions) -> np.ndarray:
        """Depth in the vertebral bodies and discs, as a column."""
        return np.asarray(18.0 - np.sqrt(at[0] ** 2 * 0.85 + (at[1] - self.spine_y) ** 2 + 0 * at[2]))

    def mediastinum_depth(self, at: Positions) -> np.ndarray:
        """Depth in what lies between the lungs."""
        x, y, z = at
        half = (
            7.0 + 24.0 * np.exp(-(((y - 12.0) / 40.0) ** 2)) + 12.0 * np.exp(-((z - 10.0) ** 2 + (y - 10) ** 2) / 900.0)
        )
        plain = half - np.abs(x - 3.0) + 4.0 * self.waves[0](at) + 2.5 * self.waves[1](at)
        knob = 17.0 - np.sqrt((x - 16.0) ** 2 + ((y - 22.0) / 1.6) ** 2 + (z - 52.0) ** 2)  # the arch of the aorta
        aorta = 14.0 - np.sqrt((x - 20.0) ** 2 + (y - self.spine_y + 34.0) ** 2 + 0 * z) - np.maximum(z - 45.0, 0.0)
        return np.asarray(np.maximum(np.maximum(plain, knob), aorta))

    def lung_depth(self, at: Positions) -> np.ndarray:
        """Depth below the surface of a lung."""
        outside = np.maximum(self.mediastinum_depth(at), self.heart.depth(at) + 1.5 * self.waves[1](at))
        outside = np.maximum(outside, self.spine_depth(at) + 3.0)
        height = self.dome_height(at) * 0.7  # the dome is steep at its sides
        return np.asarray(np.minimum(np.minimum(self.cavity_depth(at) - PLEURA_MM, height), -outside))


def _outline_depth(at: Positions, half_x: Any, half_y: Any, power: float) -> np.ndarray:
    """Depth inside a cylinder along z with a rounded outline, measured toward its axis."""
    x, y = np.abs(at[0]), np.abs(at[1])
    relative = ((x / half_x) ** power + (y / half_y) ** power) ** (1 / power)
    radius = np.sqrt(x * x + y * y)
    return np.asarray((1 - relative) * np.where(relative > 0.02, radius / np.maximum(relative, 0.02), 50.0))


def draw_chest(rng: np.random.Generator) -> Chest:
    """Draw a patient."""
    u = rng.uniform
    size = float(u(0.9, 1.08))
    width, depth = size * float(u(128, 146)), size * float(u(82, 98))
    right = float(u(-85, -55))
    heart = Ellipsoid(
        (float(u(10, 24)), float(u(-30, -18)), float(u(-46, -32))),
        (size * float(u(62, 76)), size * float(u(42, 50)), size * float(u(46, 58))),
        -float(u(0.2, 0.6)),
        float(u(0.35, 0.65)),
    )
    contrast = float(u(130, 260)) if u() < 0.5 else float(u(38, 52))
    return Chest(
        width=width,
        depth=depth,
        apex=size * float(u(112, 128)),
        domes=(right, right - float(u(5, 18))),
        wall=float(u(17, 27)),
        fat=float(u(5, 28)),
        heart=heart,
        contrast=contrast,
        lung=float(u(-885, -835)),
        ribs=(float(u(24, 29)), float(u(0, 28)), float(u(45, 75))),
        emphysema=float(u(40, 90)) if u() < 0.25 else 0.0,
        waves=(draw_waves(rng, 110.0), draw_waves(rng, 60.0), draw_waves(rng, 14.0, 6)),
    )
