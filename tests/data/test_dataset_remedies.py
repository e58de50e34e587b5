"""What is said about a data set works when it is followed: a table of faults, remedies, and what follows them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import nibabel
import numpy as np
import pytest
from support.spoil import drop, edit_json, edit_voxels, put

from tumorgen_cli.data import workers
from tumorgen_cli.data.dataset import read_dataset
from tumorgen_cli.data.hosts import find_hosts
from tumorgen_cli.data.integrity import check_case, conclude_checks
from tumorgen_cli.data.splits import check_folds, make_nnunet_folds, make_splits
from tumorgen_cli.data.subsets import select_organ_cases, write_tumor_free_subset
from tumorgen_cli.data.volumes import read_image, read_volume
from tumorgen_cli.planning.fingerprint import make_fingerprint
from tumorgen_cli.system.errors import TumorgenError

FORMAT = "write it in the format of nnU-Net v2 (its documentation/dataset_format.md)"
JSON = {
    "channel_names": {"0": "PET"},
    "labels": {"background": 0, "tumor": 1},
    "numTraining": 1,
    "file_ending": ".nii.gz",
}
OFF_GRID = (
    "resample it onto the image (labels by nearest neighbor); "
    "where voxels do correspond and only the header is wrong, copy the image's header"
)
SPLITS = 'give each case of the data set once per fold, in "train" or in "val"; or delete the file'


def write(path: Path, voxels: np.ndarray, edge_mm: float = 2.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([edge_mm] * 3 + [1])), path)


def tumor() -> np.ndarray:
    voxels = np.zeros((10, 9, 8), np.uint8)
    voxels[3:6, 3:6, 3:6] = 1
    return voxels


def scan(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(5, 1, (10, 9, 8)).astype(np.float32)


@pytest.fixture
def raw(tmp_path):
    """A data set of one case."""
    folder = tmp_path / "Dataset001_Raw"
    write(folder / "imagesTr" / "a_0000.nii.gz", scan())
    write(folder / "labelsTr" / "a.nii.gz", tumor())
    (folder / "dataset.json").write_text(json.dumps(JSON))
    return folder


def check(folder):
    """Check a data set as `plan` does; return its cases without a tumor."""
    dataset = read_dataset(folder)
    return conclude_checks(dataset, [check_case(dataset, case)[0] for case in dataset.cases])


def remedies(function, *arguments):
    with pytest.raises(TumorgenError) as error:
        function(*arguments)
    return [fault.remedy for fault in error.value.faults]


def at(folder):
    return folder / "dataset.json"


def image(folder):
    return folder / "imagesTr" / "a_0000.nii.gz"


def label(folder):
    return folder / "labelsTr" / "a.nii.gz"


def moved(folder, old, new):
    (folder / old).rename(folder / new)


def two_channels(folder):
    put(at(folder), "channel_names", value={"0": "CT", "1": "PET"})


DATASETS = [  # what is wrong, remedy, what follows it
    (lambda d: at(d).write_text("[]"), FORMAT, lambda d: at(d).write_text(json.dumps(JSON))),
    (lambda d: at(d).write_text("{"), FORMAT, lambda d: at(d).write_text(json.dumps(JSON))),
    (
        lambda d: drop(at(d), "numTraining"),
        'add "numTraining" in the format of nnU-Net v2',
        lambda d: put(at(d), "numTraining", value=1),
    ),
    (
        lambda d: edit_json(at(d), lambda j: j.update(modality=j.pop("channel_names"))),
        'rename "modality" to "channel_names"',
        lambda d: edit_json(at(d), lambda j: j.update(channel_names=j.pop("modality"))),
    ),
    (
        lambda d: put(at(d), "file_ending", value=".dcm"),
        "convert the files to .nii.gz, images and labels alike",
        lambda d: put(at(d), "file_ending", value=".nii.gz"),
    ),
    (
        lambda d: put(at(d), "file_ending", value="nii.gz"),
        'write ".nii.gz"',
        lambda d: put(at(d), "file_ending", value=".nii.gz"),
    ),
    (
        lambda d: put(at(d), "numTraining", value="1"),
        "write a whole number",
        lambda d: put(at(d), "numTraining", value=1),
    ),
    (
        lambda d: put(at(d), "channel_names", value={"1": "PET"}),
        "number the channels as the files are: _0000 is channel 0",
        lambda d: put(at(d), "channel_names", value={"0": "PET"}),
    ),
    (
        lambda d: put(at(d), "labels", value=["background", "tumor"]),
        "write names and values",
        lambda d: put(at(d), "labels", value=JSON["labels"]),
    ),
    (
        lambda d: put(at(d), "labels", "tumor", value=["one"]),
        "list the voxel values of this region",
        lambda d: (put(at(d), "labels", "tumor", value=[1]), put(at(d), "regions_class_order", value=[1])),
    ),
    (
        lambda d: put(at(d), "labels", "tumor", value=[1]),
        'give "regions_class_order" a voxel value for each region, in their order: later ones overwrite',
        lambda d: put(at(d), "regions_class_order", value=[1]),
    ),
    (
        lambda d: put(at(d), "labels", "tumor", value="one"),
        "write the voxel value of this label",
        lambda d: put(at(d), "labels", "tumor", value=1),
    ),
    (
        lambda d: put(at(d), "labels", "tumor", value=2),
        "renumber the labels, in dataset.json and in the label files",
        lambda d: put(at(d), "labels", "tumor", value=1),
    ),
    (
        lambda d: moved(d, "imagesTr/a_0000.nii.gz", "imagesTr/a.nii.gz"),
        "rename it to a_0000.nii.gz if it is channel 0",
        lambda d: moved(d, "imagesTr/a.nii.gz", "imagesTr/a_0000.nii.gz"),
    ),
    (
        lambda d: (d / "imagesTr" / "b_0000.nrrd").write_text(""),
        "convert them, move them away, or name their ending as file_ending in dataset.json",
        lambda d: (d / "imagesTr" / "b_0000.nrrd").unlink(),
    ),
    (
        lambda d: shutil.copy(image(d), d / "imagesTr" / "a_0001.nii.gz"),
        "remove the file, or name its channel in channel_names of dataset.json",
        two_channels,
    ),
    (
        two_channels,
        "add the file, or move the other files of a away",
        lambda d: write(d / "imagesTr" / "a_0001.nii.gz", scan(1)),
    ),
    (
        lambda d: edit_voxels(image(d), lambda v: v.__setitem__((0, 0, 0), np.nan)),
        "replace them with a value that makes sense there (air, no uptake, background)",
        lambda d: edit_voxels(image(d), lambda v: np.nan_to_num(v, nan=0.0)),
    ),
    (
        lambda d: write(image(d), np.zeros((10, 9, 8), np.float32)),
        "export the scan again, or remove the case",
        lambda d: write(image(d), scan()),
    ),
    (
        lambda d: edit_voxels(label(d), lambda v: v * 0.5, np.float32),
        "resample labels by nearest neighbor and save them as integers",
        lambda d: write(label(d), tumor()),
    ),
    (
        lambda d: write(label(d), tumor(), 3.0),
        OFF_GRID,
        lambda d: write(label(d), tumor(), 2.0),
    ),
    (
        lambda d: write(label(d), tumor()[1:]),
        "resample it onto the image (labels by nearest neighbor)",
        lambda d: write(label(d), tumor()),
    ),
    (
        lambda d: write(label(d), tumor() * 0),
        "choose the right label with --tumor-label, or correct the files",
        lambda d: write(label(d), tumor()),
    ),
    (
        lambda d: moved(d, "imagesTr", "images"),
        "put the scans there, or correct file_ending in dataset.json",
        lambda d: moved(d, "images", "imagesTr"),
    ),
    (
        lambda d: label(d).unlink(),
        "add the label (all background for a tumor-free scan), or move the image to imagesTs",
        lambda d: write(label(d), tumor()),
    ),
    (
        lambda d: write(d / "labelsTr" / "b.nii.gz", tumor()),
        "add the image or remove the label",
        lambda d: write(d / "imagesTr" / "b_0000.nii.gz", scan(2)),
    ),
    (
        lambda d: write(image(d), np.stack([scan()] * 2, -1)),
        "write one 3D file per channel and time point",
        lambda d: write(image(d), scan()),
    ),
    (
        lambda d: write(image(d), scan()[:, :, :1]),
        "stack the slices of each scan into one 3D volume: tumorgen learns and paints 3D tumors",
        lambda d: write(image(d), scan()),
    ),
    (
        lambda d: put(at(d), "file_ending", value=".png"),
        "stack the slices of each scan into one 3D volume: tumorgen learns and paints 3D tumors",
        lambda d: put(at(d), "file_ending", value=".nii.gz"),
    ),
    (
        lambda d: write(image(d), scan().astype(np.complex64)),
        "save the magnitude, or one file each for real and imaginary part",
        lambda d: edit_voxels(image(d), np.abs),
    ),
    (
        lambda d: (image(d).unlink(), image(d).symlink_to("../elsewhere.nii.gz")),
        "fetch its content (for example `datalad get`), correct the link, or remove the image and the label",
        lambda d: write(d / "elsewhere.nii.gz", scan()),
    ),
    (
        lambda d: (image(d).unlink(), image(d).mkdir()),
        "put the scan there as a file, or remove it",
        lambda d: image(d).rmdir() or write(image(d), scan()),
    ),
]


@pytest.mark.parametrize(
    ("spoil", "remedy", "follow"), DATASETS, ids=lambda each: each if isinstance(each, str) else ""
)
def test_a_data_set_is_mended_as_told(raw, spoil, remedy, follow):
    spoil(raw)
    assert remedy in remedies(check, raw)
    follow(raw)
    assert check(raw) == ()
    assert read_volume(image(raw))[0].shape == (10, 9, 8)


def test_a_name_in_another_encoding_is_renamed(raw):
    odd = os.fsencode(raw / "imagesTr") + b"/b\xe9_0000.nii.gz"
    Path(os.fsdecode(odd)).write_bytes(image(raw).read_bytes())
    said = remedies(check, raw)
    assert f"rename it (for example `convmv -f latin1 -t utf8 --notest {raw / 'imagesTr'}/*`)" in said
    Path(os.fsdecode(odd)).rename(raw / "imagesTr" / "bé_0000.nii.gz")  # what convmv does
    write(raw / "labelsTr" / "bé.nii.gz", tumor())
    assert check(raw) == ()
    assert read_dataset(raw).cases == ("a", "bé")


def test_a_tumor_label_is_named(raw):
    put(at(raw), "labels", value={"background": 0, "tumor": 1, "lesion": 2})
    assert remedies(read_dataset, raw) == [
        "name it, by name or value: --tumor-label NAME; several labels with commas between: --tumor-label NAME,NAME"
    ]
    assert read_dataset(raw, "tumor,lesion").tumor_label == read_dataset(raw, "1, 2").tumor_label == (1, 2)
    assert read_dataset(raw, "lesion").tumor_label == read_dataset(raw, "2").tumor_label == 2


def test_channels_of_a_scan_are_resampled_onto_the_first(raw):
    other = raw / "imagesTr" / "a_0001.nii.gz"
    write(other, scan()[2:])
    assert remedies(read_image, [image(raw), other]) == [f"resample it onto {image(raw).name}"]
    write(other, scan(3))
    assert np.array_equal(read_image([image(raw), other])[0][1], scan(3))


def test_a_detached_header_is_saved_as_one_file(tmp_path):
    import SimpleITK

    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(scan().T), str(tmp_path / "a.nhdr"))
    (tmp_path / "a.nhdr").rename(tmp_path / "a.nrrd")
    assert remedies(read_volume, tmp_path / "a.nrrd") == ["save it as one file, with its voxels inside"]
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(scan().T), str(tmp_path / "a.nrrd"))
    assert np.array_equal(read_volume(tmp_path / "a.nrrd")[0], scan())


def test_a_pair_of_analyze_is_saved_as_one_file(tmp_path):
    nibabel.save(nibabel.Nifti1Pair(scan(), np.diag([2, 2, 2, 1])), tmp_path / "a.hdr")
    (tmp_path / "a.hdr").rename(tmp_path / "a.nii")
    assert remedies(read_volume, tmp_path / "a.nii") == ["save it as one .nii.gz file"]
    write(tmp_path / "a.nii.gz", scan())
    assert np.array_equal(read_volume(tmp_path / "a.nii.gz")[0], scan())


def test_hosts_are_given_as_told(raw, tmp_path):
    assert remedies(find_hosts, tmp_path, ["PET"], ".nii.gz") == [
        "name another folder, or rename its files to that pattern"
    ]
    hosts = raw / "imagesTr"
    (hosts / "dataset.json").write_text("{")
    assert remedies(find_hosts, hosts, ["PET"], ".nii.gz") == [f"{FORMAT}, or remove it"]
    (hosts / "dataset.json").unlink()
    assert [host.case for host in find_hosts(hosts, ["PET"], ".nii.gz")] == ["a"]


@pytest.fixture
def five(raw):
    """The cases a to e; e has another organ around its tumor."""
    for case in "bcde":
        write(raw / "imagesTr" / f"{case}_0000.nii.gz", scan(ord(case)))
        write(raw / "labelsTr" / f"{case}.nii.gz", tumor())
    put(at(raw), "numTraining", value=5)
    return raw


def write_folds(folder, *folds):
    (folder / "splits_final.json").write_text(json.dumps([{"train": [*a], "val": [*b]} for a, b in folds]))


@pytest.mark.parametrize("fold", [("abcdx", "e"), ("abcde", "e")], ids=["a stranger", "in both parts"])
def test_folds_are_corrected_as_told(five, fold):
    write_folds(five, fold)
    dataset = read_dataset(five)
    assert remedies(make_splits, dataset, None) == [SPLITS]
    write_folds(five, ("abcd", "e"))
    assert make_splits(dataset, None).test == ("e",)
    (five / "splits_final.json").write_text("{}")
    assert remedies(make_splits, dataset, None) == [SPLITS]
    (five / "splits_final.json").unlink()
    assert len(make_splits(dataset, None).test) == 1


def test_a_fold_that_is_written_is_chosen(five):
    write_folds(five, ("abcd", "e"), ("bcde", "a"))
    dataset, path = read_dataset(five), five / "splits_final.json"
    assert remedies(make_splits, dataset, 4) == [f"choose one of these, or remove {path} for nnU-Net's five"]
    assert make_splits(dataset, 1).test == ("a",)
    path.unlink()
    assert make_splits(dataset, 4).test == make_nnunet_folds(dataset.cases, 5)[4].test


def test_too_few_cases_for_folds(raw):
    said = remedies(make_nnunet_folds, ["a", "b"], 5)
    assert said == ["write a splits_final.json with your own folds into the data set, or ask for fewer folds"]
    assert {fold.test for fold in make_nnunet_folds(["a", "b"], 2)} == {("a",), ("b",)}
    write_folds(raw, ("", "a"))
    dataset = read_dataset(raw)
    check_folds(dataset, raw / "splits_final.json", {0: make_splits(dataset, 0)})


def test_an_organ_is_named_or_held_out_as_told(five):
    put(at(five), "labels", value={"background": 0, "tumor": 1, "liver": 2, "lung": 3})
    for case in "abcd":
        edit_voxels(five / "labelsTr" / f"{case}.nii.gz", lambda v: np.where(v == 1, 1, 2).astype(np.uint8))
    edit_voxels(five / "labelsTr" / "e.nii.gz", lambda v: np.where(v == 1, 1, 3).astype(np.uint8))
    dataset = read_dataset(five, "tumor")
    said = remedies(select_organ_cases, dataset, "lung", ["a", "b", "c", "d"])
    hold_out = "write a splits_final.json into the data set that holds out other cases, then plan again"
    assert said == [f"name another organ or data set, or {hold_out}"]
    assert select_organ_cases(dataset, "liver", ["a", "b", "c", "d"]) == ["a", "b", "c", "d"]
    write_folds(five, ("bcde", "a"))
    assert select_organ_cases(dataset, "lung", make_splits(dataset, None).train) == ["e"]


def test_scans_without_tumors_are_given_as_told(five, tmp_path):
    (said,) = remedies(write_tumor_free_subset, five, tmp_path / "free", "tumor")
    assert said == f"give scans without tumors: --healthy instead of --paint-in (--healthy {five} if no case has one)"
    assert len(find_hosts(five, ["PET"], ".nii.gz")) == 5
    write(five / "labelsTr" / "e.nii.gz", tumor() * 0)
    found = write_tumor_free_subset(five, tmp_path / "free", "tumor")
    assert [path.name for path in (found / "labelsTr").iterdir()] == ["e.nii.gz"]
    at(five).write_text("[")
    assert remedies(write_tumor_free_subset, five, tmp_path / "free", "tumor") == [FORMAT]


def test_fewer_processes_read_a_data_set_as_told(five, monkeypatch):
    class Killed:
        def map(self, *_):
            raise BrokenProcessPool

    dataset = read_dataset(five)
    with monkeypatch.context() as patch:
        patch.setattr(workers, "worker_pool", lambda _: contextlib.nullcontext(Killed()))
        said = remedies(lambda: list(workers.map_cases(check_case, dataset, 2)))
    assert said == ["use --workers 1, or 0 to read in this process"]
    assert [check.case for check, _ in workers.map_cases(check_case, dataset, 0)] == list("abcde")


def test_a_tumor_label_with_crumbs_alone_is_chosen_otherwise_as_told(raw):
    put(at(raw), "labels", value={"background": 0, "tumor": 1, "lesion": 2})
    labels = 2 * tumor()
    labels[0, 0, 0] = 1
    write(label(raw), labels)
    (said,) = remedies(make_fingerprint, read_dataset(raw, "tumor"), 0)
    assert said == "choose the right label with --tumor-label, or use scans of finer spacing"
    (case,) = make_fingerprint(read_dataset(raw, "lesion"), 0).fingerprint.cases
    assert [each.volume_ml for each in case.tumors] == [pytest.approx(27 * 0.008)]
