"""The length of a training, and a smaller version of nnU-Net's plan for a CPU."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tumorgen_cli.nnunet.job import NetworkSize, Schedule

VALIDATION_ITERATIONS = 2  # nnU-Net's 50 would tell nothing: with fold "all" it validates on training cases
MIN_EPOCHS = 20  # the learning rate falls after each epoch: with fewer epochs it would fall in large steps
_MAX_ITERATIONS = 1000 * 250  # nnU-Net's own length


def choose_schedule(minutes: float, seconds_per_iteration: float, standard: int) -> Schedule:
    """Choose the epochs that fit the minutes.

    An epoch has `standard` iterations, or fewer if not even `MIN_EPOCHS` such epochs fit. The training is never longer
    than nnU-Net's own and never shorter than one iteration.
    """
    seconds = 60 * minutes
    total = min(_MAX_ITERATIONS, max(1, int(seconds / seconds_per_iteration)))
    iterations = min(standard, max(1, total // MIN_EPOCHS))
    fitting = int(seconds / (seconds_per_iteration * (iterations + VALIDATION_ITERATIONS)))
    return Schedule(max(1, min(fitting, _MAX_ITERATIONS // iterations)), iterations, seconds_per_iteration)


def scale_schedule(schedule: Schedule, times: float) -> Schedule:
    """Return a schedule of `times` as many epochs of the same iterations."""
    return replace(schedule, epochs=max(1, round(schedule.epochs * times)))


def shrink_patch(patch: Sequence[int], multiple: Sequence[int], voxels: int, least: int = 4) -> list[int]:
    """Shrink a patch to at most `voxels` voxels.

    The result stays as close to nnU-Net's proportions as sides divisible by `multiple` allow. As in nnU-Net's own
    planner, the side that is longest relative to the planned one is shortened first. No side becomes shorter than
    `least` cells of the lowest resolution (nnU-Net's lower limit is four), even if the patch then stays larger than
    `voxels`.
    """
    shrunk = list(patch)
    while math.prod(shrunk) > voxels:
        ratios = [n / p if n - m >= least * m else 0.0 for n, p, m in zip(shrunk, patch, multiple, strict=True)]
        axis = int(np.argmax(ratios))
        if ratios[axis] == 0:
            break
        shrunk[axis] -= multiple[axis]
    return shrunk


def shrink_configuration(configuration: Mapping[str, Any], size: NetworkSize) -> dict[str, Any]:
    """Shrink a configuration of nnU-Net's plan to `size`.

    The network keeps nnU-Net's strides and kernels but only the first stages, has fewer features, a smaller patch and
    nnU-Net's smallest batch size, 2. Spacing and normalization stay the same.
    """
    shrunk = copy.deepcopy(dict(configuration))
    kwargs = shrunk["architecture"]["arch_kwargs"]
    stages = min(size.stages, int(kwargs["n_stages"]))
    for key, count in (
        ("strides", stages),
        ("kernel_sizes", stages),
        ("n_conv_per_stage", stages),
        ("n_blocks_per_stage", stages),  # of residual encoders
        ("n_conv_per_stage_decoder", stages - 1),
    ):
        if key in kwargs:
            kwargs[key] = list(kwargs[key][:count])
    planned = kwargs["features_per_stage"]
    kwargs["features_per_stage"] = [min(size.most, size.first * 2**i, int(planned[i])) for i in range(stages)]
    kwargs["n_stages"] = stages
    multiple = [int(n) for n in np.prod(kwargs["strides"], axis=0)]
    shrunk["patch_size"] = shrink_patch([int(n) for n in shrunk["patch_size"]], multiple, size.voxels)
    shrunk["batch_size"] = 2
    return shrunk
