"""DiffTumor's denoising network: a 3D U-Net with in-plane convolutions, and attention in the plane and in depth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: attention within the slices
Attention = Literal["linear", "softmax"]
_GROUPS = 8
_FAR = 16  # slices; larger distances share a bias


def _conv(a: int, b: int, size: int = 3) -> nn.Conv3d:
    """An in-plane convolution from `a` to `b` channels."""
    return nn.Conv3d(a, b, (size, size, 1), padding=(size // 2, size // 2, 0))


class _Block(nn.Module):
    """Two in-plane convolutions, each normalized, with a residual connection.

    After the first, the step embedding scales and shifts; the last block of the network has none.
    """

    def __init__(self, a: int, b: int, time: int | None) -> None:
        super().__init__()
        self.first = nn.Sequential(_conv(a, b), nn.GroupNorm(_GROUPS, b))
        self.second = nn.Sequential(nn.SiLU(), _conv(b, b), nn.GroupNorm(_GROUPS, b), nn.SiLU())
        self.time = nn.Linear(time, 2 * b) if time else None
        self.skip = nn.Conv3d(a, b, 1) if a != b else nn.Identity()

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        hidden = self.first(x)
        if self.time is not None and time is not None:
            scale, shift = self.time(F.silu(time))[..., None, None, None].chunk(2, 1)
            hidden = hidden * (1 + scale) + shift
        out: Tensor = self.skip(x) + self.second(hidden)
        return out


class _Attention(nn.Module):
    """Self-attention with a residual connection: within each slice (X, Y), or along the depth Z."""

    def __init__(self, width: int, heads: tuple[int, int], along_depth: bool, kind: Attention = "softmax") -> None:
        super().__init__()
        self.along_depth, self.heads, self.kind = along_depth, heads, kind
        self.norm = nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * math.prod(heads), bias=False)
        self.out = nn.Linear(math.prod(heads), width)
        # bias per head and distance of two slices
        self.near = nn.Parameter(torch.zeros(heads[0], 2 * _FAR + 1)) if along_depth else None

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x.movedim(1, -1))  # (B, X, Y, Z, C)
        if not self.along_depth:
            tokens = tokens.movedim(3, 1)  # (B, Z, X, Y, C)
        line = tokens.shape[3:4] if self.along_depth else tokens.shape[2:4]
        flat = tokens.reshape(-1, math.prod(line), x.shape[1])
        q, k, v = (part.unflatten(-1, self.heads).transpose(1, 2) for part in self.qkv(flat).chunk(3, -1))
        found = _attend_linearly(q, k, v) if self.kind == "linear" else _attend(q, k, v, self._bias(math.prod(line)))
        mixed = self.out(found.transpose(1, 2).flatten(2)).view(tokens.shape)
        if not self.along_depth:
            mixed = mixed.movedim(1, 3)
        out: Tensor = x + mixed.movedim(-1, 1)
        return out

    def _bias(self, length: int) -> Tensor | None:
        """The bias of each head for every pair of slices, (heads, length, length); None within a slice."""
        if self.near is None:
            return None
        place = torch.arange(length, device=self.near.device)
        return self.near[:, (place[None] - place[:, None]).clamp(-_FAR, _FAR) + _FAR]


def _attend_linearly(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Linear attention of (B, heads, L, D): its cost grows with L, not with its square.

    Source: Shen et al., Efficient Attention, WACV 2021.
    """
    summary = k.softmax(-2).transpose(-1, -2).to(v.dtype) @ v  # (B, heads, D, D)
    return (q.softmax(-1) * q.shape[-1] ** -0.5).to(v.dtype) @ summary


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Softmax attention with a bias (heads, L, L).

    On a CPU it uses plain products: the backward pass of the fused kernel is slow with many short sequences.
    """
    if q.is_cuda:
        return F.scaled_dot_product_attention(q, k, v, None if bias is None else bias.to(q.dtype))
    weight = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    return (weight if bias is None else weight + bias).softmax(-1).to(v.dtype) @ v


class _Level(nn.Module):
    """Two blocks, then attention within the slices and along the depth; in the middle, attention between the blocks."""

    def __init__(
        self, a: int, b: int, time: int, heads: tuple[int, int], kind: Attention, middle: bool = False
    ) -> None:
        super().__init__()
        self.middle = middle
        self.first, self.second = _Block(a, b, time), _Block(b, b, time)
        self.plane, self.depth = _Attention(b, heads, False, kind), _Attention(b, heads, True)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        x = self.first(x, time)
        if not self.middle:
            x = self.second(x, time)
        out: Tensor = self.depth(self.plane(x))
        return self.second(out, time) if self.middle else out


class PlaneUNet(nn.Module):
    """Noise ε(x, step): (B, in_channels, X, Y, Z), (B,) -> (B, out_channels, X, Y, Z).

    X and Y of any length are filled up with zeros to multiples of the downsampling in the plane; Z is not downsampled.

    Source: DiffTumor, section 3.2, and its published code: (3, 3, 1) convolutions, each followed by its norm; slices
        halved between levels; attention in each slice, then along the depth, linear in the slice except in the middle.
    Deviation: A learned bias of each depth attention gives the distance of slices, where the published code has rotary
        positions and one bias for all.

    Args:
        in_channels: Channels of x.
        out_channels: Channels of the noise.
        widths: Channels of the levels.
        heads: Number and width of the attention heads.
        attention: The kind of attention in the slices: `linear`, or `softmax` at every level.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        widths: Sequence[int],
        heads: tuple[int, int],
        attention: Attention = "linear",
    ) -> None:
        super().__init__()
        self.base, self.multiple = widths[0], 2 ** (len(widths) - 1)
        time = 4 * self.base
        self.time = nn.Sequential(nn.Linear(self.base, time), nn.GELU(), nn.Linear(time, time))
        self.start = _conv(in_channels, self.base, 7)
        self.start_depth = _Attention(self.base, heads, True)
        pairs = list(pairwise((self.base, *widths)))
        self.down = nn.ModuleList([_Level(a, b, time, heads, attention) for a, b in pairs])
        self.narrow = nn.ModuleList([nn.Conv3d(b, b, (4, 4, 1), (2, 2, 1), (1, 1, 0)) for _, b in pairs[:-1]])
        self.middle = _Level(widths[-1], widths[-1], time, heads, "softmax", middle=True)
        self.up = nn.ModuleList([_Level(2 * b, a, time, heads, attention) for a, b in reversed(pairs)])
        self.widen = nn.ModuleList(
            [nn.ConvTranspose3d(a, a, (4, 4, 1), (2, 2, 1), (1, 1, 0)) for a, _ in reversed(pairs[1:])]
        )
        self.end = _Block(2 * self.base, self.base, None)
        self.out = nn.Conv3d(self.base, out_channels, 1)

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        """The noise in `x` (B, in_channels, X, Y, Z) at the diffusion steps `step` (B,)."""
        half = self.base // 2
        angles = step.float()[:, None] * torch.exp(
            -math.log(10000) * torch.arange(half, device=x.device) / max(1, half - 1)
        )
        time = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        sides = x.shape[2:4]
        lacking = [-n % self.multiple for n in sides]
        first = self.start(F.pad(x, (0, 0, 0, lacking[1], 0, lacking[0])))
        x, skips = self.start_depth(first), []
        for number, level in enumerate(self.down):
            x = level(x, time)
            skips.append(x)
            if number < len(self.narrow):
                x = self.narrow[number](x)
        x = self.middle(x, time)
        for number, level in enumerate(self.up):
            x = level(torch.cat([x, skips.pop()], 1), time)
            if number < len(self.widen):
                x = self.widen[number](x)
        out: Tensor = self.out(self.end(torch.cat([x, first], 1)))
        return out[:, :, : sides[0], : sides[1]].float()
