"""Hosts compared with what was learned: places, grids and intensities. What is certainly wrong is refused.

Geometry is checked by the headers of all hosts before anything is painted (`check_sources`), intensities when a host is
read (`check_intensities`). What is only doubtful is told, with what was found and what the training cases have.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tumorgen_cli.data.body import body_levels, body_stride
from tumorgen_cli.data.channels import is_ct
from tumorgen_cli.data.checks import geometry_faults, read_header
from tumorgen_cli.geometry import Box, Grid, describe_edges
from tumorgen_cli.planning.fingerprint import CaseFacts
from tumorgen_cli.planning.plan import ChannelPlan, Plan
from tumorgen_cli.synthesis.scan import Scan
from tumorgen_cli.synthesis.sources import Source
from tumorgen_cli.synthesis.window import large_box_fault, window_shape
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import DataError, Fault, abbreviate_list

_SPACING = 2.0  # factor beyond the training cases' voxel edges from which on a spacing is doubtful
_COARSE = 3.0  # factor from which on, along all axes, tumors have too few voxels
_FIELD = 3.0  # factor beyond the training cases' extents from which on a field of view is doubtful
_HU_DOUBTFUL, _HU_WRONG = 150.0, 500.0  # beyond the training cases' medians: other organs; an offset of 1024
_RATIO_DOUBTFUL, _RATIO_WRONG = 3.0, 10.0  # beyond the training cases: another scale; another unit, such as Bq/ml


def check_sources(
    sources: Sequence[Source], box: Box | None, plan: Plan, cases: Sequence[CaseFacts], tell: bool = True
) -> None:
    """Check hosts and the places where the user wants tumors, by the headers of the files alone.

    Warns of spacings and fields of view unlike the training cases', and where places cannot be compared.

    Args:
        sources: the host scans.
        box: the user's box in the hosts' voxels, if there is one.
        plan: the plan.
        cases: the training cases.
        tell: warn of what is doubtful.

    Raises:
        DataError: a region is missing or differs in geometry from its scan, the user's box is outside a scan or too
            large for it, or a scan is far coarser than the training cases; all faults are listed.
    """
    remedy = "write one mask per scan, named as the scan without _0000"
    faults = [
        Fault(str(source.roi), "no such file", f"a mask for {source.name}", remedy)
        for source in sources
        if source.roi is not None and not source.roi.is_file()
    ]
    if faults:
        raise DataError("Regions of interest are missing", faults)
    grids: dict[str, Grid] = {}
    for source in sources:
        if box is None and source.redraw:
            continue
        files = [source.files[0], *([source.roi] if source.roi else [])]
        unreadable: list[Fault] = []  # without a place of the user's, only the pairs of this host fail, when it is read
        found = {path: grid for path in files if (grid := read_header(path, unreadable)) is not None}
        faults += unreadable if box is not None or source.roi is not None else []
        faults += geometry_faults(found)
        grid = found.get(files[0])
        if grid is None:
            continue
        if not source.redraw:
            grids[source.name] = grid
        if box is not None:
            where = f"--box {','.join(map(str, (*box.start, *box.stop)))} on {source.name}"
            faults += box_faults(where, box, grid, plan)
    faults += coarse_faults(grids, cases)
    if faults:
        raise DataError("Nothing can be painted there", faults)
    doubts = grid_doubts(grids, cases)
    if box is None and any(not source.redraw for source in sources):
        doubts += place_doubts(plan, cases)
    for doubt in doubts if tell else ():
        console.warn(doubt)


def place_doubts(plan: Plan, cases: Sequence[CaseFacts]) -> list[str]:
    """Tell that boxes are drawn anywhere although the plan compares surroundings: no training tumor has any."""
    tumors = [tumor for case in cases for tumor in case.tumors]
    if plan.paste.places == "anywhere" or not tumors or any(tumor.surroundings for tumor in tumors):
        return []
    text = (
        f"around none of the {len(tumors)} training tumors is anything but tumor, so places cannot be compared with "
        "theirs: boxes are drawn anywhere in the regions or the body; give --roi if tumors may not lie everywhere"
    )
    return [text]


def box_faults(where: str, box: Box, grid: Grid, plan: Plan) -> list[Fault]:
    """The fault of a user's box that is outside a scan's grid or too large; `where` names box and scan."""
    if any(a < 0 or b > n or b - a < 2 for a, b, n in zip(box.start, box.stop, grid.shape, strict=True)):
        expected = "0 <= start, start + 2 <= stop <= size per axis"
        return [
            Fault(
                where,
                f"outside the scan of {grid.shape} voxels",
                expected,
                "give a box inside the scan, at least 2 voxels wide",
            )
        ]
    return [] if window_shape(box, grid, plan) else [large_box_fault(where, box, grid, plan)]


def coarse_faults(grids: dict[str, Grid], cases: Sequence[CaseFacts]) -> list[Fault]:
    """Find the grids, by host, whose voxels are far coarser along all axes than those of every training case."""
    if not cases:
        return []
    _, high = _ranges(_spacing, cases)
    expected = f"{_describe(_spacing, cases)} mm, as in the training cases"
    remedy = "use scans of a finer spacing, correct the header if it is wrong, or leave this host out"
    return [
        Fault(name, f"voxels of {_triple(_spacing(grid))} mm", expected, remedy)
        for name, grid in grids.items()
        if np.min(_spacing(grid) / high) > _COARSE
    ]


def grid_doubts(grids: dict[str, Grid], cases: Sequence[CaseFacts]) -> list[str]:
    """Describe the hosts whose spacing or field of view is unlike the training cases', with figures."""
    if not cases:
        return []
    doubts = []
    for what, measure, factor in (("voxels", _spacing, _SPACING), ("fields of view", _field, _FIELD)):
        low, high = _ranges(measure, cases)
        odd = {
            name: measure(grid)
            for name, grid in grids.items()
            if np.max(measure(grid) / high) > factor or np.max(low / measure(grid)) > factor
        }
        if odd:
            shown = abbreviate_list([f"{name}: {_triple(values)} mm" for name, values in odd.items()])
            doubts.append(
                f"{len(odd)} of {len(grids)} hosts have {what} unlike the training cases' ({shown}; trained on "
                f"{_describe(measure, cases)} mm): look at their previews"
            )
    return doubts


def check_intensities(
    scan: Scan, body: np.ndarray, cases: Sequence[CaseFacts], channels: Sequence[ChannelPlan], trusted: bool = False
) -> tuple[str, ...]:
    """Compare the intensities in a host's body with those of the training cases.

    The median tells a unit's offset or scale; the distance from the 5th to the 95th percentile tells its scale.
    Channels of the scheme `own` have no common unit.

    Args:
        scan: the host scan.
        body: the body, (X, Y, Z) bool of every `body_stride`-th voxel.
        cases: the training cases.
        channels: the plan's channels.
        trusted: whether the user vouches for the unit; what would be refused is then doubtful. A scan that is cut out
            around a hot organ can look like another unit.

    Returns:
        What is doubtful.

    Raises:
        DataError: a channel looks like another unit, and is not trusted; all such channels are listed.
    """
    thin = (slice(None, None, body_stride(scan.grid.shape)),) * 3
    faults, doubts = [], []
    for number, channel in enumerate(channels):
        known = np.array([case.body[number] for case in cases if number < len(case.body)])
        if channel.scheme == "own" or not known.size:
            continue
        own = np.array(body_levels(scan.measured[(number, *thin)], body))
        for name, found, usual in (
            ("median", own[1], known[:, 1]),
            ("5th to 95th percentile apart", own[2] - own[0], known[:, 2] - known[:, 0]),
        ):
            hounsfield = name == "median" and is_ct(channel.name)
            wrong, doubtful = _beyond_hu(found, usual) if hounsfield else _beyond_ratio(found, usual)
            expected = f"{usual.min():.3g} to {usual.max():.3g}"
            if wrong and not trusted:
                where = str(scan.files[number]) if scan.files else f"{scan.name}, channel {number}"
                remedy = (
                    "convert it to the unit of the training cases (HU, SUV), or leave this host out; if the unit is "
                    "right, as in a scan cut out around a hot organ, add --trust-units (in Python: trust_units=True)"
                )
                found_text = f"in the body, {channel.name} {name} {found:.3g}: another unit"
                faults.append(Fault(where, found_text, f"{expected}, as in the training cases", remedy))
                break
            if wrong or doubtful:
                note = " (trusted to be the same unit)" if wrong else ""
                doubts.append(f"{channel.name} in the body, {name}: {found:.3g}, training cases {expected}{note}")
    if faults:
        raise DataError("A host has another unit than the training cases", faults)
    return tuple(doubts)


class Doubts:
    """What is doubtful about the intensities of hosts: the first host is told at once, the number of all at the end."""

    def __init__(self) -> None:
        self._hosts: dict[str, tuple[str, ...]] = {}

    def add(self, host: str, doubts: tuple[str, ...]) -> None:
        """Take what `check_intensities` found in a host."""
        if doubts and not self._hosts:
            console.warn(f"{host} is unlike the training cases ({'; '.join(doubts)}): look at its preview")
        if doubts:
            self._hosts[host] = doubts

    def tell(self) -> None:
        """Warn of all hosts with doubts, if there are several."""
        if len(self._hosts) > 1:
            names = abbreviate_list([*self._hosts])
            console.warn(f"{len(self._hosts)} hosts have intensities unlike the training cases': {names}")


def _beyond_hu(found: float, usual: np.ndarray) -> tuple[bool, bool]:
    """Whether HU are certainly, and perhaps, of another unit than usual."""
    distance = max(found - usual.max(), usual.min() - found)
    return distance > _HU_WRONG, distance > _HU_DOUBTFUL


def _beyond_ratio(found: float, usual: np.ndarray) -> tuple[bool, bool]:
    """Whether intensities are certainly, and perhaps, of another scale than usual; both False without a scale."""
    if usual.min() <= 0:
        return False, False
    ratio = max(found / usual.max(), usual.min() / max(found, 1e-12))
    return ratio > _RATIO_WRONG, ratio > _RATIO_DOUBTFUL


def _spacing(grid: Grid) -> np.ndarray:
    """Voxel edges in mm, sorted: the order of the axes does not matter."""
    return np.sort(grid.spacing_mm)


def _field(grid: Grid) -> np.ndarray:
    """Edges of the whole scan in mm, sorted."""
    return np.sort(grid.extent_mm)


def _ranges(measure: Callable[[Grid], np.ndarray], cases: Sequence[CaseFacts]) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and highest values (3,) of a measure over the training cases."""
    values = np.stack([measure(case.grid) for case in cases])
    return values.min(0), values.max(0)


def _describe(measure: Callable[[Grid], np.ndarray], cases: Sequence[CaseFacts]) -> str:
    low, high = _ranges(measure, cases)
    return _triple(low) if np.allclose(low, high, rtol=0.02) else f"{_triple(low)} to {_triple(high)}"


def _triple(values: np.ndarray) -> str:
    return describe_edges(values, ".3g")
