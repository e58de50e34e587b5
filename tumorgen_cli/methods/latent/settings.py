"""Settings of what draws tumors in latents: flows, the mask refiner, samplers, the synthesis.

Those of flows are TumorGen's section of the plan. Methods that differ from it in one point read the same section.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tumorgen_cli.data.labels import values_of
from tumorgen_cli.methods.latent.autoencoder import VaeConfig
from tumorgen_cli.methods.latent.canvas import Texture
from tumorgen_cli.methods.latent.joint import MaskCoding
from tumorgen_cli.models.flow_unet import Prediction
from tumorgen_cli.models.rectified_flow import Solver
from tumorgen_cli.planning.plan import Plan, WindowPlan
from tumorgen_cli.planning.ranges import (
    Batch,
    Blocks,
    Cells,
    ContextCells,
    Copies,
    Factor,
    Iterations,
    LatentCells,
    LatentWidths,
    LearningRate,
    OddSide,
    RefinerWidth,
    Share,
    ShareBelowOne,
    Steps,
    Weight,
)
from tumorgen_cli.system.errors import Fault, PlanError


@dataclass(frozen=True)
class FlowConfig:
    """The vector field (SC-VFE) and its training.

    Attributes:
        widths: channels of the levels.
        res_blocks: residual blocks per level.
        batch: windows per step.
        iterations: training steps.
        learning_rate: learning rate after the warm-up.
        ema: decay of the moving average of the weights.
        copies: augmented windows that are encoded per tumor.
        time_schedule: distribution of the training times.
        bapmg: whether boxes have random offsets (BA-PMG); otherwise they are tight.
        coarse_weight: λ1; 0 removes the coarse constraint.
        fine_weight: λ2; 0 removes the fine constraint.
        fine_over: where the fine constraint is averaged: over the `mask` alone, or over the whole `window`.
        ssim_window: side in latent voxels of the SSIM window of the fine constraint.
        box_weight: weight in L_rfm of a cell inside the box, relative to one outside.
        mask_weight: weight in L_rfm of a mask's channels, all together, relative to one latent channel.
        mask_coding: how a mask becomes channels on the latent grid (`latent.joint.MaskCoding`).
        context: what the field sees around the box. `scan`: the latents of the training scan, and the box holds all
            tumors of the window. `healthy`: the latents of the scan without the tumor in the box, as in a synthesis;
            the box holds one tumor, and others stay around it.
        start: where the flow starts: from `noise`, or from the `healthy` latents with noise added, which takes
            `context` = `healthy`.
        predicts: what the network predicts: the `velocity`, or the `data`, from which the velocity follows.
        box_channel: whether the box is an additional input channel.
        character: whether the tumor's character is given to the field, as additional input channels that are constant
            inside the box. The character is the vector of the tumor's traits (`metrics.traits.describe_traits`):
            contrast, heterogeneity and core ratio in each channel.
        volume: whether the tumor's share of the box is given to the field, in the same way.
        dropout: share of the training items in which the field is not told character and volume.
        healthy_share: share of the training items without a tumor, for which the field is told a volume of 0: windows
            of healthy scans or, without such scans, those from which tumors are removed.
        sublabels: whether a tumor with several sub-labels is drawn with them, so that each has a mask of its own
            (`latent.joint`); otherwise they are one mask, and a rule chooses them afterwards. Of a tumor with one
            label it changes nothing.
    """

    widths: LatentWidths
    res_blocks: Blocks
    batch: Batch
    iterations: Iterations
    learning_rate: LearningRate
    ema: ShareBelowOne
    copies: Copies
    time_schedule: Literal["uniform", "logit-normal"]
    bapmg: bool
    coarse_weight: Weight
    fine_weight: Weight
    fine_over: Literal["mask", "window"]
    ssim_window: OddSide
    box_weight: Weight
    mask_weight: Weight
    mask_coding: MaskCoding
    context: Literal["scan", "healthy"]
    start: Literal["noise", "healthy"]
    predicts: Prediction
    box_channel: bool
    character: bool
    volume: bool
    dropout: ShareBelowOne
    healthy_share: ShareBelowOne
    sublabels: bool

    def __post_init__(self) -> None:
        if self.start == "healthy" and self.context == "scan":
            remedy = "set methods.tumorgen.flow.context=healthy, or methods.tumorgen.flow.start=noise"
            fault = Fault("flow", "start=healthy with context=scan", "latents without the tumor to start from", remedy)
            raise PlanError("The flow would start from the tumor itself", [fault])


@dataclass(frozen=True)
class RefinerConfig:
    """The mask refiner (VMR) and its training.

    Attributes:
        enabled: whether masks are refined; otherwise the coarse mask is upsampled.
        guided: whether the refiner uses the VAE's features.
        joint: whether it trains together with the flow, as in the paper, or after it.
        width: channels on the finest level.
        batch: windows per step.
        iterations: training steps.
        learning_rate: learning rate after the warm-up.
        ema: decay of the moving average of the weights.
        weight: λ3, the weight in the joint objective.
        least_time: one-step estimates are made from times t ~ U(least_time, 1).
        steps: steps of the flow from there to the estimate; 1: the paper's one-step estimate, which is blurred.
        clean: share of the items that show the encoder's own latents and mask.
        balanced: whether the squared error is relative to the tumor's share of the voxels, with a soft Dice term;
            otherwise it is the mean over all voxels.
    """

    enabled: bool
    guided: bool
    joint: bool
    width: RefinerWidth
    batch: Batch
    iterations: Iterations
    learning_rate: LearningRate
    ema: ShareBelowOne
    weight: Weight
    least_time: ShareBelowOne
    steps: Steps
    clean: Share
    balanced: bool


@dataclass(frozen=True)
class FlowSampling:
    """The synthesis.

    Attributes:
        steps: steps of the solver.
        solver: `euler` or `heun`.
        context_cells: latent cells that the flow sees around the box; 0: the whole window.
        halo: latent cells that are decoded around the box.
        guidance: factor of what character and volume change in the velocity; 1: no guidance, one network call a step.
            It needs a field that learned with `flow.dropout` above 0; for others it is ignored.
        emphasis: factor of the character input, relative to the wanted character.
        texture: what the tumor gets of the noise that a VAE smooths away. `host`: all that the decoder loses of the
            host stays; `drawn`: noise like the host's is drawn; `matched`: drawn in PET, the host's elsewhere; `none`.
        roughness: how irregular the edge of the refined mask becomes (`roughen_mask`); 0: not at all.
        roughness_cells: the scale of that irregularity, in latent cells.
        keep_cells: the box is painted up to this distance from its tumor, in latent cells; 0: the whole box.
    """

    steps: Steps
    solver: Solver
    context_cells: ContextCells
    halo: LatentCells
    guidance: Factor
    emphasis: Factor
    texture: Texture
    roughness: Factor
    roughness_cells: Cells
    keep_cells: Factor


@dataclass(frozen=True)
class TumorFlowConfig:
    """Autoencoder, flow, mask refiner and synthesis: TumorGen's section of the plan."""

    vae: VaeConfig
    flow: FlowConfig
    refiner: RefinerConfig
    sampling: FlowSampling

    @property
    def needs_healthy_box(self) -> bool:
        """Whether an old tumor must be removed before a box is painted (`Method.needs_healthy_box`).

        Also where the whole box is painted, if flows have learned beside latents without the tumor: they would take an
        old one for the host.
        """
        return self.sampling.keep_cells > 0 or self.flow.context == "healthy"


def drawn_labels(config: FlowConfig, plan: Plan) -> tuple[int, ...]:
    """The voxel values that masks tell apart: the tumor's sub-labels; one value if it has one, or if none are drawn."""
    values = values_of(plan.tumor_label)
    return values if config.sublabels else values[:1]


def box_alpha(config: TumorFlowConfig, window: WindowPlan) -> float:
    """α of the box offsets (BA-PMG); 0 if boxes are tight."""
    return window.alpha if config.flow.bapmg else 0.0


def check_steps(where: str, steps: int, timesteps: int, field: str) -> None:
    """Check that a sampler has no more steps than the diffusion; `field` of the plan is its T, `timesteps`.

    Raises:
        PlanError: It has more.
    """
    if steps > timesteps:
        remedy = f"take fewer steps, or plan with a higher --set {field}=N"
        fault = Fault(where, str(steps), f"at most {timesteps}, the diffusion's T", remedy)
        raise PlanError("More steps than the diffusion has", [fault])
