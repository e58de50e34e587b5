"""Draw tumor masks for methods that need one: deformed ellipsoids of size classes, or masks of training tumors.

A mask is drawn inside a box. Boxes are placed around tumors with the offsets of BA-PMG; these offsets are drawn here
again, inward, to place the tumor in the box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import ndimage

from tumorgen_cli.geometry import Box, Shape, Triple, as_triple, find_largest_component, tight_box
from tumorgen_cli.planning.plan import Decisions, Plan
from tumorgen_cli.planning.ranges import Degrees, Radii, ShareRange
from tumorgen_cli.system.errors import Fault, PlanError

Prior = Literal["ellipsoid", "training"]
#: remedy for lists of settings by size class
SAME_LENGTH = "set this and mask.radii_mm (--set) to lists of the same length"
_LEAST_VOXELS = 8  # a thinner tumor is drawn on a finer grid, where it can have a shape
_MAX_OFFSETS = 0.5  # largest share of a box's edge that offsets take: a tumor is at least half as long as its box


@dataclass(frozen=True)
class MaskConfig:
    """How masks are drawn.

    Attributes:
        prior: `ellipsoid` for deformed ellipsoids, `training` for masks of training tumors.
        radii_mm: Radii of the size classes: tiny, small, medium, large.
        deformation: For each class, the range of the standard deviation of the radius, as a share of the radius.
        turn_degrees: Largest rotation of masks of training tumors.
    """

    prior: Prior
    radii_mm: Radii
    deformation: tuple[ShareRange, ...]
    turn_degrees: Degrees

    def __post_init__(self) -> None:
        if len(self.deformation) != len(self.radii_mm):
            fault = Fault(
                "mask.deformation",
                f"{len(self.deformation)} ranges",
                f"{len(self.radii_mm)}, one for each of mask.radii_mm",
                SAME_LENGTH,
            )
            raise PlanError("Size classes do not match", [fault])


def plan_masks(d: Decisions, prior: Prior) -> None:
    """Plan the fields of a `MaskConfig`."""
    part = d.within("mask")
    part.take("prior", prior, "the paper's; `training`: masks of training tumors, rotated, scaled, deformed")
    part.take(
        "radii_mm", (4.0, 8.0, 16.0, 32.0), "SynTumor's 4, 8, 16, 32 voxels of about 1 mm: tiny, small, medium, large"
    )
    spread = ((0.12, 0.25), (0.12, 0.25), (0.19, 0.38), (0.16, 0.31))
    part.take("deformation", spread, "SynTumor's elastic sigma of 0.5-1, 1-2, 3-6, 5-10 voxels, by the radius")
    part.take("turn_degrees", 20.0, "masks of training tumors: rotated as far as training windows, and a little more")


def nearest_size_class(radii_mm: Sequence[float], radius_mm: float) -> int:
    """The number of the size class with the nearest radius, on a logarithmic scale."""
    return int(np.abs(np.log(np.array(radii_mm)) - np.log(max(radius_mm, 1e-3))).argmin())


def draw_tumor_box(box: Shape, reach: Sequence[float], rng: np.random.Generator) -> Box:
    """Draw where the tumor lies in a box: each plane of the box is moved inward by U(0, reach), the reverse of BA-PMG.

    The two offsets of an axis are scaled down together where they would leave less than half of the edge.

    Args:
        box: Edges of the box in voxels.
        reach: Largest offset per axis, α D_i in voxels.
        rng: Draws the offsets.
    """
    start, stop = [], []
    for n, most in zip(box, reach, strict=True):
        low, high = rng.uniform(0, most, 2)
        shrink = min(1.0, _MAX_OFFSETS * n / max(low + high, 1e-9))
        a = min(round(low * shrink), n - 1)
        start.append(a)
        stop.append(max(a + 1, n - round(high * shrink)))
    return Box(as_triple(start), as_triple(stop))


def draw_mask(
    config: MaskConfig,
    plan: Plan,
    box: Shape,
    spacing_mm: Triple,
    rng: np.random.Generator,
    donors: Sequence[np.ndarray],
) -> tuple[np.ndarray, dict[str, Any]]:
    """Draw a soft mask for a box.

    Args:
        config: How masks are drawn.
        plan: The plan.
        box: Edges of the box in voxels.
        spacing_mm: Voxel edges.
        rng: Makes all random draws.
        donors: Masks of training tumors, for the prior `training`.

    Returns:
        The mask, (X, Y, Z) in [0, 1], and the drawn numbers for the record.
    """
    reach = [plan.window.alpha * e / s for e, s in zip(plan.window.extent_mm, spacing_mm, strict=True)]
    tumor = draw_tumor_box(box, reach, rng)
    half_mm = [n / 2 * s for n, s in zip(tumor.shape, spacing_mm, strict=True)]
    kind = nearest_size_class(config.radii_mm, float(np.prod(half_mm)) ** (1 / 3))
    fine = as_triple(max(n, _LEAST_VOXELS) for n in tumor.shape)
    fine_mm = [n * s / m for n, s, m in zip(tumor.shape, spacing_mm, fine, strict=True)]
    spread = float(rng.uniform(*config.deformation[kind]))
    drawn: dict[str, Any] = {"size": kind, "extent_voxels": list(tumor.shape)}
    if config.prior == "training":
        drawn["donor"] = int(rng.integers(len(donors)))
        body = _deformed(donors[drawn["donor"]], fine, fine_mm, config.turn_degrees, spread, rng)
    else:
        twice = as_triple(2 * n for n in fine)
        body = ellipsoid(twice, as_triple(map(float, fine)), as_triple(n / 2 for n in fine), rng, spread)
    stretched = _stretched(largest_part(body), box, tumor)
    return largest_part(stretched), drawn  # stretching may remove thin bridges


def smooth_noise(shape: tuple[int, ...], sigma: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """Draw Gaussian noise, blur it by `sigma` voxels per axis, and scale it to mean 0 and standard deviation 1."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap")
    return ((noise - noise.mean()) / max(float(noise.std()), 1e-9)).astype(np.float32)


def ellipsoid(
    shape: Shape, center: Triple, radii: Triple, rng: np.random.Generator, deformation: float = 0.0
) -> np.ndarray:
    """Draw a soft ellipsoid (X, Y, Z) in [0, 1], float32; its edge is about one voxel wide.

    Args:
        shape: Shape of the array.
        center: Center in voxels.
        radii: Half axes in voxels.
        rng: Draws the deformation.
        deformation: Standard deviation of the radius along the surface, as a share of the radius. The deformation is
            smooth over half a radius, as the elastic deformation of SynTumor and DiffTumor.
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
    """Stretch a mask to `shape`, mirror, rotate (third axis) and deform it, on a grid of twice that shape."""
    angle = np.deg2rad(rng.uniform(-turn_degrees, turn_degrees))
    turn = np.array([[np.cos(angle), -np.sin(angle), 0.0], [np.sin(angle), np.cos(angle), 0.0], [0.0, 0.0, 1.0]])
    flips = np.where(rng.random(3) < 0.5, -1.0, 1.0)
    # coordinates in which the donor is the cube [-1/2, 1/2]^3
    grid = np.stack(np.meshgrid(*((np.arange(2 * n) + 0.5) / n - 1 for n in shape), indexing="ij"))
    for axis in range(3):
        grid[axis] += spread / 2 * smooth_noise(grid.shape[1:], [max(1.0, n / 4) for n in shape], rng)
    length_mm = (np.array(shape) * np.array(spacing_mm)).reshape(3, 1, 1, 1)  # the rotation is in mm
    grid = np.tensordot(turn, grid * length_mm, 1) / length_mm * flips.reshape(3, 1, 1, 1)
    places = (grid + 0.5) * np.array(donor.shape).reshape(3, 1, 1, 1) - 0.5
    return np.clip(ndimage.map_coordinates(donor.astype(np.float32), places, order=1, mode="grid-constant"), 0, 1)


def largest_part(body: np.ndarray) -> np.ndarray:
    """Remove all parts of a soft mask (X, Y, Z) in [0, 1] except the largest, with their soft edges."""
    solid = body >= 0.5
    largest = find_largest_component(solid)
    if largest is None or (largest == solid).all():
        return body
    others = ndimage.binary_dilation(solid & ~largest) & ~largest  # with their soft edges
    return np.where(others, 0, body).astype(np.float32)


def _stretched(body: np.ndarray, box: Shape, tumor: Box) -> np.ndarray:
    """Cut a soft mask tightly and stretch it to fill `tumor`, a part of a box of shape `box`."""
    tight = tight_box(body >= 0.5)
    if tight is None:  # thinner than a voxel
        tight = Box((0, 0, 0), as_triple(body.shape))
    axes = [
        (np.arange(n) + 0.5 - a) / m * size + start - 0.5
        for n, a, m, size, start in zip(box, tumor.start, tumor.shape, tight.shape, tight.start, strict=True)
    ]
    places = np.stack(np.meshgrid(*axes, indexing="ij"))
    return np.clip(ndimage.map_coordinates(body.astype(np.float32), places, order=1, mode="grid-constant"), 0, 1)
