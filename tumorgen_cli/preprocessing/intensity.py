"""Intensity scaling between the clip window and [-1, 1], and units in which scans can be compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tumorgen_cli.data.channels import fill_padding, is_pet, scan_unit
from tumorgen_cli.planning.plan import ChannelPlan


def scan_limits(image: np.ndarray, channels: Sequence[ChannelPlan], tumors: np.ndarray | None = None) -> np.ndarray:
    """Compute the clip limits of a scan in its own intensities.

    They are the plan's limits. For channels of the scheme `own`, the plan's limits are in the scan's own unit and are
    converted to intensities. The unit is measured without tumors and padding (see `data.channels.scan_unit` and
    `fill_padding`), so a scan has the same limits with and without them. Bright tumors lie inside the clip window
    because the plan's window reaches beyond 1.

    Args:
        image: The scan, (C, X, Y, Z).
        channels: The scaling of each channel.
        tumors: All annotated tumors, (X, Y, Z) bool; None if none are known.

    Returns:
        Low and high limit per channel, (C, 2) float32.
    """
    limits = []
    for array, channel in zip(image, channels, strict=True):
        own = channel.scheme == "own"
        start, stop = scan_unit(fill_padding(array, channel.name), tumors) if own else (0.0, 1.0)
        limits.append([start + share * (stop - start) for share in (channel.low, channel.high)])
    return np.array(limits, np.float32)


def scale(image: np.ndarray, channels: Sequence[ChannelPlan], limits: np.ndarray) -> np.ndarray:
    """Scale an image (C, X, Y, Z) from the scan's units to [-1, 1], float32; `limits` (C, 2) are its clip limits."""
    out = np.empty(image.shape, np.float32)
    for array, into, channel, (low, high) in zip(image, out, channels, limits, strict=True):
        unit = (np.clip(array.astype(np.float32), low, high) - low) / max(high - low, 1e-6)
        into[...] = 2 * unit**channel.power - 1
    return out


def unscale(image: np.ndarray, channels: Sequence[ChannelPlan], limits: np.ndarray) -> np.ndarray:
    """Scale an image from [-1, 1] back to the scan's units: the inverse of `scale` inside the clip window."""
    out = np.empty(image.shape, np.float32)
    for array, into, channel, (low, high) in zip(image, out, channels, limits, strict=True):
        unit = np.clip((array + 1) / 2, 0, 1) ** (1 / channel.power)
        into[...] = low + unit * (high - low)
    return out


def channel_units(channels: Sequence[ChannelPlan], limits: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    """Zero point and width of the unit of each channel, (C, 2) float32.

    For channels of the scheme `own`, as in MR, they are those of the scan's own unit, computed from its clip limits.
    For other channels they are 0 and 1, because intensities mean the same in all scans.
    """
    found = []
    for channel, (low, high) in zip(channels, limits, strict=True):
        width = (high - low) / (channel.high - channel.low) if channel.scheme == "own" and high > low else 1.0
        found.append((low - channel.low * width, width) if channel.scheme == "own" else (0.0, 1.0))
    return np.array(found, np.float32)


def to_comparable_units(
    image: np.ndarray, channels: Sequence[ChannelPlan], limits: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Convert a scan (C, X, Y, Z) to units in which scans can be compared.

    Returns:
        The converted scan, and for each channel the intensity that counts as zero in ratios, (C,). It is 0 for uptake
        and for a scan's own unit. For other channels it is the low end of the clip window: a ratio of HU has no
        meaning, a ratio of HU above air or fat has one.
    """
    own = channel_units(channels, limits)
    zero_based = [channel.scheme == "own" or is_pet(channel.name) for channel in channels]
    if np.any(own != (0, 1)):
        start, width = own.T.reshape(2, -1, 1, 1, 1)
        image = (image.astype(np.float32) - start) / width
    return image, np.where(zero_based, 0, limits[:, 0]).astype(np.float32)
