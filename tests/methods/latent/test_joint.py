"""The joint variable of latents and mask."""

import torch

from tumorgen_cli.methods.latent.joint import upsample_mask


def test_an_upsampled_mask():
    mask = torch.full((1, 1, 4, 4, 4), -1.0)
    mask[:, :, 2:] = 1
    found = upsample_mask(mask, 4)[0, 0]
    assert found.shape == (16, 16, 16)
    torch.testing.assert_close(found[:, 5, 5], torch.tensor([0.0] * 6 + [0.125, 0.375, 0.625, 0.875] + [1.0] * 6))
    assert (upsample_mask(mask * 9, 4) <= 1).all()
    finer = upsample_mask(mask, 2)[0, 0]
    assert finer.shape == (8, 8, 8)
    torch.testing.assert_close(finer[:, 3, 3], torch.tensor([0.0] * 3 + [0.25, 0.75] + [1.0] * 3))
