"""Masks for methods that must be given one: from deformed ellipsoids or from the training tumors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tumorgen_cli.methods.base import Request
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.cases import Case, load_case
from tumorgen_cli.system.json_records import hash_value
from tumorgen_cli.tumors.masks import MaskConfig, draw_mask


def place_mask(
    config: MaskConfig, plan: Plan, request: Request, rng: np.random.Generator, donors: Sequence[np.ndarray]
) -> tuple[np.ndarray, dict[str, Any]]:
    """As `draw_mask` for a request's place, in its window: (X, Y, Z)."""
    share = np.zeros(request.image.shape[1:], np.float32)
    share[request.place.slices], drawn = draw_mask(config, plan, request.place.shape, request.spacing_mm, rng, donors)
    return share, drawn


def load_donors(config: MaskConfig, workspace: Workspace) -> tuple[list[np.ndarray], dict[str, str]]:
    """The masks a prior draws from, and their hash by name; none for ellipsoids.

    Raises:
        StateError: a training case is not preprocessed.
    """
    if config.prior != "training":
        return [], {}
    cases = [load_case(workspace.cases / name) for name in workspace.splits().train]
    return training_masks(cases), {"masks": hash_value([case.record.inputs_hash for case in cases])}


def training_masks(cases: Sequence[Case]) -> list[np.ndarray]:
    """Every tumor component of the cases, cut tightly: (X, Y, Z) bool."""
    return [np.asarray(case.tumors[c.box.slices] == c.number) for case in cases for c in case.record.components]
