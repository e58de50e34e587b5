"""A training stage with a tiny linear model."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from tumorgen_cli.training.stage import Objective, Stage

STEPS = 14


class Fit(nn.Module):
    def __init__(self, model, extra=None):
        super().__init__()
        self.model, self.extra = model, extra

    def forward(self, batch):
        guess = self.model(batch["x"])
        if self.extra is not None:
            guess = guess + self.extra(batch["x"])
        loss = (guess - batch["y"]).square().mean()
        return loss, {"twice": 2 * loss.detach()}


def item(number):
    x = np.random.default_rng(number).standard_normal(3).astype(np.float32)
    return {"x": x, "y": np.array([x[0] - 2 * x[1] + 0.5], np.float32)}


def make_stage(items=item, iterations=STEPS, inputs="inputs", extra=False, **changes):
    """A new linear model, always with the same first weights."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    objective = Fit(model, nn.Linear(3, 1) if extra else None)
    settings = {"previews": 0, "ema": 0.9, "batch": 2, **changes}
    return Stage(
        "vae",
        "toy",
        {"model": model},
        (Objective("fit", objective, 0.05),),
        items,
        iterations,
        inputs_hash=inputs,
        **settings,
    )
