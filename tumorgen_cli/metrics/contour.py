"""Whether a mask follows the contour that the picture shows. Arrays in, numbers out."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from tumorgen_cli.geometry import Triple
from tumorgen_cli.metrics.overlap import dice
from tumorgen_cli.metrics.traits import tumor_and_shell

#: a contour is defined where the contrast is at least this many times the robust standard deviation of the shell: at
#: half of a weaker contrast, more than one in six voxels of the shell would lie on the tumor's side by noise alone
LEAST_CONTRAST = 2.0


def contour_dice(
    channel: np.ndarray, mask: np.ndarray, spacing_mm: Triple, excluded: np.ndarray | None = None
) -> float:
    """Compute the Dice of a mask with what the half-contrast contour encloses, by one rule for real and painted tumors.

    The level of the contour is halfway between the median inside the mask and the median of the shell around it. What
    it encloses is searched in mask and shell, on the tumor's side of the level, whether that is brighter or darker
    than the shell: the parts that touch the mask (over faces), and the holes in them, because a core may differ.

    Args:
        channel: The scan (X, Y, Z).
        mask: The tumor (X, Y, Z).
        spacing_mm: Voxel size along each axis.
        excluded: Voxels (X, Y, Z) that count neither as tumor nor as surroundings, for example other tumors.

    Returns:
        The Dice; nan where the mask is empty, nothing is around it, or the contrast is below `LEAST_CONTRAST` times the
        shell's noise.
    """
    cut = tumor_and_shell(channel[None], mask, spacing_mm, excluded)
    if cut is None or not cut[2].any():
        return math.nan
    (image,), inside, around = cut
    level, background = float(np.median(image[inside])), float(np.median(image[around]))
    noise = 1.4826 * float(np.median(np.abs(image[around] - background)))
    height = level - background
    if height == 0 or abs(height) < LEAST_CONTRAST * noise:
        return math.nan
    like = ((image - background) / height >= 0.5) & (inside | around)
    parts, _ = ndimage.label(like)
    enclosed = ndimage.binary_fill_holes(np.isin(parts, np.setdiff1d(parts[inside], 0)))
    return dice(inside, enclosed & (inside | around))
