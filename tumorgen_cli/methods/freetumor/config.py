"""FreeTumor's section of the plan: settings, and the rules that choose them."""

from __future__ import annotations

from dataclasses import dataclass

from tumorgen_cli.planning.plan import Decisions, WindowPlan
from tumorgen_cli.planning.ranges import (
    Batch,
    Draws,
    Iterations,
    LearningRate,
    OddSide,
    PatchWidths,
    Share,
    ShareBelowOne,
    Sides,
    Sigma,
    Weight,
    Width,
)
from tumorgen_cli.system.devices import DeviceBudget
from tumorgen_cli.tumors.masks import MaskConfig, plan_masks

_FREE = "the paper gives none; not tuned"


@dataclass(frozen=True)
class SegmentorConfig:
    """The segmentation network S and its training.

    Attributes:
        widths: channels of the levels.
        patch: training window in voxels.
        batch: windows per step.
        iterations: training steps.
        learning_rate: learning rate after the warm-up.
        tumor_share: share of the windows that are cut around a tumor; the others lie anywhere.
        mixup: share of the windows into which a box of another window is pasted.
        ema: decay of the moving average of the weights.
    """

    widths: PatchWidths
    patch: Sides
    batch: Batch
    iterations: Iterations
    learning_rate: LearningRate
    tumor_share: Share
    mixup: Share
    ema: ShareBelowOne


@dataclass(frozen=True)
class GanConfig:
    """The generator G, the classifier that is trained against it, and their training.

    Attributes:
        widths: channels of the generator's levels.
        classifier_width: channels of the classifier's first layer.
        patch: training window in voxels.
        batch: windows per step.
        iterations: training steps.
        learning_rate: learning rate after the warm-up.
        classifier_weight: λ_cls.
        mask_channel: whether G sees the mask beside the image.
        blur_taps: width of the blur g in voxels.
        blur_sigma: standard deviation of the blur g in voxels.
        ema: decay of the moving average of the weights.
    """

    widths: PatchWidths
    classifier_width: Width
    patch: Sides
    batch: Batch
    iterations: Iterations
    learning_rate: LearningRate
    classifier_weight: Weight
    mask_channel: bool
    blur_taps: OddSide
    blur_sigma: Sigma
    ema: ShareBelowOne


@dataclass(frozen=True)
class FilterConfig:
    """The quality filter.

    Attributes:
        threshold: a mask passes if S finds this share of it.
        tries: after this number of masks, a request gets an empty mask. The pipeline then chooses another place; after
            the plan's number of draws it gives the pair up with a warning.
    """

    threshold: Share
    tries: Draws


@dataclass(frozen=True)
class FreeTumorConfig:
    """FreeTumor's section of the plan."""

    segmentor: SegmentorConfig
    gan: GanConfig
    mask: MaskConfig
    filter: FilterConfig


def plan_freetumor(d: Decisions, window: WindowPlan, budget: DeviceBudget) -> None:
    """Take every field of a `FreeTumorConfig` into `d`."""
    _plan_segmentor(d.within("segmentor"), window, budget)
    _plan_gan(d.within("gan"), window, budget)
    plan_masks(d, "ellipsoid")
    f = d.within("filter")
    f.take("threshold", 0.7, "the paper's T")
    f.take("tries", 5, "masks that are drawn before another place is tried; the paper draws one")


def _plan_segmentor(d: Decisions, window: WindowPlan, budget: DeviceBudget) -> None:
    large = budget.large
    side = 96 if large else 48
    widths = (32, 64, 128, 256, 320) if large else (16, 32, 64, 128)
    d.take("widths", widths, "nnU-Net's from 16 GiB up; fewer on a CPU", memory_gib=budget.memory_gib)
    reason = "the paper's 96 voxels from 16 GiB up, 48 on a CPU"
    d.take("patch", tuple(min(n, side) for n in window.shape), reason, window=window.shape)
    d.take("batch", 2, "nnU-Net's")
    d.take("iterations", 20000 if large else 2500, "about 20 minutes on one CPU core; more is not measured")
    d.take("learning_rate", 5e-4 if large else 1e-3, _FREE)
    d.take("tumor_share", 2 / 3, "two thirds around a tumor, one third anywhere: S must know healthy tissue too")
    d.take("mixup", 0.0, "a share of the windows; the paper mixes when it trains on synthetic tumors, not here")
    d.take("ema", 0.998, _FREE)


def _plan_gan(d: Decisions, window: WindowPlan, budget: DeviceBudget) -> None:
    large = budget.large
    widths = (64, 128, 256, 512) if large else (16, 32, 64, 128)
    d.take("widths", widths, "the paper's code: 64 to 512; a quarter on a CPU")
    d.take("classifier_width", 32 if large else 16, _FREE)
    reason = "the paper's 96 voxels: whole tumors, as in synthesis"
    d.take("patch", tuple(min(n, 96) for n in window.shape), reason, window=window.shape)
    d.take("batch", 4 if large else 1, "the paper's 4 from 16 GiB up")
    d.take("iterations", 20000 if large else 1500, "about 20 minutes on one CPU core; more is not measured")
    d.take("learning_rate", 1e-4 if large else 5e-4, "the paper's 1e-4; more with few steps")
    d.take("classifier_weight", 0.1, "the paper's λ_cls")
    d.take("mask_channel", False, "eq. 1: G(x); true: G sees the mask too")
    d.take("blur_taps", 7, "the paper's code")
    d.take("blur_sigma", 1.0, "the paper's code")
    d.take("ema", 0.995, _FREE)
