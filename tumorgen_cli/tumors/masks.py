"""Mask priors, for methods that must be given a mask: deformed ellipsoids by size class, or the training tumors' own masks.

A mask is drawn inside a box as the harness places boxes: around a tumor with BA-PMG's offsets, which are drawn here once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import ndimage

from tumorgen_cli.geometry import Box, Shape, Triple, tight_box
from tumorgen_cli.planning.plan import Decisions, Plan
from tumorgen_cli.system.errors import Fault, PlanError

Prior = Literal["ellipsoid", "training"]
_LEAST_VOXELS = 8  # a thinner tumor is drawn on a finer grid, where it has a form
_MOST_ROOM = 0.5  # of a box's edge that offsets may take: a tumor is at least half as long as its box


@dataclass(frozen=True)
class MaskConfig:
    """`radii_mm`: the size classes of ellipsoids (tiny, small, medium, large); `deformation`: low and high of each class's spread
    of the radius, as a share of it. `turn_degrees`: how far the training tumors' own masks are turned, at most."""

    prior: Prior
    radii_mm: tuple[float, ...]
    deformation: tuple[tuple[float, float], ...]
    turn_degrees: float

    def __post_init__(self) -> None:
        if len(self.deformation) != len(self.radii_mm):
            fault = Fault(
                "mask.deformation",
                f"{len(self.deformation)} ranges",
                f"{len(self.radii_mm)}, one for each of mask.radii_mm",
                "give both",
            )
            raise PlanError("Size classes do not match", [fault])


def plan_masks(d: Decisions, prior: Prior) -> None:
    """Takes every field of a `MaskConfig` into `d`."""
    part = d.within("mask")
    part.take("prior", prior, "the paper's; `training`: the training tumors' own masks, turned, scaled, deformed")
    part.take(
        "radii_mm", (4.0, 8.0, 16.0, 32.0), "SynTumor's 4, 8, 16, 32 voxels of about 1 mm: tiny, small, medium, large"
    )
    spread = ((0.12, 0.25), (0.12, 0.25), (0.19, 0.38), (0.16, 0.31))
    part.take("deformation", spread, "SynTumor's elastic sigma of 0.5-1, 1-2, 3-6, 5-10 voxels, by the radius")
    part.take("turn_degrees", 20.0, "training's own masks: turned as far as training windows are, and a little more")


def nearest_size_class(radii_mm: Sequence[float], radius_mm: float) -> int:
    """The number of the class whose radius is nearest, on a logarithmic scale."""
    return int(np.abs(np.log(np.array(radii_mm)) - np.log(max(radius_mm, 1e-3))).argmin())


def draw_tumor_box(box: Shape, reach: Sequence[float], rng: np.random.Generator) -> Box:
    """Where in a box of `box` voxels its tumor lies: BA-PMG backwards, six offsets U(0, reach) inward from the box's planes.

    `reach` is α D_i in voxels. Offsets of an axis are shortened together where they would leave less than half of the edge.
    """
    start, stop = [], []
    for n, most in zip(box, reach, strict=True):
        low, high = rng.uniform(0, most, 2)
        shrink = min(1.0, _MOST_ROOM * n / max(low + high, 1e-9))
        a = min(round(low * shrink), n - 1)
        start.append(a)
        stop.append(max(a + 1, n - round(high * shrink)))
    return Box(tuple(start), tuple(stop))  # type: ignore[arg-type]


def draw_mask(
    config: MaskConfig,
    plan: Plan,
    box: Shape,
    spacing_mm: Triple,
    rng: np.random.Generator,
    donors: Sequence[np.ndarray],
) -> tuple[np.ndarray, dict[str, Any]]:
    """A soft mask (X, Y, Z) in [0, 1] for a box of `box` voxels, and what was drawn. `donors`: see `training_masks`."""
    reach = [plan.window.alpha * e / s for e, s in zip(plan.window.extent_mm, spacing_mm, strict=True)]
    tumor = draw_tumor_box(box, reach, rng)
    kind = nearest_size_class(
        config.radii_mm, float(np.prod([n / 2 * s for n, s in zip(tumor.shape, spacing_mm, strict=True)])) ** (1 / 3)
    )
    fine: Shape = tuple(max(n, _LEAST_VOXELS) for n in tumor.shape)  # type: ignore[assignment]
    fine_mm = [n * s / m for n, s, m in zip(tumor.shape, spacing_mm, fine, strict=True)]
    spread = float(rng.uniform(*config.deformation[kind]))
    drawn: dict[str, Any] = {"size": kind, "extent_voxels": list(tumor.shape)}
    if config.prior == "training":
        drawn["donor"] = int(rng.integers(len(donors)))
        body = _deformed(donors[drawn["donor"]], fine, fine_mm, config.turn_degrees, spread, rng)
    else:
        roomy: Shape = tuple(2 * n for n in fine)  # type: ignore[assignment]
        body = ellipsoid(roomy, tuple(map(float, fine)), tuple(n / 2 for n in fine), rng, spread)  # type: ignore[arg-type]
    return _largest_part(
        _stretched(_largest_part(body), box, tumor)
    ), drawn  # thin bridges may not outlive the stretching


def smooth_noise(shape: Shape, sigma: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise blurred by `sigma` voxels per axis, scaled back to mean 0 and standard deviation 1."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap")
    return ((noise - noise.mean()) / max(float(noise.std()), 1e-9)).astype(np.float32)


def ellipsoid(
    shape: Shape, center: Triple, radii: Triple, rng: np.random.Generator, deformation: float = 0.0
) -> np.ndarray:
    """A soft ellipsoid (X, Y, Z) in [0, 1], about one voxel wide at its edge.

    `center` and `radii` in voxels. `deformation` is the spread of the radius along the surface as a share of it; the
    field is smooth over half of a radius (elastic deformation of SynTumor and DiffTumor).
    """
    axes = np.ogrid[tuple(slice(0, n) for n in shape)]
    distance = np.sqrt(sum(((a + 0.5 - c) / max(r, 0.5)) ** 2 for a, c, r in zip(axes, center, radii, strict=True)))
    if deformation:
        distance = distance * (1 + deformation * smooth_noise(shape, [max(1.0, r / 2) for r in radii], rng))
    edge = max(0.5, min(radii))
    return np.clip((1 - distance) * edge + 0.5, 0, 1).astype(np.float32)


def _deformed(
    donor: np.ndarray,
    shape: Shape,
    spacing_mm: Sequence[float],
    turn_degrees: float,
    spread: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """A donor's mask stretched to `shape`, mirrored, turned about the third axis and deformed, in a grid of twice that shape."""
    angle = np.deg2rad(rng.uniform(-turn_degrees, turn_degrees))
    turn = np.array([[np.cos(angle), -np.sin(angle), 0.0], [np.sin(angle), np.cos(angle), 0.0], [0.0, 0.0, 1.0]])
    flips = np.where(rng.random(3) < 0.5, -1.0, 1.0)
    grid = np.stack(
        np.meshgrid(*((np.arange(2 * n) + 0.5) / n - 1 for n in shape), indexing="ij")
    )  # the donor is [-1/2, 1/2]^3
    for axis in range(3):
        grid[axis] += spread / 2 * smooth_noise(grid.shape[1:], [max(1.0, n / 4) for n in shape], rng)  # type: ignore[arg-type]
    length_mm = (np.array(shape) * np.array(spacing_mm)).reshape(3, 1, 1, 1)  # a turn is one in mm
    grid = np.tensordot(turn, grid * length_mm, 1) / length_mm * flips.reshape(3, 1, 1, 1)
    places = (grid + 0.5) * np.array(donor.shape).reshape(3, 1, 1, 1) - 0.5
    return np.clip(ndimage.map_coordinates(donor.astype(np.float32), places, order=1, mode="grid-constant"), 0, 1)


def _largest_part(body: np.ndarray) -> np.ndarray:
    """A soft mask without what a strong deformation has cut off from its largest part."""
    parts, count = ndimage.label(body >= 0.5)
    if count < 2:
        return body
    largest = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    others = ndimage.binary_dilation((parts > 0) & ~largest) & ~largest  # with their soft edges
    return np.where(others, 0, body).astype(np.float32)


def _stretched(body: np.ndarray, box: Shape, tumor: Box) -> np.ndarray:
    """A soft mask cut tightly and stretched onto `tumor` within a box."""
    tight = tight_box(body >= 0.5)
    if tight is None:  # thinner than a voxel
        tight = Box((0, 0, 0), body.shape)  # type: ignore[arg-type]
    axes = [
        (np.arange(n) + 0.5 - a) / m * size + start - 0.5
        for n, a, m, size, start in zip(box, tumor.start, tumor.shape, tight.shape, tight.start, strict=True)
    ]
    places = np.stack(np.meshgrid(*axes, indexing="ij"))
    return np.clip(ndimage.map_coordinates(body.astype(np.float32), places, order=1, mode="grid-constant"), 0, 1)
