"""Exponential moving average (EMA) of a network's weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class ExponentialMovingAverage:
    """Exponential moving average of the parameters of several models.

    Floating-point buffers are averaged as well; integer buffers are copied.

    Attributes:
        models: the models that are averaged, by name.
        decay: the largest decay. After step n the decay is min(decay, (1 + n) / (10 + n)), so that the average forgets
            the first weights quickly.
        state: the averaged tensors by `name.key`.
    """

    def __init__(self, models: Mapping[str, nn.Module], decay: float) -> None:
        self.models, self.decay = models, decay
        self.state = _copy(models)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the models' present weights to the average, after training step `step`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for key, value in named_tensors(self.models).items():
            if value.is_floating_point():
                self.state[key].lerp_(value, 1 - decay)
            else:
                self.state[key].copy_(value)

    @contextlib.contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Put the averaged weights into the models for the block, in evaluation mode and without gradients.

        Buffers that the block changes, such as latent statistics, become part of the average.
        """
        own = _copy(self.models)
        set_tensors(self.models, self.state)
        modes = {name: model.training for name, model in self.models.items()}
        for model in self.models.values():
            model.eval()
        try:
            with torch.no_grad():
                yield
                self.state = _copy(self.models)
        finally:
            set_tensors(self.models, own)
            for name, model in self.models.items():
                model.train(modes[name])


def named_tensors(models: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The parameters and buffers of several models, by `name.key`; not copies."""
    return {f"{name}.{key}": value for name, model in models.items() for key, value in model.state_dict().items()}


def set_tensors(models: Mapping[str, nn.Module], state: Mapping[str, Tensor]) -> None:
    """Copy the tensors of `state` into the parameters and buffers of the models."""
    with torch.no_grad():
        for key, value in named_tensors(models).items():
            value.copy_(state[key])


def _copy(models: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in named_tensors(models).items()}
