"""A judge's predictions, kept in a folder: painting, scoring and filtering ask for a scan's prediction once.

A file is named by what the prediction depends on. One that was cut or changed is made again (`system.arrays`).
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tumorgen_cli.geometry import Box, Grid
from tumorgen_cli.judge.verdict import group_boxes, grown_box, judged_region, predict_around
from tumorgen_cli.system.arrays import read_arrays, write_arrays
from tumorgen_cli.system.json_records import hash_value

if TYPE_CHECKING:
    from tumorgen_cli.judge.model import Judge

_LONGEST_NAME = 100  # of a scan, in a file's name, of which file systems allow 255 bytes
_IN_MEMORY = 4  # predictions; the pairs of a host follow each other


class Predictions:
    """Predictions of one judge.

    Attributes:
        judge: the judge.
    """

    def __init__(self, judge: Judge, cache: Path | None = None) -> None:
        """Prepare; nothing is read yet.

        Args:
            judge: the judge.
            cache: folder in which predictions are kept; None to keep the last few in memory only.
        """
        self.judge = judge
        self._folder = None if cache is None else cache / "predictions" / judge.hash
        self._last: OrderedDict[str, np.ndarray] = OrderedDict()

    def around(
        self, name: str, content: str, grid: Grid, boxes: Sequence[Box], read_image: Callable[[], np.ndarray]
    ) -> np.ndarray:
        """Return the judge's tumor in the parts of a scan that it sees around boxes (`verdict.judged_region`).

        Where it sees the boxes in several parts, a part counts around its own boxes alone.

        Args:
            name: name of the scan.
            content: hash of the scan's files.
            grid: the scan's grid.
            boxes: boxes in the scan's voxels.
            read_image: returns the scan (C, X, Y, Z); it is called if there is no prediction yet.

        Returns:
            Mask (X, Y, Z) bool of the whole scan; False outside the parts.
        """
        groups = group_boxes(grid, boxes, self.judge.usual_extent_mm)
        hulls = [functools.reduce(Box.hull, group) for group in groups]
        if len(groups) == 1:
            return self._around_one(name, content, grid, hulls[0], read_image)
        predicted = np.zeros(grid.shape, bool)
        for hull, group in zip(hulls, groups, strict=True):
            found = self._around_one(name, content, grid, hull, read_image)
            for box in group:
                near = grown_box(box, grid).slices
                predicted[near] |= found[near]
        return predicted

    def _around_one(
        self, name: str, content: str, grid: Grid, box: Box, read_image: Callable[[], np.ndarray]
    ) -> np.ndarray:
        key = self._key(content, grid, judged_region(grid, box, self.judge.usual_extent_mm))
        if key not in self._last:
            found = None if self._folder is None else _read(self._path(name, key), grid)
            if found is None:
                found = predict_around(self.judge, read_image(), grid, box)
                self._write(name, key, found)
            self._last[key] = found
            while len(self._last) > _IN_MEMORY:
                self._last.popitem(last=False)
        return self._last[key]

    def keep(self, name: str, content: str, grid: Grid, tumor: np.ndarray) -> None:
        """Keep the judge's tumor (X, Y, Z) bool in the whole of a scan; see `around`."""
        self._write(name, self._key(content, grid, Box((0, 0, 0), grid.shape)), tumor)

    def _key(self, content: str, grid: Grid, region: Box) -> str:
        return hash_value([content, grid, region, self.judge.tumor_labels])

    def _path(self, name: str, key: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{name[:_LONGEST_NAME]}.{key}.npz"

    def _write(self, name: str, key: str, tumor: np.ndarray) -> None:
        if self._folder is not None:
            write_arrays(self._path(name, key), {"tumor": np.packbits(tumor)})


def _read(path: Path, grid: Grid) -> np.ndarray | None:
    """Read a prediction; None if it is missing, damaged or of another size."""
    found = (read_arrays(path) or {}).get("tumor")
    count = int(np.prod(grid.shape))
    if found is None or found.dtype != np.uint8 or found.shape != ((count + 7) // 8,):
        return None
    return np.unpackbits(found, count=count).reshape(grid.shape).astype(bool)
