"""Phantom chest CT with and without lung nodules; not for scientific results.

A patient is a set of functions of the position (`chest`, `tubes`, `nodules`). Tissue is drawn on the grid of the scan
or of a crop, blurred by the scanner's point spread function, and given the noise of a filtered back projection, whose
spectrum is a ramp times the window of the reconstruction kernel. Beam hardening, scatter and motion are not simulated.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import fft, ndimage

from tumorgen_cli.data.phantom.chest import RIB_MM, Chest, Positions, draw_chest
from tumorgen_cli.data.phantom.nodules import KINDS, Nodule, Spot, draw_nodule, draw_radius, draw_spot
from tumorgen_cli.data.phantom.scan import Phantom, blur, edge, smooth_noise
from tumorgen_cli.data.phantom.tubes import Trees, Tube, draw_tubes, grow_trees
from tumorgen_cli.geometry import Grid, Shape, Triple, as_triple
from tumorgen_cli.system import files

CROP_SPACING_MM: Triple = (1.0, 1.0, 1.25)
SPACING_MM: Triple = (2.0, 2.0, 2.5)  # of a whole chest, so that its file is a few MB
_FIELD_MM: Triple = (348.0, 256.0, 240.0)
_CENTER_MM: Triple = (0.0, 4.0, 15.0)  # of the field
_AIR, _FAT, _MUSCLE, _SKIN = -1000.0, -105.0, 55.0, 10.0
_TRIES = 12  # to place another nodule inside a crop
_NOISE_PAD = 6  # voxels beyond the scan, so that the noise does not repeat from one face to the other


@dataclass(frozen=True)
class Tissue:
    """What a patient's scan shows before blur and noise: (X, Y, Z) arrays, density in HU, share of lung in [0, 1]."""

    density: np.ndarray
    lung: np.ndarray


def draw_phantom(seed: int, index: int, tumors: bool = True, crop_mm: float | None = None) -> Phantom:
    """Draw the scan of one case, or a crop of it; it depends on these arguments and on nothing else.

    A crop without nodules lies around a place that is drawn like that of a nodule, in another patient.
    """
    rng = np.random.default_rng(files.derive_seed("chest", seed, "case" if tumors else "healthy", index))
    chest = draw_chest(rng)
    trees_seed = int(rng.integers(2**62))
    spots = [draw_first_spot(rng, chest, trees_seed)]
    grid = draw_grid(rng, spots[0], crop_mm)
    for _ in range(int(rng.choice([0, 1, 2], p=[0.75, 0.17, 0.08]))):
        spots += _draw_other_spot(rng, chest, spots, grid, crop_mm is not None)
    kinds = [KINDS[index % len(KINDS)], *(str(rng.choice(KINDS)) for _ in spots[1:])]
    nodules = [draw_nodule(rng, spot, kind) for spot, kind in zip(spots, kinds, strict=True)]
    return draw_scan(rng, chest, trees_seed, grid, nodules if tumors else [])


def draw_first_spot(rng: np.random.Generator, chest: Chest, trees_seed: int) -> Spot:
    """Draw the place of a patient's first nodule."""
    middle = np.array([rng.choice([-1.0, 1.0]) * rng.uniform(50, 90), rng.uniform(-40, 40), rng.uniform(-30, 70)])
    near = grow_trees(np.random.default_rng(trees_seed), chest, middle - 10, middle + 10)
    return draw_spot(rng, chest, near.vessels, draw_radius(rng))


def draw_scan(rng: np.random.Generator, chest: Chest, trees_seed: int, grid: Grid, nodules: list[Nodule]) -> Phantom:
    """Scan a patient with the given nodules; without any, the same `rng` gives the same scan elsewhere."""
    axes = _axes(grid)
    low, high = (np.array([axis[at] for axis in axes]) for at in (0, -1))
    width = float(np.mean(grid.spacing_mm))
    trees = grow_trees(np.random.default_rng(trees_seed), chest, low, high, thinnest_mm=0.3 * width)
    texture = 14.0 * smooth_noise(rng, grid, 2.2) + 12.0 * smooth_noise(rng, grid, 7.0)
    tissue = _draw_tissue(chest, trees, grid, texture.astype(np.float32))
    width_mm, sd, cut = float(rng.uniform(1.2, 1.9)), float(rng.uniform(12, 34)), float(rng.uniform(0.32, 0.55))
    noise = kernel_noise(rng, grid, cut) * sd
    density, mask = tissue.density, np.zeros(grid.shape, bool)
    for nodule in nodules:
        density, share = _add_nodule(density, tissue.lung, nodule, axes)
        mask |= _outline(share, grid, width_mm)
    seen = blur(density, grid, width_mm)
    image = np.clip(np.rint(seen + noise), -1024, 3071).astype(np.int16)
    region = (tissue.lung >= 0.5).astype(np.uint8)
    return Phantom(image, mask.astype(np.uint8), region, grid, tuple(nodule.kind for nodule in nodules))


def kernel_noise(rng: np.random.Generator, grid: Grid, cut_per_mm: float) -> np.ndarray:
    """Draw noise (X, Y, Z) of standard deviation 1 with the spectrum of filtered back projection.

    In the axial plane its power is a ramp times the square of a Hann window that ends at `cut_per_mm`; along z it is
    that of slices a little thicker than their distance.

    Source: Riederer, Pelc and Chesler, "The noise power spectrum in computed X-ray tomography" (1978), eq. 10.
    """
    shape = [fft.next_fast_len(n + _NOISE_PAD, real=True) for n in grid.shape]
    fx, fy = (fft.fftfreq(n, s) for n, s in zip(shape[:2], grid.spacing_mm[:2], strict=True))
    fz = fft.rfftfreq(shape[2], grid.spacing_mm[2])
    radial = np.sqrt(fx[:, None] ** 2 + fy[None] ** 2)
    window = np.where(radial < cut_per_mm, 0.5 + 0.5 * np.cos(np.pi * radial / cut_per_mm), 0.0)
    plane = np.sqrt(radial) * window
    along = np.exp(-((fz * 1.1 * grid.spacing_mm[2]) ** 2) * 2)
    white = fft.rfftn(rng.standard_normal(shape, dtype=np.float32))
    field = fft.irfftn(white * (plane[:, :, None] * along).astype(np.float32), s=shape)
    field = field[tuple(slice(n) for n in grid.shape)]
    return np.asarray(field / field.std(), np.float32)


def draw_grid(rng: np.random.Generator, spot: Spot, crop_mm: float | None) -> Grid:
    """The grid of the whole chest, or of a cube at random around a place, with the nodule whole in it."""
    if crop_mm is None:
        return _grid_around(_CENTER_MM, _FIELD_MM, SPACING_MM)
    room = max(0.5 * crop_mm - 1.6 * spot.radius - 2.0, 0.0)
    return _grid_around(as_triple(spot.center + rng.uniform(-room, room, 3)), (crop_mm,) * 3, CROP_SPACING_MM)


def _grid_around(center: Triple, edges_mm: Triple, spacing_mm: Triple) -> Grid:
    shape: Shape = as_triple(round(e / s) for e, s in zip(edges_mm, spacing_mm, strict=True))
    origin = as_triple(float(c - s * (n - 1) / 2) for c, s, n in zip(center, spacing_mm, shape, strict=True))
    return Grid(shape, spacing_mm, origin)


def _draw_other_spot(rng: np.random.Generator, chest: Chest, spots: list[Spot], grid: Grid, whole: bool) -> list[Spot]:
    """Draw the place of another nodule, apart from the others; in a crop only one that lies whole inside."""
    low = np.array(grid.origin_mm)
    high = low + np.array(grid.extent_mm)
    for _ in range(_TRIES):
        spot = draw_spot(rng, chest, [], min(draw_radius(rng), 8.0))
        apart = all(np.linalg.norm(spot.center - o.center) > 2.0 * (spot.radius + o.radius) for o in spots)
        reach = 1.6 * spot.radius + 2.0
        inside = (spot.center > low + reach).all() and (spot.center < high - reach).all()
        if apart and (inside or not whole):
            return [spot]
    return []


def _axes(grid: Grid) -> tuple[np.ndarray, ...]:
    """Positions of the voxels along each axis, in mm."""
    return tuple(
        (o + s * np.arange(n)).astype(np.float32)
        for o, s, n in zip(grid.origin_mm, grid.spacing_mm, grid.shape, strict=True)
    )


def _open(axes: tuple[np.ndarray, ...]) -> Positions:
    return axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :]


def _mix(below: np.ndarray, above: Any, share: np.ndarray) -> np.ndarray:
    return np.asarray(below + (above - below) * share, np.float32)


def _draw_tissue(chest: Chest, trees: Trees, grid: Grid, texture: np.ndarray) -> Tissue:
    """Draw the patient without nodules."""
    axes, width = _axes(grid), float(np.mean(grid.spacing_mm))
    at = _open(axes)
    cavity = chest.cavity_depth(at)
    density = _draw_wall(chest, at, cavity, width, texture)
    inner = _draw_center(chest, axes, width, texture)
    density = _mix(density, inner, edge(cavity, width))
    density = _draw_spine(chest, at, density, width)
    lung = edge(chest.lung_depth(at), width)
    tissue = chest.lung + 0.45 * (at[1] + 0 * at[0]) + texture * 1.2
    if chest.emphysema:
        tissue = tissue - chest.emphysema * edge(chest.waves[2](at) + texture / 25.0 - 0.9, 0.4)
    tissue = tissue + _fissures(chest, at, width)
    tissue = np.maximum(tissue, -985.0)
    vessels = draw_tubes(trees.vessels, axes, width)
    tissue = _mix(tissue, max(chest.contrast, 40.0), vessels)
    tissue = _mix(tissue, 10.0, draw_tubes(trees.airways, axes, width, thicker_mm=0.6))
    tissue = _mix(tissue, _AIR + 15.0, draw_tubes(trees.airways, axes, width))
    return Tissue(_mix(density, tissue, lung), lung)


def _draw_wall(chest: Chest, at: Positions, cavity: np.ndarray, width: float, texture: np.ndarray) -> np.ndarray:
    """Air, skin, fat, muscles with strands of fat, and ribs."""
    body = chest.body_depth(at)
    density = _mix(np.full(body.shape, _AIR, np.float32), _SKIN, edge(body, width))
    density = _mix(density, _FAT + 0.5 * texture, edge(body - 2.0, width))
    strands = edge(chest.waves[1](at) + chest.waves[2](at) * 0.5 - 0.9, 0.25)  # fat between muscles
    muscle = _MUSCLE + 0.4 * texture - 130.0 * strands
    density = _mix(density, muscle, edge(body - chest.fat - 2.0 * chest.waves[1](at), width))
    step, shift, slope = chest.ribs
    front = 0.5 - 0.5 * at[1] / chest.depth  # 0 at the back, 1 at the front
    height = at[2] + slope * front + 3.0 * chest.waves[0](at) - shift
    along = height - step * np.rint(height / step)
    outward = -cavity - RIB_MM
    radius = np.sqrt((along / 1.5) ** 2 + outward**2 * 1.2)
    gone = edge(at[1] + 0.72 * chest.depth, 6.0)  # the front ends are cartilage
    bone = 230.0 + 450.0 * edge(radius - 2.2, 1.5)
    bone = 120.0 + (bone - 120.0) * gone
    return _mix(density, bone, edge(4.0 - radius, width) * edge(chest.apex - 5.0 - at[2], 6.0))


def _draw_spine(chest: Chest, at: Positions, density: np.ndarray, width: float) -> np.ndarray:
    """Vertebral bodies, discs, the arches behind them, and the canal."""
    depth = chest.spine_depth(at)
    level = at[2] + 4.0 * chest.waves[0](at)
    disc = edge(3.0 - np.abs(level - 25.0 * np.rint(level / 25.0)), width)
    bone = 190.0 + 260.0 * edge(2.0 - depth, 1.5)
    density = _mix(density, bone * (1 - disc) + 80.0 * disc, edge(depth, width))
    behind = at[1] - chest.spine_y - 30.0
    arch = np.sqrt((at[0] / 2.0) ** 2 + behind**2 + (0.5 * (level - 25.0 * np.rint(level / 25.0 + 0.2))) ** 2)
    density = _mix(density, 350.0, edge(9.0 - arch, width))
    canal = np.sqrt(at[0] ** 2 + (at[1] - chest.spine_y - 23.0) ** 2 + 0 * at[2])
    return _mix(density, 30.0, edge(8.0 - canal, width))


def _draw_center(chest: Chest, axes: tuple[np.ndarray, ...], width: float, texture: np.ndarray) -> np.ndarray:
    """What fills the rib cage beside the lungs: fat, heart, great vessels, windpipe, gullet, liver and spleen."""
    at = _open(axes)
    blood = chest.contrast + 0.3 * texture
    density = (_FAT + 20.0 + 0.8 * texture).astype(np.float32)
    heart = chest.heart.depth(at)
    density = _mix(density, 70.0 + 0.3 * texture, edge(heart - 5.0, width))
    chambers = edge(heart - 17.0, 2.0) * edge(np.abs(at[0] - chest.heart.center[0] + 0.6 * at[1] + 14.0) - 4.0, 3.0)
    density = _mix(density, blood, chambers)
    great, gullet, airway = _great_tubes(chest)
    density = _mix(density, blood, draw_tubes(great, axes, width))
    density = _mix(density, 35.0, draw_tubes(gullet, axes, width))
    density = _mix(density, 30.0, draw_tubes(airway, axes, width, thicker_mm=1.6))
    density = _mix(density, _AIR + 10.0, draw_tubes(airway, axes, width))
    below = -chest.dome_height(at) - 3.0
    enhanced = 55.0 + 0.35 * (chest.contrast - 45.0)
    liver = np.minimum(below, 35.0 + 0.25 * at[1] - at[0])
    spleen = np.minimum(below - 4.0, np.minimum(at[0] - 55.0, at[1] + 10.0))
    stomach = np.minimum(below - 8.0, np.minimum(at[0] - 45.0, -at[1] + 5.0))
    density = _mix(density, _FAT, edge(below, width))
    for organ, hu in ((liver, enhanced), (spleen, enhanced - 8.0), (stomach, 25.0)):
        density = _mix(density, hu + 0.4 * texture, edge(organ, width))
    return density


def _great_tubes(chest: Chest) -> tuple[list[Tube], list[Tube], list[Tube]]:
    """The great vessels, the gullet, and the windpipe with the main bronchi."""
    back = chest.spine_y - 24.0
    arch: list[Triple] = [
        (-12, -12, -25),
        (-16, -14, 25),
        (-10, -8, 50),
        (6, 12, 60),
        (20, back - 12, 50),
        (22, back, 20),
        (14, back, -160),
    ]
    lung_artery: list[Triple] = [(10, -22, -8), (6, -10, 20), (-36, 10, 14)]
    paths: list[tuple[list[Triple], float]] = [
        (arch, 13.0),
        ([(-26, -10, 75), (-28, -8, -15)], 9.0),  # superior vena cava
        (lung_artery, 11.0),
        ([(6, -10, 20), (36, 14, 18)], 10.0),
        ([(-34, 16, -8), (4, 16, -14), (34, 16, -8)], 9.0),  # left atrium and the veins into it
        ([(-10, -6, 58), (-16, -10, 130)], 6.0),  # vessels to head and arms
        ([(8, 0, 60), (14, -4, 130)], 5.0),
    ]
    great = [tube for path, radius in paths for tube in _path(path, radius)]
    gullet = _path([(4, 30, 140), (3, back - 10, 40), (6, back - 14, -140)], 7.0)
    airway = [*_path([(0, 8, 150), (0, 14, 36)], 8.5), *_path([(0, 14, 36), (-36, 16, 14)], 6.5)]
    return great, gullet, [*airway, *_path([(0, 14, 36), (38, 18, 12)], 6.0)]


def _path(corners: list[Triple], radius: float) -> list[Tube]:
    points = [np.array(corner, float) for corner in corners]
    return [Tube(a, b, radius, radius) for a, b in itertools.pairwise(points)]


def _fissures(chest: Chest, at: Positions, width: float) -> np.ndarray:
    """HU that the thin sheets between the lobes add."""
    oblique = at[2] + 15.0 - 0.75 * at[1] + 6.0 * chest.waves[0](at)
    level = np.where(at[0] < 0, at[2] - 12.0 + 5.0 * chest.waves[1](at), 1e3)
    level = np.where(oblique > 0, level, 1e3)  # the right lung has a middle lobe in front
    distance = np.minimum(np.abs(oblique) * 0.8, np.abs(level))
    return np.asarray(110.0 / width * np.clip(1 - distance / (1.5 * width), 0, 1))


def _add_nodule(
    density: np.ndarray, lung: np.ndarray, nodule: Nodule, axes: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Add a nodule where the lung is; returns the new density and the nodule's share of each voxel."""
    radius, width = nodule.spot.radius, float(np.mean([axis[1] - axis[0] for axis in axes]))
    spans = tuple(
        slice(*np.searchsorted(axis, [c - nodule.reach_mm, c + nodule.reach_mm]))
        for axis, c in zip(axes, nodule.spot.center, strict=True)
    )
    share = np.zeros_like(density)
    own = tuple(axis[span] for axis, span in zip(axes, spans, strict=True))
    if not all(axis.size for axis in own):
        return density, share
    at = _open(tuple((axis - c) / radius for axis, c in zip(own, nodule.spot.center, strict=True)))
    inside = _share(nodule.shape, at, width / radius)
    if nodule.spicules:
        inside = np.maximum(inside, draw_tubes(nodule.spicules, own, width))
    inside = inside * lung[spans]
    uneven = nodule.texture(at)
    glass = nodule.hu + (45.0 if nodule.hu < -300 else 12.0) * uneven
    below = density[spans]
    dense = np.maximum(below, glass)  # vessels are seen through ground glass, and outshine it
    new = _mix(below, dense if nodule.hu < -300 else glass, inside)
    if nodule.core is not None:
        new = _mix(new, nodule.core_hu + 12.0 * uneven, _share(nodule.core, at, width / radius) * inside)
    out = density.copy()
    out[spans] = new
    share[spans] = inside
    return out, share


def _share(shape: Any, at: Positions, width: float) -> np.ndarray:
    """Share of each voxel inside a shape: its height over its slope is the depth."""
    height = shape.height(at)
    slopes = np.gradient(height, *(float(axis.ravel()[1] - axis.ravel()[0]) for axis in at))
    slope = np.sqrt(sum(part**2 for part in slopes))
    return edge(height / np.maximum(slope, 0.3), width)


def _outline(share: np.ndarray, grid: Grid, width_mm: float) -> np.ndarray:
    """What a reader outlines: half of the contrast in the blurred picture, in one piece."""
    seen = blur(share, grid, width_mm)
    parts, _ = ndimage.label(seen >= 0.5 * seen.max()) if seen.any() else (np.zeros(share.shape, int), 0)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray((parts == sizes.argmax()) & (parts > 0))
