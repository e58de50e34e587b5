"""The rules that choose TumorGen's section of the plan."""

from __future__ import annotations

from tumorgen_cli.methods.latent.autoencoder import levels_for
from tumorgen_cli.planning import rules
from tumorgen_cli.planning.fingerprint import Fingerprint
from tumorgen_cli.planning.plan import Decisions, WindowPlan
from tumorgen_cli.system.devices import DeviceBudget

_FREE = "the paper gives none; not tuned"


def plan_tumorgen(d: Decisions, fingerprint: Fingerprint, window: WindowPlan, budget: DeviceBudget) -> None:
    """Take every field of a `TumorFlowConfig` into `d`; `fingerprint` holds the training cases."""
    tumors = fingerprint.tumors
    _plan_vae(d.within("vae"), rules.tumor_sizes(tumors), window, budget)
    _plan_flow(d.within("flow"), len(tumors), budget)
    reason = "sub-labels are drawn with the tumor, if it has several; false: a rule chooses them afterwards"
    label = fingerprint.tumor_label
    d.take("flow.sublabels", not isinstance(label, int), reason, tumor_label=label)
    _plan_refiner(d.within("refiner"), budget)
    _plan_sampling(d.within("sampling"))


def _plan_vae(d: Decisions, sizes: rules.TumorSizes, window: WindowPlan, budget: DeviceBudget) -> None:
    large = budget.large
    widths = "MAISI's widths from 16 GiB up" if large else "small enough to learn from tens of scans, and on a CPU"
    reason = "MAISI's 4; 2 where tumors are narrow: the median below 5 cells, or the 5th percentile below 2"
    cells = rules.cell_budget(budget.device)
    downsampling = rules.vae_downsampling(sizes, window.spacing_mm, window.shape, cells)
    downsampling = d.take("downsampling", downsampling, reason, tumor_50_mm=sizes.median, tumor_5_mm=sizes.small)
    levels = levels_for(downsampling)
    d.take("widths", ((64, 128, 256) if large else (16, 32, 64))[:levels], widths, memory_gib=budget.memory_gib)
    d.take("res_blocks", (2, 2, 2)[:levels], "MAISI's")
    cell, latents = rules.latent_channels(window.spacing_mm, downsampling)
    reason = "the paper's 4; doubled when a latent cell's volume exceeds the paper's 3.0 ml"
    d.take("latent_channels", latents, reason, cell_ml=cell)
    reason = "the largest; sides are drawn from 32 up: trained with one size only, a VAE shifts intensities at others"
    patch = d.take("patch", rules.largest_patch(window.shape), reason)
    reason = "together no larger than the paper's window"
    d.take("batch", rules.patches_per_step(patch) if large else 1, reason, patch=patch)
    reason = "4000 on a CPU gave 36.7 dB from 32 PET cases; 20000 is not measured"
    d.take("iterations", 20000 if large else 4000, reason)
    d.take("learning_rate", 2e-4 if large else 2e-3, _FREE)
    reason = "of a mean over elements; with 1e-3, noise hides the latents; MAISI's 1e-7, of a sum, is 1.6e-3 of a mean"
    d.take("kl_weight", 1e-6, reason)
    d.take("square_weight", 1.0, _FREE)
    d.take("gradient_weight", 0.5, _FREE)
    d.take("adversarial_weight", 0.0, "0: a critic makes training about 50 % longer; MAISI has 0.1")
    d.take("perceptual_weight", 0.0, "0: not measured for the VAE; slices as DiffTumor's; MAISI has 0.3")
    d.take("equivariance", 0.0, "0: not measured; the share of steps that decode changed latents, as EQ-VAE's")
    reason = (
        "a quarter, if there are healthy scans; half of the patches still show tumors: with more, these came out darker"
    )
    d.take("healthy_share", 0.25, reason)
    d.take("ema", 0.998, _FREE)
    d.take("least_psnr", 30.0, "below it synthetic tumors look blurred; the flow then starts with a warning")


def _plan_flow(d: Decisions, tumors: int, budget: DeviceBudget) -> None:
    large = budget.large
    widths = "the paper gives none; 64-128-256 from 16 GiB up"
    d.take("widths", (64, 128, 256) if large else (32, 64, 128), widths)
    d.take("res_blocks", 2, "MAISI's")
    d.take("batch", 8, _FREE)
    most = 20000 if large else 5000
    reason = f"125 steps per tumor, 1000 to {most}; on FDG-PET, 75 gave masks that agree less with the image"
    d.take("iterations", rules.flow_steps(tumors, most), reason, tumors=tumors)
    reason = "on FDG-PET 2e-3 was better than 1e-3 and 5e-4 at equal time; large networks are not measured"
    d.take("learning_rate", 2e-4 if large else 2e-3, reason)
    d.take("ema", 0.995, _FREE)
    reason = "about 640 encoded windows: fewer are memorized, more cost disk space"
    d.take("copies", rules.encoded_copies(tumors), reason, tumors=tumors)
    d.take("time_schedule", "uniform", "uniform in the paper's notation")
    d.take("bapmg", True, "TumorGen, section 2.1; false: the fixed tight box of Table 2")
    d.take("coarse_weight", 1.0, "λ1; the paper gives none")
    reason = "λ2; the paper gives none; with 0.1 masks are far too small, with 3 the field learns more slowly"
    d.take("fine_weight", 1.0, reason)
    d.take("fine_over", "mask", "over the window almost all of it compares zero with zero; `window`: the paper's mean")
    d.take("ssim_window", 3, "λ2's SSIM: tumors are a few latent voxels wide")
    d.take("box_weight", 4.0, "most cells lie outside the box and are known; not tuned; 1: the paper's")
    d.take("mask_weight", 1.0, "all channels of the mask together weigh as one latent channel, as in the paper")
    reason = "a tumor three cells wide comes back with Dice 0.80 from one channel, 0.93 from eight; mean: the paper's"
    d.take("mask_coding", "packed", reason)
    reason = "a host has no tumor to know of: a field that has seen it draws too faint ones in hosts; scan: the paper's"
    context = d.take("context", "healthy", reason)
    reason = "then only the tumor is learned, not the host, in far fewer steps; noise: the paper's"
    d.take("start", "healthy" if context == "healthy" else "noise", reason)
    reason = "tumors are less faint after short trainings and few steps; velocity: the paper's"
    d.take("predicts", "data", reason)
    d.take("box_channel", False, "the paper's nine input channels")
    reason = "input: the tumor's contrast, heterogeneity and core ratio; false: the paper's, with too few hard tumors"
    d.take("character", True, reason)
    d.take("volume", True, "a tumor is as large as one of the data in such a box; false: the paper's")
    d.take("dropout", 0.1, "so that guidance is possible; 10 to 15 % elsewhere; 0: the paper's")
    d.take("healthy_share", 0.05, "a few items without a tumor teach what a volume of 0 means; 0: the paper's")


def _plan_refiner(d: Decisions, budget: DeviceBudget) -> None:
    large = budget.large
    d.take("enabled", True, "VMR, section 2.3; false: Table 2's ablation")
    d.take("guided", True, "with VAE features; without them a refiner brings nothing")
    reason = "after the flow, on its estimates: the decoder runs for one window per step, not for a whole batch"
    d.take("joint", False, reason)
    d.take("width", 16 if large else 8, "small beside the VAE's decoder")
    d.take("batch", 4 if large else 1, "windows that fit into memory with their gradients")
    d.take("iterations", 4000 if large else 600, _FREE)
    d.take("learning_rate", 1e-3, _FREE)
    d.take("ema", 0.99, _FREE)
    d.take("weight", 1.0, "λ3 (joint only); the paper gives none")
    d.take("least_time", 0.4, "earlier estimates show no boundary that a mask could agree with")
    d.take("steps", 2, "an estimate in one step is blurred, and drawn latents are not; 1: the paper's")
    d.take("clean", 0.25, "clean masks are mixed in: without them the refiner damages good masks")
    d.take("balanced", True, "without it small tumors vanish; false: the paper's plain mean")


def _plan_sampling(d: Decisions) -> None:
    d.take("steps", 4, "on FDG-PET 4 steps were as good as 10; the paper has 50, and 10 as the fast setting")
    d.take("solver", "euler", "the paper's")
    reason = "around the box; on chest CT 6 draw as the whole window (0) does; with fewer, tumors are smaller or absent"
    d.take("context_cells", 6, reason)
    reason = (
        "latent cells around the box: on FDG-PET the decoded box then differs from the whole window's by 0.1 % of the "
        "clip window, with 4 by 1.3 %"
    )
    d.take("halo", 8, reason)
    reason = (
        "without it tumors are too faint after few steps, with 2 nodules too large; 1: the paper's, one call a step"
    )
    d.take("guidance", 1.5, reason)
    d.take("emphasis", 1.0, "the paper's")
    reason = (
        "noise that the decoder loses: the host's own, on its own grid, or drawn in PET, where it grows with uptake; "
        "none: the paper's"
    )
    d.take("texture", "matched", reason)
    d.take("roughness", 0.0, "irregular edges where the mask is uncertain; the picture would not follow them")
    d.take("roughness_cells", 0.5, "finer edges are lost in a latent cell")
    reason = (
        "beyond the tumor's surroundings the host stays; as far as one latent cell blurs; 0: the paper's, the whole box"
    )
    d.take("keep_cells", 1.0, reason)
