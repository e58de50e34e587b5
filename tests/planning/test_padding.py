"""Padding, dead and hot voxels change neither the plan nor what the networks see."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from tumorgen_cli.data import volumes
from tumorgen_cli.data.body import body_mask
from tumorgen_cli.data.channels import fill_padding
from tumorgen_cli.data.dataset import read_dataset
from tumorgen_cli.geometry import Grid
from tumorgen_cli.planning.fingerprint import Findings, make_fingerprint
from tumorgen_cli.planning.plan import Plan, make_plan
from tumorgen_cli.preprocessing.cases import load_case
from tumorgen_cli.preprocessing.intensity import scale
from tumorgen_cli.preprocessing.preprocess import preprocess_case
from tumorgen_cli.system.devices import DeviceBudget
from tumorgen_cli.system.json_records import write_json

GRID = Grid((40, 36, 32), (4.0, 4.0, 4.0))
X, Y, Z = np.meshgrid(*[(np.arange(n) + 0.5) / n * 2 - 1 for n in GRID.shape], indexing="ij")
TUMOR = (X - 0.1) ** 2 + (Y + 0.1) ** 2 + (Z - 0.05) ** 2 < 0.04
BODY = (X / 0.8) ** 2 + (Y / 0.75) ** 2 < 1
BEYOND = X**2 + Y**2 > 1.2  # no scanner measures there
LEVELS = {"CT": (-1000, 40, 110), "PET": (0, 1.2, 6), "T1": (30, 500, 900), "noNorm": (0, 0.5, 0.9)}  # air, body, tumor


def clean_scan(name: str, seed: int) -> np.ndarray:
    air, tissue, tumor = LEVELS[name]
    noise = np.random.default_rng(seed).normal(0, 0.02 * abs(tumor - air), GRID.shape)
    image = np.where(TUMOR, tumor, np.where(BODY, tissue, air)) + noise
    image[BEYOND] = air
    return image if name == "CT" else np.maximum(image, air)


def padded(value: float, where: object = BEYOND):
    def damage(image: np.ndarray) -> np.ndarray:
        image = image.copy()
        image[where] = value  # type: ignore[index]
        return image

    return damage


@dataclass
class Planned:
    found: Findings
    plan: Plan
    image: np.ndarray  # (1, X, Y, Z), the first case as networks see it


def planned(folder: Path, name: str, damage=None) -> Planned:
    """Plan a data set of which every scan is damaged, and preprocess its first case."""
    for number in range(3):
        image = clean_scan(name, number)
        image = image if damage is None else damage(image)
        volumes.write_volume(folder / f"imagesTr/c{number}_0000.nii.gz", image.astype(np.float32), GRID)
        volumes.write_volume(folder / f"labelsTr/c{number}.nii.gz", TUMOR, GRID)
    content = {"channel_names": {"0": name}, "labels": {"background": 0, "tumor": 1}, "numTraining": 3}
    write_json(folder / "dataset.json", {**content, "file_ending": ".nii.gz"})
    dataset = read_dataset(folder)
    found = make_fingerprint(dataset, 0)
    plan = make_plan(found.fingerprint, dataset.cases, DeviceBudget("cpu", 8.0, 0.0), {}, {})
    preprocess_case(plan, "c0", dataset.image_files("c0"), dataset.label_file("c0"), folder / "c0")
    case = load_case(folder / "c0")
    return Planned(found, plan, scale(case.image, plan.channels, np.array(case.record.limits)))


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Planned]:
    return {name: planned(tmp_path_factory.mktemp("clean") / name, name) for name in LEVELS}


CASES = [
    ("CT", "padding -2000", padded(-2000)),
    ("CT", "padding -3024", padded(-3024)),
    ("CT", "padding -32768", padded(-32768)),
    ("PET", "padding -1024", padded(-1024)),
    ("PET", "padding -1", padded(-1)),
    ("T1", "padding -1024", padded(-1024)),
    ("T1", "dead voxel", padded(-32768, (20, 18, 3))),
    ("T1", "dead voxel in a tumor", padded(0, (22, 16, 16))),
    ("T1", "hot voxel", padded(32767, (20, 18, 3))),
    ("noNorm", "hot voxel", padded(1000, (20, 18, 3))),
    ("noNorm", "dead voxel", padded(-1000, (20, 18, 3))),
    ("PET", "hot voxel", padded(1e5, (20, 18, 3))),
    ("CT", "hot voxel", padded(32767, (20, 18, 3))),
]


@pytest.mark.parametrize(
    ("name", "damage"), [(name, d) for name, _, d in CASES], ids=[f"{n}, {t}" for n, t, _ in CASES]
)
def test_damage_changes_neither_plan_nor_working_intensities(tmp_path, clean, name, damage) -> None:
    right, found = clean[name], planned(tmp_path / name, name, damage)
    width = right.plan.channels[0].high - right.plan.channels[0].low
    for field in ("low", "high"):
        asked, got = (getattr(each.plan.channels[0], field) for each in (right, found))
        assert got == pytest.approx(asked, abs=0.01 * width), field
    assert found.plan.paste.least_change == pytest.approx(right.plan.paste.least_change, rel=0.02)
    same = replace(found.plan.paste, least_change=right.plan.paste.least_change)
    assert (found.plan.window, same) == (right.plan.window, right.plan.paste)
    for tumor, before in zip(found.found.fingerprint.tumors, right.found.fingerprint.tumors, strict=True):
        assert tumor.mean == pytest.approx(before.mean, abs=0.01 * width)
        assert tumor.contrast == pytest.approx(before.contrast, abs=0.03 * width)
    far = np.abs(found.image - right.image) > 0.03
    assert far.mean() < 0.01  # beside a hot voxel, interpolation overshoots


@pytest.mark.parametrize(
    ("name", "padding"), [("CT", -3024), ("CT", -2000), ("CT", -32768), ("PET", -1024), ("T1", -1024)]
)
def test_padding_does_not_move_the_body(name: str, padding: float) -> None:
    scan = clean_scan(name, 0).astype(np.float32)
    right, found = body_mask(scan), body_mask(fill_padding(padded(padding)(scan), name))
    assert (right == BODY).mean() > 0.95
    assert (right != found).mean() < 0.005


def test_padding_is_told(tmp_path: Path, clean: dict[str, Planned]) -> None:
    (note,) = planned(tmp_path, "CT", padded(-3024)).found.notes
    assert note == "padding far below the measured intensities counts as air, in c0, c1, c2"
    assert all(each.found.notes == () for each in clean.values())
