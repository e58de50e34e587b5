"""SynTumor: a deformed ellipsoid with a texture of blurred noise, darker or brighter than what lies around it."""

# ruff: noqa: ARG002, ARG003  (the contract gives every method the same arguments; some are not needed here)

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from tumorgen_cli.geometry import Triple, as_triple
from tumorgen_cli.methods.base import Method, Request, Sampling, Synthetic
from tumorgen_cli.methods.contrast import ContrastSource, draw_contrasts, plan_contrast
from tumorgen_cli.methods.mask_prior import load_donors, place_mask
from tumorgen_cli.planning.fingerprint import Fingerprint
from tumorgen_cli.planning.plan import Decisions, Plan, WindowPlan
from tumorgen_cli.planning.ranges import Factor, IntensityRange, MillimeterRange
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system.devices import DeviceBudget
from tumorgen_cli.system.errors import Fault, PlanError
from tumorgen_cli.tumors import texture
from tumorgen_cli.tumors.masks import MaskConfig, plan_masks, smooth_noise
from tumorgen_cli.tumors.texture import TextureConfig, plan_texture

#: tumors of a pair by size class, and in a pair of all classes; from the public code
COUNTS = ((3, 10), (3, 10), (2, 5), (1, 3))
MIX_COUNTS = ((3, 10), (5, 10), (2, 5), (1, 3))
_CLASSES = ("tiny", "small", "medium", "large")
_SPREAD = (0.75, 1.25)  # of a tumor's radii, along each axis, by those of its class


@dataclass(frozen=True)
class SynTumorConfig:
    """The method's section of the plan.

    Attributes:
        mask: the mask prior.
        sizes: how large tumors are and how many a pair gets: "data" as the training cases, as for every method;
            "published" as the public code, which draws one of "tiny", "small", "medium", "large" and "mix", all of
            them; or one of these.
        contrast_from: where `contrast` is from.
        contrast: by channel, the range of a tumor's contrast, in `preprocessing.intensity.channel_units`.
        form: "published" multiplies the contrast by the published texture; "gaussian" by 1 plus `grain` times smooth
            noise of standard deviation 1.
        texture: the texture of both.
        grain: standard deviation of the noise of the form "gaussian", as a share of the contrast.
        edge_mm: range of the standard deviation of the blur that softens the edge.
    """

    mask: MaskConfig
    sizes: Literal["data", "published", "tiny", "small", "medium", "large", "mix"]
    contrast_from: ContrastSource
    contrast: tuple[IntensityRange, ...]
    form: Literal["published", "gaussian"]
    texture: TextureConfig
    grain: Factor
    edge_mm: MillimeterRange

    def __post_init__(self) -> None:
        if self.sizes != "data" and len(self.mask.radii_mm) != len(_CLASSES):
            found = f"{len(self.mask.radii_mm)} radii"
            fault = Fault(
                "syntumor.sizes", f"{self.sizes}, with {found}", "4 of mask.radii_mm", "give 4, or sizes=data"
            )
            raise PlanError("Size classes do not match", [fault])


class SynTumor(Method):
    """SynTumor behind the contract; see the module and `SOURCE`."""

    name = "syntumor"
    section = SynTumorConfig
    SOURCE = (
        "Hu et al., Label-Free Liver Tumor Segmentation, CVPR 2023, and its public code: ellipsoid of four size "
        "classes, elastic deformation, texture, soft edge, the organ as region. Deviations: Sizes and counts are those "
        "of the training cases unless `sizes` is published; boxes of a pair do not overlap, so that published tumors "
        "do not merge, and those without room are left out. Places are the pipeline's, not in the middle of the liver. "
        "The elastic deformation is smooth noise of the radius. Sign and size of the contrast are those of the "
        "training tumors, drawn for each channel separately, and the texture is divided by its mean, so that a tumor "
        "has that contrast, unless `contrast_from` is literature. The texture's extremes and mean are those expected "
        "of a published volume. Edges are at least half a working voxel soft. The code gives all numbers."
    )
    keeps_background = True

    def __init__(self, plan: Plan, workspace: Workspace, device: str = "cpu") -> None:
        super().__init__(plan, workspace, device)
        self.config = plan.section(self.name, SynTumorConfig)
        self.donors: list[np.ndarray] = []

    @classmethod
    def plan_section(cls, d: Decisions, fingerprint: Fingerprint, window: WindowPlan, budget: DeviceBudget) -> None:
        """Take every field of `SynTumorConfig` into `d`."""
        plan_masks(d, "ellipsoid")
        reason = "as the training tumors, for every method; with the published ones, compare paints into other boxes"
        d.take("sizes", "data", reason)
        plan_contrast(d, fingerprint)
        d.take("form", "published", "the public code's texture; gaussian: smooth noise of our own")
        plan_texture(d, 1.0, "SynTumor")
        d.take("grain", 0.25, "of the form gaussian; our choice, not tuned")
        least = 0.5 * max(window.spacing_mm)
        reason = "SynTumor's sigma of 1 to 2 voxels of 1 mm; at least half a working voxel"
        d.take("edge_mm", (max(least, 1.0), max(least, 2.0)), reason, least=least)

    def load(self) -> dict[str, str]:
        """Load the training masks, if the prior uses them."""
        self.donors, hashes = load_donors(self.config.mask, self.workspace)
        return hashes

    def draw_extents(self, rng: np.random.Generator) -> tuple[Triple, ...] | None:
        """The extents of the published tumors of a pair, or of those of one class."""
        if self.config.sizes == "data":
            return None
        kinds = (*_CLASSES, "mix")
        kind = kinds[rng.integers(len(kinds))] if self.config.sizes == "published" else self.config.sizes
        counts = MIX_COUNTS if kind == "mix" else COUNTS
        return tuple(
            as_triple(map(float, 2 * radius * rng.uniform(*_SPREAD, 3)))
            for name, radius, (fewest, most) in zip(_CLASSES, self.config.mask.radii_mm, counts, strict=True)
            if kind in (name, "mix")
            for _ in range(rng.integers(fewest, most + 1))
        )

    def synthesize(self, request: Request, seed: int, sampling: Sampling) -> Synthetic:
        """Draw a mask in the place and add its soft, textured contrast to the window."""
        rng, c = np.random.default_rng(seed), self.config
        share, drawn = place_mask(c.mask, self.plan, request, rng, self.donors)
        inside = request.box.slices
        edge = rng.uniform(*c.edge_mm)
        soft = ndimage.gaussian_filter(share[inside], [edge / s for s in request.spacing_mm], mode="constant")
        if request.region is not None:
            soft *= request.region[inside]
        change = soft * self._draw_texture(request, rng)
        image = request.image.astype(np.float32, copy=True)
        contrasts = draw_contrasts(c.contrast, self.plan, request, rng)
        for channel, contrast in enumerate(contrasts):
            image[(channel, *inside)] += contrast * change
        return Synthetic(image, share, {**drawn, "contrast": [round(each, 4) for each in contrasts]})

    def _draw_texture(self, request: Request, rng: np.random.Generator) -> np.ndarray:
        """What the contrast is multiplied by in the box, (X, Y, Z)."""
        c, shape, spacing = self.config, request.box.shape, request.spacing_mm
        if c.form == "published":
            drawn = texture.draw_texture(c.texture, shape, spacing, rng)
            return drawn if c.contrast_from == "literature" else drawn / texture.MEAN
        sigma = rng.uniform(*c.texture.cloud_mm)
        return 1 + c.grain * smooth_noise(shape, [max(0.6, sigma / s) for s in spacing], rng)
