"""The command line: results on stdout, faults told without a traceback, exit codes, and the next command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.command_line import call, told
from support.workspaces import TOY
from typer.testing import CliRunner

from tumorgen_cli import __version__
from tumorgen_cli.cli import main
from tumorgen_cli.pipeline import status
from tumorgen_cli.planning.presets import preset_names, preset_text
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system.errors import TumorgenError
from tumorgen_cli.system.locks import locked


@pytest.fixture(autouse=True)
def quiet_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a default workspace would land here
    monkeypatch.delenv("nnUNet_raw", raising=False)


SETTINGS = [part for setting in TOY for part in ("--set", setting)]


def test_from_nothing_to_preprocessed(phantoms, tmp_path):
    work = tmp_path / "work"
    before = call("status", "-w", work, "--json")
    assert [(s["name"], s["state"]) for s in json.loads(before.stdout)] == [("plan", "missing")]
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
        "preprocess": "missing",
        "train vae": "missing",
        "train flow": "missing",
        "train refiner": "missing",
        "synthesize": "missing",
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
    assert "window.alpha" in again.stdout
    assert "its fingerprint is kept" in told(again)
    assert (
        json.loads(call("status", "-w", work, "--json").stdout)[1]["state"] == "done"
    )  # the same plan: nothing is stale


def test_status_of_a_trained_workspace(trained):
    steps = json.loads(call("status", "-w", trained.root, "--json").stdout)
    states = {s["name"]: s["state"] for s in steps if s["name"].startswith("train")}
    assert {f"train {stage}" for stage in ("vae", "flow", "refiner")} <= set(states)
    assert set(states.values()) == {"done"}
    assert "4 iterations" in next(s["detail"] for s in steps if s["name"] == "train vae")
    assert steps[-1]["name"] == "synthesize"


def test_a_stage_that_is_done_is_said_to_be(trained):
    result = call("train", "all", "-w", trained.root, "--device", "cpu", "--json")
    assert json.loads(result.stdout) == []
    assert told(result).count("already trained") == 3


def test_painting(workspace, phantoms, tmp_path):
    out = tmp_path / "out"
    arguments = (
        "synthesize",
        "-w",
        workspace.root,
        "--healthy",
        phantoms.healthy,
        "-n",
        1,
        "--method",
        "syntumor",
        "--out",
        out,
        "--device",
        "cpu",
    )
    report = json.loads(call(*arguments, "--box", "10,10,10,24,24,22", "--json").stdout)
    assert report["folder"] == str(out)
    assert report["tally"]["pairs"] == 1
    record = json.loads((out / "provenance.jsonl").read_text())
    assert record["box"] == {"start": [10, 10, 10], "stop": [24, 24, 22]}
    other = call(*arguments, "--box", "10,10,10,24,24,20", code=1)
    assert "another set" in told(other)
    assert "other box" in told(other)
    wrong = (*arguments[:-4], "--out", tmp_path / "wrong", "--device", "cpu")
    assert "outside the scan" in told(call(*wrong, "--box", "900,900,900,910,910,910", code=1))
    call(*wrong, "--box", "10,10,10,24,24,22")  # a command that made nothing leaves nothing in the way
    assert "no volume" in told(call(*wrong, "--box", "20,20,20,10,30,30", code=1))


def test_from_pairs_to_scores(workspace, phantoms, tmp_path):
    """Filter, evaluate and reader study with nothing given: the bundled judge, the default features."""
    work, pairs, kept = ("-w", workspace.root), tmp_path / "pairs", tmp_path / "kept"
    call(
        "synthesize",
        *work,
        "--healthy",
        phantoms.healthy,
        "-n",
        3,
        "--method",
        "copypaste",
        "--out",
        pairs,
        "--device",
        "cpu",
    )

    report = json.loads(call("filter", pairs, *work, "--keep", 0, "--out", kept, "--device", "cpu", "--json").stdout)
    assert (report["kept"], report["rejected"]) == (3, 0)
    none = call("filter", pairs, *work, "--keep", 1, "--out", tmp_path / "none", "--device", "cpu")
    assert "next: tumorgen evaluate --synthetic" in told(none) or "next: tumorgen filter" in told(none)
    assert "other" in told(call("filter", pairs, *work, "--keep", 0.5, "--out", kept, "--device", "cpu", code=1))

    assert "No such set" in told(call("filter", "pears", *work, code=1))
    assert "results folder" in told(
        call("evaluate", *work, "--synthetic", pairs, "--judge", Path(__file__), "--device", "cpu", code=1)
    )
    result = call(
        "evaluate", *work, "--synthetic", pairs, "--synthetic", kept, "--judge", "bundled", "--device", "cpu", "--json"
    )
    assert "the bundled one" in told(result)
    first, second = json.loads(result.stdout)
    rows = dict(first["rows"])
    assert rows["agreement DSC [95 % interval]"] == dict(second["rows"])["agreement DSC [95 % interval]"]
    assert any(name.startswith("kernel distance (lite0)") for name in rows)
    assert "compare with kept" in Path(first["page"]).read_text()

    made = json.loads(
        call("reader-study", *work, "--synthetic", pairs, "-n", 2, "--out", tmp_path / "study", "--json").stdout
    )
    page, key = Path(made["page"]).read_text(), json.loads(Path(made["key"]).read_text())
    assert not any(case["case"] in page for case in key["cases"])
    (tmp_path / "answers.json").write_text("{}")
    assert "answers.json" in told(
        call("reader-study", "score", tmp_path / "answers.json", "--key", made["key"], code=1)
    )


def test_drawing_until_a_pair_passes(workspace, phantoms, tmp_path):
    arguments = (
        "synthesize",
        "-w",
        workspace.root,
        "--healthy",
        phantoms.healthy,
        "-n",
        2,
        "--method",
        "syntumor",
        "--device",
        "cpu",
        "--json",
    )
    tally = json.loads(call(*arguments, "--out", tmp_path / "all", "--until-pass", 2, "--keep", 0).stdout)["tally"]
    assert (tally["pairs"], tally["given_up"]) == (2, 0)
    record = json.loads((tmp_path / "all" / "provenance.jsonl").read_text().splitlines()[0])
    assert 0 <= record["drawn"]["proportion"] <= 1
    other = call(*arguments, "--out", tmp_path / "all", "--until-pass", 3, "--keep", 0, code=1)
    assert "other tries" in told(other)


def test_a_shard_by_option_and_by_environment(workspace, phantoms, tmp_path, monkeypatch):
    arguments = (
        "synthesize",
        "-w",
        workspace.root,
        "--healthy",
        phantoms.healthy,
        "-n",
        2,
        "--method",
        "syntumor",
        "--device",
        "cpu",
    )
    arguments = (*arguments, "--out", tmp_path / "out")
    first = call(*arguments, "--shard", "2/2")
    assert "left to other shards" in first.stdout
    assert "the same command for the other shards" in told(first)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    tally = json.loads(call(*arguments, "--json").stdout)["tally"]
    assert (tally["made"], tally["pairs"], tally["left"]) == (1, 2, 0)
    monkeypatch.delenv("RANK")
    assert "RANK and WORLD_SIZE ?/2" in told(call(*arguments, code=1))
    for wrong in ("0/2", "3/2", "1", "1/", "a/b", "-1/2", "1/2/3", ""):
        assert "1 <= i <= n" in told(call(*arguments, f"--shard={wrong}", code=1)), wrong


def test_a_shard_of_a_filter(workspace, phantoms, tmp_path, monkeypatch):
    pairs, kept = tmp_path / "pairs", tmp_path / "kept"
    call(
        "synthesize",
        "-w",
        workspace.root,
        "--healthy",
        phantoms.healthy,
        "-n",
        2,
        "--method",
        "copypaste",
        "--out",
        pairs,
        "--device",
        "cpu",
    )
    arguments = ("filter", pairs, "-w", workspace.root, "--keep", 0, "--out", kept, "--device", "cpu")
    with locked(kept, "filter", "2_of_2"):
        assert "filter 2_of_2" in told(call(*arguments, "--shard", "2/2", code=1))
    first = call(*arguments, "--shard", "2/2")
    assert "left to other shards" in first.stdout
    assert "the same command for the other shards" in told(first)
    assert "shards are under way" in told(call(*arguments, "--shard", "1/3", code=1))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = json.loads(call(*arguments, "--json").stdout)
    assert (found["kept"], found["judged"], found["left"]) == (2, 1, 0)


def test_the_job_array_of_the_examples(workspace, phantoms, tmp_path):
    """What the script passes on is what the command takes."""
    (tmp_path / "tumorgen").write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    (tmp_path / "tumorgen").chmod(0o755)
    script = Path(__file__).parents[2] / "examples" / "slurm_array.sh"
    common = ["-w", workspace.root, "--device", "cpu"]
    synthesize = [
        "synthesize",
        "--healthy",
        phantoms.healthy,
        "-n",
        2,
        "--out",
        tmp_path / "out",
        "--method",
        "syntumor",
        *common,
    ]
    filter_pairs = ["filter", tmp_path / "out", "--keep", 0, "--out", tmp_path / "kept", *common]
    for words in (synthesize, filter_pairs):
        for task, environment in (
            (1, {"SLURM_ARRAY_TASK_COUNT": "2"}),
            (2, {"SLURM_ARRAY_TASK_COUNT": "1", "SHARDS": "2"}),
        ):
            environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": str(task), **environment}
            run = subprocess.run(
                [str(part) for part in (script, *words)],
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            )
            found = json.loads(call(*run.stdout.splitlines(), "--json").stdout)
            left = found["tally"]["left"] if words is synthesize else found["left"]
            assert left == 2 - task


def test_from_pairs_to_a_merged_set(workspace, phantoms, tmp_path, monkeypatch):
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    pairs, out = tmp_path / "pairs", tmp_path / "raw" / "Dataset601_Merged"
    call(
        "synthesize",
        "-w",
        workspace.root,
        "--healthy",
        phantoms.healthy,
        "-n",
        2,
        "--method",
        "syntumor",
        "--out",
        pairs,
        "--device",
        "cpu",
    )
    result = call("merge", phantoms.dataset, pairs, "--out", out, "--oversample", 2)
    assert "nnUNetv2_plan_and_preprocess -d 601" in told(result)
    assert "copies the folds" in told(result)
    found = json.loads(call("merge", phantoms.dataset, pairs, "--out", out, "--oversample", 2, "--json").stdout)
    (fold,) = found["folds"]
    assert tuple(fold["validation"]) == workspace.splits().test
    assert tuple(fold["train"]) == workspace.splits().train
    assert (len(fold["pairs"]), fold["real_share"]) == (2, round(10 / 12, 4))
    (written,) = json.loads((out / "splits_final.json").read_text())
    assert len(written["train"]) == 12
    six = call("merge", phantoms.dataset, pairs, "--out", tmp_path / "Dataset602_Six", "--folds", 6)
    assert "no pair to learn from in fold" in told(six)
    assert "DatasetNNN_Name" in told(call("merge", phantoms.dataset, pairs, "--out", tmp_path / "merged", code=1))
    for name in ("nnUNet_raw", "nnUNet_results"):
        monkeypatch.delenv(name, raising=False)
    named = call("merge", phantoms.dataset, pairs, "--out", "Dataset603_Named", "-w", tmp_path / "work")
    assert (tmp_path / "work" / "nnunet" / "nnUNet_raw" / "Dataset603_Named" / "dataset.json").is_file()
    assert f"nnUNet_results={tmp_path / 'work' / 'nnunet' / 'nnUNet_results'}" in told(named).replace("\n", "")


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


def test_version():
    assert call("--version").stdout.strip() == f"tumorgen {__version__}"


@pytest.mark.parametrize("box", ["1,2,3", "1,2,3,4,5,x", "1.5,2,3,4,5,6", "", "1,2,3,4,5,6,7"])
def test_a_malformed_box(workspace, phantoms, box):
    result = call(
        "synthesize", "-w", workspace.root, "--healthy", phantoms.healthy, "--box", box, "--device", "cpu", code=1
    )
    assert "x0,y0,z0,x1,y1,z1" in told(result)


def test_errors_are_told_in_full(phantoms, workspace, tmp_path):
    work = tmp_path / "work"
    result = call(
        "plan", phantoms.dataset, "-w", work, "--workers", 0, "--set", "window.alhpa=1", "--set", "sede=1", code=1
    )
    for part in ("window.alhpa", "did you mean window.alpha?", "sede", "did you mean seed?", "expected:", "remedy:"):
        assert part in told(result)
    assert result.stdout == ""
    assert not (work / "plan.json").exists()
    for arguments, message in [
        (("plan", tmp_path / "nowhere", "-w", work), "nowhere"),
        (("preprocess", "-w", tmp_path / "none"), "tumorgen plan DATASET"),
        (("train", "vae", "-w", tmp_path / "none"), "tumorgen plan DATASET"),
        (("train", "vea", "-w", workspace.root, "--device", "cpu"), "did you mean vae?"),
        (("train", "all", "-w", workspace.root, "--method", "tumorgan", "--device", "cpu"), "did you mean tumorgen?"),
        (("train", "all", "-w", workspace.root, "--seed", "99", "--device", "cpu"), "seed"),
        (("synthesize", "-w", workspace.root, "--healthy", phantoms.healthy, "--device", "cpu"), "tumorgen train vae"),
        (("synthesize", "-w", workspace.root, "--device", "cpu"), "--healthy"),
        (("synthesize", "-w", workspace.root, "--healthy", phantoms.healthy, "--cases", "test"), "both given"),
        (
            (
                "synthesize",
                "-w",
                workspace.root,
                "--healthy",
                tmp_path / "none",
                "--device",
                "cpu",
                "--method",
                "syntumor",
            ),
            "none",
        ),
        (("evaluate", "-w", workspace.root, "--device", "cpu"), "tumorgen synthesize"),
        (
            ("evaluate", "-w", workspace.root, "--synthetic", tmp_path / "none", "--device", "cpu"),
            "tumorgen synthesize",
        ),
        (("train", "judge", "-w", workspace.root, "--iterations", 3), "--iterations"),
        (("train", "vae", "-w", workspace.root, "--minutes", 3), "--minutes"),
        (("synthesize", "-w", workspace.root, "--healthy", phantoms.healthy, "--judge", tmp_path), "--until-pass"),
        (("filter", tmp_path / "none", "-w", workspace.root, "--device", "cpu"), "tumorgen synthesize"),
        (("reader-study", "-w", workspace.root), "tumorgen synthesize"),
        (("reader-study", "score", tmp_path / "answers.json", "--key", tmp_path / "key.json"), "key.json"),
    ]:
        assert message in told(call(*arguments, code=1)), arguments


def test_another_data_sets_workspace(phantoms, workspace, tmp_path):
    copy = tmp_path / "work"
    copy.mkdir()
    (copy / "fingerprint.json").write_text(
        json.dumps({**json.loads(workspace.fingerprint_file.read_text()), "path": "/elsewhere"})
    )
    assert "one workspace, one data set" in told(call("plan", phantoms.dataset, "-w", copy, "--workers", 0, code=1))


@pytest.mark.parametrize(
    "arguments",
    [
        ("nothing",),
        ("plan",),
        ("synthesize", "-n", "0"),
        ("train", "vae", "--iterations", "many"),
        ("plan", "x", "--device", "tpu"),
        ("synthesize", "--cases", "val"),
        ("train", "vae", "--init", "/nowhere.pt"),
        ("plan", "x", "--memory", "0.1"),
        ("plan", "x", "--wrong"),
        ("merge", "x", "--out", "y"),
        ("merge", "x", "y"),
        ("merge", "x", "y", "--out", "z", "--folds", "0"),
        ("filter",),
        ("filter", "x", "--keep", "1.5"),
        ("evaluate", "--features", "fid"),
        ("reader-study", "score"),
    ],
    ids=" ".join,
)
def test_usage_errors_exit_2(arguments):
    call(*arguments, code=2)


def test_no_arguments_show_the_help():
    result = CliRunner().invoke(main.app, [])
    assert "synthesize" in result.output


def test_an_interrupt_is_130(monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(status, "status", stop)
    assert "goes on from there" in told(call("status", code=130))


def test_a_bug_keeps_its_traceback(monkeypatch):
    def bug(*_, **__):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(status, "status", bug)
    result = CliRunner().invoke(main.app, ["status"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_markup_in_names_is_not_eaten(monkeypatch):
    def refuse(*_, **__):
        raise TumorgenError("see [bold]/data/[1]/x[/bold]")

    monkeypatch.setattr(status, "status", refuse)
    assert "[bold]/data/[1]/x[/bold]" in told(call("status", code=1))


def test_as_a_process():
    """The real thing: exit code, streams, no traceback."""
    environment = {**os.environ, "PYTHONPATH": str(Path(main.__file__).parents[2])}
    command = [sys.executable, "-m", "tumorgen_cli.cli", "presets", "demo-quik"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "error:" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_workspace_option_may_be_relative(trained, monkeypatch):
    monkeypatch.chdir(trained.root.parent)
    assert json.loads(call("status", "-w", trained.root.name, "--json").stdout)[0]["state"] == "done"
    assert Workspace(trained.root).plan()
