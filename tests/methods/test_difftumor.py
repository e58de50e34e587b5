"""DiffTumor: what stays, latents, samplers, the mask on the latent grid, the critics."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.requests import make_request, opened

from tumorgen_cli.methods.base import Sampling
from tumorgen_cli.methods.difftumor.method import nearest_mask
from tumorgen_cli.methods.latent.autoencoder import load_cases
from tumorgen_cli.methods.latent.scans import TrainingScans, statistic_windows
from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.system.errors import PlanError


def test_difftumor_changes_nothing_beyond_its_mask(trained):
    method, hashes = opened("difftumor", trained)
    assert set(hashes) == {"vqgan", "ddpm"}
    sharp = replace(method.config, sampling=replace(method.config.sampling, edge_mm=(0.0, 0.0)))
    method.config = sharp
    request = make_request(trained)
    made = method.synthesize(request, 3, Sampling())
    untouched = made.mask == 0
    np.testing.assert_array_equal(made.image[:, untouched], request.image[:, untouched])
    changed = np.abs(made.image - request.image)[0] > 1e-6
    assert changed[made.mask == 1].mean() > 0.9


def test_difftumor_keeps_the_healthy_latents(trained):
    """Outside the mask z_0 is the scan's own, and what lies under the mask has no influence."""
    method, _ = opened("difftumor", trained)
    latent = torch.randn(1, 8, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, 8, 8, 8)
    mask[..., 2:5, 3:6, 2:4] = 1
    drawn = method.draw_latent(latent, mask, 1, 2, "ddim")
    torch.testing.assert_close(drawn * (1 - mask), latent * (1 - mask))
    assert torch.equal(drawn * mask, method.draw_latent(latent + 7 * mask, mask, 1, 2, "ddim") * mask)
    assert (drawn * mask).abs().max() <= 10


def test_difftumors_latents_are_standardized(trained):
    """The noise of the diffusion has variance 1, and so must the latents."""
    method, _ = opened("difftumor", trained)
    scans = TrainingScans(load_cases(trained, trained.splits().train))
    with torch.no_grad():
        windows = (torch.from_numpy(window)[None] for window in statistic_windows(method, scans))
        z = torch.cat([method.vqgan.encode(window)[0].flatten(1) for window in windows], 1)
    torch.testing.assert_close(z.std(1), torch.ones(8), atol=0.01, rtol=0)


def test_difftumors_steps_and_samplers(trained):
    method, _ = opened("difftumor", trained)
    request, calls = make_request(trained), []
    hook = method.net.register_forward_hook(lambda *_: calls.append(1))
    for sampling, expected in ((Sampling(), 2), (Sampling(steps=4), 4), (Sampling(steps=10, solver="ddim"), 10)):
        calls.clear()
        assert method.synthesize(request, 0, sampling).drawn["steps"] == expected
        assert len(calls) == expected
    hook.remove()
    with pytest.raises(PlanError, match="at most 10"):
        method.synthesize(request, 0, Sampling(steps=11))
    section = {
        **trained.plan().methods["difftumor"],
        "sampling": {**trained.plan().methods["difftumor"]["sampling"], "steps": 99},
    }
    with pytest.raises(PlanError, match=r"sampling\.steps"):
        find_method("difftumor")(
            replace(trained.plan(), methods={**trained.plan().methods, "difftumor": section}), trained
        )


def test_difftumors_mask_on_the_latent_grid():
    mask = np.zeros((16, 16, 8), np.float32)
    mask[4:9, :, :] = 1
    assert nearest_mask(mask, 4).shape == (1, 4, 4, 2)
    np.testing.assert_array_equal(nearest_mask(mask, 4)[0, :, 0, 0], [0, 1, 0, 0])
    crumb = np.zeros_like(mask)
    crumb[9, 1, 1] = 1
    assert np.argwhere(nearest_mask(crumb, 4)).tolist() == [[0, 2, 0, 0]]  # a small mask is never lost


def test_the_critics_wait_for_their_turn(trained):
    """Before `adversarial_from` only the reconstruction is trained, and the critics are not."""
    method = find_method("difftumor")(trained.plan(), trained)
    stage = method.stage("vqgan", 4)
    items = [stage.item(number) for number in range(8)]
    assert all((item["planes"] < item["image"].shape[1:]).all() for item in items)
    assert {item["image"].shape[1] for item in items} == {32, 48}
    first, critics = (o.module for o in stage.objectives)

    def batch(number):
        return {k: torch.as_tensor(v)[None] for k, v in stage.item(number).items()}

    assert "fool" not in first(batch(0))[1]
    assert float(critics(batch(0))[0].detach()) == 0
    loss, terms = first(batch(3))
    assert {"fool", "matching", "perceptual", "l1", "commitment"} <= set(terms)
    loss.backward()
    assert all(p.grad is None for p in critics.parameters())  # they are frozen in the loss that has to fool them
    assert float(critics(batch(3))[0].detach()) > 0
    assert first.picture.shape == batch(3)["image"].shape
    assert not first.picture.requires_grad
