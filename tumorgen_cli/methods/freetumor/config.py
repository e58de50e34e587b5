"""FreeTumor's section of the plan: settings, and the rules that choose them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tumorgen_cli.planning.plan import Decisions, WindowPlan
from tumorgen_cli.planning.ranges import (
    Batch,
    Draws,
    Iterations,
    LearningRate,
    MillimeterRange,
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
from tumorgen_cli.system.errors import Fault, PlanError
from tumorgen_cli.tumors.masks import MaskConfig, plan_masks
from tumorgen_cli.tumors.texture import TextureConfig, plan_texture

_FREE = "the paper gives none; not tuned"
_VOXEL_MM = 1.5  # of the public code, which gives its blurs in voxels


@dataclass(frozen=True)
class SegmentorConfig:
    """The segmentation network S and its training.

    Attributes:
        widths: channels of the levels.
        patch: training window in voxels. S is used on windows of this size; larger ones are seen in parts.
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
        patch: training window in voxels. G is used on windows of this size; larger ones are seen in parts.
        batch: windows per step.
        iterations: training steps.
        learning_rate: learning rate after the warm-up.
        segmentor_weight: weight of L_seg; 0 trains the generator against the classifier alone.
        classifier_weight: λ_cls; 0 trains no classifier, so that nothing is adversarial.
        mask_channel: whether G sees the mask beside the image.
        form: "published" as the public code: the difference is blurred, and multiplied by a texture and by the mask
            with a blurred edge; "equation" as eq. 1: the difference is multiplied by the blurred image and the mask.
        blur_taps: width of the blur g in voxels.
        blur_sigma: standard deviation of the blur g in voxels.
        edge_mm: range of the standard deviation of the blur of the mask's edge, of the published form.
        texture: the texture of the published form.
        ema: decay of the moving average of the weights.
    """

    widths: PatchWidths
    classifier_width: Width
    patch: Sides
    batch: Batch
    iterations: Iterations
    learning_rate: LearningRate
    segmentor_weight: Weight
    classifier_weight: Weight
    mask_channel: bool
    form: Literal["published", "equation"]
    blur_taps: OddSide
    blur_sigma: Sigma
    edge_mm: MillimeterRange
    texture: TextureConfig
    ema: ShareBelowOne

    def __post_init__(self) -> None:
        if not self.segmentor_weight and not self.classifier_weight:
            remedy = "set methods.freetumor.gan.segmentor_weight or methods.freetumor.gan.classifier_weight above 0"
            fault = Fault("gan", "segmentor_weight and classifier_weight 0", "one or both above 0", remedy)
            raise PlanError("The generator has no loss", [fault])


@dataclass(frozen=True)
class FilterConfig:
    """The quality filter.

    Attributes:
        rule: "threshold" passes a mask if S finds the share `threshold` of it or more, as eqs. 4 and 5; "adaptive"
            passes it with a chance that is the share P. Over many pairs, a pair then counts in proportion to P, as with
            the weights of eq. 8, whatever is trained with the pairs.
        threshold: see `rule`.
        tries: after this number of masks, a request gets an empty mask. The pipeline then chooses another place; after
            the plan's number of draws it gives the pair up with a warning.
    """

    rule: Literal["threshold", "adaptive"]
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
    patch = _plan_gan(d.within("gan"), window, budget)
    _plan_segmentor(d.within("segmentor"), patch, budget)
    plan_masks(d, "ellipsoid")
    f = d.within("filter")
    f.take("rule", "threshold", "the paper's better one (its Table 13); adaptive: eq. 8")
    f.take("threshold", 0.7, "the paper's T")
    f.take("tries", 5, "masks that are drawn before another place is tried; the paper draws one")


def _plan_segmentor(d: Decisions, patch: tuple[int, ...], budget: DeviceBudget) -> None:
    large = budget.large
    widths = (32, 64, 128, 256, 320) if large else (16, 32, 64, 128)
    d.take("widths", widths, "nnU-Net's from 16 GiB up; fewer on a CPU", memory_gib=budget.memory_gib)
    d.take("patch", patch, "the generator's: S judges windows of that size, and its norms depend on it")
    d.take("batch", 2 if large else 1, "nnU-Net's 2 from 16 GiB up")
    d.take("iterations", 20000 if large else 2500, "about 20 minutes on one CPU core; more is not measured")
    d.take("learning_rate", 5e-4 if large else 1e-3, _FREE)
    d.take("tumor_share", 2 / 3, "two thirds around a tumor, one third anywhere: S must know healthy tissue too")
    d.take("mixup", 0.0, "a share of the windows; the paper mixes when it trains on synthetic tumors, not here")
    d.take("ema", 0.998, _FREE)


def _plan_gan(d: Decisions, window: WindowPlan, budget: DeviceBudget) -> tuple[int, ...]:
    large = budget.large
    widths = (64, 128, 256, 512) if large else (16, 32, 64, 128)
    d.take("widths", widths, "the paper's code: 64 to 512; a quarter on a CPU")
    d.take("classifier_width", 32 if large else 16, _FREE)
    reason = "the paper's 96 voxels: whole tumors, as in synthesis"
    patch = tuple(d.take("patch", tuple(min(n, 96) for n in window.shape), reason, window=window.shape))
    d.take("batch", 4 if large else 1, "the paper's 4 from 16 GiB up")
    d.take("iterations", 20000 if large else 1500, "about 20 minutes on one CPU core; more is not measured")
    d.take("learning_rate", 1e-4 if large else 5e-4, "the paper's 1e-4; more with few steps")
    d.take("segmentor_weight", 1.0, "the paper's eq. 2; 0: without L_seg, as in its Table 3")
    d.take("classifier_weight", 0.1, "the paper's λ_cls; 0: without L_cls, as in its Table 3")
    d.take("mask_channel", False, "eq. 1: G(x); true: G sees the mask too")
    d.take("form", "published", "the paper's code; equation: eq. 1, which paints evenly")
    d.take("blur_taps", 7, "the paper's code")
    d.take("blur_sigma", 1.0, "the paper's code")
    least = 0.5 * max(window.spacing_mm)
    edge = (max(least, _VOXEL_MM), max(least, 2 * _VOXEL_MM))
    d.take("edge_mm", edge, "the paper's code: sigma of 1 to 2 voxels of 1.5 mm; at least half a working voxel")
    plan_texture(d, _VOXEL_MM, "FreeTumor, which takes SynTumor's")
    d.take("ema", 0.995, _FREE)
    return patch
