"""The organ of a tumor: where it lies, and how well classifiers name it."""

from types import SimpleNamespace

import numpy as np
import pytest
import typer

from tumorgen_cli.data.volumes import write_volume
from tumorgen_cli.evaluation.cases import TumorCase, Volumes
from tumorgen_cli.geometry import Box, Grid

GRID = Grid((24, 12, 12), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
LABELS = {"background": 0, "liver": 1, "tumor": 2, "kidney": 3}


@pytest.fixture(scope="module")
def organs(example):
    return example("organs")


def made_up(apart: float, organs, count: int = 40, seed: int = 0):
    """Three organs of `count` tumors each, in patients of two, whose first feature differs by `apart`."""
    rng = np.random.default_rng(seed)
    names = np.repeat(["kidney", "liver", "pancreas"], count)
    features = rng.normal(size=(3 * count, 6))
    features[:, 0] += apart * np.repeat([0, 1, 2], count)
    features[0, 1] = np.nan
    patients = np.array([f"{name}{i // 2}" for name in ("k", "l", "p") for i in range(count)])
    return organs.Tumors(features, names, patients)


@pytest.mark.parametrize("name", ["SVM", "random forest", "AdaBoost"])
def test_classifiers_are_near_chance_or_right(organs, name, monkeypatch):
    monkeypatch.setattr(organs, "REPEATS", 1)
    make = organs.CLASSIFIERS[name]
    precision, recall = organs.classify(made_up(8.0, organs), make, 0)
    assert precision.mean() > 0.85
    assert recall.mean() > 0.85
    precision, recall = organs.classify(made_up(0.0, organs), make, 0)
    assert precision.mean() == pytest.approx(1 / 3, abs=0.15)
    assert recall.mean() == pytest.approx(1 / 3, abs=0.15)


def test_the_organ_of_each_tumor_is_what_lies_around_it(organs, tmp_path):
    """Two tumors of one case, in two organs: each has its own, whatever the other's label is."""
    labels = np.zeros(GRID.shape, np.uint8)
    labels[1:11, 1:11, 1:11], labels[13:23, 1:11, 1:11] = 1, 3
    boxes = Box((4, 4, 4), (7, 7, 7)), Box((16, 4, 4), (19, 7, 7))
    for box in boxes:
        labels[box.slices] = 2
    for name, array in (("image", labels.astype(np.float32)), ("label", labels)):
        write_volume(tmp_path / f"{name}.nii.gz", array, GRID)
    plan = SimpleNamespace(labels=LABELS, tumor_label=2)
    found = []
    for number, box in enumerate(boxes):
        files = TumorCase(
            "train", f"t{number}", "c", "c", (tmp_path / "image.nii.gz",), tmp_path / "label.nii.gz", (box,), (box,)
        )
        found.append(organs.find_organ(plan, files, Volumes(files)))
    assert found == ["liver", "kidney"]


def test_too_few_organs_are_told(organs):
    tumors = made_up(0.0, organs, 6)
    with pytest.raises(typer.BadParameter, match="patients now: kidney 3, liver 3, pancreas 3"):
        organs.check(tumors, 20.0)
    organs.check(made_up(0.0, organs, 10), 20.0)


def test_a_data_set_without_organs_is_refused(organs, workspace):
    """Every tumor of the phantoms is measured; none lies in an organ."""
    with pytest.raises(typer.BadParameter, match="patients now: none"):
        organs.main(workspace.root, below=1000.0)
    with pytest.raises(typer.BadParameter, match="not among"):
        organs.main(workspace.root, families="color")
