"""Workspaces for methods: two channels with different units, and MR with very bright tumors."""

import json
import shutil

import numpy as np
import pytest
from support.workspaces import plan_toy

from tumorgen_cli.data.volumes import read_volume, write_volume
from tumorgen_cli.geometry import Grid
from tumorgen_cli.pipeline import preprocess
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system.json_records import write_json


@pytest.fixture(scope="module")
def units_of_their_own(workspace, tmp_path_factory):
    """As `workspace`, with an MR channel: the first channel's image in another unit for each case."""
    folder = tmp_path_factory.mktemp("units")
    data = folder / "Dataset998_Two"
    shutil.copytree(workspace.plan().dataset_path, data)
    about = json.loads((data / "dataset.json").read_text())
    write_json(data / "dataset.json", {**about, "channel_names": {"0": "PET", "1": "MR"}})
    for number, path in enumerate(sorted((data / "imagesTr").iterdir())):
        image, grid = read_volume(path)
        write_volume(path.with_name(path.name.replace("_0000", "_0001")), (image + 7) * np.float32(10.0**number), grid)
    found = Workspace(folder / "work")
    plan_toy(found, str(data))
    preprocess.preprocess_dataset(found, workers=0)
    return found


@pytest.fixture(scope="module")
def bright(tmp_path_factory):
    """MR of homogeneous bodies in air, one gain per case; tumors of 2 % of the scan, 1.5, 2, ... times as bright."""
    folder = tmp_path_factory.mktemp("bright")
    data, grid = folder / "Dataset997_Bright", Grid((32, 32, 32), (4.0, 4.0, 4.0))
    places = np.indices(grid.shape) - 15.5
    body, tumor = np.abs(places).max(0) < 13, np.square(places).sum(0) < 5.4**2
    for number in range(6):
        image = 10.0**number * (body + tumor * (0.5 + 0.5 * number))
        write_volume(data / "imagesTr" / f"c{number}_0000.nii.gz", image.astype(np.float32), grid)
        write_volume(data / "labelsTr" / f"c{number}.nii.gz", tumor.astype(np.uint8), grid)
    about = {
        "channel_names": {"0": "T1"},
        "labels": {"background": 0, "tumor": 1},
        "numTraining": 6,
        "file_ending": ".nii.gz",
    }
    write_json(data / "dataset.json", about)
    found = Workspace(folder / "work")
    plan_toy(found, str(data))
    preprocess.preprocess_dataset(found, workers=0)
    return found
