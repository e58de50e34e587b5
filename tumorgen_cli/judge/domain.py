"""The scans that a judge has learned from, and whether other scans are like them.

A judge gives no warning when a scan is unlike its training scans: it marks something. So the scans are compared before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tumorgen_cli.data.channels import modality
from tumorgen_cli.geometry import Grid, Triple, as_triple, describe_edges
from tumorgen_cli.planning.fingerprint import Fingerprint

_SPACING_FACTOR = 1.5  # a scan's spacing may be this much finer or coarser than that of all training scans
_EXTENT_FACTOR = 1.5  # its edges this much shorter or longer; from here on the judge sees a part of the scan only
_LEVEL_FACTOR = 4.0  # its 95th percentile this much lower or higher; single scans of a PET data set reach 3.4
_ODD_SHARE = 0.1  # so many scans may be unlike the others


@dataclass(frozen=True)
class Domain:
    """The scans that a judge has learned from. Axes are x, y, z.

    Attributes:
        channels: names of the channels.
        spacing_mm: finest and coarsest spacing.
        extent_mm: shortest and longest edges.
        levels: 95th percentile of each channel in all scans; None where scans have no common unit.
    """

    channels: tuple[str, ...]
    spacing_mm: tuple[Triple, Triple]
    extent_mm: tuple[Triple, Triple]
    levels: tuple[float | None, ...]


def make_domain(fingerprint: Fingerprint, grids: Sequence[Grid] = ()) -> Domain:
    """Return the domain of the cases of a fingerprint, and of other scans with these grids, of the same kind."""
    grids = (*(case.grid for case in fingerprint.cases), *grids)
    spacing, extent = (np.array([getattr(grid, name) for grid in grids]) for name in ("spacing_mm", "extent_mm"))
    return Domain(
        tuple(channel.name for channel in fingerprint.channels),
        (as_triple(spacing.min(axis=0).tolist()), as_triple(spacing.max(axis=0).tolist())),
        (as_triple(extent.min(axis=0).tolist()), as_triple(extent.max(axis=0).tolist())),
        fingerprint_levels(fingerprint),
    )


def fingerprint_levels(fingerprint: Fingerprint) -> tuple[float | None, ...]:
    """Return the 95th percentile of each channel in all scans; None where scans have no common unit."""
    return tuple(channel.image["95"] if _has_level(channel.name) else None for channel in fingerprint.channels)


def grid_differences(domain: Domain, grids: Sequence[Grid]) -> list[str]:
    """Say how scans differ in spacing and extent from a judge's training scans; an empty list if nearly none does."""
    found = []
    checks = (
        ("spacing", [grid.spacing_mm for grid in grids], domain.spacing_mm, _SPACING_FACTOR),
        ("extent", [grid.extent_mm for grid in grids], domain.extent_mm, _EXTENT_FACTOR),
    )
    for name, values, (low, high), factor in checks:
        outside = [
            value
            for value in values
            if any(v < a / factor or v > b * factor for v, a, b in zip(value, low, high, strict=True))
        ]
        if len(outside) > _ODD_SHARE * len(grids):
            count = f" ({len(outside)} of {len(grids)} scans)" if len(grids) > 1 else ""
            found.append(
                f"{name} {_size(outside[0])} mm, the judge learned from {_size(low)} to {_size(high)} mm{count}"
            )
    return found


def channel_differences(domain: Domain, names: Sequence[str], levels: Sequence[float | None]) -> list[str]:
    """Say how channels differ from those of a judge's training scans, in kind and in intensity.

    Args:
        domain: the judge's training scans.
        names: names of the channels.
        levels: 95th percentile of each channel; None where it is not known.
    """
    kinds, learned = ([_kind(name) for name in each] for each in (names, domain.channels))
    if kinds != learned:
        return [f"channels {', '.join(names)}, the judge learned from {', '.join(domain.channels)}"]
    return [
        f"95 % of {name} below {level:.3g}, the judge learned from {usual:.3g} (other units?)"
        for name, level, usual in zip(names, levels, domain.levels, strict=True)
        if level is not None and usual is not None and not usual / _LEVEL_FACTOR <= level <= usual * _LEVEL_FACTOR
    ]


def scan_levels(image: np.ndarray, names: Sequence[str]) -> list[float | None]:
    """Return the 95th percentile of each channel of a scan (C, X, Y, Z).

    It is None where scans have no common unit, and where a voxel is NaN: what reads the scan for painting tells that.
    """
    levels = [
        np.percentile(channel, 95) if _has_level(name) else np.nan for channel, name in zip(image, names, strict=True)
    ]
    return [float(level) if np.isfinite(level) else None for level in levels]


def _kind(name: str) -> str:
    """Return what a channel measures; of scans without a common unit, such as T1 and FLAIR, also its name."""
    kind = modality(name).kind
    return name.lower() if kind in ("own", "raw") else kind


def _has_level(name: str) -> bool:
    """Tell whether a channel's intensities have a common unit that begins at 0."""
    return modality(name).kind in ("PET", "SPECT")


def _size(triple: Sequence[float]) -> str:
    return describe_edges(triple, ".4g")
