"""TumorGen without its condition: the known region."""

import pytest
import torch
from support.requests import opened


def test_blending_puts_the_known_region_back(trained):
    """Outside the box the result is the scan's own, and at every step what its own path has there."""
    method, hashes = opened("unconditional", trained)
    assert set(hashes) == {"vae", "unconditional"}
    assert hashes["vae"] == opened("tumorgen", trained)[1]["vae"]  # one VAE for both
    latent = torch.randn(1, 4, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    box = torch.zeros(1, 1, 8, 8, 8)
    box[..., 2:6, 3:6, 2:5] = 1
    seen = []
    hook = method.net.register_forward_hook(lambda module, args, out: seen.append((args[0].clone(), float(args[1][0]))))
    drawn = method._sample(latent, box, 4, 4, "euler")
    hook.remove()
    known = torch.cat([latent, -torch.ones(1, 1, 8, 8, 8)], 1)
    torch.testing.assert_close(drawn * (1 - box), known * (1 - box))
    noise = seen[0][0]
    for x, t in seen:
        torch.testing.assert_close(x * (1 - box), ((1 - t) * noise + t * known) * (1 - box), atol=1e-5, rtol=1e-5)
    assert [t for _, t in seen] == pytest.approx([0, 0.25, 0.5, 0.75])
