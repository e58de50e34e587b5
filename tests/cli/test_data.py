"""plan, presets, preprocess and status: from a data set to a preprocessed workspace."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.command_line import call, told
from support.workspaces import TOY

from tumorgen_cli.cli import data
from tumorgen_cli.pipeline.status import Step
from tumorgen_cli.planning.presets import preset_names, preset_text
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system.errors import Fault, StateError
from tumorgen_cli.system.processes import Terminated

SETTINGS = [part for setting in TOY for part in ("--set", setting)]


def test_from_nothing_to_preprocessed(phantoms, tmp_path):
    work = tmp_path / "work"
    before = call("status", "-w", work, "--json")
    assert [(s["name"], s["state"]) for s in json.loads(before.stdout)] == [("plan", "to do")]
    assert "next: tumorgen plan DATASET" in told(before)
    assert not work.exists()  # looking writes nothing

    planned = call(
        "plan",
        phantoms.dataset,
        "-w",
        work,
        "--device",
        "cpu",
        "--memory",
        8,
        "--workers",
        0,
        "--seed",
        4,
        "--json",
        *SETTINGS,
    )
    plan = json.loads(planned.stdout)
    assert plan["seed"] == 4
    assert plan["window"]["shape"] == [32, 32, 32]
    assert plan == json.loads((work / "plan.json").read_text())
    assert f"next: tumorgen preprocess -w {work}" in told(planned)

    steps = {s["name"]: s for s in json.loads(call("status", "-w", work, "--json").stdout)}
    assert {name: s["state"] for name, s in steps.items()} == {
        "plan": "done",
        "preprocess": "to do",
        "train vae": "to do",
        "train flow": "to do",
        "train refiner": "to do",
        "synthesize": "to do",
    }

    done = call("preprocess", "-w", work, "--workers", 0)
    assert "6 cases written" in told(done)
    assert f"next: tumorgen train all -w {work}" in told(done)
    assert "0 cases written" in told(call("preprocess", "-w", work, "--workers", 0))
    after = call("status", "-w", work)
    assert "6 of 6 cases" in after.stdout
    assert "next: tumorgen train vae" in told(after)
    costs = [json.loads(line) for line in (work / "commands.jsonl").read_text().splitlines()]
    assert [c["command"] for c in costs] == ["plan", "preprocess", "preprocess"]
    assert all(c["seconds"] >= 0 and c["peak_memory_gib"] > 0 for c in costs)

    again = call(
        "plan", phantoms.dataset, "-w", work, "--device", "cpu", "--memory", 8, "--workers", 0, "--seed", 4, *SETTINGS
    )
    assert "window.shape" in again.stdout
    assert "window.alpha" in call("plan", "--show", "-w", work).stdout
    assert "--show" in told(call("plan", "-w", work, code=2))
    assert "its fingerprint is kept" in told(again)
    assert (
        json.loads(call("status", "-w", work, "--json").stdout)[1]["state"] == "done"
    )  # the same plan: nothing is stale


class Looks:
    """Takes the place of `api.status`: one look after the other, then Ctrl-C; an exception is raised."""

    def __init__(self, monkeypatch, *looks, stop=KeyboardInterrupt):
        self.looks, self.stop = [*looks], stop
        monkeypatch.setattr("tumorgen_cli.api.status", self)
        monkeypatch.setattr(data, "time", SimpleNamespace(sleep=lambda _: None, monotonic=lambda: 0.0))

    def __call__(self, work):
        if not self.looks:
            raise self.stop
        look = self.looks.pop(0)
        if isinstance(look, Exception):
            raise look
        return [Step("train vae", "running", look, "tumorgen train vae")]


def test_a_watched_status_prints_what_has_changed_until_ctrl_c(monkeypatch):
    damaged = StateError("gone", [Fault("progress.json", "missing", "a file", "look again")])
    Looks(monkeypatch, "1 of 4", "1 of 4", damaged, "2 of 4", FileNotFoundError("x"), "3 of 4")
    result = call("status", "--watch", "-w", "work")
    assert "\x1b" not in result.output
    assert [result.stdout.count(f"{step} of 4") for step in (1, 2, 3)] == [1, 1, 1]
    assert result.stdout.count("Workspace work") == 3
    assert told(result) == "next: when `train vae` has finished: tumorgen status -w work"


def test_a_watched_status_tells_an_error_that_stays(monkeypatch):
    damaged = StateError("gone", [Fault("plan.json", "missing", "a file", "look again")])
    Looks(monkeypatch, "1 of 4", damaged, damaged, "2 of 4")
    assert "plan.json found: missing" in told(call("status", "--watch", code=1))


def test_a_watched_status_is_ended_by_sigterm_as_other_commands(monkeypatch):
    Looks(monkeypatch, "1 of 4", stop=Terminated)
    call("status", "--watch", code=143)


def test_a_watched_status_is_no_json():
    said = told(call("status", "--watch", "--json", code=1))
    assert "--watch and --json found: both given expected: one of them remedy: leave one out" in said


def test_a_large_workspace_is_looked_at_less_often(monkeypatch):
    waited, clock = [], iter([0.0, 0.1, 10.0, 15.0, 20.0])
    Looks(monkeypatch, "1 of 4", "2 of 4")
    monkeypatch.setattr(data, "time", SimpleNamespace(sleep=waited.append, monotonic=lambda: next(clock)))
    data._watch(Path("work"))
    assert waited == pytest.approx([2.0, 50.0])


def test_status_of_a_trained_workspace(trained):
    steps = json.loads(call("status", "-w", trained.root, "--json").stdout)
    states = {s["name"]: s["state"] for s in steps if s["name"].startswith("train")}
    assert {f"train {stage}" for stage in ("vae", "flow", "refiner")} <= set(states)
    assert set(states.values()) == {"done"}
    assert "4 steps" in next(s["detail"] for s in steps if s["name"] == "train vae")
    assert steps[-1]["name"] == "synthesize"


def test_another_data_sets_workspace(phantoms, workspace, tmp_path):
    copy = tmp_path / "work"
    copy.mkdir()
    (copy / "fingerprint.json").write_text(
        json.dumps(
            {**json.loads(workspace.fingerprint_file.read_text()), "path": "/elsewhere", "content_hash": "another"}
        )
    )
    assert "one workspace, one data set" in told(call("plan", phantoms.dataset, "-w", copy, "--workers", 0, code=1))


def test_presets_are_listed_shown_and_copied(tmp_path):
    assert set(json.loads(call("presets", "--json").stdout)) == set(preset_names())
    assert "demo-quick" in call("presets").stdout
    shown = call("presets", "demo-quick")
    assert shown.stdout.strip() == preset_text("demo-quick").strip()
    assert "tumorgen plan DATASET --preset demo-quick" in told(shown)
    call("presets", "demo-quick", "--copy", tmp_path / "mine.yaml")
    assert (tmp_path / "mine.yaml").read_text() == preset_text("demo-quick")
    (tmp_path / "mine.yaml").write_text("mine")
    assert "nothing was written" in told(call("presets", "demo-quick", "--copy", tmp_path / "mine.yaml", code=1))
    assert (tmp_path / "mine.yaml").read_text() == "mine"
    assert "did you mean demo-quick?" in told(call("presets", "demo-quik", code=1))


def test_the_workspace_option_may_be_relative(trained, monkeypatch):
    monkeypatch.chdir(trained.root.parent)
    assert json.loads(call("status", "-w", trained.root.name, "--json").stdout)[0]["state"] == "done"
    assert Workspace(trained.root).plan()


def test_run_says_what_it_would_do(phantoms, tmp_path):
    arguments = ("run", phantoms.dataset, "--healthy", phantoms.healthy, "-n", 3, "--device", "cpu", "--memory", 8)
    said = call(*arguments, *SETTINGS, "-w", tmp_path / "work", "--dry-run")
    assert [line.split("│")[1].strip() for line in said.stdout.splitlines() if line.startswith("│")] == [
        "plan",
        "preprocess",
        "train",
        "synthesize",
        "evaluate",
    ]
    assert "next: the same command without --dry-run" in told(said)
    assert list(tmp_path.iterdir()) == []
