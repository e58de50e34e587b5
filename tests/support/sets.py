"""A small synthetic set written by hand, and a judge that is a threshold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from tumorgen_cli.data.splits import Splits
from tumorgen_cli.data.volumes import write_volume
from tumorgen_cli.geometry import Box, Grid
from tumorgen_cli.synthesis.provenance import PaintedTumor, Provenance
from tumorgen_cli.system.files import hash_file
from tumorgen_cli.system.json_records import to_plain

SPACING = (4.0, 4.0, 5.0)


SHAPE = (26, 22, 18)


GRID = Grid(SHAPE, SPACING, (-40.0, 10.0, 5.0))


SPLITS = Splits(("t1", "t2", "t3", "t4"), ("h1", "h2"))


BOX = Box((8, 6, 4), (17, 15, 13))


class Threshold:
    """Stands in for a judge: above 3 is tumor."""

    usual_extent_mm = (1000.0, 1000.0, 1000.0)

    folder, hash, tumor_labels = Path("threshold"), "0123", (1,)

    def __init__(self):
        self.asked = 0

    def tumor(self, image, grid):
        assert image.shape == (1, *grid.shape)
        self.asked += 1
        return image[0] > 3


def ball(center, radius_mm):
    axes = [(np.arange(n) - c) * s for n, c, s in zip(SHAPE, center, SPACING, strict=True)]
    return sum(a**2 for a in np.meshgrid(*axes, indexing="ij")) <= radius_mm**2


def scan(tumor, uptake, seed):
    image = 1 + 0.1 * np.random.default_rng(seed).normal(size=SHAPE)
    return np.where(tumor, image * uptake, image).astype(np.float32)


def write_case(folder, case, image, labels):
    write_volume(folder / "imagesTr" / f"{case}_0000.nii.gz", image, GRID)
    write_volume(folder / "labelsTr" / f"{case}.nii.gz", labels.astype(np.uint8), GRID)


def painted_tumor(box=BOX, volume_ml=1.0, rejected=None):
    return PaintedTumor(box, box, box, False, volume_ml, 1.0, 0, rejected or {}, 0.2, {})


def provenance(case, host, *boxes):
    tumors = [painted_tumor(box) for box in boxes or [BOX]]
    tumors[0] = replace(tumors[0], rejected={"empty": 1})
    return Provenance(
        case=case,
        method="toy",
        host=host,
        host_file=(f"{host}_0000.nii.gz",),
        host_hash="hh",
        host_voxels="vv",
        seed=3,
        plan_hash="pp",
        weights={"flow": "ww"},
        seconds={"method": 0.2, "total": 0.5},
        tumors=tuple(tumors),
    )


def write_provenance(folder, records):
    """Write records with the hashes of the files that the set has now."""
    sealed = []
    for record in records:
        paths = [*sorted(folder.glob(f"imagesTr/{record.case}_????.*")), *folder.glob(f"labelsTr/{record.case}.*")]
        sealed.append(replace(record, files=tuple(map(hash_file, paths))))
    (folder / "provenance.jsonl").write_text("".join(json.dumps(to_plain(record)) + "\n" for record in sealed))


def write_set(folder, pairs):
    for case, _, image, labels in pairs:
        write_case(folder, case, image, labels)
    write_provenance(folder, [provenance(case, host) for case, host, _, _ in pairs])
    (folder / "dataset.json").write_text(json.dumps({"file_ending": ".nii.gz"}))
    return folder
