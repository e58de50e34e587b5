"""Weights that a training starts from: those of an earlier training, or of a checkpoint that the user gives.

Importing this module imports torch; only the child process does so.
"""

from __future__ import annotations

from pathlib import Path

import torch

_HEADS = ".seg_layers."  # the last layers, whose shape depends on the labels
_WRAPPERS = ("_orig_mod.", "module.")  # of torch.compile and of several GPUs


def load_initial_weights(network: torch.nn.Module, path: Path) -> None:
    """Load the weights of one of nnU-Net's checkpoints; its last layers only where they have the same shape.

    Args:
        network: The network; it is changed.
        path: The checkpoint. Only plain values are read from it.

    Raises:
        ValueError: Other layers are missing or have another shape: it is a checkpoint of another network.
    """
    found = torch.load(path, map_location="cpu", weights_only=True)
    weights = found.get("network_weights", found)
    for wrapper in _WRAPPERS:
        weights = {name.removeprefix(wrapper): value for name, value in weights.items()}
    own = network.state_dict()
    fitting = {name: weights[name] for name, value in own.items() if _fits(value, weights.get(name))}
    others = sorted(name for name in own if name not in fitting and _HEADS not in name)
    if others:
        raise ValueError(
            f"{path} is of another network: {len(others)} of {len(own)} layers do not fit, such as {others[0]}; "
            "give a checkpoint of the network that nnU-Net plans here"
        )
    network.load_state_dict({**own, **fitting})


def _fits(own: torch.Tensor, other: object) -> bool:
    """Whether a weight can be taken over."""
    return isinstance(other, torch.Tensor) and own.shape == other.shape
