"""What is held out: a fold of the data set's file, of nnU-Net's own five, or every fifth case."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from support.command_line import call, told
from support.workspaces import plan_toy

from tumorgen_cli.data.splits import Splits, check_folds, find_fold, make_nnunet_folds, make_splits, read_folds
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system.errors import DataError, PlanError
from tumorgen_cli.system.json_records import write_json

CASES = tuple(f"c{i}" for i in range(7))
OWN = [{"train": ["c2", "c3"], "val": ["c0"]}, {"train": ["c0", "c3"], "val": ["c2", "c4"]}]


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    return SimpleNamespace(path=tmp_path / "raw", name="Dataset501_X", cases=CASES)


def test_the_file_beside_the_data_comes_before_the_preprocessed_one(dataset, tmp_path, monkeypatch):
    assert read_folds(dataset) is None
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "ready"))
    write_json(tmp_path / "ready" / dataset.name / "splits_final.json", OWN[1:])
    assert make_splits(dataset, None) == Splits(("c0", "c3"), ("c2", "c4"))
    write_json(dataset.path / "splits_final.json", OWN)
    assert read_folds(dataset) == (
        dataset.path / "splits_final.json",
        [Splits(("c2", "c3"), ("c0",)), Splits(("c0", "c3"), ("c2", "c4"))],
    )
    assert make_splits(dataset, None) == Splits(("c2", "c3"), ("c0",))
    assert make_splits(dataset, 1) == Splits(("c0", "c3"), ("c2", "c4"), 1)
    with pytest.raises(PlanError, match=r"(?s)2 in .*splits_final\.json.*or remove"):
        make_splits(dataset, 2)


def test_without_a_file_folds_are_nnunets_if_one_is_asked_for(dataset):
    assert make_splits(dataset, None).test == ("c4",)
    folds = make_nnunet_folds(CASES, 5)
    assert sorted(case for fold in folds for case in fold.test) == sorted(CASES)
    assert all({*fold.train} == {*CASES} - {*fold.test} for fold in folds)
    assert make_splits(dataset, 3) == Splits(folds[3].train, folds[3].test, 3)
    with pytest.raises(PlanError, match="5 in nnU-Net's own five"):
        make_splits(dataset, 5)
    with pytest.raises(DataError, match="3 cases"):
        make_nnunet_folds(CASES[:3], 5)


def test_every_fault_of_the_file_is_told(dataset):
    path = dataset.path / "splits_final.json"
    write_json(path, [{"train": ["c0"], "val": ["c1"]}, {"train": ["c0", "x", "y"], "val": ["c0"]}])
    assert make_splits(dataset, None) == Splits(("c0",), ("c1",))  # a fold that nobody asks for may be anything
    with pytest.raises(DataError) as error:
        make_splits(dataset, 1)
    assert [fault.found for fault in error.value.faults] == ["a case that the data set lacks"] * 2 + [
        "in train and val of fold 1"
    ]
    with pytest.raises(DataError):
        check_folds(dataset, path, dict(enumerate(read_folds(dataset)[1])))
    for content in ([], [{"train": []}], {"a": 1}):
        write_json(dataset.path / "splits_final.json", content)
        with pytest.raises(DataError, match="no folds with train and val"):
            read_folds(dataset)


def test_the_folds_beside_a_workspaces_own(dataset):
    own = Splits(("c0", "c1"), ("c5",))
    assert find_fold(dataset, own) == ([own], 0)
    five = make_nnunet_folds(CASES, 5)
    assert find_fold(dataset, replace(five[2], fold=2)) == (five, 2)
    assert find_fold(dataset, five[2]) == ([five[2]], 0)  # drawn otherwise
    write_json(dataset.path / "splits_final.json", OWN)
    written = read_folds(dataset)[1]
    assert find_fold(dataset, written[1]) == (written, 1)
    assert find_fold(dataset, own) == ([own], 0)  # the file has changed since


@pytest.mark.parametrize("command", [("plan",), ("run", "--healthy", "hosts")])
def test_a_fold_that_is_not_there_is_told(phantoms, tmp_path, monkeypatch, command):
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    told_ = told(
        call(
            command[0], phantoms.dataset, *command[1:], "-w", tmp_path / "work", "--fold", 7, "--device", "cpu", code=1
        )
    )
    assert "--fold 7" in told_
    assert "0 to 4" in told_


def test_a_workspace_keeps_its_fold(phantoms, tmp_path, monkeypatch):
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    workspace = Workspace(tmp_path / "work")
    plan_toy(workspace, str(phantoms.dataset), fold=2)
    first = workspace.splits()
    assert (first.fold, first.test) == (2, make_nnunet_folds([*first.train, *first.test], 5)[2].test)
    ready = tmp_path / "ready" / phantoms.dataset.name / "splits_final.json"
    write_json(ready, [{"train": first.train[:1], "val": first.train[1:]}])  # which would have other folds
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "ready"))
    plan_toy(workspace, str(phantoms.dataset))
    assert workspace.splits() == first
    plan_toy(workspace, str(phantoms.dataset), fold=0)
    assert workspace.splits() == Splits(first.train[:1], first.train[1:], 0)
    workspace.splits_file.write_text(
        json.dumps({"train": first.train, "test": first.test})
    )  # of a plan that asked for none
    assert workspace.splits() == replace(first, fold=None)
