"""Tumors by organ, and data sets of some cases alone."""

import json

import numpy as np
import pytest

from tumorgen_cli.dataset import read_dataset
from tumorgen_cli.errors import DataError, PlanError
from tumorgen_cli.organs import organ_cases, organ_of, tumor_free_cases, write_subset
from tumorgen_cli.records import Grid
from tumorgen_cli.volumes import write_volume

GRID = Grid((20, 16, 12), (2.0, 2.0, 3.0))
LIVER, PANCREAS, TUMOR = 1, 2, 3


def labels(*tumors):
    """Liver in the lower half, pancreas in the upper; tumors of 3 voxels at the given places."""
    out = np.zeros(GRID.shape, np.uint8)
    out[2:10, 2:14, 2:10], out[10:18, 2:14, 2:10] = LIVER, PANCREAS
    for x, y, z in tumors:
        out[x : x + 3, y : y + 3, z : z + 3] = TUMOR
    return out


@pytest.fixture
def dataset(tmp_path):
    root = tmp_path / "Dataset005_Organs"
    cases = {
        "a_liver": labels((4, 5, 4)), "b_pancreas": labels((13, 5, 4)), "c_both": labels((4, 5, 4), (13, 5, 4)), "d_none": labels(),
        "e_two": labels((4, 3, 4), (4, 9, 4)), "f_air": labels((0, 0, 0)) * (labels((0, 0, 0)) == TUMOR),
    }  # fmt: skip
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
    assert organ_of(array, array == TUMOR, (LIVER, PANCREAS)) == LIVER
    assert organ_of(array, array == TUMOR, (PANCREAS,)) == PANCREAS
    assert organ_of(array * (array == TUMOR), array == TUMOR, (LIVER, PANCREAS)) == 0
    assert organ_of(array, array == TUMOR, ()) == 0


def test_cases_by_organ(dataset):
    assert organ_cases(dataset, "liver") == ["a_liver", "e_two"]  # with tumors in both a case counts for neither
    assert organ_cases(dataset, "pancreas") == ["b_pancreas"]
    assert tumor_free_cases(dataset) == ["d_none"]
    with pytest.raises(PlanError, match="did you mean liver"):
        organ_cases(dataset, "livr")
    with pytest.raises(PlanError, match="No such organ"):
        organ_cases(dataset, "tumor")


def test_a_data_set_of_some_cases(dataset, tmp_path):
    out = write_subset(dataset, ["b_pancreas", "d_none"], tmp_path / "Dataset006_Some")
    found = read_dataset(out)
    assert found.cases == ("b_pancreas", "d_none")
    assert found.labels == dataset.labels
    assert found.image_files("d_none")[0].samefile(dataset.image_files("d_none")[0])
    with pytest.raises(DataError, match="no case without a tumor"):
        tumor_free_cases(read_dataset(write_subset(dataset, ["a_liver"], tmp_path / "Dataset007_One")))
