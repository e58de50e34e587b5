"""How a tumor is pasted into a scan: the painted box fades into the scan, on the scan's own grid.

A method paints a window on the working grid. `paste` resamples the painted box back to the scan's grid and blends it
with the scan by the weights of `feather`: 0 at the box's faces, 1 inside. The tumor lies where the weight is at least
one half (`tumor_place`). Outside the box nothing changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from tumorgen_cli.data.labels import Values, fill_sublabels, mask_of, values_of
from tumorgen_cli.data.volumes import resample
from tumorgen_cli.geometry import Box, Grid, cast_to_dtype, tight_box
from tumorgen_cli.methods.base import Request, Synthetic
from tumorgen_cli.synthesis.scan import Scan

_CUT = 0.002  # of the clip window: an intensity that is cut by more is lost


@dataclass(frozen=True)
class Pasted:
    """A painted scan.

    Attributes:
        image: (C, X, Y, Z), with values that the data types of the scan's files can hold.
        mask: the tumor in the box, (X, Y, Z) bool.
        cut: share of the tumor's voxels whose intensity was beyond what the scan can hold and was cut.
        sublabels: voxel values of the tumor in the box (X, Y, Z), 0 elsewhere; None if the method gave none.
    """

    image: np.ndarray
    mask: np.ndarray
    cut: float
    sublabels: np.ndarray | None = None


def feather(box: Box, grid: Grid, width_mm: float) -> np.ndarray:
    """Compute the weights with which a painted box is blended into a scan.

    The weight rises smoothly, as 3 r² - 2 r³, from a face of the box to 1 at the depth `width_mm`. In a small box it
    reaches 1 at a quarter of the edge. At a face that is the scan's own border there is no ramp.

    Args:
        box: box in the scan's voxels.
        grid: the scan's grid.
        width_mm: width of the ramp.

    Returns:
        Weights in (0, 1] of the box's voxels (X, Y, Z), float32.
    """
    weight = np.ones(box.shape, np.float32)
    for axis, (a, b, size, spacing) in enumerate(zip(box.start, box.stop, grid.shape, grid.spacing_mm, strict=True)):
        inside = (np.arange(b - a) + 0.5) * spacing
        depth = np.minimum(inside if a > 0 else np.inf, inside[::-1] if b < size else np.inf)
        ramp = np.clip(depth / max(min(width_mm, (b - a) * spacing / 4), 1e-6), 0, 1)
        along = [1, 1, 1]
        along[axis] = -1
        weight *= (ramp * ramp * (3 - 2 * ramp)).reshape(along).astype(np.float32)
    return weight


def fade_mm(place_mm: float, width_mm: float) -> float:
    """Return how much longer the edge of a box is than the edge of its `tumor_place`, on both sides together.

    Args:
        place_mm: edge length of the tumor's place.
        width_mm: width of the feather.
    """
    return min(width_mm, place_mm / 3)  # `feather` takes at most a quarter of the box's edge


def tumor_place(box: Box, grid: Grid, width_mm: float) -> Box:
    """Return the box in which the tumor may lie: where the pasted image is mostly the painted one.

    Args:
        box: box in the scan's voxels.
        grid: the scan's grid.
        width_mm: width of the feather.
    """
    place = tight_box(feather(box, grid, width_mm) >= 0.5)
    assert place is not None  # a ramp takes at most a quarter of an edge
    return place.shifted(box.start)


def paste(
    scan: Scan,
    box: Box,
    window: Grid,
    request: Request,
    synthetic: Synthetic,
    feather_mm: float,
    keeps_background: bool,
) -> Pasted:
    """Paste a painted box into a scan.

    Where the host is kept, the difference between the painted window and the host's window is added to the scan, so
    detail finer than the working grid stays. Elsewhere the painted image replaces the scan. The result is never below
    the lower clip limit unless the scan itself is, and never beyond the values of the files' data types.

    Args:
        scan: the host scan.
        box: the box that may change, in the scan's voxels.
        window: grid of the window that was painted.
        request: the window before painting.
        synthetic: the painted window.
        feather_mm: width of the feather.
        keeps_background: whether the host is kept if `synthetic.kept` does not say it voxel by voxel.

    Returns:
        The image, the mask, and how much of the tumor was cut.
    """
    target = scan.grid.subgrid(box.start, scan.grid.spacing_mm, box.shape)
    weight = feather(box, scan.grid, feather_mm)
    kept = float(keeps_background) if synthetic.kept is None else resample(synthetic.kept, window, target, "linear")
    mask = (resample(synthetic.mask, window, target, "linear") >= 0.5) & (weight >= 0.5)
    image, cut = scan.image.copy(), np.zeros(box.shape, bool)
    for channel, (painted, host) in enumerate(zip(synthetic.image, request.image, strict=True)):
        before = scan.image[(channel, *box.slices)].astype(np.float32)
        change = kept * resample(painted - host, window, target, "linear") if np.any(kept) else 0.0
        if not np.all(kept == 1):
            change = change + (1 - kept) * (resample(painted, window, target, "cubic") - before)
        # noise and interpolation may go below 0, where no PET value can be
        floor = np.minimum(before, request.limits[channel, 0])
        asked = before + weight * change
        after = cast_to_dtype(np.maximum(asked, floor), scan.dtypes[channel])
        image[(channel, *box.slices)] = after
        allowed = _CUT * (request.limits[channel, 1] - request.limits[channel, 0])
        cut |= np.abs(after - asked) > allowed + (0.5 if after.dtype.kind in "iu" else 0.0)  # 0.5: rounding
    sublabels = None
    if synthetic.sublabels is not None:
        sublabels = fill_sublabels(resample(synthetic.sublabels, window, target, "nearest"), mask)
    return Pasted(image, mask, float(cut[mask].mean()) if mask.any() else 0.0, sublabels)


def host_labels(scan: Scan, tumor_label: Values) -> np.ndarray:
    """Return the labels of a host (X, Y, Z) of the smallest unsigned type that also holds `tumor_label`."""
    highest = max(values_of(tumor_label))
    if scan.labels is None:
        return np.zeros(scan.grid.shape, np.min_scalar_type(highest))
    highest = max(highest, int(scan.labels.max()))
    return scan.labels.astype(np.min_scalar_type(highest), copy=False)


def paste_labels(
    scan: Scan, box: Box, mask: np.ndarray, tumor_label: Values, sublabels: np.ndarray | None = None
) -> np.ndarray:
    """Return the labels of a pair: the host's, with the new tumor.

    An old tumor in the box is removed from the labels, as it is from the image: its voxels get the nearest other label.

    Args:
        scan: the host scan.
        box: the box that has changed, in the scan's voxels.
        mask: mask of the new tumor in the box (X, Y, Z) bool.
        tumor_label: value of the tumor in the labels, or several.
        sublabels: of several, which one each voxel of the box (X, Y, Z) gets.

    Returns:
        Labels (X, Y, Z), of the smallest unsigned type that holds them.
    """
    labels = host_labels(scan, tumor_label)
    if labels is scan.labels:
        labels = labels.copy()
    _remove_label(labels, box, tumor_label, scan.grid)
    part = labels[box.slices]
    if isinstance(tumor_label, int):
        part[mask] = tumor_label
    else:
        assert sublabels is not None  # they are chosen when a tumor with several labels is painted
        part[mask] = sublabels[mask]
    return labels


def _remove_label(labels: np.ndarray, box: Box, tumor_label: Values, grid: Grid) -> None:
    """Give the tumor voxels in a box of labels (X, Y, Z), in place, the nearest other label."""
    if not mask_of(labels[box.slices], tumor_label).any():
        return
    tumors = mask_of(labels, tumor_label)
    around = tight_box(tumors)
    assert around is not None  # there are some in the box
    region = around.grown(1, grid.shape)  # all voxels between a tumor voxel and the nearest other one are tumor
    part, removed = labels[region.slices], np.zeros(labels.shape, bool)
    removed[box.slices] = tumors[box.slices]
    nearest = ndimage.distance_transform_edt(
        tumors[region.slices], grid.spacing_mm, return_distances=False, return_indices=True
    )
    inside = removed[region.slices]
    part[inside] = part[tuple(nearest)][inside]
