"""Scans without labels: evenly chosen, opened when they are used, known by their voxels."""

import os
import resource
import shutil
from dataclasses import replace

import numpy as np
import pytest

from tumorgen_cli.data.volumes import read_volume, write_volume
from tumorgen_cli.pipeline import preprocess
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing import healthy
from tumorgen_cli.preprocessing.cases import load_case, read_case_record
from tumorgen_cli.system.errors import DataError, PlanError, StateError
from tumorgen_cli.system.json_records import write_json


@pytest.fixture
def scans(phantoms, tmp_path):
    """A folder with the healthy phantoms as scan A and scan B."""
    for name, path in zip("AB", sorted(phantoms.healthy.glob("*.nii.gz")), strict=False):
        (tmp_path / "scans").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "scans" / f"{name}_0000.nii.gz")
    return tmp_path / "scans"


@pytest.fixture
def planned(workspace, tmp_path):
    shutil.copytree(workspace.root, tmp_path / "work")
    return Workspace(tmp_path / "work")


def brighten(path, factor=2.0):
    image, grid = read_volume(path)
    write_volume(path, (image * factor).astype(np.float32), grid)


def test_items_are_chosen_at_even_distances():
    assert healthy.choose_evenly(range(10), 4) == [0, 3, 6, 9]
    assert healthy.choose_evenly("abc", 3) == ["a", "b", "c"]


def test_no_more_scans_than_the_limit_are_learned_from(planned, scans, monkeypatch, capsys):
    shutil.copy(scans / "A_0000.nii.gz", scans / "C_0000.nii.gz")
    monkeypatch.setattr(preprocess, "MOST_SCANS", 2)
    assert preprocess.forecast_preprocessing(planned, scans, workers=0).scans == 2
    assert preprocess.preprocess_healthy(planned, scans, 0) == 2
    assert [folder.name for folder in healthy.unlabeled_folders(planned)] == ["A", "C"]
    assert "2 of 3 scans" in " ".join(capsys.readouterr().err.split())


def test_a_scan_whose_file_changed_is_preprocessed_again(planned, scans):
    assert preprocess.preprocess_healthy(planned, scans, 0) == 2
    before = {record.case: record for record in healthy.unlabeled_records(planned)}
    bright = np.array(load_case(planned.unlabeled / "A").image) * 2
    assert preprocess.preprocess_healthy(planned, scans, 0) == 0
    brighten(scans / "A_0000.nii.gz")
    assert preprocess.preprocess_healthy(planned, scans, 0) == 1
    after = {record.case: record for record in healthy.unlabeled_records(planned)}
    assert after["B"] == before["B"]
    assert after["A"].scan.shape == before["A"].scan.shape
    assert after["A"].scan.voxels != before["A"].scan.voxels
    np.testing.assert_allclose(load_case(planned.unlabeled / "A").image, bright, rtol=1e-5)


def test_a_damaged_record_is_made_again(planned, scans):
    preprocess.preprocess_healthy(planned, scans, 0)
    (planned.unlabeled / "A" / "case.json").write_text("{}")
    with pytest.raises(StateError, match="with --healthy DIR"):
        healthy.unlabeled_records(planned)
    assert preprocess.preprocess_healthy(planned, scans, 0) == 1
    assert len(healthy.unlabeled_records(planned)) == 2


@pytest.mark.parametrize("content", ["{", "[3]"])
def test_a_damaged_list_of_folders_is_deleted_as_told(planned, scans, content):
    """The command itself reads the list, so that to run it again alone would end there."""
    planned.healthy_file.write_text(content)
    with pytest.raises((StateError, PlanError)) as error:
        preprocess.healthy_folders(planned)
    said = "delete it, then run `tumorgen preprocess --healthy DIR` again for each folder"
    assert error.value.faults[0].remedy == said
    planned.healthy_file.unlink()
    preprocess.preprocess_healthy(planned, scans, 0)
    assert preprocess.healthy_folders(planned) == [scans.resolve()]


def test_a_folder_that_moved_is_known_and_another_scan_of_a_name_is_refused(planned, scans, tmp_path):
    preprocess.preprocess_healthy(planned, scans, 0)
    shutil.copytree(scans, tmp_path / "copy")
    assert preprocess.preprocess_healthy(planned, tmp_path / "copy", 0) == 0
    before = read_case_record(planned.unlabeled / "A")
    brighten(tmp_path / "copy" / "A_0000.nii.gz")
    with pytest.raises(DataError, match="A, the name of another scan in") as refused:
        preprocess.preprocess_healthy(planned, tmp_path / "copy", 0)
    assert read_case_record(planned.unlabeled / "A") == before
    said = f"rename it, or delete {planned.unlabeled / 'A'} to learn from this one instead"
    assert refused.value.faults[0].remedy == said
    shutil.rmtree(planned.unlabeled / "A")  # the remedy
    assert preprocess.preprocess_healthy(planned, tmp_path / "copy", 0) == 1


def test_a_scan_that_became_a_case_is_found_by_its_voxels(planned, scans, phantoms):
    """It was preprocessed before the data set got the case."""
    preprocess.preprocess_healthy(planned, scans, 0)
    plan, splits = planned.plan(), planned.splits()
    assert [case.record.case for case in healthy.open_healthy(planned, plan)] == ["A", "B"]
    held_out = splits.test[0]
    shutil.copytree(planned.cases / held_out, planned.unlabeled / "C")
    path = planned.unlabeled / "C" / "case.json"
    record = path.read_text().replace(f'"{held_out}"', '"C"')
    stale = read_case_record(planned.unlabeled / "A").inputs_hash
    path.write_text(record)
    assert healthy.labeled_twins(planned) == {"C": held_out}
    assert read_case_record(planned.unlabeled / "C").inputs_hash != stale
    with pytest.raises(StateError, match="made by another plan"):
        healthy.open_healthy(planned, plan)
    own = read_case_record(planned.unlabeled / "C").inputs_hash
    path.write_text(record.replace(own, healthy_hash(plan)))
    with pytest.raises(DataError, match=f"C, which is {held_out}") as refused:
        healthy.open_healthy(planned, plan)
    said = "remove them, or rename what is another scan: held-out cases teach nothing"
    assert refused.value.faults[0].remedy == said
    shutil.rmtree(planned.unlabeled / "C")
    assert [case.record.case for case in healthy.open_healthy(planned, plan)] == ["A", "B"]


def test_a_scan_of_a_held_out_patient_teaches_nothing(planned, scans):
    """Known before it is preprocessed, and if patients become known after that."""
    splits = planned.splits()
    known = replace(splits, patients={splits.test[0]: "P", splits.train[0]: "Q", "A": "P", "B": "Q"})
    preprocess.preprocess_healthy(planned, scans, 0)
    write_json(planned.splits_file, known)
    with pytest.raises(DataError, match=f"A, which is a scan of the patient of {splits.test[0]}"):
        healthy.open_healthy(planned, planned.plan())
    shutil.rmtree(planned.unlabeled)
    with pytest.raises(DataError, match=f"A, which is a scan of the patient of {splits.test[0]}"):
        preprocess.preprocess_healthy(planned, scans, 0)
    for path in scans.glob("A_*"):
        path.unlink()
    assert preprocess.preprocess_healthy(planned, scans, 0) == 1


def healthy_hash(plan):
    from tumorgen_cli.preprocessing.cases import inputs_hash

    return inputs_hash(plan, "C")


def test_many_scans_are_no_open_files(planned, scans):
    """Each opened scan keeps two files open."""
    preprocess.preprocess_healthy(planned, scans, 0)
    for number in range(200):
        shutil.copytree(planned.unlabeled / "A", planned.unlabeled / f"A{number:03d}", copy_function=os.link)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (350, hard))
    try:
        found = healthy.Scans(healthy.unlabeled_folders(planned))
        shapes = {case.image.shape for case in found}  # of A and of B
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(found) == 202
    assert len(shapes) == 2
