"""What only a GPU can show: its training, its memory, its precision.

These tests need torch, MONAI, accelerate, safetensors and pytest, and of the package's other libraries rich and
lazy-loader alone: `pytest -m gpu tests/gpu`. With TUMORGEN_GPU_TESTS=cpu they run on a CPU, which tests the tests.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.stages import make_stage
from torch import nn

from tumorgen_cli.models import rectified_flow
from tumorgen_cli.models.flow_unet import FlowUNet
from tumorgen_cli.models.vae import KlVae
from tumorgen_cli.system.devices import find_budget, find_device
from tumorgen_cli.system.processes import Terminated
from tumorgen_cli.training.loop import train
from tumorgen_cli.training.stage import Objective, Stage

pytestmark = pytest.mark.gpu
SIDE, BATCH = 16, 4


@pytest.fixture
def device(monkeypatch):
    name = os.environ.get("TUMORGEN_GPU_TESTS", "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    return name


class Reconstruction(nn.Module):
    """An autoencoder that learns to copy a picture."""

    def __init__(self, vae, stop_at=None):
        super().__init__()
        self.vae, self.stop_at, self.steps = vae, stop_at, 0

    def forward(self, batch):
        self.steps += 1
        if self.steps == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)  # as SLURM does; the loop saves its state after this step
        picture, mean, sigma = self.vae(batch["image"], batch["noise"])
        loss = (picture - batch["image"]).abs().mean()
        kl = 0.5 * (mean.square() + sigma.square() - 1 - 2 * sigma.clamp_min(1e-6).log()).mean()
        return loss + 1e-6 * kl, {"kl": kl.detach()}


def picture(number):
    """A ball in noise."""
    rng = np.random.default_rng(number)
    place = np.indices((SIDE,) * 3) - rng.uniform(5, SIDE - 5, (3, 1, 1, 1))
    ball = (np.square(place).sum(0) < 16).astype(np.float32)
    image = ball + 0.1 * rng.standard_normal(ball.shape).astype(np.float32) - 0.5
    return {"image": image[None], "noise": rng.standard_normal((4, *(SIDE // 4,) * 3)).astype(np.float32)}


def make_vae():
    torch.manual_seed(0)
    return KlVae(1, (8, 16, 32), 4, (1, 1, 1))


def vae_stage(iterations=8, stop_at=None):
    vae = make_vae()
    objective = Objective("vae", Reconstruction(vae, stop_at), 2e-3)
    return Stage("vae", "KL-VAE", {"vae": vae}, (objective,), picture, iterations, BATCH, 0.9, "inputs", previews=0)


def weights(folder):
    return load_file(folder / "weights.safetensors")


def test_the_gpu_is_found_and_planned_for(device):
    assert find_device("auto").type == device
    budget = find_budget("auto", None)
    assert budget.device == device
    assert budget.memory_gib > 1


def test_training_computes_what_a_cpu_computes(device, tmp_path):
    for name in {"cpu", device}:
        train(make_stage(), tmp_path / name, name, "fp32")
    for key, value in weights(tmp_path / "cpu").items():
        torch.testing.assert_close(weights(tmp_path / device)[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_training_equals_an_unbroken_one(device, tmp_path, precision):
    train(vae_stage(), tmp_path / "unbroken", device, precision)
    with pytest.raises(Terminated):
        train(vae_stage(stop_at=3), tmp_path / "resumed", device, precision)
    assert json.loads((tmp_path / "resumed" / "progress.json").read_text())["step"] == 3
    train(vae_stage(), tmp_path / "resumed", device, precision)
    unbroken, resumed = weights(tmp_path / "unbroken"), weights(tmp_path / "resumed")
    for key, value in unbroken.items():
        torch.testing.assert_close(resumed[key], value, rtol=1e-3, atol=1e-4)


def test_bf16_trains_and_the_record_has_the_memory_of_the_gpu(device, tmp_path):
    train(vae_stage(40), tmp_path, device, "bf16")
    rows = (tmp_path / "log.csv").read_text().splitlines()
    column = rows[0].split(",").index("vae")
    losses = [float(row.split(",")[column]) for row in rows[1:]]
    assert losses[-1] < 0.8 * losses[0], losses
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["device"] == device
    assert record["peak_memory_gib"] > 0


def test_bf16_draws_and_decodes_as_single_precision_does(device):
    torch.manual_seed(0)
    net, vae = FlowUNet(9, 5, (32, 64), 1).to(device).eval(), make_vae().to(device).eval()
    start, more = torch.randn(1, 5, 8, 8, 8, device=device), torch.randn(1, 4, 8, 8, 8, device=device)
    found = []
    for enabled in (False, True):
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=enabled):

            def velocity(x, t):
                return net(torch.cat([x, more], 1), t)

            joint = rectified_flow.sample(velocity, start, 4)
            found += [joint.float(), vae.decode(joint[:, :4]).float()]
    for single, half in (found[::2], found[1::2]):
        assert torch.isfinite(half).all()
        assert (single - half).abs().mean() < 0.05 * single.abs().mean()


class Wide(nn.Module):
    """Three convolutions of 32 channels: an item of 64³ takes about 0.2 GiB with its gradients."""

    def __init__(self):
        super().__init__()
        widths = (1, 32, 32, 32)
        pairs = itertools.pairwise(widths)
        self.net = nn.Sequential(*(part for a, b in pairs for part in (nn.Conv3d(a, b, 3, padding=1), nn.SiLU())))

    def forward(self, batch):
        loss = self.net(batch["x"]).square().mean()
        return loss, {}


def test_a_batch_that_does_not_fit_is_computed_in_parts(device, tmp_path, capsys):
    if device == "cpu":
        pytest.skip("a CPU's memory has no such limit")
    torch.manual_seed(0)
    wide = Wide()
    stage = make_stage(iterations=2, batch=8)
    stage = replace(
        stage,
        models={"model": wide.net},
        objectives=(Objective("fit", wide, 1e-3),),
        item=lambda number: {"x": np.full((1, 64, 64, 64), number % 3, np.float32)},
    )
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**30) / whole)
    try:
        assert train(stage, tmp_path, device, "fp32").iterations == 2
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "of a batch's 8 items are computed at a time" in " ".join(capsys.readouterr().err.split())
