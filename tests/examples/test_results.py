"""The results page: its tables, and where its figures come from."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import typer

from tumorgen_cli.cli import main


def test_markdown_has_four_digits_and_empty_cells(example):
    table = pd.DataFrame({"what": ["a|b", None], "DSC": [0.123456, float("nan")], "n": [12345, 2]})
    assert example("results").markdown(table).splitlines() == [
        "| what | DSC | n |",
        "| --- | --- | --- |",
        "| a\\|b | 0.1235 | 12345 |",
        "|  |  | 2 |",
    ]


def test_origin_names_date_commit_and_machine(example):
    text = example("origin").origin()
    commit = r"(commit [0-9a-f]{7,}(, with uncommitted changes)?|unknown commit)"
    machine = r"\d+ cores of .+, .+; Python 3\.\d+\.\d+\S*, torch \d+\.\d+\S*\."
    assert re.fullmatch(rf"\d\d [A-Z][a-z]+ 20\d\d, {commit}\. {machine}", text)


def test_origin_without_a_checkout_says_so(example, monkeypatch):
    def fail(*arguments, **options):
        raise subprocess.CalledProcessError(128, "git")

    monkeypatch.setattr(subprocess, "run", fail)
    assert ", unknown commit. " in example("origin").origin()


def test_origin_is_written_beside_the_figures(example, monkeypatch, tmp_path):
    origin = example("origin")
    monkeypatch.setattr(sys, "argv", [str(Path(origin.__file__).with_name("scale.py")), "a set", "--scans", "3"])
    origin.write_origin(tmp_path)
    sentence, command = (tmp_path / "origin.txt").read_text().splitlines()
    assert sentence == origin.origin()
    assert command == "$ python examples/scale.py 'a set' --scans 3"


def test_page_names_the_commands(example):
    page = example("results").page("Title", ["$ tumorgen plan X -w w"], ["## Quality\n"])
    assert page.startswith(f"# Title\n\n{example('origin').origin()} Written by `python ")
    assert "```console\n$ tumorgen plan X -w w\n```\n\n## Quality" in page


def parse(arguments):
    """Raise if the command line does not know a command or its options; do not run it."""
    name, *others = arguments
    typer.main.get_command(main.app).commands[name].make_context(name, others)


@pytest.mark.parametrize("part", ["quality", "rivals", "downstream"])
def test_command_line_knows_what_each_part_runs(example, part, tmp_path):
    (tmp_path / "table.csv").write_text("hosts,method,dice\ntest,tumorgen,0.5\n")
    answer = {"folder": "work/synthetic/a", "table": str(tmp_path / "table.csv")}

    def read(*arguments):
        parse([*arguments, "-w", str(tmp_path), "--json"])
        return [{"name": "a", "rows": [["DSC", "0.5"]]}] if arguments[0] == "evaluate" else answer

    rivals = example("results").Rivals("tumorgen,copypaste", 7.5)
    table = example("results").measure(part, SimpleNamespace(read=read, work=tmp_path), tmp_path, 2, 1.0, rivals)
    assert len(table) == 1


def test_comparison_on_a_page_has_each_interval_in_its_cell(example):
    table = pd.DataFrame(
        {
            "hosts": ["test", "test"],
            "method": ["real", "tumorgen"],
            "dice": [0.82014, 0.5],
            "dice_low": [0.79, float("nan")],
            "dice_high": [0.8475, float("nan")],
            "training_minutes": [float("nan"), 12.5],
            "best": ["", "dice"],
        }
    )
    assert example("results").markdown(example("results").narrow(table)).splitlines()[2:] == [
        "| test | real | 0.82 [0.79, 0.848] |  |",
        "| test | tumorgen | 0.5 | 12.5 |",
    ]


@pytest.mark.parametrize(("train", "ran"), [(True, ["plan", "preprocess", "train"]), (False, ["plan", "preprocess"])])
def test_command_line_knows_what_prepares_a_workspace(example, tmp_path, train, ran):
    called = []

    def run(*arguments):
        parse([*arguments, "-w", str(tmp_path)])
        called.append(arguments[0])

    example("results").prepare(SimpleNamespace(run=run, work=tmp_path), "Dataset001_Toy", train)
    assert called == ran


def test_costs_come_from_commands_and_runs(example, tmp_path):
    cost = {"seconds": 1.234, "peak_memory_gib": 0.5}
    (tmp_path / "commands.jsonl").write_text(json.dumps({"command": "train", "stage": "all", **cost}) + "\n")
    run = tmp_path / "runs" / "tumorgen" / "vae" / "run.json"
    run.parent.mkdir(parents=True)
    run.write_text(json.dumps({"iterations": 4, **cost}))
    table = example("results").costs(tmp_path)
    assert list(table["what"]) == ["train all", "tumorgen vae, 4 steps"]
    assert list(table["seconds"]) == [1.2, 1.2]
