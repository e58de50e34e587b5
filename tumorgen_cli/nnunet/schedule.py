"""How long an nnU-Net trains and how its plan shrinks for a CPU."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tumorgen_cli.nnunet.job import Schedule, Size

_VALIDATION = 2  # nnU-Net's 50 would say nothing: with fold "all" it validates on training cases
_LEAST_EPOCHS = 20  # the learning rate falls by epochs: fewer would make it fall in leaps
_MOST_ITERATIONS = 1000 * 250  # nnU-Net's own length


def choose_schedule(minutes: float, seconds_per_iteration: float, standard: int) -> Schedule:
    """Epochs of `standard` iterations that fit the minutes; of fewer where not even 20 would fit, since the learning rate
    falls from epoch to epoch. Never longer than nnU-Net's own training, never shorter than an iteration."""
    seconds = 60 * minutes
    total = min(_MOST_ITERATIONS, max(1, int(seconds / seconds_per_iteration)))
    iterations = min(standard, max(1, total // _LEAST_EPOCHS))
    fitting = int(seconds / (seconds_per_iteration * (iterations + _VALIDATION)))
    return Schedule(max(1, min(fitting, _MOST_ITERATIONS // iterations)), iterations, seconds_per_iteration)


def shrink_patch(patch: Sequence[int], multiple: Sequence[int], voxels: int) -> list[int]:
    """A patch of at most `voxels`, as near to nnU-Net's proportions as sides divisible by `multiple` allow.

    The side that is longest against the planned one gives way first, as in nnU-Net's own planner. No side falls below
    four cells of the lowest resolution (nnU-Net's floor), even if the patch stays larger than asked for.
    """
    made = list(patch)
    while math.prod(made) > voxels:
        room = [n / p if n - m >= 4 * m else 0.0 for n, p, m in zip(made, patch, multiple, strict=True)]
        axis = int(np.argmax(room))
        if room[axis] == 0:
            break
        made[axis] -= multiple[axis]
    return made


def shrink_configuration(configuration: Mapping[str, Any], size: Size) -> dict[str, Any]:
    """nnU-Net's plan of a configuration for a network of `size`: its own strides and kernels, the first stages of them,
    fewer features, a smaller patch, nnU-Net's least batch of 2. Spacing and normalisation stay."""
    made = copy.deepcopy(dict(configuration))
    kwargs = made["architecture"]["arch_kwargs"]
    stages = min(size.stages, int(kwargs["n_stages"]))
    for key, count in (
        ("strides", stages),
        ("kernel_sizes", stages),
        ("n_conv_per_stage", stages),
        ("n_conv_per_stage_decoder", stages - 1),
    ):
        kwargs[key] = list(kwargs[key][:count])
    planned = kwargs["features_per_stage"]
    kwargs["features_per_stage"] = [min(size.most, size.first * 2**i, int(planned[i])) for i in range(stages)]
    kwargs["n_stages"] = stages
    multiple = [int(n) for n in np.prod(kwargs["strides"], axis=0)]
    made["patch_size"] = shrink_patch([int(n) for n in made["patch_size"]], multiple, size.voxels)
    made["batch_size"] = 2
    return made
