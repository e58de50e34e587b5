"""Phantom FDG-PET scans with and without tumors, for a first try and for tests; not for scientific results.

Uptake (SUV) is drawn as smooth shapes, blurred by a scanner's point spread function, made noisy (Poisson) and smoothed
as in reconstruction. Attenuation, scatter, motion and the variety of people are not simulated.

Body coordinates run from -1 to 1 over the field of view: x to the patient's left, y to the back, z to the head.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from tumorgen_cli.data.phantom.scan import Phantom, blur, edge, smooth_noise
from tumorgen_cli.geometry import Grid, Shape, Triple, as_triple, box_of_slices
from tumorgen_cli.system import files

SHAPE: Shape = (72, 56, 48)
SMALL_SHAPE: Shape = (40, 36, 32)
_FIELD_MM = (310.0, 240.0, 250.0)
_SMALL_FIELD_MM = (220.0, 190.0, 200.0)
_PSF_MM = 6.0  # full width at half maximum of a clinical scanner
_FILTER_MM = 5.0  # full width at half maximum of the smoothing after reconstruction
_COUNTS = 120.0  # per ml and SUV: about 10 percent noise in the liver after smoothing, as in clinical scans
_HOT = 2.7  # tumors are not drawn in organs above this SUV
_CLEAR_MM = 15.0  # from a region's voxels to skin and hot organs: the radius of an ordinary tumor
_KINDS = ("plain", "necrotic", "mixed", "low", "plain")  # kind of the first tumor of each case, in this order


@dataclass(frozen=True)
class _Organ:
    """An ellipsoid: center and half axes in body coordinates, uptake in SUV, and the hollow share of the radius.

    The hollow core keeps most of the uptake around the organ.
    """

    center: Triple
    half: Triple
    uptake: float
    hollow: float = 0.0


def draw_phantom(
    seed: int, index: int, small: bool = False, tumors: bool = True, crop_mm: float | None = None
) -> Phantom:
    """Draw the scan of one case, or a crop of it; it depends on these arguments and on nothing else."""
    rng = np.random.default_rng(files.derive_seed("phantom", seed, "case" if tumors else "healthy", index))
    grid = _draw_grid(rng, index if tumors else None, small)
    uptake, allowed = _draw_body(rng, grid)
    mask = np.zeros(grid.shape, bool)
    kinds: list[str] = []
    count = int(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15])) if tumors else 0
    for number in range(count):
        kind = _KINDS[index % len(_KINDS)] if number == 0 else str(rng.choice(_KINDS))
        radius_mm = float(rng.uniform(10, 16 if small else 24)) * (1.0 if number == 0 else 0.75)
        center = _draw_place(rng, grid, allowed & ~mask, uptake, radius_mm, kind)
        uptake, soft = _add_tumor(rng, grid, uptake, center, radius_mm, kind)
        mask |= soft >= 0.5
        kinds.append(kind)
    image = _scan(rng, grid, uptake)
    clear_mm = ndimage.distance_transform_edt(allowed, sampling=grid.spacing_mm)
    region = clear_mm >= min(_CLEAR_MM, 0.9 * clear_mm.max())
    drawn = Phantom(image, mask.astype(np.uint8), region.astype(np.uint8), grid, tuple(kinds))
    return drawn if crop_mm is None else _crop(rng, drawn, crop_mm)


def _crop(rng: np.random.Generator, drawn: Phantom, edge_mm: float) -> Phantom:
    """Cut a cube inside the scan, at random around a tumor or, where there is none, around a place for one."""
    grid = drawn.grid
    parts, count = ndimage.label(drawn.mask)
    if count:
        box = box_of_slices(ndimage.find_objects(parts)[rng.integers(count)])
        starts, stops = box.start, box.stop
    else:
        center = np.argwhere(drawn.region)[rng.integers(np.count_nonzero(drawn.region))]
        half = np.rint(rng.uniform(10, 24) / np.array(grid.spacing_mm))
        starts, stops = as_triple(int(n) for n in center - half), as_triple(int(n) + 1 for n in center + half)
    spans = []
    for start, stop, n, spacing in zip(starts, stops, grid.shape, grid.spacing_mm, strict=True):
        length = min(n, round(edge_mm / spacing))
        low, high = sorted((stop - length, start))  # the cube holds the tumor, or lies inside it
        first = min(max(int(rng.integers(low, high + 1)), 0), n - length)
        spans.append(slice(first, first + length))
    window = box_of_slices(spans)
    part = grid.subgrid(_floats(window.start), grid.spacing_mm, window.shape)
    image, mask, region = (np.ascontiguousarray(a[window.slices]) for a in (drawn.image, drawn.mask, drawn.region))
    return Phantom(image, mask, region, part, drawn.kinds)


def _draw_grid(rng: np.random.Generator, index: int | None, small: bool) -> Grid:
    """Draw the grid of a case; spacing varies a little, and case 1 is rotated in its scanner."""
    shape = SMALL_SHAPE if small else SHAPE
    field_mm = _SMALL_FIELD_MM if small else _FIELD_MM
    spacing = [f / n * s for f, n, s in zip(field_mm, shape, rng.uniform(0.95, 1.05, 3), strict=True)]
    if index == 1:
        a = math.radians(12.0)
        turned = (math.cos(a), -math.sin(a), 0.0, math.sin(a), math.cos(a), 0.0, 0.0, 0.0, 1.0)
        return Grid(shape, _floats(spacing), (-121.5, -87.25, 340.0), turned)
    return Grid(shape, _floats(spacing), _floats(-s * (n - 1) / 2 for s, n in zip(spacing, shape, strict=True)))


def _draw_body(rng: np.random.Generator, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Draw the uptake (X, Y, Z) in SUV, and where tumors are allowed: in the body, outside hot organs."""
    x, y, z = _coordinates(grid)
    bulk = float(rng.uniform(0.93, 1.05))
    width = bulk * 0.86 * (1 + 0.06 * np.cos(3.0 * z) - 0.10 * np.clip(z - 0.6, 0, 1))
    depth = bulk * 0.80 * (1 + 0.05 * np.cos(2.2 * z + 0.5))
    rim = 1 - ((np.abs(x) / width) ** 2.4 + (np.abs(y + 0.03) / depth) ** 2.4) ** (1 / 2.4)
    body, inner = edge(rim, 0.04), edge(rim - float(rng.uniform(0.08, 0.16)), 0.05)
    uptake = body * (0.30 + inner * float(rng.uniform(0.45, 0.65)))  # fat, then muscle and vessels
    for organ in _draw_lungs(rng):
        uptake = _add_organ(uptake, organ, (x, y, z), rng)
    uptake *= np.exp(0.16 * smooth_noise(rng, grid, 14.0) + 0.10 * smooth_noise(rng, grid, 6.0))
    allowed = (rim > 0.03) & (np.abs(z) < 0.95)
    for organ in _draw_organs(rng):
        uptake = _add_organ(uptake, organ, (x, y, z), rng)
        if organ.uptake > _HOT:
            allowed &= _depth(organ, (x, y, z)) < -0.1
    return uptake, allowed


def _draw_lungs(rng: np.random.Generator) -> list[_Organ]:
    size = float(rng.uniform(0.9, 1.08))
    return [_Organ((side * 0.42, -0.02, 0.66), (0.27 * size, 0.48 * size, 0.46 * size), 0.32) for side in (-1.0, 1.0)]


def _draw_organs(rng: np.random.Generator) -> list[_Organ]:
    """Draw organs at their usual places with their usual FDG uptake, varied at random; later ones cover others."""
    u = rng.uniform
    usual = [
        _Organ((0.0, 0.52, 0.0), (0.10, 0.12, 1.6), u(1.1, 1.9)),  # spine
        _Organ((0.0, 0.34, 0.2), (0.055, 0.07, 1.2), u(1.2, 1.7)),  # aorta
        _Organ((-0.36, -0.12, 0.12), (0.38, 0.46, 0.30), u(1.8, 2.6)),  # liver
        _Organ((0.50, 0.28, 0.14), (0.14, 0.18, 0.20), u(1.5, 2.1)),  # spleen
        _Organ((0.15, -0.30, -0.35), (0.42, 0.28, 0.26), u(0.9, 1.7)),  # bowel
        _Organ((0.16, -0.28, 0.58), (0.24, 0.30, 0.25), u(2.0, 6.5), hollow=0.55),  # heart
        _Organ((-0.34, 0.36, -0.22), (0.12, 0.16, 0.22), u(3.0, 6.0), hollow=0.30),  # kidneys
        _Organ((0.34, 0.36, -0.18), (0.12, 0.16, 0.22), u(3.0, 6.0), hollow=0.30),
        _Organ((0.0, -0.25, -0.86), (0.20, 0.24, 0.17), u(7.0, 18.0)),  # bladder
    ]
    return [
        _Organ(
            _floats(c + float(d) for c, d in zip(organ.center, rng.normal(0, 0.02, 3), strict=True)),
            _floats(h * float(s) for h, s in zip(organ.half, u(0.88, 1.12, 3), strict=True)),
            float(organ.uptake),
            organ.hollow,
        )
        for organ in usual
    ]


def _add_organ(uptake: np.ndarray, organ: _Organ, at: tuple[np.ndarray, ...], rng: np.random.Generator) -> np.ndarray:
    depth = _depth(organ, at)
    # a few long waves make the surface less regular than an ellipsoid
    wave = sum(
        0.06 * np.sin(k * axis + phase)
        for k, axis, phase in zip((7.0, 8.0, 6.0), at, rng.uniform(0, 6.3, 3), strict=True)
    )
    part = edge(depth + wave, 0.10)
    if organ.hollow:
        part = part * (1 - 0.75 * edge(depth - (1 - organ.hollow), 0.10))
    return uptake * (1 - part) + organ.uptake * part


def _depth(organ: _Organ, at: tuple[np.ndarray, ...]) -> np.ndarray:
    """Relative depth in an organ: 1 at its center, 0 on its surface, negative outside."""
    parts = [((a - c) / h) ** 2 for a, c, h in zip(at, organ.center, organ.half, strict=True)]
    return np.asarray(1 - np.sqrt(np.sum(parts, axis=0)))


def _draw_place(
    rng: np.random.Generator, grid: Grid, allowed: np.ndarray, uptake: np.ndarray, radius_mm: float, kind: str
) -> Triple:
    """Draw the center of a tumor, in voxels, where most of its radius lies in the allowed region.

    A tumor of low uptake is placed where the uptake is even, because it would not be visible across an organ's edge.
    """
    clear_mm = ndimage.distance_transform_edt(allowed, sampling=grid.spacing_mm)
    places = np.argwhere(clear_mm >= min(0.9 * radius_mm, clear_mm.max()))
    best = places[rng.integers(len(places))]
    if kind == "low":
        wide = 2 * radius_mm
        unevenness = blur(uptake**2, grid, wide) / (blur(uptake, grid, wide) ** 2 + 1e-6)
        best = min(places[rng.integers(len(places), size=12)], key=lambda place: unevenness[tuple(place)])
    return _floats(best + rng.uniform(-0.5, 0.5, 3))


def _add_tumor(
    rng: np.random.Generator, grid: Grid, uptake: np.ndarray, center: Triple, radius_mm: float, kind: str
) -> tuple[np.ndarray, np.ndarray]:
    """Add a tumor to the uptake; returns the new uptake and the tumor's share of each voxel, in [0, 1]."""
    axes = radius_mm * rng.uniform(0.75, 1.25, 3)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    offsets = [(np.arange(n) - c) * s for n, c, s in zip(grid.shape, center, grid.spacing_mm, strict=True)]
    offset_mm = np.stack(np.meshgrid(*offsets, indexing="ij"), axis=-1) @ turn
    distance = np.sqrt(((offset_mm / axes) ** 2).sum(axis=-1))
    depth = 1 - distance + 0.22 * smooth_noise(rng, grid, 0.45 * radius_mm)
    near = edge(1.6 - distance, 0.1)  # no islands of noise far from the tumor
    soft = near * edge(depth, 2.0 * min(grid.spacing_mm) / radius_mm)
    inside = soft >= 0.5
    background = float(uptake[inside].mean()) if inside.any() else float(uptake.mean())
    faint, strong = background * rng.uniform(1.5, 1.9), max(background * rng.uniform(2.2, 4.0), rng.uniform(3.0, 9.0))
    level = float(faint if kind == "low" else strong)
    texture = np.exp({"mixed": 0.45, "low": 0.03}.get(kind, 0.10) * smooth_noise(rng, grid, 0.35 * radius_mm))
    if kind == "necrotic":
        texture = texture * (1 - 0.85 * edge(depth - float(rng.uniform(0.35, 0.5)), 0.25))
    return uptake * (1 - soft) + level * texture * soft, soft


def _scan(rng: np.random.Generator, grid: Grid, uptake: np.ndarray) -> np.ndarray:
    """Simulate the scanner: point spread, Poisson noise, smoothing."""
    seen = blur(uptake, grid, _PSF_MM)
    counts = _COUNTS * grid.voxel_ml
    noisy = rng.poisson((seen + 0.01) * counts) / counts  # a few counts in the air as well
    return blur(noisy, grid, _FILTER_MM).astype(np.float32)


def _coordinates(grid: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    axes = [(np.arange(n) + 0.5) / n * 2 - 1 for n in grid.shape]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    return x, y, z


def _floats(values: Iterable[float]) -> Triple:
    return as_triple(float(v) for v in values)
