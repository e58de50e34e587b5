"""The weights that the quick demo's stages begin from: they fit its networks, and are what their card says."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tumorgen_cli.data.phantom import PhantomOptions
from tumorgen_cli.methods.base import INITIAL
from tumorgen_cli.methods.latent import autoencoder
from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.pipeline import demo
from tumorgen_cli.pipeline import train as stages
from tumorgen_cli.pipeline.plan import plan_dataset
from tumorgen_cli.planning.options import PlanOptions
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system.errors import PlanError, StateError
from tumorgen_cli.system.json_records import read_plain
from tumorgen_cli.training.checkpoints import load_initial_weights

REMEDY = "the networks of demo-quick have changed: run `python examples/demo_weights.py`"


@pytest.fixture(scope="module")
def planned(phantoms, tmp_path_factory):
    """Phantoms planned as the quick demo plans them."""
    found = Workspace(tmp_path_factory.mktemp("quick"))
    plan_dataset(found, str(phantoms.dataset), PlanOptions(preset=demo.QUICK), "cpu", workers=0)
    return found


@pytest.fixture
def method(planned):
    return find_method(demo.METHOD)(planned.plan(), planned)


@pytest.fixture(scope="module")
def card():
    return json.loads((demo.weights_folder() / "card.json").read_text(encoding="utf-8"))


def test_the_weights_fit_the_networks_of_the_quick_plan(method):
    networks = {"vae": {"vae.net": method.vae.net}, "flow": {"net": method.net}, "refiner": {"refiner": method.refiner}}
    assert {*networks} == {*demo.quick_weights()} == {*method.stages}
    for stage, path in demo.quick_weights().items():
        own = {f"{name}.{key}": t.shape for name, net in networks[stage].items() for key, t in net.state_dict().items()}
        shipped = {key: value.shape for key, value in load_file(path).items()}
        assert shipped == own, f"{stage}: {REMEDY}"


def test_the_weights_are_what_their_card_says(card):
    files = {path.name: path for path in demo.weights_folder().glob("*.safetensors")}
    assert {*card["files"]} == {*files}
    for name, path in files.items():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert card["files"][name] == {"sha256": digest, "bytes": path.stat().st_size}
    assert sum(path.stat().st_size for path in files.values()) < 6e6
    assert "no patient data" in card["data"]
    assert card["seed"] > 10**6, "no seed that a user is likely to give the demo"


def test_every_stage_begins_from_its_own_file(workspace, tmp_path, monkeypatch):
    own, begun = Workspace(tmp_path / "work"), {}
    shutil.copytree(workspace.root, own.root)
    method = find_method(demo.METHOD)(own.plan(), own)
    models = {"vae": {"vae": method.vae}, "flow": {"net": method.net}, "refiner": {"refiner": method.refiner}}
    files = {stage: tmp_path / f"{stage}.safetensors" for stage in models}
    for stage, parts in models.items():
        state = {f"{name}.{key}": t for name, network in parts.items() for key, t in network.state_dict().items()}
        save_file({key: torch.full_like(t, 0.5) for key, t in state.items()}, files[stage])
    real = stages.train

    def train(stage, *rest):
        first = next(iter(stage.models.values()))
        begun[stage.name] = {float(p.detach().mean()) for p in first.parameters()}
        return real(stage, *rest)

    monkeypatch.setattr(stages, "train", train)
    stages.train_stages(own, demo.METHOD, "all", 1, "cpu", options=stages.StageOptions(files))
    assert begun == {stage: {0.5} for stage in models}
    for stage, path in files.items():
        assert read_plain(method.folder(stage) / INITIAL, "")["file"] == str(path)


def test_weights_of_other_networks_are_refused(method, tmp_path):
    files = demo.quick_weights()
    autoencoder.load_initial(method.vae, files["vae"])
    load_initial_weights({"net": method.net}, files["flow"])
    with pytest.raises(StateError, match="the plan's refiner"):
        load_initial_weights({"refiner": method.refiner}, files["flow"])
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    with pytest.raises(StateError, match="cannot be read"):
        load_initial_weights({"net": method.net}, tmp_path / "bad.safetensors")


def test_a_stage_that_takes_no_first_weights_refuses_them(workspace):
    with pytest.raises(PlanError, match="vqgan always starts from random weights"):
        stages.train_stage(
            workspace,
            "difftumor",
            "vqgan",
            1,
            "cpu",
            options=stages.StageOptions({"vqgan": demo.quick_weights()["vae"]}),
        )


PET, CT = PhantomOptions("pet"), PhantomOptions("ct")


@pytest.fixture
def runs(monkeypatch):
    """What the demo would run."""
    found = []
    monkeypatch.setattr(demo, "run_all", lambda *arguments, **options: found.append((arguments, options)))
    return found


@pytest.fixture
def written(monkeypatch):
    """The phantoms that the demo would write: modality, cases, healthy, seed, crop."""
    found = []

    def write(root, cases, healthy, seed, ticker, modality, crop_mm):
        found.append((modality, cases, healthy, seed, crop_mm))

    monkeypatch.setattr(demo, "write_phantoms", write)
    return found


def test_the_demo_runs_on_the_phantoms_of_its_seed(tmp_path, runs, written):
    """Another seed or size replaces the phantoms; the first comes back when it is asked for again."""
    workspace = Workspace(tmp_path)
    for quick, seed in ((True, 0), (True, 0), (True, 1), (True, 0), (False, 0)):
        demo.run_demo(workspace, PET, quick, "cpu", seed)
    assert [seed for _, _, _, seed, _ in written] == [0, 1, 0, 0]
    (_, dataset, hosts, wanted, options), given = runs[0]
    assert (Path(dataset).parent, hosts.roi.name, wanted.pairs) == (tmp_path / "phantoms", "regions", 8)
    assert (options.preset, given["training"].initial) == ("demo-quick", demo.quick_weights())
    assert (runs[-1][0][4].preset, runs[-1][1]["training"].initial) == ("demo", {})


def test_the_demo_of_ct_has_a_preset_and_no_weights(tmp_path, runs, written):
    demo.run_demo(Workspace(tmp_path), CT, False, "cpu", 0)
    ((_, dataset, _, _, options), given) = runs[0]
    assert Path(dataset).name == "Dataset998_PhantomCT"
    assert (options.preset, given["training"].initial) == ("demo-ct", {})
    assert written == [("ct", 20, 4, 0, None)]


def test_numbers_and_size_of_the_phantoms_are_those_asked_for(tmp_path, written):
    """And each of them is written anew when it changes."""
    asked = [PhantomOptions("ct", 3, 0, 64.0), PhantomOptions("ct", 3, 0, 80.0), PhantomOptions("ct", 3, 1, 80.0)]
    for options in (*asked, asked[-1]):
        demo.write_demo_phantoms(Workspace(tmp_path), options, False, 5)
    assert written == [("ct", 3, 0, 5, 64.0), ("ct", 3, 0, 5, 80.0), ("ct", 3, 1, 5, 80.0)]


@pytest.mark.parametrize(
    ("options", "quick", "found"),
    [
        (PhantomOptions(cases=0), False, "--cases"),
        (PhantomOptions(healthy=-1), False, "--healthy"),
        (PhantomOptions(crop_mm=59), False, "--crop"),
        (PhantomOptions("ct", crop_mm=201), False, "--crop"),
        (CT, True, "--quick"),
    ],
)
def test_phantoms_that_cannot_be_drawn_are_refused(tmp_path, written, options, quick, found):
    with pytest.raises(PlanError) as error:
        demo.write_demo_phantoms(Workspace(tmp_path), options, quick, 0)
    assert [fault.where for fault in error.value.faults] == [found]
    assert not written
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("owner", ["phantoms", "workspace"])
def test_the_demo_writes_no_phantoms_among_other_files(tmp_path, monkeypatch, owner):
    """Neither into a folder of the user's, nor into the workspace of another data set."""
    monkeypatch.setattr(demo, "run_all", lambda *_, **__: pytest.fail("ran"))
    monkeypatch.setattr(demo, "write_phantoms", lambda *_, **__: pytest.fail("wrote"))
    own = tmp_path / ("phantoms/mine.nii.gz" if owner == "phantoms" else "fingerprint.json")
    own.parent.mkdir(exist_ok=True)
    own.write_text('{"path": "/data/Dataset501_Own"}')
    with pytest.raises(StateError, match="not empty" if owner == "phantoms" else "another data set"):
        demo.run_demo(Workspace(tmp_path), PET, True, "cpu", 0)
    assert own.read_text() == '{"path": "/data/Dataset501_Own"}'
