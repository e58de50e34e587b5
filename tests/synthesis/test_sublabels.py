"""Tumors with several labels, from data to pairs: the same pictures as with one label, and sub-labels that are told."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import ndimage
from support.pairs import paint, records
from support.requests import make_request, opened, same_result
from support.workspaces import plan_toy

from tumorgen_cli.data.dataset import read_dataset
from tumorgen_cli.data.volumes import read_volume, write_volume
from tumorgen_cli.evaluation.cases import read_tumor, synthetic_cases
from tumorgen_cli.geometry import Box
from tumorgen_cli.methods.base import Sampling
from tumorgen_cli.methods.latent.cache import candidate_window, find_candidates, held_out_windows
from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.pipeline import export
from tumorgen_cli.pipeline.merge import merge_sets
from tumorgen_cli.pipeline.preprocess import preprocess_dataset
from tumorgen_cli.pipeline.train import train_stages
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.cases import load_case
from tumorgen_cli.preprocessing.sublabels import read_sublabel_rule
from tumorgen_cli.sharing.installed import install_model
from tumorgen_cli.sharing.options import ExportOptions
from tumorgen_cli.synthesis import sublabels as synthesis_module
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


def with_switch(planned, value):
    """TumorGen with another value of the switch; not trained."""
    plan = planned.plan()
    section = plan.methods["tumorgen"]
    section = {**section, "flow": {**section["flow"], "sublabels": value}}
    return find_method("tumorgen")(replace(plan, methods={**plan.methods, "tumorgen": section}), planned)


def first_weights(planned, value):
    method = with_switch(planned, value)
    torch.manual_seed(0)
    return {**method.net.state_dict(), **method.refiner.state_dict()}


def test_networks_have_masks_for_sublabels_and_one_label_has_the_networks_that_it_had(parts, workspace):
    assert parts.plan().methods["tumorgen"]["flow"]["sublabels"] is True
    assert workspace.plan().methods["tumorgen"]["flow"]["sublabels"] is False
    one, two = with_switch(workspace, False), with_switch(parts, True)
    assert (one.labels, two.labels) == (1, 2)
    assert (one.net.out_channels, two.net.out_channels) == (4 + 8, 4 + 16)
    weights = first_weights(workspace, False)
    for same in ((workspace, True), (parts, False)):
        found = first_weights(*same)
        assert found.keys() == weights.keys()
        assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_windows_hold_sublabels(parts, workspace):
    """Windows are cut and drawn as with one label; sub-labels are those of the tumors to learn."""
    candidate, other = (
        max(
            find_candidates([load_case(each.cases / name) for name in each.splits().train]),
            key=lambda one: np.prod(one.component.box.shape),
        )
        for each in (parts, workspace)
    )
    plan, method = parts.plan(), with_switch(parts, True)
    for copy in range(3):
        found, alone = candidate_window(plan, candidate, copy, 4), candidate_window(workspace.plan(), other, copy, 4)
        np.testing.assert_array_equal(found.image, alone.image)
        np.testing.assert_array_equal(found.mask, alone.mask)
        assert (found.sublabels.shape, alone.sublabels.shape) == ((1, 32, 32, 32), (0, 32, 32, 32))
        assert not (found.sublabels[0] & ~found.mask).any()
        depth = ndimage.distance_transform_edt(found.mask)
        assert depth[found.sublabels[0] > 0].mean() > 1.1 * depth[found.mask > found.sublabels[0]].mean()
    held = held_out_windows(method, method.vae.eval(), 1, True)[0]
    assert held.masks.shape == (2, 32, 32, 32)
    np.testing.assert_array_equal(held.masks[0], held.mask)


@pytest.mark.parametrize("single", [False, True])
def test_a_networks_own_sublabels_are_pasted(parts, monkeypatch, single):
    """The rule is not asked; where training tumors have one sub-label each, a drawn one gets that of most voxels."""
    rule = read_sublabel_rule(parts)
    monkeypatch.setattr("tumorgen_cli.methods.latent.sampler.read_sublabel_rule", lambda _: replace(rule, whole=single))
    monkeypatch.setattr(synthesis_module, "choose_sublabels", lambda *_: pytest.fail("the rule was asked"))
    method, request = with_switch(parts, True), make_request(parts)
    for network in (method.vae, method.net, method.condition, method.refiner):
        network.eval().requires_grad_(False)
    monkeypatch.setattr(method.sampler, "draw_tumor", lambda *_: None)
    decode, shown = method.sampler.decode, []

    def decoded(joint):
        picture, mask, values = decode(joint)
        shown.append(values)
        places = np.indices(mask.shape) - np.array(mask.shape).reshape(3, 1, 1, 1) / 2
        return (
            picture,
            (np.square(places).sum(0) < 16).astype(np.float32),
            np.where(places[0] < 2, 1, 2).astype(np.uint8),
        )

    monkeypatch.setattr(method.sampler, "decode", decoded)
    made = synthesis_module.with_sublabels(method, request, method.synthesize(request, 3, Sampling()))
    assert {*np.unique(shown[0])} <= {1, 2}  # of the networks as they are
    np.testing.assert_array_equal(made.sublabels > 0, made.mask >= 0.5)
    counts = np.bincount(made.sublabels[made.sublabels > 0], minlength=3)
    assert counts[1] > counts[2]
    assert (counts[2] == 0) == single


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tumorgen", "maskfirst"])
def test_trained_networks_paint_them(parts, trained, phantoms, tmp_path, monkeypatch, name):
    """From data to a pair with both values; with the switch off, weights are those of one label."""
    monkeypatch.setattr(synthesis_module, "choose_sublabels", lambda *_: pytest.fail("the rule was asked"))
    train_stages(parts, name, "all", device="cpu")
    assert paint(parts, phantoms, tmp_path / "set", name, pairs=2).tally.pairs == 2
    for labels in volumes(tmp_path / "set", "labelsTr").values():
        assert {*np.unique(labels)} == {0, 1, 2}
    export.export_model(parts, name, tmp_path / "model.zip", device="cpu")
    method, _ = opened(name, Workspace(install_model(tmp_path / "model.zip")[0]))
    made = method.synthesize(make_request(parts), 3, Sampling())
    np.testing.assert_array_equal(made.sublabels > 0, made.mask >= 0.5)
    assert made.sublabels.any()
    assert {*np.unique(made.sublabels)} <= {0, 1, 2}
    off = Workspace(tmp_path / "off")
    shutil.copytree(parts.root, off.root, ignore=shutil.ignore_patterns("flow", "refiner", "mask*", "tumorflow"))
    plan_toy(off, parts.plan().dataset_path, "methods.tumorgen.flow.sublabels=false")
    train_stages(off, name, "all", device="cpu")
    method = find_method(name)(off.plan(), off)
    for stage in method.stages:
        path = method.folder(stage).relative_to(off.root) / "weights.safetensors"
        one, found = (load_file(each.root / path) for each in (trained, off))
        assert all(torch.equal(one[key], found[key]) for key in one)
