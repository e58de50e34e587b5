"""A rough time of the training, from steps on random numbers: no scan is needed, and nothing is written."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tumorgen_cli.methods.latent.autoencoder import CriticObjective, VaeObjective, make_critic
from tumorgen_cli.methods.latent.joint import mask_channels
from tumorgen_cli.methods.tumorgen.method import TumorGen
from tumorgen_cli.methods.tumorgen.objectives import FlowObjective, RefinerObjective
from tumorgen_cli.planning import rules
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.training.loop import seconds_per_step
from tumorgen_cli.training.stage import Objective, Stage

#: most latent cells of a batch that is measured: of networks on images, and of networks on latents
_IMAGE_CELLS = {"cpu": 2**9, "cuda": 2**14}
_LATENT_CELLS = {"cpu": 2**14, "cuda": 2**17}
_LEAST_SIDE = 4  # latent cells, which the networks can halve twice
_STEPS = 2  # the first one is not counted


def rough_training_seconds(plan: Plan) -> float:
    """Measure a step of every stage on random numbers, and scale it to the batches and steps of the plan.

    It takes seconds, and is often wrong by a factor of two. `pipeline.training_forecast` measures on real cases.
    """
    method = TumorGen(plan, Workspace(Path()), plan.device)  # nothing is read from the workspace
    vae, flow, refiner = method.config.vae, method.config.flow, method.config.refiner
    window, joint = method.plan.window.latent_shape(vae.downsampling), refiner.enabled and refiner.joint
    small, large = _IMAGE_CELLS[method.device], _LATENT_CELLS[method.device]
    for network in (method.vae, method.net, method.condition, method.refiner):
        network.to(method.device)
    critic = make_critic(len(method.plan.channels)).to(method.device) if vae.adversarial_weight else None
    objectives: list[nn.Module] = [VaeObjective(method.vae, vae, critic)]
    if critic is not None:
        objectives.append(CriticObjective(critic, method.vae))
    # the sides of patches are drawn between the smallest side and the patch's
    patch = [(min(rules.SMALLEST_SIDE, side) + side) // (2 * vae.downsampling) for side in vae.patch]
    seconds = vae.iterations * _step_seconds(method, objectives, (vae.batch, *patch), small)
    method.vae.requires_grad_(False)
    field = FlowObjective(
        method.net,
        method.condition,
        flow,
        RefinerObjective(method.refiner, method.vae, None, method.config) if joint else None,
    )
    seconds += flow.iterations * _step_seconds(method, [field], (flow.batch, *window), small if joint else large)
    if refiner.enabled and not joint:
        own = RefinerObjective(method.refiner, method.vae, (method.net, method.condition), method.config)
        seconds += refiner.iterations * _step_seconds(method, [own], (refiner.batch, *window), small)
    return seconds


def _step_seconds(method: TumorGen, objectives: Sequence[nn.Module], shape: Sequence[int], most: int) -> float:
    """The seconds of a step with a batch of `shape` (B, x, y, z) in latent cells; at most `most` cells are measured."""
    batch, *cells = shape
    while batch * math.prod(cells) > most:
        if batch > 1:
            batch //= 2
        else:
            longest = cells.index(max(cells))
            cells[longest] = _LEAST_SIDE * math.ceil(cells[longest] / (2 * _LEAST_SIDE))
    latents, channels = method.config.vae.latent_channels, len(method.plan.channels)
    voxels = [method.config.vae.downsampling * n for n in cells]
    masks = mask_channels(method.config.flow.mask_coding, method.labels)
    noise = latents if isinstance(objectives[0], VaeObjective) else latents + masks  # the mask is noisy, too
    shapes = {
        "image": (channels, *voxels),
        "noise": (noise, *cells),
        "latent": (latents, *cells),
        "context": (latents, *cells),
        "mask": (masks, *cells),
        "box": (1, *cells),
        "target": (method.labels, *voxels),
        "told": (method.condition.values,),
        "planes": (3,),
        "uniform": (),
        "clean": (),
    }
    rng = np.random.default_rng(0)
    item = {name: np.asarray(rng.random(size), np.float32) for name, size in shapes.items()}
    stage = Stage(
        name="timing",
        title="a step of the training",
        models={str(number): module for number, module in enumerate(objectives)},
        objectives=tuple(Objective(str(number), module, 0.0) for number, module in enumerate(objectives)),
        item=lambda _: item,
        iterations=_STEPS,
        batch=batch,
        ema=0.9,
        inputs_hash="",
    )
    clock = time.perf_counter if method.device == "cuda" else _idle_clock
    seconds = seconds_per_step(stage, method.device, method.plan.precision, clock)
    return seconds * math.prod(shape) / (batch * math.prod(cells))


def _idle_clock() -> float:
    """The seconds that this process would have taken on an idle CPU: other programs may slow a short measurement."""
    return time.process_time() / torch.get_num_threads()
