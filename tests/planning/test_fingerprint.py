from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from tumorgen_cli.data import channels, volumes
from tumorgen_cli.data.contents import hash_contents
from tumorgen_cli.data.dataset import Dataset, read_dataset
from tumorgen_cli.data.integrity import CaseVoxels
from tumorgen_cli.data.phantom import Phantoms
from tumorgen_cli.geometry import Box, Grid, Shape
from tumorgen_cli.planning import fingerprint
from tumorgen_cli.planning.fingerprint import Fingerprint, content_hash, make_fingerprint, measure_tumors
from tumorgen_cli.system.errors import DataError
from tumorgen_cli.system.json_records import read_record, write_json

FAR = Grid((30, 24, 20), (2.0, 3.0, 5.0))


def block(shape: Shape, start: Shape, stop: Shape) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[Box(start, stop).slices] = True
    return mask


Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, grid: Grid) -> Make:
    """Writes a dataset of one channel from {case: (image, mask)}."""

    def write(cases: dict[str, tuple[np.ndarray, np.ndarray]], on: Grid = grid) -> Path:
        folder = tmp_path / "Dataset009_Made"
        for case, (image, mask) in cases.items():
            volumes.write_volume(folder / f"imagesTr/{case}_0000.nii.gz", image.astype(np.float32), on)
            volumes.write_volume(folder / f"labelsTr/{case}.nii.gz", mask, on)
        content = {"channel_names": {"0": "PET"}, "labels": {"background": 0, "tumor": 1}, "numTraining": len(cases)}
        write_json(folder / "dataset.json", {**content, "file_ending": ".nii.gz"})
        return folder

    return write


def test_facts_of_a_block_by_hand() -> None:
    mask = block(FAR.shape, (10, 8, 6), (14, 11, 8))
    first = np.where(mask, 10.0, 2.0).astype(np.float32)
    first[10, 8, 6] = 34.0
    second = np.where(mask, -5, -5).astype(np.int16)
    (tumor,), crumbs = measure_tumors(CaseVoxels((first, second), mask, FAR))
    assert crumbs == 0
    assert tumor.box == Box((10, 8, 6), (14, 11, 8))
    assert tumor.volume_ml == pytest.approx(24 * 30 / 1000)
    assert tumor.extent_mm == (8.0, 9.0, 10.0)
    assert tumor.mean == pytest.approx((11.0, -5.0))
    assert tumor.contrast == pytest.approx((9.0, 0.0))
    assert tumor.center == pytest.approx((12 / 30, 9.5 / 24, 7 / 20))


@pytest.mark.parametrize(
    ("start", "stop", "reach_mm"),
    [
        ((14, 11, 9), (16, 13, 11), 2 * 30 ** (1 / 3)),  # two voxels of 30 mm³: more than half the radius, 1.9 mm
        ((9, 7, 6), (21, 17, 14), (3 * 28_800 / (4 * math.pi)) ** (1 / 3) / 2),  # half the radius of 28.8 ml: 9.5 mm
    ],
)
def test_the_shell_follows_the_tumors_size_and_ends_alike_in_every_direction(
    start: Shape, stop: Shape, reach_mm: float
) -> None:
    mask = block(FAR.shape, start, stop)
    gaps = [
        np.maximum(np.maximum(low - a, a - high + 1), 0) * s
        for a, low, high, s in zip(np.indices(FAR.shape), start, stop, FAR.spacing_mm, strict=True)
    ]
    near = np.sqrt(sum(g.astype(float) ** 2 for g in gaps)) <= reach_mm
    image = np.where(mask, 7.0, np.where(near, 3.0, 1000.0))
    (tumor,), _ = measure_tumors(CaseVoxels((image,), mask, FAR))
    assert tumor.contrast == pytest.approx((4.0,))
    image[start[0], start[1], stop[2]] = 3.0 + near.sum() - mask.sum()  # 5 mm away: one voxel lifts the mean by one
    (tumor,), _ = measure_tumors(CaseVoxels((image,), mask, FAR))
    assert tumor.contrast == pytest.approx((3.0,))


def test_other_tumor_voxels_are_no_background() -> None:
    one, other = block(FAR.shape, (8, 8, 8), (12, 12, 12)), block(FAR.shape, (14, 8, 8), (16, 12, 12))
    crumb = block(FAR.shape, (6, 6, 6), (7, 7, 7))
    image = np.select([one, other, crumb], [9.0, 99.0, 999.0], 1.0)
    (largest, smaller), crumbs = measure_tumors(CaseVoxels((image,), one | other | crumb, FAR))
    assert (largest.contrast, smaller.contrast, crumbs) == ((8.0,), (98.0,), 1)


@pytest.mark.parametrize("spacing", [0.2, 1.0, 5.5])
def test_a_tumor_has_eight_voxels_whatever_their_size(spacing: float) -> None:
    """Lesions of the brain have 2 mm; finer scans show smaller ones."""
    grid = Grid(FAR.shape, (spacing,) * 3)
    eight, seven = block(grid.shape, (4, 4, 4), (6, 6, 6)), block(grid.shape, (10, 4, 4), (12, 6, 6))
    seven[10, 4, 4] = False
    (tumor,), left_out = measure_tumors(CaseVoxels((np.ones(grid.shape),), eight | seven, grid))
    assert (tumor.box, left_out) == (Box((4, 4, 4), (6, 6, 6)), 1)
    assert tumor.volume_ml == pytest.approx(8 * spacing**3 / 1000)


def test_voxels_that_share_a_corner_belong_together() -> None:
    mask = block(FAR.shape, (4, 4, 4), (6, 6, 6)) | block(FAR.shape, (6, 6, 6), (8, 8, 8))
    (tumor,), _ = measure_tumors(CaseVoxels((np.ones(FAR.shape),), mask, FAR))
    assert tumor.box == Box((4, 4, 4), (8, 8, 8))
    assert tumor.volume_ml == pytest.approx(16 * 0.03)


def test_a_tumor_that_fills_the_scan_has_no_contrast(grid: Grid) -> None:
    (tumor,), _ = measure_tumors(CaseVoxels((np.ones(grid.shape),), np.ones(grid.shape, bool), grid))
    assert math.isnan(tumor.contrast[0])


def test_a_large_crop_is_thinned_without_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = block(FAR.shape, (10, 8, 6), (16, 14, 12))
    fall = ndimage.distance_transform_edt(~mask, sampling=FAR.spacing_mm)  # so that the shell's reach shows in its mean
    image = np.where(mask, 90.0, fall + 0.1 * np.random.default_rng(0).standard_normal(mask.shape))
    (whole,), _ = measure_tumors(CaseVoxels((image,), mask, FAR))
    monkeypatch.setattr(fingerprint, "_SHELL_VOXELS", 500)
    (thinned,), _ = measure_tumors(CaseVoxels((image,), mask, FAR))
    assert whole.contrast != thinned.contrast
    assert whole.contrast == pytest.approx(thinned.contrast, abs=1.0)


def test_intensities_are_pooled_over_cases(make: Make, grid: Grid) -> None:
    rng = np.random.default_rng(1)
    mask = block(grid.shape, (2, 2, 2), (6, 6, 6))
    images = {case: rng.gamma(2.0, scale, grid.shape).astype(np.float32) for case, scale in (("a", 1.0), ("b", 3.0))}
    made = make_fingerprint(read_dataset(make({case: (image, mask) for case, image in images.items()})), workers=0)
    (channel,) = made.fingerprint.channels
    keys = ["0.05", "0.5", "5", "50", "95", "99", "99.5", "99.9", "99.95"]
    everything = np.stack(list(images.values()))
    for found, pool in ((channel.image, everything), (channel.foreground, everything[:, mask])):
        assert list(found) == keys
        assert list(found.values()) == pytest.approx(np.percentile(pool, [float(k) for k in keys]), rel=1e-5)
    assert (channel.name, channel.low) == ("PET", channel.image["0.05"])
    assert channel.high == max(channel.image["99.95"], channel.foreground["99.95"])


def test_cases_without_a_unit_are_pooled_in_their_own(make: Make, grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    """MR: gain and offset of a scan, and how bright its tumor is, change nothing but what is told of the tumor."""
    rng, mask = np.random.default_rng(1), block(grid.shape, (4, 4, 3), (6, 7, 5))
    tissue = rng.gamma(4.0, 1.0, grid.shape)
    folder = make({f"g{gain}": (100 + gain * np.where(mask, 30.0 * gain, tissue), mask) for gain in (1.0, 3.0)})
    about = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**about, "channel_names": {"0": "T1"}}))
    made = make_fingerprint(read_dataset(folder), 0).fingerprint
    low, high = channels.scan_unit(np.where(mask, 90.0, tissue), mask)
    assert [case.tumors[0].mean[0] for case in made.cases] == pytest.approx(
        [(v - low) / (high - low) for v in (30, 90)], rel=1e-3
    )
    assert made.channels[0].image["50"] == pytest.approx((np.median(tissue) - low) / (high - low), rel=0.03)
    assert made.channels[0].high == pytest.approx((90 - low) / (high - low), rel=1e-3)
    monkeypatch.setattr(fingerprint, "FORMAT", fingerprint.FORMAT + 1)  # measured in another way
    dataset = read_dataset(folder)
    assert content_hash(dataset, hash_contents(dataset, {})) != made.content_hash


def test_large_cases_are_sampled_alike_every_time(make: Make, grid: Grid) -> None:
    image = np.random.default_rng(2).normal(5, 1, grid.shape)
    dataset = read_dataset(make({"a": (image, block(grid.shape, (0, 0, 0), (12, 10, 7)))}))
    whole = make_fingerprint(dataset, 0).fingerprint.channels[0]
    sampled = fingerprint.measure_case(dataset, "a", samples=300)
    again = fingerprint.measure_case(dataset, "a", samples=300)
    assert sampled.foreground is not None
    assert again.foreground is not None
    assert sampled.foreground.shape == (1, 300)
    assert np.array_equal(sampled.foreground, again.foreground)
    assert np.median(sampled.foreground) == pytest.approx(whole.foreground["50"], abs=0.25)


def test_what_is_no_fault_is_noted(make: Make, grid: Grid) -> None:
    image = np.random.default_rng(3).random(grid.shape)
    tumor, crumb = block(grid.shape, (2, 2, 2), (6, 6, 6)), block(grid.shape, (9, 8, 6), (10, 9, 7))
    cases = {"both": tumor | crumb, "crumb": crumb, "free": np.zeros(grid.shape, bool), "tumor": tumor}
    made = make_fingerprint(read_dataset(make({case: (image, mask) for case, mask in cases.items()})), 0)
    assert {facts.case: len(facts.tumors) for facts in made.fingerprint.cases} == {
        "both": 1,
        "crumb": 0,
        "free": 0,
        "tumor": 1,
    }
    assert (made.tumor_free, made.small_components, made.only_small) == (("free",), {"both": 1, "crumb": 1}, ("crumb",))
    assert [note.split(": ")[1] for note in made.notes] == ["free", "2, in both, crumb", "crumb"]


def test_a_dataset_of_crumbs_is_refused(make: Make, grid: Grid) -> None:
    folder = make({"a": (np.random.default_rng(3).random(grid.shape), block(grid.shape, (9, 8, 6), (10, 9, 7)))})
    with pytest.raises(DataError, match="no component of tumor has 8 voxels"):
        make_fingerprint(read_dataset(folder), 0)


def test_faults_come_from_the_same_pass(make: Make, grid: Grid) -> None:
    mask = block(grid.shape, (2, 2, 2), (6, 6, 6))
    images = {"a": np.ones(grid.shape), "b": np.full(grid.shape, np.nan), "c": np.eye(12)[:, :10, None] * mask}
    folder = make({case: (image, mask) for case, image in images.items()})
    (folder / "labelsTr/c.nii.gz").unlink()
    with pytest.raises(DataError) as caught:
        make_fingerprint(read_dataset(folder), 0)
    assert {Path(fault.where).name for fault in caught.value.faults} == {"a_0000.nii.gz", "b_0000.nii.gz", "c.nii.gz"}


def test_every_file_is_read_once(phantoms: Phantoms, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    original = volumes.read_volume

    def counted(path: Path) -> tuple[np.ndarray, Grid]:
        read.append(path)
        return original(path)

    monkeypatch.setattr(volumes, "read_volume", counted)
    dataset = read_dataset(phantoms.dataset)
    make_fingerprint(dataset, 0)
    assert sorted(read) == sorted(
        p for case in dataset.cases for p in (*dataset.image_files(case), dataset.label_file(case))
    )


def test_worker_processes_make_no_difference(phantoms: Phantoms) -> None:
    told: list[int] = []
    dataset = read_dataset(phantoms.dataset)
    made = make_fingerprint(dataset, 2, lambda done, note="": told.append(done))
    assert made == make_fingerprint(dataset, 0)
    assert told == [1, 2, 3, 4, 5, 6]


def test_the_record_survives_json(phantoms: Phantoms, tmp_path: Path) -> None:
    made = make_fingerprint(read_dataset(phantoms.dataset), 0).fingerprint
    write_json(tmp_path / "fingerprint.json", made)
    assert read_record(Fingerprint, tmp_path / "fingerprint.json", "") == made
    assert made.labels == {"background": 0, "tumor": 1}
    assert (made.tumor_name, made.tumor_label, made.dataset) == ("tumor", 1, "Dataset999_PhantomPET")
    assert {facts.case for facts in made.cases if facts.tumors} == {f"Phantom_{i:03d}" for i in range(6)}


def test_the_content_hash_follows_names_content_and_description(phantoms: Phantoms, tmp_path: Path) -> None:
    folder = tmp_path / "Dataset999_Copy"
    shutil.copytree(phantoms.dataset, folder)
    dataset = read_dataset(folder)

    def hash_now(now: Dataset = dataset) -> str:
        return content_hash(now, hash_contents(now, {}))

    first = hash_now()
    assert first == hash_now(read_dataset(phantoms.dataset)) == make_fingerprint(dataset, 0).fingerprint.content_hash
    hashes = {first, hash_now(replace(dataset, cases=dataset.cases[1:]))}
    description = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**description, "channel_names": {"0": "SUV"}}))
    hashes.add(hash_now(read_dataset(folder)))
    for path in (dataset.image_files("Phantom_002")[0], dataset.label_file("Phantom_003")):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1  # the same size
        path.write_bytes(content)
        hashes.add(hash_now())
    for path in (dataset.label_file("Phantom_003"), dataset.image_files("Phantom_003")[0]):
        path.unlink()
        hashes.add(hash_now())
    assert len(hashes) == 7
