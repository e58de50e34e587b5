"""The cases that `evaluate` scores, real and synthetic: their files and how they are read."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from tumorgen_cli.data.entries import read_listed_files
from tumorgen_cli.data.labels import mask_of
from tumorgen_cli.data.patients import patient_of
from tumorgen_cli.data.splits import Splits
from tumorgen_cli.data.volumes import read_image, read_volume, same_geometry
from tumorgen_cli.evaluation.scores import Group
from tumorgen_cli.geometry import Box, Grid, find_spanning_component
from tumorgen_cli.planning.fingerprint import Fingerprint
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.synthesis.set_files import again, case_files, pair_file_faults, read_ending, read_provenance
from tumorgen_cli.synthesis.shards import Shard, unfinished_shard_faults
from tumorgen_cli.system.errors import Fault, StateError
from tumorgen_cli.system.files import hash_once
from tumorgen_cli.system.links import describe_missing


@dataclass(frozen=True)
class TumorCase:
    """One tumor, or all tumors of a pair, and the files of the scan. Boxes are in voxels.

    Attributes:
        group: Synthetic, or a training or test case of the data set.
        case: Name of the tumor, or of the pair.
        scan: Name of the pair or case that the tumor lies in.
        host: The scan that a pair was painted into; of a real tumor the case it lies in.
        images: The image file of each channel.
        label: The label file.
        boxes: The box of each tumor, in which painting may have changed the scan; of a real tumor its tight box.
        requested_boxes: The boxes as they were drawn or given (`PaintedTumor`); of a real tumor its tight box.
        patient: Of a real tumor, its patient; of a pair, empty.
    """

    group: Group
    case: str
    scan: str
    host: str
    images: tuple[Path, ...]
    label: Path
    boxes: tuple[Box, ...]
    requested_boxes: tuple[Box, ...]
    patient: str = ""

    @property
    def hull(self) -> Box:
        """The smallest box that holds all boxes."""
        return functools.reduce(Box.hull, self.boxes)


class Volumes:
    """The scan and the labels of a case, shared by all of its tumors.

    Each file is read and hashed once, when it is first used.
    """

    def __init__(self, files: TumorCase) -> None:
        self.images, self.label = files.images, files.label

    @cached_property
    def image_hash(self) -> str:
        """The hash of the image files, one after the other, as in `Provenance.host_hash`."""
        return hash_once(*self.images)

    @cached_property
    def label_hash(self) -> str:
        """The hash of the label file."""
        return hash_once(self.label)

    @cached_property
    def labels(self) -> tuple[np.ndarray, Grid]:
        """The labels (X, Y, Z) and their grid."""
        return read_volume(self.label)

    @cached_property
    def image(self) -> tuple[np.ndarray, Grid]:
        """The image (C, X, Y, Z) and its grid."""
        return read_image(self.images)


def synthetic_cases(plan: Plan, set_folder: Path, shard: Shard | None = None) -> tuple[TumorCase, ...]:
    """List the pairs of a set, as its provenance names them, each with all of its tumors.

    Args:
        plan: The plan of the workspace.
        set_folder: The set.
        shard: If given, only the files of its own pairs are compared with their hashes.

    Raises:
        StateError: dataset.json is missing, the set has no pair, files are missing, damaged or changed, an image has no
            provenance, or shards have not finished.
    """
    ending, records = read_ending(set_folder), read_provenance(set_folder)
    found = tuple(
        TumorCase(
            "synthetic",
            line.case,
            line.case,
            line.host,
            *case_files(set_folder, line.case, len(plan.channels), ending),
            line.boxes,
            tuple(tumor.requested_box for tumor in line.tumors),
        )
        for line in records
    )
    faults = pair_file_faults(set_folder, records, len(plan.channels), ending, shard)
    faults += unfinished_shard_faults(set_folder)
    if not found:
        faults.append(Fault(str(set_folder), "no pair", "at least one pair", "leave the set out"))
    if faults:
        raise StateError("The synthetic set is not complete", faults)
    return found


def split_tumors(pairs: Sequence[TumorCase]) -> tuple[TumorCase, ...]:
    """List the tumors of pairs one by one, named as `real_tumors` names those of a case."""
    return tuple(
        replace(pair, case=tumor_name(pair.case, number, len(pair.boxes)), boxes=(box,), requested_boxes=(requested,))
        for pair in pairs
        for number, (box, requested) in enumerate(zip(pair.boxes, pair.requested_boxes, strict=True), 1)
    )


def tumor_name(scan: str, number: int, count: int) -> str:
    """Name tumor `number` (from 1) of `count` in a scan: as the scan if it has no other."""
    return scan if count == 1 else f"{scan}_tumor{number}"


def one_scan_per_host(pairs: Sequence[TumorCase]) -> list[tuple[Path, ...]]:
    """Return the images of one pair of each host."""
    first: dict[str, tuple[Path, ...]] = {}
    for pair in pairs:
        first.setdefault(pair.host, pair.images)
    return list(first.values())


def real_tumors(plan: Plan, fingerprint: Fingerprint, splits: Splits) -> tuple[TumorCase, ...]:
    """List the tumors of the training and test cases of the plan's data set.

    A tumor is named as its case, with a number where the case has several tumors.

    Raises:
        StateError: Files are missing.
        DataError: A dataset.json that lists its files is faulty.
    """
    folder, tumors = Path(plan.dataset_path), {facts.case: facts.tumors for facts in fingerprint.cases}
    listed = read_listed_files(folder) or {}
    groups: dict[Group, tuple[str, ...]] = {"train": splits.train, "test": splits.test}
    found = tuple(
        TumorCase(
            group,
            tumor_name(case, number, len(tumors[case])),
            case,
            case,
            *(
                (listed[case].images, listed[case].label)
                if case in listed
                else case_files(folder, case, len(plan.channels), plan.file_ending)
            ),
            (tumor.box,),
            (tumor.box,),
            patient_of(case, splits.patients),
        )
        for group, cases in groups.items()
        for case in cases
        for number, tumor in enumerate(tumors[case], 1)
    )
    faults = _missing(found, "put the data set back, or run `tumorgen plan DATASET` with its new path")
    if faults:
        raise StateError("Real cases are missing", faults)
    return found


def _missing(cases: Sequence[TumorCase], remedy: str) -> list[Fault]:
    paths = [path for files in cases for path in (*files.images, files.label)]
    lost = [path for path in paths if not path.is_file()]
    return [Fault(str(path), describe_missing(path), "a file of the case", remedy) for path in lost]


def read_case(
    plan: Plan, files: TumorCase, volumes: Volumes | None = None
) -> tuple[np.ndarray, Grid, np.ndarray, np.ndarray]:
    """Read a case.

    Returns:
        image (C, X, Y, Z), grid, the tumor of the case, and other tumor voxels (both (X, Y, Z) bool).

    Raises:
        StateError: The label does not lie on the image, or the tumor is not in its box.
    """
    volumes = volumes or Volumes(files)
    tumor, others, _ = read_tumor(plan, files, volumes)
    return *read_scan(files, volumes), tumor, others


def _restore_label(files: TumorCase) -> str:
    """Return the remedy for a label that is not the one of its record."""
    if files.group == "synthetic":
        return f"delete it, then {again(files.label.parents[1])}"
    return "put the label back, or run `tumorgen plan DATASET` again"


def read_scan(files: TumorCase, volumes: Volumes) -> tuple[np.ndarray, Grid]:
    """Read the image (C, X, Y, Z) of a case, and its grid.

    Raises:
        StateError: The label does not lie on the image.
    """
    (image, grid), (_, label_grid) = volumes.image, volumes.labels
    if not same_geometry(grid, label_grid):
        found, expected = f"a grid of {label_grid.shape}", f"the image's of {grid.shape}"
        fault = Fault(str(files.label), found, expected, _restore_label(files))
        raise StateError("A label does not lie on its image", [fault])
    return image, grid


def read_tumor(plan: Plan, files: TumorCase, volumes: Volumes | None = None) -> tuple[np.ndarray, np.ndarray, Grid]:
    """Read the tumor of a case, all other tumor voxels (both (X, Y, Z) bool), and their grid.

    Of a pair the tumor is all that lies in the painted boxes of the case; of a real case it is the component that spans
    the tumor's box.

    Raises:
        StateError: The tumor is not where the set's provenance, or the plan's fingerprint, has it.
    """
    labels, grid = (volumes or Volumes(files)).labels
    tumor = mask_of(labels, plan.tumor_label)
    own = np.zeros_like(tumor)
    for box in files.boxes:
        inside = tumor[box.slices]
        part = inside if files.group == "synthetic" else find_spanning_component(inside)
        if part is None or part.shape != box.shape:
            where = f"one that fills the box {box.start} to {box.stop}"
            found = "no such tumor: the label has changed"
            raise StateError(
                "A tumor is not in its place", [Fault(str(files.label), found, where, _restore_label(files))]
            )
        own[box.slices] = part
    return own, tumor & ~own, grid
