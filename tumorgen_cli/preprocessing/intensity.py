"""Intensity scaling: clip window <-> [-1, 1], and a scan's own unit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tumorgen_cli.data.channels import is_pet, scan_unit
from tumorgen_cli.planning.plan import ChannelPlan


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


def channel_units(channels: Sequence[ChannelPlan], limits: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    """What a scan's intensities count from and in, per channel, (C, 2), by its clip `limits`: the scan's own unit where every scan has
    one (`own`), as in MR; 0 and 1 where a number means the same in all."""
    found = []
    for channel, (low, high) in zip(channels, limits, strict=True):
        width = (high - low) / (channel.high - channel.low) if channel.scheme == "own" and high > low else 1.0
        found.append((low - channel.low * width, width) if channel.scheme == "own" else (0.0, 1.0))
    return np.array(found, np.float32)


def to_comparable_units(image: np.ndarray, channels: Sequence[ChannelPlan], limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A scan's intensities (C, X, Y, Z) in `channel_units`, so that they compare between scans, and of each channel (C,) what counts as nothing.

    Nothing is 0 for uptake and in a scan's own unit; else it is the clip window's low end: a ratio of HU means nothing, one of HU
    above air or fat does.
    """
    own = channel_units(channels, limits)
    absolute = [channel.scheme == "own" or is_pet(channel.name) for channel in channels]
    if np.any(own != (0, 1)):
        start, width = own.T.reshape(2, -1, 1, 1, 1)
        image = (image.astype(np.float32) - start) / width
    return image, np.where(absolute, 0, limits[:, 0]).astype(np.float32)
