"""Installed models: found by name, refused when they do not fit, never changed."""

import json
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load, save
from support.command_line import call, told

from tumorgen_cli import api
from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.pipeline.export import export_model
from tumorgen_cli.pipeline.hints import complete_remedies
from tumorgen_cli.pipeline.install import list_models
from tumorgen_cli.planning.planned_data import read_planned_dataset
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.sharing.archive import read_archive, sum_file, write_archive
from tumorgen_cli.sharing.installed import check_model, find_model, install_model, models_folder
from tumorgen_cli.system import files
from tumorgen_cli.system.errors import DataError, PlanError, StateError
from tumorgen_cli.training.checkpoints import read_run


@pytest.fixture(scope="session")
def syntumor_zip(workspace, tmp_path_factory):
    """SynTumor, which has no weights, as a file. Read-only."""
    path = tmp_path_factory.mktemp("syntumor") / "plain.zip"
    export_model(workspace, "syntumor", path, device="cpu")
    return path


def spoil(source, target, name, change):
    """Copy a model's file with one of its files changed, and checksums that fit: the work of somebody who can write."""
    folder = target.parent / f"{target.stem}_files"
    folder.mkdir()
    record = read_archive(source, folder)
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    sums = {file: sum_file(folder / file) for file in record.files}
    write_archive(folder, replace(record, files=sums), target)
    return target


def with_fields(**fields):
    return lambda content: json.dumps({**json.loads(content), **fields}).encode()


def test_a_model_is_found_by_its_name(syntumor_zip, models, tmp_path):
    folder, record = install_model(syntumor_zip)
    assert (folder, record.name, record.method) == (models / "plain", "plain", "syntumor")
    assert install_model(syntumor_zip)[0] == folder  # the same model may be installed again
    workspace, known = find_model("plain", tmp_path / "work")
    assert known == record
    assert workspace.synthetic("set") == tmp_path / "work" / "synthetic" / "set"
    assert workspace.evaluation("set") == tmp_path / "work" / "evaluation" / "set"
    assert [each.record.name for each in list_models()] == ["plain"]
    assert not [path for path in models.iterdir() if path.name.startswith(".")]


def test_models_have_names_of_their_own(syntumor_zip, models, tmp_path):
    """Another model does not take the place of one that is there; an unknown name is answered with known ones."""
    install_model(syntumor_zip)
    other = spoil(syntumor_zip, tmp_path / "other.zip", "MODEL_CARD.md", lambda card: card + b"!")
    with pytest.raises(StateError, match="choose another name with --name, or delete this folder first"):
        install_model(other)
    assert install_model(other, "second")[1].name == "second"
    assert find_model("second")[1].name == "second"
    with pytest.raises(PlanError, match="give another name with --name"):
        install_model(other, "../up")
    with pytest.raises(StateError, match=r"did you mean plain\?"):
        find_model("plan")
    with pytest.raises(StateError, match=r"install it with `tumorgen install MODEL\.zip`") as caught:
        find_model("xyz")
    assert "-w" not in str(complete_remedies(caught.value, "elsewhere"))
    shutil.rmtree(models)
    assert "no model is installed" in told(call("models"))


SPOILED = {
    "the tumor": ("plan.json", with_fields(tumor_name="lesion"), "lesion"),
    "an ending that climbs": ("plan.json", with_fields(file_ending="/../../x"), "/../../x"),
    "another fingerprint": ("fingerprint.json", with_fields(content_hash="0"), "made from fingerprint"),
    "no cases": ("fingerprint.json", with_fields(cases=[]), "no training tumor"),
    "a name that climbs": ("splits.json", with_fields(train=["../up"]), "'../up'"),
    "another plan": ("plan.json", with_fields(schema=1), ""),
    "no JSON": ("plan.json", lambda _: b"{", ""),
    "absurd sizes": (
        "plan.json",
        with_fields(window={"spacing_mm": [1, 1, 1], "shape": [10**9] * 3, "alpha": 0.1}),
        "",
    ),
}


@pytest.mark.parametrize("name", SPOILED)
def test_facts_that_do_not_fit_are_refused(name, syntumor_zip, models, tmp_path):
    """With checksums that fit, too."""
    file, change, found = SPOILED[name]
    path = spoil(syntumor_zip, tmp_path / "model.zip", file, change)
    with pytest.raises(DataError) as caught:
        install_model(path)
    assert any(found in fault.found for fault in caught.value.faults), str(caught.value)
    remedy = "ask for the file as `tumorgen export` wrote it, of this version of TumorGen"
    assert all(fault.remedy == remedy for fault in caught.value.faults)
    assert [*models.iterdir()] == []


def test_weights_that_do_not_fit_are_refused(shared_zip, models, tmp_path):
    """Another hash, another shape, and no safetensors file; networks take no memory while they are compared."""
    name = "runs/tumorgen/vae/weights.safetensors"

    def other_shape(content):
        state = load(content)
        key = next(key for key, value in state.items() if value.ndim == 5)
        return save({**state, key: np.zeros((2, *state[key].shape[1:]), np.float32)})

    for number, change in enumerate((other_shape, lambda content: content[:100])):
        path = spoil(shared_zip, tmp_path / f"{number}.zip", name, change)
        with pytest.raises(DataError, match="hash"):  # that of run.json
            install_model(path)
        folder = tmp_path / f"{number}_files"
        run = folder / "runs/tumorgen/vae/run.json"
        run.write_bytes(with_fields(weights_hash=files.hash_file(folder / name))(run.read_bytes()))
        with pytest.raises(DataError, match=r"does not fit together"):
            check_model(folder, find_record(shared_zip), "model.zip")
    plan = json.loads((tmp_path / "0_files" / "plan.json").read_text())
    plan["methods"]["tumorgen"]["flow"]["widths"] = [8192, 8192, 8192]  # 100 GiB
    shutil.copytree(tmp_path / "0_files", tmp_path / "wide")
    with zipfile.ZipFile(shared_zip) as archive:
        (tmp_path / "wide" / name).write_bytes(archive.read(name))
        (tmp_path / "wide" / name).with_name("run.json").write_bytes(
            archive.read(name.replace("weights.safetensors", "run.json"))
        )
    (tmp_path / "wide" / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(DataError, match="does not fit together"):
        check_model(tmp_path / "wide", find_record(shared_zip), "model.zip")


def find_record(path):
    return read_archive(path, None)


def test_a_model_of_another_version_is_refused(syntumor_zip, models, tmp_path):
    folder, record = install_model(syntumor_zip)
    for change in ({"method": "future"}, {"weight_formats": {"flow": 99}}):
        (folder / "model.json").write_text(json.dumps({**json.loads((folder / "model.json").read_text()), **change}))
        with pytest.raises(StateError, match=r"use tumorgen .*, or ask for a model of this version"):
            find_model("plain")
        with pytest.raises(DataError, match="ask for a model of this version"):
            check_model(folder, replace(record, **change), "model.zip")


def test_a_damaged_model_is_named(syntumor_zip, models, capsys):
    folder, _ = install_model(syntumor_zip)
    (folder / "model.json").write_text('{"format": 1}')
    with pytest.raises(StateError, match="delete the folder, and install the model again with `tumorgen install`"):
        find_model("plain")
    assert list_models() == ()
    assert "An installed model is damaged" in capsys.readouterr().err
    shutil.rmtree(folder)
    install_model(syntumor_zip)
    assert find_model("plain")


def test_a_full_disk_is_told_before(syntumor_zip, models, monkeypatch):
    monkeypatch.setattr("tumorgen_cli.sharing.installed.free_bytes", lambda _: 10)
    with pytest.raises(StateError, match=r"free some space, or name another folder in \$TUMORGEN_MODELS"):
        install_model(syntumor_zip)


def test_models_lie_in_the_users_data_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("TUMORGEN_MODELS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert models_folder() == tmp_path / "tumorgen" / "models"
    monkeypatch.delenv("XDG_DATA_HOME")
    assert models_folder().parts[-4:] == (".local", "share", "tumorgen", "models")


def test_a_model_is_no_workspace(syntumor_zip, models, phantoms, tmp_path):
    """Commands that need a data set say how to use it; the remedy paints."""
    folder, _ = install_model(syntumor_zip)
    for words in (("status",), ("train", "all"), ("evaluate",)):
        said = told(call(*words, "-w", folder, code=1))
        assert "paint with it by its name (`tumorgen synthesize --model NAME --healthy DIR" in said
    with pytest.raises(StateError, match="A model has no data set"):
        read_planned_dataset(Workspace(folder), Workspace(folder).plan())
    hosts = api.HostOptions(healthy=phantoms.healthy)
    made = api.synthesize(hosts, 1, model="plain", work=tmp_path / "work", device="cpu")
    assert made.tally.pairs == 1
    assert not (folder / "synthetic").exists()


def test_weights_are_those_of_the_record(shared_zip, models):
    """What is installed is checked whenever it is loaded."""
    folder, _ = install_model(shared_zip)
    workspace = Workspace(folder)
    path = folder / "runs/tumorgen/flow/weights.safetensors"
    assert read_run(path.parent).weights_hash == files.hash_file(path)
    path.write_bytes(path.read_bytes()[:-4] + b"abcd")
    with pytest.raises(StateError, match="damaged or was replaced"):
        find_method("tumorgen")(workspace.plan(), workspace).load()


def test_pairs_of_a_model_are_merged_with_other_real_cases(syntumor_zip, models, phantoms, tmp_path):
    """Its training cases are of no data set here; that they cannot be told apart is said."""
    install_model(syntumor_zip)
    hosts = api.HostOptions(healthy=phantoms.healthy)
    made = api.synthesize(hosts, 1, model="plain", work=tmp_path / "work", device="cpu")
    out = tmp_path / "Dataset601_Merged"
    said = told(call("merge", phantoms.dataset, made.folder, "--out", out, "--folds", 5, "-w", tmp_path / "work"))
    assert "the model plain has learned from 5 cases" in said
    splits = json.loads((out / "splits_final.json").read_text())
    assert len(splits) == 5
    assert all(sum("s0000" in case for case in fold["train"]) == 1 for fold in splits)


def test_a_set_of_a_model_is_no_outdated_set_of_the_workspace(syntumor_zip, models, workspace, phantoms, tmp_path):
    """In a planned workspace, its command paints with the model again."""
    work = tmp_path / "work"
    work.mkdir()
    root = workspace.shared_in(work).root
    install_model(syntumor_zip)
    hosts = api.HostOptions(healthy=phantoms.healthy)
    made = api.synthesize(hosts, 1, model="plain", work=root, device="cpu")
    assert made.folder == str(root / "synthetic" / "plain_healthy")
    step = next(each for each in api.status(work=root) if each.name == "synthesize plain_healthy")
    assert (step.state, step.detail) == ("done", "1 pair")
    assert "--model plain" in step.command
    assert "--method" not in step.command
