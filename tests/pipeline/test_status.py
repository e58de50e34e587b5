"""The status of a workspace: what runs, what is outdated and why, what is next. No network is trained here."""

from __future__ import annotations

import json
import shutil

import pytest
from support.workspaces import plan_toy

from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.pipeline.status import next_step, next_training, workspace_status
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.synthesis.provenance import PAIR_FORMAT
from tumorgen_cli.system.files import hash_file
from tumorgen_cli.system.json_records import write_json
from tumorgen_cli.system.locks import locked
from tumorgen_cli.training.stage import StageRun


@pytest.fixture
def place(workspace, tmp_path):
    """A copy of the planned and preprocessed workspace."""
    found = Workspace(tmp_path / "work")
    shutil.copytree(workspace.root, found.root)
    return found


def states(place):
    return {step.name: step.state for step in workspace_status(place)}


def detail(place, name):
    return next(step.detail for step in workspace_status(place) if step.name == name)


def pretend_trained(place, stage, weights="first", iterations=None):
    """Write the record of a finished stage of tumorgen."""
    method = find_method("tumorgen")(place.plan(), place)
    planned = method.planned_iterations(stage)
    run = StageRun(
        stage=stage,
        inputs_hash=method.inputs_hash(stage),
        iterations=iterations or planned,
        planned_iterations=planned,
        seconds=75.0,
        device="cpu",
        processes=1,
        peak_memory_gib=1.0,
        weights_hash=f"{weights} {stage}",
        numbers={"psnr": 31.25},
    )
    write_json(method.folder(stage) / "run.json", run)


def pretend_all_trained(place, weights="first"):
    for stage in ("vae", "flow", "refiner"):
        pretend_trained(place, stage, weights)


def pretend_set(place, name, method_name="tumorgen", weights="first", scored=True):
    """Write the files of a finished set of two pairs, and of its evaluation."""
    method = find_method(method_name)(place.plan(), place)
    folder = place.synthetic(name)
    identity = {
        "format": PAIR_FORMAT,
        "command": "synthesize",
        "method": method_name,
        "plan": method.plan_hash,
        "weights": {stage: f"{weights} {stage}" for stage in method.stages},
        "learned_from": method.learned_from(),
    }
    write_json(folder / "set.json", identity)
    (folder / "provenance.jsonl").write_text("{}\n{}\n")
    write_json(folder / "dataset.json", {"numTraining": 2})
    if scored:
        write_json(place.evaluation(name) / "scores.json", {"set_hash": hash_file(folder / "provenance.jsonl")})


def test_a_finished_workspace(place):
    pretend_all_trained(place)
    pretend_set(place, "tumorgen_scans")
    assert set(states(place).values()) == {"done"}
    assert detail(place, "train vae") == "4 steps in 1:15; psnr 31.25"
    assert detail(place, "synthesize tumorgen_scans") == "2 pairs"
    assert next_step(workspace_status(place)) is None
    (place.synthetic("tumorgen_scans") / "given_up.jsonl").write_text("{}\n")
    assert detail(place, "synthesize tumorgen_scans") == "2 pairs, 1 given up"


def test_a_set_painted_by_replaced_weights_is_outdated_with_its_scores(place):
    pretend_all_trained(place)
    pretend_set(place, "old")
    for stage in ("vae", "flow", "refiner"):  # as after --restart of each
        pretend_trained(place, stage, "second")
    found = states(place)
    assert (found["synthesize old"], found["evaluate old"]) == ("outdated", "outdated")
    assert detail(place, "synthesize old") == "2 pairs; painted with weights that were replaced (vae, flow, refiner)"
    step = next_step(workspace_status(place))
    assert step.command == f"tumorgen synthesize --healthy DIR -n 20 --out {place.synthetic('old_2')} -w {place.root}"
    pretend_set(place, "old_2", weights="second")
    assert states(place)["synthesize old_2"] == "done"
    assert next_step(workspace_status(place)) is None  # the old set stays and asks for nothing


def test_a_set_is_outdated_by_the_plan_of_its_own_method_only(place, phantoms):
    pretend_all_trained(place)
    pretend_set(place, "copies", "copypaste")
    pretend_set(place, "drawn")
    pretend_set(place, "blends", "unconditional", scored=False)
    for settings, outdated in [
        (("methods.difftumor.sampling.steps=7",), set()),
        (("methods.tumorgen.sampling.steps=9",), {"drawn", "blends"}),
        (("paste.draws=4",), {"copies", "drawn", "blends"}),
    ]:
        plan_toy(place, str(phantoms.dataset), *settings)
        found = {s.name.split()[1]: s.detail for s in workspace_status(place) if s.name.startswith("synthesize")}
        assert {name for name, text in found.items() if "another plan" in text} == outdated, settings


def test_scores_of_a_set_that_has_grown_are_not_done(place):
    pretend_all_trained(place)
    pretend_set(place, "scans")
    with (place.synthetic("scans") / "provenance.jsonl").open("a") as log:
        log.write("{}\n")
    assert states(place)["evaluate scans"] == "partly"
    assert next_step(workspace_status(place)).command == f"tumorgen evaluate scans -w {place.root}"


def test_a_filtered_set_follows_its_source(place):
    pretend_all_trained(place)
    pretend_set(place, "scans")
    source = place.synthetic("scans")
    kept = {"command": "filter", "filtered_from": str(source), "provenance": hash_file(source / "provenance.jsonl")}
    kept |= {"keep": 0.35, "beside": None, "copies": []}
    write_json(place.synthetic("scans_kept") / "set.json", kept)
    write_json(place.synthetic("scans_kept") / "dataset.json", {"numTraining": 0})
    assert states(place)["synthesize scans_kept"] == "done"
    pretend_trained(place, "refiner", "second")
    assert states(place)["synthesize scans_kept"] == "outdated"
    step = next(s for s in workspace_status(place) if s.name == "synthesize scans_kept")
    options = f"--keep 0.35 --p-alone --no-copies --out {place.synthetic('scans_kept_2')}"
    assert step.command == f"tumorgen filter scans {options} -w {place.root}"
    (source / "provenance.jsonl").write_text("{}\n")
    assert "has changed" in detail(place, "synthesize scans_kept")
    shutil.rmtree(source)
    assert "is gone" in detail(place, "synthesize scans_kept")


def test_what_runs_is_running_with_its_progress(place):
    method = find_method("tumorgen")(place.plan(), place)
    progress = {"inputs_hash": method.inputs_hash("vae"), "step": 1, "iterations": 4, "seconds": 3.0}
    write_json(method.folder("vae") / "progress.json", progress)
    (method.folder("vae") / "last.pt").touch()
    assert states(place)["train vae"] == "partly"  # stopped
    with locked(place.root, "train vae"):
        assert states(place)["train vae"] == "running"
        assert detail(place, "train vae") == "1 of 4 steps (25%), about 9 s left"
        assert next_step(workspace_status(place)).state == "running"
    with locked(place.root, "preprocess"):
        assert states(place)["preprocess"] == "running"
    pretend_all_trained(place)
    pretend_set(place, "scans")
    with locked(place.synthetic("scans"), "synthesize", "1_of_2"):
        assert states(place)["synthesize scans"] == "running"
    with locked(place.evaluation("scans"), "evaluate"):
        assert states(place)["evaluate scans"] == "running"
    with locked(place.judge, "judge"):
        assert states(place)["train judge"] == "running"


def test_a_short_training_is_not_done(place):
    pretend_trained(place, "vae", iterations=1)
    assert states(place)["train vae"] == "partly"
    assert detail(place, "train vae") == "1 of 4 steps (25%): too short to paint well"
    pretend_trained(place, "vae", iterations=2)
    assert states(place)["train vae"] == "done"


def test_a_training_of_the_judge_that_was_stopped_is_next(place):
    pretend_all_trained(place)
    write_json(place.judge / "job.json", {"minutes": 2.5})
    step = next_step(workspace_status(place))
    assert (step.name, step.state, step.detail) == ("train judge", "partly", "stopped")
    assert step.command == f"tumorgen train judge --minutes 2.5 -w {place.root}"
    write_json(place.judge / "judge.json", {})
    step = next_step(workspace_status(place))
    assert step.detail == "stopped while it was trained again; the earlier judge is in use"
    assert step.command == f"tumorgen train judge --minutes 2.5 --restart -w {place.root}"


def test_a_longer_training_that_was_stopped_is_next_at_its_own_length(place):
    pretend_all_trained(place)
    method = find_method("tumorgen")(place.plan(), place)
    assert next_training(place, "tumorgen", place.root) is None
    progress = {"inputs_hash": method.inputs_hash("vae"), "step": 6, "iterations": 8, "seconds": 3.0}
    write_json(method.folder("vae") / "progress.json", progress)
    assert states(place)["train vae"] == "partly"
    assert detail(place, "train vae").endswith("then trained further or again: 6 of 8 steps (75%)")
    wanted = f"tumorgen train vae --iterations 8 -w {place.root}"
    assert next_step(workspace_status(place)).command == wanted
    assert next_training(place, "tumorgen", place.root) == wanted


def test_after_another_plan_the_steps_come_in_order(place, phantoms):
    pretend_all_trained(place)
    pretend_set(place, "scans")
    plan_toy(place, str(phantoms.dataset), "methods.tumorgen.vae.batch=2")
    step = next_step(workspace_status(place))
    assert (step.name, step.state) == ("train vae", "outdated")
    assert step.command == f"tumorgen train vae --restart -w {place.root}"
    plan_toy(place, str(phantoms.dataset), "window.spacing_mm=[5.0,5.0,5.0]")
    step = next_step(workspace_status(place))
    assert (step.name, step.state) == ("preprocess", "to do")


def test_a_stopped_training_of_another_plan_is_outdated(place):
    folder = place.run("tumorgen", "vae")
    progress = {"inputs_hash": "of another plan", "step": 2, "iterations": 4, "seconds": 1.0}
    write_json(folder / "progress.json", progress)
    (folder / "last.pt").touch()
    step = next(s for s in workspace_status(place) if s.name == "train vae")
    assert (step.state, step.command) == ("outdated", f"tumorgen train vae --restart -w {place.root}")


def test_nothing_is_written(place):
    pretend_all_trained(place)
    pretend_set(place, "scans")
    before = {path: path.stat().st_mtime_ns for path in place.root.rglob("*")}
    json.dumps([step.name for step in workspace_status(place)])
    assert {path: path.stat().st_mtime_ns for path in place.root.rglob("*")} == before
