"""Tumors with several labels, from data to pairs: the same pictures as with one label, and sub-labels that are told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage
from support.pairs import paint, records
from support.requests import make_request, opened, same_result
from support.workspaces import plan_toy

from tumorgen_cli.data.dataset import read_dataset
from tumorgen_cli.data.volumes import read_volume, write_volume
from tumorgen_cli.evaluation.cases import read_tumor, synthetic_cases
from tumorgen_cli.geometry import Box
from tumorgen_cli.methods.base import Sampling
from tumorgen_cli.pipeline import export
from tumorgen_cli.pipeline.merge import merge_sets
from tumorgen_cli.pipeline.preprocess import preprocess_dataset
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.cases import load_case
from tumorgen_cli.preprocessing.sublabels import read_sublabel_rule
from tumorgen_cli.sharing.options import ExportOptions
from tumorgen_cli.system.errors import StateError
from tumorgen_cli.system.json_records import write_json

REGIONS = {"background": 0, "whole tumor": [1, 2], "tumor core": 2}


@pytest.fixture(scope="module")
def parts(phantoms, tmp_path_factory):
    """The phantoms with a core in each tumor, as regions: planned and preprocessed."""
    folder = tmp_path_factory.mktemp("parts") / phantoms.dataset.name
    shutil.copytree(phantoms.dataset, folder)
    for path in (folder / "labelsTr").iterdir():
        labels, grid = read_volume(path)
        depth = ndimage.distance_transform_edt(labels, grid.spacing_mm)
        write_volume(path, (labels + (depth > 0.5 * depth.max())).astype(np.uint8), grid)
    content = json.loads((folder / "dataset.json").read_text())
    write_json(folder / "dataset.json", {**content, "labels": REGIONS, "regions_class_order": [1, 2]})
    found = Workspace(folder.parent / "work")
    plan_toy(found, str(folder))
    preprocess_dataset(found, workers=0)
    return found


def volumes(folder, part):
    return {path.name: read_volume(path)[0] for path in sorted((folder / part).iterdir())}


def check_same_pictures(one, several):
    """The images of two sets are the same, and so are their tumors; returns the labels of the second."""
    images, others = volumes(one, "imagesTr"), volumes(several, "imagesTr")
    assert images.keys() == others.keys()
    for name, image in images.items():
        np.testing.assert_array_equal(image, others[name])
    labels, found = volumes(one, "labelsTr"), volumes(several, "labelsTr")
    for name, label in labels.items():
        np.testing.assert_array_equal(label > 0, found[name] > 0)
        assert {*np.unique(found[name])} == {0, 1, 2}
    return found


def test_the_plan_and_the_cases_have_them(parts, workspace):
    plan = parts.plan()
    assert (plan.tumor_name, plan.tumor_label, plan.regions_class_order) == ("whole tumor", (1, 2), (1, 2))
    assert plan.labels == {"background": 0, "whole tumor": (1, 2), "tumor core": 2}
    assert parts.fingerprint().cases == workspace.fingerprint().cases
    assert "regions_class_order" not in json.dumps(workspace.plan().hash)
    for name in parts.splits().train:
        case, single = load_case(parts.cases / name), load_case(workspace.cases / name)
        np.testing.assert_array_equal(case.tumors, single.tumors)
        np.testing.assert_array_equal(case.image, single.image)
        np.testing.assert_array_equal(case.sublabels > 0, case.tumors > 0)
        assert single.sublabels is None
    rule = read_sublabel_rule(parts)
    assert (rule.values, rule.whole) == ((1, 2), False)
    assert rule.right > rule.right_commonest
    assert not workspace.sublabels_file.exists()


def test_a_damaged_rule_is_learned_again(parts):
    before = parts.sublabels_file.read_text()
    parts.sublabels_file.write_text("{")
    preprocess_dataset(parts, workers=0)
    assert parts.sublabels_file.read_text() == before


def test_a_model_takes_the_rule_along(parts, workspace, tmp_path):
    for planned, there in ((parts, True), (workspace, False)):
        method, _ = opened("syntumor", planned)
        target = Workspace(tmp_path / str(there))
        export._write_facts(method, planned.fingerprint(), ExportOptions(), target.root)
        assert target.sublabels_file.is_file() == there
        assert target.plan().tumor_label == method.plan.tumor_label
    assert read_sublabel_rule(Workspace(tmp_path / "True")) == read_sublabel_rule(parts)


def test_a_donor_keeps_its_own(parts, workspace, phantoms, tmp_path):
    """One tumor label gives the same voxels."""
    paint(workspace, phantoms, tmp_path / "one", pairs=2)
    paint(parts, phantoms, tmp_path / "several", pairs=2)
    check_same_pictures(tmp_path / "one", tmp_path / "several")
    (method, _), (single, _) = opened("copypaste", parts), opened("copypaste", workspace)
    request, shrunk = make_request(parts), 0
    for seed in range(6):
        made = method.synthesize(request, seed, Sampling())
        assert same_result(made, single.synthesize(request, seed, Sampling()))
        np.testing.assert_array_equal(made.sublabels > 0, made.mask > 0)
        case = load_case(parts.cases / made.drawn["donor"])
        own = [case.sublabels[case.tumors == component.number] for component in case.record.components]
        counts = np.bincount(made.sublabels.ravel(), minlength=3)[1:].tolist()
        shrunk += counts not in [np.bincount(values, minlength=3)[1:].tolist() for values in own]
        assert min(counts) > 0
    assert shrunk < 6


def test_other_methods_follow_the_rule_and_the_set_is_nnunets(parts, workspace, phantoms, tmp_path, monkeypatch):
    out, box = tmp_path / "several", Box((4, 6, 8), (24, 26, 28))
    paint(workspace, phantoms, tmp_path / "one", "syntumor", pairs=1, box=box)
    paint(parts, phantoms, out, "syntumor", pairs=1, box=box)
    for labels in check_same_pictures(tmp_path / "one", out).values():
        depth = ndimage.distance_transform_edt(labels > 0)
        assert depth[labels == 2].mean() > 1.5 * depth[labels == 1].mean()
    written = read_dataset(out)
    assert (written.tumor_name, written.tumor_label, written.class_order) == ("whole tumor", (1, 2), (1, 2))
    plan = parts.plan()
    for files in synthetic_cases(plan, out):
        own, others, _ = read_tumor(plan, files)
        np.testing.assert_array_equal(own | others, read_volume(files.label)[0] > 0)
    monkeypatch.delenv("nnUNet_raw", raising=False)
    merged = merge_sets(parts, plan.dataset_path, [out], tmp_path / "Dataset601_Merged")
    content = json.loads((merged.out / "dataset.json").read_text())
    assert (content["labels"], content["regions_class_order"]) == (REGIONS, [1, 2])
    parts.sublabels_file.rename(tmp_path / "aside")
    with pytest.raises(StateError) as error:
        paint(parts, phantoms, tmp_path / "none", "syntumor", pairs=1)
    assert "run `tumorgen preprocess`" in error.value.faults[0].remedy
    preprocess_dataset(parts, workers=0)
    assert paint(parts, phantoms, tmp_path / "none", "syntumor", pairs=1).tally.pairs == 1


def test_redrawn_tumors_lose_all_their_old_sublabels(parts, phantoms, tmp_path):
    paint(parts, SimpleNamespace(healthy=None), tmp_path / "set", pairs=2, cases="train", tumors=None)
    dataset = read_dataset(Path(parts.plan().dataset_path))
    for line in records(tmp_path / "set"):
        old, _ = read_volume(dataset.label_file(line["host"]))
        new, _ = read_volume(tmp_path / "set" / "labelsTr" / f"{line['case']}.nii.gz")
        assert {*np.unique(new)} == {0, 1, 2}
        assert ((new > 0) != (old > 0)).any()
        assert not ((old == 2) & (new == 0) & ndimage.binary_erosion(new > 0)).any()
