"""Branching vessels and airways of the lungs, and how tubes are drawn.

A tree grows as in Tawhai et al., "Generation of an anatomically based three-dimensional model of the conducting
airways" (2000): a branch runs toward the middle of the points that it supplies, and a plane through its end shares
the points between its children. Radii follow Murray's law. Only branches that reach a box are grown.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tumorgen_cli.data.phantom.chest import Chest

_MURRAY = 2.7  # exponent of the law that joins the radii of a branch and its children
_TIP_MM = 0.45  # radius of a branch that supplies one point
_PER_LITER = 620  # points that a tree of vessels supplies, per liter of lung
_REACH_MM = 12.0  # from a tube to its airway and its wall
_AIRWAY_POINTS = 28  # thinner airways are not seen on CT


@dataclass(frozen=True)
class Tube:
    """A straight tube that narrows from `start` to `stop`; positions and radii in mm."""

    start: np.ndarray
    stop: np.ndarray
    radius: float
    end_radius: float


@dataclass(frozen=True)
class Trees:
    """Tubes of the lungs near a box."""

    vessels: list[Tube]
    airways: list[Tube]


def grow_trees(
    rng: np.random.Generator, chest: Chest, low: np.ndarray, high: np.ndarray, thinnest_mm: float = 0.0
) -> Trees:
    """Grow arteries beside airways, and veins, as far as they reach the box from `low` to `high` in mm.

    Branches of a smaller radius than `thinnest_mm` are left out.
    """
    vessels: list[Tube] = []
    airways: list[Tube] = []
    for side in (-1.0, 1.0):
        for vein in (False, True):
            points = _draw_points(rng, chest, side)
            hilum = np.array([side * 36.0, 16.0, -6.0 if vein else 16.0]) + rng.normal(0, 2.5, 3)
            for tube, supplied in _grow(points, hilum, low, high, thinnest_mm):
                vessels.append(tube)
                if not vein and supplied >= _AIRWAY_POINTS:
                    airways.append(_beside(tube))
    return Trees(vessels, airways)


def _draw_points(rng: np.random.Generator, chest: Chest, side: float) -> np.ndarray:
    """Draw the points (N, 3) of one lung that a tree supplies, evenly over its volume."""
    low = np.array([0.0, -chest.depth, min(chest.domes) - 60.0])
    high = np.array([chest.width, chest.depth, chest.apex])
    liters = float(np.prod(high - low)) / 1e6
    points = rng.uniform(low, high, (round(liters * _PER_LITER), 3))
    points[:, 0] *= side
    depth = chest.lung_depth((points[:, 0], points[:, 1], points[:, 2]))
    return np.asarray(points[depth > 2.0])


def _grow(
    points: np.ndarray, root: np.ndarray, low: np.ndarray, high: np.ndarray, thinnest_mm: float
) -> list[tuple[Tube, int]]:
    """Grow one tree from its root; returns its tubes with the number of points that each supplies."""
    tubes: list[tuple[Tube, int]] = []
    left = [(points, root)]
    while left:
        own, start = left.pop()
        radius = _TIP_MM * len(own) ** (1 / _MURRAY)
        reached = (np.maximum(own.max(axis=0), start) > low - _REACH_MM) & (
            np.minimum(own.min(axis=0), start) < high + _REACH_MM
        )
        if radius < thinnest_mm or not reached.all():
            continue
        if len(own) == 1:
            tubes.append((Tube(start, own[0], radius, 0.7 * radius), 1))
            continue
        way = own.mean(axis=0) - start
        # the points themselves give the irregularity, so that it does not depend on which branches are grown
        chance = np.modf(np.abs(own[0]) * 7.31)[0] - 0.5
        stop = start + (0.42 + 0.16 * chance[0]) * way + 0.10 * np.linalg.norm(way) * chance
        tubes.append((Tube(start, stop, radius, 0.9 * radius), len(own)))
        across = _widest(own, stop - start)
        order = np.argsort(own @ across, kind="stable")
        own, cut = own[order], min(max(round(len(own) * (0.5 + 0.45 * chance[1])), 1), len(own) - 1)
        left += [(own[:cut], stop), (own[cut:], stop)]
    return tubes


def _widest(points: np.ndarray, heading: np.ndarray) -> np.ndarray:
    """The direction across `heading` in which the points spread most."""
    unit = heading / max(float(np.linalg.norm(heading)), 1e-6)
    centered = points - points.mean(axis=0)
    flat = centered - np.outer(centered @ unit, unit)
    _, vectors = np.linalg.eigh(flat.T @ flat)
    widest = vectors[:, -1]
    return np.asarray(widest * np.sign(widest[np.abs(widest).argmax()]))  # libraries differ in the sign


def _beside(artery: Tube) -> Tube:
    """The airway that runs beside an artery."""
    lumen = 0.95 * artery.radius
    shift = np.array([0.3, 0.5, 0.8]) * (artery.radius + lumen + 0.8)
    return Tube(artery.start + shift, artery.stop + shift, lumen, 0.95 * artery.end_radius)


def draw_tubes(tubes: list[Tube], axes: tuple[np.ndarray, ...], edge_mm: float, thicker_mm: float = 0.0) -> np.ndarray:
    """Draw the share of each voxel that tubes fill.

    Args:
        tubes: The tubes.
        axes: Positions of the voxels along each axis, in mm.
        edge_mm: Width of a tube's edge: about a voxel.
        thicker_mm: Added to every radius.

    Returns:
        (X, Y, Z) float32 in [0, 1].
    """
    out = np.zeros([len(axis) for axis in axes], np.float32)
    for tube in tubes:
        # a tube thinner than a voxel is drawn wider and fainter, so that its voxels do not flicker along its way
        true = max(tube.radius, tube.end_radius) + thicker_mm
        first, last = (max(r + thicker_mm, 0.75 * edge_mm) for r in (tube.radius, tube.end_radius))
        most = min(1.0, (true / (0.75 * edge_mm)) ** 2)
        reach = max(first, last) + edge_mm
        spans = []
        for axis, a, b in zip(axes, tube.start, tube.stop, strict=True):
            spans.append(slice(*np.searchsorted(axis, [min(a, b) - reach, max(a, b) + reach])))
        x, y, z = (axis[span] for axis, span in zip(axes, spans, strict=True))
        if not (x.size and y.size and z.size):
            continue
        window = out[tuple(spans)]
        x, y, z = x[:, None, None] - tube.start[0], y[:, None] - tube.start[1], z - tube.start[2]
        way = tube.stop - tube.start
        squared = max(float(way @ way), 1e-6)
        share = np.clip((x * way[0] + y * way[1] + z * way[2]) / squared, 0.0, 1.0)
        distance = np.sqrt((x - share * way[0]) ** 2 + (y - share * way[1]) ** 2 + (z - share * way[2]) ** 2)
        radius = first + share * (last - first)
        np.maximum(window, most * np.clip(0.5 + (radius - distance) / edge_mm, 0.0, 1.0), out=window)
    return out
