"""Tumors by organ, and data sets of some cases alone."""

import json
import shutil

import numpy as np
import pytest

from tumorgen_cli.data.dataset import read_dataset
from tumorgen_cli.data.labels import organ_labels
from tumorgen_cli.data.splits import Splits
from tumorgen_cli.data.subsets import find_tumor_organs, select_organ_cases, write_subset, write_tumor_free_subset
from tumorgen_cli.data.volumes import read_volume, write_volume
from tumorgen_cli.geometry import Grid
from tumorgen_cli.system.errors import DataError, PlanError, StateError
from tumorgen_cli.system.files import hash_file

GRID = Grid((20, 16, 12), (2.0, 2.0, 3.0))
LIVER, PANCREAS, TUMOR = 1, 2, 3


def labels(*tumors):
    """Liver in the lower half, pancreas in the upper; tumors of 3 voxels at the given places."""
    out = np.zeros(GRID.shape, np.uint8)
    out[2:10, 2:14, 2:10], out[10:18, 2:14, 2:10] = LIVER, PANCREAS
    for x, y, z in tumors:
        out[x : x + 3, y : y + 3, z : z + 3] = TUMOR
    return out


def test_what_nnunet_ignores_is_no_organ():
    assert organ_labels({"background": 0, "liver": 1, "tumor": 3, "ignore": 4}, 3) == {"liver": 1}


@pytest.fixture
def dataset(tmp_path):
    root = tmp_path / "Dataset005_Organs"
    cases = {
        "a_liver": labels((4, 5, 4)),
        "b_pancreas": labels((13, 5, 4)),
        "c_both": labels((4, 5, 4), (13, 5, 4)),
        "d_none": labels(),
        "e_two": labels((4, 3, 4), (4, 9, 4)),
        "f_air": labels((0, 0, 0)) * (labels((0, 0, 0)) == TUMOR),
    }
    rng = np.random.default_rng(0)
    for name, array in cases.items():
        write_volume(root / "labelsTr" / f"{name}.nii.gz", array, GRID)
        write_volume(root / "imagesTr" / f"{name}_0000.nii.gz", rng.random(GRID.shape, np.float32), GRID)
    named = {"background": 0, "liver": LIVER, "pancreas": PANCREAS, "tumor": TUMOR}
    plain = {"channel_names": {"0": "CT"}, "labels": named, "numTraining": len(cases), "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(plain))
    return read_dataset(root)


def test_the_organ_around_a_tumor():
    array = labels((8, 5, 4))  # two voxels in the liver, one in the pancreas
    assert find_tumor_organs(array, TUMOR, (LIVER, PANCREAS), GRID.spacing_mm) == {LIVER}
    assert find_tumor_organs(array, TUMOR, (PANCREAS,), GRID.spacing_mm) == {PANCREAS}
    assert find_tumor_organs(labels((4, 5, 4), (13, 5, 4)), TUMOR, (LIVER, PANCREAS), GRID.spacing_mm) == {
        LIVER,
        PANCREAS,
    }
    assert find_tumor_organs(array * (array == TUMOR), TUMOR, (LIVER, PANCREAS), GRID.spacing_mm) == {0}
    assert find_tumor_organs(array, TUMOR, (), GRID.spacing_mm) == {0}
    assert find_tumor_organs(labels(), TUMOR, (LIVER,), GRID.spacing_mm) == set()


def test_cases_by_organ(dataset):
    assert select_organ_cases(dataset, "liver", dataset.cases) == [
        "a_liver",
        "e_two",
    ]  # with tumors in both a case counts for neither
    assert select_organ_cases(dataset, "pancreas", ["a_liver", "b_pancreas"]) == ["b_pancreas"]
    with pytest.raises(PlanError, match="did you mean liver"):
        select_organ_cases(dataset, "livr", dataset.cases)
    with pytest.raises(PlanError, match="No such organ"):
        select_organ_cases(dataset, "tumor", dataset.cases)
    with pytest.raises(DataError, match=r"no training case whose tumors all lie in pancreas \(held out: 1\)"):
        select_organ_cases(dataset, "pancreas", ["a_liver", "c_both"])


def test_a_data_set_of_some_cases(dataset, tmp_path):
    out = tmp_path / "Dataset006_Some"
    write_subset(dataset, ["a_liver", "b_pancreas"], out)
    write_subset(dataset, ["b_pancreas", "d_none"], out, Splits(("a_liver", "d_none"), ("b_pancreas", "c_both")))
    found = read_dataset(out)
    assert found.cases == ("b_pancreas", "d_none")  # what was there before is gone
    assert {path.name for path in (out / "labelsTr").iterdir()} == {"b_pancreas.nii.gz", "d_none.nii.gz"}
    assert found.labels == dataset.labels
    assert hash_file(found.image_files("d_none")[0]) == hash_file(dataset.image_files("d_none")[0])
    label, original = found.label_file("d_none"), dataset.label_file("d_none")
    assert hash_file(label) == hash_file(original)
    assert not label.samefile(original)  # an edited label leaves the data set as it is
    assert json.loads((out / "splits_final.json").read_text()) == [{"train": ["d_none"], "val": ["b_pancreas"]}]


def test_a_folder_of_other_files_is_left_alone(dataset, tmp_path):
    """Nothing is deleted that this function has not written: the user's scans, a subset of another data set."""
    own = tmp_path / "own" / "imagesTr" / "mine_0000.nii.gz"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"scan")
    with pytest.raises(StateError, match="not empty"):
        write_subset(dataset, ["a_liver"], tmp_path / "own")
    assert own.read_bytes() == b"scan"
    copy = read_dataset(shutil.copytree(dataset.path, tmp_path / "copy"), "tumor")
    write_subset(dataset, ["a_liver"], tmp_path / "out")
    with pytest.raises(StateError, match="another set"):
        write_subset(copy, ["d_none"], tmp_path / "out")
    assert [path.name for path in (tmp_path / "out" / "labelsTr").iterdir()] == ["a_liver.nii.gz"]


def test_the_tumor_free_cases_of_a_data_set(dataset, tmp_path):
    assert read_dataset(write_tumor_free_subset(dataset.path, tmp_path / "free", "tumor")).cases == ("d_none",)
    one = write_subset(dataset, ["a_liver"], tmp_path / "Dataset007_One")
    with pytest.raises(DataError, match="no case without a voxel of tumor"):
        write_tumor_free_subset(one, tmp_path / "none", "tumor")


def test_no_case_is_free_of_tumors_that_may_have_one(dataset, tmp_path):
    def free(tumor_name, **values):
        plain = json.loads((dataset.path / "dataset.json").read_text())
        (dataset.path / "dataset.json").write_text(json.dumps({**plain, "labels": {"background": 0, **values}}))
        found = write_tumor_free_subset(dataset.path, tmp_path / "free", tumor_name)
        return sorted(path.name.split(".")[0] for path in (found / "labelsTr").iterdir())

    assert free("hcc", liver=1, pancreas=2, hcc=3) == ["d_none"]  # the plan's tumor
    assert free("tumor", liver=1, pancreas=2, lesion=3) == ["d_none"]
    for names in (
        {"liver": 1, "pancreas": 2, "hcc": 3},
        {"ET": 1, "WT": 2, "TC": 3},
        {"liver tumor": 1, "pancreas": 2, "metastasis": 3},
    ):
        with pytest.raises(DataError, match="--healthy instead of --paint-in"):
            free("tumor", **names)
    with pytest.raises(DataError, match="--healthy instead of --paint-in"):
        free("tumor")
    empty, grid = read_volume(dataset.label_file("d_none"))
    write_volume(dataset.label_file("d_none"), empty * 0, grid)
    assert free("tumor", liver=1, pancreas=2, hcc=3) == ["d_none"]  # nothing is marked in it
