"""synthesize and filter, alone and in shards."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
from support.command_line import call, told

from tumorgen_cli.cli.pairs import _ask_less
from tumorgen_cli.evaluation.filter import Filtered
from tumorgen_cli.judge.verdict import BESIDE, NOT_FOUND
from tumorgen_cli.system.locks import locked


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
    rehearsed = call(*arguments, "--box", "10,10,10,24,24,22", "--dry-run")
    assert "pairs to paint" in rehearsed.stdout
    assert "without --dry-run" in told(rehearsed)
    assert not out.exists()
    report = json.loads(call(*arguments, "--box", "10,10,10,24,24,22", "--json").stdout)
    assert report["forecast"]["missing"] == 1
    assert report["folder"] == str(out)
    assert report["tally"]["pairs"] == 1
    record = json.loads((out / "provenance.jsonl").read_text())
    assert record["tumors"][0]["box"] == {"start": [10, 10, 10], "stop": [24, 24, 22]}
    other = call(*arguments, "--box", "10,10,10,24,24,20", code=1)
    assert "another set" in told(other)
    assert "other box" in told(other)
    wrong = (*arguments[:-4], "--out", tmp_path / "wrong", "--device", "cpu")
    assert "outside the scan" in told(call(*wrong, "--box", "900,900,900,910,910,910", code=1))
    call(*wrong, "--box", "10,10,10,24,24,22")  # a command that made nothing leaves nothing in the way
    assert "no volume" in told(call(*wrong, "--box", "20,20,20,10,30,30", code=1))


def test_painting_anywhere(workspace, phantoms, tmp_path):
    """The set has a name of its own beside the one whose places are chosen, and says how it was made."""
    work = shutil.copytree(workspace.root, tmp_path / "work")
    words = ("synthesize", "-w", work, "--healthy", phantoms.healthy, "--method", "copypaste", "-n", 1)
    chosen, anywhere = (
        Path(json.loads(call(*words, *options, "--json", "--device", "cpu").stdout)["folder"])
        for options in ((), ("--anywhere",))
    )
    assert (chosen.parent, anywhere.name) == (anywhere.parent, f"{chosen.name}_anywhere")
    made = [json.loads((folder / "set.json").read_text()).get("anywhere") for folder in (chosen, anywhere)]
    assert made == [None, True]
    other = told(call(*words, "--out", anywhere, "--device", "cpu", code=1))
    assert "another set" in other
    assert "anywhere" in other


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
    tally = json.loads(call(*arguments, "--out", tmp_path / "all", "--until-pass", 2, "--keep", 0, "--p-alone").stdout)[
        "tally"
    ]
    assert (tally["pairs"], tally["given_up"]) == (2, 0)
    record = json.loads((tmp_path / "all" / "provenance.jsonl").read_text().splitlines()[0])
    assert 0 <= record["tumors"][0]["drawn"]["proportion"] <= 1
    other = call(*arguments, "--out", tmp_path / "all", "--until-pass", 3, "--keep", 0, "--p-alone", code=1)
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


def test_a_filter_that_keeps_nothing_names_one_that_asks_less_and_is_as_strict_elsewhere(workspace, monkeypatch):
    asked = []

    def keep_nothing(*arguments, **options):
        asked.append(options["no_copies"])
        return Filtered("sets/s_kept", 0, 2, {"P below the threshold": 2}, 2, 0)

    monkeypatch.setattr("tumorgen_cli.api.filter_pairs", keep_nothing)
    said = told(call("filter", "s", "--no-copies", "--p-alone", "-w", workspace.root))
    again = f"tumorgen filter s --keep 0.35 --p-alone --no-copies --out sets/s_kept_2 -w {workspace.root}"
    assert again in " ".join(said.split())
    call(*shlex.split(again)[1:])
    assert asked == [True, True]


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
    assert "shards are unfinished" in told(call(*arguments, "--shard", "1/3", code=1))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = json.loads(call(*arguments, "--json").stdout)
    assert (found["kept"], found["judged"], found["left"]) == (2, 1, 0)


def test_a_region_of_the_same_name_is_another_set(workspace, phantoms, tmp_path):
    """A set in the workspace is named after the folder of its regions; the set of another folder is refused."""
    folders = [tmp_path / place / "liver" for place in ("a", "b")]
    for folder in folders:
        shutil.copytree(phantoms.regions, folder)
    arguments = ("synthesize", "-w", workspace.root, "--healthy", phantoms.healthy, "-n", 1, "--method", "syntumor")
    first = json.loads(call(*arguments, "--roi", folders[0], "--device", "cpu", "--json").stdout)
    assert Path(first["folder"]).name == "syntumor_healthy_roi-liver"
    refused = told(call(*arguments, "--roi", folders[1], "--device", "cpu", code=1))
    assert "made with other roi" in refused
    assert "choose another folder with --out" in refused
    shutil.rmtree(first["folder"])


@pytest.mark.parametrize(
    ("rejected", "options"),
    [
        ({NOT_FOUND: 3}, "--keep 0.35"),
        ({BESIDE: 3, "outside the body": 9}, "--p-alone"),  # a lower --keep would not help
        ({BESIDE: 1, NOT_FOUND: 3}, "--keep 0.35 --p-alone"),
        ({"outside the body": 9}, "a higher --until-pass"),
    ],
)
def test_when_no_pair_passes_the_options_that_would_help_are_named(rejected, options):
    assert _ask_less(rejected, 0.7) == f"the same command with {options}, and another --out"
