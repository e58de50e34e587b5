"""Remedies for files of a data set work when they are followed; printed lines of code are run as printed."""

from __future__ import annotations

import bz2
import gzip
import re
import shutil
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pytest
from support.spoil import edit_header, edit_json, edit_voxels, put

from tumorgen_cli.data.dataset import find_dataset, read_dataset
from tumorgen_cli.data.integrity import check_case, conclude_checks
from tumorgen_cli.data.volumes import read_volume
from tumorgen_cli.system.errors import DataError, TumorgenError

CASE = "Phantom_000"


@pytest.fixture
def raw(phantoms, tmp_path):
    """A data set of one case."""
    folder = tmp_path / phantoms.dataset.name
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
        for path in (phantoms.dataset / part).glob(f"{CASE}*"):
            shutil.copy(path, folder / part)
    shutil.copy(phantoms.dataset / "dataset.json", folder)
    put(folder / "dataset.json", "numTraining", value=1)
    return folder


def check(folder):
    dataset = read_dataset(folder)
    conclude_checks(dataset, [check_case(dataset, case)[0] for case in dataset.cases])


def remedy(folder):
    """The remedy of the only fault."""
    with pytest.raises(TumorgenError) as error:
        check(folder)
    (fault,) = error.value.faults
    return fault.remedy


def image(folder):
    return folder / "imagesTr" / f"{CASE}_0000.nii.gz"


def label(folder):
    return folder / "labelsTr" / f"{CASE}.nii.gz"


def run_code(text, path):
    """Run the line of Python after "nibabel:"; FILE is the path, `image` the image, which is saved afterwards."""
    code = re.search(r"\(nibabel: (.*)\)", text)[1]
    names = {"nibabel": nibabel, "Nifti1Image": nibabel.Nifti1Image, "FILE": str(path), "X": 4.0, "Y": 4.0, "Z": 4.0}
    loaded = nibabel.Nifti1Image.from_bytes(gzip.decompress(path.read_bytes())) if "image." in code else None
    exec(code, {**names, "image": loaded})
    if loaded is not None:
        path.write_bytes(gzip.compress(loaded.to_bytes(), 1))


def test_labels_the_way_of_nnunet_v1_are_swapped(raw):
    edit_json(raw / "dataset.json", lambda found: found.update(labels={"0": "background", "1": "tumor"}))
    assert remedy(raw).startswith("swap names and values (nnU-Net v1 had them the other way)")
    edit_json(raw / "dataset.json", lambda found: found.update(labels={v: int(k) for k, v in found["labels"].items()}))
    check(raw)


def test_values_without_a_name_are_added(raw):
    edit_voxels(label(raw), lambda voxels: voxels.__setitem__((0, 0, 0), 2))
    assert remedy(raw).startswith('add the values to "labels" in dataset.json')
    put(raw / "dataset.json", "labels", "other", value=2)
    read_dataset(raw, "tumor")
    dataset = read_dataset(raw, "tumor")
    conclude_checks(dataset, [check_case(dataset, case)[0] for case in dataset.cases])


@pytest.mark.skipif(shutil.which("bunzip2") is None, reason="needs bunzip2")
def test_bzip2_is_packed_again_by_the_printed_line(raw):
    voxels, _ = read_volume(image(raw))
    image(raw).write_bytes(bz2.compress(gzip.decompress(image(raw).read_bytes())))
    assert remedy(raw).startswith("pack it by gzip: bunzip2 < ")
    line = re.search(r"bunzip2 .*", remedy(raw))[0]
    subprocess.run(line, shell=True, check=True, cwd=image(raw).parent)
    (image(raw).parent / "NEW.nii.gz").replace(image(raw))
    check(raw)
    assert np.array_equal(read_volume(image(raw))[0], voxels)


def test_nifti_2_is_saved_by_the_printed_line(raw):
    voxels, grid = read_volume(image(raw))
    found = nibabel.load(image(raw))
    nibabel.save(nibabel.Nifti2Image(np.asarray(found.dataobj), found.affine), image(raw))
    assert remedy(raw).startswith("save it as NIfTI-1 (nibabel: Nifti1Image.from_image(")
    run_code(remedy(raw), image(raw))
    check(raw)
    assert np.array_equal(read_volume(image(raw))[0], voxels)
    assert read_volume(image(raw))[1].spacing_mm == pytest.approx(grid.spacing_mm)


def test_millimeters_that_are_called_micrometers_are_named_by_the_printed_line(raw):
    edit_header(image(raw), lambda header: header.__setitem__("xyzt_units", 3))
    assert remedy(raw).startswith("if its numbers are mm, say so (nibabel: ")
    run_code(remedy(raw), image(raw))
    check(raw)


def test_voxel_edges_of_0_are_written_by_the_printed_line(raw):
    edit_header(image(raw), lambda header: header.__setitem__("pixdim", [1, 0, 4, 4, 0, 0, 0, 0]))
    said = "write the true voxel edges into the header (nibabel: image.header.set_zooms((X, Y, Z)))"
    assert remedy(raw) == said
    true = nibabel.load(label(raw)).header["pixdim"]
    edit_header(image(raw), lambda header: header.set_zooms(tuple(map(float, true[1:4]))))
    check(raw)


def test_a_gzip_that_is_called_nii_is_renamed(raw):
    put(raw / "dataset.json", "file_ending", value=".nii")
    for path in (image(raw), label(raw)):
        path.rename(path.with_suffix(""))
    with pytest.raises(DataError) as error:
        check(raw)
    for fault in error.value.faults:
        name = re.fullmatch(r"rename it to (.*)", fault.remedy)[1]
        Path(fault.where).rename(Path(fault.where).with_name(name))
    put(raw / "dataset.json", "file_ending", value=".nii.gz")
    check(raw)


def test_a_data_set_is_found_as_told(raw, monkeypatch):
    monkeypatch.delenv("nnUNet_raw", raising=False)
    with pytest.raises(DataError) as error:
        find_dataset("999")
    assert error.value.faults[0].remedy.startswith("give the path of the dataset, or export nnUNet_raw=<the folder")
    monkeypatch.setenv("nnUNet_raw", str(raw.parent))
    assert find_dataset("999") == find_dataset(str(raw)) == raw
    shutil.copytree(raw, raw.with_name("Dataset999_Other"))
    with pytest.raises(DataError) as error:
        find_dataset("999")
    assert error.value.faults[0].remedy == "give the whole name"
    assert find_dataset(raw.name) == raw
