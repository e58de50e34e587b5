"""Losses of TumorGen in closed form."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tumorgen_cli.methods.latent.items import known_tumors
from tumorgen_cli.methods.latent.joint import code_labels, to_flow, upsample_mask
from tumorgen_cli.methods.latent.refining import refined_mask_loss
from tumorgen_cli.methods.latent.sampler import flow_start
from tumorgen_cli.methods.latent.settings import TumorFlowConfig
from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.methods.tumorgen.objectives import FlowObjective, RefinerObjective, velocity_weight
from tumorgen_cli.metrics.overlap import dice
from tumorgen_cli.models import rectified_flow
from tumorgen_cli.models.flow_unet import FlowUNet
from tumorgen_cli.models.mask_refiner import MaskRefiner, split_sublabels, sublabel_chances
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
    assert velocity_weight(box, (4, 1, 0), flow()) is None
    weight = velocity_weight(box, (4, 8, 0), flow(box_weight=5.0, mask_weight=2.0))
    assert weight.shape == (1, 12, 2, 1, 1)
    assert weight[0, :4, 0].flatten().tolist() == [5] * 4
    assert weight[0, 4:, 0].sum() == 10
    assert weight[0, :4, 1].flatten().tolist() == [1] * 4
    assert weight[0, 4:, 1].sum() == 2
    more = velocity_weight(box, (4, 8, 16), flow(box_weight=5.0, mask_weight=2.0))
    assert torch.equal(more[:, :12], weight)
    assert more[0, 12:, :, 0, 0].sum(0).tolist() == [10, 2]  # all sub-labels together as much as the whole tumor
    assert velocity_weight(box, (4, 1, 1), flow()).flatten().tolist() == [1] * 12


class Constant(torch.nn.Module):
    """A network that always gives the same: a field that knows the velocity, a refiner that knows the mask."""

    def __init__(self, result):
        super().__init__()
        self.result = result

    def forward(self, *inputs):
        return self.result


@pytest.mark.parametrize("balanced", [True, False])
def test_sublabels_add_their_loss_inside_the_true_tumor(balanced):
    """The whole tumor's loss stays; sub-labels that are certain and right add nothing, wrong ones the most."""
    target = torch.zeros(2, 3, 4, 4, 4)  # the whole tumor, and its second and third sub-labels
    target[:, 0, :2], target[:, 1, 0], target[:, 2, 1, 0] = 1, 1, 1
    vae = SimpleNamespace(decode_with_features=lambda latent: (None, None))
    torch.manual_seed(0)
    whole = torch.randn(2, 1, 4, 4, 4)

    def loss(sublabels, true=target):
        return float(refined_mask_loss(Constant(torch.cat([whole, sublabels], 1)), vae, whole, whole, true, balanced))

    alone = loss(whole[:, :0], target[:, :1])
    right = 50 * (2 * target[:, 1:] - target[:, :1])  # of the first one, both are unlikely
    assert loss(right) == pytest.approx(alone, abs=1e-5)
    beyond = right + 99 * torch.randn(2, 2, 4, 4, 4) * (1 - target[:, :1])
    assert loss(beyond) == pytest.approx(alone, abs=1e-5)  # outside the tumor there are no sub-labels
    unsure = loss(torch.zeros(2, 2, 4, 4, 4)) - alone
    if not balanced:  # (2/3)² + 2 (1/3)² in the tumor, which is half of the voxels, over three sub-labels
        assert unsure == pytest.approx((4 + 1 + 1) / 9 / 2 / 3, rel=1e-5)
    assert 0 < unsure < loss(-right) - alone


def test_the_fine_constraint_is_of_the_whole_tumor():
    """A field that errs in sub-labels alone has the same fine loss; its L_rfm is larger."""
    generator = torch.Generator().manual_seed(0)
    latent, noise = torch.randn(1, 4, 4, 4, 4, generator=generator), torch.randn(1, 6, 4, 4, 4, generator=generator)
    mask, box = torch.rand(1, 2, 4, 4, 4, generator=generator), torch.ones(1, 1, 4, 4, 4)
    settings = {"time_schedule": "uniform", "coarse_weight": 1.0, "fine_weight": 1.0, "fine_over": "mask"}
    config = flow(**settings, ssim_window=3, mask_coding="mean")
    batch = {"latent": latent, "context": latent, "mask": mask, "box": box, "noise": noise, "told": None}
    terms = []
    for error in (0.0, 1.0):
        velocity = torch.cat([latent, 2 * mask - 1], 1) - noise
        velocity[:, 5] += error
        objective = FlowObjective(Constant(velocity), lambda *_: torch.zeros(1, 0, 4, 4, 4), config, None)
        terms.append(objective({**batch, "uniform": torch.tensor([0.3])})[1])
    assert torch.equal(terms[0]["fine"], terms[1]["fine"])
    assert torch.equal(terms[0]["coarse"], terms[1]["coarse"])
    assert float(terms[1]["rfm"]) == pytest.approx(1 / 6, rel=1e-4)


def core_in_a_rim(side=16):
    """The masks (2, X, Y, Z) of a ball and of its core, which lies off its center."""
    places = np.indices((side, side, side)) - side / 2 + 0.5
    whole, core = np.square(places).sum(0) < 36, np.square(places - 1).sum(0) < 12
    return np.stack([whole, core]).astype(np.uint8)


def dices(whole, likeliest, masks):
    true = masks[0] & ~masks[1] & 1, masks[1]
    return [dice(whole & (likeliest == number), each > 0) for number, each in enumerate(true)]


class Memory(torch.nn.Module):
    """A field that always leads to the same data, which are what it learns."""

    def __init__(self, *shape):
        super().__init__()
        self.data = torch.nn.Parameter(torch.zeros(shape))

    def forward(self, x, t):
        return (self.data - x) / (1 - t.view(-1, 1, 1, 1, 1)).clamp_min(0.05)


@pytest.mark.parametrize("coding", ["mean", "packed"])
def test_a_field_learns_both_sublabels(coding):
    """It draws the core in its rim, from any noise."""
    torch.manual_seed(0)
    masks, cell = core_in_a_rim(), 2 if coding == "mean" else 4
    coded = torch.from_numpy(code_labels(masks, coding, cell))[None]
    latent, box = torch.randn(1, 2, *coded.shape[2:]), torch.ones(1, 1, *coded.shape[2:])
    settings = {"time_schedule": "uniform", "coarse_weight": 1.0, "fine_weight": 1.0, "fine_over": "mask"}
    config = flow(**settings, ssim_window=3, mask_coding=coding)
    net = Memory(1, 2 + coded.shape[1], *coded.shape[2:])
    objective = FlowObjective(net, lambda latent, *_: latent[:, :0], config, None)
    optimizer = torch.optim.Adam(net.parameters(), 0.1)
    batch = {"latent": latent, "context": latent, "mask": coded, "box": box, "told": None}
    for _ in range(60):
        loss, _ = objective({**batch, "noise": torch.randn_like(net.data), "uniform": torch.rand(1)})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        drawn = rectified_flow.sample(net, torch.randn_like(net.data), 4)
    found = upsample_mask(drawn[:, 2:], cell, 2)
    assert min(dices(found[0, 0].numpy() >= 0.5, split_sublabels(found)[0].argmax(0).numpy(), masks)) > 0.85


def test_a_refiner_learns_sublabels_that_the_coarse_mask_does_not_tell():
    """The coarse masks have a wrong core; the picture's features show the right one."""
    torch.manual_seed(0)
    masks = core_in_a_rim()
    wrong = masks.copy()
    wrong[1] = np.flip(masks[1])
    coarse = to_flow(torch.from_numpy(code_labels(wrong, "mean", 2)))[None]
    fine = torch.from_numpy(masks[None].astype(np.float32))
    features = (coarse, fine[:, 1:])
    vae = SimpleNamespace(decode_with_features=lambda latent: (None, features))
    refiner = MaskRefiner((2, 1), 4, mask_channels=2, labels=2)
    optimizer = torch.optim.Adam(refiner.parameters(), 1e-2)

    def found():
        with torch.no_grad():
            logits = refiner(coarse, features)
        return dices(logits[0, 0].numpy() > 0, sublabel_chances(logits)[0].argmax(0).numpy(), masks)

    assert found()[1] < 0.7
    for _ in range(60):
        loss = refined_mask_loss(refiner, vae, coarse, coarse, fine, True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert min(found()) > 0.95


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


@pytest.mark.parametrize("steps", [1, 3])
def test_the_refiner_learns_from_what_the_flow_draws(steps):
    """The true velocity leads from any time to the data in any number of steps; outside the box is the context."""
    generator = torch.Generator().manual_seed(0)
    latent, context, noise = (torch.randn(1, n, 2, 2, 2, generator=generator) for n in (4, 4, 5))
    mask, box = torch.rand(1, 1, 2, 2, 2, generator=generator), torch.zeros(1, 1, 2, 2, 2)
    box[..., 0] = 1
    data = torch.cat([latent, 2 * mask - 1], 1)
    config = SimpleNamespace(refiner=SimpleNamespace(least_time=0.4, steps=steps, balanced=True), flow=flow())
    objective = RefinerObjective(Even(), None, (Constant(data - noise), lambda *_: torch.zeros(1, 0, 2, 2, 2)), config)
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
