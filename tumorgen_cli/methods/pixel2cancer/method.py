"""Pixel2Cancer: a tumor grows cell by cell in the host's tissue, and darkens or brightens it by the cells' states."""

# ruff: noqa: ARG002, ARG003  (the contract gives every method the same arguments; some are not needed here)

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from tumorgen_cli.geometry import Box, Shape, tight_box
from tumorgen_cli.methods.base import Method, Request, Sampling, Synthetic
from tumorgen_cli.methods.contrast import ContrastSource, draw_contrasts, plan_contrast
from tumorgen_cli.methods.pixel2cancer import automaton
from tumorgen_cli.planning.fingerprint import Fingerprint
from tumorgen_cli.planning.plan import Decisions, Plan, WindowPlan
from tumorgen_cli.planning.ranges import (
    CellsAcross,
    FactorRange,
    IntensityRange,
    MillimetersAboveZero,
    Share,
    Steps,
    TissueBounds,
)
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.intensity import channel_units
from tumorgen_cli.system.devices import DeviceBudget
from tumorgen_cli.tumors import texture
from tumorgen_cli.tumors.masks import draw_tumor_box
from tumorgen_cli.tumors.texture import TextureConfig, plan_texture

_MORE_CORES = (3, 9)  # cells that begin a lobed tumor beside the first; from the public code
_CORE_REACH = 10  # how far from the first cell they lie, in cells; from the public code
_BLUR = 0.8  # sigma in cells, of the public code's kernel of three
_PUSHED = 1.3  # how far a tumor pushes tissue, in its own half axes; from the public code


@dataclass(frozen=True)
class Pixel2CancerConfig:
    """The method's section of the plan.

    Attributes:
        levels: by channel, four bounds in `preprocessing.intensity.channel_units`: tissue of level 1 lies between the
            first and the second, of level 2 below the third, of level 3 below the fourth. What is darker or brighter is
            a wall: another organ, air or a vessel. Those of the plan's main channel count.
        chances: chance that a cell of levels 1, 2 and 3 is invaded when a neighbor tries.
        cell_mm: edge of a cell.
        cells: the fewest and the most cells that a tumor is wide; cells are larger or smaller where needed.
        steps: the most steps of growth.
        lobed: share of the tumors that grow from several cells.
        death: share of the tumors wider than `death_mm` in which cells die.
        death_mm: see `death`.
        necrosis: how much darker dead cells are than living ones, as a share of the size of the contrast.
        mass_effect: how far the tissue in a tumor's center is spread outward, as a share; 0 leaves it where it is.
        contrast_from: where `contrast` is from.
        contrast: by channel, the range of a tumor's contrast, in `preprocessing.intensity.channel_units`.
        texture: what the contrast is multiplied by.
    """

    levels: tuple[TissueBounds, ...]
    chances: tuple[Share, Share, Share]
    cell_mm: MillimetersAboveZero
    cells: CellsAcross
    steps: Steps
    lobed: Share
    death: Share
    death_mm: MillimetersAboveZero
    necrosis: FactorRange
    mass_effect: Share
    contrast_from: ContrastSource
    contrast: tuple[IntensityRange, ...]
    texture: TextureConfig


class Pixel2Cancer(Method):
    """Pixel2Cancer behind the contract; see the module and `SOURCE`."""

    name = "pixel2cancer"
    section = Pixel2CancerConfig
    SOURCE = (
        "Lai et al., From Pixel to Cancer: Cellular Automata in Computed Tomography, MICCAI 2024, and its public code, "
        "which gives the numbers: growth, invasion by three levels of tissue, pressure on walls, death; texture and "
        "contrast by state. Deviations: Levels are quantiles of what surrounds the training tumors instead of 100 to "
        "160 HU, which exist in neither lung nor PET; what is darker than all of it is a wall, too. A tumor grows "
        "until it has the volume of an ellipsoid that fills the given place, not for a random number of steps; cells "
        "are 1 mm where that makes 8 to 32 of them. A wall gives way once it has been pressed three times. Counts and "
        "places are the pipeline's. Dead cells belong to the mask. Sign and size of the contrast are those of the "
        "training tumors, of each channel, and texture and states are divided by their means, so that a tumor has "
        "that contrast, unless `contrast_from` is literature; necrosis is a share of it. Walls that a tumor has "
        "overgrown are darkened to their bound, not by a factor of HU, and a bright tumor does not darken them. The "
        "code has a shift of tissue by the tumor's mass and does not call it: `mass_effect`, here by the tumor's own "
        "half axes."
    )
    keeps_background = True

    def __init__(self, plan: Plan, workspace: Workspace, device: str = "cpu") -> None:
        super().__init__(plan, workspace, device)
        self.config = plan.section(self.name, Pixel2CancerConfig)

    @classmethod
    def plan_section(cls, d: Decisions, fingerprint: Fingerprint, window: WindowPlan, budget: DeviceBudget) -> None:
        """Take every field of `Pixel2CancerConfig` into `d`."""
        reason = "lowest value, 50th, 75th and 90th percentile of what surrounds the training tumors"
        d.take("levels", tissue_levels(fingerprint), reason + "; published: 100, 120, 140, 160 HU, kidneys 40 more")
        d.take("chances", (1.0, 0.3, 0.1), "the public code's")
        d.take("cell_mm", 1.0, "the paper's voxels")
        d.take("cells", (8, 32), "fewer have no shape; more take longer than a second")
        d.take("steps", 150, "the public code's most, for the liver")
        d.take("lobed", 1 / 3, "the public code's")
        d.take("death", 0.5, "the public code's")
        d.take("death_mm", 20.0, "the public code: tumors larger than 2 cm")
        d.take("necrosis", (0.86, 1.05), "the public code's 90 to 110 HU over its mean contrast of 105 HU")
        d.take("mass_effect", 0.0, "the public code does not call it; it would be 0.3")
        plan_contrast(d, fingerprint)
        plan_texture(d, 1.0, "Pixel2Cancer, which takes SynTumor's")

    def load(self) -> dict[str, str]:
        """Nothing is loaded."""
        return {}

    def synthesize(self, request: Request, seed: int, sampling: Sampling) -> Synthetic:
        """Grow a tumor in the place and paint it by the states of its cells."""
        rng, c = np.random.default_rng(seed), self.config
        grid = CellGrid.draw(request, self.plan, c, rng)
        image = request.image.astype(np.float32, copy=True)
        cores = grid.draw_cores(self._tissue(request, grid), c.lobed, rng)
        dies = bool(rng.random() < c.death) and grid.width_mm > c.death_mm
        tissue, size = grid.tissue, round(math.pi / 6 * grid.across**3)
        state, steps = automaton.grow_tumor(tissue, cores, c.chances, size, c.steps, dies, rng)
        mask = np.zeros(image.shape[1:], np.float32)
        mask[request.place.slices] = grid.to_voxels((state != 0).astype(np.float32), request.place, 0.0)
        if request.region is not None:
            mask *= request.region
        drawn = {
            "cells": grid.across,
            "steps": steps,
            "cores": len(cores),
            "dead": int((state == automaton.DEAD).sum()),
        }
        if not (mask >= 0.5).any():
            return Synthetic(image, np.zeros_like(mask), drawn)
        push_tissue(image, mask, request.box, c.mass_effect)
        contrasts = self._paint(image, state, mask, grid, request, rng)
        return Synthetic(image, mask, {**drawn, "contrast": [round(each, 4) for each in contrasts]})

    def _tissue(self, request: Request, grid: CellGrid) -> np.ndarray:
        """Set the level of each cell of the grid, and return where cores may lie, (X, Y, Z) bool."""
        bounds = self._bounds(request)[self.plan.main_channel]
        values = grid.to_cells(request.image[self.plan.main_channel])
        level = np.digitize(values, bounds[1:]) + 1
        level[values < bounds[0]] = automaton.WALL
        if request.region is not None:
            level[grid.to_cells(request.region.astype(np.float32)) < 0.5] = automaton.NEVER
        grid.tissue = level.astype(np.int8)
        return level != automaton.NEVER

    def _bounds(self, request: Request) -> np.ndarray:
        """The bounds of the levels (C, 4) in the scan's units."""
        units = channel_units(self.plan.channels, request.limits)
        return units[:, :1] + units[:, 1:] * np.array(self.config.levels)

    def _paint(
        self,
        image: np.ndarray,
        state: np.ndarray,
        mask: np.ndarray,
        grid: CellGrid,
        request: Request,
        rng: np.random.Generator,
    ) -> list[float]:
        """Paint the states into an image (C, X, Y, Z) in place; returns the contrasts."""
        c, box = self.config, request.box
        inside = box.slices
        dead = grid.to_voxels((state == automaton.DEAD).astype(np.float32), box, _BLUR)
        alive = grid.to_voxels(np.where(state == automaton.DEAD, automaton.FULL, state) / automaton.FULL, box, _BLUR)
        if request.region is not None:
            dead, alive = dead * request.region[inside], alive * request.region[inside]
        grain = texture.draw_texture(c.texture, box.shape, request.spacing_mm, rng)
        scale = 1.0 if c.contrast_from == "literature" else 1 / (texture.MEAN * alive[mask[inside] >= 0.5].mean())
        contrasts = draw_contrasts(c.contrast, self.plan, request, rng)
        necrosis = rng.uniform(*c.necrosis)
        for channel, (contrast, bounds) in enumerate(zip(contrasts, self._bounds(request), strict=True)):
            part = image[(channel, *inside)]
            # vessels would shine through
            overgrown = part - np.maximum(part - bounds[-1], 0) * np.clip(2 * alive, 0, 1)
            living = overgrown + scale * grain * contrast * alive
            if contrast > 0:
                living = np.maximum(living, part)
            part[...] = living - scale * grain * abs(contrast) * necrosis * dead
        return contrasts


@dataclass
class CellGrid:
    """The cells of a place.

    Attributes:
        place: the place, in voxels of the window.
        edges: edges of a cell in voxels.
        shape: number of cells along each axis.
        center: the cell in the middle of the tumor.
        across: how many cells the tumor is wide.
        width_mm: how many mm the tumor is wide.
        tissue: the level of each cell.
    """

    place: Box
    edges: np.ndarray
    shape: Shape
    center: np.ndarray
    across: int
    width_mm: float
    tissue: np.ndarray

    @classmethod
    def draw(cls, request: Request, plan: Plan, config: Pixel2CancerConfig, rng: np.random.Generator) -> CellGrid:
        """Draw where in the place the tumor lies, and lay cells of which it is as many wide along each axis."""
        spacing, place = request.spacing_mm, request.place
        reach = [plan.window.alpha * e / s for e, s in zip(plan.window.extent_mm, spacing, strict=True)]
        tumor = draw_tumor_box(place.shape, reach, rng)
        width_mm = float(np.prod(np.array(tumor.shape) * spacing)) ** (1 / 3)
        across = int(np.clip(round(width_mm / config.cell_mm), *config.cells))
        edges = np.array(tumor.shape) / across
        x, y, z = (math.ceil(n / e - 1e-6) for n, e in zip(place.shape, edges, strict=True))
        center = np.floor(np.array(tumor.center) / edges).astype(int)
        return cls(place, edges, (x, y, z), center, across, width_mm, np.zeros((x, y, z), np.int8))

    def draw_cores(self, allowed: np.ndarray, lobed: float, rng: np.random.Generator) -> np.ndarray:
        """The cells (N, 3) from which a tumor grows: the one nearest to its center, and for some tumors a few more.

        `allowed` (X, Y, Z) bool tells where they may lie; without such a cell there is no core.
        """
        free = np.argwhere(allowed)
        if not len(free):
            return free
        first = free[np.square(free - self.center).sum(axis=1).argmin()][None]
        if rng.random() >= lobed:
            return first
        reach = min(_CORE_REACH, self.across // 3)
        more = first + rng.integers(-reach, reach + 1, (rng.integers(_MORE_CORES[0], _MORE_CORES[1] + 1), 3))
        more = more[((more >= 0) & (more < self.shape)).all(axis=1)]
        return np.concatenate([first, more[allowed[tuple(more.T)]]])

    def to_cells(self, window: np.ndarray) -> np.ndarray:
        """The values of a window (X, Y, Z) at the cells' centers; where cells are larger than voxels, their means."""
        axes = [
            a + (np.arange(n) + 0.5) * e - 0.5 for a, n, e in zip(self.place.start, self.shape, self.edges, strict=True)
        ]
        wide = [max(0.0, e - 1) / math.sqrt(12) for e in self.edges]  # the spread of voxels in a cell
        blurred = ndimage.gaussian_filter(window.astype(np.float32), wide)
        return np.asarray(ndimage.map_coordinates(blurred, np.meshgrid(*axes, indexing="ij"), order=1, mode="nearest"))

    def to_voxels(self, cells: np.ndarray, box: Box, blur: float) -> np.ndarray:
        """The values of cells (X, Y, Z) at a box's voxels, 0 beyond them.

        Args:
            cells: The values.
            box: The box, in voxels of the window.
            blur: Standard deviation of a blur, in cells; voxels that are larger than cells have their mean, too.
        """
        wide = [math.hypot(blur, max(0.0, 1 / e - 1) / math.sqrt(12)) for e in self.edges]
        blurred = ndimage.gaussian_filter(cells.astype(np.float32), wide, mode="constant")
        axes = [
            (np.arange(a, b) + 0.5 - start) / e - 0.5
            for a, b, start, e in zip(box.start, box.stop, self.place.start, self.edges, strict=True)
        ]
        places = np.meshgrid(*axes, indexing="ij")
        return np.asarray(ndimage.map_coordinates(blurred, places, order=1, mode="grid-constant"), np.float32)


def push_tissue(image: np.ndarray, mask: np.ndarray, box: Box, strength: float) -> None:
    """Spread the tissue in a tumor outward, in place: mass effect.

    A point at r outer half axes from the tumor's center, r < 1, shows what was at r (1 - strength (1 - r²)). The outer
    half axes are 1.3 times the tumor's, and end at the box.

    Args:
        image: The window (C, X, Y, Z).
        mask: The tumor (X, Y, Z), at least one voxel of 0.5 or more.
        box: What may change.
        strength: How much is spread; with 0, nothing changes.
    """
    tumor = tight_box(mask >= 0.5)
    if not strength or tumor is None:
        return
    center = np.array(tumor.center) - 0.5
    ends = np.minimum(center + 0.5 - box.start, np.array(box.stop) - center - 0.5)
    outer = np.minimum(_PUSHED * np.array(tumor.shape) / 2, ends)
    points = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(box.start, box.stop, strict=True)), indexing="ij"))
    offset = points - center.reshape(3, 1, 1, 1)
    r2 = np.square(offset / outer.reshape(3, 1, 1, 1)).sum(axis=0)
    moved = center.reshape(3, 1, 1, 1) + offset * (1 - strength * np.maximum(1 - r2, 0))
    for channel in image:
        pushed = ndimage.map_coordinates(channel, moved, order=1, mode="nearest")
        part = channel[box.slices]
        part[r2 < 1] = pushed[r2 < 1]


def tissue_levels(fingerprint: Fingerprint) -> tuple[tuple[float, float, float, float], ...]:
    """The bounds of tissue levels by channel: of what surrounds the training tumors, else of the scans."""
    around = [tumor.surroundings.levels for tumor in fingerprint.tumors if tumor.surroundings]
    found = []
    for number, facts in enumerate(fingerprint.channels):
        values: Sequence[float] = [level for levels in around for level in levels[number]]
        if not values:
            values = [facts.image[key] for key in ("5", "50", "95", "99")]
        low, first, second, wall = (float(v) for v in np.quantile(values, (0, 0.5, 0.75, 0.9)))
        found.append((low, first, second, wall))
    return tuple(found)
