"""How much brighter or darker a tumor is than its surroundings, for methods that set it by rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from tumorgen_cli.data.channels import is_ct
from tumorgen_cli.methods.base import Request
from tumorgen_cli.planning.fingerprint import Fingerprint
from tumorgen_cli.planning.plan import Decisions, Plan
from tumorgen_cli.planning.ranges import IntensityRange
from tumorgen_cli.preprocessing.intensity import channel_units
from tumorgen_cli.system.errors import Fault, PlanError

ContrastSource = Literal["data", "literature"]
#: what SynTumor (liver) and Pixel2Cancer (liver, pancreas, kidney) take off, in HU, times a texture of 0.53 in the mean
_PUBLISHED_HU = (-145.0, -65.0)


def plan_contrast(d: Decisions, fingerprint: Fingerprint) -> None:
    """Take `contrast_from` and `contrast` into `d`.

    Literature values are those of the public code of SynTumor and Pixel2Cancer: 65 to 145 HU darker, times a texture of
    0.53 in the mean, which is 34 to 77 HU. Measured differences agree with them: 40 (standard deviation 23) HU between
    pancreas and carcinoma in the portal venous phase, 60 (25) HU in the pancreatic phase (Ishigami et al., European
    Journal of Radiology, 2009, PMID 17961951).

    Raises:
        PlanError: Literature values are asked for a channel that is not CT.
    """
    reason = "of the training tumors; literature: no label is used"
    if d.take("contrast_from", "data", reason) == "literature":
        section = d.prefix.removesuffix(".")
        faults = [
            Fault(
                f"--set {section}.contrast_from",
                f"literature, for channel {facts.name}",
                "CT, for which values are published",
                f"--set {section}.contrast_from=data",
            )
            for facts in fingerprint.channels
            if not is_ct(facts.name)
        ]
        if faults:
            raise PlanError("No contrast is published for a channel", faults)
        usual: tuple[tuple[float, float], ...] = (_PUBLISHED_HU,) * len(fingerprint.channels)
        reason = "SynTumor's and Pixel2Cancer's code: 65 to 145 HU darker, times the texture; abdominal CT alone"
    else:
        contrast = np.array([tumor.contrast for tumor in fingerprint.tumors])
        usual = tuple((float(low), float(high)) for low, high in np.nanpercentile(contrast, (10, 90), axis=0).T)
        reason = "10th and 90th percentile of the tumors' contrast to the shell around them; MR: in units of each scan"
    d.take("contrast", usual, reason)


def draw_contrasts(
    ranges: Sequence[IntensityRange], plan: Plan, request: Request, rng: np.random.Generator
) -> list[float]:
    """Draw the contrast of each channel, in the units of the scan."""
    widths = channel_units(plan.channels, request.limits)[:, 1]
    return [float(rng.uniform(low, high)) * float(width) for (low, high), width in zip(ranges, widths, strict=True)]
