"""Checks before nnU-Net trains on painted patches."""

import json
import shutil

import pytest

from tumorgen_cli.data.dataset import read_dataset
from tumorgen_cli.nnunet.on_the_fly.checks import planned_reader_faults
from tumorgen_cli.pipeline import nnunet_setup
from tumorgen_cli.synthesis.options import HostOptions
from tumorgen_cli.system.errors import StateError


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
    assert not (tmp_path / "setup").exists()
