"""The stage `train`: restarts, damaged files and their remedies, weights that are too weak."""

import html
import json
import re
import shlex
import shutil
from types import SimpleNamespace

import nibabel
import pytest
from support.command_line import call, told
from support.spoil import cut, flip

from tumorgen_cli import api
from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.methods.shortfalls import find_shortfalls
from tumorgen_cli.pipeline import train as stages
from tumorgen_cli.pipeline import training_forecast
from tumorgen_cli.pipeline.synthesize import synthesize_pairs
from tumorgen_cli.pipeline.training_forecast import StageMeasure
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.synthesis.options import HostOptions, SetOptions
from tumorgen_cli.synthesis.set_files import read_shortfalls
from tumorgen_cli.system.errors import StateError
from tumorgen_cli.system.json_records import read_plain, write_json
from tumorgen_cli.training import loggers, loop
from tumorgen_cli.training.checkpoints import read_run, restart_folder


@pytest.fixture(scope="module")
def made(workspace, tmp_path_factory):
    """The phantoms with every stage of tumorgen trained for a few steps."""
    found = Workspace(tmp_path_factory.mktemp("made") / "work")
    shutil.copytree(workspace.root, found.root)
    stages.train_stages(found, "tumorgen", "all", device="cpu")
    return found


@pytest.fixture
def own(made, tmp_path):
    """A copy of the trained workspace."""
    shutil.copytree(made.root, tmp_path / "work")
    return Workspace(tmp_path / "work")


def method_of(workspace):
    return find_method("tumorgen")(workspace.plan(), workspace)


def train_vae(workspace, **options):
    return stages.train_stages(workspace, "tumorgen", "vae", device="cpu", **options)


@pytest.fixture
def stopped_at_2(monkeypatch):
    """The next training is killed at its third step, after a checkpoint of the second."""
    real = loop.train

    def train(stage, *rest, **options):
        from dataclasses import replace

        def item(number):
            if number == 2 * stage.batch:
                raise KeyboardInterrupt
            return stage.item(number)

        monkeypatch.setattr(stages, "train", real)
        monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
        return real(replace(stage, item=item), *rest, **options)

    monkeypatch.setattr(stages, "train", train)


def verdict(folder):
    return re.search(r"id=verdict><b>(.*?)</b> (.*?)</p>", (folder / "training.html").read_text()).groups()


def test_a_training_leaves_a_page_that_says_whether_it_is_finished(own, stopped_at_2, capsys):
    folder = own.run("tumorgen", "vae")
    assert verdict(folder)[0] == "The training is finished."
    assert verdict(folder)[1].startswith("4 of 4 steps in ")
    with pytest.raises(KeyboardInterrupt):
        train_vae(own, restart=True)
    fresh = restart_folder(folder)
    assert f"previewscometo{fresh / 'training.html'}" in "".join(capsys.readouterr().err.split())
    again = f"tumorgen train vae --device cpu -w {own.root} goes on from there."
    assert verdict(fresh) == ("The training has stopped after 2 of 4 steps.", again)
    assert verdict(folder)[0] == "The training is finished.", "the page of the old run stays"
    train_vae(own, restart=True)
    assert verdict(folder)[0] == "The training is finished."
    text = (folder / "training.html").read_text()
    assert own.plan().dataset in text
    assert find_method("tumorgen")(own.plan(), own).plan_hash in text
    assert "data:image/png" in text


def test_the_command_of_the_page_continues_to_the_same_length(own, stopped_at_2, monkeypatch):
    class Run:
        key = "k"
        log = close = lambda *_: None

    monkeypatch.setitem(loggers._RUNS, "tensorboard", lambda *_: Run())
    monkeypatch.setattr(loggers, "find_spec", lambda name: SimpleNamespace(origin=name))
    folder = own.run("tumorgen", "vae")
    initial = own.root.parent / "first weights" / "weights.safetensors"
    initial.parent.mkdir()
    shutil.copyfile(folder / "weights.safetensors", initial)
    given = stages.StageOptions({"vae": initial}, "tensorboard")
    with pytest.raises(KeyboardInterrupt):
        train_vae(own, iterations=6, restart=True, options=given)
    fresh = restart_folder(folder)
    state, said = verdict(fresh)
    assert state == "The training has stopped after 2 of 6 steps."
    command = html.unescape(said).removesuffix(" goes on from there.")
    words = ["--iterations", "6", "--init", str(initial), "--log", "tensorboard", "--device", "cpu"]
    assert shlex.split(command) == ["tumorgen", "train", "vae", *words, "-w", str(own.root)]
    call(*shlex.split(command)[1:])
    assert read_run(folder).iterations == 6
    assert read_plain(folder / "initial.json", "")["file"] == str(initial)
    assert read_plain(folder / loggers.RECORD, "")["logger"] == "tensorboard"


def test_a_logger_gets_the_numbers_of_every_stage(own, monkeypatch):
    opened, rows = [], []

    class Run:
        def __init__(self, folder, key, title, facts):
            opened.append((folder, key, title, facts))
            self.key = "k"

        def log(self, step, numbers):
            rows.append((step, {*numbers}))

        def close(self):
            rows.append("closed")

    monkeypatch.setitem(loggers._RUNS, "wandb", Run)
    monkeypatch.setattr(loggers, "find_spec", lambda name: SimpleNamespace(origin=name))
    stages.train_stages(own, "tumorgen", "flow", None, "cpu", True, stages.StageOptions(log="wandb"))
    ((folder, key, title, facts),) = opened
    assert (folder, key) == (restart_folder(own.run("tumorgen", "flow")), "")
    assert title == f"{own.plan().dataset} tumorgen flow"
    assert (facts["stage"], facts["iterations"], facts["data set"]) == ("flow", 3, own.plan().dataset)
    assert rows[0][0] == 3
    assert "flow" in rows[0][1]
    assert rows[1:] == ["closed"]
    assert read_plain(own.run("tumorgen", "flow") / loggers.RECORD, "")["step"] == 3


def test_a_restart_leaves_the_old_weights_until_it_is_finished(own, stopped_at_2, capsys):
    folder = own.run("tumorgen", "vae")
    before, old = read_run(folder), (folder / "weights.safetensors").stat().st_ino
    with pytest.raises(KeyboardInterrupt):
        train_vae(own, restart=True)
    assert method_of(own).trained("flow"), "what was made from the old weights is still up to date"
    method_of(own).load()
    assert read_run(folder) == before
    assert method_of(own).training_folder("vae") == restart_folder(folder)
    assert read_plain(restart_folder(folder) / "progress.json", "")["step"] in (1, 2)  # not written at every step
    (run,) = train_vae(own)
    assert "to keep the old weights, delete" in " ".join(capsys.readouterr().err.split())
    assert read_run(folder) == run
    assert (folder / "weights.safetensors").stat().st_ino != old, "the file of the new training"
    assert run.weights_hash == before.weights_hash, "the same seed"
    assert method_of(own).training_folder("vae") == folder
    assert not restart_folder(folder).exists()


def test_a_restart_that_is_begun_goes_on_by_the_same_command(own, stopped_at_2, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        train_vae(own, restart=True)
    seen = []
    real = loop.train
    monkeypatch.setattr(
        stages,
        "train",
        lambda stage, folder, *rest: (seen.append((folder / "last.pt").exists()), real(stage, folder, *rest))[1],
    )
    train_vae(own, restart=True)
    train_vae(own, restart=True)
    assert seen == [True, False]


def test_first_weights_of_a_restart_are_noted_when_it_is_finished(own):
    initial = own.root.parent / "first" / "weights.safetensors"
    initial.parent.mkdir()
    shutil.copyfile(own.run("tumorgen", "vae") / "weights.safetensors", initial)
    train_vae(own, restart=True, options=stages.StageOptions({"vae": initial}))
    assert read_plain(own.run("tumorgen", "vae") / "initial.json", "")["file"] == str(initial)


def test_a_training_without_its_checkpoint_is_kept_until_a_longer_one_is_finished(own, stopped_at_2):
    folder = own.run("tumorgen", "vae")
    (folder / "last.pt").unlink()
    with pytest.raises(KeyboardInterrupt):
        train_vae(own, iterations=6)
    method_of(own).load()
    train_vae(own, iterations=6)
    assert read_run(folder).iterations == 6


@pytest.mark.parametrize(("name", "damage"), [("weights.safetensors", flip), ("run.json", cut)])
def test_the_remedy_for_damaged_files_works(own, tmp_path, name, damage):
    """As a user follows it: `synthesize` says what to run, it runs, and nothing else has to be made again."""
    before = read_run(own.run("tumorgen", "vae"))
    damage(own.run("tumorgen", "vae") / name)
    with pytest.raises(StateError) as caught:
        method_of(own).load()
    (fault,) = caught.value.faults
    assert fault.remedy == "run `tumorgen train vae`"
    said = told(call("train", "vae", "-w", own.root, "--device", "cpu"))
    assert "vae is trained from its last checkpoint on" in said
    assert read_run(own.run("tumorgen", "vae")).weights_hash == before.weights_hash
    assert "already trained" in told(call("train", "all", "-w", own.root, "--device", "cpu"))
    method_of(own).load()


def test_the_remedy_for_a_damaged_checkpoint_works(own):
    flip(own.run("tumorgen", "vae") / "last.pt")
    arguments = ("train", "vae", "-w", own.root, "--device", "cpu", "--iterations", "6")
    assert "`tumorgen train vae --restart -w" in told(call(*arguments, code=1))
    method_of(own).load()
    call(*arguments, "--restart")
    assert read_run(own.run("tumorgen", "vae")).iterations == 6


def test_short_trainings_and_blurred_pictures_are_told(own, capsys):
    folder = own.run("tumorgen", "vae")
    run = {**json.loads((folder / "run.json").read_text()), "numbers": {}}
    write_json(folder / "run.json", run)
    assert find_shortfalls(method_of(own)) == ()
    write_json(folder / "run.json", {**run, "iterations": 1})
    (short,) = find_shortfalls(method_of(own))
    assert short.startswith("vae was trained for 1 of 4 planned steps (25%): its tumors say nothing yet")
    write_json(folder / "run.json", {**run, "iterations": 2})
    assert find_shortfalls(method_of(own)) == (), "half of the planned steps"
    write_json(folder / "run.json", {**run, "numbers": {"psnr": 18.256, "cases": 2.0, "tumor_shift": -0.05}})
    plan = read_plain(own.plan_file, "")
    plan["methods"]["tumorgen"]["vae"]["least_psnr"] = 30.0
    write_json(own.plan_file, plan)
    blurred, shifted = find_shortfalls(method_of(own))
    assert blurred.startswith("vae has PSNR 18.26 dB on 2 held-out cases, below 30 dB: tumors look blurred")
    assert shifted.startswith("vae shifts tumors by -5.0% of the clip window on 2 held-out cases, beyond 2%")
    stages.train_stages(own, "tumorgen", "flow", device="cpu")
    assert "warning: vae has PSNR 18.26 dB" in " ".join(capsys.readouterr().err.split())


def test_pairs_of_weak_weights_are_remarked(own, phantoms, capsys):
    """In the set, for its page; on stderr; and as a Python warning for one image."""
    path = own.run("tumorgen", "vae") / "run.json"
    write_json(path, {**read_plain(path, ""), "iterations": 1, "numbers": {}})
    hosts, options = HostOptions(phantoms.healthy), SetOptions(1, own.root / "set")
    synthesize_pairs(own, "tumorgen", options, hosts, device="cpu")
    (short,) = read_shortfalls(own.root / "set")
    assert short.startswith("vae was trained for 1 of 4 planned steps")
    assert "warning: vae was trained for 1 of 4 planned steps" in " ".join(capsys.readouterr().err.split())
    host = nibabel.load(min(phantoms.healthy.iterdir()))
    with pytest.warns(UserWarning, match="vae was trained for 1 of 4 planned steps"):
        api.paint(host, work=own.root, device="cpu")


def test_train_warns_of_a_short_training(own, capsys):
    stages.train_stages(own, "tumorgen", "vae", 1, "cpu", restart=True)
    assert "vae was trained for 1 of 4 planned steps" in " ".join(capsys.readouterr().err.split())


def test_what_will_be_outdated_is_told_before_training(own, monkeypatch, capsys):
    write_json(own.run("unconditional", "unconditional") / "run.json", {})  # a damaged record of another method

    def train(*_):
        said.append(" ".join(capsys.readouterr().err.split()))
        raise KeyboardInterrupt

    said = []
    monkeypatch.setattr(stages, "train", train)
    for stage, options in (("vae", {"iterations": 8}), ("flow", {"restart": True}), ("refiner", {"restart": True})):
        with pytest.raises(KeyboardInterrupt):
            stages.train_stages(own, "tumorgen", stage, device="cpu", **options)
    rest = "trained from the present ones, and sets painted with them will then be outdated"
    assert f"warning: vae gets new weights: flow and refiner, {rest}" in said[0]
    assert f"warning: flow gets new weights: refiner, {rest}" in said[1]
    assert "new weights" not in said[2]


def test_a_forecast_knows_what_is_trained_again(own, monkeypatch):
    """After a vae of one step, `all` goes on with it, and trains the stages that were made from it again."""
    monkeypatch.setattr(
        training_forecast, "measure_stages", lambda _, wanted: dict.fromkeys(wanted, StageMeasure(1.0, 0))
    )
    forecast = training_forecast.forecast_training
    assert [each.steps for each in forecast(own, "tumorgen", "all", device="cpu").stages] == [0, 0, 0]
    path = own.run("tumorgen", "vae") / "run.json"
    write_json(path, {**read_plain(path, ""), "iterations": 1})
    assert [each.steps for each in forecast(own, "tumorgen", "all", device="cpu").stages] == [4, 3, 2]
    assert [each.steps for each in forecast(own, "tumorgen", "flow", device="cpu").stages] == [0]


@pytest.mark.slow
def test_a_short_training_is_gone_on_with_as_told(workspace, tmp_path):
    """After a short training of all stages, the next command trains all of them as planned, then pairs are painted."""
    shutil.copytree(workspace.root, tmp_path / "work")
    place = ("--device", "cpu", "-w", tmp_path / "work")
    short = call("train", "all", "--iterations", 1, *place)
    assert short.stderr.splitlines()[-1] == f"next: tumorgen train all -w {tmp_path / 'work'}"
    done = call("train", "all", *place)
    assert "flow: trained again from the beginning, from the new weights" in told(done)
    assert "next: tumorgen synthesize" in done.stderr.splitlines()[-1]
    method = method_of(Workspace(tmp_path / "work"))
    assert [method.trained(stage, method.planned_iterations(stage)) for stage in method.stages] == [True] * 3
    longer = call("train", "vae", "--iterations", 5, *place)
    assert longer.stderr.splitlines()[-1] == f"next: tumorgen train flow --restart -w {tmp_path / 'work'}"
    following = call("train", "flow", "--restart", *place)
    assert following.stderr.splitlines()[-1] == f"next: tumorgen train refiner --restart -w {tmp_path / 'work'}"
    assert "next: tumorgen synthesize" in told(call("train", "refiner", "--restart", *place))


def test_a_method_without_stages_has_nothing_to_train(workspace):
    assert stages.train_stages(workspace, "copypaste", "all", device="cpu") == []
