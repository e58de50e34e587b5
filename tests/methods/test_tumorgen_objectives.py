"""Losses of TumorGen in closed form."""

from types import SimpleNamespace

import pytest
import torch

from tumorgen_cli.methods.tumorgen.objectives import RefinerObjective


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
