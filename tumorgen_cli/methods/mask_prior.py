"""Masks for methods that need a given mask: deformed ellipsoids, or masks of training tumors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from tumorgen_cli.methods.base import Method, Request
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.cases import Case, load_case
from tumorgen_cli.system.errors import Fault, StateError
from tumorgen_cli.system.files import hash_once, write_bytes
from tumorgen_cli.system.json_records import hash_value
from tumorgen_cli.tumors.masks import MaskConfig, draw_mask


def place_mask(
    config: MaskConfig, plan: Plan, request: Request, rng: np.random.Generator, donors: Sequence[np.ndarray]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Draw a mask in the place of a request.

    Args:
        config: The mask prior.
        plan: The plan, for the offsets of boxes.
        request: The request; its place bounds the mask.
        rng: Random numbers.
        donors: Masks of training tumors (`load_donors`).

    Returns:
        The soft mask (X, Y, Z) in [0, 1] of the window, and the random choices for the record. Beyond the request's
        region it is 0, as in the public code of SynTumor, DiffTumor and FreeTumor, which paint inside an organ.
    """
    share = np.zeros(request.image.shape[1:], np.float32)
    share[request.place.slices], drawn = draw_mask(config, plan, request.place.shape, request.spacing_mm, rng, donors)
    return share if request.region is None else share * request.region, drawn


def load_donors(config: MaskConfig, workspace: Workspace) -> tuple[list[np.ndarray], dict[str, str]]:
    """The training masks that the prior draws from, and their hash by name; both empty for ellipsoids.

    A model has them in a file, if they were given with it.

    Raises:
        StateError: A training case is not preprocessed, or a model was given without masks.
    """
    if config.prior != "training":
        return [], {}
    if workspace.is_model:
        return _read_donors(workspace.donors_file)
    cases = [load_case(workspace.cases / name) for name in workspace.splits().train]
    return training_masks(cases), {"masks": hash_value([case.record.inputs_hash for case in cases])}


def needs_donors(method: Method) -> bool:
    """Whether a method draws from the masks of training tumors."""
    return getattr(getattr(method.config, "mask", None), "prior", None) == "training"


def _read_donors(path: Path) -> tuple[list[np.ndarray], dict[str, str]]:
    if not path.is_file():
        remedy = "ask who gave the model for one with masks of its training tumors (`tumorgen export --donor-masks`)"
        raise StateError("A model lacks masks", [Fault(str(path), "no such file", "masks to draw from", remedy)])
    masks = load_file(path)
    return [masks[name].astype(bool) for name in sorted(masks)], {"masks": hash_once(path)}


def write_donors(path: Path, masks: Sequence[np.ndarray]) -> None:
    """Write masks (X, Y, Z) bool, the smallest first: their order then tells nothing of their cases."""
    ordered = sorted(masks, key=lambda mask: (mask.sum(), mask.shape))
    named = {f"{number:06d}": mask.astype(np.uint8) for number, mask in enumerate(ordered)}
    write_bytes(path, save(named))


def training_masks(cases: Sequence[Case]) -> list[np.ndarray]:
    """The mask (X, Y, Z) bool of every tumor component of the cases, cut to its tight box."""
    return [np.asarray(case.tumors[c.box.slices] == c.number) for case in cases for c in case.record.components]
