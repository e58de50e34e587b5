"""Data sets whose dataset.json lists its files: read as if they lay in imagesTr and labelsTr, by every command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.spoil import drop, put

from tumorgen_cli.data.contents import describe_files, hash_contents
from tumorgen_cli.data.dataset import read_dataset
from tumorgen_cli.data.hosts import find_host_labels, find_hosts
from tumorgen_cli.data.integrity import check_case, conclude_checks
from tumorgen_cli.data.splits import Splits
from tumorgen_cli.data.subsets import write_subset
from tumorgen_cli.data.volumes import read_volume
from tumorgen_cli.evaluation.cases import real_tumors
from tumorgen_cli.planning.fingerprint import make_fingerprint
from tumorgen_cli.system.errors import DataError
from tumorgen_cli.system.links import same_content

_LISTED = (
    'list the files of each case as nnU-Net v2 does, or remove "dataset" and put the files into imagesTr/ and labelsTr/'
)


_READER = (
    'remove "overwrite_image_reader_writer" if nnU-Net reads the files without it; otherwise convert them to .nii.gz'
)


@pytest.fixture
def listed(phantoms, tmp_path, monkeypatch) -> Path:
    """The phantoms, each in a folder of its own, listed by paths of three kinds."""
    folder = tmp_path / phantoms.dataset.name
    folder.mkdir()
    content = json.loads((phantoms.dataset / "dataset.json").read_text())
    entries = {}
    monkeypatch.setenv("SCANS", str(tmp_path / "scans"))
    for number, label in enumerate(sorted((phantoms.dataset / "labelsTr").iterdir())):
        case = label.name.removesuffix(".nii.gz")
        place = tmp_path / "scans" / case
        place.mkdir(parents=True)
        shutil.copy(phantoms.dataset / "imagesTr" / f"{case}_0000.nii.gz", place / "pet.nii.gz")
        shutil.copy(label, place / "seg.nii.gz")
        root = ("../scans", str(tmp_path / "scans"), "$SCANS")[number % 3]
        entries[case] = {"images": [f"{root}/{case}/pet.nii.gz"], "label": f"{root}/{case}/seg.nii.gz"}
    (folder / "dataset.json").write_text(json.dumps({**content, "dataset": entries}))
    return folder


def faults(folder):
    with pytest.raises(DataError) as error:
        read_dataset(folder)
    return error.value.faults


def test_the_fingerprint_is_that_of_named_files(listed, phantoms):
    """Also its hash: whoever lists files that lay in imagesTr needs not plan and train again."""
    one, two = read_dataset(listed), read_dataset(phantoms.dataset)
    assert one.cases == two.cases
    assert one.label_file(one.cases[2]) == listed.parent / "scans" / one.cases[2] / "seg.nii.gz"
    first, second = make_fingerprint(one, workers=0), make_fingerprint(two, workers=0)
    assert first.fingerprint.cases == second.fingerprint.cases
    assert first.fingerprint.content_hash == second.fingerprint.content_hash
    assert hash_contents(one, first.contents) == first.contents
    path = one.image_files(one.cases[0])[0]
    path.write_bytes(path.read_bytes() + b"\0")
    assert hash_contents(one, first.contents) != first.contents
    assert describe_files(one) != describe_files(two)


def test_scores_find_the_files_of_real_tumors(listed):
    dataset = read_dataset(listed)
    fingerprint = make_fingerprint(dataset, workers=0).fingerprint
    plan = SimpleNamespace(dataset_path=str(listed), channels=("PET",), file_ending=".nii.gz")
    found = real_tumors(plan, fingerprint, Splits(dataset.cases[:4], dataset.cases[4:]))
    assert {tumor.scan: (tumor.images, tumor.label) for tumor in found} == {
        case: (dataset.image_files(case), dataset.label_file(case)) for case in dataset.cases
    }


def test_nnunet_finds_the_same_files(listed):
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    found, dataset = get_filenames_of_train_images_and_targets(str(listed)), read_dataset(listed)
    assert {case: [*map(Path, each["images"])] for case, each in found.items()} == {
        case: [*dataset.image_files(case)] for case in dataset.cases
    }
    assert {case: Path(each["label"]) for case, each in found.items()} == {
        case: dataset.label_file(case) for case in dataset.cases
    }


def test_subsets_have_named_files(listed, tmp_path):
    dataset = read_dataset(listed)
    cases = dataset.cases[1:3]
    out = read_dataset(write_subset(dataset, cases, tmp_path / "Dataset002_Part"))
    assert (out.cases, out.entries) == (cases, None)
    for case in cases:
        assert same_content(out.image_files(case)[0], dataset.image_files(case)[0])
        assert same_content(out.label_file(case), dataset.label_file(case))


def test_listed_scans_are_hosts(listed):
    dataset = read_dataset(listed)
    hosts = find_hosts(listed, ["PET"])
    assert [host.case for host in hosts] == [*dataset.cases]
    assert [host.files for host in hosts] == [dataset.image_files(case) for case in dataset.cases]
    labels = find_host_labels(listed, dataset.labels, "tumor")
    assert labels == {case: dataset.label_file(case) for case in dataset.cases}
    dataset.label_file(dataset.cases[0]).unlink()
    assert len(find_hosts(listed, ["PET"])) == len(hosts)  # a host needs no label
    assert [*find_host_labels(listed, dataset.labels, "tumor")] == [*dataset.cases[1:]]
    put(listed / "dataset.json", "dataset", value=[])
    with pytest.raises(DataError) as error:
        find_hosts(listed, ["PET"])
    assert [fault.remedy for fault in error.value.faults] == [_LISTED]


def test_files_that_are_not_there(listed):
    dataset = read_dataset(listed)
    case = dataset.cases[0]
    path = dataset.image_files(case)[0]
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(DataError) as error:
        conclude_checks(dataset, [check_case(dataset, case)[0]])
    (fault,) = error.value.faults
    assert (fault.where, fault.found, fault.expected) == (str(path), "no such file", f"a file of case {case}")
    assert fault.remedy == 'put the file there, or correct its path in "dataset" of dataset.json'
    (path.parent / "moved.nii.gz").write_bytes(content)
    put(listed / "dataset.json", "dataset", case, "images", value=[str(path.parent / "moved.nii.gz")])
    dataset = read_dataset(listed)
    conclude_checks(dataset, [check_case(dataset, case)[0]])


@pytest.mark.parametrize(
    ("value", "found", "remedy"),
    [
        ([], "[]", _LISTED),
        ({}, "{}", _LISTED),
        ({"a": ["x.nii.gz"]}, "['x.nii.gz']", _LISTED),
        ({"a": {"images": ["x.nii.gz"]}}, "{'images': ['x.nii.gz']}", _LISTED),
        ({"a": {"images": ["x.nii.gz"] * 2, "label": "y.nii.gz"}}, "2 images", _LISTED),
        ({"../a": {"images": ["x.nii.gz"], "label": "y.nii.gz"}}, "'../a'", "rename the case in dataset.json"),
        (
            {"a": {"images": ["x.mha"], "label": "y.nii.gz"}},
            "x.mha",
            "convert it: nnU-Net reads one format per data set",
        ),
    ],
)
def test_lists_that_are_no_lists(listed, phantoms, value, found, remedy):
    before = json.loads((listed / "dataset.json").read_text())["dataset"]
    put(listed / "dataset.json", "dataset", value=value)
    (fault,) = faults(listed)
    assert (fault.found, fault.remedy) == (found, remedy)
    put(listed / "dataset.json", "dataset", value=before)
    assert len(read_dataset(listed).cases) == 6
    drop(listed / "dataset.json", "dataset")
    for part in ("imagesTr", "labelsTr"):
        shutil.copytree(phantoms.dataset / part, listed / part)
    assert len(read_dataset(listed).cases) == 6


@pytest.mark.parametrize("reader", [None, "None", "SimpleITKIO", "NibabelIO", "NibabelIOWithReorient"])
def test_readers_of_the_same_voxels(listed, reader):
    put(listed / "dataset.json", "overwrite_image_reader_writer", value=reader)
    assert len(read_dataset(listed).cases) == 6


def test_readers_of_nnunet_read_the_same_voxels(phantoms):
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

    from tumorgen_cli.data.volumes import SAME_VOXELS

    path = phantoms.dataset / "imagesTr" / "Phantom_000_0000.nii.gz"
    ours = read_volume(path)[0].transpose(2, 1, 0)
    for name in SAME_VOXELS:
        theirs = recursive_find_reader_writer_by_name(name)().read_images((str(path),))[0][0]
        assert any(
            np.array_equal(np.flip(theirs, axes), ours) for axes in ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2))
        )


@pytest.mark.parametrize(
    ("reader", "found"),
    [
        ("NaturalImage2DIO", "'NaturalImage2DIO', which reads 2D images"),
        ("Tiff3DIO", "'Tiff3DIO'"),
        ("MyReader", "'MyReader'"),
        (3, "3"),
    ],
)
def test_other_readers_are_refused(listed, reader, found):
    put(listed / "dataset.json", "overwrite_image_reader_writer", value=reader)
    (fault,) = faults(listed)
    assert fault.found == found
    assert fault.remedy == _READER
    drop(listed / "dataset.json", "overwrite_image_reader_writer")
    assert len(read_dataset(listed).cases) == 6


def test_a_reader_reads_the_ending(listed):
    put(listed / "dataset.json", "overwrite_image_reader_writer", value="NibabelIO")
    drop(listed / "dataset.json", "dataset")
    put(listed / "dataset.json", "file_ending", value=".mha")
    (fault,) = faults(listed)
    assert fault.found == "NibabelIO, which does not read .mha"
    assert fault.remedy == 'remove "overwrite_image_reader_writer", so that nnU-Net reads .mha through SimpleITK'
    drop(listed / "dataset.json", "overwrite_image_reader_writer")
    assert read_dataset(listed).cases == ()
