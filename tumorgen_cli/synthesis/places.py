"""Where in a scan tumors are painted: in the user's box, around an existing tumor, or in the body or a region."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tumorgen_cli.data.checks import geometry_faults, read_header
from tumorgen_cli.data.volumes import read_volume
from tumorgen_cli.geometry import Box, Grid, as_triple
from tumorgen_cli.planning.fingerprint import TumorFacts
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.synthesis.paste import fade_mm
from tumorgen_cli.synthesis.scan import Scan
from tumorgen_cli.synthesis.sources import Source
from tumorgen_cli.synthesis.window import Window, large_box_fault, lay_window, redraw_box, window_shape
from tumorgen_cli.system.errors import DataError, Fault
from tumorgen_cli.tumors.boxes import body_mask, draw_size_mm, place_box

_REGION_VOXELS = 4_000_000  # a larger scan is subsampled to find places


def check_places(sources: Sequence[Source], box: Box | None, plan: Plan) -> None:
    """Check where the user wants tumors, by the headers of the files alone.

    Args:
        sources: the host scans.
        box: the user's box in the hosts' voxels, if there is one.
        plan: the plan.

    Raises:
        DataError: a region differs in geometry from its scan, or the user's box is outside a scan or too large for it;
            all faults are listed.
    """
    faults: list[Fault] = []
    for source in sources:
        if box is None and source.roi is None:
            continue
        files = [source.files[0], *([source.roi] if source.roi else [])]
        grids = {path: grid for path in files if (grid := read_header(path, faults)) is not None}
        faults += geometry_faults(grids)
        grid = grids.get(files[0])
        if box is None or grid is None:
            continue
        where = f"--box {','.join(map(str, (*box.start, *box.stop)))} on {source.name}"
        faults += box_faults(where, box, grid, plan)
    if faults:
        raise DataError("Nothing can be painted there", faults)


def box_faults(where: str, box: Box, grid: Grid, plan: Plan) -> list[Fault]:
    """The fault of a user's box that is outside a scan's grid or too large; `where` names box and scan."""
    if any(a < 0 or b > n or b - a < 2 for a, b, n in zip(box.start, box.stop, grid.shape, strict=True)):
        expected = "0 <= start, start + 2 <= stop <= size per axis"
        return [Fault(where, f"outside the scan of {grid.shape} voxels", expected, "correct the box")]
    return [] if window_shape(box, grid, plan) else [large_box_fault(where, box, grid, plan)]


def allowed_region(scan: Scan, roi: np.ndarray | None) -> tuple[np.ndarray, int]:
    """Return where the centers of boxes may lie: in the region of interest, or else in the body.

    Args:
        scan: the host scan.
        roi: mask of the region of interest (X, Y, Z).

    Returns:
        A mask bool of every `stride`-th voxel, and the stride.
    """
    stride = max(1, int(np.ceil((np.prod(scan.grid.shape) / _REGION_VOXELS) ** (1 / 3))))
    if roi is not None:
        return roi[::stride, ::stride, ::stride] > 0, stride
    return body_mask(scan.image[0, ::stride, ::stride, ::stride].astype(np.float32)), stride


class Placing:
    """Boxes for one scan.

    A box is the user's; or the box of a tumor that is redrawn, with BA-PMG's offsets; or a box of a training tumor's
    size in the body or region. Boxes that are drawn get an additional edge, so that the tumor's place in them
    (`paste.tumor_place`) is of that size.
    """

    def __init__(
        self,
        scan: Scan,
        source: Source,
        plan: Plan,
        tumors: Sequence[TumorFacts],
        box: Box | None,
        region: np.ndarray | None = None,
    ) -> None:
        """Find the allowed region if boxes are to be placed in it.

        Args:
            scan: the host scan.
            source: the files of the same scan.
            plan: the plan.
            tumors: the training tumors, whose sizes are drawn.
            box: the user's box in the scan's voxels, if there is one.
            region: mask (X, Y, Z) of the region to paint in, instead of the source's `roi`.

        Raises:
            DataError: the region of interest is empty.
        """
        self.scan, self.source, self.plan, self.tumors, self.user_box = scan, source, plan, tumors, box
        if box is None and not source.redraw:
            self.allowed, self.stride = allowed_region(scan, self._read_roi() if region is None else region)

    def _read_roi(self) -> np.ndarray | None:
        if self.source.roi is None:
            return None
        roi, _ = read_volume(self.source.roi)
        if self.source.region is not None:
            roi = roi == self.source.region
        if not roi.any():
            found = "no voxel set" if self.source.region is None else f"no voxel of label {self.source.region}"
            remedy = "draw one, or leave this host out"
            raise DataError("A region is empty", [Fault(str(self.source.roi), found, "a region to paint in", remedy)])
        return roi

    def window(self, rng: np.random.Generator, turn: int, cell: int) -> Window:
        """Draw a box and lay a window around it.

        Args:
            rng: draws the box.
            turn: how often the scan has been painted into before; its tumors are redrawn in turn.
            cell: side of the method's mask cells in working voxels. The tumor's place has whole cells, unless the box
                is the user's.

        Raises:
            DataError: there is no place for a box, or the box is too large.
        """
        return lay_window(self.scan, self.box(rng, turn), self.plan, cell if self.user_box is None else 1)

    def box(self, rng: np.random.Generator, turn: int) -> Box:
        """Draw a box in the scan's voxels; see `window`."""
        if self.user_box is not None:
            return self.user_box
        if self.source.redraw:
            tumor = self.source.redraw[turn % len(self.source.redraw)]
            return redraw_box(tumor, self.scan.grid, self.plan, rng.uniform(0, 1, 3), rng.uniform(0, 1, 3))
        grid = self.scan.grid
        place_mm, _ = draw_size_mm(self.tumors, self.plan.window.alpha, self.plan.window.extent_mm, rng)
        size_mm = [e + fade_mm(e, self.plan.paste.feather_mm) for e in place_mm]
        # In a host smaller than the box, the box is as large as the host; the window is then padded, and counted.
        size = as_triple(
            max(1, min(round(e / s), n) // self.stride)
            for e, s, n in zip(size_mm, grid.spacing_mm, grid.shape, strict=True)
        )
        coarse = place_box(size, self.allowed, rng)
        if coarse is None:
            fault = Fault(self.scan.name, "no place for a box", "a body or region of interest", "give --roi or --box")
            raise DataError("A host has no place for a tumor", [fault])
        return Box(
            as_triple(a * self.stride for a in coarse.start),
            as_triple(min(b * self.stride, n) for b, n in zip(coarse.stop, grid.shape, strict=True)),
        )
