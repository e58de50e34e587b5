"""Checks before nnU-Net trains on painted patches."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.painting import trainer

from tumorgen_cli.data.dataset import read_dataset
from tumorgen_cli.nnunet.on_the_fly.checks import painting_faults, planned_reader_faults
from tumorgen_cli.pipeline import nnunet_setup
from tumorgen_cli.synthesis.options import HostOptions
from tumorgen_cli.system.errors import PlanError, StateError
from tumorgen_cli.system.json_records import write_json


def test_a_fold_that_nobody_wrote_is_refused(painting, tmp_path):
    """nnU-Net would draw its validation cases from all, synthetic ones too."""
    write_json(tmp_path / "splits_final.json", [{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}])
    where = {"preprocessed_dataset_folder_base": str(tmp_path)}
    beyond, last, every = (
        painting_faults(painting, trainer(**where, fold=fold), (), painting.learned_from) for fold in (2, 1, "all")
    )
    assert (last, every) == ([], [])
    assert "only 2 in" in beyond[0].found
    assert beyond[0].remedy == "train a fold below 2"  # as the last one
    (tmp_path / "splits_final.json").write_text("{}")
    with pytest.raises(PlanError) as caught:
        painting_faults(painting, trainer(**where, fold=1), (), painting.learned_from)
    named = re.fullmatch(r"put (.*) in its place", caught.value.faults[0].remedy)[1]
    shutil.copy(named, tmp_path / "splits_final.json")
    assert painting_faults(painting, trainer(**where, fold=0), (), painting.learned_from) == []


def test_a_fold_that_validates_on_what_was_learnt_is_refused(painting):
    known = [*painting.learned_from, "x"]
    assert painting_faults(painting, trainer(), ["x"], known) == []
    learnt, host = painting.learned_from[0], painting.hosts[1]
    faults = painting_faults(painting, trainer(), ["x", learnt, host], known)
    assert [(fault.where, part in fault.found) for fault, part in zip(faults, (learnt, host), strict=True)] == [
        ("fold 1", True)
    ] * 2
    split, said = re.fullmatch(
        r"put (\S+) (into nnU-Net's preprocessed data set and train the fold .*)", faults[0].remedy
    ).groups()
    assert said.endswith("that nnunet-setup named, or plan a workspace on this one (--fold)")
    validation = json.loads(Path(split).read_text())[0]["val"]
    assert painting_faults(painting, trainer(fold=0), validation, [*known, *validation]) == []


def test_a_data_set_that_names_its_cases_otherwise_is_refused(painting, tmp_path):
    """No name would tell that its validation cases have been learnt from."""
    renamed = [f"case_{number}" for number in range(9)]
    (fault,) = painting_faults(painting, trainer(), renamed[:2], renamed)
    assert painting.learned_from[0] in fault.found
    assert fault.remedy == "run `tumorgen nnunet-setup` in a workspace that was planned on this data set"
    folder = tmp_path / "gt_segmentations"  # of all cases, in whatever fold they are
    folder.mkdir()
    for case in painting.learned_from:
        (folder / f"{case}.nii.gz").touch()
    assert painting_faults(painting, trainer(preprocessed_dataset_folder_base=str(tmp_path)), ["x"], ["x"]) == []


def test_every_fault_of_the_data_is_told(painting):
    other = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "lesion": 1}}
    reader = SimpleNamespace(plans={"image_reader_writer": "Tiff3DIO"})
    wrong = trainer(is_cascaded=True, plans_manager=reader, dataset_json=other)
    nifti = 'use NIfTI files and no other "overwrite_image_reader_writer" in dataset.json; then '
    nifti += "nnUNetv2_plan_and_preprocess"
    another = "run `tumorgen nnunet-setup` in a workspace that was planned on this data set"
    assert [fault.remedy for fault in painting_faults(painting, wrong, [], painting.learned_from)] == [
        "train 3d_fullres or 3d_lowres",
        nifti,
        another,
        another,
    ]
    assert painting_faults(painting, trainer(), [], painting.learned_from) == []  # fullres, NIfTI, the data set's own


def prescribe(folder, reader):
    path = folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "overwrite_image_reader_writer": reader}))


@pytest.mark.parametrize("reader", [None, "None", "SimpleITKIO", "NibabelIO"])
def test_a_reader_that_the_trainer_accepts_is_accepted_before(tmp_path, reader):
    (tmp_path / "dataset.json").write_text("{}")
    prescribe(tmp_path, reader)
    assert planned_reader_faults(tmp_path) == []


def test_a_reader_that_the_trainer_refuses_is_refused_before_nnunet_plans(workspace, phantoms, tmp_path, monkeypatch):
    own = shutil.copytree(phantoms.dataset, tmp_path / "Dataset501_Own")
    prescribe(own, "NibabelIOWithReorient")
    monkeypatch.setattr(nnunet_setup, "read_planned_dataset", lambda *_: read_dataset(own, "tumor"))
    with pytest.raises(StateError) as caught:
        nnunet_setup.set_up_nnunet(
            workspace, "copypaste", HostOptions(phantoms.healthy), device="cpu", folder=tmp_path / "setup"
        )
    (fault,) = caught.value.faults
    assert fault.where == f"{own / 'dataset.json'}: overwrite_image_reader_writer"
    assert (fault.found, fault.expected) == ("NibabelIOWithReorient", "one of SimpleITKIO, NibabelIO")
    assert fault.remedy.startswith('use NIfTI files and no other "overwrite_image_reader_writer" in dataset.json')
    assert not (tmp_path / "setup").exists()
