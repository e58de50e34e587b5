"""The rough time of a training: steps on random numbers, scaled to the plan's batches and patches."""

import json
import math
from dataclasses import replace

import pytest

from tumorgen_cli.methods.tumorgen import timing


def changed(plan, **stages):
    """A plan with other settings of tumorgen's stages."""
    methods = json.loads(json.dumps(plan.methods))
    for stage, settings in stages.items():
        methods["tumorgen"][stage].update(settings)
    return replace(plan, methods=methods)


@pytest.mark.parametrize("joint", [False, True])
def test_steps_run_without_any_data(workspace, joint):
    plan = changed(workspace.plan(), vae={"adversarial_weight": 0.1}, refiner={"joint": joint})
    assert 0 < timing.rough_training_seconds(plan) < 600


def test_measured_steps_are_scaled_to_the_plan(workspace, monkeypatch):
    """Where a latent cell takes a second, the time is the number of cells of all steps."""
    shapes = []

    def one_second_per_cell(stage, device, precision, clock):
        shapes.append((stage.batch, *stage.item(0)["mask"].shape[1:]))
        return float(math.prod(shapes[-1]))

    monkeypatch.setattr(timing, "seconds_per_step", one_second_per_cell)
    plan = changed(
        workspace.plan(),
        vae={"patch": [64, 32, 96], "batch": 2, "iterations": 5},
        flow={"batch": 3, "iterations": 7},
        refiner={"batch": 1, "iterations": 11},
    )
    window = math.prod(plan.window.latent_shape(4))
    patch = (64 + 32) // 8 * (32 + 32) // 8 * (96 + 32) // 8  # the mean between 32 and the patch
    expected = 5 * 2 * patch + 7 * 3 * window + 11 * 1 * window
    assert timing.rough_training_seconds(plan) == pytest.approx(expected)
    assert shapes[1] == (3, *plan.window.latent_shape(4))  # small enough to be measured as it is
    assert all(math.prod(shape) <= 2**9 for shape in (shapes[0], shapes[2]))
