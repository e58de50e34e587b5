from __future__ import annotations

import gzip
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from support.case_tasks import fail_at_b, kill_worker, name_case

from tumorgen_cli.data import volumes
from tumorgen_cli.data.checks import read_whole
from tumorgen_cli.data.dataset import Dataset, find_dataset, read_dataset
from tumorgen_cli.data.hosts import Host, find_host_labels, find_hosts, match_cases
from tumorgen_cli.data.integrity import check_case, conclude_checks
from tumorgen_cli.data.phantom import Phantoms
from tumorgen_cli.data.workers import choose_workers, map_cases
from tumorgen_cli.geometry import Grid
from tumorgen_cli.system.errors import DataError, DeviceError, Fault, TumorgenError

CASES = ("a", "b", "c_0001")
DESCRIPTION: dict[str, Any] = {
    "channel_names": {"0": "PET", "1": "CT"},
    "labels": {"background": 0, "tumor": 1},
    "numTraining": 3,
    "file_ending": ".nii.gz",
}


def describe(folder: Path, **changes: Any) -> None:
    content = {k: v for k, v in {**DESCRIPTION, **changes}.items() if v is not None}
    (folder / "dataset.json").write_text(json.dumps(content))


def scan(grid: Grid, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).gamma(2.0, 1.0, grid.shape).astype(np.float32)


def mark(grid: Grid) -> np.ndarray:
    label = np.zeros(grid.shape, np.uint8)
    label[4:8, 3:6, 2:5] = 1
    return label


@pytest.fixture
def raw(tmp_path: Path, grid: Grid) -> Path:
    """A sound dataset of three cases and two channels."""
    folder = tmp_path / "Dataset123_Toy"
    for i, case in enumerate(CASES):
        for channel in (0, 1):
            volumes.write_volume(
                folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz", scan(grid, 10 * i + channel), grid
            )
        volumes.write_volume(folder / "labelsTr" / f"{case}.nii.gz", mark(grid), grid)
    describe(folder)
    return folder


def faults_of(folder: Path, tumor_label: str | None = None) -> TumorgenError:
    with pytest.raises(DataError) as caught:
        check_dataset(read_dataset(folder, tumor_label))
    return caught.value


def check_dataset(dataset: Dataset) -> tuple[str, ...]:
    """Read and check every file, as `plan` does; the cases without a tumor."""
    return conclude_checks(dataset, [check_case(dataset, case)[0] for case in dataset.cases])


def has(error: TumorgenError, where: str, found: str, expected: str, remedy: str) -> None:
    """Asserts that one fault says all four, and that the message shows them."""
    hits = [
        f
        for f in error.faults
        if where in f.where and found in f.found and expected in f.expected and remedy in f.remedy
    ]
    assert len(hits) == 1, f"{len(hits)} faults say {(where, found, expected, remedy)} in\n{error}"
    assert str(hits[0]) in str(error)


def test_a_dataset_is_found_by_path_id_and_name(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_raw", str(raw.parent))
    assert find_dataset(str(raw)) == find_dataset("123") == find_dataset("Dataset123_Toy") == raw
    monkeypatch.chdir(raw.parent)
    assert find_dataset("Dataset123_Toy").is_absolute()


def test_an_unknown_dataset_lists_the_candidates(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_raw", str(raw.parent))
    with pytest.raises(DataError) as caught:
        find_dataset("12")
    has(caught.value, "dataset 12", "Dataset123_Toy", "a path, an id or a name", "export nnUNet_raw=")
    monkeypatch.delenv("nnUNet_raw")
    with pytest.raises(DataError, match="not set"):
        find_dataset("123")


def test_an_id_of_two_folders_is_refused(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twin = raw.parent / "Dataset123_Twin"
    twin.mkdir()
    describe(twin)
    monkeypatch.setenv("nnUNet_raw", str(raw.parent))
    with pytest.raises(DataError) as caught:
        find_dataset("123")
    has(caught.value, "dataset 123", "Dataset123_Toy, Dataset123_Twin", "one folder per id", "whole name")


def test_a_sound_dataset_is_read(raw: Path) -> None:
    (raw / "imagesTs").mkdir()
    (raw / "imagesTs" / "what.png").touch()
    (raw / "imagesTr" / ".DS_Store").touch()
    (raw / "labelsTr" / "notes.txt").touch()
    dataset = read_dataset(raw)
    labels = {"background": 0, "tumor": 1}
    assert dataset == Dataset(raw, raw.name, ("PET", "CT"), labels, ".nii.gz", CASES, "tumor", 1)
    assert dataset.tumor_label == 1
    assert dataset.image_files("a") == (raw / "imagesTr/a_0000.nii.gz", raw / "imagesTr/a_0001.nii.gz")
    assert dataset.label_file("c_0001") == raw / "labelsTr/c_0001.nii.gz"
    assert check_dataset(dataset) == ()


def test_an_empty_mask_is_no_fault(raw: Path, grid: Grid) -> None:
    volumes.write_volume(raw / "labelsTr/b.nii.gz", np.zeros(grid.shape, np.uint8), grid)
    assert check_dataset(read_dataset(raw)) == ("b",)


def test_phantoms_are_sound(phantoms: Phantoms) -> None:
    assert check_dataset(read_dataset(phantoms.dataset)) == ()


def test_a_missing_or_broken_dataset_json(raw: Path) -> None:
    (raw / "dataset.json").write_text("{'labels': 1}")
    has(faults_of(raw), "dataset.json", "line 1", "valid JSON", "nnU-Net v2")
    (raw / "dataset.json").write_text("[1]")
    has(faults_of(raw), "dataset.json", "a list", "a JSON object", "nnU-Net v2")
    (raw / "dataset.json").unlink()
    has(faults_of(raw), "dataset.json", "no such file", "a JSON file", "nnU-Net v2")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"labels": None}, ("dataset.json: labels", "missing", "a value", 'add "labels"')),
        ({"numTraining": None}, ("numTraining", "missing", "a value", 'add "numTraining"')),
        ({"numTraining": "3"}, ("numTraining", "'3'", "number of cases", "whole number")),
        ({"channel_names": None}, ("channel_names", "missing", "a value", 'add "channel_names"')),
        (
            {"channel_names": None, "modality": {"0": "PET"}},
            ("channel_names", "modality", "a value", 'rename "modality"'),
        ),
        ({"channel_names": ["PET"]}, ("channel_names", "['PET']", "an object", "_0000 is channel 0")),
        ({"channel_names": {}}, ("channel_names", "{}", "an object", "_0000 is channel 0")),
        ({"channel_names": {"0": "PET", "2": "CT"}}, ("channel_names", "'2'", "without gaps", "_0000 is channel 0")),
        ({"labels": ["tumor"]}, ("labels", "['tumor']", "an object", "names and values")),
        ({"labels": {"0": "background", "1": "tumor"}}, ("labels", "values first", "background", "swap")),
        (
            {"labels": {"background": 0, "whole": [1, 2]}},
            ("regions_class_order", "None", "1 of the values 0, 1, 2", "a voxel value for each region"),
        ),
        ({"labels": {"background": 0, "tumor": "1"}}, ("labels.tumor", "'1'", "one whole number", "voxel value")),
        ({"labels": {"background": 0, "tumor": True}}, ("labels.tumor", "True", "one whole number", "voxel value")),
        ({"labels": {"background": 0, "tumor": 2}}, ("labels", "tumor = 2", "without gaps", "renumber")),
        ({"labels": {"air": 0, "tumor": 1}}, ("labels", "air = 0", "background = 0", "renumber")),
        ({"file_ending": "nii.gz"}, ("file_ending", "'nii.gz'", ".nii.gz", 'write ".nii.gz"')),
        ({"file_ending": ".png"}, ("file_ending", "'.png', 2D images", "3D scans", "stack the slices")),
        ({"dataset": {"a": {}}}, ("dataset.json: dataset.a", "{}", "an object", "list the files of each case")),
    ],
)
def test_faults_of_dataset_json(raw: Path, changes: dict[str, Any], fault: tuple[str, str, str, str]) -> None:
    describe(raw, **changes)
    error = faults_of(raw)
    has(error, *fault)
    assert len(error.faults) == 1


def test_all_faults_of_dataset_json_come_at_once(raw: Path) -> None:
    describe(raw, labels={"background": 0, "whole": [1, 2], "core": "2"}, file_ending="nii", channel_names=None)
    assert len(faults_of(raw).faults) == 3


@pytest.mark.parametrize(
    ("others", "name"),
    [
        ((), "thing"),
        (("ignore",), "thing"),
        (("liver",), "Liver_Tumor"),
        (("liver",), "tumour"),
        (("kidney", "ignore"), "LESION"),
        (("pancreas",), "cancer"),
        (("brain",), "metastases"),
        (("lung",), "GTVp"),
        (("colon",), "neoplasm"),
        (("peritumoral edema", "non-tumor"), "tumor"),
    ],
)
def test_the_tumor_label_is_known_by_its_name(raw: Path, others: tuple[str, ...], name: str) -> None:
    describe(raw, labels={"background": 0, **{other: i for i, other in enumerate(others, 1)}, name: len(others) + 1})
    dataset = read_dataset(raw)
    assert (dataset.tumor_name, dataset.tumor_label) == (name, len(others) + 1)


@pytest.mark.parametrize("names", [("liver", "kidney"), ("gtv primary", "gtv nodes"), ()])
def test_a_tumor_label_that_cannot_be_told(raw: Path, names: tuple[str, ...]) -> None:
    describe(raw, labels={"background": 0, **{name: i for i, name in enumerate(names, 1)}})
    listed = f"{names[0]} = 1, {names[1]} = 2" if names else "none but background"
    has(faults_of(raw), "dataset.json: labels", listed, "one label that is the tumor", "--tumor-label")


def test_the_tumor_label_can_be_named(raw: Path) -> None:
    describe(raw, labels={"background": 0, "tumor": 1, "Node": 2})
    assert [read_dataset(raw, wanted).tumor_label for wanted in ("Node", "node", "2", "tumor")] == [2, 2, 2, 1]
    for wanted in ("0", "background", "3", "lesion"):
        with pytest.raises(DataError) as caught:
            read_dataset(raw, wanted)
        has(
            caught.value,
            "labels",
            f"--tumor-label {wanted}, but the labels are: tumor = 1, Node = 2",
            "one label",
            "--tumor-label",
        )


def test_faults_of_file_names_come_at_once(raw: Path) -> None:
    images, labels = raw / "imagesTr", raw / "labelsTr"
    (images / "a_0001.nii.gz").unlink()
    (labels / "b.nii.gz").rename(labels / "d.nii.gz")
    (images / "b_0002.nii.gz").write_bytes((images / "b_0001.nii.gz").read_bytes())
    (images / "scan.nii.gz").write_bytes((images / "b_0001.nii.gz").read_bytes())
    (images / "e_0000.nii").touch()
    (images / "f_0000.nii").touch()
    error = faults_of(raw)
    has(error, "imagesTr/a_0001.nii.gz", "no such file", "channel 1 (CT) of a", "add the file")
    has(error, "imagesTr/b_0002.nii.gz", "channel 2", "0000 = PET, 0001 = CT", "remove the file")
    has(error, "labelsTr/b.nii.gz", "no such file", "label of image b", "add the label")
    has(error, "labelsTr/d.nii.gz", "a label without an image", "imagesTr/d_0000.nii.gz", "add the image or remove")
    has(error, "imagesTr/scan.nii.gz", "no channel number", "<four digits>.nii.gz", "rename it to scan_0000.nii.gz")
    has(error, "imagesTr/*.nii", "2 files, the first e_0000.nii", ".nii.gz", "convert them")
    assert len(error.faults) == 6


def test_no_cases(raw: Path) -> None:
    for path in (raw / "imagesTr").iterdir():
        path.unlink()
    has(faults_of(raw), "imagesTr", "no cases", "<case>_0000.nii.gz", "put the scans there")
    (raw / "imagesTr").rmdir()
    has(faults_of(raw), "imagesTr", "no such folder", "<case>_0000.nii.gz", "put the scans there")


def test_faults_of_voxels_come_at_once(raw: Path, grid: Grid) -> None:
    images, labels = raw / "imagesTr", raw / "labelsTr"
    holes = scan(grid)
    holes[0, 0, :3], holes[1, 1, 1] = np.nan, np.inf
    volumes.write_volume(images / "a_0000.nii.gz", holes, grid)
    volumes.write_volume(images / "a_0001.nii.gz", np.full(grid.shape, 7, np.int16), grid)
    strange = mark(grid)
    strange[0, 0, :4] = (5, 5, 5, 9)
    volumes.write_volume(labels / "a.nii.gz", strange, grid)
    volumes.write_volume(labels / "b.nii.gz", mark(grid) * np.float32(0.5), grid)
    blank = mark(grid).astype(np.float32)
    blank[0, 0, 0] = np.nan
    volumes.write_volume(labels / "c_0001.nii.gz", blank, grid)
    error = faults_of(raw)
    has(error, "imagesTr/a_0000.nii.gz", "4 of 960 voxels are NaN or infinite", "finite", "replace them")
    has(error, "imagesTr/a_0001.nii.gz", "every voxel is 7", "contrast", "export the scan again")
    has(error, "labelsTr/a.nii.gz", "4 voxels of value 5, 9", "background = 0, tumor = 1", 'add the values to "labels"')
    has(error, "labelsTr/b.nii.gz", "36 voxels that are no whole numbers (0.5)", "tumor = 1", "nearest neighbor")
    has(error, "labelsTr/c_0001.nii.gz", "1 of 960 voxels are NaN", "finite", "replace them")
    assert len(error.faults) == 5


def test_voxels_that_are_not_finite_in_another_format(raw: Path, grid: Grid) -> None:
    describe(raw, file_ending=".nrrd")
    for path in raw.glob("*Tr/*.nii.gz"):
        volumes.write_volume(path.with_name(path.name.replace(".nii.gz", ".nrrd")), *volumes.read_volume(path))
        path.unlink()
    assert check_dataset(read_dataset(raw)) == ()
    holes, blank = scan(grid), mark(grid).astype(np.float32)
    holes[0, 0, 0], blank[0, 0, 0] = np.nan, np.nan
    volumes.write_volume(raw / "imagesTr/a_0000.nrrd", holes, grid)
    volumes.write_volume(raw / "labelsTr/b.nrrd", blank, grid)
    error = faults_of(raw)
    has(error, "a_0000.nrrd", "1 of 960 voxels are NaN or infinite", "finite", "replace them")
    has(error, "b.nrrd", "1 of 960 voxels are NaN or infinite", "finite voxels", "replace them")


def test_whole_labels_in_a_float_file_are_fine(raw: Path, grid: Grid) -> None:
    volumes.write_volume(raw / "labelsTr/a.nii.gz", mark(grid).astype(np.float64), grid)
    assert check_dataset(read_dataset(raw)) == ()


def test_geometry_must_agree(raw: Path, grid: Grid) -> None:
    short = Grid((12, 10, 7), grid.spacing_mm, grid.origin_mm, grid.direction)
    coarse = replace(grid, spacing_mm=(2.0, 3.0, 4.0))
    straight = replace(grid, direction=Grid(grid.shape, grid.spacing_mm).direction)
    volumes.write_volume(raw / "labelsTr/a.nii.gz", mark(short), short)
    volumes.write_volume(raw / "imagesTr/b_0001.nii.gz", scan(coarse), coarse)
    volumes.write_volume(raw / "labelsTr/c_0001.nii.gz", mark(straight), straight)
    error = faults_of(raw)
    has(error, "labelsTr/a.nii.gz", "12×10×7 voxels", "as a_0000.nii.gz: 12×10×8 voxels", "resample it")
    has(error, "imagesTr/b_0001.nii.gz", "2×3×4 mm", "2×3×5 mm", "copy the image's header")
    has(error, "labelsTr/c_0001.nii.gz", "direction (1.0, 0.0", "direction (0.94,", "copy the image's header")
    assert len(error.faults) == 3


def test_two_and_four_dimensions_are_refused(raw: Path) -> None:
    sitk.WriteImage(
        sitk.GetImageFromArray(np.ones((2, 8, 10, 12), np.float32), isVector=False), str(raw / "imagesTr/a_0000.nii.gz")
    )
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((10, 12), np.float32)), str(raw / "imagesTr/b_0000.nii.gz"))
    sitk.WriteImage(
        sitk.GetImageFromArray(np.ones((8, 10, 12, 3), np.float32), isVector=True), str(raw / "labelsTr/b.nii.gz")
    )
    error = faults_of(raw)
    has(error, "a_0000.nii.gz", "12×10×8×2", "3D scalar volume", "one 3D file per channel")
    has(error, "b_0000.nii.gz", "12×10, a 2D image", "3D scalar volume", "stack the slices")
    has(error, "labelsTr/b.nii.gz", "3 components", "3D scalar volume", "one 3D file per channel")


@pytest.mark.parametrize("kept", [0, 100, 0.5, -5])
def test_truncated_and_unreadable_files(raw: Path, kept: float) -> None:
    path = raw / "imagesTr/a_0000.nii.gz"
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    (raw / "labelsTr/b.nii.gz").write_bytes(b"no NIfTI at all, and no gzip")
    error = faults_of(raw)
    has(error, "imagesTr/a_0000.nii.gz", "bytes", "whole NIfTI", "copy or export the file again")
    has(error, "labelsTr/b.nii.gz", "28 bytes", "whole NIfTI", "copy or export the file again")
    assert len(error.faults) == 2


def test_a_file_that_has_gone_is_a_fault_like_others(raw: Path) -> None:
    faults: list[Fault] = []
    assert read_whole(raw / "gone.nii.gz", faults) is None
    assert [fault.found for fault in faults] == ["no such file"]


def test_a_truncated_file_that_is_not_compressed(raw: Path) -> None:
    describe(raw, file_ending=".nii")
    for path in raw.glob("*Tr/*.nii.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert check_dataset(read_dataset(raw)) == ()
    path = raw / "labelsTr/a.nii"
    path.write_bytes(path.read_bytes()[:-100])
    has(faults_of(raw), "labelsTr/a.nii", "truncated: 1212 of 1312 bytes", "whole NIfTI", "copy or export")


def test_a_file_of_several_gzip_members_is_whole(raw: Path) -> None:
    path = raw / "imagesTr/a_0000.nii.gz"
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:1000]) + gzip.compress(content[1000:]))
    assert check_dataset(read_dataset(raw)) == ()


def test_no_tumor_in_any_case(raw: Path, grid: Grid) -> None:
    for case in CASES:
        volumes.write_volume(raw / f"labelsTr/{case}.nii.gz", np.zeros(grid.shape, np.uint8), grid)
    has(faults_of(raw), "labelsTr", "no voxel of tumor = 1 in any of 3", "a tumor in one case", "--tumor-label")


def test_names_and_voxels_are_told_in_one_error(raw: Path, grid: Grid) -> None:
    (raw / "labelsTr/b.nii.gz").unlink()
    volumes.write_volume(raw / "imagesTr/b_0001.nii.gz", np.zeros(grid.shape, np.float32), grid)
    (raw / "imagesTr/a_0000.nii.gz").write_bytes(b"")
    error = faults_of(raw)
    assert len(error.faults) == 3
    assert "3 faults" in error.message
    assert pickle.loads(pickle.dumps(error)).faults == error.faults


def test_worker_processes_keep_the_order(raw: Path) -> None:
    results = [result.split() for result in map_cases(name_case, read_dataset(raw), workers=2)]
    assert tuple(case for case, _ in results) == CASES
    assert str(os.getpid()) not in {process for _, process in results}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bug_in_a_worker_is_shown_with_its_case(raw: Path, workers: int) -> None:
    with pytest.raises(RuntimeError, match=r"case b: ZeroDivisionError\('a bug in the child'\)") as caught:
        list(map_cases(fail_at_b, read_dataset(raw), workers))
    assert workers == 0 or "in fail_at_b" in str(caught.value.__cause__.__cause__)  # type: ignore[union-attr]


def test_a_killed_worker_is_told(raw: Path) -> None:
    with pytest.raises(DeviceError) as caught:
        list(map_cases(kill_worker, read_dataset(raw), workers=1))
    has(caught.value, "1 worker processes", "killed", "all to finish", "--workers")


def test_the_number_of_workers(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = read_dataset(raw)
    assert choose_workers(dataset) == 0
    monkeypatch.setattr("tumorgen_cli.data.workers._IN_PROCESS_BYTES", 0)
    monkeypatch.setattr("tumorgen_cli.data.workers.usable_cores", lambda: 2)
    assert choose_workers(dataset) == 2
    monkeypatch.setattr("tumorgen_cli.data.workers.usable_cores", lambda: 64)
    assert choose_workers(dataset) == 3, "no more than cases"
    monkeypatch.setattr("tumorgen_cli.data.workers._WORKER_BYTES", 2**50)
    assert choose_workers(dataset) == 1


@pytest.fixture
def hosts(tmp_path: Path, grid: Grid) -> Path:
    folder = tmp_path / "hosts"
    for case in ("x", "y"):
        for channel in (0, 1):
            volumes.write_volume(folder / f"{case}_{channel:04d}.nii.gz", scan(grid), grid)
    return folder


def test_host_scans_are_grouped_by_case(hosts: Path, raw: Path, phantoms: Phantoms) -> None:
    found = find_hosts(hosts, ("PET", "CT"), ".nrrd")
    assert found == tuple(
        Host(case, (hosts / f"{case}_0000.nii.gz", hosts / f"{case}_0001.nii.gz")) for case in ("x", "y")
    )
    hosts.rename(hosts.parent / "imagesTr")
    assert [host.case for host in find_hosts(hosts.parent, ("PET", "CT"))] == ["x", "y"]
    assert [host.case for host in find_hosts(raw, ("pet", "ct"))] == list(CASES)
    assert len(find_hosts(phantoms.healthy, ("PET",))) == 2


def test_cases_among_scans_are_known_by_their_voxels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written again, in another type or packing, a scan is the same; what has another shape is not read."""
    rng, shapes = np.random.default_rng(0), {"a": (4, 5, 6), "b": (4, 5, 6), "c": (7, 5, 6), "d": (4, 5, 7)}
    arrays = {name: rng.integers(0, 99, shape).astype(np.int16) for name, shape in shapes.items()}
    arrays |= {"Somebody": arrays["b"].astype(np.float32), "a_again": rng.integers(0, 99, (4, 5, 6))}
    for name, array in arrays.items():
        ending = ".nii" if name == "Somebody" else ".nii.gz"
        volumes.write_volume(
            tmp_path / f"{name}{ending}",
            array.astype(np.float32 if name == "Somebody" else np.int16),
            Grid(array.shape, (1, 1, 2)),
        )
    paths = {path.name.split(".")[0]: path for path in tmp_path.iterdir()}
    cases = SimpleNamespace(image_files=lambda case: (paths[case],))
    read, read_volume = [], volumes.read_volume
    monkeypatch.setattr(volumes, "read_volume", lambda path: read.append(path.name.split(".")[0]) or read_volume(path))
    scans = {name: paths[name] for name in ("a", "Somebody", "a_again", "d")}
    assert match_cases(scans, cases, ["a", "b", "c"]) == {"a": "a", "Somebody": "b"}  # type: ignore[arg-type]
    assert sorted(read) == ["Somebody", "a", "a_again", "b"]


def test_label_files_of_hosts(tmp_path: Path) -> None:
    for name in ("imagesTr/x_0000.nii.gz", "labelsTr/x.nii.gz", "labelsTr/y.nii"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    labels = {"background": 0, "liver": 1, "tumor": 2}
    assert find_host_labels(tmp_path, labels, "tumor") == {"x": tmp_path / "labelsTr" / "x.nii.gz"}
    for declared, known in (
        ({"background": 0, "liver": 1}, True),
        ({**labels, "spleen": 3}, False),
        ({"background": 0, "liver": 2}, False),
    ):
        (tmp_path / "dataset.json").write_text(json.dumps({"labels": declared}))
        assert [*find_host_labels(tmp_path / "imagesTr", labels, "tumor")] == [
            "x"
        ] * known  # else its values mean something else
    assert find_host_labels(tmp_path / "labelsTr", labels, "tumor") == {}


def test_all_faults_of_host_scans_come_at_once(hosts: Path, grid: Grid) -> None:
    (hosts / "x_0001.nii.gz").unlink()
    (hosts / "y_0002.nii.gz").write_bytes((hosts / "y_0001.nii.gz").read_bytes())
    volumes.write_volume(hosts / "x_0000.mha", scan(grid), grid)
    volumes.write_volume(hosts / "y_0000.nrrd", scan(grid), grid)
    volumes.write_volume(hosts / "z.nrrd", scan(grid), grid)
    (hosts / "t_0000.nii.gz").write_bytes((hosts / "x_0000.nii.gz").read_bytes()[:1000])
    shifted = replace(grid, origin_mm=(0.0, 0.0, 0.0))
    volumes.write_volume(hosts / "t_0001.nii.gz", scan(grid), grid)
    volumes.write_volume(hosts / "u_0000.nii.gz", scan(grid), grid)
    volumes.write_volume(hosts / "u_0001.nii.gz", scan(grid), shifted)
    with pytest.raises(DataError) as caught:
        find_hosts(hosts, ("PET", "CT"), ".nrrd")
    error = caught.value
    has(error, "x_0001.nrrd", "no such file", "channel 1 (CT) of x", "add the file")
    has(error, "y_0002.nii.gz", "channel 2", "0001 = CT", "remove the file")
    has(error, "*.mha", "1 file, the first x_0000.mha", ".nrrd or .nii.gz", "convert")
    has(error, "y_0000.nrrd", "the same channel as y_0000.nii.gz", "one file per channel", "remove one of them")
    has(error, "z.nrrd", "no channel number", "<case>_<four digits>.nrrd", "rename it to z_0000.nrrd")
    has(error, "t_0000.nii.gz", "truncated", "whole NIfTI", "copy or export")
    has(error, "u_0001.nii.gz", "origin (0.0, 0.0, 0.0)", "origin (-31.5, 12.25, 400.0)", "resample it")
    assert len(error.faults) == 7


def test_no_host_scans(tmp_path: Path) -> None:
    for folder, found in ((tmp_path, "no scans"), (tmp_path / "nowhere", "no such folder")):
        with pytest.raises(DataError) as caught:
            find_hosts(folder, ("PET",))
        has(caught.value, str(folder), found, "<case>_0000.nii.gz", "name another folder")


def test_hosts_of_other_channels_are_refused(raw: Path) -> None:
    with pytest.raises(DataError) as caught:
        find_hosts(raw, ("CT", "PET"))
    has(
        caught.value,
        "dataset.json: channel_names",
        "PET, CT",
        "CT, PET",
        "take hosts with the channels of the training set",
    )


def test_paths_that_are_no_files_are_faults_of_the_data_set(raw: Path) -> None:
    """Links of DataLad whose content was not fetched, a pipe and a folder: each once, and nothing hangs."""
    for name in ("imagesTr/a_0000.nii.gz", "labelsTr/b.nii.gz"):
        (raw / name).unlink()
        (raw / name).symlink_to("../.git/annex/objects/x.nii.gz")
    (raw / "imagesTr/a_0001.nii.gz").unlink()
    os.mkfifo(raw / "imagesTr/a_0001.nii.gz")
    (raw / "labelsTr/c_0001.nii.gz").unlink()
    (raw / "labelsTr/c_0001.nii.gz").mkdir()
    error = faults_of(raw)
    has(error, "imagesTr/a_0000.nii.gz", "a link to nothing (../.git/annex", "a file", "datalad get")
    has(error, "labelsTr/b.nii.gz", "a link to nothing (../.git/annex", "a file", "remove the image and the label")
    has(error, "imagesTr/a_0001.nii.gz", "a pipe or device", "a file", "put the scan there")
    has(error, "labelsTr/c_0001.nii.gz", "a folder", "a file", "put the scan there")
    assert len(error.faults) == 4
    for case in ("a", "b"):  # the remedy
        for path in (*raw.glob(f"imagesTr/{case}_*"), *raw.glob(f"labelsTr/{case}.*")):
            path.unlink()
    assert len(faults_of(raw).faults) == 1


@pytest.mark.parametrize("place", ["imagesTr", "labelsTr"])
def test_names_that_are_not_utf_8(raw: Path, place: str) -> None:
    path = raw / place / os.fsdecode(b"M\xfcller_0000.nii.gz" if place == "imagesTr" else b"M\xfcller.nii.gz")
    (raw / "imagesTr/a_0000.nii.gz" if place == "imagesTr" else raw / "labelsTr/a.nii.gz").rename(path)
    error = faults_of(raw)
    has(error, f"{place}/M\\udcfcller", "b'M\\xfcller", "a name in UTF-8", "convmv")
    str(error).encode()


def test_names_of_the_field(raw: Path) -> None:
    """Three DICOM UIDs, a dollar, umlauts in UTF-8, a blank."""
    uid = "-".join([f"1.3.6.1.4.1.14519.5.2.1.4219.6651.22835784537185983470148{k:07d}" for k in range(3)])
    names = dict(zip(CASES, (uid, "$HOME_Müller", "case 1"), strict=True))
    for path in [*raw.glob("imagesTr/*"), *raw.glob("labelsTr/*")]:
        for old, new in names.items():
            if path.name.startswith(f"{old}_0") or path.name == f"{old}.nii.gz":
                path.rename(path.with_name(path.name.replace(old, new, 1)))
                break
    dataset = read_dataset(raw)
    assert set(dataset.cases) == set(names.values())
    assert check_dataset(dataset) == ()


@pytest.mark.parametrize("link", [True, False])
def test_hosts_that_are_no_files(hosts: Path, link: bool) -> None:
    path = hosts / "x_0000.nii.gz"
    path.unlink()
    path.symlink_to("nothing.nii.gz") if link else os.mkfifo(path)
    with pytest.raises(DataError) as caught:
        find_hosts(hosts, ("PET", "CT"))
    (fault,) = caught.value.faults
    assert (fault.where, fault.expected) == (str(path), "a file")
