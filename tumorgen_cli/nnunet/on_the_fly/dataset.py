"""nnU-Net's training data with painted patches, and how often the patches that nnU-Net cuts show a tumor."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tumorgen_cli.nnunet.on_the_fly.pool import Pool

#: what a patch may be cut from
_REAL, _AROUND, _ELSEWHERE = range(3)


@dataclass(frozen=True)
class Drawn:
    """What nnU-Net has cut.

    Attributes:
        patches: number of patches.
        with_tumor: number of patches that show a tumor voxel.
        tumor: sum over the patches of the share of tumor voxels.
    """

    patches: int
    with_tumor: int
    tumor: float

    def __str__(self) -> str:
        count = max(1, self.patches)
        return f"{self.with_tumor / count:.0%} show a tumor (in the mean {self.tumor / count:.2%} of the voxels)"


class WatchedLabels:
    """Labels (1, X, Y, Z) of a case or of an entry that report each part that nnU-Net's loader cuts from them."""

    def __init__(self, labels: Any, report: Callable[[np.ndarray], None]) -> None:
        self.labels, self.report = labels, report
        self.shape, self.dtype, self.ndim = labels.shape, labels.dtype, len(labels.shape)

    def __getitem__(self, part: Any) -> np.ndarray:
        found = np.asarray(self.labels[part])
        self.report(found)
        return found


class PaintedDataset:
    """nnU-Net's training data, in which a case is replaced by an entry of the pool with a given probability.

    An entry has two patches of a painted scan: one around a tumor, one from elsewhere in the scan. Of painted scans as
    many patches show a tumor as of real ones (`around_share`), unless another share is given. Around tumors alone
    nearly every patch would show one: nnU-Net would learn that tumors are everywhere where scans are painted.

    It has those parts of nnU-Net's data set class that nnU-Net's loader uses.
    """

    def __init__(
        self,
        dataset: Any,
        pool: Pool,
        probability: float,
        tumor: Sequence[int],
        oversampling: float = 0.33,
        around: float | None = None,
    ) -> None:
        """Prepare; nothing is drawn yet.

        Args:
            dataset: nnU-Net's own training data.
            pool: the painted patches.
            probability: probability that a case is replaced.
            tumor: values of the tumor label.
            oversampling: share of nnU-Net's patches that are cut around foreground (`oversample_foreground_percent`).
                It is the share of real patches with a tumor as long as none has been cut.
            around: share of the painted draws from around a tumor; None for as many tumors as in real patches.
        """
        self.dataset, self.pool, self.probability, self.tumor = dataset, pool, probability, tuple(tumor)
        self.oversampling, self.around = oversampling, around
        self.identifiers = dataset.identifiers
        #: by what patches are cut from: their number, how many show a tumor, sum of the shares of tumor voxels
        self.counts = multiprocessing.Array("d", 9)  # loaders in other processes increase them
        self._reported = np.zeros((3, 3))

    def __getitem__(self, identifier: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        return self.load_case(identifier)

    def load_case(self, identifier: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        """Load a case, or an entry of the pool instead.

        Returns:
            Image, labels, labels of an earlier stage (none for a painted patch), and the case's properties.
        """
        random = np.random.random  # nnU-Net seeds numpy's global generator in each of its loaders
        if random() < self.probability:
            kind = _AROUND if random() < self.around_share() else _ELSEWHERE
            entry = self.pool.draw(random, elsewhere=kind == _ELSEWHERE)
            if entry is not None:
                return entry.image, self._watch(entry.labels, kind), None, {"class_locations": entry.locations}
        image, labels, earlier, properties = self.dataset.load_case(identifier)
        return image, self._watch(labels, _REAL), earlier, properties

    def around_share(self) -> float:
        """The share of painted draws that are cut from around a tumor.

        With it, as large a share of all painted patches shows a tumor as of the real ones, by the shares of patches
        that were cut so far. Each of these starts as if one patch had been cut.
        """
        if self.around is not None:
            return self.around
        first = np.array([self.oversampling, 1.0, 0.0])
        counts = self._read()
        real, around, elsewhere = (counts[:, 1] + first) / (counts[:, 0] + 1)
        return float(np.clip((real - elsewhere) / max(around - elsewhere, 1e-6), 0, 1))

    def _watch(self, labels: Any, kind: int) -> WatchedLabels:
        def report(part: np.ndarray) -> None:
            share = float(np.isin(part, self.tumor).mean()) if part.size else 0.0
            with self.counts.get_lock():
                for place, value in enumerate((1.0, float(share > 0), share)):
                    self.counts[3 * kind + place] += value

        return WatchedLabels(labels, report)

    def _read(self) -> np.ndarray:
        with self.counts.get_lock():
            return np.array(self.counts[:]).reshape(3, 3)

    def take_drawn(self) -> tuple[Drawn, Drawn]:
        """Return what was cut from real cases and from painted patches since the last call."""
        now = self._read()
        new, self._reported = now - self._reported, now
        real, painted = (Drawn(round(n), round(k), share) for n, k, share in (new[_REAL], new[_AROUND:].sum(axis=0)))
        return real, painted
