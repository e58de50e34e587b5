"""submit: its scripts hold commands that exist; what it prints is true."""

import json
import shlex

import pytest
import typer
from support.command_line import call, told

from tumorgen_cli.cli import main
from tumorgen_cli.pipeline.submit_records import DEFAULT_STAGES, STAGES, ChainOptions


@pytest.fixture
def work(workspace, tmp_path):
    """The planned workspace in a folder whose name has a space."""
    place = tmp_path / "my work"
    place.mkdir()
    for name in ("plan.json", "fingerprint.json", "splits.json", "contents.json"):
        (place / name).write_bytes((workspace.root / name).read_bytes())
    (place / "cases").symlink_to(workspace.root / "cases")
    return place


def test_the_commands_of_the_scripts_are_known(work, phantoms):
    stages = ",".join(stage for stage in STAGES if stage != "train")
    hosts = ("--healthy", phantoms.healthy, "--tumors", 2, "--anywhere", "--trust-units")
    others = ("--method", "syntumor", "--seed", 3, "--p-alone", "--judge", "bundled", "--merged", "Dataset700_Merged")
    made = call("submit", *hosts, *others, "--stages", stages, "-n", 5, "-w", work, "--write-only", "--json")
    assert json.loads(made.stdout)["where"] is None
    assert "read and edit the scripts in" in told(made)
    commands = typer.main.get_command(main.app).commands
    found = {}
    for path in (work / "submit").glob("*.sh"):
        (line,) = (line for line in path.read_text().splitlines() if line.startswith("tumorgen "))
        name, *words = shlex.split(line.removesuffix(" &").replace("$task", "2"))[1:]
        found[path.stem] = commands[name].make_context(name, words).params
    assert set(found) == {*STAGES} - {"train"}
    painted = found["synthesize"]
    assert (painted["pairs"], painted["seed"], painted["tumors"], painted["anywhere"]) == (5, 3, 2, True)
    assert (painted["healthy"], painted["shard"], painted["work"]) == (phantoms.healthy, "2/5", work)
    assert (found["filter"]["set_folder"], found["filter"]["p_alone"]) == (painted["out"], True)
    assert found["merge"]["sets"] == [found["filter"]["out"]]
    assert found["downstream"]["arms"] == "real,empty,syntumor"
    shown = call("submit", "-w", work, "--write-only")
    assert "5 not submitted, of 5 tasks" in shown.stdout
    assert f"tumorgen submit -w '{work}'" in told(shown)


def test_the_defaults_are_those_of_the_records():
    context = typer.main.get_command(main.app).commands["submit"].make_context("submit", [])
    options = ChainOptions()
    assert context.params["stages"] == ",".join(DEFAULT_STAGES)
    assert (context.params["pairs"], context.params["shards"]) == (options.pairs, options.shards)
    assert (context.params["method"], context.params["keep"]) == (options.method, options.quality.keep)


def test_nothing_was_written_before(work):
    assert "give --healthy DIR, and -n with the number of pairs" in told(call("submit", "-w", work, code=1))
    assert "give --healthy DIR or --cases test" in told(call("submit", "-n", 4000, "-w", work, code=1))
