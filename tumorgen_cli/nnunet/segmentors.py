"""Which networks nnU-Net may train, and how its plan is changed for them. Imports neither torch nor nnunetv2."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

from tumorgen_cli.nnunet.job import NetworkSize
from tumorgen_cli.nnunet.schedule import shrink_configuration, shrink_patch

Segmentor = Literal["nnunet", "resenc-m", "resenc-l", "resenc-xl", "unet", "unetr", "swinunetr"]
#: nnU-Net's planners of residual encoders, and the GPU memory in GiB that each plans for
RESIDUAL_PLANNERS: Mapping[str, tuple[str, float]] = {
    "resenc-m": ("nnUNetPlannerResEncM", 8.0),
    "resenc-l": ("nnUNetPlannerResEncL", 24.0),
    "resenc-xl": ("nnUNetPlannerResEncXL", 40.0),
}
#: MONAI's networks: the class, and the voxels by which the sides of a patch must be divisible
_MONAI: Mapping[str, tuple[str, int]] = {
    "unet": ("PlannedUNet", 16),
    "unetr": ("PlannedUnetr", 16),
    "swinunetr": ("PlannedSwinUnetr", 32),
}
_LEAST_CELLS = 2  # along each side of a patch at the lowest resolution: a single cell cannot be normalized
#: networks that are trained with AdamW, as their authors do: nnU-Net's steps of 0.01 are too long for attention
TRANSFORMERS = ("unetr", "swinunetr")
_UNET_WIDTHS = (16, 32, 64, 128, 256)
_WIDTHS = {"unetr": (16, 8), "swinunetr": (48, 12)}  # as published, and on a CPU
_HIDDEN = (768, 192)  # of UNETR's transformer


def has_own_network(segmentor: str) -> bool:
    """Whether the network is one of nnU-Net's own, which are supervised at several resolutions."""
    return segmentor not in _MONAI


def plan_network(configuration: Mapping[str, Any], segmentor: str, size: NetworkSize | None) -> dict[str, Any]:
    """Return a configuration of nnU-Net's plan for a segmentor and, on a CPU, for a smaller network.

    Spacing, intensities and, where the network allows it, the patch are nnU-Net's own.

    Args:
        configuration: The configuration as nnU-Net planned it.
        segmentor: The segmentor.
        size: Upper limits of the network; None: no limits.
    """
    planned = copy.deepcopy(dict(configuration)) if size is None else shrink_configuration(configuration, size)
    if has_own_network(segmentor):
        return planned
    name, multiple = _MONAI[segmentor]
    patch = [max(_LEAST_CELLS, round(side / multiple)) * multiple for side in planned["patch_size"]]
    if size is not None:
        patch = shrink_patch(patch, [multiple] * len(patch), size.voxels, _LEAST_CELLS)
    small = size is not None
    kwargs: dict[str, Any] = {}
    if segmentor == "unet":
        kwargs = {"widths": [min(width, size.most) if size else width for width in _UNET_WIDTHS]}
    else:
        kwargs = {"width": _WIDTHS[segmentor][small]}
    if segmentor == "unetr":
        kwargs |= {"patch_size": patch, "hidden": _HIDDEN[small]}
    planned["patch_size"] = patch
    planned["architecture"] = {
        "network_class_name": f"tumorgen_cli.models.segmentors.{name}",
        "arch_kwargs": kwargs,
        "_kw_requires_import": [],
    }
    return planned
