"""Losses of TumorGen in closed form."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tumorgen_cli.methods.latent.items import known_tumors
from tumorgen_cli.methods.latent.sampler import flow_start
from tumorgen_cli.methods.latent.settings import TumorFlowConfig
from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.methods.tumorgen.objectives import FlowObjective, RefinerObjective, velocity_weight
from tumorgen_cli.models.flow_unet import FlowUNet
from tumorgen_cli.system.errors import PlanError


class Even(torch.nn.Module):
    """A refiner that finds every voxel as likely as not."""

    def forward(self, mask, features):
        return torch.zeros_like(features)


def test_the_refiners_loss_is_the_error_of_a_tumor_voxel_and_dice_of_each_mask():
    """At a share of 1/2 everywhere: 1/4 times voxels over tumor voxels, and 1 - (k + 1) / (n / 2 + k + 1)."""
    target = torch.zeros(2, 1, 4, 4, 4)
    target[0, 0, :2, :2, :2], target[1, 0, 0] = 1, 1  # 8 and 16 of 64 voxels
    vae = SimpleNamespace(decode_with_features=lambda latent: (None, torch.zeros_like(target)))
    objective = RefinerObjective(Even(), vae, None, SimpleNamespace(refiner=SimpleNamespace(balanced=True), flow=None))
    found = objective.loss(torch.zeros(2, 4, 1, 1, 1), torch.zeros(2, 1, 1, 1, 1), target)
    dice = sum(1 - (k + 1) / (32 + k + 1) for k in (8, 16)) / 2
    assert float(found) == pytest.approx(0.25 * 128 / 24 + dice, rel=1e-6)
    objective.config.balanced = False
    found = objective.loss(torch.zeros(2, 4, 1, 1, 1), torch.zeros(2, 1, 1, 1, 1), target)
    assert float(found) == pytest.approx(0.25, rel=1e-6)  # the paper's


def flow(**changes):
    paper = {"box_weight": 1.0, "mask_weight": 1.0, "start": "noise"}
    return SimpleNamespace(**{**paper, **changes})


def test_the_box_and_the_mask_weigh_as_the_plan_says():
    """A mask of eight channels has together the weight of `mask_weight` latent channels."""
    box = torch.zeros(1, 1, 2, 1, 1)
    box[0, 0, 0] = 1
    assert velocity_weight(box, 4, 1, flow()) is None
    weight = velocity_weight(box, 4, 8, flow(box_weight=5.0, mask_weight=2.0))
    assert weight.shape == (1, 12, 2, 1, 1)
    assert weight[0, :4, 0].flatten().tolist() == [5] * 4
    assert weight[0, 4:, 0].sum() == 10
    assert weight[0, :4, 1].flatten().tolist() == [1] * 4
    assert weight[0, 4:, 1].sum() == 2


def test_a_flow_may_start_from_the_healthy_latents():
    noise, context = torch.randn(2, 5, 3, 3, 3), torch.randn(2, 4, 3, 3, 3)
    assert flow_start(noise, context, flow()) is noise
    start = flow_start(noise, context, flow(start="healthy"))
    torch.testing.assert_close(start[:, :4], noise[:, :4] + context)
    torch.testing.assert_close(start[:, 4:], noise[:, 4:])


def test_a_flow_never_starts_from_the_tumor_itself(workspace):
    config = workspace.plan().section("tumorgen", TumorFlowConfig).flow
    assert (config.context, config.start) == ("healthy", "healthy")
    with pytest.raises(PlanError, match="start from the tumor itself") as error:
        replace(config, context="scan")
    remedy = error.value.faults[0].remedy
    assert remedy == "set methods.tumorgen.flow.context=healthy, or methods.tumorgen.flow.start=noise"
    assert replace(config, context="scan", start="noise").start == "noise"


def test_a_network_that_predicts_data_gives_the_velocity_to_them():
    torch.manual_seed(0)
    net = FlowUNet(6, 4, (8, 16), 1, "data").eval()
    x, t = torch.randn(2, 6, 4, 4, 4), torch.tensor([0.2, 0.99])
    with torch.no_grad():
        data = net.net(x, timesteps=t * 1000)
        velocity = net(x, t)
    torch.testing.assert_close(x[:1, :4] + 0.8 * velocity[:1], data[:1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(velocity[1], (data[1] - x[1, :4]) / 0.05, rtol=1e-4, atol=1e-3)  # bounded


class Exact(torch.nn.Module):
    """A field that knows the velocity."""

    def __init__(self, velocity):
        super().__init__()
        self.velocity = velocity

    def forward(self, x, t):
        return self.velocity


@pytest.mark.parametrize("steps", [1, 3])
def test_the_refiner_learns_from_what_the_flow_draws(steps):
    """The true velocity leads from any time to the data in any number of steps; outside the box is the context."""
    generator = torch.Generator().manual_seed(0)
    latent, context, noise = (torch.randn(1, n, 2, 2, 2, generator=generator) for n in (4, 4, 5))
    mask, box = torch.rand(1, 1, 2, 2, 2, generator=generator), torch.zeros(1, 1, 2, 2, 2)
    box[..., 0] = 1
    data = torch.cat([latent, 2 * mask - 1], 1)
    config = SimpleNamespace(refiner=SimpleNamespace(least_time=0.4, steps=steps, balanced=True), flow=flow())
    objective = RefinerObjective(Even(), None, (Exact(data - noise), lambda *_: torch.zeros(1, 0, 2, 2, 2)), config)
    seen = []
    objective.loss = lambda *given: seen.append(given) or torch.zeros(())
    batch = {"latent": latent, "context": context, "mask": mask, "box": box, "noise": noise, "target": None}
    objective({**batch, "uniform": torch.tensor([0.3]), "told": None, "clean": torch.tensor([0.0])})
    torch.testing.assert_close(seen[0][0], box * latent + (1 - box) * context)
    torch.testing.assert_close(seen[0][1], box * (2 * mask - 1) - (1 - box))
    objective({**batch, "uniform": torch.tensor([0.3]), "told": None, "clean": torch.tensor([1.0])})
    torch.testing.assert_close(seen[1][0], latent)


def test_a_joint_refiner_learns_from_one_item_of_a_batch(trained):
    method = find_method("tumorgen")(trained.plan(), trained)
    seen = []
    joint = SimpleNamespace(loss=lambda *given: seen.append(given) or torch.zeros(()), config=SimpleNamespace(weight=1))
    objective = FlowObjective(method.net, method.condition, method.config.flow, joint)
    items = method._items()
    method.condition.learn(known_tumors(items.latents, 4, np.ones(3)))
    batch = [items.draw(np.random.default_rng(number)) for number in range(3)]
    objective({k: torch.stack([torch.as_tensor(i[k]) for i in batch]) for k in batch[0]})
    assert [len(part) for part in seen[0]] == [1, 1, 1]
    torch.testing.assert_close(seen[0][2], torch.as_tensor(batch[0]["target"])[None])
