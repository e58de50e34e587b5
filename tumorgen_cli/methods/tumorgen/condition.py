"""What the vector field gets as input beside the noisy latents: the host around the box, the box, a tumor's character.

The character of a tumor is the vector (3 C,) of its traits (`metrics.traits.describe_traits`): contrast, heterogeneity
and core ratio in each channel, NaN where one is not defined.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from tumorgen_cli.geometry import Triple
from tumorgen_cli.methods.tumorgen.config import FlowConfig
from tumorgen_cli.metrics.traits import FIELDS, KINDS, hard_limit, is_hard


def normal_scores(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Standard normal scores of values by their rank among known values, column by column.

    The scores do not depend on units. Values between known ones are interpolated, values beyond them get the extreme
    scores. A score is 0 where the value is NaN, and in columns with fewer than two different known values.

    Args:
        values: (..., V).
        known: (N, V).

    Returns:
        The scores (..., V) float32.
    """
    from scipy.special import ndtri

    out = np.zeros(values.shape, np.float32)
    for column in range(known.shape[1]):
        ordered = np.sort(known[np.isfinite(known[:, column]), column].astype(np.float64))
        steps, first, count = np.unique(ordered, return_index=True, return_counts=True)
        if len(steps) > 1:
            scores = ndtri((first + count / 2) / len(ordered))  # equal values share the middle of their ranks
            given = values[..., column].astype(np.float64)
            out[..., column] = np.where(np.isfinite(given), np.interp(np.nan_to_num(given), steps, scores), 0)
    return out


def draw_character(
    known: np.ndarray,
    extents_mm: np.ndarray,
    box_mm: Triple,
    reach_mm: Triple,
    rng: np.random.Generator,
    kind: str | None,
    channel: int,
) -> np.ndarray:
    """Draw the character of a training tumor around which the box may have been drawn.

    BA-PMG adds two offsets U(0, reach) to each side of a tumor's box. Each tumor is weighted by the normal density with
    the mean and the variance of that sum. A box that fits no tumor gets the character of the tumor nearest in size.

    Args:
        known: Characters (N, 3 C) of the training tumors.
        extents_mm: Their extents (N, 3).
        box_mm: Extent of the box.
        reach_mm: Largest offset per axis.
        rng: Random numbers.
        kind: Draw only tumors of this kind (`metrics.traits.KINDS`); None for any.
        channel: The channel in which `kind` is judged.
    """
    left = (np.array(box_mm) - extents_mm - np.array(reach_mm)) / (np.array(reach_mm) / math.sqrt(6))
    weight = -0.5 * np.square(left).sum(1)
    if kind is not None:
        values = known[:, channel * len(FIELDS) + FIELDS.index(KINDS[kind][0])]
        weight = np.where(is_hard(kind, values, hard_limit(kind, values)), weight, -np.inf)
    likely = np.exp(weight - weight.max())
    return np.asarray(known[int(rng.choice(len(known), p=likely / likely.sum()))])


class Condition(nn.Module):
    """The field's input beside x_t: z^m = (1 - B) z_1 and, as far as the plan says, the box and a character inside it.

    Characters enter the field as `normal_scores` among the training tumors. The training tumors' characters and extents
    are buffers that are saved with the field, so that a character can be drawn for a synthesis.

    Source: z^m of TumorGen, sections 2.1 and 2.2.
    Deviation: Box and character are not in the paper.

    Attributes:
        channels: number of input channels that the condition takes.
        values: length 3 C of a character; 0 if the field gets none.
        characters: (ROWS, 3 C) characters of training tumors.
        extents_mm: (ROWS, 3) their extents; 0 in unused rows.
    """

    ROWS = 256  # of more training tumors, evenly spaced ones are stored
    characters: Tensor
    extents_mm: Tensor

    def __init__(self, latent_channels: int, channels: int, config: FlowConfig) -> None:
        super().__init__()
        self.box_channel = config.box_channel
        self.values = len(FIELDS) * channels if config.character else 0
        self.channels = latent_channels + config.box_channel + self.values
        if self.values:
            self.register_buffer("characters", torch.zeros(self.ROWS, self.values))
            self.register_buffer("extents_mm", torch.zeros(self.ROWS, 3))

    def learn(self, characters: np.ndarray, extents_mm: np.ndarray) -> None:
        """Store the characters (N, 3 C) and extents (N, 3) of the training tumors, if the field gets characters."""
        if self.values:
            rows = np.linspace(0, len(characters), min(self.ROWS, len(characters)), endpoint=False).astype(int)
            self.characters[: len(rows)] = torch.from_numpy(characters[rows])
            self.extents_mm[: len(rows)] = torch.from_numpy(extents_mm[rows])

    def known(self) -> tuple[np.ndarray, np.ndarray]:
        """The stored characters (N, 3 C) and extents (N, 3)."""
        extents = self.extents_mm.cpu().numpy()
        filled = extents.any(1)
        return self.characters.cpu().numpy()[filled], extents[filled]

    def standardize(self, characters: np.ndarray) -> np.ndarray:
        """Characters (..., 3 C) as the field gets them; unchanged if it gets none."""
        return normal_scores(characters, self.known()[0]) if self.values else characters

    def draw(
        self, box_mm: Triple, reach_mm: Triple, rng: np.random.Generator, kind: str | None, channel: int
    ) -> np.ndarray | None:
        """A training tumor's character (3 C,) for a box (`draw_character`); None if the field gets none."""
        return draw_character(*self.known(), box_mm, reach_mm, rng, kind, channel) if self.values else None

    def forward(self, latent: Tensor, box: Tensor, character: Tensor | None) -> Tensor:
        """The input channels (B, channels, x, y, z).

        Args:
            latent: (B, L, x, y, z).
            box: (B, 1, x, y, z), 1 inside.
            character: (B, 3 C) from `standardize`; None if the field gets none.
        """
        parts = [(1 - box) * latent]
        if self.box_channel:
            parts.append(box)
        if self.values:
            if character is None:
                raise ValueError("a field that was trained with characters needs one")
            parts.append(box * character.view(*character.shape, 1, 1, 1))
        return torch.cat(parts, 1)
