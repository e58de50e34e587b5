"""DiffTumor's section of the plan: settings, and the rules that choose them."""

from __future__ import annotations

from dataclasses import dataclass

from tumorgen_cli.models.ddpm import Sampler
from tumorgen_cli.planning import rules
from tumorgen_cli.planning.plan import Decisions, WindowPlan
from tumorgen_cli.planning.ranges import (
    Batch,
    Codes,
    Copies,
    Decibels,
    Heads,
    Iterations,
    LatentCells,
    LearningRate,
    MillimeterRange,
    PlaneWidths,
    Share,
    ShareBelowOne,
    Sides,
    Steps,
    VqGanBlocks,
    VqGanWidths,
    Weight,
    Width,
)
from tumorgen_cli.system.devices import DeviceBudget
from tumorgen_cli.system.errors import Fault, PlanError
from tumorgen_cli.tumors.masks import MaskConfig, plan_masks

_PUBLISHED = "DiffTumor's published setting"


@dataclass(frozen=True)
class VqGanConfig:
    """The VQGAN and its training.

    Attributes:
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
        healthy_share: share of the patches that are of scans without labels, if the workspace has any.
        least_psnr: below this PSNR in dB on held-out cases, the diffusion starts with a warning.
    """

    widths: VqGanWidths
    res_blocks: VqGanBlocks
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
    healthy_share: Share
    least_psnr: Decibels


@dataclass(frozen=True)
class DdpmConfig:
    """The denoising network and its training.

    Attributes:
        widths: channels of the levels.
        heads: number and width of the attention heads.
        batch: windows per step.
        iterations: training steps.
        learning_rate: learning rate after the warm-up.
        ema: decay of the moving average of the weights.
        copies: augmented windows that are encoded per tumor.
        timesteps: T, the number of diffusion steps.
    """

    widths: PlaneWidths
    heads: Heads
    batch: Batch
    iterations: Iterations
    learning_rate: LearningRate
    ema: ShareBelowOne
    copies: Copies
    timesteps: Steps


@dataclass(frozen=True)
class DiffTumorSampling:
    """The synthesis.

    Attributes:
        steps: steps of the sampler, at most T.
        solver: `ddpm` or `ddim`.
        halo: latent voxels that are decoded around the box.
        edge_mm: range of the standard deviation of the blur along the mask's edge.
    """

    steps: Steps
    solver: Sampler
    halo: LatentCells
    edge_mm: MillimeterRange


@dataclass(frozen=True)
class DiffTumorConfig:
    """DiffTumor's section of the plan."""

    vqgan: VqGanConfig
    ddpm: DdpmConfig
    mask: MaskConfig
    sampling: DiffTumorSampling


def check_steps(where: str, steps: int, timesteps: int) -> None:
    """Check that a sampler has no more steps than the diffusion.

    Raises:
        PlanError: It has more.
    """
    if steps > timesteps:
        remedy = "take fewer steps, or plan with a higher --set methods.difftumor.ddpm.timesteps=N"
        fault = Fault(where, str(steps), f"at most {timesteps}, the diffusion's T", remedy)
        raise PlanError("More steps than the diffusion has", [fault])


def plan_difftumor(d: Decisions, tumors: int, window: WindowPlan, budget: DeviceBudget) -> None:
    """Take every field of a `DiffTumorConfig` into `d`; `tumors` is the number of training tumors."""
    _plan_vqgan(d.within("vqgan"), window, budget)
    _plan_ddpm(d.within("ddpm"), tumors, budget)
    plan_masks(d, "ellipsoid")
    s = d.within("sampling")
    s.take("steps", 50, "the DDPM-50 of TumorGen's comparison")
    s.take("solver", "ddpm", _PUBLISHED)
    s.take("halo", 8, "as TumorGen's")
    s.take("edge_mm", (0.0, 4.0), "published: sigma 0 to 4 voxels of 1 mm")


def _plan_vqgan(d: Decisions, window: WindowPlan, budget: DeviceBudget) -> None:
    large = budget.large
    d.take("widths", (16, 32, 64), _PUBLISHED)
    d.take("res_blocks", (2, 2, 2), "as the KL-VAE's")
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
    d.take("healthy_share", 0.5, "as the KL-VAE's; published: the autoencoder learns from many scans without labels")
    d.take("least_psnr", 30.0, "below it synthetic tumors look blurred; the diffusion then starts with a warning")


def _plan_ddpm(d: Decisions, tumors: int, budget: DeviceBudget) -> None:
    large = budget.large
    reason = "published: 24 to 192 over four levels; smaller on a CPU"
    d.take("widths", (48, 96, 192) if large else (24, 48, 96), reason)
    reason = "8 of 32 as published; attention takes most of the time on a CPU"
    d.take("heads", (8, 32) if large else (4, 16), reason)
    d.take("batch", 8 if large else 4, "latents that fit into memory with their gradients")
    d.take("iterations", 60000 if large else 6000, "published: 60,000; on a CPU about 40 minutes of one core")
    d.take("learning_rate", 1e-4 if large else 1e-3, "1e-4 as published; higher for the few steps of a CPU")
    d.take("ema", 0.995, _PUBLISHED)
    d.take("copies", rules.encoded_copies(tumors), "as TumorGen's: the same windows", tumors=tumors)
    d.take("timesteps", 200, "published for all but early tumors")
