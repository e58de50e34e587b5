"""SynTumor: a deformed ellipsoid with a texture of blurred noise, and the contrast of the data set's own tumors."""

# ruff: noqa: ARG002, ARG003  (the contract gives every method the same arguments; some are not needed here)

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from tumorgen_cli.methods.base import Method, Request, Sampling, Synthetic
from tumorgen_cli.methods.mask_prior import load_donors, place_mask
from tumorgen_cli.planning.fingerprint import Fingerprint
from tumorgen_cli.planning.plan import Decisions, Plan, WindowPlan
from tumorgen_cli.planning.ranges import Factor, IntensityRange, MillimeterRange
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.intensity import channel_units
from tumorgen_cli.system.devices import DeviceBudget
from tumorgen_cli.system.errors import Fault, PlanError
from tumorgen_cli.tumors.masks import MaskConfig, plan_masks, smooth_noise


@dataclass(frozen=True)
class SynTumorConfig:
    """The method's section of the plan.

    Attributes:
        mask: the mask prior.
        contrast: by channel, the 10th and 90th percentile of the training tumors' contrast, in
            `preprocessing.intensity.channel_units`.
        texture: standard deviation of the texture, as a share of the contrast.
        texture_mm: range of the standard deviation of the blur that makes the texture's noise smooth.
        edge_mm: by size class of `mask`, range of the standard deviation of the blur that softens the edge.
    """

    mask: MaskConfig
    contrast: tuple[IntensityRange, ...]
    texture: Factor
    texture_mm: MillimeterRange
    edge_mm: tuple[MillimeterRange, ...]

    def __post_init__(self) -> None:
        if len(self.edge_mm) != len(self.mask.radii_mm):
            fault = Fault(
                "syntumor.edge_mm",
                f"{len(self.edge_mm)} ranges",
                f"{len(self.mask.radii_mm)}, one for each of mask.radii_mm",
                "give both",
            )
            raise PlanError("Size classes do not match", [fault])


class SynTumor(Method):
    """SynTumor behind the contract; see the module and `SOURCE`."""

    name = "syntumor"
    section = SynTumorConfig
    SOURCE = (
        "Hu et al., Label-Free Liver Tumor Segmentation, CVPR 2023: ellipsoid of four size classes, elastic "
        "deformation, blurred noise, soft edge. Deviations: Sizes follow the given place; the radii of the four "
        "classes only choose deformation and edge. The elastic deformation is smooth noise of the radius. The "
        "strength of the texture, a share of the contrast, is our choice. Sign and size of the contrast are those of "
        "the training tumors instead of 65 to 145 HU darker, drawn for each channel separately."
    )
    keeps_background = True

    def __init__(self, plan: Plan, workspace: Workspace, device: str = "cpu") -> None:
        super().__init__(plan, workspace, device)
        self.config = plan.section(self.name, SynTumorConfig)
        self.donors: list[np.ndarray] = []

    @classmethod
    def plan_section(cls, d: Decisions, fingerprint: Fingerprint, window: WindowPlan, budget: DeviceBudget) -> None:
        """Take every field of `SynTumorConfig` into `d`."""
        contrast = np.array([tumor.contrast for tumor in fingerprint.tumors])
        usual = tuple((float(low), float(high)) for low, high in np.nanpercentile(contrast, (10, 90), axis=0).T)
        d.take(
            "contrast",
            usual,
            "10th and 90th percentile of the tumors' contrast to the shell around them; for MR in units of each scan",
        )
        plan_masks(d, "ellipsoid")
        d.take("texture", 0.25, "SynTumor's blurred noise, as a share of the contrast")
        d.take("texture_mm", (3.0, 15.0), "SynTumor's sigma of 3 to 15 voxels of about 1 mm")
        least = 0.5 * max(window.spacing_mm)
        edges = tuple(
            (max(least, low), max(least, high)) for low, high in ((1.0, 1.0), (1.0, 1.5), (1.0, 2.0), (1.0, 2.0))
        )
        d.take(
            "edge_mm",
            edges,
            "SynTumor's edge sigma of 1 to 2 voxels of 1 mm, by size; at least half a working voxel",
            least=least,
        )

    def load(self) -> dict[str, str]:
        """Load the training masks, if the prior uses them."""
        self.donors, hashes = load_donors(self.config.mask, self.workspace)
        return hashes

    def synthesize(self, request: Request, seed: int, sampling: Sampling) -> Synthetic:
        """Draw a mask in the place and add its soft, textured contrast to the window."""
        rng, c = np.random.default_rng(seed), self.config
        shape, box = request.box.shape, request.box
        share, drawn = place_mask(c.mask, self.plan, request, rng, self.donors)
        body = share[box.slices]
        edge = rng.uniform(*c.edge_mm[drawn["size"]])
        soft = ndimage.gaussian_filter(body, [edge / s for s in request.spacing_mm], mode="constant")
        grain = rng.uniform(*c.texture_mm)
        texture = smooth_noise(shape, [max(0.6, grain / s) for s in request.spacing_mm], rng)
        image = request.image.astype(np.float32, copy=True)
        widths = channel_units(self.plan.channels, request.limits)[:, 1]
        contrasts = [
            float(rng.uniform(low, high)) * float(width) for (low, high), width in zip(c.contrast, widths, strict=True)
        ]
        for channel, contrast in enumerate(contrasts):
            image[(channel, *box.slices)] += soft * contrast * (1 + c.texture * texture)
        return Synthetic(image, share, {**drawn, "contrast": [round(each, 4) for each in contrasts]})
