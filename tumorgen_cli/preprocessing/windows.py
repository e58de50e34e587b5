"""Training windows, cut around a tumor and augmented; all random draws of a window come from one seed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tumorgen_cli.geometry import Shape, cut, cut_mask, place_window
from tumorgen_cli.planning.plan import ChannelPlan
from tumorgen_cli.preprocessing.cases import Case, Component
from tumorgen_cli.preprocessing.intensity import scale

#: values of a window's tumors: the component that it is cut around, and others
OWN, OTHER = 1, 2


class TumorCut(NamedTuple):
    """A window that is cut around a tumor component.

    Attributes:
        image: The scaled image, (C, *shape) in [-1, 1].
        tumors: (*shape) uint8: `OWN` in the component, `OTHER` in others, 0 elsewhere.
        sublabels: The tumors' voxel values, (*shape); None if the data set's tumor has one label.
    """

    image: np.ndarray
    tumors: np.ndarray
    sublabels: np.ndarray | None


def cut_tumor_window(
    case: Case,
    component: Component,
    channels: Sequence[ChannelPlan],
    shape: Shape,
    seed: int | None,
    spatial: bool = True,
) -> TumorCut:
    """Cut a window around a tumor component.

    Args:
        case: The preprocessed case.
        component: The component to show.
        channels: The scaling of each channel.
        shape: Shape of the window, in voxels.
        seed: Seed of the place and the augmentation. None centers the window and does not augment it.
        spatial: Whether to rotate, scale and deform; see `augment`.

    Returns:
        The window. Its draws are the same with and without sub-labels.
    """
    rng = np.random.default_rng(seed) if seed is not None else None
    start = place_window(component.box, case.record.shape, shape, rng)
    limits = np.array(case.record.limits, np.float32)
    image = scale(cut(case.image, start, shape), channels, limits)
    numbers = cut_mask(case.tumors, start, shape)
    masks = [np.where(numbers == component.number, OWN, OTHER * (numbers > 0)).astype(np.float32)]
    if case.sublabels is not None:
        masks.append(cut_mask(case.sublabels, start, shape).astype(np.float32))
    stacked = np.stack(masks)
    if rng is not None:
        image, stacked = augment(image, stacked, rng, spatial)
    sublabels = None if case.sublabels is None else stacked[1].astype(case.sublabels.dtype)
    return TumorCut(image, stacked[0].astype(np.uint8), sublabels)


def augment(
    image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, spatial: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Augment a window: rotate, scale and deform (batchgenerators), mirror, and scale intensities.

    Intensities are multiplied by U(0.85, 1.15) in the compressed range [0, 1], so that statistics stay close to those
    of the data. If the tumor is rotated out of the window, the window is returned unchanged.

    Args:
        image: The window, (C, X, Y, Z) in [-1, 1].
        mask: Its tumors, (X, Y, Z); whole numbers, `OWN` for the tumor that must stay in the window. Or several such
            arrays, (M, X, Y, Z), of which the first holds that tumor.
        rng: Makes all random draws.
        spatial: Whether to rotate, scale and deform. Without it, the window is only mirrored and scaled in intensity.

    Returns:
        Image and mask, float32.
    """
    from batchgenerators.augmentations.spatial_transformations import augment_mirroring, augment_spatial

    turn = np.pi / 12
    data, label = image[None], mask.reshape(1, -1, *mask.shape[-3:])
    with seeded_numpy(int(rng.integers(2**31))):
        if spatial:
            data, label = augment_spatial(
                data,
                label,
                image.shape[1:],
                do_elastic_deform=True,
                alpha=(0.0, 80.0),
                sigma=(5.0, 8.0),
                p_el_per_sample=0.3,
                angle_x=(-turn, turn),
                angle_y=(-turn, turn),
                angle_z=(-turn, turn),
                p_rot_per_sample=0.5,
                scale=(0.85, 1.15),
                p_scale_per_sample=0.5,
                border_mode_data="nearest",
                order_data=1,
                order_seg=0,
                random_crop=False,
            )
        data, label = augment_mirroring(data[0], label[0])
    gain = rng.uniform(0.85, 1.15)
    data = np.clip((data + 1) * gain - 1, -1, 1)
    if not (label[0] == OWN).any():  # the tumor was rotated out of the window
        return image, mask
    return np.ascontiguousarray(data, np.float32), np.ascontiguousarray(label.reshape(mask.shape), np.float32)


def cut_mix(
    image: np.ndarray, mask: np.ndarray, other: np.ndarray, other_mask: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """CutMix in 3D: paste a random box of another window into a copy of a window, image and mask.

    The box has the proportions of the window and a share U(0, 1) of its volume.

    Args:
        image: The window, (C, X, Y, Z).
        mask: Its mask, (X, Y, Z).
        other: The other window, (C, X, Y, Z).
        other_mask: Its mask, (X, Y, Z).
        rng: Draws the box.

    Returns:
        The mixed image and mask.

    Source:
        FreeTumor, eq. 7.
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
    """Seed NumPy's global generator for the block, which batchgenerators uses, and restore its state."""
    state = np.random.get_state()  # noqa: NPY002  (batchgenerators has no other generator)
    np.random.seed(seed)  # noqa: NPY002  (as above)
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002  (as above)
