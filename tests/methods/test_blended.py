"""Blended latent diffusion: the known region, the given mask."""

import math

import numpy as np
import pytest
import torch
from support.requests import make_request

from tumorgen_cli.methods.base import Sampling
from tumorgen_cli.methods.latent import cache
from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.models import ddpm
from tumorgen_cli.system.errors import PlanError


class Knowing(torch.nn.Module):
    """Returns the noise between x_t and a known z_0, and remembers what it was shown."""

    def __init__(self, data, timesteps):
        super().__init__()
        self.data, self.timesteps, self.shown = data, timesteps, []
        self.levels = ddpm.signal_levels(timesteps).tolist()

    def forward(self, x, t):
        level = self.levels[round(float(t[0]) * self.timesteps)]
        self.shown.append((level, x.clone()))
        return (x - math.sqrt(level) * self.data) / math.sqrt(1 - level)


@pytest.fixture
def method(workspace):
    """With untrained networks."""
    return find_method("blended")(workspace.plan(), workspace)


def draw(method, latent, cells, data, steps=4):
    method.__dict__["net"] = Knowing(data, method.config.diffusion.timesteps)
    return method.draw_latent(latent, cells, 3, steps, "ddim"), method.net.shown


def test_the_known_region_is_the_hosts_with_the_noise_of_the_step(method):
    """Before each step x_t is q(x_t | host) outside the cells, with new noise; at the end it is the host itself."""
    generator = torch.Generator().manual_seed(0)
    latent, data = torch.randn(2, 1, 4, 8, 8, 8, generator=generator)
    cells = torch.zeros(1, 1, 8, 8, 8)
    cells[..., 2:6, 3:6, 2:5] = 1
    drawn, shown = draw(method, latent, cells, data)
    torch.testing.assert_close(drawn, cells * data + (1 - cells) * latent, atol=1e-3, rtol=1e-3)
    assert torch.equal(drawn * (1 - cells), latent * (1 - cells))
    rng = np.random.default_rng(3)
    first = rng.standard_normal(latent.shape, np.float32)
    assert len(shown) == 4
    torch.testing.assert_close(shown[0][1] * cells, torch.from_numpy(first) * cells)
    for level, x in shown:
        noise = torch.from_numpy(rng.standard_normal(latent.shape, np.float32))
        known = math.sqrt(level) * latent + math.sqrt(1 - level) * noise
        torch.testing.assert_close(x * (1 - cells), known * (1 - cells), atol=1e-5, rtol=1e-4)


def test_every_cell_that_the_mask_touches_is_drawn(method):
    mask = np.zeros((32, 32, 32), np.float32)
    mask[7:9, 8:12, 20] = 0.1
    cells = method.touched_cells(mask)[0, 0].numpy()
    assert np.argwhere(cells).tolist() == [[1, 2, 5], [2, 2, 5]]


def test_only_the_mask_is_painted(method, workspace):
    """In voxels: what is drawn beside the mask in its cells is not put into the scan."""
    request = make_request(workspace)
    made = method.synthesize(request, 5, Sampling(steps=2))
    assert 0 < (made.mask >= 0.5).sum() < np.prod(request.place.shape)
    np.testing.assert_array_equal(made.image[:, made.mask == 0], request.image[:, made.mask == 0])
    assert not np.array_equal(made.image, request.image)


def test_more_steps_than_the_diffusion_has_are_refused(method, workspace):
    most = method.config.diffusion.timesteps
    with pytest.raises(PlanError, match=f"at most {most}") as raised:
        method.synthesize(make_request(workspace), 0, Sampling(steps=most + 1))
    assert "methods.blended.diffusion.timesteps=N" in str(raised.value.faults[0].remedy)


@pytest.mark.parametrize(("name", "stage"), [("blended", "diffusion"), ("unconditional", "unconditional")])
def test_windows_encoded_in_another_way_make_the_stage_stale(trained, monkeypatch, name, stage):
    """As TumorGen's flow: its weights were learned from other windows."""
    method = find_method(name)(trained.plan(), trained)
    assert method.format_versions == {stage: cache.FORMAT}
    before = method.inputs_hash(stage)
    monkeypatch.setattr(type(method), "format_versions", {stage: cache.FORMAT + 1})
    assert method.inputs_hash(stage) != before
