"""SynTumor: a deformed ellipsoid filled with blurred-noise texture, contrast and edge from the data set's own tumors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy import ndimage

from tumorgen_cli.devices import Budget
from tumorgen_cli.methods.method import Method, Sampling
from tumorgen_cli.plan import Decisions, Plan, WindowPlan
from tumorgen_cli.records import Fingerprint, Request, Synthetic, Triple
from tumorgen_cli.shapes import ellipsoid, smooth_noise
from tumorgen_cli.workspace import Workspace


@dataclass(frozen=True)
class Config:
    """Per channel the 10th and 90th percentile of the training tumors' contrast, in the scan's units.

    `texture`: standard deviation of the texture as a share of the contrast, `texture_mm` its correlation length;
    `deformation`: see `shapes.ellipsoid`; `edge_mm`: sigma of the soft edge.
    """

    contrast: tuple[tuple[float, float], ...]
    texture: float
    texture_mm: float
    deformation: float
    edge_mm: float


class SynTumor(Method):
    """See the module."""

    name = "syntumor"
    SOURCE = (
        "Hu et al., Label-Free Liver Tumor Segmentation, CVPR 2023: ellipsoid, elastic deformation, blurred noise, soft "
        "edge. Deviations: the size follows the given box, not four classes; sign and size of the contrast come from "
        "the fingerprint instead of 65 to 145 HU darker."
    )
    keeps_background: ClassVar[bool] = True

    def __init__(self, plan: Plan, workspace: Workspace, device: str = "cpu") -> None:
        super().__init__(plan, workspace, device)
        self.config = plan.section(self.name, Config)

    @classmethod
    def plan_section(cls, d: Decisions, fingerprint: Fingerprint, window: WindowPlan, budget: Budget) -> None:
        contrast = np.array([tumor.contrast for tumor in fingerprint.tumors])
        usual = tuple((float(low), float(high)) for low, high in np.nanpercentile(contrast, (10, 90), axis=0).T)
        d.take("contrast", usual, "10th and 90th percentile of the tumors' contrast to the 2 cm shell")
        d.take("texture", 0.25, "SynTumor's blurred noise")
        d.take("texture_mm", 10.0, "SynTumor's sigma of 3 to 15 voxels, near its middle at 1 mm")
        d.take("deformation", 0.15, "SynTumor's elastic deformation, as a spread of the radius")
        d.take("edge_mm", 0.75 * max(window.spacing_mm), "SynTumor's edge sigma of 1 to 2 voxels")

    def load(self) -> dict[str, str]:
        return {}

    def synthesize(self, request: Request, seed: int, sampling: Sampling) -> Synthetic:
        rng, c = np.random.default_rng(seed), self.config
        shape, box = request.box.shape, request.box
        radii: Triple = tuple(n / 2 * rng.uniform(0.6, 0.9) for n in shape)  # type: ignore[assignment]
        center: Triple = tuple(n / 2 + rng.uniform(-1, 1) * (n / 2 - r) for n, r in zip(shape, radii, strict=True))  # type: ignore[assignment]
        body = ellipsoid(shape, center, radii, rng, c.deformation)
        soft = ndimage.gaussian_filter(body, [c.edge_mm / s for s in request.spacing_mm], mode="constant")
        texture = smooth_noise(shape, [max(0.6, c.texture_mm / s / 2.355) for s in request.spacing_mm], rng)
        image = request.image.astype(np.float32, copy=True)
        drawn = []
        for channel, (low, high) in enumerate(c.contrast):
            contrast = float(rng.uniform(low, high))
            drawn.append(round(contrast, 4))
            image[(channel, *box.slices)] += soft * contrast * (1 + c.texture * texture)
        share = np.zeros(request.image.shape[1:], np.float32)
        share[box.slices] = body
        return Synthetic(image, share, {"contrast": drawn, "radii_voxels": [round(r, 2) for r in radii]})
