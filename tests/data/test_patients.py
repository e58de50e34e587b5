"""Scans of one patient are on one side of every split: the file that names them, its faults, and the splits."""

from types import SimpleNamespace

import pytest
from support.command_line import call, told
from support.workspaces import plan_toy

from tumorgen_cli.data.dataset import read_dataset
from tumorgen_cli.data.patients import (
    PATIENTS,
    find_patients,
    group_cases,
    match_held_out,
    patient_of,
    read_patients,
    scans_of_same_patients,
    write_patients,
)
from tumorgen_cli.data.splits import find_fold, make_nnunet_folds, make_splits, split_cases
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system.errors import DataError
from tumorgen_cli.system.json_records import write_json

CASES = tuple(f"c{i}" for i in range(12))
#: two scans of each of six patients, which lie far apart by name
PATIENTS_OF = {case: f"p{i % 6}" for i, case in enumerate(CASES)}


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    (tmp_path / "raw").mkdir()
    return SimpleNamespace(path=tmp_path / "raw", name="Dataset501_X", cases=CASES)


def _whole(splits):
    return {PATIENTS_OF[case] for case in splits.train}.isdisjoint({PATIENTS_OF[case] for case in splits.test})


@pytest.mark.parametrize(
    "text",
    [
        "case,patient\na,1\nb,2\n",
        "\ufeffpatient;case;site\r\n1;a;X\r\n2;b;Y\r\n",  # as a spreadsheet writes it
        "case\tpatient\na\t1\nb\t2\n\n",
        "case, patient\n a, 1\nb,2\nh1,2\n",
    ],
)
def test_the_file_is_read_as_spreadsheets_write_it(tmp_path, text):
    path = tmp_path / "groups.csv"
    path.write_text(text, encoding="utf-8", newline="")
    found = read_patients(path, ["a", "b"])
    assert {case: found[case] for case in ("a", "b")} == {"a": "1", "b": "2"}
    assert found.get("h1", "2") == "2"


def test_every_fault_of_the_file_is_told_and_mended_as_told(tmp_path):
    path = tmp_path / "groups.csv"
    path.write_text("case,patient\na,1\na,2\nb,\n")
    with pytest.raises(DataError) as error:
        read_patients(path, ["a", "b", "c"])
    assert [(fault.where, fault.found) for fault in error.value.faults] == [
        (f"{path}, line 3", "a of 2, above of 1"),
        (f"{path}, line 4", "no case or no patient"),
        (f"{path}: b", "no line"),
        (f"{path}: c", "no line"),
    ]
    assert [fault.remedy for fault in error.value.faults[:2]] == [
        "leave one of the lines out",
        "write a line for each case, for example: case_001,patient_07",
    ]
    path.write_text("case,patient\na,1\nb,1\nc,patient_07\n")
    assert read_patients(path, ["a", "b", "c"]) == {"a": "1", "b": "1", "c": "patient_07"}


@pytest.mark.parametrize(
    ("content", "found", "remedy"),
    [
        (None, "No such file", "correct the path"),
        (b"\xff\xfe\x00", "codec", "correct the path"),
        (b"", "no column case and patient", "write case,patient as its first line"),
        (b"c0,p0\nc1,p1\n", "no column case and patient", "write case,patient as its first line"),
        (b"case,id\nc0,p0\n", "no column patient", "write case,patient as its first line"),
    ],
)
def test_a_file_that_is_no_table_of_patients_is_told(tmp_path, content, found, remedy):
    path = tmp_path / "groups.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_patients(path, ["c0"])
    assert found in error.value.faults[0].found
    assert error.value.faults[0].remedy == remedy


def test_a_named_file_comes_before_the_data_sets_own_and_that_before_the_plans(dataset, tmp_path):
    assert find_patients(dataset, None) == {}
    assert find_patients(dataset, None, PATIENTS_OF) == PATIENTS_OF
    own = dict.fromkeys(CASES, "x")
    write_patients(dataset.path, own)
    assert find_patients(dataset, None, PATIENTS_OF) == own
    other = tmp_path / "groups.csv"
    other.write_text("case,patient\n" + "".join(f"{case},{case}\n" for case in CASES))
    assert find_patients(dataset, other, PATIENTS_OF) == dict(zip(CASES, CASES, strict=True))
    write_patients(dataset.path, {})
    assert not (dataset.path / PATIENTS).exists()


def test_a_new_case_needs_a_patient(dataset):
    planned = dict.fromkeys(CASES[:-1], "p")
    with pytest.raises(DataError) as error:
        find_patients(dataset, None, planned)
    fault = error.value.faults[0]
    assert fault.found == "no patient for 1 new case (c11 ...)"
    assert fault.remedy == "give a file that names the patient of every case (--groups FILE)"


def test_splits_are_of_whole_patients(dataset):
    train, test = split_cases(CASES, PATIENTS_OF)
    assert test == ("c10", "c4")  # the fifth of six patients
    assert {*train, *test} == {*CASES}
    assert split_cases(CASES, {}) == split_cases(CASES)
    folds = make_nnunet_folds(CASES, 5, PATIENTS_OF)
    assert sorted(case for fold in folds for case in fold.test) == sorted(CASES)
    assert all(_whole(fold) and len(fold.test) in (2, 4) for fold in folds)
    assert not all(_whole(fold) for fold in make_nnunet_folds(CASES, 5))
    assert make_nnunet_folds(CASES, 5, dict(zip(CASES, CASES, strict=True))) == make_nnunet_folds(CASES, 5)
    with pytest.raises(DataError, match="6 patients"):
        make_nnunet_folds(CASES, 7, PATIENTS_OF)
    made = make_splits(dataset, 2, None, PATIENTS_OF)
    assert (made.test, made.patients) == (folds[2].test, PATIENTS_OF)
    assert find_fold(dataset, made) == (folds, 2)


def test_folds_of_the_file_must_be_of_whole_patients(dataset):
    path = dataset.path / "splits_final.json"
    write_json(path, [{"train": ["c0", "c1", "c7"], "val": ["c6", "c2"]}, {"train": ["c0", "c6"], "val": ["c1", "c7"]}])
    assert make_splits(dataset, None).test == ("c6", "c2")  # patients are not known
    with pytest.raises(DataError) as error:
        make_splits(dataset, None, None, PATIENTS_OF)
    (fault,) = error.value.faults
    assert fault.where == f"{path}, fold 0: patient p0"
    assert fault.found == "c0 in train, c6 in val"
    assert (
        fault.remedy
        == "keep all cases of a patient in one part of each fold, or delete the file for folds of whole patients"
    )
    assert make_splits(dataset, 1, None, PATIENTS_OF).test == ("c1", "c7")
    path.unlink()
    assert _whole(make_splits(dataset, None, None, PATIENTS_OF))


def test_planned_splits_are_kept_only_where_they_are_of_whole_patients(dataset):
    before = make_splits(dataset, 3)
    assert make_splits(dataset, None, before) == before
    assert not _whole(before)
    after = make_splits(dataset, None, before, PATIENTS_OF)
    assert _whole(after)
    again = make_splits(dataset, 3, None, PATIENTS_OF)
    assert make_splits(dataset, None, again, PATIENTS_OF) == again


def test_scans_of_a_patient_are_known_by_the_file(tmp_path):
    known = {"c0": "p0", "c1": "p1", "h1": "p0", "h2": "p9"}
    assert patient_of("h3", known) == "h3"
    assert group_cases(["c1", "c0", "h1"], known) == {"p0": ["c0", "h1"], "p1": ["c1"]}
    assert scans_of_same_patients(["c0", "c1", "h1", "h2", "h3"], ["c0"], known) == {
        "h1": "a scan of the patient of c0"
    }
    assert scans_of_same_patients(["p0"], ["c0"], {}) == {}
    assert match_held_out({}, SimpleNamespace(), [], known) == {}


def test_plan_stores_patients_and_keeps_them(phantoms, tmp_path, monkeypatch):
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (phantoms.dataset / "labelsTr").glob("*.nii.gz"))
    groups, work = tmp_path / "groups.csv", tmp_path / "work"
    groups.write_text("case,patient\n" + "".join(f"{case},p{i % 3}\n" for i, case in enumerate(cases)))
    plan_toy(Workspace(work), str(phantoms.dataset), groups=groups)
    splits = Workspace(work).splits()
    assert splits.patients == {case: f"p{i % 3}" for i, case in enumerate(cases)}
    assert splits.test == (cases[1], cases[4])  # the second of three patients
    plan_toy(Workspace(work), str(phantoms.dataset))
    assert Workspace(work).splits() == splits
    groups.write_text("case,patient\n")
    answer = told(call("plan", phantoms.dataset, "-w", work, "--device", "cpu", "--groups", groups, code=1))
    assert f"{groups}: {cases[0]}" in answer
    assert Workspace(work).splits() == splits


def test_a_healthy_scan_of_a_held_out_patient_is_found_beside_those_that_are_cases(phantoms):
    dataset = read_dataset(phantoms.dataset, "tumor")
    held_out, other = dataset.cases[:2]
    scans = {path.name.removesuffix("_0000.nii.gz"): path for path in sorted(phantoms.healthy.glob("*.nii.gz"))}
    first, second = [*scans][:2]
    scans["renamed"] = dataset.image_files(held_out)[0]
    known = {held_out: "P", other: "Q", first: "P", second: "Q"}
    assert match_held_out(scans, dataset, [held_out], known) == {
        first: f"a scan of the patient of {held_out}",
        "renamed": held_out,
    }
