"""DiffTumor's section of the plan: settings, and the rules that choose them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tumorgen_cli.geometry import ball_radius_mm
from tumorgen_cli.methods.latent.autoencoder import levels_for
from tumorgen_cli.models.ddpm import Sampler
from tumorgen_cli.models.diffusion_unet import Attention
from tumorgen_cli.planning import rules
from tumorgen_cli.planning.fingerprint import TumorFacts
from tumorgen_cli.planning.plan import Decisions, WindowPlan
from tumorgen_cli.planning.ranges import (
    Batch,
    Codes,
    Copies,
    Decibels,
    Heads,
    Iterations,
    LearningRate,
    MillimeterRange,
    MillimetersAboveZero,
    PlaneWidths,
    Share,
    ShareBelowOne,
    Sides,
    Steps,
    VaeBlocks,
    VaeWidths,
    Weight,
    Width,
)
from tumorgen_cli.system.devices import DeviceBudget
from tumorgen_cli.system.errors import Fault, PlanError
from tumorgen_cli.tumors.masks import MaskConfig, plan_masks

#: sizes of tumors that have a diffusion model of their own; `early` or `later` alone: one model for all sizes
Models = Literal["both", "early", "later"]
_PUBLISHED = "DiffTumor's published setting"
_CELL_MM = 4.0  # the published latent cell: 4 voxels of 1 mm
_LEAST_SHARE = 0.1  # of the training tumors, for a model of their own: the rarest size that the published code draws


@dataclass(frozen=True)
class VqGanConfig:
    """The VQGAN and its training.

    Attributes:
        downsampling: voxels per latent cell, along each axis: 2 with two levels, 4 with three.
        widths: channels of the levels, from the image downward.
        res_blocks: residual blocks per level.
        latent_channels: channels of the latents, the width of a code.
        codes: K, the size of the codebook.
        patch: largest patch in voxels.
        batch: patches per step.
        iterations: training steps.
        learning_rate: learning rate after the warm-up.
        ema: decay of the moving average of the weights; 0: none.
        l1_weight: weight of the L1 term.
        commitment_weight: weight of the commitment term.
        perceptual_weight: weight of the perceptual term; 0 loads no feature network.
        matching_weight: weight of the feature-matching term.
        adversarial_weight: weight of the adversarial term.
        adversarial_from: share of the iterations after which the critics count.
        critic_width: channels of the critics' first layer.
        healthy_share: share of the patches that are of scans without labels, if the workspace has any.
        least_psnr: below this PSNR in dB on held-out cases, the diffusion starts with a warning.
    """

    downsampling: Literal[2, 4]
    widths: VaeWidths
    res_blocks: VaeBlocks
    latent_channels: Width
    codes: Codes
    patch: Sides
    batch: Batch
    iterations: Iterations
    learning_rate: LearningRate
    ema: ShareBelowOne
    l1_weight: Weight
    commitment_weight: Weight
    perceptual_weight: Weight
    matching_weight: Weight
    adversarial_weight: Weight
    adversarial_from: Share
    critic_width: Width
    healthy_share: Share
    least_psnr: Decibels

    def __post_init__(self) -> None:
        levels = levels_for(self.downsampling)
        if (len(self.widths), len(self.res_blocks)) != (levels, levels):
            found = f"{len(self.widths)} widths and {len(self.res_blocks)} res_blocks"
            expected = f"{levels} of each for a downsampling of {self.downsampling}"
            remedy = "set methods.difftumor.vqgan.downsampling, .widths and .res_blocks together"
            raise PlanError(
                "The levels of the VQGAN do not fit its downsampling", [Fault("vqgan", found, expected, remedy)]
            )


@dataclass(frozen=True)
class DdpmConfig:
    """What the diffusion models have in common: network, training, condition.

    Attributes:
        widths: channels of the levels.
        heads: number and width of the attention heads.
        attention: attention within the slices: `linear`, or `softmax` at every level.
        batch: windows per step.
        learning_rate: learning rate after the warm-up.
        ema: decay of the moving average of the weights.
        copies: augmented windows that are encoded per tumor.
        condition: what is known of the scan. `voxels`: the latents of the image whose voxels in the mask are 0;
            `latents`: the latents of the image, 0 in the mask's cells.
        scale: how latents are scaled. `channels`: to mean 0 and standard deviation 1 in each channel; `codebook`: to
            [-1, 1] by the smallest and largest number of the codebook.
    """

    widths: PlaneWidths
    heads: Heads
    attention: Attention
    batch: Batch
    learning_rate: LearningRate
    ema: ShareBelowOne
    copies: Copies
    condition: Literal["voxels", "latents"]
    scale: Literal["channels", "codebook"]


@dataclass(frozen=True)
class ModelConfig:
    """One diffusion model.

    Attributes:
        iterations: training steps.
        timesteps: T, the number of diffusion steps.
    """

    iterations: Iterations
    timesteps: Steps


@dataclass(frozen=True)
class DiffTumorSampling:
    """The synthesis.

    Attributes:
        steps: steps of the sampler with the model for later tumors, at most its T. That for early tumors takes all of
            its own T, by `ddpm`.
        solver: `ddpm` or `ddim`, with the model for later tumors.
        blend: whether only the mask is painted, along a blurred edge; otherwise the whole box.
        edge_mm: range of the standard deviation of that blur.
    """

    steps: Steps
    solver: Sampler
    blend: bool
    edge_mm: MillimeterRange


@dataclass(frozen=True)
class DiffTumorConfig:
    """DiffTumor's section of the plan.

    Attributes:
        autoencoder: whose latents are drawn: those of the own `vqgan`, or of `tumorgen`'s KL-VAE.
        models: which diffusion models there are (`Models`).
        early_mm: tumors whose volume is that of a ball of a smaller diameter are early.
        vqgan: the VQGAN.
        ddpm: what the diffusion models have in common.
        early: the model for early tumors.
        later: the model for all others.
        mask: how masks are drawn.
        sampling: the synthesis.
    """

    autoencoder: Literal["vqgan", "tumorgen"]
    models: Models
    early_mm: MillimetersAboveZero
    vqgan: VqGanConfig
    ddpm: DdpmConfig
    early: ModelConfig
    later: ModelConfig
    mask: MaskConfig
    sampling: DiffTumorSampling

    def __post_init__(self) -> None:
        if self.autoencoder == "tumorgen" and self.ddpm.scale == "codebook":
            remedy = "set methods.difftumor.ddpm.scale=channels, or methods.difftumor.autoencoder=vqgan"
            fault = Fault("ddpm.scale", "codebook, with TumorGen's autoencoder, which has none", "channels", remedy)
            raise PlanError("There is no codebook to scale by", [fault])


def diameter_mm(volume_mm3: float) -> float:
    """The diameter of the ball of this volume."""
    return 2 * ball_radius_mm(1, (1.0, 1.0, volume_mm3))


def plan_difftumor(d: Decisions, tumors: Sequence[TumorFacts], window: WindowPlan, budget: DeviceBudget) -> None:
    """Take every field of a `DiffTumorConfig` into `d`; `tumors` are the training tumors."""
    d.take("autoencoder", "vqgan", "the paper's; `tumorgen`: TumorGen's KL-VAE, so that only the sampler differs")
    limit = d.take("early_mm", 20.0, "the paper's early tumors: under 2 cm")
    early = [diameter_mm(1000 * tumor.volume_ml) < limit for tumor in tumors]
    share = sum(early) / max(1, len(early))
    which = "both" if _LEAST_SHARE <= share <= 1 - _LEAST_SHARE else "early" if share > 0.5 else "later"
    reason = "both as published; one where less than a tenth of the training tumors is of a size, too few to learn from"
    models = d.take("models", which, reason, early=sum(early), later=len(early) - sum(early))
    _plan_vqgan(d.within("vqgan"), window, budget)
    _plan_ddpm(d.within("ddpm"), max(1, len(tumors)), budget)
    reason = "published: 60,000; on a CPU all models together about 40 minutes of one core"
    iterations = 60000 if budget.large else 3000 if models == "both" else 6000
    for name, timesteps in (("early", 4), ("later", 200)):
        part = d.within(name)
        part.take("iterations", iterations, reason, models=models)
        part.take("timesteps", timesteps, _PUBLISHED)
    plan_masks(d, "ellipsoid")
    s = d.within("sampling")
    s.take("steps", 50, "published for later tumors; the DDPM-50 of TumorGen's comparison is 50 with solver=ddpm")
    s.take("solver", "ddim", "published for later tumors")
    s.take("blend", True, "published for liver and kidney; false: for pancreas")
    s.take("edge_mm", (0.0, 4.0), "published: sigma 0 to 4 voxels of 1 mm")


def _cell_voxels(window: WindowPlan, budget: DeviceBudget) -> int:
    """Voxels per latent cell: 4 as published, or 2 where 4 voxels are more than 4 mm and the cells fit their budget."""
    coarse = 4 * max(window.spacing_mm) > _CELL_MM
    return 2 if coarse and math.prod(window.shape) <= rules.cell_budget(budget.device) * 2**3 else 4


def _plan_vqgan(d: Decisions, window: WindowPlan, budget: DeviceBudget) -> None:
    large = budget.large
    reason = "published: cells of 4 mm, 4 voxels; coarser cells are halved where the window's cells fit their budget"
    levels = levels_for(d.take("downsampling", _cell_voxels(window, budget), reason, spacing_mm=window.spacing_mm))
    d.take("widths", (16, 32, 64)[:levels], _PUBLISHED)
    d.take("res_blocks", (2, 2, 2)[:levels], "as the KL-VAE's")
    d.take("latent_channels", 8, _PUBLISHED)
    d.take("codes", 16384, _PUBLISHED)
    reason = "the largest; sides are drawn from 32 up, as for the KL-VAE; published: 96 voxels only"
    patch = d.take("patch", rules.largest_patch(window.shape), reason)
    reason = "2 published; together no larger than the paper's window"
    d.take("batch", min(2, rules.patches_per_step(patch)) if large else 1, reason, patch=patch)
    reason = "as much time as the KL-VAE's training on the same device"
    d.take("iterations", 20000 if large else 2000, reason)
    d.take("learning_rate", 3e-4 if large else 1e-3, "3e-4 as published; higher for the few steps of a CPU")
    d.take("ema", 0.0, "none: an averaged codebook whose unused codes are replaced fits no encoder")
    d.take("l1_weight", 4.0, _PUBLISHED)
    d.take("commitment_weight", 0.25, _PUBLISHED)
    d.take("perceptual_weight", 4.0, _PUBLISHED)
    d.take("matching_weight", 4.0, _PUBLISHED)
    d.take("adversarial_weight", 1.0, _PUBLISHED)
    d.take("adversarial_from", 0.5, "published: step 10,000; here a share, for shorter trainings")
    d.take("critic_width", 64 if large else 32, "64 as published; half on a CPU, a quarter of their time")
    d.take("healthy_share", 0.5, "as the KL-VAE's; published: the autoencoder learns from many scans without labels")
    d.take("least_psnr", 30.0, "below it synthetic tumors look blurred; the diffusion then starts with a warning")


def _plan_ddpm(d: Decisions, tumors: int, budget: DeviceBudget) -> None:
    large = budget.large
    reason = "published: 24 to 192 over four levels; without the last on a CPU, which takes half of the time"
    d.take("widths", (24, 48, 96, 192) if large else (24, 48, 96), reason)
    reason = "8 of 32 as published; attention with a quarter of it takes less than half of the time on a CPU"
    d.take("heads", (8, 32) if large else (4, 16), reason)
    d.take("attention", "linear", _PUBLISHED)
    d.take("batch", 8 if large else 4, "published: 10; latents that fit into memory with their gradients")
    d.take("learning_rate", 1e-4 if large else 1e-3, "1e-4 as published; higher for the few steps of a CPU")
    d.take("ema", 0.995, _PUBLISHED)
    d.take("copies", rules.encoded_copies(tumors), "as TumorGen's: the same windows", tumors=tumors)
    d.take(
        "condition", "voxels", "the published code's; latents: the paper's (1 - m) z_0, which keeps some of the tumor"
    )
    reason = "codebook as published; it shrinks long-tailed latents (PET) to 0.02 to 0.1, which the network ignores"
    d.take("scale", "channels", reason)
