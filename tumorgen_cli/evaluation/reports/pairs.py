"""The pairs that a set's page shows: which ones, their planes before and after painting, and crops for the viewer."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from tumorgen_cli.data.volumes import read_image
from tumorgen_cli.evaluation.cases import TumorCase, Volumes, read_case, split_tumors, synthetic_cases
from tumorgen_cli.evaluation.reports.crops import Crop, make_crop
from tumorgen_cli.evaluation.reports.planes import Plane, center_on, cut_planes
from tumorgen_cli.evaluation.scores import CaseScores, Scores
from tumorgen_cli.figures import View, box_mask, display_range, display_style, pick_evenly
from tumorgen_cli.geometry import tight_box
from tumorgen_cli.metrics.traits import KINDS, is_hard
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.preprocessing.intensity import scan_limits
from tumorgen_cli.synthesis.set_files import read_hosts, read_provenance
from tumorgen_cli.system import console
from tumorgen_cli.system.arrays import read_arrays, write_arrays
from tumorgen_cli.system.files import hash_once
from tumorgen_cli.system.json_records import hash_value

MOST_SHOWN = 100
MOST_IN_VIEWER = 12
_DRAWN = 1  # raise it when planes or crops change
_AROUND = (5, 5, 5)  # voxels around a tumor that are shown without clipping: a tumor may be darker than they are
_LONGEST_NAME = 100  # of a case, in a file's name, of which file systems allow 255 bytes


@dataclass(frozen=True)
class PairPictures:
    """Pictures of a painted tumor.

    Attributes:
        planes: Three planes through it: pictures `after` and, where the host is known, `before`; outlines `mask`
            and `box`.
        crop: What the viewer shows; None where it is not wanted.
    """

    planes: tuple[Plane, ...]
    crop: Crop | None = None

    @property
    def has_host(self) -> bool:
        """Whether the scan before painting is shown."""
        return all("before" in plane.pictures for plane in self.planes)


def ranked_tumors(scores: Scores) -> list[CaseScores]:
    """Order the painted tumors by Dice, or by contrast without a judge, the best first, the undefined last."""
    field = "dice" if scores.judge else "contrast"

    def rank(case: CaseScores) -> tuple[bool, float]:
        value = getattr(case.verdict if scores.judge else case.statistics, field)
        return (math.isnan(value), -value)

    return sorted(scores.of("synthetic"), key=rank)


def shown_cases(scores: Scores) -> list[str]:
    """Choose the tumors that the page shows: all, or as many as it can hold, spread evenly from best to worst."""
    return pick_evenly([case.case for case in ranked_tumors(scores)], MOST_SHOWN)


def kinds_of(case: CaseScores, scores: Scores) -> list[str]:
    """Name what is special about a painted tumor: the hard kinds, missed by the judge, near-copy."""
    limits = {share.kind: share.threshold for share in scores.shares}
    found = [
        kind
        for kind, (field, _, _) in KINDS.items()
        if math.isfinite(limits[kind]) and is_hard(kind, np.array([getattr(case.statistics, field)]), limits[kind])[0]
    ]
    copies = {near.case for near in scores.novelty.pairs if near.distance < scores.novelty.threshold}
    return found + ["missed by the judge"] * (case.verdict.dice == 0) + ["near-copy"] * (case.case in copies)


def size_of(case: CaseScores, scores: Scores) -> str:
    """Name the size group of a tumor, by the tertiles of the training tumors' volumes."""
    groups = [s.name for s in scores.agreement.strata if not case.statistics.volume_ml < s.least_ml]
    return groups[-1] if groups else ""


def draw_pairs(
    plan: Plan, set_folder: Path, cases: Sequence[str], in_viewer: Collection[str], cache: Path
) -> dict[str, PairPictures]:
    """Draw painted tumors, or read the pictures from `cache`/drawn if nothing they depend on has changed.

    Args:
        plan: The plan.
        set_folder: The set.
        cases: The tumors.
        in_viewer: Those of them that get a crop.
        cache: Folder of the cache.
    """
    wanted = set(cases)
    painted = [each for each in split_tumors(synthetic_cases(plan, set_folder)) if each.case in wanted]
    known = {record.case: record.host_hash for record in read_provenance(set_folder)}
    paths = {name: files for name, files in read_hosts(set_folder).items() if all(path.is_file() for path in files)}
    drawn: dict[str, PairPictures] = {}
    volumes, host = Volumes(painted[0]) if painted else None, _Host(())
    with console.progress("drawing pairs", len(painted)) as tick:
        for number, files in enumerate(sorted(painted, key=lambda each: (each.host, each.scan)), 1):
            if volumes is None or volumes.images != files.images:
                volumes = Volumes(files)
            own = paths.get(files.host, ())
            if own and hash_once(*own) != known[files.scan]:
                own = ()  # another scan lies there now
            if host.paths != own:
                host = _Host(own)
            drawn[files.case] = _draw_or_read(plan, files, volumes, host, files.case in in_viewer, cache)
            tick(number, files.case)
    return drawn


class _Host:
    """An unpainted scan, read when it is first needed; without paths it is not known."""

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self.paths = paths

    @cached_property
    def image(self) -> np.ndarray:
        """The channels (C, X, Y, Z)."""
        return read_image(self.paths)[0]


def _draw_or_read(
    plan: Plan, files: TumorCase, volumes: Volumes, host: _Host, with_crop: bool, cache: Path
) -> PairPictures:
    content = [volumes.image_hash, volumes.label_hash, hash_once(*host.paths) if host.paths else ""]
    settings = [plan.channels, plan.main_channel, plan.tumor_label, with_crop]
    key = hash_value([_DRAWN, content, files.boxes, settings])
    path = cache / "drawn" / f"{files.case[:_LONGEST_NAME]}.{key}.npz"
    kept = read_arrays(path)
    if kept is not None:
        return _from_arrays(kept)
    drawn = _draw(plan, files, volumes, host, with_crop)
    write_arrays(path, _to_arrays(drawn))
    return drawn


def _draw(plan: Plan, files: TumorCase, volumes: Volumes, host: _Host, with_crop: bool) -> PairPictures:
    image, grid, tumor, others = read_case(plan, files, volumes)
    main = plan.main_channel
    images = {"after": image[main]}
    if host.paths and host.image.shape == image.shape:
        images["before"] = host.image[main]
    limits = scan_limits(image, plan.channels, tumor | others)[main]
    box = tight_box(tumor) or files.hull
    shown = display_range(limits, tuple(images.values()), box.grown(_AROUND, grid.shape))
    view = View(grid.spacing_mm, shown, grid.direction, display_style(plan.channels[main].name)[0])
    masks = {"mask": tumor | others, "box": box_mask(grid.shape, files.boxes)}
    planes = cut_planes(images, masks, center_on(tumor, files.boxes, view), view)
    low, high = (float(each) for each in limits)
    crop = make_crop(images, masks["mask"], [*files.boxes, box], grid, (low, high), shown) if with_crop else None
    return PairPictures(planes, crop)


def _to_arrays(drawn: PairPictures) -> dict[str, np.ndarray]:
    """The pictures by name, and all else as text in `record`."""
    record = [
        {**vars(plane), "pictures": sorted(plane.pictures), "outlines": dict(plane.outlines)} for plane in drawn.planes
    ]
    found = {"record": np.array(json.dumps(record))}
    for number, plane in enumerate(drawn.planes):
        found |= {f"{number}_{title}": picture for title, picture in plane.pictures.items()}
    if drawn.crop is not None:
        found |= {f"crop_{name}": array for name, array in drawn.crop.arrays().items()}
    return found


def _from_arrays(kept: Mapping[str, np.ndarray]) -> PairPictures:
    planes = []
    for number, plane in enumerate(json.loads(str(kept["record"]))):
        plane["pictures"] = {title: kept[f"{number}_{title}"] for title in plane["pictures"]}
        planes.append(Plane(**plane | {"size_mm": tuple(plane["size_mm"])}))
    crop = {name.removeprefix("crop_"): array for name, array in kept.items() if name.startswith("crop_")}
    return PairPictures(tuple(planes), Crop(**crop) if crop else None)
