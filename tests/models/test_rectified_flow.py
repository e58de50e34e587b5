"""Rectified flow against closed forms: one data point, identities of the losses, MONAI's SSIM."""

import math

import numpy as np
import pytest
import torch
from monai.metrics.regression import compute_ssim_and_cs

from tumorgen_cli.models import rectified_flow


def normal(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()


X = (2, 5, 6, 5, 4)


def test_the_path_is_straight():
    noise, data = normal(*X), normal(*X, seed=1)
    t = torch.tensor([0.0, 1.0])
    x = rectified_flow.path(noise, data, t)
    assert torch.equal(x[0], noise[0])
    assert torch.equal(x[1], data[1])
    torch.testing.assert_close(rectified_flow.path(noise, data, torch.full((2,), 0.25)), 0.75 * noise + 0.25 * data)


def test_the_one_step_estimate_is_exact_for_the_true_velocity():
    noise, data, t = normal(*X), normal(*X, seed=1), torch.tensor([0.1, 0.7])
    assert float(rectified_flow.velocity_loss(data - noise, noise, data)) == 0
    torch.testing.assert_close(rectified_flow.estimate_data(rectified_flow.path(noise, data, t), data - noise, t), data)


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
@pytest.mark.parametrize("solver", rectified_flow.SOLVERS)
def test_with_all_data_at_c_any_number_of_steps_lands_on_c(steps, solver):
    """The marginal velocity is then (c - x) / (1 - t), and every path is straight."""
    c = normal(1, 5, 4, 4, 4, seed=2).double()
    noise = normal(3, 5, 4, 4, 4, seed=3).double()
    seen = []

    def velocity(x, t):
        assert t.shape == (3,)
        seen.append(float(t[0]))
        return (c - x) / (1 - t.view(-1, 1, 1, 1, 1))

    torch.testing.assert_close(rectified_flow.sample(velocity, noise, steps, solver), c.expand_as(noise))
    assert len(seen) == (steps if solver == "euler" else 2 * steps - 1)
    assert seen[0] == 0
    assert max(seen) < 1  # the velocity has no value at t = 1


def test_a_start_on_the_way():
    """From x_t at t = start the same field leads to the same point."""
    c, noise = normal(1, 1, 3, 3, 3, seed=4), normal(1, 1, 3, 3, 3, seed=5)
    half = rectified_flow.path(noise, c, torch.tensor([0.5]))
    found = rectified_flow.sample(lambda x, t: (c - x) / (1 - t.view(-1, 1, 1, 1, 1)), half, 3, "euler", start=0.5)
    torch.testing.assert_close(found, c)


@pytest.mark.parametrize("steps", [1, 3])
def test_each_item_is_finished_from_its_own_time(steps):
    """The true velocity leads each item from its time to the data; the field is called at times of its own."""
    noise, data = torch.randn(2, 2, 1, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    t, seen = torch.tensor([0.4, 0.7]), []
    x = rectified_flow.finish(
        lambda x, t: seen.append(t) or data - noise, rectified_flow.path(noise, data, t), t, steps
    )
    torch.testing.assert_close(x, data, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.stack(seen), t + (1 - t) * torch.arange(steps)[:, None] / steps)


def test_euler_and_heun_on_a_curved_field():
    """dx/dt = x cos(3 t) from 1 ends at exp(sin(3) / 3); Euler's error halves with twice the steps."""
    exact = math.exp(math.sin(3.0) / 3)

    def error(steps, solver):
        start = torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)
        found = rectified_flow.sample(lambda x, t: x * torch.cos(3 * t).view(-1, 1, 1, 1, 1), start, steps, solver)
        return abs(float(found) - exact)

    for steps in (5, 10, 20, 40):
        assert error(steps, "heun") < error(steps, "euler")
    assert error(20, "euler") / error(40, "euler") == pytest.approx(2, rel=0.1)
    assert error(20, "heun") / error(40, "heun") > 3


def test_one_euler_step_by_hand():
    found = rectified_flow.sample(lambda x, t: 2 * x + 1 + t.view(-1, 1, 1, 1, 1), torch.full((1, 1, 1, 1, 1), 3.0), 2)
    # 3 + 0.5 (7 + 0) = 6.5; 6.5 + 0.5 (14 + 0.5) = 13.75
    assert float(found) == 13.75


def test_times():
    uniform = torch.rand(20000, generator=torch.Generator().manual_seed(0))
    assert rectified_flow.draw_time(uniform, "uniform") is uniform
    drawn = rectified_flow.draw_time(uniform, "logit-normal")
    assert drawn.dtype == uniform.dtype
    logits = torch.logit(drawn.double())
    assert float(logits.mean()) == pytest.approx(0, abs=0.03)
    assert float(logits.std()) == pytest.approx(1, abs=0.03)
    ends = rectified_flow.draw_time(torch.tensor([0.0, 0.5, 1.0]), "logit-normal")
    assert float(ends[1]) == pytest.approx(0.5)
    assert 0 < float(ends[0]) < float(ends[2]) < 1


def one_box():
    box = torch.zeros(2, 1, *X[2:])
    box[0, :, 1:4, 1:3, 0:2] = 1  # 12 voxels
    box[1, :, 2:3, 0:1, 3:4] = 1  # one
    return box


def test_coarse_loss_is_the_velocity_error_in_the_box_times_the_time_left_squared():
    """z1^ - z1 = (1 - t) (v - (z1 - eps)), so L_coarse = (1 - t)^2 ||B (v - (z1 - eps))||^2, averaged over the box."""
    noise, data, velocity = normal(*X), normal(*X, seed=1), normal(*X, seed=2)
    t, box = torch.tensor([0.3, 0.8]), one_box()
    estimate = rectified_flow.estimate_data(rectified_flow.path(noise, data, t), velocity, t)
    expected = 0.0
    for i in range(2):
        inside = box[i].bool().expand_as(data[i])
        expected += float((1 - t[i]) ** 2 * (velocity - (data - noise))[i][inside].square().mean()) / 2
    assert float(rectified_flow.coarse_loss(estimate, data, box)) == pytest.approx(expected, rel=1e-5)


def test_coarse_loss_sees_the_box_alone():
    data, box = normal(*X), one_box()
    elsewhere = data + (1 - box) * normal(*X, seed=3)
    assert float(rectified_flow.coarse_loss(elsewhere, data, box)) == 0
    assert float(rectified_flow.coarse_loss(data + box, data, box)) == pytest.approx(1)
    assert float(rectified_flow.coarse_loss(data + 1, data, torch.zeros_like(box))) == 0


def masks(seed=0):
    mask = torch.zeros(2, 1, 8, 8, 8)
    mask[0, :, 2:5, 3:6, 2:5] = 1
    mask[1, :, 4:6, 1:3, 4:7] = 0.5
    return mask, normal(2, 4, 8, 8, 8, seed=seed)


def test_fine_loss_of_equals_is_zero():
    mask, latent = masks()
    assert float(rectified_flow.fine_loss(latent, mask, latent, mask, 3)) == pytest.approx(0, abs=1e-6)


def test_fine_loss_grows_with_the_error_and_sees_small_tumors():
    mask, latent = masks()
    errors = [
        float(rectified_flow.fine_loss(latent + e * normal(2, 4, 8, 8, 8, seed=1), mask, latent, mask, 3))
        for e in (0, 0.1, 0.5, 2)
    ]
    assert errors == sorted(errors)
    assert errors[-1] > 0.3  # a tumor of 27 of 512 voxels is not drowned by the empty rest
    assert float(rectified_flow.fine_loss(latent, torch.zeros_like(mask), latent, mask, 3)) > 0.2
    outside = latent + (mask == 0) * 5.0
    assert float(rectified_flow.fine_loss(outside, mask, latent, mask, 3)) == pytest.approx(
        0, abs=1e-6
    )  # m ⊙ z: outside m nothing counts


def test_fine_loss_clamps_the_mask():
    mask, latent = masks()
    a = rectified_flow.fine_loss(latent, mask * 3 - (1 - mask), latent, mask, 3)
    b = rectified_flow.fine_loss(latent, (mask * 3 - (1 - mask)).clamp(0, 1), latent, mask, 3)
    assert float(a) == float(b)


def test_losses_are_differentiable():
    mask, latent = masks()
    noise = normal(2, 5, 8, 8, 8, seed=6)
    velocity = normal(2, 5, 8, 8, 8, seed=7).requires_grad_()
    data, t = torch.cat([latent, mask * 2 - 1], 1), torch.tensor([0.4, 0.9])
    estimate = rectified_flow.estimate_data(rectified_flow.path(noise, data, t), velocity, t)
    box = torch.ones_like(mask)
    share = (estimate[:, 4:] + 1) / 2
    for loss in (
        rectified_flow.velocity_loss(velocity, noise, data),
        rectified_flow.coarse_loss(estimate[:, :4], latent, box),
        rectified_flow.fine_loss(estimate[:, :4], share, latent, mask, 3),
    ):
        (slope,) = torch.autograd.grad(loss, velocity, retain_graph=True)
        assert torch.isfinite(slope).all()
        assert slope.abs().max() > 0
    zero = torch.zeros(1, 1, 8, 8, 8, requires_grad=True)  # empty everywhere: no NaN
    rectified_flow.fine_loss(zero, zero, zero.detach(), zero.detach(), 3).backward()
    assert torch.isfinite(zero.grad).all()


@pytest.mark.parametrize("window", [3, 5])
def test_ssim_is_monais_where_the_window_is_whole(window):
    a, b = normal(2, 1, 10, 9, 8), normal(2, 1, 10, 9, 8, seed=1)
    b = 0.5 * a + b
    theirs, _ = compute_ssim_and_cs(
        a, b, 3, kernel_size=(window,) * 3, kernel_sigma=(1.5,) * 3, data_range=6.0, kernel_type="uniform"
    )
    h = window // 2
    ours = rectified_flow.ssim_map(a, b, window, 6.0)[(slice(None), slice(None), *(slice(h, -h),) * 3)]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_ssim_of_constants():
    """Without variance only the means are left: (2 a b + c1) / (a² + b² + c1)."""
    a, b = torch.full((1, 1, 5, 5, 5), 2.0), torch.full((1, 1, 5, 5, 5), 1.0)
    c1 = (0.01 * 6) ** 2
    torch.testing.assert_close(
        rectified_flow.ssim_map(a, b, 3, 6.0), torch.full_like(a, (4 + c1) / (5 + c1)), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(rectified_flow.ssim_map(a, a, 3, 6.0), torch.ones_like(a))


def test_a_weighted_velocity_loss_is_a_weighted_mean():
    noise, data = torch.zeros(1, 2, 2, 1, 1), torch.zeros(1, 2, 2, 1, 1)
    velocity = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 2, 2, 1, 1)
    weight = torch.tensor([1.0, 1.0, 5.0, 3.0]).view(1, 2, 2, 1, 1)
    assert float(rectified_flow.velocity_loss(velocity, noise, data, weight)) == pytest.approx(
        (1 + 4 + 5 * 9 + 3 * 16) / 10
    )
    same = rectified_flow.velocity_loss(velocity, noise, data, torch.ones(1, 1, 1, 1, 1))
    assert float(same) == float(rectified_flow.velocity_loss(velocity, noise, data)) == 7.5


def test_the_papers_mean_of_the_fine_constraint_counts_empty_places():
    """Where both masks are empty, SSIM is 1: a wrong tumor in an eighth of the volume costs little."""
    latent, mask = normal(1, 2, 8, 8, 8), torch.zeros(1, 1, 8, 8, 8)
    mask[..., :4, :4, :4] = 1
    local, whole = (rectified_flow.fine_loss(-latent, mask, latent, mask, 3, over) for over in (False, True))
    assert 0 < float(whole) < 0.5 * float(local)
    assert float(rectified_flow.fine_loss(latent, mask, latent, mask, 3, True)) == pytest.approx(0, abs=1e-6)
