"""nnU-Net's training data with painted patches: some of its cases come from the pool."""

from __future__ import annotations

import multiprocessing
from typing import Any

import numpy as np

from tumorgen_cli.nnunet.on_the_fly.pool import Pool


class PaintedDataset:
    """nnU-Net's training data, in which a case is replaced by an entry of the pool with a given probability.

    It has those parts of nnU-Net's data set class that nnU-Net's loader uses.

    Attributes:
        counts: number of all patches and number of painted patches; loaders in other processes increase them.
    """

    def __init__(self, dataset: Any, pool: Pool, probability: float) -> None:
        self.dataset, self.pool, self.probability = dataset, pool, probability
        self.identifiers = dataset.identifiers
        self.counts = multiprocessing.Array("q", 2)

    def __getitem__(self, identifier: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        return self.load_case(identifier)

    def load_case(self, identifier: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        """Load a case, or an entry of the pool instead.

        Returns:
            Image, labels, labels of an earlier stage (none for a painted patch), and the case's properties.
        """
        random = np.random.random  # nnU-Net seeds numpy's global generator in each of its loaders
        entry = self.pool.draw(random) if random() < self.probability else None
        with self.counts.get_lock():
            self.counts[0] += 1
            self.counts[1] += entry is not None
        if entry is None:
            case: tuple[Any, Any, Any, dict[str, Any]] = self.dataset.load_case(identifier)
            return case
        return entry.image, entry.labels, None, {"class_locations": entry.locations}

    def take_counts(self) -> tuple[int, int]:
        """Return the number of all patches and of painted patches since the last call, and set both to 0."""
        with self.counts.get_lock():
            patches, painted = int(self.counts[0]), int(self.counts[1])
            self.counts[0] = self.counts[1] = 0
        return patches, painted
