"""What a channel measures, by its name, and the intensity unit of a scan whose numbers have no common scale (MR)."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

SCAN_UNIT_PERCENTILES = (0.0, 99.9)  # percentiles of a scan that are 0 and 1 in a unit of its own
_BLUR_VOXELS = 2  # how far beside its outline a tumor, or the soft edge of a painted one, is seen
_QUANTITIES = ("nonorm", "rescale_to_0_1", "rgb_to_0_1")  # names of channels that nnU-Net takes as they are


def is_pet(channel: str) -> bool:
    """Whether a channel's name says that it holds uptake."""
    return any(word in channel.lower() for word in ("pet", "suv", "fdg", "spect"))


def is_ct(channel: str) -> bool:
    """Whether a channel's name says that it holds HU."""
    name = channel.lower()
    return name in ("ct", "hu") or name.startswith("ct_")


def has_own_unit(channel: str) -> bool:
    """Whether a channel's name says that its intensities mean nothing beyond a scan, as in MR."""
    return not (is_ct(channel) or is_pet(channel) or channel.lower() in _QUANTITIES)


def scan_unit(channel: np.ndarray, tumors: np.ndarray | None) -> tuple[float, float]:
    """The intensities of a scan's channel (X, Y, Z) that are 0 and 1 in its own unit: its lowest and its 99.9th percentile.

    The tumors (X, Y, Z) bool and their blur are left out (None: none are known): a tumor that is measured, or painted, must not change
    the unit it is measured in. So it may reach beyond 1. Where nothing is left, they count.
    """
    around = None if tumors is None else ndimage.find_objects(tumors.view(np.uint8))
    if around:
        region = tuple(slice(max(0, s.start - _BLUR_VOXELS), s.stop + _BLUR_VOXELS) for s in around[0])
        rest = np.ones(channel.shape, bool)
        rest[region] = ndimage.maximum_filter(tumors[region].view(np.uint8), 2 * _BLUR_VOXELS + 1, mode="constant") == 0
        channel = channel[rest] if rest.any() else channel
    low, high = np.percentile(channel, SCAN_UNIT_PERCENTILES)
    return float(low), float(high)
