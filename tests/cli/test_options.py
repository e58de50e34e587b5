"""What options accept, and what is said about others."""

from typing import get_args

import pytest
from support.command_line import call, told

from tumorgen_cli.cli import options
from tumorgen_cli.evaluation.options import FEATURES
from tumorgen_cli.methods.registry import METHODS, find_method
from tumorgen_cli.metrics.traits import KINDS
from tumorgen_cli.training.loggers import LoggerName


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
            ("evaluate", tmp_path / "none", "-w", workspace.root, "--device", "cpu"),
            "tumorgen synthesize",
        ),
        (("train", "judge", "-w", workspace.root, "--iterations", 3), "--iterations"),
        (("train", "vae", "-w", workspace.root, "--minutes", 3), "--minutes"),
        (("synthesize", "-w", workspace.root, "--cases", "test", "--judge", tmp_path), "--until-pass"),
        (("synthesize", "-w", workspace.root, "--cases", "test", "--anywhere"), "--anywhere"),
        (
            ("synthesize", "-w", workspace.root, "--healthy", tmp_path, "--box", "1,1,1,9,9,9", "--anywhere"),
            "--anywhere and --box found: both given",
        ),
        *(
            ((*command, "--cases", "train", option, "-w", workspace.root), f"{option} found: given with --cases alone")
            for command in (("nnunet-setup",), ("downstream",), ("compare", "--methods", "copypaste"))
            for option in ("--anywhere", "--trust-units")
        ),
        (("filter", tmp_path / "none", "-w", workspace.root, "--device", "cpu"), "tumorgen synthesize"),
        (("reader-study", "make", "-w", workspace.root), "tumorgen synthesize"),
        (("reader-study", "score", tmp_path / "answers.json", "--key", tmp_path / "key.json"), "key.json"),
    ]:
        assert message in told(call(*arguments, code=1)), arguments


@pytest.mark.parametrize(
    "arguments",
    [
        ("nothing",),
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
        ("reader-study", "-n", "2"),
        ("synthesize", "--kind", "round"),
        ("synthesize", "--solver", "rk4"),
        ("train", "all", "--method", "tumorgan"),
        ("preprocess", "--seed", "1"),
        ("filter", "x", "--seed", "1"),
        ("evaluate", "--synthetic", "x"),
    ],
    ids=" ".join,
)
def test_usage_errors_exit_2(arguments):
    call(*arguments, code=2)


def test_the_choices_are_those_of_the_code():
    assert get_args(options.Method) == METHODS
    assert get_args(options.Feature) == FEATURES
    assert get_args(options.Kind) == tuple(KINDS)
    assert get_args(options.Logger) == get_args(LoggerName)
    assert {*get_args(options.Solver)} == {solver for name in METHODS for solver in find_method(name).solvers}


def test_choices_are_shown(monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    shown = call("synthesize", "-h").stdout
    for choices in (options.Method, options.Kind, options.Solver):
        assert "|".join(get_args(choices)) in shown
    assert "|".join(FEATURES) in call("evaluate", "-h").stdout
