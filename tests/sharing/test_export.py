"""A model travels without scans and without values of single patients, and paints elsewhere."""

import json
import re
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load
from support.command_line import call, told

from tumorgen_cli.data.volumes import read_volume
from tumorgen_cli.methods.latent.condition import PATIENT_BUFFERS
from tumorgen_cli.methods.registry import METHODS, find_method
from tumorgen_cli.pipeline.export import export_model
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.sharing.card import model_card
from tumorgen_cli.sharing.installed import find_model, install_model
from tumorgen_cli.sharing.membership import Membership
from tumorgen_cli.sharing.options import ExportOptions
from tumorgen_cli.sharing.record import ModelRecord
from tumorgen_cli.synthesis.set_files import read_learned_from, read_settings
from tumorgen_cli.system.errors import PlanError, StateError
from tumorgen_cli.system.json_records import from_plain, write_json

#: the methods that are tried by default: one with all kinds of weights, one with masks of a prior alone
QUICK = ("tumorgen", "syntumor")


def test_a_model_holds_nothing_of_single_patients(trained, shared_zip):
    """No name, no path, no value of a tumor or scan: each is the mean of three cases at least."""
    fingerprint, splits = trained.fingerprint(), trained.splits()
    own = fingerprint.of(splits.train)
    with zipfile.ZipFile(shared_zip) as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist() if not name.endswith("safetensors")}
        weights = load(archive.read("runs/tumorgen/flow/weights.safetensors"))
    everything = "\n".join(texts.values())
    for case in (*splits.train, *splits.test):
        assert case not in everything
    assert str(trained.root.parent) not in everything
    assert fingerprint.path not in everything
    pooled = json.loads(texts["fingerprint.json"])["cases"]
    assert len(pooled) == len(splits.train)
    tumors = [tumor for case in pooled for tumor in case["tumors"]]
    assert len(tumors) == len(own.tumors)
    for field in ("volume_ml", "extent_mm", "mean", "contrast"):
        known = {json.dumps(getattr(tumor, field)) for tumor in own.tumors}
        assert not known & {json.dumps(tumor[field]) for tumor in tumors}, field
    assert sum(t["volume_ml"] for t in tumors) == pytest.approx(sum(t.volume_ml for t in own.tumors))
    assert not {case.body_ml for case in own.cases} & {case["body_ml"] for case in pooled}
    assert json.loads(texts["plan.json"])["dataset_path"] == ""
    assert not any(decision["inputs"] for decision in json.loads(texts["plan.json"])["decisions"])
    method = find_method("tumorgen")(trained.plan(), trained)
    method.load()
    for name in PATIENT_BUFFERS:
        before, after = getattr(method.condition, name).numpy(), weights[f"condition.{name}"]
        rows = method.condition.known().volumes_mm3.size
        assert np.allclose(np.nansum(before[:rows], 0), np.nansum(after[:rows], 0), rtol=1e-4)
        assert not {row.tobytes() for row in before[:rows]} & {row.tobytes() for row in after[:rows]}


def test_the_card_says_what_was_tested_and_what_is_held(shared_zip):
    with zipfile.ZipFile(shared_zip) as archive:
        card, record = archive.read("MODEL_CARD.md").decode(), json.loads(archive.read("model.json"))
    assert record["membership"] is None  # one case is held out
    for text in ("# phantoms", "CC0-1.0", "Membership test", "near-copies", "paste.smallest_ml", "must not be used"):
        assert text.lower() in card.lower()
    assert {stage["stage"] for stage in record["stages"]} == {"vae", "flow", "refiner"}
    assert all(f"* {text}" in card for text in (*record["left_out"], *record["holds"]))


def test_the_card_says_what_its_two_counts_of_tumors_count(shared_zip):
    """The data's tumors are those of the fingerprint; the membership test has those that networks are trained on."""
    with zipfile.ZipFile(shared_zip) as archive:
        record = from_plain(ModelRecord, json.loads(archive.read("model.json")))
    assert "* 5 training cases of `" in model_card(record)
    data = replace(record.data, cases=1, tumors=1, healthy=1)
    card = model_card(replace(record, data=data, membership=Membership(0.5, 0.4, 0.6, 2, 1)))
    assert f"1 training case of `{data.dataset}`, 1 tumor; 1 held out; also learned from 1 scan without labels." in card
    assert "on 2 training and 1 held-out tumor: the loss was not seen" in card
    assert "from others. It counts tumors" in card
    assert "It counts tumors" not in model_card(record)  # no such test was done


def test_the_card_says_why_there_is_no_membership_test(shared_zip):
    """Too few cases; a method without networks; scans without labels, which no test covers."""
    with zipfile.ZipFile(shared_zip) as archive:
        record = from_plain(ModelRecord, json.loads(archive.read("model.json")))
    assert record.tested_loss in model_card(record)
    assert ": not done. It needs two cases with tumors that were learned from, and two that" in model_card(record)
    card = model_card(replace(record, method="syntumor", tested_loss=""))
    assert "* Membership test: there is none for `syntumor`. No network of it has learned from tumors" in card
    tested = replace(record, membership=Membership(0.5, 0.4, 0.6, 2, 1))
    assert "was not tested" not in model_card(tested)
    tested = replace(tested, data=replace(record.data, healthy=1))
    assert "* Whether the model reveals which scans without labels it learned from was not tested." in model_card(
        tested
    )


def test_a_model_paints_without_its_data_set(shared_zip, models, phantoms, tmp_path, monkeypatch):
    """Export, install and synthesize: what is painted is in the set, and the model is only read."""
    monkeypatch.chdir(tmp_path)
    assert "no such model" in told(call("synthesize", "--model", "phantoms", "--healthy", phantoms.healthy, code=1))
    said = told(call("install", shared_zip))
    assert "synthesize --model phantoms" in said
    before = {path: path.stat().st_mtime_ns for path in models.rglob("*") if path.is_file()}
    words = ("synthesize", "--model", "phantoms", "--healthy", phantoms.healthy, "-n", 1, "--device", "cpu")
    made = json.loads(call(*words, "--json").stdout)
    assert made["tally"]["pairs"] == 1
    folder = tmp_path / "tumorgen_work" / "synthetic" / "phantoms_healthy"
    assert made["folder"] == str(folder)
    labels, _ = read_volume(next((folder / "labelsTr").iterdir()))
    assert (labels == 1).any()
    assert read_settings(folder)["model"] == "phantoms"
    assert all(case.startswith("unnamed-training-case-") for case in read_learned_from(folder))
    assert {path: path.stat().st_mtime_ns for path in models.rglob("*") if path.is_file()} == before
    listed = call("models")
    assert "phantoms" in listed.stdout
    assert "CC0-1.0" in listed.stdout
    other = told(call(*words, "--method", "blended", code=1))
    assert "leave --method out" in other
    assert "A model has no data set" in told(call("synthesize", "--model", "phantoms", "--cases", "train", code=1))


def test_hosts_unlike_the_model_are_refused(shared_zip, models, phantoms, tmp_path, monkeypatch):
    """Channels, spacing and intensities are compared with what the model has learned."""
    import shutil

    from tumorgen_cli.data.volumes import write_volume

    monkeypatch.chdir(tmp_path)
    install_model(shared_zip)
    hosts = tmp_path / "hosts"
    hosts.mkdir()
    source = min(phantoms.healthy.glob("*_0000.nii.gz"))
    words = ("synthesize", "--model", "phantoms", "--healthy", hosts, "-n", 1, "--device", "cpu")
    shutil.copy(source, hosts / source.name)
    (hosts / "dataset.json").write_text('{"channel_names": {"0": "CT"}}')
    assert "channel_names" in told(call(*words, code=1))
    (hosts / "dataset.json").unlink()
    image, grid = read_volume(source)
    write_volume(hosts / source.name, image, replace(grid, spacing_mm=(50.0, 50.0, 50.0)))
    assert "as in the training cases" in told(call(*words, code=1))
    write_volume(hosts / source.name, (image * 5000).astype(np.float32), grid)
    assert "another unit" in told(call(*words, code=1))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in METHODS if name != "copypaste"],
)
def test_every_method_but_copypaste_travels(name, trained, models, phantoms, tmp_path):
    """What is exported fits, is installed, and paints the same way with the same seed."""
    from tumorgen_cli.methods.mask_prior import needs_donors

    plan = trained.plan()
    donors = needs_donors(find_method(name)(plan, trained))
    made = export_model(trained, name, tmp_path / f"{name}.zip", ExportOptions(donor_masks=donors), "cpu")
    folder, record = install_model(tmp_path / f"{name}.zip")
    assert (record.method, folder) == (name, models / name)
    workspace, _ = find_model(name, tmp_path)
    method = find_method(name)(workspace.plan(), workspace)
    own = find_method(name)(plan, trained)
    assert {*method.load()} == {*own.load()}
    assert made.record == record


def test_what_needs_scans_or_masks_of_patients_is_refused(trained, tmp_path):
    with pytest.raises(PlanError, match="export a method that paints without them"):
        export_model(trained, "copypaste", tmp_path / "model.zip", device="cpu")
    work = _with_prior(trained, tmp_path / "work")
    with pytest.raises(PlanError, match=r"add --donor-masks, or plan with --set methods\.syntumor\.mask"):
        export_model(work, "syntumor", tmp_path / "model.zip", device="cpu")
    export_model(work, "syntumor", tmp_path / "model.zip", ExportOptions(donor_masks=True), "cpu")
    folder, _ = install_model(tmp_path / "model.zip", "with_masks")
    method = find_method("syntumor")(Workspace(folder).plan(), Workspace(folder))
    method.load()
    own = find_method("syntumor")(work.plan(), work)
    own.load()
    assert sorted(int(mask.sum()) for mask in own.donors) == [int(mask.sum()) for mask in method.donors]
    (folder / "donors.safetensors").unlink()
    with pytest.raises(StateError, match="ask who gave the model for one with masks of its training tumors"):
        method.load()


def _with_prior(trained: Workspace, root) -> Workspace:
    """The trained workspace, with a plan in which SynTumor draws from training masks."""
    root.mkdir()
    work = trained.shared_in(root, with_runs=True)
    plan: Plan = work.plan()
    section = plan.methods["syntumor"]
    section = {**section, "mask": {**section["mask"], "prior": "training"}}
    write_json(work.plan_file, replace(plan, methods={**plan.methods, "syntumor": section}))
    return work


def test_files_and_names_that_cannot_be_used_are_refused(trained, shared_zip, tmp_path, models):
    with pytest.raises(PlanError, match=re.escape("let the file's name end in .zip")):
        export_model(trained, "tumorgen", tmp_path / "model.tar", device="cpu")
    with pytest.raises(PlanError, match="give another name with --name"):
        export_model(trained, "tumorgen", tmp_path / "model.zip", ExportOptions(name="../up"), "cpu")
    with pytest.raises(StateError, match="choose another name for the file, or remove this one"):
        export_model(trained, "tumorgen", shared_zip, device="cpu")
    folder, _ = install_model(shared_zip)
    with pytest.raises(StateError, match="pass on the file that it was installed from"):
        export_model(Workspace(folder), "tumorgen", tmp_path / "model.zip", device="cpu")


def test_outdated_weights_are_refused(trained, tmp_path):
    """Weights of another plan are not given away as those of this one; with the plan put back they are."""
    root = tmp_path / "work"
    root.mkdir()
    work = trained.shared_in(root, with_runs=True)
    plan = work.plan()
    section = plan.methods["tumorgen"]
    section = {**section, "flow": {**section["flow"], "learning_rate": 0.5}}
    write_json(work.plan_file, replace(plan, methods={**plan.methods, "tumorgen": section}))
    with pytest.raises(StateError, match=re.escape("--restart`), or put the plan back that it was trained by")):
        export_model(work, "tumorgen", tmp_path / "model.zip", device="cpu")
    write_json(work.plan_file, plan)
    assert export_model(work, "tumorgen", tmp_path / "model.zip", device="cpu").record.method == "tumorgen"
