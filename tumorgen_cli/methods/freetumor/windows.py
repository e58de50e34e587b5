"""FreeTumor's training windows: labeled ones for the segmentor, healthy ones with drawn masks for the generator."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import ndimage

from tumorgen_cli.data.body import body_mask
from tumorgen_cli.geometry import Triple, as_triple, cut, cut_mask, draw_window_start, place_window, tight_box
from tumorgen_cli.methods.freetumor.config import FreeTumorConfig, GanConfig, SegmentorConfig
from tumorgen_cli.methods.latent.cache import find_candidates
from tumorgen_cli.planning.fingerprint import TumorFacts
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.preprocessing.cases import Case
from tumorgen_cli.preprocessing.intensity import scale
from tumorgen_cli.preprocessing.windows import augment, cut_mix
from tumorgen_cli.system.errors import DataError, Fault
from tumorgen_cli.tumors.boxes import draw_size_mm, place_box
from tumorgen_cli.tumors.masks import draw_mask
from tumorgen_cli.tumors.removal import remove_tumors
from tumorgen_cli.tumors.texture import draw_texture


def segmentor_item(
    cases: Sequence[Case], plan: Plan, config: SegmentorConfig, seed: int
) -> Callable[[int], dict[str, Any]]:
    """A function that returns the segmentor's training item of a number: an augmented window with all tumor in it."""
    candidates = find_candidates(cases)

    def window(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        if rng.random() < config.tumor_share:
            chosen = candidates[int(rng.integers(len(candidates)))]
            case, start = chosen.case, place_window(chosen.component.box, chosen.case.record.shape, config.patch, rng)
        else:
            case = cases[int(rng.integers(len(cases)))]
            start = draw_window_start(case.record.shape, config.patch, rng)
        image = scale(cut(case.image, start, config.patch), plan.channels, np.array(case.record.limits, np.float32))
        # 1 for tissue, 2 for tumor: `augment` keeps a window unchanged when its mask becomes empty
        tissue = 1 + (cut_mask(case.tumors, start, config.patch) > 0).astype(np.float32)
        image, tissue = augment(image, tissue, rng)
        return image, (tissue > 1.5).astype(np.float32)

    def item(number: int) -> dict[str, Any]:
        rng = np.random.default_rng([seed, number])
        image, mask = window(rng)
        if rng.random() < config.mixup:
            image, mask = cut_mix(image, mask, *window(rng), rng)
        return {"image": image, "mask": mask[None]}

    return item


def change_weight(
    mask: np.ndarray,
    config: GanConfig,
    spacing_mm: Triple,
    rng: np.random.Generator,
    region: np.ndarray | None = None,
) -> np.ndarray:
    """How much of the generator's change is painted into each voxel.

    Args:
        mask: The soft mask (X, Y, Z) in [0, 1].
        config: The generator's settings.
        spacing_mm: Voxel edges.
        rng: Draws edge and texture of the published form.
        region: The region of the user (X, Y, Z) bool, beyond which nothing changes; None without one.

    Returns:
        The weight (X, Y, Z) in [0, 1]: the mask, or in the published form the mask with a blurred edge times a texture.
    """
    tight = tight_box(mask > 0)
    if config.form == "equation" or tight is None:
        return mask
    edge = rng.uniform(*config.edge_mm)
    sigma = [edge / s for s in spacing_mm]
    near = tight.grown(as_triple(math.ceil(4 * s) for s in sigma), as_triple(mask.shape))
    weight = np.zeros_like(mask)
    soft = ndimage.gaussian_filter(mask[near.slices], sigma, mode="constant")
    weight[near.slices] = soft * draw_texture(config.texture, near.shape, spacing_mm, rng)
    return weight if region is None else weight * region


class HealthyWindows:
    """Windows of healthy scans and of labeled cases without their tumors, each with a mask of the prior.

    Attributes:
        cases: the scans.
        tumors: facts of the training tumors, which the sizes of boxes follow.
        donors: masks of training tumors, for a prior that uses them.
        healthy: case number -> the case without its tumors (C, X, Y, Z) and its body (X, Y, Z), where the center of a
            mask may lie; the last 64 are cached.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        plan: Plan,
        config: FreeTumorConfig,
        tumors: Sequence[TumorFacts],
        donors: Sequence[np.ndarray],
    ) -> None:
        self.cases, self.plan, self.config, self.tumors, self.donors = cases, plan, config, tumors, donors
        self.healthy = lru_cache(maxsize=64)(self._healthy)

    def _healthy(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        case, paste, spacing = self.cases[number], self.plan.paste, self.plan.window.spacing_mm
        image, tumors = np.asarray(case.image, np.float32), np.asarray(case.tumors) > 0
        tight = tight_box(tumors)
        if tight is not None:
            image, _ = remove_tumors(image, tumors, tight, spacing, paste, number)
        return image, body_mask(image[0])

    def draw(self, rng: np.random.Generator, number: int | None = None) -> tuple[np.ndarray, np.ndarray, str]:
        """A window with a mask.

        Args:
            rng: Random numbers.
            number: Number of the case, for a window that is not augmented; None for an augmented window of any case.

        Returns:
            The image (C, *patch) in [-1, 1], the mask (*patch) in [0, 1], and the name of the case.

        Raises:
            DataError: The case has no place for a box.
        """
        window, patch = self.plan.window, self.config.gan.patch
        chosen = int(rng.integers(len(self.cases))) if number is None else number
        record, (picture, body) = self.cases[chosen].record, self.healthy(chosen)
        size_mm, _ = draw_size_mm(self.tumors, window.alpha, window.extent_mm, rng)
        size = as_triple(
            max(1, min(round(e / s), n - 2, m))
            for e, s, n, m in zip(size_mm, window.spacing_mm, patch, record.shape, strict=True)
        )
        box = place_box(size, body, rng)
        if box is None:
            raise DataError(
                "No place for a tumor",
                [
                    Fault(
                        record.case, "no body", "a scan with a body", "remove this scan, then plan and preprocess again"
                    )
                ],
            )
        start = place_window(box, record.shape, patch, rng)
        mask = np.zeros(patch, np.float32)
        inner = box.shifted(as_triple(-a for a in start))
        mask[inner.slices], _ = draw_mask(self.config.mask, self.plan, box.shape, window.spacing_mm, rng, self.donors)
        image = scale(cut(picture, start, patch), self.plan.channels, np.array(record.limits, np.float32))
        if number is None:
            image, mask = augment(image, mask, rng, spatial=False)
        return image, mask, record.case
