"""Suspected lesions in hosts: what a judge marks in scans that nobody has painted into.

A host without annotated tumors need not be free of them. Reads the hosts; keeps what it found, and the judge's
predictions, in the cache of the evaluation, where filtering finds them.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from scipy import ndimage

from tumorgen_cli.data.checks import geometry_faults
from tumorgen_cli.data.labels import Values, mask_of
from tumorgen_cli.data.volumes import read_image, read_volume
from tumorgen_cli.geometry import Grid, Triple, as_triple
from tumorgen_cli.judge.predictions import Predictions
from tumorgen_cli.judge.verdict import sees_whole_scan
from tumorgen_cli.planning.fingerprint import MIN_TUMOR_VOXELS
from tumorgen_cli.system.arrays import read_arrays, write_arrays
from tumorgen_cli.system.console import Ticker
from tumorgen_cli.system.errors import DataError, one_line
from tumorgen_cli.system.files import file_name, hash_once, write_text
from tumorgen_cli.system.json_records import hash_value

FILE = "suspects.csv"
_COLUMNS = ("host", "volume_ml", "x_mm", "y_mm", "z_mm", "probability")
_FORMAT = 3  # of what is kept; raise it when the result of `_describe` changes


@dataclass(frozen=True)
class Suspect:
    """A suspected lesion of a host.

    Attributes:
        volume_ml: its volume.
        center_mm: its center of mass, in the patient's coordinates (left, posterior, superior), as viewers show them.
        probability: mean of the judge's probability in it.
    """

    volume_ml: float
    center_mm: Triple
    probability: float


@dataclass(frozen=True)
class Search:
    """What was found in hosts.

    Attributes:
        found: suspected lesions of each host that was looked at, by its name, largest first.
        unlike: why a host was not looked at, by its name: the judge sees only a part of it, or it cannot be read.
        seconds: time of a host that was not known before; 0 if all were.
    """

    found: dict[str, tuple[Suspect, ...]]
    unlike: dict[str, str]
    seconds: float

    @property
    def suspicious(self) -> tuple[str, ...]:
        """The hosts with suspected lesions."""
        return tuple(host for host, suspects in self.found.items() if suspects)


def find_suspects(
    predictions: Predictions,
    hosts: Mapping[str, tuple[Path, ...]],
    cache: Path,
    least_ml: float,
    ticker: Ticker,
    labels: Mapping[str, tuple[Path, Values]] = MappingProxyType({}),
) -> Search:
    """Look for suspected lesions in hosts; a lesion that is labeled is not suspected.

    Args:
        predictions: the judge and its predictions.
        hosts: files of the hosts, one per channel, by name.
        cache: folder in which the result is kept.
        least_ml: volume of the smallest lesion that is listed. It has `MIN_TUMOR_VOXELS` at least: a judge marks single
            voxels in noise.
        ticker: is called after each host with its number and name.
        labels: label file of each host that has one, and the tumor's label in it.
    """
    found: dict[str, tuple[Suspect, ...]] = {}
    unlike: dict[str, str] = {}
    seconds: list[float] = []
    for number, (host, files) in enumerate(hosts.items(), 1):
        try:
            content, label = hash_once(*files), labels.get(host)
            known = [hash_once(label[0]), label[1]] if label else None
            key = hash_value([_FORMAT, content, known, least_ml, predictions.judge.tumor_labels])
            path = cache / "suspects" / predictions.judge.hash / f"{file_name(host)[:100]}.{key}.npz"
            kept = read_arrays(path)
            if kept is None:
                start = time.perf_counter()
                image, grid = read_image(files)
                if not sees_whole_scan(grid, predictions.judge.usual_extent_mm):
                    unlike[host] = "it is much longer than the judge's training scans"
                    continue
                if not np.isfinite(image).all():
                    unlike[host] = "it has voxels that are NaN or infinite"
                    continue
                mask, probability = predictions.judge.tumor_with_probability(image, grid)
                predictions.keep(host, content, grid, mask)
                tumors = None if label is None else _read_tumors(*label, files[0], grid)
                kept = _describe(mask, probability, grid, max(least_ml, MIN_TUMOR_VOXELS * grid.voxel_ml), tumors)
                write_arrays(path, kept)
                seconds.append(time.perf_counter() - start)
            rows = zip(kept["volume_ml"], kept["center_mm"], kept["probability"], strict=True)
            found[host] = tuple(Suspect(float(ml), as_triple(mm.tolist()), float(p)) for ml, mm, p in rows)
        except (OSError, DataError) as error:  # painting reports it, if the host is used
            unlike[host] = one_line(error) if isinstance(error, DataError) else str(error)
        finally:
            ticker(number, host)
    return Search(found, unlike, float(np.mean(seconds)) if seconds else 0.0)


def _read_tumors(path: Path, tumor_label: Values, image: Path, grid: Grid) -> np.ndarray:
    """Read the labeled tumors of a host, (X, Y, Z) bool.

    Raises:
        DataError: the label file cannot be read, or does not lie on the host.
    """
    labels, label_grid = read_volume(path)
    if faults := geometry_faults({image: grid, path: label_grid}):
        raise DataError("Labels and scan differ in geometry", faults)
    return mask_of(labels, tumor_label)


def _describe(
    mask: np.ndarray, probability: np.ndarray, grid: Grid, least_ml: float, tumors: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Describe what a judge marks in a host: `volume_ml` (N,), `center_mm` (N, 3) and `probability` (N,).

    Args:
        mask: what it marks, (X, Y, Z) bool.
        probability: with which probability, (X, Y, Z).
        grid: the host's grid.
        least_ml: volume of the smallest lesion that is described.
        tumors: the labeled tumors, (X, Y, Z) bool; what touches one is left out.
    """
    pieces, count = ndimage.label(mask, np.ones((3, 3, 3)))
    volumes = np.bincount(pieces.ravel(), minlength=count + 1)[1:] * grid.voxel_ml
    if tumors is not None:
        volumes[np.setdiff1d(pieces[tumors], 0) - 1] = 0
    large = 1 + np.flatnonzero(volumes >= least_ml)
    large = large[np.argsort(-volumes[large - 1], kind="stable")]
    voxels = np.array(ndimage.center_of_mass(mask, pieces, large)).reshape(-1, 3)
    turned = (voxels * grid.spacing_mm) @ np.reshape(grid.direction, (3, 3)).T
    means = np.asarray(ndimage.mean(probability, pieces, large), np.float64).reshape(-1)
    return {"volume_ml": volumes[large - 1], "center_mm": turned + grid.origin_mm, "probability": means}


def write_suspects(folder: Path, found: Mapping[str, Sequence[Suspect]]) -> None:
    """Write suspects.csv of a set; lines of hosts that are not in `found` stay, because other shards wrote them."""
    path = folder / FILE
    lines: list[Sequence[str]] = []
    if path.is_file():
        rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
        lines += [row for row in rows[1:] if row and row[0] not in found]
    for host, suspects in found.items():
        lines += [
            (host, f"{s.volume_ml:.3f}", *(f"{v:.1f}" for v in s.center_mm), f"{s.probability:.3f}") for s in suspects
        ]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_COLUMNS, *sorted(lines, key=lambda line: line[0])])
    write_text(path, text.getvalue())
