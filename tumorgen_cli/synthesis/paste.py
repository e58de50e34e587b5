"""Pastes a painted window back into the scan on the scan's own grid; outside the box nothing changes."""

from __future__ import annotations

import numpy as np

from tumorgen_cli.data.volumes import resample
from tumorgen_cli.geometry import cast_to_dtype
from tumorgen_cli.methods.base import Request, Synthetic
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.synthesis.scan import Scan
from tumorgen_cli.synthesis.window import Window, feather


def paste(
    scan: Scan, window: Window, request: Request, synthetic: Synthetic, plan: Plan, keeps_background: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The scan with the window's box replaced, and the tumor mask: image (C, X, Y, Z) of what the channels' data types hold, mask bool.

    Outside the box every voxel is the scan's own; inside it fades in over the plan's feather. The mask lies where the
    picture is mostly the synthetic one. Where the host is kept, `keeps_background` or as `synthetic.kept` says, the change is
    added, so that detail finer than the working grid stays; elsewhere the picture takes the host's place. Nothing comes below
    the clip window but where the host is.
    """
    box = window.box
    onto = scan.grid.subgrid(box.start, scan.grid.spacing_mm, box.shape)
    weight = feather(box, scan.grid, plan.paste.feather_mm)
    kept = float(keeps_background) if synthetic.kept is None else resample(synthetic.kept, window.grid, onto, "linear")
    image = scan.image.copy()
    for channel, (drawn, host) in enumerate(zip(synthetic.image, request.image, strict=True)):
        before = scan.image[(channel, *box.slices)].astype(np.float32)
        change = kept * resample(drawn - host, window.grid, onto, "linear") if np.any(kept) else 0.0
        if not np.all(kept == 1):
            change = change + (1 - kept) * (resample(drawn, window.grid, onto, "cubic") - before)
        floor = np.minimum(
            before, request.limits[channel, 0]
        )  # noise and interpolation may end where no PET does, below 0
        after = np.maximum(before + weight * change, floor)
        image[(channel, *box.slices)] = cast_to_dtype(after, scan.dtypes[channel])
    mask = np.zeros(scan.grid.shape, bool)
    mask[box.slices] = (resample(synthetic.mask, window.grid, onto, "linear") >= 0.5) & (weight >= 0.5)
    return image, mask
