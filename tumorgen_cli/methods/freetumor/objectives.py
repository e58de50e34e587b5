"""FreeTumor's losses: of the segmentor, of the generator, of the classifier; and the share of a mask that is found."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tumorgen_cli.metrics import overlap
from tumorgen_cli.models.tumor_generator import TumorGenerator


class SegmentorObjective(nn.Module):
    """Cross entropy + (1 - Dice) of the segmentor; Dice is of the whole batch, so that empty windows need no Dice."""

    def __init__(self, segmentor: nn.Module) -> None:
        super().__init__()
        self.segmentor = segmentor

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss for a batch of `image` (B, C, X, Y, Z) in [-1, 1] and `mask` (B, 1, X, Y, Z), 0 or 1."""
        entropy, dice = segmentation_terms(self.segmentor(batch["image"]).float(), batch["mask"])
        return entropy + 1 - dice, {"entropy": entropy.detach(), "overlap": dice.detach()}


def segmentation_terms(logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Cross entropy and soft Dice of logits and a mask (B, 1, X, Y, Z), 0 or 1."""
    share = torch.sigmoid(logits)
    dice = (2 * (share * mask).sum() + 1) / (share.sum() + mask.sum() + 1)
    return F.binary_cross_entropy_with_logits(logits, mask), dice


class GeneratorObjective(nn.Module):
    """λ_seg L_seg + λ_cls L_cls; only the generator is trained. In the paper λ_seg is 1.

    Source: FreeTumor, eqs. 2 and 3.
    Deviation: The segmentor enters as a probability; masks have soft edges; the classifier judges patches.

    Args:
        generator: G.
        segmentor: S, frozen.
        classifier: What G is trained against.
        weights: λ_seg and λ_cls. A term of weight 0 is not computed.
    """

    def __init__(
        self, generator: TumorGenerator, segmentor: nn.Module, classifier: nn.Module, weights: tuple[float, float]
    ) -> None:
        super().__init__()
        self.generator, self.weights = generator, weights
        self._judges = (segmentor, classifier)  # the tuple keeps them out of this module's parameters

    def paint(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The painted images x̂ (B, C, X, Y, Z) in [-1, 1]."""
        painted: Tensor = self.generator((batch["image"] + 1) / 2, batch["mask"], batch["weight"])
        return 2 * painted - 1

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss for a batch of `image` (B, C, X, Y, Z) in [-1, 1], `mask` and `weight` (B, 1, X, Y, Z) in [0, 1]."""
        segmentor, classifier = self._judges
        picture, mask = self.paint(batch), batch["mask"]
        terms, (of_segmentor, of_classifier) = {}, self.weights
        if of_segmentor:
            missed = 1 - torch.sigmoid(segmentor(picture).float())
            terms["lost"] = of_segmentor, (missed * mask).sum() / mask.sum()
        if of_classifier:
            classifier.requires_grad_(False)
            terms["fool"] = of_classifier, classification_loss(classifier(picture)[-1].float(), mask, 1.0)
        loss = torch.stack([weight * term for weight, term in terms.values()]).sum()
        return loss, {name: term.detach() for name, (_, term) in terms.items()}


class ClassifierObjective(nn.Module):
    """Cross entropy of the classifier on real and on synthetic tumors.

    Source: L_cls of FreeTumor, eq. 3.
    """

    def __init__(self, classifier: nn.Module, generator: GeneratorObjective) -> None:
        super().__init__()
        self.classifier = classifier
        self._generator = (generator,)  # the tuple keeps the generator out of this module's parameters

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss for a batch of `GeneratorObjective` with real windows `tumor` and their masks `body`."""
        self.classifier.requires_grad_(True)
        with torch.no_grad():
            picture = self._generator[0].paint(batch)
        real = classification_loss(self.classifier(batch["tumor"])[-1].float(), batch["body"], 1.0)
        fake = classification_loss(self.classifier(picture)[-1].float(), batch["mask"], 0.0)
        return (real + fake) / 2, {}


def classification_loss(logits: Tensor, mask: Tensor, truth: float) -> Tensor:
    """Cross entropy of patch logits (B, 1, x, y, z) against `truth`, over the patches that contain tumor.

    A patch contains tumor if a voxel of `mask` (B, 1, X, Y, Z) in it is at least one half.
    """
    held = (F.adaptive_max_pool3d(mask, logits.shape[2:]) >= 0.5).float()
    each = F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, truth), reduction="none")
    return (each * held).sum() / held.sum().clamp_min(1)


def proportion(found: np.ndarray, mask: np.ndarray) -> float:
    """The share P of a mask that was found; both soft (X, Y, Z), cut at one half; 0 for an empty mask.

    Source: FreeTumor, eq. 4.
    """
    share = overlap.proportion(mask >= 0.5, found >= 0.5)
    return 0.0 if math.isnan(share) else share
