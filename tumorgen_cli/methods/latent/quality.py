"""How well an autoencoder reconstructs: scores on held-out cases, the report, the preview."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from monai.metrics.regression import SSIMMetric
from torch import Tensor

from tumorgen_cli.figures import save_grid_preview
from tumorgen_cli.geometry import Shape, as_triple, cut
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.preprocessing.cases import Case
from tumorgen_cli.preprocessing.intensity import scale, unscale
from tumorgen_cli.preprocessing.windows import cut_tumor_window

#: times of a flow, 0 noise and 1 data, at which the error of a network is measured
QUALITY_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
_LEAST_ERROR = 1e-12  # bounds PSNR at 120 dB


class Codec(Protocol):
    """Encodes images (B, C, X, Y, Z) in [-1, 1] into latents (B, L, x, y, z), and decodes them.

    Attributes:
        downsampling: voxels per latent cell, along each axis.
    """

    downsampling: int

    def encode(self, image: Tensor) -> Tensor:
        """Latents of images."""

    def decode(self, latent: Tensor) -> Tensor:
        """Images of latents."""


@contextlib.contextmanager
def inference_context(precision: str, device: str) -> Iterator[None]:
    """Inference without gradients, in the precision of the plan (`fp32` or `bf16`)."""
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
        yield


def whole_image(case: Case, plan: Plan, downsampling: int) -> np.ndarray:
    """The whole case (C, X, Y, Z) in [-1, 1]; the edge is repeated until the sides are multiples of `downsampling`."""
    shape = as_triple(-(-n // downsampling) * downsampling for n in case.record.shape)
    return scale(cut(case.image, (0, 0, 0), shape), plan.channels, np.array(case.record.limits, np.float32))


def reconstruct(codec: Codec, image: np.ndarray, plan: Plan, device: str) -> np.ndarray:
    """The decoded latents of a scaled image (C, X, Y, Z), whose sides are multiples of the downsampling."""
    with inference_context(plan.precision, device):
        latent = codec.encode(torch.from_numpy(image)[None].to(device))
        return np.asarray(codec.decode(latent)[0].float().cpu().numpy())


def reconstruction_quality(codec: Codec, cases: Sequence[Case], plan: Plan, device: str) -> dict[str, float]:
    """Scores of the reconstructions of whole held-out cases.

    The peak of PSNR and the data range of SSIM are the width of the clip window; voxels beyond it are clipped in both
    images.

    Returns:
        `psnr` and `psnr_worst` in dB, `ssim`, the number of `cases`, and `tumor_shift` (see `tumor_errors`), which is
        absent if no window contains a tumor.
    """
    psnr, ssim = [], []
    for case in cases:
        limits = np.array(case.record.limits, np.float32)
        keep = (slice(None), *(slice(0, n) for n in case.record.shape))
        pair = _real_and_reconstructed(codec, whole_image(case, plan, codec.downsampling), limits, plan, device)
        real, picture = (whole[keep] for whole in pair)
        psnr.append(-10 * np.log10(max(float(np.mean((picture - real) ** 2)), _LEAST_ERROR)))
        metric = SSIMMetric(spatial_dims=3, data_range=1.0, win_size=min(7, *case.record.shape))
        score = metric(torch.from_numpy(picture)[None], torch.from_numpy(real)[None])
        assert isinstance(score, Tensor)
        ssim.append(float(score.mean()))
    found = {
        "psnr": float(np.mean(psnr)),
        "psnr_worst": float(np.min(psnr)),
        "ssim": float(np.mean(ssim)),
        "cases": float(len(cases)),
    }
    errors = tumor_errors(codec, cases, plan, plan.window.shape, device)
    return {**found, "tumor_shift": errors[1]} if errors else found


def tumor_errors(
    codec: Codec, cases: Sequence[Case], plan: Plan, shape: Shape, device: str
) -> tuple[float, float] | None:
    """Errors of reconstructed windows of the given shape, centered on the cases' tumors.

    Returns:
        The root mean square error, and how much brighter than the original a tumor becomes on average, in the channel
        with the largest shift; both as shares of the clip window. None if there is no tumor.
    """
    squares, shifts = [], []
    for case in cases:
        for component in (c for c in case.record.components if c.fits):
            image, mask, _ = cut_tumor_window(case, component, plan.channels, shape, None)
            limits = np.array(case.record.limits, np.float32)
            real, picture = _real_and_reconstructed(codec, image, limits, plan, device)
            squares.append(float(np.mean((picture - real) ** 2)))
            if mask.any():
                shifts.append(np.mean((picture - real)[:, mask > 0], axis=1))
    if not shifts:
        return None
    shift = np.mean(shifts, axis=0)
    return math.sqrt(np.mean(squares)), float(shift[np.abs(shift).argmax()])


def _real_and_reconstructed(
    codec: Codec, image: np.ndarray, limits: np.ndarray, plan: Plan, device: str
) -> tuple[np.ndarray, np.ndarray]:
    """A scaled image (C, X, Y, Z) and its reconstruction, in the scan's units divided by the clip window's width."""
    width = (limits[:, 1] - limits[:, 0]).reshape(-1, 1, 1, 1)
    picture = reconstruct(codec, image, plan, device)
    return unscale(image, plan.channels, limits) / width, unscale(picture, plan.channels, limits) / width


def reconstruction_preview(codec: Codec, cases: Sequence[Case], plan: Plan, device: str) -> Callable[[Path], None]:
    """A function that draws scan, reconstruction and difference of each case, in the slice with the largest tumor."""

    def preview(path: Path) -> None:
        rows = []
        for case in cases:
            image = whole_image(case, plan, codec.downsampling)
            picture = reconstruct(codec, image, plan, device)
            axial, main = largest_tumor_slice(case.tumors), plan.main_channel
            difference = np.abs(picture - image)[main, :, :, axial] * 4 - 1
            rows.append([image[main, :, :, axial], picture[main, :, :, axial], difference])
        names, columns = [case.record.case for case in cases], ["scan", "reconstruction", "4 × |difference|"]
        save_grid_preview(path, rows, names, columns, -1, 1)

    return preview


def largest_tumor_slice(mask: np.ndarray) -> int:
    """The number of the axial slice of a mask (X, Y, Z) with the largest tumor area."""
    return int((np.asarray(mask) > 0).sum(axis=(0, 1)).argmax())
