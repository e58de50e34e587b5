"""An exponential moving average of a network's weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class _Ema:
    """Exponential moving average of the models' parameters; buffers are copied."""

    def __init__(self, models: Mapping[str, nn.Module], decay: float) -> None:
        self.models, self.decay = models, decay
        self.state = {k: v.detach().clone() for k, v in _state(models).items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for key, value in _state(self.models).items():
            if value.is_floating_point():
                self.state[key].lerp_(value, 1 - decay)
            else:
                self.state[key].copy_(value)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The EMA weights in the models for the block."""
        own = {k: v.detach().clone() for k, v in _state(self.models).items()}
        _put(self.models, self.state)
        modes = {name: model.training for name, model in self.models.items()}
        for model in self.models.values():
            model.eval()
        try:
            with torch.no_grad():
                yield
                self.state = {k: v.detach().clone() for k, v in _state(self.models).items()}  # `finish` may set buffers
        finally:
            _put(self.models, own)
            for name, model in self.models.items():
                model.train(modes[name])


def _state(models: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for name, model in models.items() for key, value in model.state_dict().items()}


def _put(models: Mapping[str, nn.Module], state: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for key, value in _state(models).items():
            value.copy_(state[key])
