"""What a channel measures, by its name, and the intensity unit of scans without a common scale, such as MR."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from tumorgen_cli.geometry import tight_box

SCAN_UNIT_PERCENTILES = (0.0, 99.9)  # the percentiles that are 0 and 1 in the unit of a scan
_BLUR_VOXELS = 2  # a tumor, or the soft edge of a painted one, is visible this far beyond its outline
_UNNORMALIZED = ("nonorm", "rescale_to_0_1", "rgb_to_0_1")  # names of channels that nnU-Net does not normalize


def is_pet(channel: str) -> bool:
    """Whether a channel holds tracer uptake (PET or SPECT), by its name."""
    return any(word in channel.lower() for word in ("pet", "suv", "fdg", "spect"))


def is_ct(channel: str) -> bool:
    """Whether a channel holds Hounsfield units (CT), by its name."""
    name = channel.lower()
    return name in ("ct", "hu") or name.startswith("ct_")


def has_own_unit(channel: str) -> bool:
    """Whether the intensities of a channel cannot be compared between scans, as in MR, by its name."""
    return not (is_ct(channel) or is_pet(channel) or channel.lower() in _UNNORMALIZED)


def scan_unit(channel: np.ndarray, tumors: np.ndarray | None) -> tuple[float, float]:
    """Measure the intensities that are 0 and 1 in a scan's own unit: its minimum and its 99.9th percentile.

    Tumors and their blur are left out, because a measured or painted tumor must not change the unit in which it is
    measured. A tumor may therefore be brighter than 1. If no other voxel is left, tumors are included.

    Args:
        channel: One channel of the scan, (X, Y, Z).
        tumors: The annotated tumors, (X, Y, Z) bool; None if none are known.

    Returns:
        The intensities that are 0 and 1 in the scan's unit.
    """
    whole = None if tumors is None else tight_box(tumors)
    if tumors is not None and whole is not None:
        region = whole.grown(_BLUR_VOXELS, tumors.shape).slices
        rest = np.ones(channel.shape, bool)
        rest[region] = ndimage.maximum_filter(tumors[region].view(np.uint8), 2 * _BLUR_VOXELS + 1, mode="constant") == 0
        channel = channel[rest] if rest.any() else channel
    low, high = np.percentile(channel, SCAN_UNIT_PERCENTILES)
    return float(low), float(high)
