"""The cases that `evaluate` scores, real and synthetic: their files and how they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from tumorgen_cli.data.splits import Splits
from tumorgen_cli.data.volumes import read_image, read_volume, same_geometry
from tumorgen_cli.evaluation.scores import Group
from tumorgen_cli.geometry import Box, Grid, find_spanning_component
from tumorgen_cli.planning.fingerprint import Fingerprint
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.synthesis.set_files import read_provenance
from tumorgen_cli.synthesis.shards import division_faults
from tumorgen_cli.system.errors import Fault, StateError
from tumorgen_cli.system.files import hash_file
from tumorgen_cli.system.json_records import read_plain

_SYNTHESIZE = "run `tumorgen synthesize` again"


@dataclass(frozen=True)
class TumorCase:
    """One tumor, and where its scan lies. `host`: what it was painted into, of a real tumor the case it lies in. In voxels, `box`: where
    the scan may have changed, `asked`: the box as it was drawn or given (`Provenance`); of a real tumor both are its tight one."""

    group: Group
    case: str
    host: str
    images: tuple[Path, ...]
    label: Path
    box: Box
    asked: Box


class Volumes:
    """The scan and the labels of a case, read and hashed once, when first asked for: a scan may hold many tumors."""

    def __init__(self, files: TumorCase) -> None:
        self.images, self.label = files.images, files.label

    @cached_property
    def image_hashes(self) -> list[str]:
        return [hash_file(path) for path in self.images]

    @cached_property
    def label_hash(self) -> str:
        return hash_file(self.label)

    @cached_property
    def labels(self) -> tuple[np.ndarray, Grid]:
        return read_volume(self.label)

    @cached_property
    def image(self) -> tuple[np.ndarray, Grid]:
        return read_image(self.images)


def synthetic_cases(plan: Plan, set_folder: Path) -> tuple[TumorCase, ...]:
    """The pairs of a set by its provenance.

    Raises:
        StateError: no dataset.json, no pair, files missing, images without provenance, or shards still at work.
    """
    ending = read_plain(set_folder / "dataset.json", _SYNTHESIZE).get("file_ending", ".nii.gz")
    found = tuple(
        TumorCase(
            "synthetic",
            line.case,
            line.host,
            *_paths(set_folder, line.case, len(plan.channels), ending),
            line.box,
            line.asked,
        )
        for line in read_provenance(set_folder)
    )
    faults = _missing(found, _SYNTHESIZE)
    faults += division_faults(set_folder)
    known = {files.case for files in found}
    for path in sorted((set_folder / "imagesTr").glob(f"*_0000{ending}")):
        if path.name[: -len(f"_0000{ending}")] not in known:
            faults.append(
                Fault(
                    str(path), "no line in provenance.jsonl", "a line for every pair", "remove it, or synthesize again"
                )
            )
    if not found:
        faults.append(Fault(str(set_folder), "no pair", "one pair at least", _SYNTHESIZE))
    if faults:
        raise StateError("The synthetic set is not whole", faults)
    return found


def real_tumors(plan: Plan, fingerprint: Fingerprint, splits: Splits) -> tuple[TumorCase, ...]:
    """The tumors of the training and the test cases of the plan's dataset, named by their case, with a number where it has several.

    Raises:
        StateError: files missing.
    """
    folder, tumors = Path(plan.dataset_path), {facts.case: facts.tumors for facts in fingerprint.cases}
    groups: dict[Group, tuple[str, ...]] = {"train": splits.train, "test": splits.test}
    found = tuple(
        TumorCase(
            group,
            case if len(tumors[case]) == 1 else f"{case}_tumor{number}",
            case,
            *_paths(folder, case, len(plan.channels), plan.file_ending),
            tumor.box,
            tumor.box,
        )
        for group, cases in groups.items()
        for case in cases
        for number, tumor in enumerate(tumors[case], 1)
    )
    faults = _missing(found, "put the dataset back, or run `tumorgen plan DATASET` where it is now")
    if faults:
        raise StateError("The real cases are not there", faults)
    return found


def _paths(folder: Path, case: str, channels: int, ending: str) -> tuple[tuple[Path, ...], Path]:
    images = tuple(folder / "imagesTr" / f"{case}_{channel:04d}{ending}" for channel in range(channels))
    return images, folder / "labelsTr" / f"{case}{ending}"


def _missing(cases: Sequence[TumorCase], remedy: str) -> list[Fault]:
    paths = [path for files in cases for path in (*files.images, files.label)]
    return [Fault(str(path), "no such file", "a file of the case", remedy) for path in paths if not path.is_file()]


def read_case(
    plan: Plan, files: TumorCase, volumes: Volumes | None = None
) -> tuple[np.ndarray, Grid, np.ndarray, np.ndarray]:
    """image (C, X, Y, Z), grid, the tumor that counts, other tumor voxels (both (X, Y, Z) bool).

    Raises:
        StateError: the label does not lie on the image.
    """
    volumes = volumes or Volumes(files)
    tumor, others, _ = read_tumor(plan, files, volumes)
    return *_image_of(files, volumes), tumor, others


def _image_of(files: TumorCase, volumes: Volumes) -> tuple[np.ndarray, Grid]:
    (image, grid), (_, label_grid) = volumes.image, volumes.labels
    if not same_geometry(grid, label_grid):
        remedy = _SYNTHESIZE if files.group == "synthetic" else "correct the label, then plan again"
        fault = Fault(str(files.label), f"a grid of {label_grid.shape}", f"the image's of {grid.shape}", remedy)
        raise StateError("A label does not lie on its image", [fault])
    return image, grid


def read_tumor(plan: Plan, files: TumorCase, volumes: Volumes | None = None) -> tuple[np.ndarray, np.ndarray, Grid]:
    """The tumor that counts, of a pair what lies in the painted box, and all other tumor voxels (X, Y, Z) bool; their grid.

    Raises:
        StateError: a tumor is no longer where the set's provenance, or the plan's fingerprint, has it.
    """
    labels, grid = (volumes or Volumes(files)).labels
    tumor = labels == plan.tumor_label
    own = np.zeros_like(tumor)
    inside = tumor[files.box.slices]
    part = inside if files.group == "synthetic" else find_spanning_component(inside)
    if part is None or part.shape != files.box.shape:
        where = f"one that fills the box {files.box.start} to {files.box.stop}"
        remedy = _SYNTHESIZE if files.group == "synthetic" else "run `tumorgen plan DATASET` again"
        raise StateError(
            "A tumor is not where it was",
            [Fault(str(files.label), "no such tumor: the label has changed", where, remedy)],
        )
    own[files.box.slices] = part
    return own, tumor & ~own, grid
