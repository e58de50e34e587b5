"""What the vector field gets as input beside the noisy latents: the host around the box, the box, what it is told.

The character of a tumor is the vector (3 C,) of its traits (`metrics.traits.describe_traits`): contrast, heterogeneity
and core ratio in each channel, NaN where one is not defined. The field may be told a character and a volume.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tumorgen_cli.geometry import Triple
from tumorgen_cli.methods.latent.settings import FlowConfig
from tumorgen_cli.metrics.traits import FIELDS, KINDS, hard_limit, is_hard

#: the buffers that hold values of single training tumors, a row each; the second one is 0 in unused rows
PATIENT_BUFFERS = ("characters", "extents_mm", "volumes_mm3")
_LARGEST_SCORE = 4.0  # bounds what is told; training tumors reach 2 or 3


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


@dataclass(frozen=True)
class Wanted:
    """A tumor to draw.

    Attributes:
        character: (3 C,); empty if the field is told none.
        fill: its share of the box's volume.
    """

    character: np.ndarray
    fill: float


def draw_tumor(
    known: Known,
    box_mm: Triple,
    reach_mm: Triple,
    rng: np.random.Generator,
    kind: str | None,
    channel: int,
) -> Wanted:
    """Draw the training tumor around which a box may have been drawn.

    BA-PMG adds two offsets U(0, reach) to each side of a tumor's box. Each tumor is weighted by the normal density with
    the mean and the variance of that sum. A box that fits no tumor gets the tumor nearest in size.

    Args:
        known: The training tumors.
        box_mm: Extent of the box.
        reach_mm: Largest offset per axis.
        rng: Random numbers.
        kind: Draw only tumors of this kind (`metrics.traits.KINDS`); None for any.
        channel: The channel in which `kind` is judged.
    """
    left = (np.array(box_mm) - known.extents_mm - np.array(reach_mm)) / (np.array(reach_mm) / math.sqrt(6))
    weight = -0.5 * np.square(left).sum(1)
    if kind is not None:
        values = known.characters[:, channel * len(FIELDS) + FIELDS.index(KINDS[kind][0])]
        weight = np.where(is_hard(kind, values, hard_limit(kind, values)), weight, -np.inf)
    likely = np.exp(weight - weight.max())
    number = int(rng.choice(len(weight), p=likely / likely.sum()))
    return Wanted(known.characters[number], float(min(1.0, known.volumes_mm3[number] / math.prod(box_mm))))


@dataclass(frozen=True)
class Known:
    """The training tumors: characters (N, 3 C), extents (N, 3) of their boxes in whole cells, volumes (N,)."""

    characters: np.ndarray
    extents_mm: np.ndarray
    volumes_mm3: np.ndarray


class Condition(nn.Module):
    """The field's input beside x_t: z^m = (1 - B) z_1 and, as far as the plan says, the box and what is told.

    Characters enter the field as `normal_scores` among the training tumors, a volume as 4 share^(1/3) - 2, where the
    share is that of the box. The training tumors' characters, extents and volumes are buffers that are saved with the
    field, so that a tumor can be drawn for a synthesis.

    Source: z^m of TumorGen, sections 2.1 and 2.2.
    Deviation: Box, character and volume are not in the paper.

    Attributes:
        channels: number of input channels that the condition takes.
        values: number of values that are told (`tell`).
        flag: whether one of them says that something is told; only such a field has learned what is untold.
        characters: (ROWS, 3 C) characters of training tumors.
        extents_mm: (ROWS, 3) their extents; 0 in unused rows.
        volumes_mm3: (ROWS,) their volumes.
    """

    ROWS = 256  # of more training tumors, evenly spaced ones are stored
    characters: Tensor
    extents_mm: Tensor
    volumes_mm3: Tensor

    def __init__(self, latent_channels: int, channels: int, config: FlowConfig) -> None:
        super().__init__()
        self.box_channel, self.volume, self.flag = config.box_channel, config.volume, config.dropout > 0
        self.traits = len(FIELDS) * channels if config.character else 0
        told = self.traits + self.volume
        self.values = told + self.flag if told else 0
        self.channels = latent_channels + config.box_channel + self.values
        if self.values:
            self.register_buffer("characters", torch.zeros(self.ROWS, self.traits))
            self.register_buffer("extents_mm", torch.zeros(self.ROWS, 3))
            self.register_buffer("volumes_mm3", torch.zeros(self.ROWS))

    @classmethod
    def stored_rows(cls, count: int) -> np.ndarray:
        """The numbers of the training tumors that are stored, of `count`."""
        return np.linspace(0, count, min(cls.ROWS, count), endpoint=False).astype(int)

    def learn(self, known: Known) -> None:
        """Store the training tumors, if the field is told anything about tumors."""
        if self.values:
            rows = self.stored_rows(len(known.extents_mm))
            for buffer, values in (
                (self.characters, known.characters[:, : self.traits]),
                (self.extents_mm, known.extents_mm),
                (self.volumes_mm3, known.volumes_mm3),
            ):
                buffer[: len(rows)] = torch.from_numpy(np.asarray(values, np.float32)[rows])

    def known(self) -> Known:
        """The stored training tumors."""
        extents = self.extents_mm.cpu().numpy()
        filled = extents.any(1)
        return Known(self.characters.cpu().numpy()[filled], extents[filled], self.volumes_mm3.cpu().numpy()[filled])

    def tell(self, wanted: Wanted | None, emphasis: float = 1.0, known: Known | None = None) -> np.ndarray:
        """What the field is told (values,), float32.

        Args:
            wanted: The tumor; None if nothing is told about it.
            emphasis: Factor of the scores of its character.
            known: What `known` returns; given where many are told, because reading it from a GPU takes time.
        """
        told = np.zeros(self.values, np.float32)
        if wanted is None or not self.values:
            return told
        if self.traits:
            scores = emphasis * normal_scores(wanted.character[: self.traits], (known or self.known()).characters)
            told[: self.traits] = np.clip(scores, -_LARGEST_SCORE, _LARGEST_SCORE)
        if self.volume:
            told[self.traits] = 4 * wanted.fill ** (1 / 3) - 2
        if self.flag:
            told[-1] = 1
        return told

    def draw(
        self, box_mm: Triple, reach_mm: Triple, rng: np.random.Generator, kind: str | None, channel: int
    ) -> Wanted | None:
        """A training tumor for a box (`draw_tumor`); None if the field is told nothing."""
        return draw_tumor(self.known(), box_mm, reach_mm, rng, kind, channel) if self.values else None

    def forward(self, latent: Tensor, box: Tensor, told: Tensor) -> Tensor:
        """The input channels (B, channels, x, y, z).

        Args:
            latent: (B, L, x, y, z).
            box: (B, 1, x, y, z), 1 inside.
            told: (B, values) from `tell`.
        """
        parts = [(1 - box) * latent]
        if self.box_channel:
            parts.append(box)
        if self.values:
            parts.append(box * told.view(*told.shape, 1, 1, 1))
        return torch.cat(parts, 1)
