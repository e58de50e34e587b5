"""Mask first, then tumor: what each flow sees, what is drawn after what, TumorGen's settings."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from support.requests import opened
from torch import nn

from tumorgen_cli.methods.latent.autoencoder import load_cases
from tumorgen_cli.methods.latent.items import held_out_tumors
from tumorgen_cli.methods.latent.joint import code_labels, to_flow
from tumorgen_cli.methods.latent.sampler import FlowSettings, Seen
from tumorgen_cli.methods.maskfirst.objectives import (
    Flows,
    MaskFirstRefinerObjective,
    MaskObjective,
    TumorObjective,
    inside_box,
)
from tumorgen_cli.methods.registry import find_method

L, K = 4, 8


class Exact(nn.Module):
    """A field that knows the velocity, and remembers what it was shown."""

    def __init__(self, velocity):
        super().__init__()
        self.velocity, self.shown, self.out_channels = velocity, [], velocity.shape[1]

    def forward(self, x, t):
        self.shown.append((x.clone(), t.clone()))
        return self.velocity.expand(len(x), -1, -1, -1, -1)


def told(latent, box, values):
    """The condition of a method that is told one value."""
    return torch.cat([(1 - box) * latent, box * values.view(-1, 1, 1, 1, 1)], 1)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    latent, context, noise = (torch.randn(1, n, 4, 4, 4, generator=generator) for n in (L, L, L + K))
    box = torch.zeros(1, 1, 4, 4, 4)
    box[..., 1:3, 1:3, 1:3] = 1
    mask = box * (torch.rand(1, K, 4, 4, 4, generator=generator) > 0.5)
    return {
        "latent": latent,
        "context": context,
        "mask": mask,
        "box": box,
        "noise": noise,
        "uniform": torch.tensor([0.3]),
        "told": torch.tensor([[2.0]]),
        "clean": torch.tensor([0.0]),
        "target": None,
    }


@pytest.fixture
def config(workspace):
    """TumorGen's settings, with a flow from noise."""
    shared = find_method("maskfirst")(workspace.plan(), workspace).shared
    return replace(shared, flow=replace(shared.flow, start="noise", mask_coding="packed", box_weight=4.0))


def test_the_masks_flow_sees_the_host_around_the_box_and_learns_the_mask_alone(batch, config):
    noise, data = batch["noise"][:, L:], 2 * batch["mask"] - 1
    net = Exact(data - noise)
    loss, _ = MaskObjective(net, told, config.flow)(batch)
    assert float(loss) == pytest.approx(0, abs=1e-10)
    x, t = net.shown[0]
    torch.testing.assert_close(x[:, :K], 0.7 * noise + 0.3 * data)
    torch.testing.assert_close(x[:, K:], told(batch["context"], batch["box"], batch["told"]))
    assert t.tolist() == pytest.approx([0.3])
    net.velocity = data - noise + batch["box"]  # an error of 1 in the 8 cells of the box, of 64
    loss, _ = MaskObjective(net, told, config.flow)(batch)
    assert float(loss) == pytest.approx(4 * 8 / (4 * 8 + 56))


def test_the_tumors_flow_sees_the_mask_and_no_tumor(batch, config):
    """Its condition: the host without tumor around the box, what is told, the mask; of the tumor, only x_t."""
    noise = batch["noise"][:, :L]
    net = Exact(batch["latent"] - noise)
    objective = TumorObjective(net, told, config.flow)
    loss, terms = objective(batch)
    assert float(loss) == pytest.approx(0, abs=1e-5)
    assert {*terms} == {"rfm", "coarse", "fine"}
    x = net.shown[0][0]
    torch.testing.assert_close(x[:, :L], 0.7 * noise + 0.3 * batch["latent"])
    torch.testing.assert_close(x[:, L : L + 5], told(batch["context"], batch["box"], batch["told"]))
    torch.testing.assert_close(x[:, L + 5 :], 2 * batch["mask"] - 1)
    objective({**batch, "latent": batch["latent"] + 3})
    assert torch.equal(net.shown[1][0][:, L:], x[:, L:])  # another tumor, the same condition


def draw(workspace, batch, guided=False):
    """What known fields draw, and the fields."""
    method = find_method("maskfirst")(workspace.plan(), workspace)
    mask_net, tumor_net = Exact(batch["mask"] * 5 - 3), Exact(batch["latent"])
    method.__dict__.update(mask_net=mask_net, tumor_net=tumor_net)
    inputs = told(batch["context"], batch["box"], batch["told"])
    inputs = torch.cat([inputs, 0 * inputs]) if guided else inputs
    seen = Seen(batch["context"], batch["box"], inputs, 1.5)
    return method._draw(seen, FlowSettings(3, 2, "euler")), mask_net, tumor_net


@pytest.mark.parametrize("guided", [False, True])
def test_the_tumor_is_drawn_for_the_mask_that_was_drawn_before(workspace, batch, guided):
    joint, mask_net, tumor_net = draw(workspace, batch, guided)
    assert len(mask_net.shown) == len(tumor_net.shown) == 2
    first = mask_net.shown[0][0][:1, :K]
    mask = inside_box(first + mask_net.velocity, batch["box"])  # from noise, a constant velocity for a time of 1
    torch.testing.assert_close(joint[:, L:], mask, atol=1e-5, rtol=1e-5)
    assert ((joint[:, L:] * (1 - batch["box"])) == -(1 - batch["box"])).all()
    assert joint[:, L:].abs().max() <= 1
    for x, _ in tumor_net.shown:
        assert len(x) == 1 + guided  # what is not told is the mask's as well
        torch.testing.assert_close(x[:, L + 5 :], mask.expand(1 + guided, -1, -1, -1, -1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(joint[:, :L], tumor_net.shown[0][0][:1, :L] + batch["latent"], atol=1e-5, rtol=1e-5)


def test_outside_the_box_are_the_hosts_latents_and_no_tumor(workspace):
    method = find_method("maskfirst")(workspace.plan(), workspace)
    latent = torch.randn(1, L, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    box = torch.zeros(1, 1, 8, 8, 8)
    box[..., 2:6, 3:6, 2:5] = 1
    drawn = method.sampler.sample(latent, box, None, FlowSettings(1, 2, "euler"))
    assert torch.equal(drawn[:, :L] * (1 - box), latent * (1 - box))
    assert ((drawn[:, L:] * (1 - box)) == -(1 - box)).all()
    assert not torch.equal(drawn[:, :L] * box, latent * box)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_refiner_learns_from_what_both_flows_draw(batch, config, steps):
    """True velocities lead to the data; the tumor's flow gets the mask's estimate; outside is the context."""
    config = replace(config, refiner=replace(config.refiner, steps=steps, least_time=0.4))
    data = 2 * batch["mask"] - 1
    wrong = 0.25 * batch["box"]  # what the mask's flow misses at t = 1, from t = 0.58 on
    flows = Flows(
        Exact(data - batch["noise"][:, L:] - wrong / 0.42), Exact(batch["latent"] - batch["noise"][:, :L]), told
    )
    objective = MaskFirstRefinerObjective(nn.Identity(), SimpleNamespace(), flows, config)
    joint, box = objective.estimate(batch), batch["box"]
    mask = inside_box(data - wrong, box)
    torch.testing.assert_close(joint[:, :L], box * batch["latent"] + (1 - box) * batch["context"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(joint[:, L:], mask, atol=1e-5, rtol=1e-4)
    for x, _ in flows.tumor.shown:
        torch.testing.assert_close(x[:, L + 5 :], mask, atol=1e-5, rtol=1e-4)


def test_all_settings_are_tumorgens(workspace):
    """But whether the mask is refined: without it the last stage is not needed."""
    plan = workspace.plan()
    tumorgen = find_method("tumorgen")(plan, workspace)
    method = find_method("maskfirst")(plan, workspace)
    assert method.shared == tumorgen.config
    assert method.folder("vae") == tumorgen.folder("vae")
    assert method.folder("latents") == tumorgen.folder("latents")
    assert [method.planned_iterations(stage) for stage in method.stages] == [
        tumorgen.planned_iterations(stage) for stage in ("vae", "flow", "flow", "refiner")
    ]
    unrefined = find_method("maskfirst")(
        replace(plan, methods={**plan.methods, "maskfirst": {"refined": False}}), workspace
    )
    assert not unrefined.shared.refiner.enabled
    unrefined.trained = lambda name, iterations=None: name == "tumorflow"
    assert type(unrefined).trained(unrefined, "maskrefiner")


def test_flows_that_know_a_tumor_have_no_loss_on_it(trained):
    """Fields that lead to the tumor's own latents and mask have a loss of 0; those of others have more."""
    method, _ = opened("maskfirst", trained)
    case = trained.splits().train[0]
    before = method.tumor_losses(case)
    (known, *_), *_ = held_out_tumors(method, method.vae, method.shared, 1, load_cases(trained, [case]))
    masks = code_labels(known.masks[: method.labels], method.shared.flow.mask_coding, method.cell)

    def leading_to(data):
        return lambda x, t: (data - x[:, : data.shape[1]]) / (1 - t.view(-1, 1, 1, 1, 1))

    method.mask_net = leading_to(to_flow(torch.from_numpy(masks)[None]))
    assert 1e-3 < method.tumor_losses(case)[0] < before[0]
    method.tumor_net = leading_to(known.latent)
    assert method.tumor_losses(case)[0] == pytest.approx(0, abs=1e-6)
