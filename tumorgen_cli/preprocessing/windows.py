"""Intensity scaling and training windows. Reads preprocessed cases (memory-mapped); no SimpleITK, no nnunetv2.

Scaling maps a channel's clip window to [-1, 1] and back; windows are cut around a tumor and augmented by
batchgenerators, every draw from one seed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from tumorgen_cli.files import hash_value, read_plain, read_record
from tumorgen_cli.plan import ChannelPlan, Plan
from tumorgen_cli.records import Box, Shape, Triple
from tumorgen_cli.rules import is_pet, scan_unit


# -- scaling ---------------------------------------------------------------------------------------------------
def scan_limits(image: np.ndarray, channels: Sequence[ChannelPlan], tumors: np.ndarray | None = None) -> np.ndarray:
    """Clip limits (C, 2) of a scan (C, X, Y, Z) in its own intensities: the plan's, which for `own` channels count in the scan's unit.

    `tumors` (X, Y, Z) bool: all that are annotated in it, which do not count for the unit (`rules.scan_unit`); None: none are known. So a
    scan has the same limits, and tissue the same place in the clip window, with a tumor and without; bright tumors are inside
    because the plan's window reaches beyond 1 for them.
    """
    limits = []
    for array, channel in zip(image, channels, strict=True):
        start, stop = scan_unit(array, tumors) if channel.scheme == "own" else (0.0, 1.0)
        limits.append([start + share * (stop - start) for share in (channel.low, channel.high)])
    return np.array(limits, np.float32)


def scale(image: np.ndarray, channels: Sequence[ChannelPlan], limits: np.ndarray) -> np.ndarray:
    """(C, X, Y, Z) in the scan's units -> [-1, 1], float32."""
    out = np.empty(image.shape, np.float32)
    for array, into, channel, (low, high) in zip(image, out, channels, limits, strict=True):
        unit = (np.clip(array.astype(np.float32), low, high) - low) / max(high - low, 1e-6)
        into[...] = 2 * unit**channel.power - 1
    return out


def unscale(image: np.ndarray, channels: Sequence[ChannelPlan], limits: np.ndarray) -> np.ndarray:
    """The inverse of `scale` inside the clip window."""
    out = np.empty(image.shape, np.float32)
    for array, into, channel, (low, high) in zip(image, out, channels, limits, strict=True):
        unit = np.clip((array + 1) / 2, 0, 1) ** (1 / channel.power)
        into[...] = low + unit * (high - low)
    return out


def in_type(array: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """`array` in a data type: rounded, and kept within its range, where that is of whole numbers."""
    if dtype.kind in "iu" and array.dtype != dtype:
        limits = np.iinfo(dtype)
        array = np.clip(np.rint(array), limits.min, limits.max)
    return array.astype(dtype, copy=False)


def units(channels: Sequence[ChannelPlan], limits: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    """What a scan's intensities count from and in, per channel, (C, 2), by its clip `limits`: the scan's own unit where every scan has
    one (`own`), as in MR; 0 and 1 where a number means the same in all."""
    found = []
    for channel, (low, high) in zip(channels, limits, strict=True):
        width = (high - low) / (channel.high - channel.low) if channel.scheme == "own" and high > low else 1.0
        found.append((low - channel.low * width, width) if channel.scheme == "own" else (0.0, 1.0))
    return np.array(found, np.float32)


def comparable(image: np.ndarray, channels: Sequence[ChannelPlan], limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A scan's intensities (C, X, Y, Z) in `units`, so that they compare between scans, and of each channel (C,) what counts as nothing.

    Nothing is 0 for uptake and in a scan's own unit; else it is the clip window's low end: a ratio of HU means nothing, one of HU
    above air or fat does.
    """
    own = units(channels, limits)
    absolute = [channel.scheme == "own" or is_pet(channel.name) for channel in channels]
    if np.any(own != (0, 1)):
        start, width = own.T.reshape(2, -1, 1, 1, 1)
        image = (image.astype(np.float32) - start) / width
    return image, np.where(absolute, 0, limits[:, 0]).astype(np.float32)


# -- preprocessed cases ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Component:
    """A tumor component on the working grid: its number in `tumors.npy`, tight box, whether a window can hold it."""

    number: int
    box: Box
    fits: bool


@dataclass(frozen=True)
class CaseRecord:
    """`case.json`, written last: what lies beside it and what it was made from."""

    case: str
    inputs_hash: str
    shape: Shape
    spacing_mm: Triple
    limits: tuple[tuple[float, float], ...]
    components: tuple[Component, ...]


@dataclass(frozen=True)
class Case:
    """A preprocessed case. image: (C, X, Y, Z) float32 in the scan's units; tumors: (X, Y, Z) uint8 component numbers."""

    record: CaseRecord
    image: np.ndarray
    tumors: np.ndarray


def inputs_hash(plan: Plan, case: str) -> str:
    """What a preprocessed case depends on: the data, the working spacing, the clip limits, the window."""
    return hash_value([plan.fingerprint_hash, case, plan.window.spacing_mm, plan.window.shape, plan.channels, plan.tumor_label])


def is_done(plan: Plan, case: str, folder: Path) -> bool:
    """Whether `folder` holds this case, made from what the plan says now."""
    path = folder / "case.json"
    return path.is_file() and read_plain(path, "run `tumorgen preprocess`").get("inputs_hash") == inputs_hash(plan, case)


@lru_cache(maxsize=512)
def load_case(folder: Path) -> Case:
    """The memory-mapped case in `folder`.

    Raises:
        StateError: not preprocessed.
    """
    record = read_record(CaseRecord, folder / "case.json", "run `tumorgen preprocess`")
    return Case(record, np.load(folder / "image.npy", mmap_mode="r"), np.load(folder / "tumors.npy", mmap_mode="r"))


# -- windows ---------------------------------------------------------------------------------------------------
def cut(array: np.ndarray, start: Shape, shape: Shape) -> np.ndarray:
    """The window (..., *shape) whose first voxel is `start`; outside the array its edge continues."""
    index = [np.clip(np.arange(a, a + n), 0, size - 1) for a, n, size in zip(start, shape, array.shape[-3:], strict=True)]
    return np.asarray(array)[(..., *np.ix_(*index))]


def cut_mask(array: np.ndarray, start: Shape, shape: Shape) -> np.ndarray:
    """As `cut`, with zero outside: a tumor ends where the scan does."""
    out = np.zeros((*array.shape[:-3], *shape), array.dtype)
    inner, outer = [], []
    for a, n, size in zip(start, shape, array.shape[-3:], strict=True):
        low, high = max(a, 0), min(a + n, size)
        if low >= high:
            return out
        outer.append(slice(low, high))
        inner.append(slice(low - a, high - a))
    out[(..., *inner)] = array[(..., *outer)]
    return out


def place_window(box: Box, volume: Shape, window: Shape, rng: np.random.Generator | None) -> Shape:
    """A window's start that shows `box` whole: centred on it (rng None), or anywhere it fits.

    A window is kept inside the volume where the volume is larger than it.
    """
    start = []
    for a, b, size, n in zip(box.start, box.stop, volume, window, strict=True):
        low, high = b - n, a  # the starts at which the box is inside
        if size >= n:
            low, high = max(low, 0), min(high, size - n)
        else:
            low, high = max(low, size - n), min(high, 0)
        if low > high:  # the box touches the volume's edge and is larger than the window
            start.append((a + b - n) // 2)
        elif rng is None:
            start.append(int(np.clip((a + b - n) // 2, low, high)))
        else:
            start.append(int(rng.integers(low, high + 1)))
    return tuple(start)  # type: ignore[return-value]


def any_start(volume: Shape, window: Shape, rng: np.random.Generator) -> Shape:
    """A window's start anywhere in the volume, or, on an axis on which it is larger, anywhere around it."""
    return tuple(int(rng.integers(min(0, n - m), max(0, n - m) + 1)) for n, m in zip(volume, window, strict=True))  # type: ignore[return-value]


def spanning_component(mask: np.ndarray) -> np.ndarray | None:
    """The part (X, Y, Z) bool of a mask that hangs together, by faces, edges or corners, and reaches all six faces; None without one."""
    numbered, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    whole = tuple(slice(0, n) for n in mask.shape)
    return next((numbered == number for number, where in enumerate(ndimage.find_objects(numbered), 1) if where == whole), None)


def tight_box(mask: np.ndarray) -> Box | None:
    """The tight box of a mask (X, Y, Z); None where it is empty."""
    spans = []
    for axis in range(3):
        line = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        if not len(line):
            return None
        spans.append((int(line[0]), int(line[-1]) + 1))
    (a, b), (c, d), (e, f) = spans
    return Box((a, c, e), (b, d, f))


def box_around(mask: np.ndarray, spacing_mm: Triple, reach_mm: float) -> Box | None:
    """The tight box of a mask (X, Y, Z) with what lies within `reach_mm` of it, and a voxel more; None where it is empty."""
    tight = tight_box(mask)
    margin = tuple(math.ceil(reach_mm / s) + 1 for s in spacing_mm)
    return None if tight is None else tight.grown(margin, mask.shape)  # type: ignore[arg-type]


def tumor_window(
    case: Case, component: Component, channels: Sequence[ChannelPlan], shape: Shape, seed: int | None, spatial: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Scaled image (C, *shape) in [-1, 1] and tumor mask (*shape) in {0, 1} around a component.

    The mask holds every tumor voxel of the window (a box may hold several components). With a seed, place, flips,
    rotation, scale, elastic deformation (unless not `spatial`) and intensity are drawn; without, the window is centred and untouched.
    """
    rng = np.random.default_rng(seed) if seed is not None else None
    start = place_window(component.box, case.record.shape, shape, rng)
    limits = np.array(case.record.limits, np.float32)
    image = scale(cut(case.image, start, shape), channels, limits)
    mask = (cut_mask(case.tumors, start, shape) > 0).astype(np.float32)
    if rng is not None:
        image, mask = augment(image, mask, rng, spatial)
    return image, (mask > 0.5).astype(np.uint8)


def augment(
    image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, spatial: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Mirrors, rotates, scales, deforms (batchgenerators) and changes the uptake of a window in [-1, 1].

    Without `spatial` it only mirrors and changes the uptake.

    Uptake is scaled by U(0.85, 1.15) in the compressed unit range, so that statistics stay close to the data's own.
    """
    from batchgenerators.augmentations.spatial_transformations import augment_mirroring, augment_spatial

    turn = np.pi / 12
    data, label = image[None], mask[None, None]
    with seeded_numpy(int(rng.integers(2**31))):
        if spatial:
            data, label = augment_spatial(
                data, label, image.shape[1:], do_elastic_deform=True, alpha=(0.0, 80.0), sigma=(5.0, 8.0),
                p_el_per_sample=0.3, angle_x=(-turn, turn), angle_y=(-turn, turn), angle_z=(-turn, turn), p_rot_per_sample=0.5,
                scale=(0.85, 1.15), p_scale_per_sample=0.5, border_mode_data="nearest", order_data=1, order_seg=0, random_crop=False,
            )  # fmt: skip
        data, label = augment_mirroring(data[0], label[0])
    gain = rng.uniform(0.85, 1.15)
    data = np.clip((data + 1) * gain - 1, -1, 1)
    if not label.any():  # turned out of the window: keep the window as it was
        return image, mask
    return np.ascontiguousarray(data, np.float32), np.ascontiguousarray(label[0], np.float32)


def mix_up(
    image: np.ndarray, mask: np.ndarray, other: np.ndarray, other_mask: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A window (C, X, Y, Z) with its mask (X, Y, Z) into which a box of another's is pasted at the same place; a new pair.

    The box has the window's proportions and a share U(0, 1) of its volume. Source: FreeTumor, eq. 7 (CutMix, in 3D).
    """
    edge = rng.random() ** (1 / 3)
    size = [max(1, round(edge * n)) for n in mask.shape]
    start = [int(rng.integers(n - m + 1)) for n, m in zip(mask.shape, size, strict=True)]
    box = tuple(slice(a, a + m) for a, m in zip(start, size, strict=True))
    image, mask = image.copy(), mask.copy()
    image[(slice(None), *box)], mask[box] = other[(slice(None), *box)], other_mask[box]
    return image, mask


@contextlib.contextmanager
def seeded_numpy(seed: int) -> Iterator[None]:
    """numpy's global generator seeded for the block (batchgenerators draws from it) and put back after."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
