"""A segmentor's scores on training tumors: by folds that have not seen them, and never from held-out cases."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.segmentors import training_folds, write_segmentor

from tumorgen_cli.data.splits import Splits
from tumorgen_cli.data.volumes import read_image, read_volume, write_volume
from tumorgen_cli.judge import model
from tumorgen_cli.synthesis import aim_segmentor
from tumorgen_cli.synthesis.aim_segmentor import score_segmentor
from tumorgen_cli.system.errors import StateError
from tumorgen_cli.system.json_records import write_json


@pytest.fixture
def work(workspace):
    """The shared workspace, in which no scores are left."""
    yield workspace
    shutil.rmtree(workspace.root / "aim", ignore_errors=True)


def score(work, folder, keep=True):
    return score_segmentor(work, work.plan(), folder, "cpu", keep)


def remedies(work, folder):
    with pytest.raises(StateError) as error:
        score(work, folder)
    return [fault.remedy for fault in error.value.faults]


def as_drawn(_case, label):
    return label


def test_tumors_are_scored_one_by_one(work, phantoms, tmp_path):
    """A tumor that is cut in half has Dice 2/3, one that is missed 0; another tumor's marks are no error."""
    train = work.fingerprint().of(work.splits().train)
    several = next(case for case in train.cases if len(case.tumors) == 3)

    def find(case, label):
        if case != several.case:
            return label
        first, second, _ = (tumor.box for tumor in several.tumors)
        found = np.zeros_like(label)
        found[first.slices] = label[first.slices]
        part = np.argwhere(label[second.slices])
        for place in part[: len(part) // 2]:
            found[tuple(place + second.start)] = 1
        return found

    scores = score(work, write_segmentor(tmp_path, phantoms.dataset, training_folds(work), find))
    first, second, third = scores.tumors[several.case]
    assert (first.dice, third.dice) == (1.0, 0.0)
    assert second.dice == pytest.approx(2 / 3, abs=0.02)
    assert all(0 < each.heterogeneity < 2 and 0.2 < each.core_ratio < 3 for each in (first, second, third))
    others = [each.dice for case, found in scores.tumors.items() if case != several.case for each in found]
    assert set(others) == {1.0}
    assert set(scores.tumors) == set(work.splits().train)
    assert scores.learned_from == tuple(sorted(work.splits().train))


def test_scores_are_kept_until_the_segmentor_changes(work, phantoms, tmp_path, monkeypatch):
    folder = write_segmentor(tmp_path, phantoms.dataset, training_folds(work), as_drawn)
    assert not list(work.root.glob("aim/*.json"))
    assert score(work, folder, keep=False) is not None
    assert not list(work.root.glob("aim/*.json"))
    first = score(work, folder)
    with monkeypatch.context() as patch:
        patch.setattr(aim_segmentor, "_score_case", None)  # nothing is scored again
        assert score(work, folder) == first
    kept = work.root / "aim" / f"{first.hash}.json"
    kept.write_text("[]")
    (remedy,) = remedies(work, folder)
    assert remedy == f"delete {kept}"
    kept.unlink()
    assert score(work, folder) == first
    case = work.splits().train[0]
    path = next(tmp_path.glob(f"fold_*/validation/{case}.nii.gz"))
    label, grid = read_volume(path)
    write_volume(path, np.zeros_like(label), grid)
    changed = score(work, folder)
    assert changed.hash != first.hash
    assert {each.dice for each in changed.tumors[case]} == {0.0}


def test_a_case_without_a_prediction_is_predicted_by_its_own_fold(work, phantoms, tmp_path, monkeypatch):
    folds = training_folds(work)
    write_segmentor(tmp_path, phantoms.dataset, folds, as_drawn)
    case, *_ = folds[1].test
    path = tmp_path / "fold_1" / "validation" / f"{case}.nii.gz"
    path.unlink()
    (remedy,) = remedies(work, tmp_path)
    assert remedy == "let this fold end (`nnUNetv2_train` with --c continues it)"
    (tmp_path / "fold_1" / "checkpoint_final.pth").write_bytes(b"weights")
    asked = []

    class Fold:
        def __init__(self, folder, device, tumor_name, precision):
            self.folder = folder

        def predict(self, image, grid):
            asked.append((self.folder.name, image.shape))
            return (image[0] > 1e9).astype(np.uint8)

    monkeypatch.setattr(model, "Judge", Fold)
    scores = score(work, tmp_path)
    image, _ = read_image((phantoms.dataset / "imagesTr" / f"{case}_0000.nii.gz",))
    assert asked == [("fold_1", image.shape)]
    assert {each.dice for each in scores.tumors[case]} == {0.0}
    others = {each.dice for name, found in scores.tumors.items() if name != case for each in found}
    assert others == {1.0}


def test_folds_that_know_held_out_cases_are_refused_and_better_ones_are_written(work, phantoms, tmp_path):
    """The five folds of the whole data set: each that has not seen a training case has seen the held-out one."""
    splits = work.splits()
    own = [*splits.train, *splits.test]
    folds = [Splits(tuple(c for c in own if c != case), (case,)) for case in own]
    folder = write_segmentor(tmp_path / "whole", phantoms.dataset, folds, as_drawn)
    (remedy,) = remedies(work, folder)
    written = work.root / "aim" / "splits_final.json"
    assert remedy == (
        f"train nnU-Net on the training cases alone: copy {written}, which has folds of them, into its preprocessed "
        "data set, and train them with another nnUNet_results"
    )
    better = [Splits(tuple(fold["train"]), tuple(fold["val"])) for fold in json.loads(written.read_text())]
    assert {case for fold in better for case in (*fold.train, *fold.test)} == set(splits.train)
    again = write_segmentor(tmp_path / "again", phantoms.dataset, better, as_drawn, splits=False)
    shutil.copy(written, again)
    assert set(score(work, again).tumors) == set(splits.train)


def test_scans_of_one_patient_are_scored_by_a_fold_that_knows_none(work, phantoms, tmp_path, monkeypatch):
    splits = work.splits()
    one, two, *_ = splits.train
    folds = [
        Splits(tuple(c for c in splits.train if c not in out), out) for out in ((one,), tuple({*splits.train} - {one}))
    ]
    folder = write_segmentor(tmp_path / "torn", phantoms.dataset, folds, as_drawn)
    assert len(score(work, folder).tumors) == 5
    known = replace(splits, patients={one: "p", two: "p"})
    monkeypatch.setattr(type(work), "splits", lambda _: known)
    (remedy,) = remedies(work, folder)
    assert remedy.startswith("train nnU-Net on the training cases alone: copy ")
    written = json.loads((work.root / "aim" / "splits_final.json").read_text())
    assert len(written) == 4  # a fold for each patient
    assert all(({one, two} <= {*fold["train"]}) or ({one, two} <= {*fold["val"]}) for fold in written)
    better = [Splits(tuple(fold["train"]), tuple(fold["val"])) for fold in written]
    assert len(score(work, write_segmentor(tmp_path / "whole", phantoms.dataset, better, as_drawn)).tumors) == 5


def test_which_cases_a_fold_has_seen_must_be_known(work, phantoms, tmp_path, monkeypatch):
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    folds = training_folds(work)
    folder = write_segmentor(tmp_path / "results", phantoms.dataset, folds, as_drawn, splits=False)
    assert len(score(work, folder).tumors) == 5  # every case was validated once: each fold has seen the others
    content = json.loads((folder / "dataset.json").read_text())
    write_json(folder / "dataset.json", content | {"numTraining": 6})  # one more, in a fold that was not trained
    (remedy,) = remedies(work, folder)
    assert remedy == "copy splits_final.json from nnU-Net's preprocessed data set into the results folder"
    splits = [{"train": fold.train, "val": fold.test} for fold in folds]
    write_json(folder / "splits_final.json", splits)
    assert len(score(work, folder).tumors) == 5
    (folder / "splits_final.json").rename(tmp_path / "splits_final.json")
    (tmp_path / "Dataset999_PhantomPET").mkdir()
    (tmp_path / "splits_final.json").rename(tmp_path / "Dataset999_PhantomPET" / "splits_final.json")
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    assert len(score(work, folder).tumors) == 5


def test_the_splits_are_those_it_was_trained_with(work, phantoms, tmp_path):
    folds = training_folds(work)
    folder = write_segmentor(tmp_path, phantoms.dataset, folds, as_drawn)
    right = (folder / "splits_final.json").read_text()
    told = "put the splits_final.json with which its folds were trained into the results folder"
    for wrong in ([{"train": f.test, "val": f.train} for f in folds], [json.loads(right)[0]], [{"train": 3}]):
        write_json(folder / "splits_final.json", wrong)
        with pytest.raises(Exception, match=r"splits|train") as error:
            score(work, folder)
        assert {fault.remedy for fault in error.value.faults} == {told}
    (folder / "splits_final.json").write_text(right)
    assert len(score(work, folder).tumors) == 5


def test_folders_that_are_no_folds_of_these_cases_are_told(work, phantoms, tmp_path):
    folds = training_folds(work)
    folder = write_segmentor(tmp_path / "results", phantoms.dataset, folds, as_drawn)
    fold = folder / "fold_0"
    (fold / "checkpoint_final.pth").write_bytes(b"")
    (remedy,) = remedies(work, fold)
    assert remedy == f"give {folder}"
    assert len(score(work, Path(remedy.removeprefix("give "))).tumors) == 5
    (tmp_path / "all").mkdir()
    for name in ("plans.json", "dataset.json"):
        shutil.copy(folder / name, tmp_path / "all")
    (tmp_path / "all" / "fold_all").mkdir()
    (remedy,) = remedies(work, tmp_path / "all")
    assert remedy == (
        "train nnU-Net's folds (`nnUNetv2_train DATASET CONFIGURATION 0`, then 1, ...) and give their folder"
    )
    shutil.copytree(fold, tmp_path / "all" / "fold_0")
    shutil.copy(folder / "splits_final.json", tmp_path / "all")
    (remedy,) = remedies(work, tmp_path / "all")
    assert remedy == "train the folds that are missing, or give an nnU-Net of this data set"
    shutil.copytree(folder / "fold_1", tmp_path / "all" / "fold_1")
    assert len(score(work, tmp_path / "all").tumors) == 5
    content = json.loads((folder / "dataset.json").read_text())
    write_json(folder / "dataset.json", content | {"labels": {"background": 0, "cyst": 1}})
    assert remedies(work, folder) == ["give an nnU-Net of this data set"]
    write_json(folder / "dataset.json", content | {"labels": {"background": 0, "tumor": [1, 2]}})  # a region
    assert len(score(work, folder).tumors) == 5


def test_a_prediction_of_another_scan_is_told(work, phantoms, tmp_path):
    folder = write_segmentor(tmp_path, phantoms.dataset, training_folds(work), as_drawn)
    path = next(folder.glob("fold_0/validation/*"))
    label, grid = read_volume(path)
    write_volume(path, label[1:], grid.subgrid((1, 0, 0), grid.spacing_mm, label[1:].shape))
    (remedy,) = remedies(work, folder)
    assert remedy == "delete the file: the case is then predicted again"
    path.unlink()
    assert remedies(work, folder) == ["let this fold end (`nnUNetv2_train` with --c continues it)"]
